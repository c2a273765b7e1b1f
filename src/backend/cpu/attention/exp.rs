//! Exponentials, by operations that go into vectors. Knows nothing of what
//! they are for.

use super::vectors::Machine;

/// Added to a small number, it leaves the nearest whole one in the last bits:
/// 1.5 * 2^23.
const ROUND: f32 = 12_582_912.0;

/// `e^x` for `x <= 0` to within some units of the last place, by operations
/// that the compiler can vectorize: `2^n e^r` with `|r| <= ln 2 / 2`, the
/// latter by its Taylor series.
#[inline(always)]
pub(in crate::backend::cpu) fn exp(x: f32) -> f32 {
    // ln 2 in two parts, the first one with few bits.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut sum = 1.0 / 5040.0;
    for factor in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        sum = sum * r + factor;
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127).wrapping_shl(23));
    if x < -87.0 { 0.0 } else { sum * power }
}

/// By way of [`exp`]: to within some units of the last place of 1.
#[inline(always)]
pub(in crate::backend::cpu) fn tanh(x: f32) -> f32 {
    let e = exp(-2.0 * x.abs());
    ((1.0 - e) / (1.0 + e)).copysign(x)
}

/// `2^r` for `|r| <= 1/2` to within 3e-9, where it goes through a polynomial's
/// nodes: highest power first.
const POWERS: [f32; 7] = [
    1.546_144_5e-4,
    1.340_042_8e-3,
    9.618_057e-3,
    5.550_327e-2,
    2.402_265e-1,
    6.931_472e-1,
    1.0,
];

/// `2^x` for `x <= 0` to within some units of the last place; 0 below 2^-125.
#[inline(always)]
pub(super) fn exp2<M: Machine>(m: M, x: M::V) -> M::V {
    let round = m.splat(ROUND);
    let shifted = m.add(x, round);
    let r = m.sub(x, m.sub(shifted, round));
    let mut sum = m.splat(POWERS[0]);
    for factor in &POWERS[1..] {
        sum = m.mul_add(sum, r, m.splat(*factor));
    }
    let power = m.scaled(sum, shifted);
    m.if_less(x, m.splat(-125.0), m.splat(0.0), power)
}

#[cfg(test)]
mod tests {
    use super::super::vectors::{Instructions, Work};
    use super::*;

    #[test]
    fn exp_is_right_to_a_few_units_of_the_last_place() {
        for step in 0..=870_000 {
            let x = -(step as f32) / 10_000.0;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(
                error < 4.0 * f64::from(f32::EPSILON),
                "e^{x}: off by {error}"
            );
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    struct Exp2(f32);

    impl Work for Exp2 {
        type Output = f32;

        #[inline(always)]
        fn run<M: Machine>(self, m: M) -> f32 {
            let mut out = [0.0; 16];
            m.store(&mut out, exp2(m, m.splat(self.0)));
            out[M::LANES - 1]
        }
    }

    #[test]
    fn exp2_is_right_to_a_few_units_of_the_last_place_with_all_instructions() {
        for by in Instructions::all() {
            for step in 0..=125_000 {
                let x = -(step as f32) / 1_000.0;
                let expected = f64::from(x).exp2();
                let error = (f64::from(by.run(Exp2(x))) - expected).abs() / expected;
                assert!(
                    error < 2.0 * f64::from(f32::EPSILON),
                    "2^{x}: off by {error}"
                );
            }
            assert_eq!(by.run(Exp2(0.0)), 1.0);
            assert_eq!(by.run(Exp2(-126.0)), 0.0);
            assert_eq!(by.run(Exp2(f32::MIN)), 0.0);
            assert_eq!(by.run(Exp2(f32::NEG_INFINITY)), 0.0);
            assert!(by.run(Exp2(f32::NAN)).is_nan());
        }
    }
}
