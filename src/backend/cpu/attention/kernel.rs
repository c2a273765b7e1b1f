//! The attention of a few queries over one page of keys and values: softmax
//! taken on the way, as in Milakov & Gimelshein 2018
//! (<https://arxiv.org/abs/1805.02867>), so that scores are never stored.
//!
//! Knows nothing of sequences or of who shares a page.

// Tiles of several arrays are walked by their indices.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

/// Positions of a page: with vectors of eight, the scores of three queries
/// are twelve registers; with vectors of sixteen, six.
pub(super) const PAGE: usize = 32;

/// Queries taken at once.
const TILE: usize = 3;

/// Values are padded to a multiple of this: as long as any machine's vectors.
const LANES: usize = 16;

/// Elements between the values of two positions.
pub(super) fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

/// A query and what it has come to so far.
pub(super) struct Query<'a> {
    /// `[head_dim]`.
    q: &'a [f32],
    /// The positions it sees.
    pub(super) seen: Range<usize>,
    /// The largest score so far.
    top: f32,
    /// The sum of `exp(score - top)` so far.
    total: f32,
    /// The sum of values weighed by `exp(score - top)`, `[padded(head_dim)]`.
    sum: Vec<f32>,
}

impl<'a> Query<'a> {
    /// A query that has seen nothing but the sink, if there is one.
    pub(super) fn new(q: &'a [f32], seen: Range<usize>, sink: Option<f32>) -> Self {
        Self {
            q,
            seen,
            top: sink.unwrap_or(f32::NEG_INFINITY),
            total: if sink.is_some() { 1.0 } else { 0.0 },
            sum: vec![0.0; padded(q.len())],
        }
    }

    /// The weighed mean of the values.
    pub(super) fn finish(&self, output: &mut [f32]) {
        let factor = self.total.recip();
        for (output, sum) in output.iter_mut().zip(&self.sum) {
            *output = sum * factor;
        }
    }

    /// Turns a page's scores into weights, and what was summed so far into
    /// what it is beside them.
    #[inline(always)]
    fn weigh(&mut self, scores: &mut [f32; PAGE], page: &Attend<'_>) {
        let Scores { scale, softcap } = page.settings;
        for score in scores.iter_mut() {
            *score *= scale;
        }
        if let Some(cap) = softcap {
            for score in scores.iter_mut() {
                *score = cap * tanh(*score / cap);
            }
        }
        let first = self.seen.start.saturating_sub(page.begins);
        let end = self.seen.end.saturating_sub(page.begins).min(PAGE);
        for (place, score) in scores.iter_mut().enumerate() {
            let seen = place >= first && place < end;
            if !seen {
                *score = f32::NEG_INFINITY;
            }
        }
        let mut tops = [f32::NEG_INFINITY; LANES];
        for scores in scores.chunks_exact(LANES) {
            for (top, &score) in tops.iter_mut().zip(scores) {
                *top = if score > *top { score } else { *top };
            }
        }
        let top = tops
            .iter()
            .fold(self.top, |a, &b| if b > a { b } else { a });
        // With nothing but scores of minus infinity, or none that is a
        // number, there is no top to take off.
        let base = if top == f32::NEG_INFINITY { 0.0 } else { top };
        let mut totals = [0.0; LANES];
        for scores in scores.chunks_exact_mut(LANES) {
            for (total, score) in totals.iter_mut().zip(scores) {
                *score = exp(*score - base);
                *total += *score;
            }
        }
        let before = exp(self.top - base);
        if before != 1.0 {
            self.sum.iter_mut().for_each(|sum| *sum *= before);
        }
        self.total = self.total * before + totals.iter().sum::<f32>();
        self.top = top;
    }
}

/// `e^x` for `x <= 0` to within some units of the last place, by operations
/// that the compiler can vectorize: `2^n e^r` with `|r| <= ln 2 / 2`, the
/// latter by its Taylor series.
#[inline(always)]
pub(in crate::backend::cpu) fn exp(x: f32) -> f32 {
    /// Added to a small number, it leaves the nearest whole one in the last
    /// bits: 1.5 * 2^23.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first one with few bits.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut sum = 1.0 / 5040.0;
    for factor in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        sum = sum * r + factor;
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127).wrapping_shl(23));
    if x < -87.0 { 0.0 } else { sum * power }
}

/// By way of [`exp`]: to within some units of the last place of 1.
#[inline(always)]
pub(in crate::backend::cpu) fn tanh(x: f32) -> f32 {
    let e = exp(-2.0 * x.abs());
    ((1.0 - e) / (1.0 + e)).copysign(x)
}

/// What becomes of scores.
#[derive(Clone, Copy)]
pub(super) struct Scores {
    /// As in [`crate::backend::AttentionSettings`].
    pub(super) scale: f32,
    /// As in [`crate::backend::AttentionSettings`].
    pub(super) softcap: Option<f32>,
}

/// A head's keys and values of one page.
#[derive(Clone, Copy)]
pub(super) struct Attend<'a> {
    /// `[head_dim, PAGE]`.
    keys: &'a [f32],
    /// `[PAGE, padded(head_dim)]`.
    values: &'a [f32],
    /// The page's first position.
    begins: usize,
    settings: Scores,
}

impl<'a> Attend<'a> {
    pub(super) fn new(keys: &'a [f32], values: &'a [f32], begins: usize, settings: Scores) -> Self {
        Self {
            keys,
            values,
            begins,
            settings,
        }
    }

    /// Adds the page to those of `queries` that `which` names, which all see
    /// some of it.
    pub(super) fn run(self, arch: Arch, queries: &mut [Query<'_>], which: &[usize]) {
        for which in which.chunks(TILE) {
            match *which {
                [a] => self.few(arch, queries, [a]),
                [a, b] => self.few(arch, queries, [a, b]),
                [a, b, c] => self.few(arch, queries, [a, b, c]),
                _ => {}
            }
        }
    }

    fn few<const Q: usize>(self, arch: Arch, queries: &mut [Query<'_>], which: [usize; Q]) {
        // Each is named once.
        if let Ok(queries) = queries.get_disjoint_mut(which) {
            arch.dispatch(AttendFew {
                page: self,
                queries,
            });
        }
    }
}

/// `Q` queries and a page.
struct AttendFew<'a, 'q, const Q: usize> {
    page: Attend<'a>,
    queries: [&'a mut Query<'q>; Q],
}

impl<const Q: usize> WithSimd for AttendFew<'_, '_, Q> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut scores = [[0.0; PAGE]; Q];
        let vectors = PAGE / S::F32_LANES;
        let mut place = 0;
        while place < vectors {
            if vectors - place >= 4 {
                self.scores::<S, 4>(simd, place, &mut scores);
                place += 4;
            } else if vectors - place >= 2 {
                self.scores::<S, 2>(simd, place, &mut scores);
                place += 2;
            } else {
                self.scores::<S, 1>(simd, place, &mut scores);
                place += 1;
            }
        }
        let mut end = 0;
        for q in 0..Q {
            self.queries[q].weigh(&mut scores[q], &self.page);
            end = end.max(self.queries[q].seen.end.saturating_sub(self.page.begins));
        }
        let end = end.min(PAGE);
        let vectors = padded(self.queries[0].q.len()) / S::F32_LANES;
        let mut place = 0;
        while place < vectors {
            if vectors - place >= 4 {
                self.values::<S, 4>(simd, place, end, &scores);
                place += 4;
            } else {
                self.values::<S, 1>(simd, place, end, &scores);
                place += 1;
            }
        }
    }
}

impl<const Q: usize> AttendFew<'_, '_, Q> {
    /// The products of the queries with `W` vectors of positions from `place`
    /// on.
    #[inline(always)]
    fn scores<S: Simd, const W: usize>(
        &self,
        simd: S,
        place: usize,
        scores: &mut [[f32; PAGE]; Q],
    ) {
        let mut q: [&[f32]; Q] = [&[]; Q];
        for (q, query) in q.iter_mut().zip(&self.queries) {
            *q = query.q;
        }
        let head_dim = q[0].len();
        for q in &mut q {
            *q = &q[..head_dim];
        }
        let mut sums = [[simd.splat_f32s(0.0); W]; Q];
        for (d, keys) in self.page.keys.chunks_exact(PAGE).take(head_dim).enumerate() {
            let keys = &S::as_simd_f32s(keys).0[place..place + W];
            for i in 0..Q {
                let q = simd.splat_f32s(q[i][d]);
                for w in 0..W {
                    sums[i][w] = simd.mul_add_e_f32s(q, keys[w], sums[i][w]);
                }
            }
        }
        for i in 0..Q {
            let out = &mut S::as_mut_simd_f32s(&mut scores[i]).0[place..place + W];
            out.copy_from_slice(&sums[i]);
        }
    }

    /// Adds the page's first `end` values, weighed, in `W` vectors of
    /// elements from `place` on.
    #[inline(always)]
    fn values<S: Simd, const W: usize>(
        &mut self,
        simd: S,
        place: usize,
        end: usize,
        weights: &[[f32; PAGE]; Q],
    ) {
        let mut sums = [[simd.splat_f32s(0.0); W]; Q];
        for i in 0..Q {
            let sum = &S::as_simd_f32s(&self.queries[i].sum).0[place..place + W];
            sums[i].copy_from_slice(sum);
        }
        let padded = self.queries[0].sum.len();
        for (j, values) in self.page.values.chunks_exact(padded).take(end).enumerate() {
            let values = &S::as_simd_f32s(values).0[place..place + W];
            for i in 0..Q {
                let weight = simd.splat_f32s(weights[i][j]);
                for w in 0..W {
                    sums[i][w] = simd.mul_add_e_f32s(weight, values[w], sums[i][w]);
                }
            }
        }
        for i in 0..Q {
            let sum = &mut S::as_mut_simd_f32s(&mut self.queries[i].sum).0[place..place + W];
            sum.copy_from_slice(&sums[i]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn exp_is_right_to_a_few_units_of_the_last_place() {
        for step in 0..=870_000 {
            let x = -(step as f32) / 10_000.0;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(
                error < 4.0 * f64::from(f32::EPSILON),
                "e^{x}: off by {error}"
            );
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }
}
