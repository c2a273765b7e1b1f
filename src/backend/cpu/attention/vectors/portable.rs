//! Vectors of machines that `x86` has nothing for: those of `pulp`, which on
//! ARM are NEON's, and half-precision numbers by operations that the compiler
//! can vectorize.

#![allow(unsafe_code)]

use half::f16;
use pulp::{Simd, WithSimd};

use super::{LARGEST, Machine, Work};

/// `pulp`'s vectors.
#[derive(Clone, Copy)]
struct Pulp<S>(S);

/// Does `work` with this machine's vectors, or on x86 with one number at a
/// time.
pub(super) fn run<W: Work>(work: W) -> W::Output {
    struct With<W>(W);
    impl<W: Work> WithSimd for With<W> {
        type Output = W::Output;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> W::Output {
            self.0.run(Pulp(simd))
        }
    }
    let work = With(work);
    if cfg!(target_arch = "x86_64") {
        work.with_simd(pulp::Scalar)
    } else {
        pulp::Arch::new().dispatch(work)
    }
}

/// A half-precision number.
#[inline(always)]
fn to_f32(x: f16) -> f32 {
    let bits = x.to_bits();
    let (bits, sign) = (u32::from(bits & 0x7fff), u32::from(bits >> 15) << 31);
    // The exponent's bias is 15 there and 127 here.
    let finite = f32::from_bits(bits << 13) * f32::from_bits((127 + 112) << 23);
    // Infinity and NaN keep their largest exponent.
    let special = if bits >= 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(finite.to_bits() | special | sign)
}

/// The nearest half-precision number, of two the even one, of a number up to
/// [`LARGEST`] or of what is not one.
#[inline(always)]
fn to_f16(x: f32) -> f16 {
    /// Its last bit is worth as much as that of the smallest halves.
    const SMALL: u32 = (127 - 15 + 23 - 10 + 1) << 23;
    let bits = x.to_bits() & 0x7fff_ffff;
    let sign = (x.to_bits() >> 16 & 0x8000) as u16;
    let small = (f32::from_bits(bits) + f32::from_bits(SMALL))
        .to_bits()
        .wrapping_sub(SMALL);
    // Half of what is cut off is added, or just less than that to even ones.
    let even = bits >> 13 & 1;
    let large = bits
        .wrapping_sub((127 - 15) << 23)
        .wrapping_add(0xfff + even)
        >> 13;
    let half = if bits < (127 - 14) << 23 {
        small
    } else {
        large
    };
    let half = if bits > 0x7f80_0000 { 0x7e00 } else { half };
    f16::from_bits(half as u16 | sign)
}

impl<S: Simd> Machine for Pulp<S> {
    type V = S::f32s;
    const LANES: usize = S::F32_LANES;
    const IS_ROOMY: bool = true;

    #[inline(always)]
    fn splat(self, x: f32) -> S::f32s {
        self.0.splat_f32s(x)
    }

    #[inline(always)]
    unsafe fn load_at(self, x: *const f32) -> S::f32s {
        // SAFETY: as many numbers as a vector has are there, as the caller
        // says, and a vector is no more than these.
        unsafe { x.cast::<S::f32s>().read_unaligned() }
    }

    #[inline(always)]
    fn store(self, out: &mut [f32], x: S::f32s) {
        S::as_mut_simd_f32s(out).0[0] = x;
    }

    #[inline(always)]
    fn add(self, a: S::f32s, b: S::f32s) -> S::f32s {
        self.0.add_f32s(a, b)
    }

    #[inline(always)]
    fn sub(self, a: S::f32s, b: S::f32s) -> S::f32s {
        self.0.sub_f32s(a, b)
    }

    #[inline(always)]
    fn mul(self, a: S::f32s, b: S::f32s) -> S::f32s {
        self.0.mul_f32s(a, b)
    }

    #[inline(always)]
    fn mul_add(self, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
        self.0.mul_add_e_f32s(a, b, c)
    }

    #[inline(always)]
    fn max(self, a: S::f32s, b: S::f32s) -> S::f32s {
        self.0.max_f32s(a, b)
    }

    #[inline(always)]
    fn if_less(self, a: S::f32s, b: S::f32s, yes: S::f32s, no: S::f32s) -> S::f32s {
        self.0.select_f32s(self.0.less_than_f32s(a, b), yes, no)
    }

    #[inline(always)]
    fn scaled(self, x: S::f32s, shifted: S::f32s) -> S::f32s {
        let simd = self.0;
        let bits = simd.transmute_u32s_f32s(shifted);
        let exponent = simd.wrapping_dyn_shl_u32s(
            simd.add_u32s(bits, simd.splat_u32s(127)),
            simd.splat_u32s(23),
        );
        simd.mul_f32s(x, simd.transmute_f32s_u32s(exponent))
    }

    #[inline(always)]
    unsafe fn widen_at(self, x: *const f16) -> S::f32s {
        // SAFETY: as many numbers as a vector has are there, as the caller
        // says.
        let x = unsafe { std::slice::from_raw_parts(x, S::F32_LANES) };
        let mut wide = [0.0; 16];
        for (wide, x) in wide.iter_mut().zip(x) {
            *wide = to_f32(*x);
        }
        self.load(&wide[..S::F32_LANES])
    }

    #[inline(always)]
    fn narrow(self, out: &mut [f16], x: S::f32s) {
        let mut wide = [0.0; 16];
        self.store(&mut wide[..S::F32_LANES], x);
        for (out, x) in out[..S::F32_LANES].iter_mut().zip(wide) {
            // What is not a number stays that.
            *out = to_f16(x.clamp(-LARGEST, LARGEST));
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, _: *const T) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_what_they_should_be() {
        for bits in 0..=u16::MAX {
            let half = f16::from_bits(bits);
            if half.is_nan() {
                assert!(to_f32(half).is_nan());
                continue;
            }
            assert_eq!(to_f32(half).to_bits(), half.to_f32().to_bits());
            if half.is_infinite() {
                continue;
            }
            // It, and all that is near it and half way to the next.
            let x = half.to_f32().to_bits();
            for x in [-8193, -4097, -4096, -4095, -1, 0, 1, 4095, 4096, 4097, 8193] {
                let x = f32::from_bits((half.to_f32().to_bits()).wrapping_add_signed(x));
                if x.abs() <= LARGEST {
                    assert_eq!(to_f16(x).to_bits(), f16::from_f32(x).to_bits(), "{x}");
                }
            }
            for x in [x.wrapping_sub(1), x.wrapping_add(1)] {
                let x = f32::from_bits(x);
                let between = (half.to_f32() + x) / 2.0;
                if between.abs() <= LARGEST {
                    let expected = f16::from_f32(between);
                    assert_eq!(to_f16(between).to_bits(), expected.to_bits());
                }
            }
        }
        assert!(to_f16(f32::NAN).is_nan());
    }
}
