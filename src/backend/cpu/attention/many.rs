//! The attention of many queries of one sequence, page by page: a page's
//! numbers are widened once for all of them. Softmax is taken on the way, as
//! in `few`.
//!
//! A vector has the scores, or an element of the sums, of several queries:
//! keys, values and queries meet in tiles of registers (`tile`).

mod tile;

use std::marker::PhantomData;
use std::ops::Range;

use super::paged::{Element, Kv, PAGE, padded};
use super::step::{Rooms, Step};
use super::vectors::{Machine, Work};
use tile::{Queries, VECTORS};

/// The queries of a key-value head of rows of one sequence.
pub(super) struct Many<'a, E> {
    step: &'a Step<'a>,
    rows: Range<usize>,
    kv_head: usize,
    rooms: &'a mut Rooms,
    element: PhantomData<E>,
}

impl<'a, E> Many<'a, E> {
    pub(super) fn new(
        step: &'a Step<'a>,
        rows: Range<usize>,
        kv_head: usize,
        rooms: &'a mut Rooms,
    ) -> Self {
        Self {
            step,
            rows,
            kv_head,
            rooms,
            element: PhantomData,
        }
    }
}

/// A head's keys and values of a page, widened.
struct Page<'a> {
    /// Its first position.
    begins: usize,
    /// `[head_dim, PAGE]`.
    keys: &'a [f32],
    /// `[PAGE, padded(head_dim)]`.
    values: &'a [f32],
}

impl<E: Element> Work for Many<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        let Self {
            step,
            rows,
            kv_head,
            rooms,
            ..
        } = self;
        let (head_dim, padded) = (step.head_dim, padded(step.head_dim));
        let width = VECTORS * M::LANES;
        let count = rows.len() * step.group;
        let tiles = count.div_ceil(width);
        let q = rooms.queries.get(tiles * width * head_dim);
        let sums = rooms.sums.get(tiles * width * padded);
        let stats = rooms.stats.get(tiles * width * 4);
        let scores = rooms.scores.get(width * (PAGE + 1));
        let queries = Queries {
            step,
            rows: &rows,
            kv_head,
        };
        for mut tile in queries.tiles(width, q, sums, stats) {
            tile.begin(m);
        }
        let kv = step.kv(step.rows[rows.start]);
        let seen = |row: usize| step.seen(step.rows[row]);
        let pages = seen(rows.start).start / PAGE..seen(rows.end - 1).end.div_ceil(PAGE);
        let keys = rooms.keys.get(head_dim * PAGE);
        let values = rooms.values.get(padded * PAGE);
        for index in pages {
            let page = Page::widen::<M, E>(m, kv, index, kv_head, keys, values);
            for mut tile in queries.tiles(width, q, sums, stats) {
                match tile.vectors(M::LANES) {
                    1 => tile.add::<M, 1>(m, &page, scores),
                    2 => tile.add::<M, 2>(m, &page, scores),
                    _ => tile.add::<M, VECTORS>(m, &page, scores),
                }
            }
        }
        for tile in queries.tiles(width, q, sums, stats) {
            tile.finish(m);
        }
    }
}

impl<'a> Page<'a> {
    #[inline(always)]
    fn widen<M: Machine, E: Element>(
        m: M,
        kv: &Kv,
        index: usize,
        kv_head: usize,
        keys: &'a mut [f32],
        values: &'a mut [f32],
    ) -> Self {
        let (stored_keys, stored_values) = kv.shape().head::<E>(kv.page(index), kv_head);
        for (stored, wide) in [(stored_keys, &mut *keys), (stored_values, &mut *values)] {
            let vectors = stored.chunks_exact(M::LANES);
            for (stored, wide) in vectors.zip(wide.chunks_exact_mut(M::LANES)) {
                m.store(wide, E::load(m, stored));
            }
        }
        Self {
            begins: index * PAGE,
            keys,
            values,
        }
    }
}
