//! Writing keys and values into the pages of their sequence. Knows nothing of
//! attention.

use std::sync::Arc;

use half::f16;

use super::paged::{Element, KvElement, LANES, PAGE, Page, Shape, padded};
use super::vectors::{Instructions, Machine, SIDE, Square, Work};

/// Rows that are appended to a sequence.
#[derive(Clone, Copy)]
pub(super) struct NewRows<'a> {
    pub(super) by: Instructions,
    pub(super) shape: Shape,
    pub(super) element: KvElement,
    /// The position of the first one.
    pub(super) first: usize,
    /// `[n, kv_heads, head_dim]`, as are the values.
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
}

impl NewRows<'_> {
    /// Writes those of them that are in page `index`.
    pub(super) fn write(&self, page: &mut Arc<Page>, index: usize) {
        match self.element {
            KvElement::F16 => self.write_as::<f16>(page, index),
            KvElement::F32 => self.write_as::<f32>(page, index),
        }
    }

    fn write_as<E: Element>(&self, page: &mut Arc<Page>, index: usize) {
        let page = self.shape.own(page, size_of::<E>());
        let width = self.shape.width();
        let begins = index * PAGE;
        let start = self.first.max(begins);
        let end = (self.first + self.keys.len() / width).min(begins + PAGE);
        let rows = (start - self.first) * width..(end - self.first) * width;
        let (keys, values) = (&self.keys[rows.clone()], &self.values[rows]);
        for (head, elements) in self.shape.heads_mut::<E>(page).enumerate() {
            self.by.run(WriteHead {
                shape: self.shape,
                head,
                place: start - begins,
                keys,
                values,
                next: elements.as_ptr().wrapping_add(elements.len()),
                elements,
            });
        }
    }
}

/// Up to so many rows are written one by one.
const FEW: usize = 4;

/// Writes a head's keys and values of some rows into a page.
pub(super) struct WriteHead<'a, E> {
    pub(super) shape: Shape,
    pub(super) head: usize,
    /// Where in the page the first row goes.
    pub(super) place: usize,
    /// `[n, kv_heads, head_dim]`, as are the values.
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    /// The head's in the page.
    pub(super) elements: &'a mut [E],
    /// A head's elements that are written after these: they are asked for.
    pub(super) next: *const E,
}

impl<E: Element> Work for WriteHead<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        let Shape { head_dim, .. } = self.shape;
        let width = self.shape.width();
        let (keys_to, values_to) = self.elements.split_at_mut(head_dim * PAGE);
        let rows = self.values.chunks_exact(width);
        let places = values_to.chunks_exact_mut(padded(head_dim));
        for (row, to) in rows.zip(places.skip(self.place)) {
            let row = &row[self.head * head_dim..][..head_dim];
            convert(m, row, to);
        }
        // Squares of positions by elements, so that each line of the page is
        // written at once.
        let count = self.keys.len() / width;
        let mut narrow = [E::zeroed(); SIDE];
        if count < FEW {
            for (offset, row) in self.keys.chunks_exact(width).enumerate() {
                let row = row[self.head * head_dim..][..head_dim].chunks(SIDE);
                let mut next = self.next;
                for (row, lines) in row.zip(keys_to.chunks_mut(SIDE * PAGE)) {
                    convert(m, row, &mut narrow);
                    for (line, key) in lines.chunks_exact_mut(PAGE).zip(narrow) {
                        m.prefetch(next);
                        next = next.wrapping_add(PAGE);
                        line[self.place + offset] = key;
                    }
                }
            }
            return;
        }
        let mut square = Square([[0.0; SIDE]; SIDE]);
        for d in (0..head_dim).step_by(SIDE) {
            let here = SIDE.min(head_dim - d);
            for rows in (0..count).step_by(SIDE) {
                let places = self.place + rows..self.place + (rows + SIDE).min(count);
                let keys = self.keys[rows * width..].chunks_exact(width);
                for (row, to) in keys.zip(&mut square.0) {
                    to[..here].copy_from_slice(&row[self.head * head_dim + d..][..here]);
                }
                m.transpose(&mut square);
                let lines = keys_to[d * PAGE..].chunks_exact_mut(PAGE).take(here);
                for (line, from) in lines.zip(&square.0) {
                    convert(m, from, &mut narrow);
                    let line = &mut line[places.clone()];
                    line.copy_from_slice(&narrow[..line.len()]);
                }
            }
        }
    }
}

/// Converts all of `from` into the beginning of `to`, of which there are
/// [`LANES`] for any that `from` has.
#[inline(always)]
fn convert<M: Machine, E: Element>(m: M, from: &[f32], to: &mut [E]) {
    let whole = from.len() / LANES * LANES;
    let (head, tail) = from.split_at(whole);
    let (to_head, to_tail) = to.split_at_mut(whole);
    let vectors = head.chunks_exact(M::LANES);
    for (from, to) in vectors.zip(to_head.chunks_exact_mut(M::LANES)) {
        E::store(m, to, m.load(from));
    }
    if !tail.is_empty() {
        let mut rest = [0.0; LANES];
        rest[..tail.len()].copy_from_slice(tail);
        let vectors = rest.chunks_exact(M::LANES);
        for (from, to) in vectors.zip(to_tail[..LANES].chunks_exact_mut(M::LANES)) {
            E::store(m, to, m.load(from));
        }
    }
}
