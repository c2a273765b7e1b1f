//! [`super::kernel`] with NEON and its integer products: a row of the tile in
//! each lane of four vectors.
//!
//! The one product there is without `i8mm` is of signed bytes: four-bit
//! weights are such as they are, eight-bit ones are once 128 is taken off,
//! which `128 * sum(q_x)` makes up for. With `i8mm` there is one of unsigned
//! bytes with signed ones too.

#![allow(unsafe_code)]
// Registers of several arrays are walked by their indices.
#![allow(clippy::needless_range_loop)]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::activations::{Chunk, Factors};
use super::out::Places;
use super::{Line, Scales, TileRows, WIDTH};

/// Whether this machine has the instructions of [`multiply`].
pub(super) fn is_there() -> bool {
    is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod")
}

/// Whether this machine has those of [`multiply_mixed`] too.
pub(super) fn is_mixed_there() -> bool {
    is_there() && is_aarch64_feature_detected!("i8mm")
}

/// Lanes of a vector, and vectors of a tile's rows.
const LANES: usize = 4;

/// As [`super::portable::multiply`], bit for bit.
///
/// Asks for `neon` and `dotprod`.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn multiply<const T: usize, const BITS: usize>(
    rows: &TileRows<'_>,
    chunks: &[[Chunk; T]],
    factors: &[[Factors; T]],
    out: &mut Places<'_>,
) {
    out.put_all(&multiply_by::<T, BITS, false>(rows, chunks, factors));
}

/// [`multiply`] of eight-bit weights as they are.
///
/// Asks for `neon`, `dotprod` and `i8mm`.
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) fn multiply_mixed<const T: usize>(
    rows: &TileRows<'_>,
    chunks: &[[Chunk; T]],
    factors: &[[Factors; T]],
    out: &mut Places<'_>,
) {
    out.put_all(&multiply_by::<T, 8, true>(rows, chunks, factors));
}

/// [`multiply`], or [`multiply_mixed`] if it is `MIXED`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn multiply_by<const T: usize, const BITS: usize, const MIXED: bool>(
    rows: &TileRows<'_>,
    chunks: &[[Chunk; T]],
    factors: &[[Factors; T]],
) -> [[f32; WIDTH]; T] {
    // The sums of four tokens with a whole tile fit the 32 registers, or those
    // of twelve with half of it.
    match T > 4 {
        true => in_parts::<T, BITS, 2, MIXED>(rows, chunks, factors),
        false => in_parts::<T, BITS, 4, MIXED>(rows, chunks, factors),
    }
}

/// The products in parts of `Q` vectors of rows.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn in_parts<const T: usize, const BITS: usize, const Q: usize, const MIXED: bool>(
    rows: &TileRows<'_>,
    chunks: &[[Chunk; T]],
    factors: &[[Factors; T]],
) -> [[f32; WIDTH]; T] {
    let mut products = [[0.0; WIDTH]; T];
    let per_group = chunks.len() / factors.len();
    let scale_lines = rows.scales.lines();
    let blocks = rows.lines.chunks_exact(scale_lines + per_group * BITS / 4);
    for ((block, chunks), factors) in blocks.zip(chunks.chunks_exact(per_group)).zip(factors) {
        let (head, weights) = block.split_at(scale_lines);
        let starts = match BITS == 8 && !MIXED {
            true => offsets(chunks),
            false => [vdupq_n_s32(0); T],
        };
        for part in 0..LANES / Q {
            let dots = dots::<T, BITS, Q, MIXED>(weights, chunks, &starts, part);
            add(&mut products, &dots, (rows.scales, head), factors, part);
        }
    }
    products
}

/// The integer products of a group, of part `part` of the rows, added to what
/// each token starts with.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dots<const T: usize, const BITS: usize, const Q: usize, const MIXED: bool>(
    weights: &[Line],
    chunks: &[[Chunk; T]],
    starts: &[int32x4_t; T],
    part: usize,
) -> [[int32x4_t; Q]; T] {
    let mut dots = [[vdupq_n_s32(0); Q]; T];
    for t in 0..T {
        dots[t] = [starts[t]; Q];
    }
    for (lines, chunk) in weights.chunks_exact(BITS / 4).zip(chunks) {
        let mut four = [[vdupq_n_s8(0); 2]; Q];
        for q in 0..Q {
            four[q] = unpack::<BITS, MIXED>(lines, part * Q + q);
        }
        for t in (0..T).step_by(2) {
            let x = pair(chunk, t);
            for q in 0..Q {
                dots[t][q] = dot::<0, MIXED>(dots[t][q], four[q][0], x);
                if t + 1 < T {
                    dots[t + 1][q] = dot::<2, MIXED>(dots[t + 1][q], four[q][0], x);
                }
            }
            for q in 0..Q {
                dots[t][q] = dot::<1, MIXED>(dots[t][q], four[q][1], x);
                if t + 1 < T {
                    dots[t + 1][q] = dot::<3, MIXED>(dots[t + 1][q], four[q][1], x);
                }
            }
        }
    }
    dots
}

/// `128 * sum(q_x)` of each token of a group, in all lanes.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn offsets<const T: usize>(chunks: &[[Chunk; T]]) -> [int32x4_t; T] {
    let ones = vdupq_n_s8(1);
    let mut sums = [vdupq_n_s32(0); T];
    for chunk in chunks {
        for t in (0..T).step_by(2) {
            sums[t] = dot::<0, false>(sums[t], pair(chunk, t), ones);
        }
    }
    for t in (0..T).step_by(2) {
        let both = vshlq_n_s32::<7>(vpaddq_s32(sums[t], sums[t]));
        sums[t] = vdupq_laneq_s32::<0>(both);
        if t + 1 < T {
            sums[t + 1] = vdupq_laneq_s32::<1>(both);
        }
    }
    sums
}

/// Adds a group's products, of part `part` of the rows.
#[inline]
#[target_feature(enable = "neon")]
fn add<const T: usize, const Q: usize>(
    products: &mut [[f32; WIDTH]; T],
    dots: &[[int32x4_t; Q]; T],
    (kind, head): (Scales, &[Line]),
    factors: &[Factors; T],
    part: usize,
) {
    let (scales, biases) = scales::<Q>(kind, head, part);
    for t in 0..T {
        let Factors { scale, sum } = factors[t];
        for q in 0..Q {
            let out = &mut products[t][(part * Q + q) * LANES..][..LANES];
            // SAFETY: `out` is 4 floats, 16 bytes, and ours alone.
            let mut total = unsafe { vld1q_f32(out.as_ptr()) };
            let scale = vmulq_n_f32(scales[q], scale);
            total = vfmaq_f32(total, vcvtq_f32_s32(dots[t][q]), scale);
            total = vfmaq_f32(total, biases[q], vdupq_n_f32(sum));
            // SAFETY: as above.
            unsafe { vst1q_f32(out.as_mut_ptr(), total) };
        }
    }
}

/// `sum` and in each lane the products of its four `weights` with the four
/// bytes of lane `LANE` of `x`: of signed weights, or of unsigned ones if
/// `MIXED`, which asks for `i8mm` too.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot<const LANE: usize, const MIXED: bool>(
    mut sum: int32x4_t,
    weights: int8x16_t,
    x: int8x16_t,
) -> int32x4_t {
    // In assembly, since the standard library has these only for compilers
    // younger than those that we build with.
    if MIXED {
        // SAFETY: reads and writes these registers and nothing else. That the
        // machine has the instruction is what `multiply_mixed` asks for, the
        // only one to be `MIXED`.
        unsafe {
            asm!(
                ".arch_extension i8mm",
                "usdot {sum:v}.4s, {weights:v}.16b, {x:v}.4b[{lane}]",
                sum = inout(vreg) sum,
                weights = in(vreg) weights,
                x = in(vreg) x,
                lane = const LANE,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    } else {
        // SAFETY: as above, and `dotprod` is what we ask for ourselves.
        unsafe {
            asm!(
                "sdot {sum:v}.4s, {weights:v}.16b, {x:v}.4b[{lane}]",
                sum = inout(vreg) sum,
                weights = in(vreg) weights,
                x = in(vreg) x,
                lane = const LANE,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }
    sum
}

/// The chunks of token `t` and the next, where there is one: columns `0..4`
/// and `4..8` of the first, then of the second.
#[inline]
#[target_feature(enable = "neon")]
fn pair<const T: usize>(chunk: &[Chunk; T], t: usize) -> int8x16_t {
    let words = match chunk[t..].first_chunk::<2>() {
        // SAFETY: `pair` is 16 bytes, and we hold a reference to it.
        Some(pair) => unsafe { vld1q_s32(pair.as_flattened().as_ptr()) },
        // SAFETY: `chunk[t]` is 8 bytes, and we hold a reference to it.
        None => unsafe { vcombine_s32(vld1_s32(chunk[t].as_ptr()), vdup_n_s32(0)) },
    };
    vreinterpretq_s8_s32(words)
}

/// The weights of vector `q` of the rows: of four columns and of the four
/// after those, eight-bit ones less 128 unless they may be unsigned.
#[inline]
#[target_feature(enable = "neon")]
fn unpack<const BITS: usize, const MIXED: bool>(lines: &[Line], q: usize) -> [int8x16_t; 2] {
    let bytes = |line| vreinterpretq_u8_u32(load(line, q));
    let signed = |weights| vreinterpretq_s8_u8(weights);
    if BITS == 4 {
        let (packed, low) = (bytes(&lines[0]), vdupq_n_u8(15));
        let (first, second) = (vandq_u8(packed, low), vshrq_n_u8::<4>(packed));
        return [signed(first), signed(second)];
    }
    let (first, second) = (bytes(&lines[0]), bytes(&lines[1]));
    if MIXED {
        return [signed(first), signed(second)];
    }
    let half = vdupq_n_u8(128);
    [
        signed(veorq_u8(first, half)),
        signed(veorq_u8(second, half)),
    ]
}

/// The words of vector `q` of a line.
#[inline]
#[target_feature(enable = "neon")]
fn load(line: &Line, q: usize) -> uint32x4_t {
    let words = &line.0[q * LANES..][..LANES];
    // SAFETY: `words` are 16 bytes, and we hold a reference to them.
    unsafe { vld1q_u32(words.as_ptr()) }
}

/// The scales and biases of a group, of part `part` of the rows.
#[inline]
#[target_feature(enable = "neon")]
fn scales<const Q: usize>(
    kind: Scales,
    head: &[Line],
    part: usize,
) -> ([float32x4_t; Q], [float32x4_t; Q]) {
    let (mut scales, mut biases) = ([vdupq_n_f32(0.0); Q], [vdupq_n_f32(0.0); Q]);
    match kind {
        Scales::F32 => {
            for q in 0..Q {
                scales[q] = vreinterpretq_f32_u32(load(&head[0], part * Q + q));
                biases[q] = vreinterpretq_f32_u32(load(&head[1], part * Q + q));
            }
        }
        Scales::Bf16 => {
            for q in 0..Q {
                scales[q] = from_bf16(halves(&head[0], part * Q + q));
                biases[q] = from_bf16(halves(&head[0], LANES + part * Q + q));
            }
        }
        Scales::F16 => {
            for q in 0..Q {
                scales[q] = from_f16(halves(&head[0], part * Q + q));
                biases[q] = from_f16(halves(&head[0], LANES + part * Q + q));
            }
        }
    }
    (scales, biases)
}

/// Vector `q` of a line of halves.
#[inline]
#[target_feature(enable = "neon")]
fn halves(line: &Line, q: usize) -> uint16x4_t {
    let words = &line.0[q * LANES / 2..][..LANES / 2];
    // SAFETY: `words` are 8 bytes, and we hold a reference to them.
    vreinterpret_u16_u32(unsafe { vld1_u32(words.as_ptr()) })
}

/// Four `bf16` as `f32`, whose upper halves they are.
#[inline]
#[target_feature(enable = "neon")]
fn from_bf16(bits: uint16x4_t) -> float32x4_t {
    vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(bits)))
}

/// Four `f16` as `f32`, which holds them exactly.
#[inline]
#[target_feature(enable = "neon")]
fn from_f16(bits: uint16x4_t) -> float32x4_t {
    let values: float32x4_t;
    // SAFETY: reads and writes these registers and nothing else, with an
    // instruction of `neon`. In assembly for the reason that [`dot`] is.
    unsafe {
        asm!(
            "fcvtl {values:v}.4s, {bits:v}.4h",
            values = out(vreg) values,
            bits = in(vreg) bits,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    values
}
