//! Where products go: of each token a row, of which a tile's are a part.

#![allow(unsafe_code)]

use std::marker::PhantomData;

use super::WIDTH;
use super::shared::Shared;

/// Products being written, `[T, count]`, of each tile by one thread.
pub(super) struct Out<'a> {
    all: Shared<'a, f32>,
    count: usize,
}

impl<'a> Out<'a> {
    /// # Panics
    ///
    /// If `out` is not as long as the products of `count` rows with `tokens`
    /// tokens.
    pub(super) fn new(count: usize, tokens: usize, out: &'a mut [f32]) -> Self {
        assert_eq!(out.len(), tokens * count, "products");
        Self {
            all: Shared::new(out),
            count,
        }
    }

    /// The places of a tile's products with `tokens` tokens from `first` on.
    ///
    /// # Panics
    ///
    /// If there is no such tile or token.
    ///
    /// # Safety
    ///
    /// No two that live at a time are of the same tile and a token in common.
    #[inline]
    pub(super) unsafe fn places(&self, tile: usize, first: usize, tokens: usize) -> Places<'a> {
        let row = tile * WIDTH;
        let rows = WIDTH.min(self.count - row);
        let place = |token: usize| (first + token) * self.count + row;
        assert!(tokens > 0);
        Places {
            start: self.all.start_of(place(0)..place(tokens - 1) + rows),
            stride: self.count,
            rows,
            tokens,
            all: PhantomData,
        }
    }
}

/// The places of the products of a tile with some tokens: of token `t`, so
/// many as the tile has rows, from `t * stride` on.
pub(super) struct Places<'a> {
    start: *mut f32,
    stride: usize,
    rows: usize,
    tokens: usize,
    all: PhantomData<&'a mut [f32]>,
}

impl<'a> Places<'a> {
    /// Those of a whole tile.
    pub(super) fn of(products: &'a mut [[f32; WIDTH]]) -> Self {
        Self {
            start: products.as_mut_ptr().cast(),
            stride: WIDTH,
            rows: WIDTH,
            tokens: products.len(),
            all: PhantomData,
        }
    }

    /// The places of a token, if the tile has all its rows.
    #[inline(always)]
    pub(super) fn whole(&mut self, token: usize) -> Option<&mut [f32; WIDTH]> {
        assert!(token < self.tokens);
        let place = self.start.wrapping_add(token * self.stride);
        // SAFETY: the token is one of these, so that its `rows` places are
        // there and this one's alone.
        (self.rows == WIDTH).then(|| unsafe { &mut *place.cast() })
    }

    /// Writes the products with a token. Of rows that the tile lacks, there
    /// are some that are left out.
    #[inline(always)]
    pub(super) fn put(&mut self, token: usize, products: &[f32; WIDTH]) {
        match self.whole(token) {
            Some(out) => *out = *products,
            None => self.put_some(token, products),
        }
    }

    /// As [`Self::put`], where some are left out. A function by itself: made
    /// one with the writing of a whole row it would be a call for each.
    #[cold]
    #[inline(never)]
    pub(super) fn put_some(&mut self, token: usize, products: &[f32; WIDTH]) {
        assert!(token < self.tokens);
        let place = self.start.wrapping_add(token * self.stride);
        // SAFETY: as in `whole`, and `rows` are at most `WIDTH`.
        unsafe { place.copy_from_nonoverlapping(products.as_ptr(), self.rows) };
    }

    /// Writes the products with each token.
    pub(super) fn put_all(&mut self, products: &[[f32; WIDTH]]) {
        for (token, products) in products.iter().enumerate() {
            self.put(token, products);
        }
    }

    /// Writes what `act` makes of each token's products of a gate and of what
    /// is beside it.
    #[inline(always)]
    pub(super) fn act(
        &mut self,
        gate: &[[f32; WIDTH]],
        up: &[[f32; WIDTH]],
        act: &impl Fn(&mut [f32; WIDTH], &[f32; WIDTH]),
    ) {
        for (token, (gate, up)) in gate.iter().zip(up).enumerate() {
            let mut gate = *gate;
            act(&mut gate, up);
            self.put(token, &gate);
        }
    }
}
