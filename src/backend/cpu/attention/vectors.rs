//! The vectors that attention is made of: AVX-512, AVX2 with F16C, and
//! elsewhere what `pulp` has (NEON, or one number at a time). Knows nothing of
//! attention.

#![allow(unsafe_code)]

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::LazyLock;

use half::f16;

/// The largest number of 16 bits.
const LARGEST: f32 = 65_504.0;

/// The longest vectors have so many elements.
pub(super) const SIDE: usize = 16;

/// A square of numbers.
#[repr(align(64))]
pub(super) struct Square(pub(super) [[f32; SIDE]; SIDE]);

/// A machine's vectors of `f32`. Whoever has one may use its instructions.
pub(super) trait Machine: Copy {
    /// A vector.
    type V: Copy;
    /// Its elements: divides 16.
    const LANES: usize;
    /// Whether there are 32 registers, not 16.
    const IS_ROOMY: bool;

    fn splat(self, x: f32) -> Self::V;

    /// The [`Self::LANES`] numbers at `x`.
    ///
    /// # Safety
    /// They are there.
    unsafe fn load_at(self, x: *const f32) -> Self::V;

    /// The [`Self::LANES`] numbers at `x`.
    ///
    /// # Safety
    /// They are there.
    unsafe fn widen_at(self, x: *const f16) -> Self::V;

    /// Into the first [`Self::LANES`] of `out`, which has as many.
    fn store(self, out: &mut [f32], x: Self::V);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;

    fn sub(self, a: Self::V, b: Self::V) -> Self::V;

    fn mul(self, a: Self::V, b: Self::V) -> Self::V;

    /// `a * b + c`.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;

    /// The larger of the two; where one is not a number, either.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;

    /// `yes` where `a < b`, else `no`.
    fn if_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;

    /// `x * 2^n` for `x` from 1/2 to 2 and `n` from -125 to 0, the last bits
    /// of `shifted`. Not a number if `x` is not.
    fn scaled(self, x: Self::V, shifted: Self::V) -> Self::V;

    /// Into the first [`Self::LANES`] of `out`, which has as many: the nearest
    /// there are, the largest for what is beyond.
    fn narrow(self, out: &mut [f16], x: Self::V);

    /// Asks for a line that is to be read, into the second cache: of what is on
    /// its way to the first one there can be less at a time than memory is far
    /// away. Any address will do.
    fn prefetch<T>(self, place: *const T);

    /// Rows become columns.
    #[inline(always)]
    fn transpose(self, block: &mut Square) {
        for row in 1..SIDE {
            for column in 0..row {
                let (a, b) = (block.0[row][column], block.0[column][row]);
                (block.0[row][column], block.0[column][row]) = (b, a);
            }
        }
    }

    /// The first [`Self::LANES`] of `x`, which has as many.
    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::V {
        let x = &x[..Self::LANES];
        // SAFETY: there are as many.
        unsafe { self.load_at(x.as_ptr()) }
    }

    /// The first [`Self::LANES`] of `x`, which has as many.
    #[inline(always)]
    fn widen(self, x: &[f16]) -> Self::V {
        let x = &x[..Self::LANES];
        // SAFETY: there are as many.
        unsafe { self.widen_at(x.as_ptr()) }
    }

    /// What `f` makes of each element.
    #[inline(always)]
    fn each(self, x: Self::V, f: impl Fn(f32) -> f32) -> Self::V {
        let mut elements = [0.0; 16];
        let elements = &mut elements[..Self::LANES];
        self.store(elements, x);
        for x in elements.iter_mut() {
            *x = f(*x);
        }
        self.load(elements)
    }
}

/// Something to do with a machine's vectors.
pub(super) trait Work {
    /// What comes of it.
    type Output;

    /// Does it. To be inlined always, with all that uses vectors.
    fn run<M: Machine>(self, m: M) -> Self::Output;
}

/// The instructions there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instructions {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

static BEST: LazyLock<Instructions> = LazyLock::new(|| {
    #[cfg(target_arch = "x86_64")]
    if x86::has_avx512() {
        return Instructions::Avx512;
    } else if x86::has_avx2() {
        return Instructions::Avx2;
    }
    Instructions::Portable
});

impl Instructions {
    /// The best of this machine.
    pub(super) fn best() -> Self {
        *BEST
    }

    /// Does `work`. Where this is not of [`Self::best`], it must be one that
    /// the machine has.
    #[inline]
    pub(super) fn run<W: Work>(self, work: W) -> W::Output {
        match self {
            Self::Portable => portable::run(work),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::run_avx2(work),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => x86::run_avx512(work),
        }
    }

    /// All that this machine has.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        let all = [
            Some(Self::Portable),
            #[cfg(target_arch = "x86_64")]
            x86::has_avx2().then_some(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            x86::has_avx512().then_some(Self::Avx512),
        ];
        all.into_iter().flatten().collect()
    }
}
