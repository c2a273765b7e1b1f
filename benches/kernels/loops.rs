//! Loops of independent multiply-accumulates, each by the best instruction
//! that the processor says it has, and how it is asked for memory. What they compute is thrown away.
//!
//! Accumulators begin as different values that the compiler does not know, or
//! it would keep one instead of many.

// Each function with instructions of its own is called by `limits` alone,
// through a `Loop` that is made behind the detection of those instructions.
#![allow(unsafe_code)]

use std::hint::black_box;

use super::limits::Loop;

/// Where there is no instruction to name: the compiler's best, as the program
/// is built.
const PORTABLE: &str = "portable";

/// Values in the portable loops' accumulators.
const WIDTH: usize = 64;

/// Asks for the memory at a place, which need not be there, where the processor
/// can be asked.
#[inline(always)]
pub(super) fn ask(place: *const u64) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: nothing is read: a place that is not there is left alone.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T2, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T2>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

pub(super) fn int8() -> Loop {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
            return x86::INT8_VNNI_512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni") {
            return x86::INT8_VNNI_256;
        }
        if is_x86_feature_detected!("avx2") {
            return x86::INT8_AVX2;
        }
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("dotprod") {
        return arm::INT8_DOT;
    }
    Loop {
        by: PORTABLE,
        macs: WIDTH as u64,
        run: portable_int8,
    }
}

pub(super) fn bf16() -> Loop {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") {
        return x86::BF16_512;
    }
    f32()
}

pub(super) fn f32() -> Loop {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return x86::F32_512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return x86::F32_256;
        }
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        return arm::F32_NEON;
    }
    Loop {
        by: PORTABLE,
        macs: WIDTH as u64,
        run: portable_f32,
    }
}

fn portable_int8(count: u64) {
    let mut sums: [i32; WIDTH] = black_box([1; WIDTH]);
    let mut a: [i16; WIDTH] = black_box([3; WIDTH]);
    let b: [i16; WIDTH] = black_box([5; WIDTH]);
    for _ in 0..count {
        for ((sum, a), b) in sums.iter_mut().zip(&mut a).zip(b) {
            *sum = sum.wrapping_add(i32::from(*a) * i32::from(b));
            *a ^= b;
        }
    }
    black_box(sums);
}

fn portable_f32(count: u64) {
    let mut sums: [f32; WIDTH] = black_box([1.0; WIDTH]);
    let a: [f32; WIDTH] = black_box([0.5; WIDTH]);
    for _ in 0..count {
        for (sum, a) in sums.iter_mut().zip(a) {
            *sum = *sum * a + a;
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::array::from_fn;
    use std::hint::black_box;

    use super::Loop;

    /// Accumulators: more than a product takes cycles times those begun in a
    /// cycle, and few enough to stay in registers.
    const MANY: usize = 12;

    /// Those of the loop that needs registers beside them.
    const FEW: usize = 6;

    pub(super) const INT8_VNNI_512: Loop = Loop {
        by: "AVX-512 VNNI",
        macs: 64 * MANY as u64,
        run: int8_vnni_512,
    };
    pub(super) const INT8_VNNI_256: Loop = Loop {
        by: "AVX-VNNI",
        macs: 32 * MANY as u64,
        run: int8_vnni_256,
    };
    pub(super) const INT8_AVX2: Loop = Loop {
        by: "AVX2",
        macs: 32 * FEW as u64,
        run: int8_avx2,
    };
    pub(super) const BF16_512: Loop = Loop {
        by: "AVX512-BF16",
        macs: 32 * MANY as u64,
        run: bf16_512,
    };
    pub(super) const F32_512: Loop = Loop {
        by: "AVX-512",
        macs: 16 * MANY as u64,
        run: f32_512,
    };
    pub(super) const F32_256: Loop = Loop {
        by: "FMA",
        macs: 8 * MANY as u64,
        run: f32_256,
    };

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn int8_vnni_512(count: u64) {
        let (a, b) = (
            _mm512_set1_epi8(black_box(3)),
            _mm512_set1_epi8(black_box(5)),
        );
        let mut sums: [__m512i; MANY] = from_fn(|i| _mm512_set1_epi32(black_box(i as i32)));
        for _ in 0..count {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2,avxvnni")]
    fn int8_vnni_256(count: u64) {
        let (a, b) = (
            _mm256_set1_epi8(black_box(3)),
            _mm256_set1_epi8(black_box(5)),
        );
        let mut sums: [__m256i; MANY] = from_fn(|i| _mm256_set1_epi32(black_box(i as i32)));
        for _ in 0..count {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
            }
        }
        black_box(sums);
    }

    /// Pairs to 16 bits, pairs of those to 32, and the sum. The left operand
    /// changes, or the first two would be taken out of the loop.
    #[target_feature(enable = "avx2")]
    fn int8_avx2(count: u64) {
        let mut a = _mm256_set1_epi8(black_box(3));
        let b: [__m256i; FEW] = from_fn(|i| _mm256_set1_epi8(black_box(i as i8)));
        let ones = _mm256_set1_epi16(black_box(1));
        let mut sums: [__m256i; FEW] = from_fn(|i| _mm256_set1_epi32(black_box(i as i32)));
        for _ in 0..count {
            for (sum, b) in sums.iter_mut().zip(b) {
                let pairs = _mm256_maddubs_epi16(a, b);
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
            a = _mm256_add_epi8(a, b[1]);
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn bf16_512(count: u64) {
        let half = _mm512_set1_ps(black_box(0.5));
        let half = _mm512_cvtne2ps_pbh(half, half);
        let mut sums: [__m512; MANY] = from_fn(|i| _mm512_set1_ps(black_box(i as f32)));
        for _ in 0..count {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, half, half);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    fn f32_512(count: u64) {
        let half = _mm512_set1_ps(black_box(0.5));
        let mut sums: [__m512; MANY] = from_fn(|i| _mm512_set1_ps(black_box(i as f32)));
        for _ in 0..count {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, half, half);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2,fma")]
    fn f32_256(count: u64) {
        let half = _mm256_set1_ps(black_box(0.5));
        let mut sums: [__m256; MANY] = from_fn(|i| _mm256_set1_ps(black_box(i as f32)));
        for _ in 0..count {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, half, half);
            }
        }
        black_box(sums);
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;
    use std::arch::asm;
    use std::array::from_fn;
    use std::hint::black_box;

    use super::Loop;

    /// Accumulators: four pipes of four cycles, and some.
    const MANY: usize = 20;

    pub(super) const INT8_DOT: Loop = Loop {
        by: "NEON dot product",
        macs: 16 * MANY as u64,
        run: int8_dot,
    };
    pub(super) const F32_NEON: Loop = Loop {
        by: "NEON",
        macs: 4 * MANY as u64,
        run: f32_neon,
    };

    #[target_feature(enable = "neon,dotprod")]
    fn int8_dot(count: u64) {
        let (a, b) = (vdupq_n_s8(black_box(3)), vdupq_n_s8(black_box(5)));
        let mut sums: [int32x4_t; MANY] = from_fn(|i| vdupq_n_s32(black_box(i as i32)));
        for _ in 0..count {
            for sum in &mut sums {
                // SAFETY: the instruction, which has no stable intrinsic in
                // the oldest compiler this builds with, reads and writes the
                // three named registers alone, and the function is compiled
                // for it.
                unsafe {
                    asm!(
                        "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
                        sum = inout(vreg) *sum,
                        a = in(vreg) a,
                        b = in(vreg) b,
                        options(pure, nomem, nostack, preserves_flags)
                    );
                }
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "neon")]
    fn f32_neon(count: u64) {
        let half = vdupq_n_f32(black_box(0.5));
        let mut sums: [float32x4_t; MANY] = from_fn(|i| vdupq_n_f32(black_box(i as f32)));
        for _ in 0..count {
            for sum in &mut sums {
                *sum = vfmaq_f32(*sum, half, half);
            }
        }
        black_box(sums);
    }
}
