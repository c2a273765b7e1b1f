//! Operations that carry a state, on the CPU. Every element is summed in one
//! order, however many tokens, sequences and threads there are.

// Vectors of several rows are walked by their indices.
#![allow(clippy::needless_range_loop)]

use pulp::{Arch, Simd, WithSimd};

use super::elementwise::sigmoid;
use super::{Array, Cpu, Result};
use crate::backend::{DeltaGates, ShortList, StateSpan};

/// Rows of a state that meet a token at once: with 16 registers, their sums
/// and what they learn, and the key and the query.
const ROWS: usize = 4;

/// As [`crate::backend::Backend::causal_conv`] says.
pub(super) fn causal_conv(
    cpu: &Cpu,
    x: &Array,
    weight: &Array,
    silu: bool,
    spans: &mut [StateSpan<'_, Array>],
) -> Result<Array> {
    let (rows, channels) = x.rows_and_columns()?;
    let (weighed, taps) = weight.rows_and_columns()?;
    if weighed != channels || channels == 0 || taps == 0 {
        return Err(format!(
            "weights {:?} for {channels} channels",
            weight.shape()
        ));
    }
    let carried = taps - 1;
    check_spans(rows, &[carried, channels], spans)?;
    // What each sequence carried before: nothing of those that begin.
    let before: ShortList<Option<Array>> = spans.iter().map(|span| span.state.clone()).collect();
    let mut nothing = cpu.pool.array([channels]);
    nothing.own().fill(0.0);
    // Of each row, its span and that one's first row.
    let mut places = ShortList::with_capacity(rows);
    for (index, span) in spans.iter().enumerate() {
        places.resize(places.len() + span.tokens, (index, places.len()));
    }
    // By taps, so that a tap's weights are one row.
    let mut by_tap = cpu.pool.array([taps, channels]);
    for (tap, row) in by_tap.own().chunks_exact_mut(channels).enumerate() {
        for (out, weights) in row.iter_mut().zip(weight.chunks_exact(taps)) {
            *out = weights[tap];
        }
    }
    let before: ShortList<Option<&[f32]>> = before.iter().map(|state| state.as_deref()).collect();
    let (x, by_tap, nothing) = (&**x, &*by_tap, &*nothing);
    // The row that is `place` rows after the first one `span` carries.
    let row = |(span, first): (usize, usize), place: usize| match place.checked_sub(carried) {
        None => before[span].map_or(nothing, |state: &[f32]| {
            &state[place * channels..][..channels]
        }),
        Some(place) => &x[(first + place) * channels..][..channels],
    };
    let mut output = cpu.pool.array([rows, channels]);
    let arch = Arch::new();
    cpu.threads
        .for_each_chunk(output.own(), channels, |index, output| {
            let place = places[index];
            output.fill(0.0);
            arch.dispatch(Convolve {
                taps: by_tap.chunks_exact(channels).enumerate().map(
                    #[inline(always)]
                    |(tap, weight)| (weight, row(place, index - place.1 + tap)),
                ),
                silu,
                output,
            });
        });
    let mut first = 0;
    let mut left = ShortList::with_capacity(spans.len());
    for (index, span) in spans.iter().enumerate() {
        left.push((span.tokens > 0 && carried > 0).then(|| {
            let mut last = cpu.pool.array([carried, channels]);
            let rows = last.own().chunks_exact_mut(channels);
            for (out, place) in rows.zip(span.tokens..) {
                out.copy_from_slice(row((index, first), place));
            }
            last
        }));
        first += span.tokens;
    }
    for (span, left) in spans.iter_mut().zip(left) {
        if left.is_some() {
            *span.state = left;
        }
    }
    Ok(output)
}

/// Whether the spans are of `rows` rows in all, and their states of `shape`.
fn check_spans(rows: usize, shape: &[usize], spans: &[StateSpan<'_, Array>]) -> Result<()> {
    let spanned: usize = spans.iter().map(|span| span.tokens).sum();
    if spanned != rows {
        return Err(format!("{rows} rows in spans of {spanned}"));
    }
    for state in spans.iter().filter_map(|span| span.state.as_ref()) {
        if state.shape() != shape {
            return Err(format!(
                "a state {:?} where {shape:?} is kept",
                state.shape()
            ));
        }
    }
    Ok(())
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
                *output *= sigmoid(*output);
            }
        }
    }
}

/// As [`crate::backend::Backend::gated_delta`] says.
pub(super) fn gated_delta(
    cpu: &Cpu,
    q: &Array,
    k: &Array,
    v: &Array,
    gates: &DeltaGates<'_, Array>,
    spans: &mut [StateSpan<'_, Array>],
) -> Result<Array> {
    let (rows, key_heads, key_dim) = k.heads()?;
    let (valued, heads, value_dim) = v.heads()?;
    let per_token = [gates.a, gates.b]
        .iter()
        .all(|x| x.shape() == [rows, heads]);
    let per_head = [gates.a_log, gates.dt_bias]
        .iter()
        .all(|x| x.shape() == [heads]);
    if q.shape() != k.shape()
        || valued != rows
        || [key_heads, heads, key_dim, value_dim].contains(&0)
        || heads % key_heads != 0
        || !per_token
        || !per_head
    {
        return Err(format!(
            "queries {:?}, keys {:?}, values {:?}, gates {:?}, {:?}, {:?} and {:?}",
            q.shape(),
            k.shape(),
            v.shape(),
            gates.a.shape(),
            gates.b.shape(),
            gates.a_log.shape(),
            gates.dt_bias.shape()
        ));
    }
    let state_shape = [heads, value_dim, key_dim];
    check_spans(rows, &state_shape, spans)?;
    let (decay, beta) = self::gates(gates);
    let (q, k, v, decay, beta) = (&**q, &**k, &**v, &*decay, &*beta);
    let arch = Arch::new();
    // Head after head within each span, so that each writes its own part.
    let mut by_head = cpu.pool.array([rows, heads, value_dim]);
    let mut outputs = by_head.own();
    let mut first = 0;
    for span in spans.iter_mut().filter(|span| span.tokens > 0) {
        let (output, rest) = outputs.split_at_mut(span.tokens * heads * value_dim);
        outputs = rest;
        // A new one: the old may be somebody else's.
        let mut state = cpu.pool.array(state_shape);
        let before = span.state.as_deref();
        let head_size = value_dim * key_dim;
        cpu.threads.for_each_chunks(
            [state.own(), output],
            [head_size, span.tokens * value_dim],
            |head, [state, output]| {
                match before {
                    Some(before) => state.copy_from_slice(&before[head * head_size..][..head_size]),
                    None => state.fill(0.0),
                }
                let key_head = head / (heads / key_heads);
                arch.dispatch(Head {
                    q: Rows::new(q, first, key_heads, key_head, key_dim),
                    k: Rows::new(k, first, key_heads, key_head, key_dim),
                    v: Rows::new(v, first, heads, head, value_dim),
                    decay: Rows::new(decay, first, heads, head, 1),
                    beta: Rows::new(beta, first, heads, head, 1),
                    state,
                    output,
                });
            },
        );
        *span.state = Some(state);
        first += span.tokens;
    }
    if spans.iter().all(|span| span.tokens <= 1) {
        return Ok(by_head);
    }
    let mut output = cpu.pool.array([rows, heads, value_dim]);
    by_token(&by_head, heads, value_dim, spans, output.own());
    Ok(output)
}

/// What is left of each head's state at each token, and how much of the new is
/// taken in, `[T, heads]` each.
fn gates(gates: &DeltaGates<'_, Array>) -> (Array, Array) {
    let mut rates = gates.a_log.clone();
    rates.own().iter_mut().for_each(|x| *x = x.exp());
    let mut decay = gates.a.clone();
    for token in decay.own().chunks_exact_mut(rates.len()) {
        for ((a, rate), bias) in token.iter_mut().zip(&*rates).zip(&**gates.dt_bias) {
            let x = *a + bias;
            let softplus = x.max(0.0) + (-x.abs()).exp().ln_1p();
            *a = (-rate * softplus).exp();
        }
    }
    let mut beta = gates.b.clone();
    beta.own()
        .iter_mut()
        .for_each(|b| *b = 1.0 / (1.0 + (-*b).exp()));
    (decay, beta)
}

/// `[heads, tokens, width]` of each span, one span after the other, as
/// `[T, heads, width]`.
fn by_token(
    by_head: &[f32],
    heads: usize,
    width: usize,
    spans: &[StateSpan<'_, Array>],
    output: &mut [f32],
) {
    let mut first = 0;
    for span in spans {
        let range = first * heads * width..(first + span.tokens) * heads * width;
        let by_head = &by_head[range.clone()];
        for (token, row) in output[range].chunks_exact_mut(heads * width).enumerate() {
            for (head, out) in row.chunks_exact_mut(width).enumerate() {
                out.copy_from_slice(&by_head[(head * span.tokens + token) * width..][..width]);
            }
        }
        first += span.tokens;
    }
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
        Self {
            elements: &all[first * stride + head * width..],
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
