//! [`super::kernel`] with AVX-512 and its integer products (VNNI): a row of
//! the tile in each lane.

#![allow(unsafe_code)]
// Registers of several arrays are walked by their indices.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::activations::{Chunk, Factors, Group, LANES, ROUNDING, Round, Source, factors_of};
use super::out::Places;
use super::{Line, Scales, TileRows, WIDTH};

/// Whether this machine has the instructions.
pub(super) fn is_there() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
}

/// How far ahead of the products weights are asked for, in lines.
pub(super) const AHEAD: usize = 80;

/// As [`super::portable::multiply`], bit for bit.
///
/// Asks for `avx512f`, `avx512bw` and `avx512vnni`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn multiply<const T: usize, const BITS: usize>(
    rows: &TileRows<'_>,
    chunks: &[[Chunk; T]],
    factors: &[[Factors; T]],
    out: &mut Places<'_>,
) {
    let per_group = chunks.len() / factors.len();
    let weight_lines = per_group * BITS / 4;
    let scale_lines = rows.scales.lines();
    let low = _mm512_set1_epi8(15);
    let mut sums = [_mm512_setzero_ps(); T];
    let blocks = rows.lines.chunks_exact(scale_lines + weight_lines);
    for ((block, chunks), factors) in blocks.zip(chunks.chunks_exact(per_group)).zip(factors) {
        let (head, weights) = block.split_at(scale_lines);
        head.iter().for_each(|line| prefetch(line));
        // Where there are few tokens, each has two sums, so that a product
        // does not wait for the one before it.
        let mut dots = [[_mm512_setzero_si512(); 2]; T];
        let second_sum = usize::from(T < 4);
        for (lines, chunk) in weights.chunks_exact(BITS / 4).zip(chunks) {
            lines.iter().for_each(|line| prefetch(line));
            let (first, second) = match BITS {
                4 => {
                    let packed = load(&lines[0]);
                    let high = _mm512_srli_epi16::<4>(packed);
                    (_mm512_and_si512(packed, low), _mm512_and_si512(high, low))
                }
                _ => (load(&lines[0]), load(&lines[1])),
            };
            for t in 0..T {
                let x = _mm512_set1_epi32(chunk[t][0]);
                dots[t][0] = _mm512_dpbusd_epi32(dots[t][0], first, x);
            }
            for t in 0..T {
                let x = _mm512_set1_epi32(chunk[t][1]);
                let dot = &mut dots[t][second_sum];
                *dot = _mm512_dpbusd_epi32(*dot, second, x);
            }
        }
        let (scale, bias) = scales(rows.scales, head);
        for t in 0..T {
            let Factors { scale: x, sum } = factors[t];
            let scale = _mm512_mul_ps(scale, _mm512_set1_ps(x));
            let dot = match second_sum {
                0 => dots[t][0],
                _ => _mm512_add_epi32(dots[t][0], dots[t][1]),
            };
            sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, sums[t]);
            sums[t] = _mm512_fmadd_ps(bias, _mm512_set1_ps(sum), sums[t]);
        }
    }
    for t in 0..T {
        // Both: 16 floats, 64 bytes, and nobody else's.
        if let Some(out) = out.whole(t) {
            // SAFETY: as said above.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sums[t]) };
        } else {
            let mut products = [0.0; WIDTH];
            // SAFETY: as said above.
            unsafe { _mm512_storeu_ps(products.as_mut_ptr(), sums[t]) };
            out.put_some(t, &products);
        }
    }
}

/// [`Places::act`] with these instructions, where `act` is inlined.
///
/// Asks for `avx512f`, `avx512bw` and `avx512vnni`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn act(
    gate: &[[f32; WIDTH]],
    up: &[[f32; WIDTH]],
    act: &impl Fn(&mut [f32; WIDTH], &[f32; WIDTH]),
    out: &mut Places<'_>,
) {
    out.act(gate, up, act);
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
    // A prefetch reads nothing: any address will do. Into the second cache: of
    // what is on its way to the first one there can be less at a time than
    // memory is far away.
    _mm_prefetch::<_MM_HINT_T2>(ahead.cast());
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

/// Rounds, as the others do, bit for bit.
///
/// Asks for `avx512f`, `avx512bw` and `avx512vnni`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn round(work: Round<'_, impl Source>) {
    match work.group_lanes() {
        2 => work.by::<2>(|x| round_group(x)),
        4 => work.by::<4>(|x| round_group(x)),
        _ => work.by::<8>(|x| round_group(x)),
    }
}

/// As [`super::activations::round_group`], bit for bit.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn round_group<const N: usize>(x: &[[f32; LANES]; N]) -> Group<N> {
    // SAFETY: each is 16 floats, 64 bytes, and we hold a reference to it.
    let x = x.each_ref().map(|x| unsafe { _mm512_loadu_ps(x.as_ptr()) });
    let mut largest = _mm512_setzero_ps();
    let mut sums = _mm512_setzero_ps();
    for x in x {
        // The second one if the first is not a number.
        largest = _mm512_max_ps(_mm512_abs_ps(x), largest);
        sums = _mm512_add_ps(sums, x);
    }
    let upper = |x| _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(x)));
    let largest = _mm256_max_ps(upper(largest), _mm512_castps512_ps256(largest));
    let sums = _mm256_add_ps(_mm512_castps512_ps256(sums), upper(sums));
    let upper = |x| _mm256_extractf128_ps::<1>(x);
    let largest = _mm_max_ps(upper(largest), _mm256_castps256_ps128(largest));
    let sums = _mm_add_ps(_mm256_castps256_ps128(sums), upper(sums));
    let largest = _mm_max_ps(_mm_movehl_ps(largest, largest), largest);
    let sums = _mm_add_ps(sums, _mm_movehl_ps(sums, sums));
    let largest = _mm_max_ss(_mm_movehdup_ps(largest), largest);
    let sums = _mm_add_ss(sums, _mm_movehdup_ps(sums));
    let (factors, inverse) = factors_of(_mm_cvtss_f32(largest), _mm_cvtss_f32(sums));

    let (inverse, rounding) = (_mm512_set1_ps(inverse), _mm512_set1_ps(ROUNDING));
    let bytes = x.map(|x| {
        let whole = _mm512_add_ps(_mm512_mul_ps(x, inverse), rounding);
        let low = _mm512_cvtepi32_epi8(_mm512_castps_si512(whole));
        let mut bytes = [0; LANES];
        // SAFETY: `bytes` is 16 bytes, and ours alone.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), low) };
        bytes
    });
    (factors, bytes)
}
