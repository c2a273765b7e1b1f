//! Keys and values in pages that sequences share. A fork shares the pages it
//! begins with until one of the two adds to them. Knows nothing of attention.

#![allow(unsafe_code)]

use std::sync::Arc;

use bytemuck::Pod;
use half::f16;

use super::lines::Lines;
use super::vectors::{Instructions, Machine, SIDE, Square, Work};
use crate::backend::threads::Threads;
use crate::backend::{Dtype, RawKv, RawTensor};

/// Positions of a page.
pub(super) const PAGE: usize = 32;

/// Values are padded to a multiple of this: as long as any machine's vectors.
const LANES: usize = 16;

/// Elements between the values of two positions.
pub(super) fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

/// What keys and values are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend::cpu) enum KvElement {
    /// 16 bits: the nearest there are, and for what is beyond them the
    /// largest.
    F16,
    /// 32 bits: as they come.
    F32,
}

/// The keys and values of one sequence in one layer.
pub struct Kv {
    shape: Shape,
    element: KvElement,
    /// Positions there are.
    len: usize,
    /// As many as `len` positions take.
    pages: Vec<Arc<Page>>,
}

/// What the pages of a sequence have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

/// [`PAGE`] positions. Of each key-value head, the transposed keys
/// `[head_dim, PAGE]` and the values `[PAGE, padded(head_dim)]`. What
/// is beyond a sequence's length and beyond a head's values may be anything.
#[derive(Clone)]
pub(super) struct Page(Lines);

/// An element of keys and values.
pub(super) trait Element: Pod + Send + Sync {
    /// Its type.
    const DTYPE: Dtype;

    /// As [`Machine::load`] and [`Machine::widen`].
    fn load<M: Machine>(m: M, x: &[Self]) -> M::V;

    /// The [`Machine::LANES`] numbers at `x`.
    ///
    /// # Safety
    /// They are there.
    unsafe fn load_at<M: Machine>(m: M, x: *const Self) -> M::V;

    /// As [`Machine::store`] and [`Machine::narrow`].
    fn store<M: Machine>(m: M, out: &mut [Self], x: M::V);
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;

    #[inline(always)]
    fn load<M: Machine>(m: M, x: &[Self]) -> M::V {
        m.load(x)
    }

    #[inline(always)]
    unsafe fn load_at<M: Machine>(m: M, x: *const Self) -> M::V {
        // SAFETY: as the caller says.
        unsafe { m.load_at(x) }
    }

    #[inline(always)]
    fn store<M: Machine>(m: M, out: &mut [Self], x: M::V) {
        m.store(out, x);
    }
}

impl Element for f16 {
    const DTYPE: Dtype = Dtype::F16;

    #[inline(always)]
    fn load<M: Machine>(m: M, x: &[Self]) -> M::V {
        m.widen(x)
    }

    #[inline(always)]
    unsafe fn load_at<M: Machine>(m: M, x: *const Self) -> M::V {
        // SAFETY: as the caller says.
        unsafe { m.widen_at(x) }
    }

    #[inline(always)]
    fn store<M: Machine>(m: M, out: &mut [Self], x: M::V) {
        m.narrow(out, x);
    }
}

impl Shape {
    /// Elements of a head's keys, and of its keys and values, in a page.
    fn strides(self) -> (usize, usize) {
        let keys = self.head_dim * PAGE;
        (keys, keys + PAGE * padded(self.head_dim))
    }

    /// Elements of a row of keys or values.
    pub(super) fn width(self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// The keys and values of a head in a page of elements `E`.
    #[inline(always)]
    pub(super) fn head<E: Element>(self, page: &Page, head: usize) -> (&[E], &[E]) {
        let (keys_len, head_len) = self.strides();
        page.0.get()[head * head_len..][..head_len].split_at(keys_len)
    }
}

impl Kv {
    pub(in crate::backend::cpu) fn new(
        kv_heads: usize,
        head_dim: usize,
        element: KvElement,
    ) -> Self {
        Self {
            shape: Shape { kv_heads, head_dim },
            element,
            len: 0,
            pages: Vec::new(),
        }
    }

    /// The first `len` positions. The pages are shared until one of the two
    /// sequences adds to them.
    pub(in crate::backend::cpu) fn fork(&self, len: usize) -> Self {
        Self {
            len,
            pages: self.pages[..len.div_ceil(PAGE)].to_vec(),
            ..*self
        }
    }

    /// The first `len` positions, as they are kept.
    ///
    /// # Errors
    /// If there are fewer.
    pub(in crate::backend::cpu) fn export(&self, len: usize) -> Result<RawKv, String> {
        if len > self.len {
            return Err(format!("{len} of {} positions", self.len));
        }
        Ok(match self.element {
            KvElement::F16 => self.export_as::<f16>(len),
            KvElement::F32 => self.export_as::<f32>(len),
        })
    }

    fn export_as<E: Element>(&self, len: usize) -> RawKv {
        let Shape { kv_heads, head_dim } = self.shape;
        let mut keys: Vec<E> = Vec::with_capacity(len * self.shape.width());
        let mut values: Vec<E> = Vec::with_capacity(len * self.shape.width());
        for position in 0..len {
            let (page, place) = (&self.pages[position / PAGE], position % PAGE);
            for head in 0..kv_heads {
                let (head_keys, head_values) = self.shape.head(page, head);
                keys.extend(head_keys.iter().skip(place).step_by(PAGE));
                values.extend_from_slice(&head_values[place * padded(head_dim)..][..head_dim]);
            }
        }
        let raw = |elements: Vec<E>| RawTensor {
            dtype: E::DTYPE,
            shape: vec![len, kv_heads, head_dim],
            bytes: bytemuck::cast_slice(&elements).to_vec().into(),
        };
        RawKv {
            keys: raw(keys),
            values: raw(values),
        }
    }

    /// Appends positions that [`Self::export`] gave.
    ///
    /// # Errors
    /// If they are of another shape or kept in another type.
    pub(in crate::backend::cpu) fn import(&mut self, raw: &RawKv) -> Result<(), String> {
        match self.element {
            KvElement::F16 => self.import_as::<f16>(raw),
            KvElement::F32 => self.import_as::<f32>(raw),
        }
    }

    fn import_as<E: Element>(&mut self, raw: &RawKv) -> Result<(), String> {
        let Shape { kv_heads, head_dim } = self.shape;
        let tokens = raw.keys.shape.first().copied().unwrap_or(0);
        let shape = [tokens, kv_heads, head_dim];
        for (what, raw) in [("keys", &raw.keys), ("values", &raw.values)] {
            if raw.shape != shape || raw.dtype != E::DTYPE {
                return Err(format!(
                    "{what} {:?} {:?} where {:?} {shape:?} belong",
                    raw.dtype,
                    raw.shape,
                    E::DTYPE
                ));
            }
            let (size, bytes) = (shape.iter().product::<usize>(), raw.bytes.len());
            if bytes != size * size_of::<E>() {
                return Err(format!("{what}: {bytes} bytes of {size} elements"));
            }
        }
        let elements = |raw: &RawTensor| -> Vec<E> {
            let bytes = raw.bytes.chunks_exact(size_of::<E>());
            bytes.map(bytemuck::pod_read_unaligned).collect()
        };
        let (keys, values) = (elements(&raw.keys), elements(&raw.values));
        let width = self.shape.width();
        let first = self.extend(tokens);
        for position in 0..tokens {
            let (page, place) = ((first + position) / PAGE, (first + position) % PAGE);
            let page = self.shape.own(&mut self.pages[page], E::DTYPE.size());
            let row = position * width..(position + 1) * width;
            let heads = self.shape.heads_mut::<E>(page);
            let rows = keys[row.clone()].chunks_exact(head_dim);
            let rows = rows.zip(values[row].chunks_exact(head_dim));
            for (head, (key, value)) in heads.zip(rows) {
                let (keys, values) = head.split_at_mut(head_dim * PAGE);
                for (keys, key) in keys.chunks_exact_mut(PAGE).zip(key) {
                    keys[place] = *key;
                }
                values[place * padded(head_dim)..][..head_dim].copy_from_slice(value);
            }
        }
        Ok(())
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    pub(super) fn element(&self) -> KvElement {
        self.element
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn page(&self, index: usize) -> &Arc<Page> {
        &self.pages[index]
    }

    /// Appends rows, `[n, kv_heads, head_dim]` each.
    pub(super) fn append(&mut self, by: Instructions, keys: &[f32], values: &[f32]) {
        let rows = self.rows_for(by, keys, values);
        let first = rows.first / PAGE;
        for (index, page) in self.pages[first..].iter_mut().enumerate() {
            rows.write(page, first + index);
        }
    }

    /// As [`Self::append`], a page a task.
    pub(super) fn append_by(
        &mut self,
        by: Instructions,
        threads: &Threads,
        keys: &[f32],
        values: &[f32],
    ) {
        let rows = self.rows_for(by, keys, values);
        let first = rows.first / PAGE;
        threads.for_each_chunk(&mut self.pages[first..], 1, |index, pages| {
            for page in pages {
                rows.write(page, first + index);
            }
        });
    }

    /// Makes room for rows and says where they go.
    fn rows_for<'a>(
        &mut self,
        by: Instructions,
        keys: &'a [f32],
        values: &'a [f32],
    ) -> NewRows<'a> {
        NewRows {
            by,
            shape: self.shape,
            element: self.element,
            first: self.extend(keys.len() / self.shape.width()),
            keys,
            values,
        }
    }

    /// Adds as many positions; the first of them. Pages that are new have no
    /// memory yet.
    fn extend(&mut self, positions: usize) -> usize {
        let first = self.len;
        self.len += positions;
        let empty = || Arc::new(Page(Lines::default()));
        self.pages.resize_with(self.len.div_ceil(PAGE), empty);
        first
    }
}

impl Shape {
    /// The page as one that nobody else has, with memory.
    fn own(self, page: &mut Arc<Page>, element_size: usize) -> &mut Page {
        let page = Arc::make_mut(page);
        if page.0.is_empty() {
            let (_, head_len) = self.strides();
            page.0 = Lines::of::<u8>(self.kv_heads * head_len * element_size);
        }
        page
    }

    /// The keys and values of each head.
    fn heads_mut<E: Element>(self, page: &mut Page) -> impl Iterator<Item = &mut [E]> {
        let (_, head_len) = self.strides();
        page.0
            .get_mut()
            .chunks_exact_mut(head_len)
            .take(self.kv_heads)
    }
}

/// Rows that are appended to a sequence.
#[derive(Clone, Copy)]
struct NewRows<'a> {
    by: Instructions,
    shape: Shape,
    element: KvElement,
    /// The position of the first one.
    first: usize,
    /// `[n, kv_heads, head_dim]`, as are the values.
    keys: &'a [f32],
    values: &'a [f32],
}

impl NewRows<'_> {
    /// Writes those of them that are in page `index`.
    fn write(&self, page: &mut Arc<Page>, index: usize) {
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
                elements,
            });
        }
    }
}

/// Up to so many rows are written one by one.
const FEW: usize = 4;

/// Writes a head's keys and values of some rows into a page.
struct WriteHead<'a, E> {
    shape: Shape,
    head: usize,
    /// Where in the page the first row goes.
    place: usize,
    /// `[n, kv_heads, head_dim]`, as are the values.
    keys: &'a [f32],
    values: &'a [f32],
    /// The head's in the page.
    elements: &'a mut [E],
}

impl<E: Element> Work for WriteHead<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<M: Machine>(self, m: M) {
        let Shape { head_dim, .. } = self.shape;
        let width = self.shape.width();
        let head_len = self.elements.len();
        let (keys_to, values_to) = self.elements.split_at_mut(head_dim * PAGE);
        let rows = self.values.chunks_exact(width);
        let places = values_to.chunks_exact_mut(padded(head_dim));
        for (row, to) in rows.zip(places.skip(self.place)) {
            let row = &row[self.head * head_dim..][..head_dim];
            // Here and below: what the next head's are to be written to.
            for place in to.chunks(64 / size_of::<E>()) {
                m.prefetch(place.as_ptr().wrapping_add(head_len));
            }
            convert(m, row, to);
        }
        // Squares of positions by elements, so that each line of the page is
        // written at once.
        let count = self.keys.len() / width;
        let mut narrow = [E::zeroed(); SIDE];
        if count < FEW {
            for (offset, row) in self.keys.chunks_exact(width).enumerate() {
                let row = row[self.head * head_dim..][..head_dim].chunks(SIDE);
                for (row, lines) in row.zip(keys_to.chunks_mut(SIDE * PAGE)) {
                    convert(m, row, &mut narrow);
                    for (line, key) in lines.chunks_exact_mut(PAGE).zip(narrow) {
                        let line = &mut line[self.place + offset];
                        m.prefetch((&raw const *line).wrapping_add(head_len));
                        *line = key;
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
