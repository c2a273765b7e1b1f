//! Some vectors of queries and what they have come to: keys, values and queries
//! meet in tiles of registers that are rows of one number by vectors of
//! queries, and what is largest or summed up is so without going across a
//! vector.

#![allow(unsafe_code)]
// Tiles of several arrays are walked by their indices.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::super::exp::{exp2, tanh};
use super::super::paged::PAGE;
use super::super::step::Step;
use super::super::vectors::{Machine, SIDE, Square};
use super::Page;

/// Vectors of queries in a tile.
pub(super) const VECTORS: usize = 3;

/// Those of a key-value head of some rows of one sequence.
#[derive(Clone, Copy)]
pub(super) struct Queries<'a> {
    pub(super) step: &'a Step<'a>,
    pub(super) rows: &'a Range<usize>,
    pub(super) kv_head: usize,
}

/// Queries of a tile and what they have come to so far. Each array is in rows
/// of [`VECTORS`] vectors, an element of each query.
pub(super) struct Tile<'a> {
    of: Queries<'a>,
    /// The first of them, and how many there are.
    first: usize,
    count: usize,
    /// The positions that are seen by any of them, and by all.
    by_any: Range<usize>,
    by_all: Range<usize>,
    /// `[head_dim]` rows, with the factor that makes scores of products.
    q: &'a mut [f32],
    /// The sum of values weighed by `2^(score - top)`: `[padded(head_dim)]`
    /// rows.
    sums: &'a mut [f32],
    /// A row each of the largest score so far, the sum of weights, the first
    /// position that is seen, and the first after them that is not.
    stats: &'a mut [f32],
}

impl<'a> Queries<'a> {
    /// In tiles of `width`, which are kept in rooms for all of them.
    #[inline(always)]
    pub(super) fn tiles(
        self,
        width: usize,
        q: &'a mut [f32],
        sums: &'a mut [f32],
        stats: &'a mut [f32],
    ) -> impl Iterator<Item = Tile<'a>> {
        let tiles = stats.len() / (4 * width);
        let (of_q, of_sums) = (q.len() / tiles, sums.len() / tiles);
        let parts = q.chunks_exact_mut(of_q).zip(sums.chunks_exact_mut(of_sums));
        let parts = parts.zip(stats.chunks_exact_mut(4 * width)).enumerate();
        parts.map(
            #[inline(always)]
            move |(index, ((q, sums), stats))| {
                let Self { step, rows, .. } = self;
                let first = index * width;
                let count = (rows.len() * step.group - first).min(width);
                let seen = |query: usize| step.seen(step.rows[rows.start + query / step.group]);
                let (top, bottom) = (seen(first), seen(first + count - 1));
                Tile {
                    of: self,
                    first,
                    count,
                    by_any: top.start..bottom.end,
                    by_all: bottom.start..top.end,
                    q,
                    sums,
                    stats,
                }
            },
        )
    }
}

/// `0..len` in parts of [`SIDE`].
fn blocks(len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len)
        .step_by(SIDE)
        .map(move |start| start..(start + SIDE).min(len))
}

impl Tile<'_> {
    /// Vectors that its queries are in, of so many lanes.
    #[inline(always)]
    pub(super) fn vectors(&self, lanes: usize) -> usize {
        self.count.div_ceil(lanes)
    }

    /// The row and head of a query.
    #[inline(always)]
    fn place(&self, lane: usize) -> (usize, usize) {
        let Queries {
            step,
            rows,
            kv_head,
        } = self.of;
        let (row, offset) = (
            (self.first + lane) / step.group,
            (self.first + lane) % step.group,
        );
        (rows.start + row, kv_head * step.group + offset)
    }

    /// Sets everything to what it is before the first page.
    #[inline(always)]
    pub(super) fn begin<M: Machine>(&mut self, m: M) {
        let (step, width) = (self.of.step, VECTORS * M::LANES);
        self.sums.fill(0.0);
        self.stats.fill(0.0);
        for lane in 0..self.count {
            let (row, head) = self.place(lane);
            let seen = step.seen(step.rows[row]);
            let (top, total) = step.begin(head);
            // Positions are exact up to 2^24.
            let stats = [top, total, seen.start as f32, seen.end as f32];
            for (place, stat) in self.stats.chunks_exact_mut(width).zip(stats) {
                place[lane] = stat;
            }
        }
        let mut square = Square([[0.0; SIDE]; SIDE]);
        for lanes in blocks(width) {
            for elements in blocks(step.head_dim) {
                for (lane, to) in lanes.clone().zip(&mut square.0) {
                    if lane < self.count {
                        let (row, head) = self.place(lane);
                        let query = &step.query(row, head)[elements.clone()];
                        for (to, x) in to.iter_mut().zip(query) {
                            *to = x * step.factor;
                        }
                    } else {
                        *to = [0.0; SIDE];
                    }
                }
                m.transpose(&mut square);
                let places = self.q[elements.start * width..].chunks_exact_mut(width);
                for (place, from) in places.take(elements.len()).zip(&square.0) {
                    let place = &mut place[lanes.clone()];
                    place.copy_from_slice(&from[..place.len()]);
                }
            }
        }
    }

    /// Writes the weighed means of the values.
    #[inline(always)]
    pub(super) fn finish<M: Machine>(&self, m: M) {
        let Queries { step, kv_head, .. } = self.of;
        let (width, head_dim) = (VECTORS * M::LANES, step.head_dim);
        let mut square = Square([[0.0; SIDE]; SIDE]);
        for lanes in blocks(self.count) {
            let mut factors = [0.0; SIDE];
            for (factor, total) in factors.iter_mut().zip(&self.stats[width..][lanes.clone()]) {
                *factor = total.recip();
            }
            for elements in blocks(head_dim) {
                let sums = self.sums[elements.start * width..].chunks_exact(width);
                for (to, sums) in square.0.iter_mut().zip(sums) {
                    for ((to, sum), factor) in to.iter_mut().zip(&sums[lanes.clone()]).zip(factors)
                    {
                        *to = sum * factor;
                    }
                }
                m.transpose(&mut square);
                for (lane, from) in lanes.clone().zip(&square.0) {
                    let (row, head) = self.place(lane);
                    // SAFETY: a row and head are in one task; no other part
                    // lives.
                    let out = unsafe { step.output.part(row, kv_head) };
                    let out = &mut out[head % step.group * head_dim..][elements.clone()];
                    out.copy_from_slice(&from[..out.len()]);
                }
            }
        }
    }

    /// Adds what the queries, in `W` vectors, see of a page.
    #[inline(always)]
    /// `scores` is room for [`PAGE`] rows: the scores of a page, then their
    /// weights, then a row of what is to become of the sums so far.
    pub(super) fn add<M: Machine, const W: usize>(
        &mut self,
        m: M,
        page: &Page<'_>,
        scores: &mut [f32],
    ) {
        let within = |range: &Range<usize>| {
            let place = |position: usize| position.saturating_sub(page.begins).min(PAGE);
            place(range.start)..place(range.end)
        };
        let places = within(&self.by_any);
        if places.is_empty() {
            return;
        }
        let by_all = within(&self.by_all);
        if M::IS_ROOMY {
            self.scores::<M, 8, W>(m, page, &places, scores);
        } else {
            self.scores::<M, 4, W>(m, page, &places, scores);
        }
        let is_edge = by_all != (0..PAGE);
        if is_edge {
            self.weigh::<M, true>(m, page, &places, W, scores);
        } else {
            self.weigh::<M, false>(m, page, &places, W, scores);
        }
        match (M::IS_ROOMY, is_edge) {
            (true, true) => self.values::<M, 8, W, true>(m, page, &places, scores),
            (true, false) => self.values::<M, 8, W, false>(m, page, &places, scores),
            (false, true) => self.values::<M, 4, W, true>(m, page, &places, scores),
            (false, false) => self.values::<M, 4, W, false>(m, page, &places, scores),
        }
    }

    /// The products with the keys, `R` positions at a time.
    #[inline(always)]
    fn scores<M: Machine, const R: usize, const W: usize>(
        &mut self,
        m: M,
        page: &Page<'_>,
        places: &Range<usize>,
        scores: &mut [f32],
    ) {
        let width = VECTORS * M::LANES;
        for first in (places.start / R * R..places.end).step_by(R) {
            let mut sums = [[m.splat(0.0); W]; R];
            let keys = Factors {
                elements: &page.keys[first..],
                stride: PAGE,
            };
            multiply::<M, R, W, false>(m, keys, self.q, &mut sums);
            let rows = scores[first * width..].chunks_exact_mut(width);
            for (row, sums) in rows.zip(&sums) {
                for w in 0..W {
                    m.store(&mut row[w * M::LANES..], sums[w]);
                }
            }
        }
    }

    /// Turns the scores of `vectors` vectors into weights; if `EDGE`, -1 where
    /// a query sees nothing.
    #[inline(always)]
    fn weigh<M: Machine, const EDGE: bool>(
        &mut self,
        m: M,
        page: &Page<'_>,
        places: &Range<usize>,
        vectors: usize,
        scores: &mut [f32],
    ) {
        let width = VECTORS * M::LANES;
        let softcap = self.of.step.softcap;
        let (scores, befores) = scores.split_at_mut(PAGE * width);
        for w in 0..vectors {
            let lanes = w * M::LANES;
            let stat = |row: usize| row * width + lanes;
            let begins = m.splat(page.begins as f32);
            let start = m.sub(m.load(&self.stats[stat(2)..]), begins);
            let end = m.sub(m.load(&self.stats[stat(3)..]), begins);
            // `yes` where place `place` is seen.
            let if_seen = |place: usize, yes: M::V, no: M::V| {
                let place = m.splat(place as f32);
                let yes = m.if_less(place, end, yes, no);
                m.if_less(place, start, no, yes)
            };
            let before = m.load(&self.stats[stat(0)..]);
            let mut top = before;
            for place in places.clone() {
                let score = &mut scores[place * width + lanes..][..M::LANES];
                let mut x = m.load(score);
                if let Some(cap) = softcap {
                    x = m.each(x, |x| cap * tanh(x / cap) * std::f32::consts::LOG2_E);
                }
                if EDGE {
                    x = if_seen(place, x, m.splat(f32::NEG_INFINITY));
                }
                if EDGE || softcap.is_some() {
                    m.store(score, x);
                }
                top = m.max(x, top);
            }
            // With nothing but scores of minus infinity there is no top to
            // take off.
            let base = m.if_less(top, m.splat(f32::MIN), m.splat(0.0), top);
            let mut weights = [m.splat(0.0); PAGE];
            for (place, scores) in scores.chunks_exact_mut(width).enumerate() {
                if EDGE && !places.contains(&place) {
                    continue;
                }
                let score = &mut scores[lanes..][..M::LANES];
                let weight = exp2(m, m.sub(m.load(score), base));
                weights[place] = weight;
                if EDGE {
                    m.store(score, if_seen(place, weight, m.splat(-1.0)));
                } else {
                    m.store(score, weight);
                }
            }
            for half in [16, 8, 4, 2, 1] {
                for i in 0..half {
                    weights[i] = m.add(weights[i], weights[i + half]);
                }
            }
            let before = exp2(m, m.sub(before, base));
            m.store(&mut befores[lanes..], before);
            let total = m.load(&self.stats[stat(1)..]);
            m.store(
                &mut self.stats[stat(1)..],
                m.mul_add(total, before, weights[0]),
            );
            m.store(&mut self.stats[stat(0)..], top);
        }
    }

    /// Adds the values, weighed, `R` elements at a time; if `EDGE`, only where
    /// weights are not negative: what a query does not see must not reach
    /// it, even if it is not a number.
    #[inline(always)]
    fn values<M: Machine, const R: usize, const W: usize, const EDGE: bool>(
        &mut self,
        m: M,
        page: &Page<'_>,
        places: &Range<usize>,
        scores: &[f32],
    ) {
        let width = VECTORS * M::LANES;
        let padded = page.values.len() / PAGE;
        let (weights, before) = scores.split_at(PAGE * width);
        let weights = &weights[places.start * width..places.end * width];
        let values = &page.values[places.start * padded..places.end * padded];
        for (block, sums) in self.sums.chunks_exact_mut(R * width).enumerate() {
            let mut sum = [[m.splat(0.0); W]; R];
            for w in 0..W {
                let before = m.load(&before[w * M::LANES..]);
                for r in 0..R {
                    sum[r][w] = m.mul(m.load(&sums[r * width + w * M::LANES..]), before);
                }
            }
            let values = Factors {
                elements: &values[block * R..],
                stride: padded,
            };
            multiply::<M, R, W, EDGE>(m, values, weights, &mut sum);
            for r in 0..R {
                for w in 0..W {
                    m.store(&mut sums[r * width + w * M::LANES..], sum[r][w]);
                }
            }
        }
    }
}

/// `R` numbers of each of some rows.
#[derive(Clone, Copy)]
struct Factors<'a> {
    /// They are the first `R` of each.
    elements: &'a [f32],
    /// Elements between two rows.
    stride: usize,
}

/// Adds to `sums` the products of the numbers of each row of `factors` with
/// the first `W` vectors of the same row of `vectors`, which has [`VECTORS`]
/// in each; if `EDGE`, only where an element of a vector is not negative.
#[inline(always)]
fn multiply<M: Machine, const R: usize, const W: usize, const EDGE: bool>(
    m: M,
    factors: Factors<'_>,
    vectors: &[f32],
    sums: &mut [[M::V; W]; R],
) {
    const { assert!(W <= VECTORS) };
    let width = VECTORS * M::LANES;
    let rows = vectors.len() / width;
    let Factors { elements, stride } = factors;
    assert!(rows > 0 && elements.len() >= (rows - 1) * stride + R);
    let mut sum = *sums;
    for row in 0..rows {
        // SAFETY: `row * stride + R` is at most `elements.len()`, as asserted,
        // and `W` vectors are within `width` elements of row `row` of `rows`.
        unsafe {
            let vectors = vectors.as_ptr().add(row * width);
            let factors = elements.as_ptr().add(row * stride);
            let mut vector = [m.splat(0.0); W];
            for w in 0..W {
                vector[w] = m.load_at(vectors.add(w * M::LANES));
            }
            for r in 0..R {
                let factor = m.splat(*factors.add(r));
                for w in 0..W {
                    let more = m.mul_add(factor, vector[w], sum[r][w]);
                    sum[r][w] = if EDGE {
                        m.if_less(vector[w], m.splat(0.0), sum[r][w], more)
                    } else {
                        more
                    };
                }
            }
        }
    }
    *sums = sum;
}
