//! Products of bf16 weights with activations rounded to bf16, on processors
//! that multiply pairs of such numbers (AVX512-BF16). Weights are used where
//! the file was mapped. Knows nothing of tensors, nor of where threads come
//! from.
//!
//! Every element of a product is summed in one order, however many tokens and
//! rows there are: a token's products do not depend on the others of its step.
//! Sums are in f32. Numbers below the normal range count as 0.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use std::marker::PhantomData;
use std::ops::Range;

use crate::backend::threads::Threads;
use crate::blob::Blob;

/// Columns that one step of a product takes.
const STEP: usize = 32;

/// Rows whose products with a token are written together.
const ROWS: usize = 4;

/// Tokens that rows are multiplied with at once: with 32 registers 24 sums,
/// and what a step adds to them.
const TOKENS: usize = 6;

/// Bytes of weights that a thread takes at a time. They stay in the second
/// cache, beside the activations of [`TOKENS`].
const BLOCK: usize = 128 << 10;

/// The most rows that a thread takes at a time.
const BLOCK_ROWS: usize = 64;

/// A matrix `[count, columns]` of bf16 weights where they are stored, row by
/// row, little-endian.
pub(in crate::backend) struct Bf16Rows {
    count: usize,
    columns: usize,
    bytes: Blob,
    kernel: Kernel,
}

impl Bf16Rows {
    /// `None` unless `bytes` are as many as there are weights.
    pub(in crate::backend) fn new(count: usize, columns: usize, bytes: Blob) -> Option<Self> {
        let fit = count.checked_mul(columns)?.checked_mul(2)? == bytes.len();
        fit.then_some(Self {
            count,
            columns,
            bytes,
            kernel: Kernel::best(),
        })
    }

    /// Columns, as many as activations have.
    pub(in crate::backend) fn columns(&self) -> usize {
        self.columns
    }

    /// Rows, which are columns of a product.
    pub(in crate::backend) fn count(&self) -> usize {
        self.count
    }

    /// Rows that a thread takes at a time.
    fn block(&self) -> usize {
        let rows = BLOCK / (2 * self.columns.max(1));
        rows.clamp(ROWS, BLOCK_ROWS) / ROWS * ROWS
    }

    fn blocks(&self) -> usize {
        self.count.div_ceil(self.block())
    }

    /// The rows of a block.
    fn rows_of(&self, block: usize) -> Range<usize> {
        let size = self.block();
        block * size..self.count.min((block + 1) * size)
    }

    /// Computes a part of the product with `x`, which has as many columns and
    /// the part's tokens. The part's room is within a product's.
    fn multiply(&self, x: &RoundedBf16, part: Part) {
        match self.kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => {
                // SAFETY: `Kernel::best` has found the instructions.
                #[allow(unsafe_code)]
                unsafe {
                    avx512::multiply(self, x, part);
                }
            }
            Kernel::Portable => portable::multiply(self, x, part),
        }
    }

    /// Puts into the place of gates what `activation` makes of them and of what
    /// is beside them.
    fn activate(&self, gates: &mut [f32], ups: &[f32], activation: impl Fn(f32, f32) -> f32) {
        match self.kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => {
                // SAFETY: `Kernel::best` has found the instructions.
                #[allow(unsafe_code)]
                unsafe {
                    avx512::activate(gates, ups, activation);
                }
            }
            Kernel::Portable => activate(gates, ups, activation),
        }
    }

    /// Row `row` in f32 into `out`, which is as long as there are columns.
    pub(in crate::backend) fn unpack(&self, row: usize, out: &mut [f32]) {
        for (out, weight) in out.iter_mut().zip(self.row(row).as_chunks().0) {
            *out = f32::from_bits(u32::from(u16::from_le_bytes(*weight)) << 16);
        }
    }

    /// Where row `row` is stored.
    fn row(&self, row: usize) -> &[u8] {
        &self.bytes[2 * row * self.columns..][..2 * self.columns]
    }
}

/// 64 bytes: the columns of a step.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u16; STEP]);

/// Activations `[tokens, columns]` rounded to bf16, to even where they are
/// halfway; rows are filled up with zeros. Keeps its memory for the next ones.
#[derive(Default)]
pub(in crate::backend) struct RoundedBf16 {
    tokens: usize,
    columns: usize,
    lines: Vec<Line>,
}

impl RoundedBf16 {
    /// Takes `x` `[tokens, columns]` in the place of what was there.
    pub(in crate::backend) fn round(&mut self, threads: &Threads, x: &[f32], columns: usize) {
        assert!(columns > 0 && x.len().is_multiple_of(columns));
        self.columns = columns;
        self.tokens = x.len() / columns;
        let per_row = columns.div_ceil(STEP);
        self.lines.resize(self.tokens * per_row, Line([0; STEP]));
        threads.for_each_chunk(&mut self.lines, per_row, |token, lines| {
            let row = &x[token * columns..][..columns];
            let (steps, rest) = row.as_chunks::<STEP>();
            for (line, step) in lines.iter_mut().zip(steps) {
                for (out, &x) in line.0.iter_mut().zip(step) {
                    *out = rounded(x);
                }
            }
            if let (Some(line), false) = (lines.last_mut(), rest.is_empty()) {
                line.0 = [0; STEP];
                for (out, &x) in line.0.iter_mut().zip(rest) {
                    *out = rounded(x);
                }
            }
        });
    }

    /// Lines of a token.
    fn steps(&self) -> usize {
        self.columns.div_ceil(STEP)
    }

    /// The lines of the tokens from `first` on.
    fn lines_from(&self, first: usize) -> &[Line] {
        &self.lines[first * self.steps()..]
    }
}

/// The nearest bf16. What is not a number stays that.
#[inline(always)]
fn rounded(x: f32) -> u16 {
    let bits = x.to_bits();
    let near = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if x.is_nan() {
        (bits >> 16) as u16 | 0x40
    } else {
        near
    }
}

#[inline(always)]
fn activate(gates: &mut [f32], ups: &[f32], activation: impl Fn(f32, f32) -> f32) {
    for (gate, &up) in gates.iter_mut().zip(ups) {
        *gate = activation(*gate, up);
    }
}

/// How products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    /// Made by [`Kernel::best`] alone, where there are the instructions.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same sums anywhere, slowly.
    Portable,
}

impl Kernel {
    fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if avx512::are_there() {
            return Self::Avx512;
        }
        Self::Portable
    }
}

/// Whether products are faster here than in f32.
pub(in crate::backend) fn are_fast() -> bool {
    Kernel::best() != Kernel::Portable
}

/// What is written of a product: `rows` of the weights times `tokens`. The
/// element of token `t` and row `r`, counted from the first of each, is at
/// `out + t * stride + r`.
struct Part {
    rows: Range<usize>,
    tokens: Range<usize>,
    out: *mut f32,
    stride: usize,
}

/// Where products are written, by several threads, none of which writes what
/// another does.
#[derive(Clone, Copy)]
struct Out<'a> {
    data: *mut f32,
    stride: usize,
    kept: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is an exclusive reference that is taken apart: a thread reaches
// only its own rows' elements through it, as `Out::part` demands.
#[allow(unsafe_code)]
unsafe impl Sync for Out<'_> {}

impl<'a> Out<'a> {
    /// `[tokens, count]`.
    fn new(weights: &Bf16Rows, x: &RoundedBf16, out: &'a mut [f32]) -> Self {
        assert_eq!(weights.columns, x.columns, "activations of another width");
        assert_eq!(out.len(), x.tokens * weights.count, "a product's room");
        Self {
            data: out.as_mut_ptr(),
            stride: weights.count,
            kept: PhantomData,
        }
    }

    /// The elements of `rows` and `tokens`.
    ///
    /// # Safety
    /// They are within the product, and nobody else has any of them for as
    /// long as the part is used.
    #[allow(unsafe_code)]
    unsafe fn part(&self, rows: Range<usize>, tokens: Range<usize>) -> Part {
        Part {
            // SAFETY: the first of them is within the product.
            out: unsafe { self.data.add(tokens.start * self.stride + rows.start) },
            rows,
            tokens,
            stride: self.stride,
        }
    }
}

/// `x` times the transposed weights, `[tokens, count]` for each of them.
pub(in crate::backend) fn project<const N: usize>(
    threads: &Threads,
    weights: [&Bf16Rows; N],
    x: &RoundedBf16,
    outs: [&mut [f32]; N],
) {
    let mut all = weights.into_iter();
    let outs = outs.map(|out| {
        all.next()
            .map(|weights| (weights, Out::new(weights, x, out)))
    });
    // The blocks of all matrices, one after the other.
    let tasks = weights.iter().map(|weights| weights.blocks()).sum();
    threads.for_each(tasks, |mut task| {
        for (weights, out) in outs.iter().flatten() {
            if task < weights.blocks() {
                let rows = weights.rows_of(task);
                // SAFETY: the tasks' rows are within the matrix, no two tasks'
                // are the same, and each task is done once.
                #[allow(unsafe_code)]
                let part = unsafe { out.part(rows, 0..x.tokens) };
                return weights.multiply(x, part);
            }
            task -= weights.blocks();
        }
    });
}

/// `activation` of `x` times the transposed `gate` and `x` times the
/// transposed `up`, element by element: `[tokens, count]`.
pub(in crate::backend) fn project_gated(
    threads: &Threads,
    [gate, up]: [&Bf16Rows; 2],
    x: &RoundedBf16,
    out: &mut [f32],
    activation: impl Fn(f32, f32) -> f32 + Sync,
) {
    assert_eq!((gate.count, gate.columns), (up.count, up.columns));
    let out = Out::new(gate, x, out);
    threads.for_each(gate.blocks(), |task| {
        let rows = gate.rows_of(task);
        let mut ups = [0.0; TOKENS * BLOCK_ROWS];
        for first in (0..x.tokens).step_by(TOKENS) {
            let tokens = first..x.tokens.min(first + TOKENS);
            // SAFETY: as in `project`.
            #[allow(unsafe_code)]
            let part = unsafe { out.part(rows.clone(), tokens.clone()) };
            let start = part.out;
            gate.multiply(x, part);
            let beside = Part {
                rows: rows.clone(),
                tokens: tokens.clone(),
                out: ups.as_mut_ptr(),
                stride: BLOCK_ROWS,
            };
            up.multiply(x, beside);
            for (index, ups) in ups.chunks_exact(BLOCK_ROWS).take(tokens.len()).enumerate() {
                // SAFETY: these are this task's rows of a token, written by
                // `multiply`, whose part is gone.
                #[allow(unsafe_code)]
                let gates = unsafe {
                    std::slice::from_raw_parts_mut(start.add(index * out.stride), rows.len())
                };
                gate.activate(gates, ups, &activation);
            }
        }
    });
}

#[cfg(test)]
mod tests;
