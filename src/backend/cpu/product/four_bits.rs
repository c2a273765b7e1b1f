//! Rows of 4-bit weights, unpacked by words: eight weights of as many words as
//! a vector has lanes take eight shifts and no shuffling.

// Tiles of several arrays are walked by their indices.
#![allow(clippy::needless_range_loop)]

use pulp::{Simd, WithSimd};

use super::TILE_ROWS;
use crate::backend::packed::{Format, PackedRows};

/// Weights in a word.
pub(super) const NIBBLES: usize = 8;

/// Rows of 4-bit weights whose groups hold whole blocks of
/// [`super::Order::ByWords`].
pub(super) struct FourBits<'a> {
    words: &'a [u32],
    words_per_row: usize,
    groups_per_row: usize,
    scales: &'a [f32],
    biases: &'a [f32],
}

/// The bits of 2^23 as an `f32`: with a whole number below in the mantissa, it
/// is the sum of the two.
const TWO_POW_23: u32 = 0x4b00_0000;

impl<'a> FourBits<'a> {
    #[inline(always)]
    pub(super) fn of(rows: &'a PackedRows) -> Option<Self> {
        let Format::Affine {
            group_size,
            scales,
            biases,
            ..
        } = &rows.format
        else {
            return None;
        };
        Some(Self {
            words: rows.words(),
            words_per_row: rows.columns / NIBBLES,
            groups_per_row: rows.columns / group_size,
            scales,
            biases,
        })
    }

    /// The words, scales and biases of `ROWS` rows.
    #[inline(always)]
    fn rows<const ROWS: usize>(&self, row: usize) -> [(&'a [u32], &'a [f32], &'a [f32]); ROWS] {
        let mut rows: [(&[u32], &[f32], &[f32]); ROWS] = [(&[], &[], &[]); ROWS];
        for (r, out) in rows.iter_mut().enumerate() {
            let row = row + r;
            let groups = row * self.groups_per_row..(row + 1) * self.groups_per_row;
            *out = (
                &self.words[row * self.words_per_row..][..self.words_per_row],
                &self.scales[groups.clone()],
                &self.biases[groups],
            );
        }
        rows
    }

    /// A row in the order of its blocks.
    #[inline(always)]
    pub(super) fn unpack<S: Simd>(&self, simd: S, row: usize, out: &mut [f32]) {
        let [(words, scales, biases)] = self.rows::<1>(row);
        let words = S::as_simd_u32s(words).0;
        let per_group = words.len() / scales.len();
        let out = S::as_mut_simd_f32s(out).0;
        for (((words, out), &scale), &bias) in words
            .chunks_exact(per_group)
            .zip(out.chunks_exact_mut(per_group * NIBBLES))
            .zip(scales)
            .zip(biases)
        {
            let (scale, bias) = (simd.splat_f32s(scale), simd.splat_f32s(bias));
            for (&words, out) in words.iter().zip(out.chunks_exact_mut(NIBBLES)) {
                out.copy_from_slice(&unpack_block(simd, words, scale, bias));
            }
        }
    }

    /// Rows from `row` on times one token, with the weights unpacked in
    /// registers.
    #[inline(always)]
    pub(super) fn times_token<S: Simd>(&self, simd: S, row: usize, x: &[f32], out: &mut [f32]) {
        for (offset, out) in out.chunks_mut(TILE_ROWS).enumerate() {
            let row = row + offset * TILE_ROWS;
            match out.len() {
                TILE_ROWS => self.few_times_token::<S, TILE_ROWS>(simd, row, x, out),
                _ => {
                    for (offset, out) in out.chunks_mut(1).enumerate() {
                        self.few_times_token::<S, 1>(simd, row + offset, x, out);
                    }
                }
            }
        }
    }

    /// As [`super::TileRow::multiply`], a function by itself.
    #[inline(never)]
    fn few_times_token<S: Simd, const ROWS: usize>(
        &self,
        simd: S,
        row: usize,
        x: &[f32],
        out: &mut [f32],
    ) {
        let rows = self.rows::<ROWS>(row);
        out.copy_from_slice(&simd.vectorize(MultiplyFour { rows, x }));
    }
}

/// The weights of a block, in its order.
#[inline(always)]
fn unpack_block<S: Simd>(
    simd: S,
    words: S::u32s,
    scale: S::f32s,
    bias: S::f32s,
) -> [S::f32s; NIBBLES] {
    let (mask, base) = (simd.splat_u32s(15), simd.splat_u32s(TWO_POW_23));
    let two_pow_23 = simd.splat_f32s(f32::from_bits(TWO_POW_23));
    // Written out eight times below, so that the shifts are constants.
    let weights = |shift: u32| {
        let shifted = simd.wrapping_dyn_shr_u32s(words, simd.splat_u32s(shift));
        let low = simd.and_u32s(shifted, mask);
        let sum = simd.transmute_f32s_u32s(simd.or_u32s(low, base));
        simd.mul_add_e_f32s(simd.sub_f32s(sum, two_pow_23), scale, bias)
    };
    [
        weights(0),
        weights(4),
        weights(8),
        weights(12),
        weights(16),
        weights(20),
        weights(24),
        weights(28),
    ]
}

/// The products of a few 4-bit rows, given by their words, scales and biases,
/// and one token: the same sums as those of [`super::MultiplyTile`].
struct MultiplyFour<'a, const ROWS: usize> {
    rows: [(&'a [u32], &'a [f32], &'a [f32]); ROWS],
    x: &'a [f32],
}

impl<const ROWS: usize> WithSimd for MultiplyFour<'_, ROWS> {
    type Output = [f32; ROWS];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [f32; ROWS] {
        let groups = self.rows[0].1.len();
        let mut words: [&[S::u32s]; ROWS] = [&[]; ROWS];
        for r in 0..ROWS {
            words[r] = S::as_simd_u32s(self.rows[r].0).0;
        }
        let blocks = words[0].len();
        let per_group = blocks / groups;
        let x = &S::as_simd_f32s(self.x).0[..blocks * NIBBLES];
        let mut sums = [simd.splat_f32s(0.0); ROWS];
        for (group, x) in x.chunks_exact(per_group * NIBBLES).enumerate() {
            for (block, x) in x.chunks_exact(NIBBLES).enumerate() {
                for r in 0..ROWS {
                    let scale = simd.splat_f32s(self.rows[r].1[group]);
                    let bias = simd.splat_f32s(self.rows[r].2[group]);
                    let words = words[r][group * per_group + block];
                    let weights = unpack_block(simd, words, scale, bias);
                    for nibble in 0..NIBBLES {
                        sums[r] = simd.mul_add_e_f32s(weights[nibble], x[nibble], sums[r]);
                    }
                }
            }
        }
        let mut products = [0.0; ROWS];
        for r in 0..ROWS {
            products[r] = simd.reduce_sum_f32s(sums[r]);
        }
        products
    }
}
