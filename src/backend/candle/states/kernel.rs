//! Operations that carry a state, on the CPU. Every element is summed in one
//! order, however many tokens, sequences and threads there are.

// Vectors of several rows are walked by their indices.
#![allow(clippy::needless_range_loop)]

use candle_core::{Device, Result, Tensor};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::wide;
use crate::backend::candle::attention::exp;
use crate::backend::candle::with_elements;
use crate::backend::{DeltaGates, StateSpan};

/// Rows of a state that meet a token at once: with 16 registers, their sums
/// and what they learn, and the key and the query.
const ROWS: usize = 4;

/// The elements of each span's state, as `f32`; those of none are zero.
fn states(spans: &[StateSpan<'_, Tensor>], len: usize) -> Result<Vec<Vec<f32>>> {
    let elements = |span: &StateSpan<'_, Tensor>| match &*span.state {
        Some(state) => wide(state)?.flatten_all()?.to_vec1(),
        None => Ok(vec![0.0; len]),
    };
    spans.iter().map(elements).collect()
}

/// As [`crate::backend::Backend::causal_conv`] says; the shapes fit.
pub(super) fn causal_conv(
    x: &Tensor,
    weight: &Tensor,
    silu: bool,
    spans: &mut [StateSpan<'_, Tensor>],
) -> Result<Tensor> {
    let (rows, channels) = x.dims2()?;
    let carried = weight.dims()[1] - 1;
    let before = states(spans, carried * channels)?;
    // Of each row, its span and that one's first row.
    let mut places = Vec::with_capacity(rows);
    for (index, span) in spans.iter().enumerate() {
        places.resize(places.len() + span.tokens, (index, places.len()));
    }
    let arch = Arch::new();
    let mut output = vec![0.0; rows * channels];
    let weight = wide(&weight.t()?)?;
    with_elements(&wide(x)?, |x| {
        with_elements(&weight, |weight| {
            // The row that is `place` rows after the first one `span` carries.
            let row = |(span, first): (usize, usize), place: usize| match place.checked_sub(carried)
            {
                None => &before[span][place * channels..][..channels],
                Some(place) => &x[(first + place) * channels..][..channels],
            };
            let rows = output.par_chunks_mut(channels).enumerate();
            rows.for_each(|(index, output)| {
                let place = places[index];
                arch.dispatch(Convolve {
                    taps: weight.chunks_exact(channels).enumerate().map(
                        #[inline(always)]
                        |(tap, weight)| (weight, row(place, index - place.1 + tap)),
                    ),
                    silu,
                    output,
                });
            });
            let mut first = 0;
            for (index, span) in spans.iter_mut().enumerate() {
                if span.tokens > 0 && carried > 0 {
                    let last = span.tokens..span.tokens + carried;
                    let last: Vec<f32> = last
                        .flat_map(|place| row((index, first), place))
                        .copied()
                        .collect();
                    let last = Tensor::from_vec(last, (carried, channels), &Device::Cpu)?;
                    *span.state = Some(last);
                }
                first += span.tokens;
            }
            Ok(())
        })
    })?;
    // What is carried is exact in the type it came in.
    for state in spans.iter_mut().filter_map(|span| span.state.as_mut()) {
        *state = state.to_dtype(x.dtype())?;
    }
    Tensor::from_vec(output, (rows, channels), &Device::Cpu)?.to_dtype(x.dtype())
}

/// One row of a convolution.
struct Convolve<'a, I> {
    /// The weights of each tap, and the row it falls on.
    taps: I,
    silu: bool,
    /// Zero yet.
    output: &'a mut [f32],
}

impl<'a, I: Iterator<Item = (&'a [f32], &'a [f32])>> WithSimd for Convolve<'_, I> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for (weight, row) in self.taps {
            for ((output, weight), x) in self.output.iter_mut().zip(weight).zip(row) {
                *output += weight * x;
            }
        }
        if self.silu {
            for output in self.output {
                // Of what cannot overflow.
                let e = exp(-output.abs());
                let share = if *output < 0.0 { e } else { 1.0 };
                *output *= share / (1.0 + e);
            }
        }
    }
}

/// As [`crate::backend::Backend::gated_delta`] says; the shapes fit.
pub(super) fn gated_delta(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    gates: &DeltaGates<'_, Tensor>,
    spans: &mut [StateSpan<'_, Tensor>],
) -> Result<Tensor> {
    let (_, key_heads, key_dim) = k.dims3()?;
    let (rows, heads, value_dim) = v.dims3()?;
    let mut states = states(spans, heads * value_dim * key_dim)?;
    let (decay, beta) = self::gates(gates)?;
    let arch = Arch::new();
    // Head after head within each span, so that each writes its own part.
    let mut by_head = vec![0.0; rows * heads * value_dim];
    with_elements(&wide(q)?, |q| {
        with_elements(&wide(k)?, |k| {
            with_elements(&wide(v)?, |v| {
                let mut jobs = Vec::with_capacity(spans.len() * heads);
                let mut outputs = by_head.as_mut_slice();
                let mut first = 0;
                for (span, state) in spans.iter().zip(&mut states) {
                    let states = state.chunks_exact_mut(value_dim * key_dim);
                    for (head, state) in states.enumerate() {
                        let (output, rest) =
                            std::mem::take(&mut outputs).split_at_mut(span.tokens * value_dim);
                        outputs = rest;
                        let key_head = head / (heads / key_heads);
                        jobs.push(Head {
                            q: Rows::new(q, first, key_heads, key_head, key_dim),
                            k: Rows::new(k, first, key_heads, key_head, key_dim),
                            v: Rows::new(v, first, heads, head, value_dim),
                            decay: Rows::new(&decay, first, heads, head, 1),
                            beta: Rows::new(&beta, first, heads, head, 1),
                            state,
                            output,
                        });
                    }
                    first += span.tokens;
                }
                jobs.into_par_iter().for_each(|job| arch.dispatch(job));
                Ok(())
            })
        })
    })?;
    for (span, state) in spans.iter_mut().zip(states) {
        if span.tokens > 0 {
            let shape = (heads, value_dim, key_dim);
            *span.state = Some(Tensor::from_vec(state, shape, &Device::Cpu)?);
        }
    }
    let output = match spans.iter().all(|span| span.tokens <= 1) {
        true => by_head,
        false => by_token(&by_head, heads, value_dim, spans),
    };
    Tensor::from_vec(output, (rows, heads, value_dim), &Device::Cpu)?.to_dtype(v.dtype())
}

/// What is left of each head's state at each token, and how much of the new is
/// taken in, `[T, heads]` each.
pub(super) fn gates(gates: &DeltaGates<'_, Tensor>) -> Result<(Vec<f32>, Vec<f32>)> {
    let mut decay: Vec<f32> = wide(gates.a)?.flatten_all()?.to_vec1()?;
    let mut beta: Vec<f32> = wide(gates.b)?.flatten_all()?.to_vec1()?;
    let rates: Vec<f32> = wide(gates.a_log)?.exp()?.to_vec1()?;
    let biases: Vec<f32> = wide(gates.dt_bias)?.to_vec1()?;
    for token in decay.chunks_exact_mut(rates.len()) {
        for ((a, rate), bias) in token.iter_mut().zip(&rates).zip(&biases) {
            let x = *a + bias;
            let softplus = x.max(0.0) + (-x.abs()).exp().ln_1p();
            *a = (-rate * softplus).exp();
        }
    }
    for b in &mut beta {
        *b = 1.0 / (1.0 + (-*b).exp());
    }
    Ok((decay, beta))
}

/// `[heads, tokens, width]` of each span, one span after the other, as
/// `[T, heads, width]`.
fn by_token(
    by_head: &[f32],
    heads: usize,
    width: usize,
    spans: &[StateSpan<'_, Tensor>],
) -> Vec<f32> {
    let mut output = vec![0.0; by_head.len()];
    let mut first = 0;
    for span in spans {
        let range = first * heads * width..(first + span.tokens) * heads * width;
        let by_head = &by_head[range.clone()];
        let rows = output[range].par_chunks_mut(heads * width).enumerate();
        rows.for_each(|(token, row)| {
            for (head, out) in row.chunks_exact_mut(width).enumerate() {
                out.copy_from_slice(&by_head[(head * span.tokens + token) * width..][..width]);
            }
        });
        first += span.tokens;
    }
    output
}

/// A head's part of `[T, heads, width]`, from some row on.
#[derive(Clone, Copy)]
struct Rows<'a> {
    elements: &'a [f32],
    stride: usize,
    width: usize,
}

impl<'a> Rows<'a> {
    fn new(all: &'a [f32], first: usize, heads: usize, head: usize, width: usize) -> Self {
        let stride = heads * width;
        // Of a span without rows there may be nothing left.
        let elements = all.get(first * stride + head * width..).unwrap_or(&[]);
        Self {
            elements,
            stride,
            width,
        }
    }

    #[inline(always)]
    fn row(self, index: usize) -> &'a [f32] {
        &self.elements[index * self.stride..][..self.width]
    }
}

/// One head of one span. The rows of its state know nothing of each other: a
/// few at a time meet all tokens, and stay in the first cache meanwhile.
struct Head<'a> {
    /// `[tokens, key_dim]`.
    q: Rows<'a>,
    /// `[tokens, key_dim]`.
    k: Rows<'a>,
    /// `[tokens, value_dim]`.
    v: Rows<'a>,
    /// `[tokens, 1]`.
    decay: Rows<'a>,
    /// `[tokens, 1]`.
    beta: Rows<'a>,
    /// `[value_dim, key_dim]`.
    state: &'a mut [f32],
    /// `[tokens, value_dim]`.
    output: &'a mut [f32],
}

impl WithSimd for Head<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut row = 0;
        while row + ROWS <= self.v.width {
            self.rows::<S, ROWS>(simd, row);
            row += ROWS;
        }
        while row < self.v.width {
            self.rows::<S, 1>(simd, row);
            row += 1;
        }
    }
}

impl Head<'_> {
    /// `R` rows of the state from `first` on meet all tokens.
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&mut self, simd: S, first: usize) {
        let key_dim = self.k.width;
        let whole = key_dim / S::F32_LANES;
        let mut rows = self.state[first * key_dim..][..R * key_dim].chunks_exact_mut(key_dim);
        let state: [(&mut [S::f32s], &mut [f32]); R] = std::array::from_fn(|_| {
            // There are R.
            let (vectors, rest) = S::as_mut_simd_f32s(rows.next().unwrap_or_default());
            (&mut vectors[..whole], rest)
        });
        let outputs = self.output.chunks_exact_mut(self.v.width);
        for (token, output) in outputs.enumerate() {
            let (q, q_rest) = S::as_simd_f32s(self.q.row(token));
            let (k, k_rest) = S::as_simd_f32s(self.k.row(token));
            let (q, k) = (&q[..whole], &k[..whole]);
            let (decay, beta) = (self.decay.row(token)[0], self.beta.row(token)[0]);

            let mut sums = [simd.splat_f32s(0.0); R];
            for i in 0..whole {
                for r in 0..R {
                    sums[r] = simd.mul_add_e_f32s(state[r].0[i], k[i], sums[r]);
                }
            }
            let v = &self.v.row(token)[first..][..R];
            let mut new = [0.0; R];
            for r in 0..R {
                let mut known = simd.reduce_sum_f32s(sums[r]);
                for (s, k) in state[r].1.iter().zip(k_rest) {
                    known += s * k;
                }
                new[r] = beta * (v[r] - decay * known);
            }

            let all = simd.splat_f32s(decay);
            let learned: [S::f32s; R] = std::array::from_fn(|r| simd.splat_f32s(new[r]));
            sums = [simd.splat_f32s(0.0); R];
            for i in 0..whole {
                for r in 0..R {
                    let kept = simd.mul_f32s(state[r].0[i], all);
                    let s = simd.mul_add_e_f32s(learned[r], k[i], kept);
                    state[r].0[i] = s;
                    sums[r] = simd.mul_add_e_f32s(s, q[i], sums[r]);
                }
            }
            let output = &mut output[first..][..R];
            for r in 0..R {
                let mut said = simd.reduce_sum_f32s(sums[r]);
                for ((s, k), q) in state[r].1.iter_mut().zip(k_rest).zip(q_rest) {
                    *s = *s * decay + new[r] * k;
                    said += *s * q;
                }
                output[r] = said;
            }
        }
    }
}
