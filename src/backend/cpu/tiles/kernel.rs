//! Products of tiles with rounded activations, by the best instructions there
//! are. All of them give the same bits: integer products are exact, and what
//! is rounded is rounded in one order. Knows no layers: what is made of a gate
//! and what it opens is told by the caller.

#![allow(unsafe_code)]

use std::ops::Range;

use super::activations::{MOST, Rounded, Span};
use super::instructions::{BEST, Instructions, by_count};
use super::out::{Out, Places};
use super::{Tiles, WIDTH};
use crate::backend::threads::Threads;

/// Bytes of activations that a thread multiplies with all of its tiles before
/// it takes the next ones: what stays in the second cache while tiles pass
/// through it.
const BLOCK: usize = 256 << 10;

/// So many matrices are multiplied together, and no more.
const TOGETHER: usize = 4;

/// Whether this machine has instructions with which integer products are
/// faster than those of `f32`.
pub(in super::super) fn are_fast() -> bool {
    *BEST != Instructions::Portable
}

/// The products of `x` with each of `weights`, transposed: of each,
/// `[T, count]` into its place in `outs`.
///
/// # Panics
///
/// If the matrices are not of the columns and groups that `x` was rounded in,
/// or an output is not as long as its products.
pub(in super::super) fn project(
    threads: &Threads,
    weights: &[&Tiles],
    x: &Rounded,
    outs: &mut [&mut [f32]],
) {
    project_by(*BEST, threads, weights, x, outs);
}

/// The products of `x` with `gate` and `up`, transposed, made one by `act`: it
/// is given sixteen rows of a token at a time and leaves what is to be written
/// in the place of the gate's. `out` is `[T, count]`.
///
/// `act` is compiled for the instructions of the products if it is inlined.
///
/// # Panics
///
/// As [`project`], and if the two matrices are not of as many rows.
pub(in super::super) fn project_gated(
    threads: &Threads,
    gate: &Tiles,
    up: &Tiles,
    x: &Rounded,
    out: &mut [f32],
    act: impl Fn(&mut [f32; WIDTH], &[f32; WIDTH]) + Sync,
) {
    project_gated_by(*BEST, threads, gate, up, x, out, act);
}

pub(super) fn project_by(
    by: Instructions,
    threads: &Threads,
    weights: &[&Tiles],
    x: &Rounded,
    outs: &mut [&mut [f32]],
) {
    assert_eq!(weights.len(), outs.len(), "an output for each matrix");
    for (weights, outs) in weights.chunks(TOGETHER).zip(outs.chunks_mut(TOGETHER)) {
        let mut shared: [Option<Out<'_>>; TOGETHER] = [const { None }; TOGETHER];
        for ((shared, weights), out) in shared.iter_mut().zip(weights).zip(outs) {
            check(weights, x);
            *shared = Some(Out::new(weights.count, x.tokens(), out));
        }
        let tiles = weights.iter().map(|weights| weights.tiles()).sum();
        for_each_tile(threads, tiles, x, |mut tile, spans| {
            for (weights, out) in weights.iter().zip(shared.iter().flatten()) {
                if tile < weights.tiles() {
                    let rows = weights.tile(tile);
                    for &span in spans {
                        by_count!(span.count, T => {
                            // SAFETY: each call has a tile of its own, or
                            // spans.
                            let mut out = unsafe { out.places(tile, span.first, T) };
                            by.multiply::<T>(weights.bits, &rows, x, span, &mut out);
                        });
                    }
                    return;
                }
                tile -= weights.tiles();
            }
        });
    }
}

pub(super) fn project_gated_by(
    by: Instructions,
    threads: &Threads,
    gate: &Tiles,
    up: &Tiles,
    x: &Rounded,
    out: &mut [f32],
    act: impl Fn(&mut [f32; WIDTH], &[f32; WIDTH]) + Sync,
) {
    assert_eq!(
        gate.count, up.count,
        "a row of the one for each of the other"
    );
    check(gate, x);
    check(up, x);
    let out = Out::new(gate.count, x.tokens(), out);
    for_each_tile(threads, gate.tiles(), x, |tile, spans| {
        let (gate_rows, up_rows) = (gate.tile(tile), up.tile(tile));
        let (mut products, mut others) = ([[0.0; WIDTH]; MOST], [[0.0; WIDTH]; MOST]);
        for &span in spans {
            by_count!(span.count, T => {
                let (products, others) = (&mut products[..T], &mut others[..T]);
                by.multiply::<T>(gate.bits, &gate_rows, x, span, &mut Places::of(products));
                by.multiply::<T>(up.bits, &up_rows, x, span, &mut Places::of(others));
                // SAFETY: each call has a tile of its own, or spans.
                let mut out = unsafe { out.places(tile, span.first, T) };
                by.act(products, others, &act, &mut out);
            });
        }
    });
}

/// Whether `weights` are of the columns and groups that `x` was rounded in.
fn check(weights: &Tiles, x: &Rounded) {
    assert_eq!(weights.columns, x.columns(), "columns");
    assert_eq!(weights.group_size, x.group_size(), "columns of a group");
}

/// Calls `multiply` with each of `tiles` tiles and all spans of `x`, some at a
/// time: each tile and span once, by one thread.
fn for_each_tile(
    threads: &Threads,
    tiles: usize,
    x: &Rounded,
    multiply: impl Fn(usize, &[Span]) + Sync,
) {
    let spans = x.spans();
    if spans.is_empty() || tiles == 0 {
        return;
    }
    let blocks = spans.len().div_ceil((BLOCK / (MOST * x.columns())).max(1));
    let per_block = spans.len().div_ceil(blocks);
    let pieces = Pieces {
        all: tiles * blocks,
        threads: threads.count(),
    };
    threads.for_each(pieces.count(), |piece| {
        let places = pieces.get(piece);
        let (mut block, mut tile) = (places.start / tiles, places.start % tiles);
        for _ in places {
            let first = block * per_block;
            multiply(tile, &spans[first..spans.len().min(first + per_block)]);
            tile += 1;
            if tile == tiles {
                (block, tile) = (block + 1, 0);
            }
        }
    });
}

/// Work shared out so that threads finish together and yet read long runs of
/// what lies side by side: in each round every thread has a piece, half of
/// what would be its share of all that is left.
#[derive(Clone, Copy)]
struct Pieces {
    all: usize,
    threads: usize,
}

impl Pieces {
    /// Each round: where it begins and the size of its pieces. In the last
    /// one they are single, and as many as there are.
    fn rounds(self) -> impl Iterator<Item = (usize, usize)> {
        let mut first = 0;
        std::iter::from_fn(move || {
            let left = self.all - first;
            let size = match self.threads {
                1 => left,
                threads => (left / (2 * threads)).max(1),
            };
            let round = (left > 0).then_some((first, size));
            first += match size {
                1 => left,
                _ => size * self.threads,
            };
            round
        })
    }

    fn count(self) -> usize {
        let counts = self.rounds().map(|(first, size)| match size {
            1 => self.all - first,
            _ => self.threads,
        });
        counts.sum()
    }

    fn get(self, piece: usize) -> Range<usize> {
        let mut found = 0..0;
        for (round, (first, size)) in self.rounds().enumerate() {
            if round * self.threads > piece {
                break;
            }
            let first = first + (piece - round * self.threads) * size;
            found = first..first + size;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_all_there_is_in_order_each_once() {
        for threads in [1, 2, 3, 7, 64] {
            for all in (0..300).chain([1000, 9_999, 151_936]) {
                let pieces = Pieces { all, threads };
                let mut next = 0;
                for piece in 0..pieces.count() {
                    let piece = pieces.get(piece);
                    assert_eq!(piece.start, next);
                    assert!(!piece.is_empty());
                    next = piece.end;
                }
                assert_eq!(next, all);
            }
        }
    }
}
