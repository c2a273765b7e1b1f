//! Products of tiles with rounded activations, by the best instructions there
//! are. All of them give the same bits: integer products are exact, and what
//! is rounded is rounded in one order.

#![allow(unsafe_code)]

use std::sync::LazyLock;

use rayon::prelude::*;

use super::activations::{Activations, Chunk, Factors, spans};
#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::{TileRows, Tiles, WIDTH, portable};

/// Tiles a thread takes at a time where there are few tokens.
const TILES: usize = 4;

/// Tokens a thread takes at a time where there are many.
const TOKENS: usize = 48;

/// The instructions that products are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instructions {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// The best of this machine.
static BEST: LazyLock<Instructions> = LazyLock::new(|| {
    #[cfg(target_arch = "x86_64")]
    if avx512::is_there() {
        return Instructions::Avx512;
    }
    Instructions::Portable
});

/// `x` `[T, columns]` times the transposed `weights`: `[T, count]`.
pub(in super::super) fn project(weights: &Tiles, x: &[f32]) -> Vec<f32> {
    project_by(weights, x, *BEST)
}

pub(super) fn project_by(weights: &Tiles, x: &[f32], by: Instructions) -> Vec<f32> {
    let tokens = x.len() / weights.columns;
    let mut out = vec![0.0; tokens * weights.count];
    if tokens == 0 || weights.count == 0 {
        return out;
    }
    match tokens {
        1 => {
            let x = Activations::new(x, weights.columns, weights.group_size);
            out.par_chunks_mut(TILES * WIDTH)
                .enumerate()
                .for_each(|(index, out)| {
                    for (offset, out) in out.chunks_mut(WIDTH).enumerate() {
                        let tile = weights.tile(index * TILES + offset);
                        let [products] = by.multiply::<1>(weights.bits, &tile, x.span(0));
                        out.copy_from_slice(&products[..out.len()]);
                    }
                });
        }
        _ => {
            let (rows, columns) = (weights.count, weights.columns);
            out.par_chunks_mut(TOKENS * rows)
                .zip(x.par_chunks(TOKENS * columns))
                .for_each(|(out, x)| {
                    let x = Activations::new(x, columns, weights.group_size);
                    for tile in 0..rows.div_ceil(WIDTH) {
                        by.tile(weights, tile, &x, out);
                    }
                });
        }
    }
    out
}

impl Instructions {
    /// One tile times all tokens of `x`; `out` is `[tokens, count]`.
    fn tile(self, weights: &Tiles, index: usize, x: &Activations, out: &mut [f32]) {
        let tile = weights.tile(index);
        let first_row = index * WIDTH;
        for (first, count) in spans(out.len() / weights.count) {
            let out = &mut out[first * weights.count..][..count * weights.count];
            let mut rows = out
                .chunks_exact_mut(weights.count)
                .map(|row| &mut row[first_row..weights.count.min(first_row + WIDTH)]);
            let mut put = |products: &[[f32; WIDTH]]| {
                for (row, products) in rows.by_ref().zip(products) {
                    row.copy_from_slice(&products[..row.len()]);
                }
            };
            match count {
                12 => put(&self.multiply::<12>(weights.bits, &tile, x.span(first))),
                8 => put(&self.multiply::<8>(weights.bits, &tile, x.span(first))),
                4 => put(&self.multiply::<4>(weights.bits, &tile, x.span(first))),
                2 => put(&self.multiply::<2>(weights.bits, &tile, x.span(first))),
                _ => put(&self.multiply::<1>(weights.bits, &tile, x.span(first))),
            }
        }
    }

    #[inline]
    fn multiply<const T: usize>(
        self,
        bits: usize,
        tile: &TileRows<'_>,
        (chunks, factors): (&[[Chunk; T]], &[[Factors; T]]),
    ) -> [[f32; WIDTH]; T] {
        match (self, bits) {
            (Self::Portable, 4) => portable::multiply::<T, 4>(tile, chunks, factors),
            (Self::Portable, _) => portable::multiply::<T, 8>(tile, chunks, factors),
            // SAFETY: these instructions are chosen where `is_there` says so.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, 4) => unsafe { avx512::multiply::<T, 4>(tile, chunks, factors) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, _) => unsafe { avx512::multiply::<T, 8>(tile, chunks, factors) },
        }
    }
}
