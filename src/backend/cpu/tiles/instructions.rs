//! The instructions that products are made with: which there are, which of
//! them this machine has, and what each of them calls.

#![allow(unsafe_code)]

use std::sync::LazyLock;

use super::activations::{Rounded, Span};
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::out::Places;
use super::{TileRows, WIDTH, portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// `$body` with the number of a span's tokens as the constant `$t`.
macro_rules! by_count {
    ($count:expr, $t:ident => $body:block) => {
        match $count {
            1 => by_count!(@ $t = 1, $body),
            2 => by_count!(@ $t = 2, $body),
            3 => by_count!(@ $t = 3, $body),
            4 => by_count!(@ $t = 4, $body),
            5 => by_count!(@ $t = 5, $body),
            6 => by_count!(@ $t = 6, $body),
            7 => by_count!(@ $t = 7, $body),
            8 => by_count!(@ $t = 8, $body),
            MOST => by_count!(@ $t = MOST, $body),
            count => unreachable!("no span is of {count} tokens"),
        }
    };
    (@ $t:ident = $value:expr, $body:block) => {{
        const $t: usize = $value;
        $body
    }};
}
pub(super) use by_count;

/// The instructions that products are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instructions {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// With products of unsigned bytes with signed ones.
    #[cfg(target_arch = "aarch64")]
    NeonMixed,
}

/// The best of this machine.
pub(super) static BEST: LazyLock<Instructions> = LazyLock::new(|| {
    #[cfg(target_arch = "x86_64")]
    if avx512::is_there() {
        return Instructions::Avx512;
    } else if avx2::has_vnni() {
        return Instructions::AvxVnni;
    } else if avx2::is_there() {
        return Instructions::Avx2;
    }
    #[cfg(target_arch = "aarch64")]
    if neon::is_mixed_there() {
        return Instructions::NeonMixed;
    } else if neon::is_there() {
        return Instructions::Neon;
    }
    Instructions::Portable
});

impl Instructions {
    /// Puts the products of a tile with the `T` tokens of a span into `out`,
    /// which is of as many.
    #[inline]
    pub(super) fn multiply<const T: usize>(
        self,
        bits: usize,
        tile: &TileRows<'_>,
        x: &Rounded,
        span: Span,
        out: &mut Places<'_>,
    ) {
        let (chunks, factors) = x.of::<T>(span.first);
        match (self, bits) {
            (Self::Portable, 4) => out.put_all(&portable::multiply::<T, 4>(tile, chunks, factors)),
            (Self::Portable, _) => out.put_all(&portable::multiply::<T, 8>(tile, chunks, factors)),
            // SAFETY: these instructions are chosen where `is_there` says so.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, 4) => unsafe { avx2::multiply::<T, 4>(tile, chunks, factors, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, _) => unsafe { avx2::multiply::<T, 8>(tile, chunks, factors, out) },
            // SAFETY: these instructions are chosen where `has_vnni` says so.
            #[cfg(target_arch = "x86_64")]
            (Self::AvxVnni, 4) => unsafe {
                avx2::multiply_vnni::<T, 4>(tile, chunks, factors, out)
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Self::AvxVnni, _) => unsafe {
                avx2::multiply_vnni::<T, 8>(tile, chunks, factors, out)
            },
            // SAFETY: these instructions are chosen where `is_there` says so.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, 4) => unsafe { avx512::multiply::<T, 4>(tile, chunks, factors, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, _) => unsafe { avx512::multiply::<T, 8>(tile, chunks, factors, out) },
            // SAFETY: these instructions are chosen where `is_there` says so,
            // as it does wherever `is_mixed_there` does.
            #[cfg(target_arch = "aarch64")]
            (Self::Neon | Self::NeonMixed, 4) => unsafe {
                neon::multiply::<T, 4>(tile, chunks, factors, out)
            },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            (Self::Neon, _) => unsafe { neon::multiply::<T, 8>(tile, chunks, factors, out) },
            // SAFETY: these are chosen where `is_mixed_there` says so.
            #[cfg(target_arch = "aarch64")]
            (Self::NeonMixed, _) => unsafe {
                neon::multiply_mixed::<T>(tile, chunks, factors, out)
            },
        }
    }

    /// Puts what `act` makes of each token's products of a gate and of what is
    /// beside it into `out`, compiled for these instructions.
    pub(super) fn act(
        self,
        gate: &[[f32; WIDTH]],
        up: &[[f32; WIDTH]],
        act: &impl Fn(&mut [f32; WIDTH], &[f32; WIDTH]),
        out: &mut Places<'_>,
    ) {
        match self {
            Self::Portable => out.act(gate, up, act),
            // NEON is what all code of these machines is compiled for.
            #[cfg(target_arch = "aarch64")]
            Self::Neon | Self::NeonMixed => out.act(gate, up, act),
            // SAFETY: these instructions are chosen where `is_there` says so,
            // which is asked by `has_vnni`, too.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::AvxVnni => unsafe { avx2::act(gate, up, act, out) },
            // SAFETY: these instructions are chosen where `is_there` says so.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512::act(gate, up, act, out) },
        }
    }
}
