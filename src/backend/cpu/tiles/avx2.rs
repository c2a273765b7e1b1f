//! [`super::kernel`] with AVX2, and with AVX-VNNI where there is that, too: a
//! row of the tile in each lane of two vectors. Without AVX-VNNI bytes are
//! multiplied and added up in 16 bits, as far as those reach, then in 32.

#![allow(unsafe_code)]
// Registers of several arrays are walked by their indices.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::activations::{Chunk, Factors};
use super::avx512::AHEAD;
use super::out::Places;
use super::{Line, Scales, TileRows, WIDTH};

/// Whether this machine has the instructions of [`multiply`].
pub(super) fn is_there() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// Whether it has those of [`multiply_vnni`], too.
pub(super) fn has_vnni() -> bool {
    is_there() && is_x86_feature_detected!("avxvnni")
}

/// Chunks whose products are added up in 16 bits: two of a weight of at most
/// 15 with an activation of at most 128 are 3,840, of which a chunk has two,
/// and four chunks 30,720.
const IN_16_BITS: usize = 4;

/// A vector has half of a tile's rows.
const HALVES: usize = 2;

/// Sums of integer products, of both halves, of each token.
type Dots<const N: usize> = [[__m256i; HALVES]; N];

/// The products of a tile, group by group, with integer products that `$dots`
/// adds up by the instructions `$features`, which are AVX2 or more.
macro_rules! multiply_by {
    ($(#[$meta:meta])* $multiply:ident, $features:literal, $dots:ident) => {
        $(#[$meta])*
        #[target_feature(enable = $features)]
        pub(super) fn $multiply<const T: usize, const BITS: usize>(
            rows: &TileRows<'_>,
            chunks: &[[Chunk; T]],
            factors: &[[Factors; T]],
            out: &mut Places<'_>,
        ) {
            /// The products with `N` tokens from `first` on.
            #[inline]
            #[target_feature(enable = $features)]
            fn few<const T: usize, const BITS: usize, const N: usize>(
                rows: &TileRows<'_>,
                chunks: &[[Chunk; T]],
                factors: &[[Factors; T]],
                first: usize,
            ) -> [[f32; WIDTH]; N] {
                let per_group = chunks.len() / factors.len();
                let scale_lines = rows.scales.lines();
                let mut sums = [[_mm256_setzero_ps(); HALVES]; N];
                let blocks = rows.lines.chunks_exact(scale_lines + per_group * BITS / 4);
                let groups = blocks.zip(chunks.chunks_exact(per_group));
                for ((block, chunks), factors) in groups.zip(factors) {
                    let (head, weights) = block.split_at(scale_lines);
                    head.iter().for_each(|line| prefetch(line));
                    let dots = $dots::<T, BITS, N>(weights, chunks, first);
                    add(&mut sums, &dots, rows.scales, head, &factors[first..]);
                }
                stored(&sums)
            }

            // More tokens at a time do not fit the registers.
            for first in (0..T).step_by(2) {
                if first + 1 < T {
                    let [a, b] = few::<T, BITS, 2>(rows, chunks, factors, first);
                    out.put(first, &a);
                    out.put(first + 1, &b);
                } else {
                    let [a] = few::<T, BITS, 1>(rows, chunks, factors, first);
                    out.put(first, &a);
                }
            }
        }
    };
}

multiply_by! {
    /// As [`super::portable::multiply`], bit for bit.
    ///
    /// Asks for `avx2`, `fma` and `f16c`.
    multiply, "avx2,fma,f16c", dots
}

multiply_by! {
    /// As [`super::portable::multiply`], bit for bit.
    ///
    /// Asks for `avx2`, `fma`, `f16c` and `avxvnni`.
    multiply_vnni, "avx2,fma,f16c,avxvnni", dots_vnni
}

// The same but for the encoding of one instruction, for machines whose
// processor has that one alone.
#[cfg(test)]
multiply_by! {
    /// [`multiply_vnni`] in AVX-512's encoding.
    ///
    /// Asks for `avx2`, `fma`, `f16c`, `avx512vnni` and `avx512vl`.
    multiply_vnni_512, "avx2,fma,f16c,avx512vnni,avx512vl", dots_vnni_512
}

/// The integer products of a group with the activations of `N` tokens.
#[inline]
#[target_feature(enable = "avx2")]
fn dots<const T: usize, const BITS: usize, const N: usize>(
    weights: &[Line],
    chunks: &[[Chunk; T]],
    first: usize,
) -> Dots<N> {
    let low = _mm256_set1_epi8(15);
    let ones = _mm256_set1_epi16(1);
    let mut dots = [[_mm256_setzero_si256(); HALVES]; N];
    let several = weights.chunks_exact(IN_16_BITS * BITS / 4);
    for (lines, chunks) in several.zip(chunks.chunks_exact(IN_16_BITS)) {
        lines.iter().for_each(|line| prefetch(line));
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
    dots
}

/// [`dots`] by `$product`, which adds the products of four bytes to a sum of
/// 32 bits.
macro_rules! dots_by {
    ($(#[$meta:meta])* $dots:ident, $features:literal, $product:ident) => {
        $(#[$meta])*
        #[inline]
        #[target_feature(enable = $features)]
        fn $dots<const T: usize, const BITS: usize, const N: usize>(
            weights: &[Line],
            chunks: &[[Chunk; T]],
            first: usize,
        ) -> Dots<N> {
            let low = _mm256_set1_epi8(15);
            let mut dots = [[_mm256_setzero_si256(); HALVES]; N];
            for (lines, chunk) in weights.chunks_exact(BITS / 4).zip(chunks) {
                lines.iter().for_each(|line| prefetch(line));
                for half in 0..HALVES {
                    let weights = match BITS {
                        4 => {
                            let packed = load(&lines[0], half);
                            let high = _mm256_srli_epi16::<4>(packed);
                            [_mm256_and_si256(packed, low), _mm256_and_si256(high, low)]
                        }
                        _ => [load(&lines[0], half), load(&lines[1], half)],
                    };
                    for n in 0..N {
                        let dot = &mut dots[n][half];
                        for (weights, x) in weights.into_iter().zip(chunk[first + n]) {
                            *dot = $product(*dot, weights, _mm256_set1_epi32(x));
                        }
                    }
                }
            }
            dots
        }
    };
}

dots_by! {
    /// With AVX-VNNI.
    dots_vnni, "avx2,avxvnni", _mm256_dpbusd_avx_epi32
}

#[cfg(test)]
dots_by! {
    /// With the same instruction in AVX-512's encoding.
    dots_vnni_512, "avx2,avx512vnni,avx512vl", _mm256_dpbusd_epi32
}

/// Adds a group's products to the sums of `N` tokens, whose factors are the
/// first ones of `factors`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add<const N: usize>(
    sums: &mut [[__m256; HALVES]; N],
    dots: &Dots<N>,
    kind: Scales,
    head: &[Line],
    factors: &[Factors],
) {
    for half in 0..HALVES {
        let (scale, bias) = scales(kind, head, half);
        for n in 0..N {
            let Factors { scale: x, sum } = factors[n];
            let scale = _mm256_mul_ps(scale, _mm256_set1_ps(x));
            let total = &mut sums[n][half];
            *total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[n][half]), scale, *total);
            *total = _mm256_fmadd_ps(bias, _mm256_set1_ps(sum), *total);
        }
    }
}

/// The sums, row by row.
#[inline]
#[target_feature(enable = "avx2")]
fn stored<const N: usize>(sums: &[[__m256; HALVES]; N]) -> [[f32; WIDTH]; N] {
    let mut products = [[0.0; WIDTH]; N];
    for n in 0..N {
        for (half, out) in products[n].chunks_exact_mut(WIDTH / HALVES).enumerate() {
            // SAFETY: `out` is 8 floats, 32 bytes, and ours alone.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sums[n][half]) };
        }
    }
    products
}

/// [`Places::act`] with these instructions, where `act` is inlined.
///
/// Asks for `avx2`, `fma` and `f16c`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn act(
    gate: &[[f32; WIDTH]],
    up: &[[f32; WIDTH]],
    act: &impl Fn(&mut [f32; WIDTH], &[f32; WIDTH]),
    out: &mut Places<'_>,
) {
    out.act(gate, up, act);
}

/// Asks for what is [`AHEAD`] of `line`.
#[inline]
#[target_feature(enable = "avx2")]
fn prefetch(line: &Line) {
    let ahead = (&raw const *line).wrapping_add(AHEAD);
    // A prefetch reads nothing: any address will do.
    _mm_prefetch::<_MM_HINT_T2>(ahead.cast());
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
