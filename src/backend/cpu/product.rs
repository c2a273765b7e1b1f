//! Products of packed weight rows with activations on the CPU.
//!
//! A block of rows is unpacked into the cache and multiplied with all tokens,
//! a tile of a few rows and tokens at a time in registers. Every element of a
//! product is summed in one order, however many tokens and rows there are: a
//! token's products do not depend on the others of its step.

// Tiles of several arrays are walked by their indices.
#![allow(clippy::needless_range_loop)]

mod four_bits;

use std::cell::RefCell;

use pulp::{Simd, WithSimd};

use crate::backend::packed::{Format, PackedRows};
use crate::backend::threads::Threads;
use four_bits::{FourBits, NIBBLES};

/// Rows and tokens of a tile: with 16 registers, 12 sums and what one step
/// adds to them.
const TILE_ROWS: usize = 4;
const TILE_TOKENS: usize = 3;

/// Rows a thread takes at a time. Unpacked, they stay in the second cache,
/// and a tile of them in the first.
const BLOCK_ROWS: usize = 32;

/// Tokens that a tile of rows is multiplied with before the next one is.
const BLOCK_TOKENS: usize = 8 * TILE_TOKENS;

/// Rows are padded to a multiple of this: as long as any machine's vectors.
const LANES: usize = 16;

/// What products need besides, kept from one to the next.
#[derive(Default)]
pub(super) struct Scratch {
    /// Activations in the order of the weights.
    arranged: Vec<f32>,
    /// `[out, T]`.
    transposed: Vec<f32>,
}

thread_local! {
    /// A thread's room for unpacked rows.
    static UNPACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `x` `[T, in]` times the transposed `rows`: `[T, out]`.
pub(super) fn project(
    threads: &Threads,
    scratch: &mut Scratch,
    rows: &PackedRows,
    x: &[f32],
    out: &mut [f32],
) {
    let columns = rows.columns;
    let tokens = x.len() / columns;
    if out.is_empty() {
        return;
    }
    let order = Order::of(rows);
    order.arrange(x, columns, &mut scratch.arranged);
    let x = &scratch.arranged;
    let multiply = |transposed: &mut [f32]| {
        threads.for_each_chunk(transposed, BLOCK_ROWS * tokens, |index, out| {
            UNPACKED.with_borrow_mut(|unpacked| {
                rows.arch.dispatch(MultiplyBlock {
                    rows,
                    order,
                    first: index * BLOCK_ROWS,
                    x,
                    tokens,
                    unpacked,
                    out,
                });
            });
        });
    };
    if tokens == 1 {
        return multiply(out);
    }
    // Transposed, so that every block of rows writes its own part.
    scratch.transposed.resize(rows.count * tokens, 0.0);
    multiply(&mut scratch.transposed);
    transpose(threads, &scratch.transposed, rows.count, out);
}

/// `[rows, tokens]` as `[tokens, rows]`.
fn transpose(threads: &Threads, x: &[f32], rows: usize, out: &mut [f32]) {
    let tokens = out.len() / rows;
    threads.for_each_chunk(out, LANES * rows, |index, out| {
        let first = index * LANES;
        for row in 0..rows {
            let from = &x[row * tokens + first..][..out.len() / rows];
            for (token, &value) in from.iter().enumerate() {
                out[token * rows + row] = value;
            }
        }
    });
}

/// The order of the columns in unpacked rows and in activations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// As they are.
    Natural,
    /// Of 4-bit weights, by blocks of as many words as this machine's vectors
    /// have lanes: the first weights of all words, then the second ones and
    /// so on, so that unpacking takes no shuffling.
    ByWords { lanes: usize },
}

impl Order {
    fn of(rows: &PackedRows) -> Self {
        let lanes = rows.arch.dispatch(Lanes);
        match &rows.format {
            // A block has one scale.
            Format::Affine {
                bits: 4,
                group_size,
                ..
            } if group_size % (lanes * NIBBLES) == 0 => Self::ByWords { lanes },
            _ => Self::Natural,
        }
    }

    /// Activations `[T, in]` in this order, padded as unpacked rows are.
    fn arrange(self, x: &[f32], columns: usize, arranged: &mut Vec<f32>) {
        let padded = columns.next_multiple_of(LANES);
        arranged.clear();
        arranged.resize(x.len() / columns * padded, 0.0);
        let tokens = arranged.chunks_exact_mut(padded);
        for (out, x) in tokens.zip(x.chunks_exact(columns)) {
            match self {
                Self::Natural => out[..columns].copy_from_slice(x),
                Self::ByWords { lanes } => {
                    let blocks = out.chunks_exact_mut(lanes * NIBBLES);
                    for (out, x) in blocks.zip(x.chunks_exact(lanes * NIBBLES)) {
                        for (word, x) in x.chunks_exact(NIBBLES).enumerate() {
                            for (nibble, &x) in x.iter().enumerate() {
                                out[nibble * lanes + word] = x;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// How many `f32` this machine's vectors hold.
struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> usize {
        S::F32_LANES
    }
}

/// Consecutive rows times all tokens, with this machine's vector instructions.
struct MultiplyBlock<'a> {
    rows: &'a PackedRows,
    order: Order,
    first: usize,
    /// As [`Order::arrange`] leaves them.
    x: &'a [f32],
    tokens: usize,
    /// Room for the unpacked rows.
    unpacked: &'a mut Vec<f32>,
    /// `[rows, tokens]`.
    out: &'a mut [f32],
}

impl WithSimd for MultiplyBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let four_bits = match self.order {
            Order::ByWords { .. } => FourBits::of(self.rows),
            Order::Natural => None,
        };
        if let (1, Some(rows)) = (self.tokens, &four_bits) {
            return rows.times_token(simd, self.first, self.x, self.out);
        }
        match self.tokens {
            // Few rows at a time, so that they and what they are unpacked
            // from stay in the first cache.
            ..TILE_TOKENS => self.in_tiles::<S, 2>(simd, four_bits),
            _ => self.in_tiles::<S, TILE_ROWS>(simd, four_bits),
        }
    }
}

impl MultiplyBlock<'_> {
    #[inline(always)]
    fn in_tiles<S: Simd, const ROWS: usize>(self, simd: S, four_bits: Option<FourBits<'_>>) {
        let count = self.out.len() / self.tokens;
        let padded = self.x.len() / self.tokens;
        // Rows that meet all tokens at once are not needed again.
        let kept = match self.tokens {
            ..=BLOCK_TOKENS => ROWS,
            _ => count.next_multiple_of(ROWS),
        };
        self.unpacked.resize(kept * padded, 0.0);
        for first in (0..self.tokens).step_by(BLOCK_TOKENS) {
            let tokens = first..(first + BLOCK_TOKENS).min(self.tokens);
            for row in (0..count).step_by(ROWS) {
                let height = ROWS.min(count - row);
                let weights = &mut self.unpacked[row % kept * padded..][..ROWS * padded];
                if first == 0 {
                    let weights = weights.chunks_exact_mut(padded).take(height);
                    for (offset, weights) in weights.enumerate() {
                        let row = self.first + row + offset;
                        match &four_bits {
                            Some(rows) => rows.unpack(simd, row, weights),
                            // What is beyond the columns stays 0.
                            None => self
                                .rows
                                .unpack_inline(row, &mut weights[..self.rows.columns]),
                        }
                    }
                }
                let mut tile = TileRow::<ROWS> {
                    weights,
                    x: self.x,
                    len: padded,
                    tokens: self.tokens,
                    out: &mut self.out[row * self.tokens..][..height * self.tokens],
                };
                for token in tokens.clone().step_by(TILE_TOKENS) {
                    // The rows that a last tile lacks are multiplied too and
                    // left out of the result.
                    match tokens.end - token {
                        1 => tile.multiply::<S, 1>(simd, token),
                        2 => tile.multiply::<S, 2>(simd, token),
                        _ => tile.multiply::<S, TILE_TOKENS>(simd, token),
                    }
                }
            }
        }
    }
}

/// `ROWS` unpacked rows, which are multiplied with a few tokens at a
/// time.
struct TileRow<'a, const ROWS: usize> {
    /// `[ROWS, len]`.
    weights: &'a [f32],
    /// `[tokens, len]`.
    x: &'a [f32],
    len: usize,
    tokens: usize,
    /// `[rows, tokens]`, of as many rows as there are.
    out: &'a mut [f32],
}

impl<const ROWS: usize> TileRow<'_, ROWS> {
    /// All rows times `TOKENS` tokens from `token` on. A function by itself:
    /// inlined into another, its loop loses registers.
    #[inline(never)]
    fn multiply<S: Simd, const TOKENS: usize>(&mut self, simd: S, token: usize) {
        let len = self.len;
        let products = simd.vectorize(MultiplyTile::<ROWS, TOKENS> {
            weights: std::array::from_fn(|r| &self.weights[r * len..][..len]),
            x: std::array::from_fn(|t| &self.x[(token + t) * len..][..len]),
        });
        for (out, products) in self.out.chunks_exact_mut(self.tokens).zip(&products) {
            out[token..][..TOKENS].copy_from_slice(products);
        }
    }
}

/// The products of a few rows and a few tokens, all of one length.
struct MultiplyTile<'a, const ROWS: usize, const TOKENS: usize> {
    weights: [&'a [f32]; ROWS],
    x: [&'a [f32]; TOKENS],
}

impl<const ROWS: usize, const TOKENS: usize> WithSimd for MultiplyTile<'_, ROWS, TOKENS> {
    type Output = [[f32; TOKENS]; ROWS];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let steps = self.weights[0].len() / S::F32_LANES;
        let mut weights: [&[S::f32s]; ROWS] = [&[]; ROWS];
        for r in 0..ROWS {
            weights[r] = &S::as_simd_f32s(self.weights[r]).0[..steps];
        }
        let mut x: [&[S::f32s]; TOKENS] = [&[]; TOKENS];
        for t in 0..TOKENS {
            x[t] = &S::as_simd_f32s(self.x[t]).0[..steps];
        }
        let mut sums = [[simd.splat_f32s(0.0); TOKENS]; ROWS];
        for step in 0..steps {
            for r in 0..ROWS {
                for t in 0..TOKENS {
                    sums[r][t] = simd.mul_add_e_f32s(weights[r][step], x[t][step], sums[r][t]);
                }
            }
        }
        let mut products = [[0.0; TOKENS]; ROWS];
        for r in 0..ROWS {
            for t in 0..TOKENS {
                products[r][t] = simd.reduce_sum_f32s(sums[r][t]);
            }
        }
        products
    }
}
