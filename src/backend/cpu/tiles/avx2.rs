//! [`super::kernel`] with AVX2: bytes are multiplied and added up in 16 bits,
//! as far as those reach, then in 32. A row of the tile in each lane of two
//! vectors.

#![allow(unsafe_code)]
// Registers of several arrays are walked by their indices.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::activations::{Chunk, Factors};
use super::{Line, Scales, TileRows, WIDTH};

/// Whether this machine has the instructions.
pub(super) fn is_there() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// Chunks whose products are added up in 16 bits: two of a weight of at most
/// 15 with an activation of at most 128 are 3,840, of which a chunk has two,
/// and four chunks 30,720.
const IN_16_BITS: usize = 4;

/// A vector has half of a tile's rows.
const HALVES: usize = 2;

/// As [`super::portable::multiply`], bit for bit.
///
/// Asks for `avx2`, `fma` and `f16c`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply<const T: usize, const BITS: usize>(
    rows: &TileRows<'_>,
    chunks: &[[Chunk; T]],
    factors: &[[Factors; T]],
) -> [[f32; WIDTH]; T] {
    let mut products = [[0.0; WIDTH]; T];
    // More tokens at a time do not fit the registers.
    let mut first = 0;
    for products in products.chunks_mut(2) {
        match products {
            [a, b] => [*a, *b] = few::<T, BITS, 2>(rows, chunks, factors, first),
            [a] => [*a] = few::<T, BITS, 1>(rows, chunks, factors, first),
            _ => {}
        }
        first += 2;
    }
    products
}

/// The products with `N` tokens from `first` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn few<const T: usize, const BITS: usize, const N: usize>(
    rows: &TileRows<'_>,
    chunks: &[[Chunk; T]],
    factors: &[[Factors; T]],
    first: usize,
) -> [[f32; WIDTH]; N] {
    let per_group = chunks.len() / factors.len();
    let scale_lines = rows.scales.lines();
    let low = _mm256_set1_epi8(15);
    let ones = _mm256_set1_epi16(1);
    let mut sums = [[_mm256_setzero_ps(); HALVES]; N];
    let blocks = rows.lines.chunks_exact(scale_lines + per_group * BITS / 4);
    for ((block, chunks), factors) in blocks.zip(chunks.chunks_exact(per_group)).zip(factors) {
        let (head, weights) = block.split_at(scale_lines);
        let mut dots = [[_mm256_setzero_si256(); HALVES]; N];
        let several = weights.chunks_exact(IN_16_BITS * BITS / 4);
        for (lines, chunks) in several.zip(chunks.chunks_exact(IN_16_BITS)) {
            for half in 0..HALVES {
                // Of eight-bit weights the upper four bits by themselves.
                let mut lower = [_mm256_setzero_si256(); N];
                let mut upper = [_mm256_setzero_si256(); N];
                for (lines, chunk) in lines.chunks_exact(BITS / 4).zip(chunks) {
                    for (place, line) in lines.iter().enumerate() {
                        let packed = load(line, half);
                        let nibbles = [
                            _mm256_and_si256(packed, low),
                            _mm256_and_si256(_mm256_srli_epi16::<4>(packed), low),
                        ];
                        for n in 0..N {
                            let x = chunk[first + n];
                            if BITS == 4 {
                                let [a, b] = x.map(|x| _mm256_set1_epi32(x));
                                let a = _mm256_maddubs_epi16(nibbles[0], a);
                                let b = _mm256_maddubs_epi16(nibbles[1], b);
                                lower[n] = _mm256_add_epi16(lower[n], _mm256_add_epi16(a, b));
                            } else {
                                let x = _mm256_set1_epi32(x[place]);
                                let a = _mm256_maddubs_epi16(nibbles[0], x);
                                let b = _mm256_maddubs_epi16(nibbles[1], x);
                                lower[n] = _mm256_add_epi16(lower[n], a);
                                upper[n] = _mm256_add_epi16(upper[n], b);
                            }
                        }
                    }
                }
                for n in 0..N {
                    let dot = &mut dots[n][half];
                    *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(lower[n], ones));
                    if BITS == 8 {
                        let upper = _mm256_madd_epi16(upper[n], ones);
                        *dot = _mm256_add_epi32(*dot, _mm256_slli_epi32::<4>(upper));
                    }
                }
            }
        }
        for half in 0..HALVES {
            let (scale, bias) = scales(rows.scales, head, half);
            for n in 0..N {
                let Factors { scale: x, sum } = factors[first + n];
                let scale = _mm256_mul_ps(scale, _mm256_set1_ps(x));
                let total = &mut sums[n][half];
                *total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[n][half]), scale, *total);
                *total = _mm256_fmadd_ps(bias, _mm256_set1_ps(sum), *total);
            }
        }
    }
    let mut products = [[0.0; WIDTH]; N];
    for n in 0..N {
        for (half, out) in products[n].chunks_exact_mut(WIDTH / HALVES).enumerate() {
            // SAFETY: `out` is 8 floats, 32 bytes, and ours alone.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sums[n][half]) };
        }
    }
    products
}

/// The words of half of the rows.
#[inline]
#[target_feature(enable = "avx2")]
fn load(line: &Line, half: usize) -> __m256i {
    let words = &line.0[half * (WIDTH / HALVES)..][..WIDTH / HALVES];
    // SAFETY: `words` are 32 bytes, and we hold a reference to them.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

/// The scales and biases of a group, of half of the rows.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn scales(kind: Scales, head: &[Line], half: usize) -> (__m256, __m256) {
    let halves = |both: __m256i| match half {
        0 => _mm256_castsi256_si128(both),
        _ => _mm256_extracti128_si256::<1>(both),
    };
    let bits = || (halves(load(&head[0], 0)), halves(load(&head[0], 1)));
    let widen = |bits| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)));
    match kind {
        Scales::Bf16 => {
            let (scales, biases) = bits();
            (widen(scales), widen(biases))
        }
        Scales::F16 => {
            let (scales, biases) = bits();
            (_mm256_cvtph_ps(scales), _mm256_cvtph_ps(biases))
        }
        Scales::F32 => (
            _mm256_castsi256_ps(load(&head[0], half)),
            _mm256_castsi256_ps(load(&head[1], half)),
        ),
    }
}
