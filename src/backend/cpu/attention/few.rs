//! The attention of a few queries of each of several sequences, page by page:
//! what is to be read from memory is read once and used at once. Softmax is
//! taken on the way, as in Milakov & Gimelshein 2018
//! (<https://arxiv.org/abs/1805.02867>), so that scores are never stored.
//!
//! A vector has one query's scores of several positions, then several
//! elements of its sum.

#![allow(unsafe_code)]
// Tiles of several arrays are walked by their indices.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use super::exp::{exp2, tanh};
use super::paged::{Element, PAGE, padded};
use super::step::{Rooms, Step};
use super::vectors::{Machine, Work};

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// The queries of a key-value head of some rows.
pub(super) struct Few<'a, E> {
    rows: Rows<'a>,
    rooms: &'a mut Rooms,
    element: PhantomData<E>,
}

/// Which they are.
struct Rows<'a> {
    step: &'a Step<'a>,
    rows: Range<usize>,
    kv_head: usize,
}

impl<'a, E> Few<'a, E> {
    pub(super) fn new(
        step: &'a Step<'a>,
        rows: Range<usize>,
        kv_head: usize,
        rooms: &'a mut Rooms,
    ) -> Self {
        Self {
            rows: Rows {
                step,
                rows,
                kv_head,
            },
            rooms,
            element: PhantomData,
        }
    }
}

/// Queries and what they have come to so far.
struct Queries<'a> {
    head_dim: usize,
    /// `[n, head_dim]`, with the factor that makes scores of products.
    q: &'a [f32],
    /// The sum of values weighed by `2^(score - top)`, `[n, padded(head_dim)]`.
    sums: &'a mut [f32],
    /// The largest score so far and the sum of weights, `[n, 2]`.
    stats: &'a mut [f32],
    softcap: Option<f32>,
}

/// Some rows one after the other that see the same places of the same page.
struct Here {
    index: usize,
    rows: Range<usize>,
    places: Range<usize>,
}

/// What they see.
struct Seen<'a, E> {
    keys: &'a [E],
    values: &'a [E],
    places: Range<usize>,
    /// The keys that are to be read after this page.
    next: &'a [E],
}

/// What is asked for ahead of its being read, line by line.
struct Ahead<E> {
    next: *const E,
    end: *const E,
}

impl<E> Ahead<E> {
    fn of(elements: &[E]) -> Self {
        let Range { start, end } = elements.as_ptr_range();
        Self { next: start, end }
    }

    /// Whether there was another line to ask for.
    #[inline(always)]
    fn ask<M: Machine>(&mut self, m: M) -> bool {
        let there = self.next < self.end;
        if there {
            m.prefetch(self.next);
            self.next = self.next.wrapping_add(LINE / size_of::<E>());
        }
        there
    }
}

impl<'a> Rows<'a> {
    /// The first rows from `row` on that see some of page `index`, or else
    /// those of the next page that any sees.
    fn find(&self, index: usize, row: usize, pages: usize) -> Option<Here> {
        let step = self.step;
        let places = |index: usize, row: usize| {
            let (begins, seen) = (index * PAGE, step.seen(step.rows[row]));
            seen.start.saturating_sub(begins)..seen.end.saturating_sub(begins).min(PAGE)
        };
        let page = |index: usize, row: usize| step.kv(step.rows[row]).page(index);
        let mut first = row;
        for index in index..pages {
            let mut rows = first..self.rows.end;
            first = self.rows.start;
            let Some(row) = rows.find(|&row| !places(index, row).is_empty()) else {
                continue;
            };
            let here = places(index, row);
            let same = |&other: &usize| {
                places(index, other) == here && Arc::ptr_eq(page(index, row), page(index, other))
            };
            return Some(Here {
                index,
                rows: row..row + 1 + rows.take_while(same).count(),
                places: here,
            });
        }
        None
    }

    /// The keys and values of these rows' page.
    fn page<E: Element>(&self, here: &Here) -> (&'a [E], &'a [E]) {
        let kv = self.step.kv(self.step.rows[here.rows.start]);
        kv.shape().head(kv.page(here.index), self.kv_head)
    }
}

impl<E: Element> Work for Few<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        let Self {
            rows: all, rooms, ..
        } = self;
        let (step, rows, kv_head) = (all.step, all.rows.clone(), all.kv_head);
        let (head_dim, group) = (step.head_dim, step.group);
        let ends = rows.clone().map(|row| step.seen(step.rows[row]).end);
        let pages = ends.max().map_or(0, |end| end.div_ceil(PAGE));
        // SAFETY: these rows and this head are one task's, and rows of a
        // sequence are in one block where they are few.
        unsafe { step.append::<M, E>(m, rows.clone(), kv_head) };
        let mut next = all.find(0, rows.start, pages);
        if let Some(here) = &next {
            let mut ahead = Ahead::of(all.page::<E>(here).0);
            while ahead.ask(m) {}
        }
        let n = rows.len() * group;
        let q = rooms.queries.get(n * head_dim);
        let stats = rooms.stats.get(n * 2);
        let sums = rooms.sums.get(n * padded(head_dim));
        sums.fill(0.0);
        let places = q.chunks_exact_mut(head_dim).zip(stats.as_chunks_mut().0);
        for (index, (q, stats)) in places.enumerate() {
            let head = kv_head * group + index % group;
            let query = step.query(rows.start + index / group, head);
            for (q, x) in q.iter_mut().zip(query) {
                *q = x * step.factor;
            }
            *stats = step.begin(head).into();
        }
        let mut queries = Queries {
            head_dim,
            q,
            sums,
            stats,
            softcap: step.softcap,
        };
        while let Some(here) = next {
            next = all.find(here.index, here.rows.end, pages);
            let (keys, values) = all.page::<E>(&here);
            let page = Seen {
                keys,
                values,
                places: here.places,
                next: next.as_ref().map_or(&[], |next| all.page(next).0),
            };
            let first = (here.rows.start - rows.start) * group;
            queries.add(m, first..first + here.rows.len() * group, &page);
        }
        for (index, row) in rows.enumerate() {
            // SAFETY: a row and head are in one task, here once.
            let out = unsafe { step.output.part(row, kv_head) };
            for (offset, out) in out.chunks_exact_mut(head_dim).enumerate() {
                queries.finish(index * group + offset, out);
            }
        }
    }
}

impl Queries<'_> {
    /// Adds what these of the queries see of a page.
    #[inline(always)]
    fn add<M: Machine, E: Element>(&mut self, m: M, which: Range<usize>, page: &Seen<'_, E>) {
        let mut first = which.start;
        while first < which.end {
            let left = which.end - first;
            first += match left {
                8.. if M::IS_ROOMY => self.add_some::<M, E, 8>(m, first, page),
                4.. if M::IS_ROOMY => self.add_some::<M, E, 4>(m, first, page),
                2.. => self.add_some::<M, E, 2>(m, first, page),
                _ => self.add_some::<M, E, 1>(m, first, page),
            };
        }
    }

    /// [`Self::add`] of `Q` queries from `first` on; `Q`.
    #[inline(always)]
    fn add_some<M: Machine, E: Element, const Q: usize>(
        &mut self,
        m: M,
        first: usize,
        page: &Seen<'_, E>,
    ) -> usize {
        let head_dim = self.head_dim;
        let q = &self.q[first * head_dim..][..Q * head_dim];
        let mut weights = [[0.0; PAGE]; Q];
        let vectors = page.places.start / M::LANES..page.places.end.div_ceil(M::LANES);
        let mut place = vectors.start * M::LANES;
        let mut left = vectors.len();
        let seen = page.places.start * padded(head_dim)..page.places.end * padded(head_dim);
        let mut ahead = Ahead::of(&page.values[seen]);
        while left > 0 {
            let count = if left >= 4 && Q <= 2 && M::LANES < 16 {
                scores::<M, E, Q, 4>(m, q, page.keys, place, &mut ahead, &mut weights)
            } else if left >= 2 {
                scores::<M, E, Q, 2>(m, q, page.keys, place, &mut ahead, &mut weights)
            } else {
                scores::<M, E, Q, 1>(m, q, page.keys, place, &mut ahead, &mut weights)
            };
            place += count * M::LANES;
            left -= count;
        }
        let mut before = [0.0; Q];
        for i in 0..Q {
            let stats = &mut self.stats[(first + i) * 2..][..2];
            before[i] = weigh(m, &mut weights[i], &page.places, self.softcap, stats);
        }
        let padded = padded(head_dim);
        let sums = &mut self.sums[first * padded..][..Q * padded];
        let mut ahead = Ahead::of(page.next);
        let mut place = 0;
        while place < padded {
            let left = (padded - place) / M::LANES;
            let count = if left >= 8 && Q <= 2 && M::LANES == 16 {
                values::<M, E, Q, 8>(m, page, place, &mut ahead, &weights, &before, sums)
            } else if left >= 4 && Q <= 4 {
                values::<M, E, Q, 4>(m, page, place, &mut ahead, &weights, &before, sums)
            } else if left >= 2 {
                values::<M, E, Q, 2>(m, page, place, &mut ahead, &weights, &before, sums)
            } else {
                values::<M, E, Q, 1>(m, page, place, &mut ahead, &weights, &before, sums)
            };
            place += count * M::LANES;
        }
        while ahead.ask(m) {}
        Q
    }

    /// The weighed mean of the values that query `index` has seen.
    #[inline(always)]
    fn finish(&self, index: usize, out: &mut [f32]) {
        let factor = self.stats[index * 2 + 1].recip();
        let padded = padded(self.head_dim);
        for (out, sum) in out.iter_mut().zip(&self.sums[index * padded..]) {
            *out = sum * factor;
        }
    }
}

/// The products of `Q` queries with `W` vectors of positions from `place` on;
/// `W`.
#[inline(always)]
fn scores<M: Machine, E: Element, const Q: usize, const W: usize>(
    m: M,
    q: &[f32],
    keys: &[E],
    place: usize,
    ahead: &mut Ahead<E>,
    scores: &mut [[f32; PAGE]; Q],
) -> usize {
    let head_dim = q.len() / Q;
    assert!(keys.len() >= head_dim * PAGE && place + W * M::LANES <= PAGE);
    let mut sums = [[m.splat(0.0); W]; Q];
    for d in 0..head_dim {
        ahead.ask(m);
        // SAFETY: there are `head_dim` rows of `PAGE` keys, of which `W`
        // vectors from `place` on are a part, and `Q` queries of `head_dim`
        // numbers.
        unsafe {
            let keys = keys.as_ptr().add(d * PAGE + place);
            let mut key = [m.splat(0.0); W];
            for w in 0..W {
                key[w] = E::load_at(m, keys.add(w * M::LANES));
            }
            for i in 0..Q {
                let q = m.splat(*q.as_ptr().add(i * head_dim + d));
                for w in 0..W {
                    sums[i][w] = m.mul_add(q, key[w], sums[i][w]);
                }
            }
        }
    }
    for i in 0..Q {
        for w in 0..W {
            m.store(&mut scores[i][place + w * M::LANES..], sums[i][w]);
        }
    }
    W
}

/// Turns a page's scores into weights, 0 where nothing is seen; what is to
/// become of the sum of those before.
#[inline(always)]
fn weigh<M: Machine>(
    m: M,
    scores: &mut [f32; PAGE],
    places: &Range<usize>,
    softcap: Option<f32>,
    stats: &mut [f32],
) -> f32 {
    if let Some(cap) = softcap {
        for score in scores.iter_mut() {
            *score = cap * tanh(*score / cap) * std::f32::consts::LOG2_E;
        }
    }
    for (place, score) in scores.iter_mut().enumerate() {
        if !places.contains(&place) {
            *score = f32::NEG_INFINITY;
        }
    }
    let mut tops = [f32::NEG_INFINITY; 16];
    for scores in scores.as_chunks::<16>().0 {
        for (top, &score) in tops.iter_mut().zip(scores) {
            *top = if score > *top { score } else { *top };
        }
    }
    let (mut top, total) = (stats[0], stats[1]);
    for other in tops {
        top = if other > top { other } else { top };
    }
    let base = m.splat(if top < f32::MIN { 0.0 } else { top });
    for scores in scores.chunks_exact_mut(M::LANES) {
        let weight = exp2(m, m.sub(m.load(scores), base));
        m.store(scores, weight);
    }
    let mut before = [0.0; 16];
    m.store(&mut before, exp2(m, m.sub(m.splat(stats[0]), base)));
    let before = before[0];
    let mut parts = *scores;
    for half in [16, 8, 4, 2, 1] {
        for i in 0..half {
            parts[i] += parts[i + half];
        }
    }
    let mut sum = [0.0; 16];
    m.store(
        &mut sum,
        m.mul_add(m.splat(total), m.splat(before), m.splat(parts[0])),
    );
    stats[0] = top;
    stats[1] = sum[0];
    before
}

/// Adds a page's values, weighed, in `W` vectors of elements from `place` on;
/// `W`.
#[inline(always)]
fn values<M: Machine, E: Element, const Q: usize, const W: usize>(
    m: M,
    page: &Seen<'_, E>,
    place: usize,
    ahead: &mut Ahead<E>,
    weights: &[[f32; PAGE]; Q],
    before: &[f32; Q],
    sums: &mut [f32],
) -> usize {
    let padded = sums.len() / Q;
    let mut sum = [[m.splat(0.0); W]; Q];
    for i in 0..Q {
        for w in 0..W {
            let so_far = m.load(&sums[i * padded + place + w * M::LANES..]);
            sum[i][w] = m.mul(so_far, m.splat(before[i]));
        }
    }
    assert!(page.values.len() >= PAGE * padded && place + W * M::LANES <= padded);
    assert!(page.places.end <= PAGE);
    for position in page.places.clone() {
        // As much of the next keys as this is of the values.
        for _ in 0..(W * M::LANES * size_of::<E>()).div_ceil(LINE) {
            ahead.ask(m);
        }
        // SAFETY: there are `PAGE` rows of `padded` values, of which `W`
        // vectors from `place` on are a part, and `position` is below `PAGE`.
        unsafe {
            let values = page.values.as_ptr().add(position * padded + place);
            let mut value = [m.splat(0.0); W];
            for w in 0..W {
                value[w] = E::load_at(m, values.add(w * M::LANES));
            }
            for i in 0..Q {
                let weight = m.splat(*weights[i].get_unchecked(position));
                for w in 0..W {
                    sum[i][w] = m.mul_add(weight, value[w], sum[i][w]);
                }
            }
        }
    }
    for i in 0..Q {
        for w in 0..W {
            m.store(&mut sums[i * padded + place + w * M::LANES..], sum[i][w]);
        }
    }
    W
}
