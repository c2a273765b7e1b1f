//! Products of tiles with rounded activations, by the best instructions there
//! are. All of them give the same bits: integer products are exact, and what
//! is rounded is rounded in one order.

#![allow(unsafe_code)]

use std::sync::LazyLock;

use rayon::prelude::*;

use super::activations::{Activations, Chunk, Factors, spans};
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::{TileRows, Tiles, WIDTH, portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// Up to so many tokens threads share the rows, and above that the tokens.
const FEW: usize = 64;

/// Tiles a thread takes at a time where there are few tokens.
const TILES: usize = 4;

/// Tokens a thread takes at a time where there are many.
const TOKENS: usize = 24;

/// The instructions that products are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instructions {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// With products of unsigned bytes with signed ones.
    #[cfg(target_arch = "aarch64")]
    NeonMixed,
}

/// The best of this machine.
static BEST: LazyLock<Instructions> = LazyLock::new(|| {
    #[cfg(target_arch = "x86_64")]
    if avx512::is_there() {
        return Instructions::Avx512;
    } else if avx2::is_there() {
        return Instructions::Avx2;
    }
    #[cfg(target_arch = "aarch64")]
    if neon::is_mixed_there() {
        return Instructions::NeonMixed;
    } else if neon::is_there() {
        return Instructions::Neon;
    }
    Instructions::Portable
});

/// Whether this machine has instructions with which integer products are
/// faster than those of `f32`.
pub(in super::super) fn are_fast() -> bool {
    *BEST != Instructions::Portable
}

/// `x` `[T, columns]` times the transposed `weights`: `[T, count]`.
pub(in super::super) fn project(weights: &Tiles, x: &[f32]) -> Vec<f32> {
    project_by(weights, x, *BEST)
}

pub(super) fn project_by(weights: &Tiles, x: &[f32], by: Instructions) -> Vec<f32> {
    let (rows, columns) = (weights.count, weights.columns);
    let tokens = x.len() / columns;
    let mut out = vec![0.0; tokens * rows];
    if out.is_empty() {
        return out;
    }
    if tokens > FEW {
        out.par_chunks_mut(TOKENS * rows)
            .zip(x.par_chunks(TOKENS * columns))
            .for_each(|(out, x)| {
                let x = Activations::new(x, columns, weights.group_size);
                let tokens = out.len() / rows;
                for index in 0..rows.div_ceil(WIDTH) {
                    let tile = weights.tile(index);
                    by.tile(weights.bits, &tile, &x, tokens, |token, products| {
                        let out = &mut out[token * rows + index * WIDTH..];
                        let count = WIDTH.min(rows - index * WIDTH);
                        out[..count].copy_from_slice(&products[..count]);
                    });
                }
            });
        return out;
    }
    // Transposed, so that every thread writes rows of its own.
    let x = Activations::new(x, columns, weights.group_size);
    out.par_chunks_mut(TILES * WIDTH * tokens)
        .enumerate()
        .for_each(|(block, out)| {
            for (offset, out) in out.chunks_mut(WIDTH * tokens).enumerate() {
                let tile = weights.tile(block * TILES + offset);
                by.tile(weights.bits, &tile, &x, tokens, |token, products| {
                    let rows = out.chunks_exact_mut(tokens);
                    for (row, product) in rows.zip(products) {
                        row[token] = *product;
                    }
                });
            }
        });
    match tokens {
        1 => out,
        _ => transpose(&out, rows, tokens),
    }
}

fn transpose(x: &[f32], rows: usize, tokens: usize) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    for (row, from) in x.chunks_exact(tokens).enumerate() {
        for (token, &value) in from.iter().enumerate() {
            out[token * rows + row] = value;
        }
    }
    out
}

impl Instructions {
    /// One tile times all tokens of `x`: `put` is told the products of each.
    fn tile(
        self,
        bits: usize,
        tile: &TileRows<'_>,
        x: &Activations,
        tokens: usize,
        mut put: impl FnMut(usize, &[f32; WIDTH]),
    ) {
        for (first, count) in spans(tokens) {
            let mut put = |products: &[[f32; WIDTH]]| {
                for (offset, products) in products.iter().enumerate() {
                    put(first + offset, products);
                }
            };
            match count {
                12 => put(&self.multiply::<12>(bits, tile, x.span(first))),
                8 => put(&self.multiply::<8>(bits, tile, x.span(first))),
                4 => put(&self.multiply::<4>(bits, tile, x.span(first))),
                2 => put(&self.multiply::<2>(bits, tile, x.span(first))),
                _ => put(&self.multiply::<1>(bits, tile, x.span(first))),
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
            (Self::Avx2, 4) => unsafe { avx2::multiply::<T, 4>(tile, chunks, factors) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, _) => unsafe { avx2::multiply::<T, 8>(tile, chunks, factors) },
            // SAFETY: these instructions are chosen where `is_there` says so.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, 4) => unsafe { avx512::multiply::<T, 4>(tile, chunks, factors) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, _) => unsafe { avx512::multiply::<T, 8>(tile, chunks, factors) },
            // SAFETY: these instructions are chosen where `is_there` says so,
            // as it does wherever `is_mixed_there` does.
            #[cfg(target_arch = "aarch64")]
            (Self::Neon | Self::NeonMixed, 4) => unsafe {
                neon::multiply::<T, 4>(tile, chunks, factors)
            },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            (Self::Neon, _) => unsafe { neon::multiply::<T, 8>(tile, chunks, factors) },
            // SAFETY: these are chosen where `is_mixed_there` says so.
            #[cfg(target_arch = "aarch64")]
            (Self::NeonMixed, _) => unsafe { neon::multiply_mixed::<T>(tile, chunks, factors) },
        }
    }
}
