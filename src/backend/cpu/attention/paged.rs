//! Keys and values in pages that sequences share. A fork shares the pages it
//! begins with until one of the two adds to them. Knows nothing of attention.

#![allow(unsafe_code)]

use std::sync::Arc;

use bytemuck::Pod;
use half::f16;

use super::lines::Lines;
use super::rows::NewRows;
use super::vectors::{Instructions, Machine};
use crate::backend::threads::Threads;
use crate::backend::{Dtype, RawKv, RawTensor};

/// Positions of a page.
pub(super) const PAGE: usize = 32;

/// Values are padded to a multiple of this: as long as any machine's vectors.
pub(super) const LANES: usize = 16;

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

impl KvElement {
    /// Bytes.
    fn size(self) -> usize {
        match self {
            Self::F16 => size_of::<f16>(),
            Self::F32 => size_of::<f32>(),
        }
    }
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
        page.0
            .part(head * head_len..(head + 1) * head_len)
            .split_at(keys_len)
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

    /// Whether [`Self::make_room`] has nothing to copy and no memory to get.
    pub(super) fn has_room(&mut self, positions: usize) -> bool {
        let pages = (self.len + positions).div_ceil(PAGE);
        let filled = self.len / PAGE;
        self.pages.len() == pages
            && self.pages[filled..]
                .iter_mut()
                .all(|page| Arc::get_mut(page).is_some())
    }

    /// Adds as many positions, for [`Self::head_mut`] to write, in pages that
    /// nobody else has.
    pub(super) fn make_room(&mut self, positions: usize) {
        let first = self.extend(positions);
        for page in &mut self.pages[first / PAGE..] {
            self.shape.own(page, self.element.size());
        }
    }

    /// The keys and values of a head in page `index`, of elements `E`.
    ///
    /// # Safety
    /// Nobody else has this sequence's pages from `index` on, reads or writes
    /// this part of them while it lives.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn head_mut<E: Element>(&self, index: usize, head: usize) -> &mut [E] {
        let (_, len) = self.shape.strides();
        // SAFETY: as the caller says.
        unsafe { self.pages[index].0.part_mut(head * len..(head + 1) * len) }
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
    pub(super) fn own(self, page: &mut Arc<Page>, element_size: usize) -> &mut Page {
        let page = Arc::make_mut(page);
        if page.0.is_empty() {
            let (_, head_len) = self.strides();
            page.0 = Lines::of::<u8>(self.kv_heads * head_len * element_size);
        }
        page
    }

    /// The keys and values of each head.
    pub(super) fn heads_mut<E: Element>(self, page: &mut Page) -> impl Iterator<Item = &mut [E]> {
        let (_, head_len) = self.strides();
        page.0
            .get_mut()
            .chunks_exact_mut(head_len)
            .take(self.kv_heads)
    }
}
