//! What is done element by element or row by row: norms, activations, sums. A
//! row's results do not depend on the others.

use pulp::Arch;

use super::attention::{exp, tanh};
use crate::backend::Activation;
use crate::backend::threads::Threads;

/// Elements that one thread is done with before others have heard of them.
const WORTH_SHARING: usize = 1 << 12;

/// Sums are taken in so many parts: as many as any machine's vectors have
/// lanes.
const LANES: usize = 16;

/// Does `task(index, row)` for each row of `width` elements of `out`, several
/// rows at a time.
fn for_each_row(
    threads: &Threads,
    out: &mut [f32],
    width: usize,
    task: impl Fn(usize, &mut [f32]) + Sync,
) {
    if out.is_empty() {
        return;
    }
    let arch = Arch::new();
    let at_once = rows_at_once(threads, out.len() / width, out.len());
    threads.for_each_chunk(out, at_once * width, |chunk, out| {
        arch.dispatch(
            #[inline(always)]
            || {
                for (offset, row) in out.chunks_exact_mut(width).enumerate() {
                    task(chunk * at_once + offset, row);
                }
            },
        );
    });
}

/// How many of the rows, of so many elements together, one thread does at a
/// time.
pub(super) fn rows_at_once(threads: &Threads, rows: usize, elements: usize) -> usize {
    match elements {
        ..WORTH_SHARING => rows,
        _ => rows.div_ceil(4 * threads.count()),
    }
}

/// As [`for_each_row`] for what knows no rows: `task(first, part)`.
fn for_each_part(threads: &Threads, out: &mut [f32], task: impl Fn(usize, &mut [f32]) + Sync) {
    let arch = Arch::new();
    let at_once = match out.len() {
        ..WORTH_SHARING => WORTH_SHARING,
        len => len.div_ceil(4 * threads.count()).next_multiple_of(LANES),
    };
    threads.for_each_chunk(out, at_once, |chunk, out| {
        arch.dispatch(
            #[inline(always)]
            || task(chunk * at_once, out),
        );
    });
}

/// The sums of a row's squares, of which its norm is made.
#[derive(Default)]
pub(super) struct Squares([f32; LANES]);

impl Squares {
    /// Takes the next of the row's elements in.
    #[inline(always)]
    pub(super) fn add(&mut self, x: &[f32; LANES]) {
        for (sum, x) in self.0.iter_mut().zip(x) {
            *sum += x * x;
        }
    }

    /// What the row, of `width` elements, is multiplied with: `rest` is those
    /// that were not taken in.
    #[inline(always)]
    pub(super) fn factor(self, rest: &[f32], width: usize, eps: f32) -> f32 {
        let rest: f32 = rest.iter().map(|x| x * x).sum();
        let mean = (self.0.iter().sum::<f32>() + rest) / width as f32;
        1.0 / (mean + eps).sqrt()
    }
}

/// What a row is multiplied with to be normed.
#[inline(always)]
pub(super) fn norm_factor(row: &[f32], eps: f32) -> f32 {
    let mut squares = Squares::default();
    let (chunks, rest) = row.as_chunks();
    for x in chunks {
        squares.add(x);
    }
    squares.factor(rest, row.len(), eps)
}

/// As [`crate::backend::Backend::rms_norm`] says; rows are as long as `weight`.
pub(super) fn rms_norm(threads: &Threads, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    for_each_row(
        threads,
        out,
        width,
        #[inline(always)]
        |row, out| {
            let x = &x[row * width..][..width];
            let factor = norm_factor(x, eps);
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = x * factor * weight;
            }
        },
    );
}

/// `a += b`.
pub(super) fn add(threads: &Threads, a: &mut [f32], b: &[f32]) {
    for_each_part(
        threads,
        a,
        #[inline(always)]
        |first, a| {
            for (a, b) in a.iter_mut().zip(&b[first..]) {
                *a += b;
            }
        },
    );
}

/// `a += row` for each row of `a`.
pub(super) fn add_row(threads: &Threads, a: &mut [f32], row: &[f32]) {
    for_each_row(
        threads,
        a,
        row.len(),
        #[inline(always)]
        |_, a| {
            for (a, b) in a.iter_mut().zip(row) {
                *a += b;
            }
        },
    );
}

/// `out = a * b`.
pub(super) fn multiply(threads: &Threads, a: &[f32], b: &[f32], out: &mut [f32]) {
    for_each_part(
        threads,
        out,
        #[inline(always)]
        |first, out| {
            for ((out, a), b) in out.iter_mut().zip(&a[first..]).zip(&b[first..]) {
                *out = a * b;
            }
        },
    );
}

/// Each element as `f` leaves it.
pub(super) fn map(threads: &Threads, x: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    for_each_part(
        threads,
        x,
        #[inline(always)]
        |_, x| {
            for x in x {
                *x = f(*x);
            }
        },
    );
}

/// `cap * tanh(x / cap)`.
#[inline(always)]
pub(super) fn capped(x: f32, cap: f32) -> f32 {
    cap * tanh(x / cap)
}

/// `1 / (1 + e^-x)`, of what cannot overflow.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    let share = if x < 0.0 { e } else { 1.0 };
    share / (1.0 + e)
}

/// As [`Activation`] says.
#[inline(always)]
pub(super) fn activate(activation: Activation, gate: f32, up: f32) -> f32 {
    match activation {
        Activation::Silu => gate * sigmoid(gate) * up,
        Activation::GeluTanh => {
            let inner =
                Activation::GELU_SCALE * (gate + Activation::GELU_CUBE * gate * gate * gate);
            0.5 * gate * (1.0 + tanh(inner)) * up
        }
        Activation::ClampedSilu => {
            let limit = Activation::LIMIT;
            // Comparisons that let what is not a number through.
            let gate = if gate > limit { limit } else { gate };
            let up = if up > limit { limit } else { up };
            let up = if up < -limit { -limit } else { up };
            gate * sigmoid(Activation::ALPHA * gate) * (up + 1.0)
        }
    }
}

/// `out` is the activation of `gate`, times `up`.
pub(super) fn gated(
    threads: &Threads,
    gate: &[f32],
    up: &[f32],
    activation: Activation,
    out: &mut [f32],
) {
    for_each_part(
        threads,
        out,
        #[inline(always)]
        |first, out| {
            let pairs = gate[first..].iter().zip(&up[first..]);
            // Decided once, so that the loops are plain ones.
            match activation {
                Activation::Silu => {
                    for (out, (&gate, &up)) in out.iter_mut().zip(pairs) {
                        *out = activate(Activation::Silu, gate, up);
                    }
                }
                Activation::GeluTanh => {
                    for (out, (&gate, &up)) in out.iter_mut().zip(pairs) {
                        *out = activate(Activation::GeluTanh, gate, up);
                    }
                }
                Activation::ClampedSilu => {
                    for (out, (&gate, &up)) in out.iter_mut().zip(pairs) {
                        *out = activate(Activation::ClampedSilu, gate, up);
                    }
                }
            }
        },
    );
}

/// `x * sigmoid(gate)`, `gate` of `x`'s size or of one element a row.
pub(super) fn sigmoid_gate(
    threads: &Threads,
    x: &[f32],
    gate: &[f32],
    width: usize,
    out: &mut [f32],
) {
    let by_row = gate.len() != x.len();
    for_each_row(
        threads,
        out,
        width,
        #[inline(always)]
        |row, out| {
            let x = &x[row * width..][..width];
            if by_row {
                let gate = sigmoid(gate[row]);
                for (out, x) in out.iter_mut().zip(x) {
                    *out = x * gate;
                }
            } else {
                let gate = &gate[row * width..][..width];
                for ((out, x), &gate) in out.iter_mut().zip(x).zip(gate) {
                    *out = x * sigmoid(gate);
                }
            }
        },
    );
}
