//! [`super::kernel`] with AVX-512 and its integer products (VNNI): a row of
//! the tile in each lane.

#![allow(unsafe_code)]
// Registers of several arrays are walked by their indices.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::activations::{Chunk, Factors};
use super::{Line, Scales, TileRows, WIDTH};

/// Whether this machine has the instructions.
pub(super) fn is_there() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
}

/// How far ahead of the products weights are asked for, in lines.
const AHEAD: usize = 48;

/// As [`super::portable::multiply`], bit for bit.
///
/// Asks for `avx512f`, `avx512bw` and `avx512vnni`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn multiply<const T: usize, const BITS: usize>(
    rows: &TileRows<'_>,
    chunks: &[[Chunk; T]],
    factors: &[[Factors; T]],
) -> [[f32; WIDTH]; T] {
    let per_group = chunks.len() / factors.len();
    let weight_lines = per_group * BITS / 4;
    let scale_lines = rows.scales.lines();
    let low = _mm512_set1_epi8(15);
    let mut sums = [_mm512_setzero_ps(); T];
    let blocks = rows.lines.chunks_exact(scale_lines + weight_lines);
    for ((block, chunks), factors) in blocks.zip(chunks.chunks_exact(per_group)).zip(factors) {
        let (head, weights) = block.split_at(scale_lines);
        let mut dots = [_mm512_setzero_si512(); T];
        match BITS {
            4 => {
                for (line, chunk) in weights.iter().zip(chunks) {
                    if T == 1 {
                        prefetch(line);
                    }
                    let packed = load(line);
                    let first = _mm512_and_si512(packed, low);
                    let second = _mm512_and_si512(_mm512_srli_epi16::<4>(packed), low);
                    for t in 0..T {
                        let [a, b] = chunk[t];
                        dots[t] = _mm512_dpbusd_epi32(dots[t], first, _mm512_set1_epi32(a));
                        dots[t] = _mm512_dpbusd_epi32(dots[t], second, _mm512_set1_epi32(b));
                    }
                }
            }
            _ => {
                for ([first, second], chunk) in weights.as_chunks().0.iter().zip(chunks) {
                    if T == 1 {
                        prefetch(first);
                        prefetch(second);
                    }
                    let (first, second) = (load(first), load(second));
                    for t in 0..T {
                        let [a, b] = chunk[t];
                        dots[t] = _mm512_dpbusd_epi32(dots[t], first, _mm512_set1_epi32(a));
                        dots[t] = _mm512_dpbusd_epi32(dots[t], second, _mm512_set1_epi32(b));
                    }
                }
            }
        }
        let (scale, bias) = scales(rows.scales, head);
        for t in 0..T {
            let Factors { scale: x, sum } = factors[t];
            let scale = _mm512_mul_ps(scale, _mm512_set1_ps(x));
            sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[t]), scale, sums[t]);
            sums[t] = _mm512_fmadd_ps(bias, _mm512_set1_ps(sum), sums[t]);
        }
    }
    let mut products = [[0.0; WIDTH]; T];
    for t in 0..T {
        // SAFETY: `products[t]` is 16 floats, 64 bytes, and ours alone.
        unsafe { _mm512_storeu_ps(products[t].as_mut_ptr(), sums[t]) };
    }
    products
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(line: &Line) -> __m512i {
    // SAFETY: a line is 64 bytes, and we hold a reference to it.
    unsafe { _mm512_load_si512((&raw const line.0).cast()) }
}

/// Asks for what is [`AHEAD`] of `line`.
#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch(line: &Line) {
    let ahead = (&raw const *line).wrapping_add(AHEAD);
    // A prefetch reads nothing: any address will do.
    _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
}

/// The scales and biases of a group.
#[inline]
#[target_feature(enable = "avx512f")]
fn scales(kind: Scales, head: &[Line]) -> (__m512, __m512) {
    let halves = || {
        let both = load(&head[0]);
        (
            _mm512_castsi512_si256(both),
            _mm512_extracti64x4_epi64::<1>(both),
        )
    };
    let widen = |bits| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)));
    match kind {
        Scales::Bf16 => {
            let (scales, biases) = halves();
            (widen(scales), widen(biases))
        }
        Scales::F16 => {
            let (scales, biases) = halves();
            (_mm512_cvtph_ps(scales), _mm512_cvtph_ps(biases))
        }
        Scales::F32 => (
            _mm512_castsi512_ps(load(&head[0])),
            _mm512_castsi512_ps(load(&head[1])),
        ),
    }
}
