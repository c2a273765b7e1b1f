//! Vectors of x86: AVX-512, and AVX2 with FMA and F16C.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use half::f16;

use super::{LARGEST, Machine, SIDE, Square, Work};

/// Sixteen lanes. Exists only where [`has_avx512`] says so.
#[derive(Clone, Copy)]
struct Avx512(());

/// Eight lanes. Exists only where [`has_avx2`] says so.
#[derive(Clone, Copy)]
struct Avx2(());

pub(super) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && has_avx2()
}

pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

pub(super) fn run_avx512<W: Work>(work: W) -> W::Output {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    fn run<W: Work>(work: W) -> W::Output {
        work.run(Avx512(()))
    }
    assert!(has_avx512(), "AVX-512 is chosen where it is");
    // SAFETY: the instructions are there, as just asserted.
    unsafe { run(work) }
}

pub(super) fn run_avx2<W: Work>(work: W) -> W::Output {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn run<W: Work>(work: W) -> W::Output {
        work.run(Avx2(()))
    }
    assert!(has_avx2(), "AVX2 is chosen where it is");
    // SAFETY: the instructions are there, as just asserted.
    unsafe { run(work) }
}

/// Methods that are one instruction or two.
macro_rules! instructions {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty { $instructions:expr })*) => {$(
        #[inline(always)]
        fn $name(self, $($argument: $type),*) -> $result {
            // SAFETY: `self` exists only where the instructions do.
            unsafe { $instructions }
        }
    )*};
}

impl Machine for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const IS_ROOMY: bool = true;

    instructions! {
        splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
        add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        mul_add(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        if_less(a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes)
        }
        scaled(x: __m512, shifted: __m512) -> __m512 {
            _mm512_mul_ps(x, _mm512_castsi512_ps(_mm512_slli_epi32::<23>(
                _mm512_add_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(127)),
            )))
        }
    }

    #[inline(always)]
    unsafe fn load_at(self, x: *const f32) -> __m512 {
        // SAFETY: 16 numbers are there, as the caller says.
        unsafe { x.cast::<__m512>().read_unaligned() }
    }

    #[inline(always)]
    fn store(self, out: &mut [f32], x: __m512) {
        let out = &mut out[..16];
        // SAFETY: these are 16 numbers.
        unsafe { out.as_mut_ptr().cast::<__m512>().write_unaligned(x) };
    }

    #[inline(always)]
    unsafe fn widen_at(self, x: *const f16) -> __m512 {
        // SAFETY: 16 numbers are there, as the caller says, and `self` exists
        // only where the instructions do.
        unsafe { _mm512_cvtph_ps(x.cast::<__m256i>().read_unaligned()) }
    }

    #[inline(always)]
    fn narrow(self, out: &mut [f16], x: __m512) {
        let out = &mut out[..16];
        // SAFETY: these are as many numbers, and `self` exists only where the
        // instructions do. Of two of which one is not a number, the larger and
        // the smaller are the second one.
        unsafe {
            let x = _mm512_max_ps(_mm512_set1_ps(-LARGEST), x);
            let x = _mm512_min_ps(_mm512_set1_ps(LARGEST), x);
            let x = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
            _mm256_storeu_si256(out.as_mut_ptr().cast(), x);
        }
    }

    #[inline(always)]
    fn transpose(self, block: &mut Square) {
        // SAFETY: `self` exists only where the instructions do.
        unsafe { transpose_avx512(block) };
    }

    #[inline(always)]
    fn prefetch<T>(self, place: *const T) {
        // SAFETY: a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T2>(place.cast()) };
    }
}

/// [`Machine::transpose`]: four by four, then these blocks.
///
/// Asks for `avx512f`.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_avx512(block: &mut Square) {
    let mut rows = [_mm512_setzero_ps(); SIDE];
    for (row, from) in rows.iter_mut().zip(&block.0) {
        // SAFETY: a row is 16 numbers.
        *row = unsafe { _mm512_loadu_ps(from.as_ptr()) };
    }
    for four in rows.as_chunks_mut::<4>().0 {
        let low = _mm512_castps_pd(_mm512_unpacklo_ps(four[0], four[1]));
        let high = _mm512_castps_pd(_mm512_unpackhi_ps(four[0], four[1]));
        let low_below = _mm512_castps_pd(_mm512_unpacklo_ps(four[2], four[3]));
        let high_below = _mm512_castps_pd(_mm512_unpackhi_ps(four[2], four[3]));
        four[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, low_below));
        four[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, low_below));
        four[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, high_below));
        four[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, high_below));
    }
    // Now block `b` of row `4 g + c` has rows `4 g..` of column `4 b + c`.
    for c in 0..4 {
        let even = _mm512_shuffle_f32x4::<0x88>(rows[c], rows[4 + c]);
        let odd = _mm512_shuffle_f32x4::<0xdd>(rows[c], rows[4 + c]);
        let even_below = _mm512_shuffle_f32x4::<0x88>(rows[8 + c], rows[12 + c]);
        let odd_below = _mm512_shuffle_f32x4::<0xdd>(rows[8 + c], rows[12 + c]);
        let columns = [
            _mm512_shuffle_f32x4::<0x88>(even, even_below),
            _mm512_shuffle_f32x4::<0x88>(odd, odd_below),
            _mm512_shuffle_f32x4::<0xdd>(even, even_below),
            _mm512_shuffle_f32x4::<0xdd>(odd, odd_below),
        ];
        for (b, column) in columns.into_iter().enumerate() {
            let place: &mut [f32; SIDE] = &mut block.0[4 * b + c];
            // SAFETY: 16 numbers.
            unsafe { _mm512_storeu_ps(place.as_mut_ptr(), column) };
        }
    }
}

impl Machine for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const IS_ROOMY: bool = false;

    instructions! {
        splat(x: f32) -> __m256 { _mm256_set1_ps(x) }
        add(a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
        sub(a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
        mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        mul_add(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        max(a: __m256, b: __m256) -> __m256 { _mm256_max_ps(a, b) }
        if_less(a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
            _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
        }
        scaled(x: __m256, shifted: __m256) -> __m256 {
            _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(
                _mm256_add_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(127)),
            )))
        }
    }

    #[inline(always)]
    unsafe fn load_at(self, x: *const f32) -> __m256 {
        // SAFETY: 8 numbers are there, as the caller says.
        unsafe { x.cast::<__m256>().read_unaligned() }
    }

    #[inline(always)]
    fn store(self, out: &mut [f32], x: __m256) {
        let out = &mut out[..8];
        // SAFETY: these are 8 numbers.
        unsafe { out.as_mut_ptr().cast::<__m256>().write_unaligned(x) };
    }

    #[inline(always)]
    unsafe fn widen_at(self, x: *const f16) -> __m256 {
        // SAFETY: 8 numbers are there, as the caller says, and `self` exists
        // only where the instructions do.
        unsafe { _mm256_cvtph_ps(x.cast::<__m128i>().read_unaligned()) }
    }

    #[inline(always)]
    fn narrow(self, out: &mut [f16], x: __m256) {
        let out = &mut out[..8];
        // SAFETY: these are as many numbers, and `self` exists only where the
        // instructions do. Of two of which one is not a number, the larger and
        // the smaller are the second one.
        unsafe {
            let x = _mm256_max_ps(_mm256_set1_ps(-LARGEST), x);
            let x = _mm256_min_ps(_mm256_set1_ps(LARGEST), x);
            let x = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
            _mm_storeu_si128(out.as_mut_ptr().cast(), x);
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, place: *const T) {
        // SAFETY: a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T2>(place.cast()) };
    }
}
