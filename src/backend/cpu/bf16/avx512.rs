//! Products by AVX512-BF16.

#![allow(unsafe_code)]
// Sums of several rows and tokens are walked by their indices.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::mem::transmute;

use super::{Bf16Rows, Line, Part, ROWS, RoundedBf16, STEP, TOKENS};

/// Whether this machine has the instructions.
pub(super) fn are_there() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16")
}

/// Rows that are multiplied with the same tokens.
struct Few<'a> {
    /// Where they begin; past the last row, that one again.
    rows: [*const u8; ROWS],
    /// The columns of a row's last step, a bit each.
    last: u32,
    /// Bytes to the rows that come next.
    ahead: usize,
    /// Whether those have yet to come from memory.
    fetch: bool,
    /// Steps of a row.
    steps: usize,
    /// The tokens' lines, one a step.
    x: &'a [Line],
}

/// Computes a part of a product.
///
/// # Safety
/// The instructions of [`are_there`] are, the part's rows are the matrix's and
/// its tokens those of `x`, and its room is the caller's.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn multiply(weights: &Bf16Rows, x: &RoundedBf16, part: Part) {
    assert!(part.rows.end <= weights.count && part.tokens.end <= x.tokens);
    assert_eq!(weights.columns, x.columns);
    // As evenly as it goes: each time, the rows are read anew.
    let times = part.tokens.len().div_ceil(TOKENS).max(1);
    let most = part.tokens.len().div_ceil(times).max(1);
    for first in part.tokens.clone().step_by(most) {
        let tokens = most.min(part.tokens.end - first);
        for row in part.rows.clone().step_by(ROWS) {
            let few = Few {
                rows: std::array::from_fn(|r| {
                    weights.row((row + r).min(part.rows.end - 1)).as_ptr()
                }),
                last: u32::MAX >> (x.steps() * STEP - weights.columns),
                ahead: 2 * ROWS * weights.columns,
                fetch: first == part.tokens.start,
                steps: x.steps(),
                x: x.lines_from(first),
            };
            let offset = (first - part.tokens.start) * part.stride + row - part.rows.start;
            let height = ROWS.min(part.rows.end - row);
            // SAFETY: these are the first of the part's tokens and rows that
            // are left. Rows and tokens are as long as `steps` and `last` say.
            unsafe {
                let out = part.out.add(offset);
                match tokens {
                    1 => few.times::<1>(out, part.stride, height),
                    2 => few.times::<2>(out, part.stride, height),
                    3 => few.times::<3>(out, part.stride, height),
                    4 => few.times::<4>(out, part.stride, height),
                    5 => few.times::<5>(out, part.stride, height),
                    _ => few.times::<TOKENS>(out, part.stride, height),
                }
            }
        }
    }
}

impl Few<'_> {
    /// Writes the products of the first `height` rows with `N` tokens, those
    /// of a token `stride` after those of the one before.
    ///
    /// # Safety
    /// As [`multiply`]; the rows are as long as `steps` and `last` say, and
    /// there is room for the products.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn times<const N: usize>(&self, out: *mut f32, stride: usize, height: usize) {
        assert!(self.x.len() >= N * self.steps);
        let x: [*const Line; N] = std::array::from_fn(|t| self.x[t * self.steps..].as_ptr());
        let mut sums = [[_mm512_setzero_ps(); N]; ROWS];
        for step in 0..self.steps {
            let mask = match step + 1 == self.steps {
                true => self.last,
                false => u32::MAX,
            };
            let mut weights = [_mm512_setzero_si512(); ROWS];
            for (r, weights) in weights.iter_mut().enumerate() {
                if self.fetch {
                    // Line after line: four streams come half as fast.
                    let next = self.ahead + 2 * STEP * (ROWS * step + r);
                    _mm_prefetch::<_MM_HINT_T2>(self.rows[0].wrapping_add(next).cast());
                }
                // SAFETY: of the last step only the columns that there are are
                // read.
                unsafe {
                    let here = self.rows[r].add(2 * STEP * step);
                    *weights = _mm512_maskz_loadu_epi16(mask, here.cast());
                }
            }
            for t in 0..N {
                // SAFETY: a token has as many lines as there are steps.
                let x = unsafe { _mm512_load_si512(x[t].add(step).cast()) };
                for r in 0..ROWS {
                    sums[r][t] = add(sums[r][t], weights[r], x);
                }
            }
        }
        for t in 0..N {
            let products = reduced(std::array::from_fn(|r| sums[r][t]));
            // SAFETY: only the first `height` are written.
            unsafe { _mm_mask_storeu_ps(out.add(t * stride), (1 << height) - 1, products) };
        }
    }
}

/// `sum` and, in each lane, the products of two pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn add(sum: __m512, weights: __m512i, x: __m512i) -> __m512 {
    // SAFETY: vectors of the same bits.
    let (weights, x) = unsafe {
        (
            transmute::<__m512i, __m512bh>(weights),
            transmute::<__m512i, __m512bh>(x),
        )
    };
    _mm512_dpbf16_ps(sum, weights, x)
}

/// The sums of four vectors' lanes, each taken in the same order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn reduced(sums: [__m512; ROWS]) -> __m128 {
    let [a, b, c, d] = sums.map(|sum| {
        let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(sum));
        let eight = _mm256_add_ps(_mm512_castps512_ps256(sum), _mm256_castpd_ps(high));
        _mm_add_ps(
            _mm256_castps256_ps128(eight),
            _mm256_extractf128_ps::<1>(eight),
        )
    });
    let ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
    let cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
    _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab))
}

/// [`super::activate`] by these instructions.
///
/// # Safety
/// They are there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn activate(
    gates: &mut [f32],
    ups: &[f32],
    activation: impl Fn(f32, f32) -> f32,
) {
    super::activate(gates, ups, activation);
}
