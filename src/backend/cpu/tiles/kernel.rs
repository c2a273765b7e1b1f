//! Products of tiles with rounded activations, by the best instructions there
//! are. All of them give the same bits: integer products are exact, and what
//! is rounded is rounded in one order. Knows no layers: what is made of a gate
//! and what it opens is told by the caller.

#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::LazyLock;

use super::activations::{MOST, Rounded, Span};
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::shared::Shared;
use super::{TileRows, Tiles, WIDTH, portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::backend::threads::Threads;

/// Bytes of activations that a thread multiplies with all of its tiles before
/// it takes the next ones: what stays in the second cache while tiles pass
/// through it.
const BLOCK: usize = 256 << 10;

/// So many matrices are multiplied together, and no more.
const TOGETHER: usize = 4;

/// The products of a tile with a span's tokens.
type Products = [[f32; WIDTH]; MOST];

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
static BEST: LazyLock<Instructions> = LazyLock::new(|| {
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

/// Whether this machine has instructions with which integer products are
/// faster than those of `f32`.
pub(in super::super) fn are_fast() -> bool {
    *BEST != Instructions::Portable
}

/// The products of `x` with each of `weights`, transposed: of each,
/// `[T, count]` into its place in `outs`.
///
/// # Panics
///
/// If the matrices are not of the columns and groups that `x` was rounded in,
/// or an output is not as long as its products.
pub(in super::super) fn project(
    threads: &Threads,
    weights: &[&Tiles],
    x: &Rounded,
    outs: &mut [&mut [f32]],
) {
    project_by(*BEST, threads, weights, x, outs);
}

/// The products of `x` with `gate` and `up`, transposed, made one by `act`: it
/// is given sixteen rows of a token at a time and leaves what is to be written
/// in the place of the gate's. `out` is `[T, count]`.
///
/// `act` is compiled for the instructions of the products if it is inlined.
///
/// # Panics
///
/// As [`project`], and if the two matrices are not of as many rows.
pub(in super::super) fn project_gated(
    threads: &Threads,
    gate: &Tiles,
    up: &Tiles,
    x: &Rounded,
    out: &mut [f32],
    act: impl Fn(&mut [f32; WIDTH], &[f32; WIDTH]) + Sync,
) {
    project_gated_by(*BEST, threads, gate, up, x, out, act);
}

pub(super) fn project_by(
    by: Instructions,
    threads: &Threads,
    weights: &[&Tiles],
    x: &Rounded,
    outs: &mut [&mut [f32]],
) {
    assert_eq!(weights.len(), outs.len(), "an output for each matrix");
    for (weights, outs) in weights.chunks(TOGETHER).zip(outs.chunks_mut(TOGETHER)) {
        let mut shared: [Option<Out<'_>>; TOGETHER] = [const { None }; TOGETHER];
        for ((shared, weights), out) in shared.iter_mut().zip(weights).zip(outs) {
            *shared = Some(Out::new(weights, x, out));
        }
        let tiles = weights.iter().map(|weights| weights.tiles()).sum();
        for_each_tile(threads, tiles, x, |mut tile, spans| {
            for (weights, out) in weights.iter().zip(shared.iter().flatten()) {
                if tile < weights.tiles() {
                    let rows = weights.tile(tile);
                    let mut products = [[0.0; WIDTH]; MOST];
                    for span in spans {
                        let span = x.span(span);
                        by.multiply(weights.bits, &rows, x, span, &mut products);
                        // SAFETY: each call has a tile of its own, or spans.
                        unsafe { out.put(tile, span, &products) };
                    }
                    return;
                }
                tile -= weights.tiles();
            }
        });
    }
}

pub(super) fn project_gated_by(
    by: Instructions,
    threads: &Threads,
    gate: &Tiles,
    up: &Tiles,
    x: &Rounded,
    out: &mut [f32],
    act: impl Fn(&mut [f32; WIDTH], &[f32; WIDTH]) + Sync,
) {
    assert_eq!(
        gate.count, up.count,
        "a row of the one for each of the other"
    );
    check(up, x);
    let out = Out::new(gate, x, out);
    for_each_tile(threads, gate.tiles(), x, |tile, spans| {
        let (gate_rows, up_rows) = (gate.tile(tile), up.tile(tile));
        let mut products = [[0.0; WIDTH]; MOST];
        let mut others = [[0.0; WIDTH]; MOST];
        for span in spans {
            let span = x.span(span);
            by.multiply(gate.bits, &gate_rows, x, span, &mut products);
            by.multiply(up.bits, &up_rows, x, span, &mut others);
            by.act(&mut products[..span.count], &others[..span.count], &act);
            // SAFETY: each call has a tile of its own, or spans.
            unsafe { out.put(tile, span, &products) };
        }
    });
}

/// Whether `weights` are of the columns and groups that `x` was rounded in.
fn check(weights: &Tiles, x: &Rounded) {
    assert_eq!(weights.columns, x.columns(), "columns");
    assert_eq!(weights.group_size, x.group_size(), "columns of a group");
}

/// Products being written, `[T, count]`, of each tile by one thread.
struct Out<'a> {
    all: Shared<'a, f32>,
    count: usize,
}

impl<'a> Out<'a> {
    fn new(weights: &Tiles, x: &Rounded, out: &'a mut [f32]) -> Self {
        check(weights, x);
        assert_eq!(out.len(), x.tokens() * weights.count, "products");
        Self {
            all: Shared::new(out),
            count: weights.count,
        }
    }

    /// Writes the products of a tile with a span.
    ///
    /// # Safety
    ///
    /// No two calls that run at a time are of the same tile and of spans that
    /// have a token in common.
    #[inline]
    unsafe fn put(&self, tile: usize, span: Span, products: &Products) {
        let first = tile * WIDTH;
        let rows = WIDTH.min(self.count - first);
        for (token, products) in (span.first..).zip(&products[..span.count]) {
            let place = token * self.count + first;
            // SAFETY: a tile's rows of a token are in no other tile's or
            // token's places, and the caller answers for its tiles and spans.
            let out = unsafe { self.all.part(place..place + rows) };
            match out.first_chunk_mut() {
                Some(out) => *out = *products,
                None => out.copy_from_slice(&products[..rows]),
            }
        }
    }
}

/// Calls `multiply` with each of `tiles` tiles and all spans of `x`, some at a
/// time: each tile and span once, by one thread.
fn for_each_tile(
    threads: &Threads,
    tiles: usize,
    x: &Rounded,
    multiply: impl Fn(usize, Range<usize>) + Sync,
) {
    let spans = x.spans();
    if spans == 0 || tiles == 0 {
        return;
    }
    let blocks = spans.div_ceil((BLOCK / (MOST * x.columns())).max(1));
    let per_block = spans.div_ceil(blocks);
    let pieces = Pieces {
        all: tiles * blocks,
        threads: threads.count(),
    };
    threads.for_each(pieces.count(), |piece| {
        for place in pieces.get(piece) {
            let first = place / tiles * per_block;
            multiply(place % tiles, first..spans.min(first + per_block));
        }
    });
}

/// Work shared out so that threads finish together and yet read long runs of
/// what lies side by side: in each round every thread has a piece, half of
/// what would be its share of all that is left.
#[derive(Clone, Copy)]
struct Pieces {
    all: usize,
    threads: usize,
}

impl Pieces {
    /// Each round: where it begins and the size of its pieces. In the last
    /// one they are single, and as many as there are.
    fn rounds(self) -> impl Iterator<Item = (usize, usize)> {
        let mut first = 0;
        std::iter::from_fn(move || {
            let left = self.all - first;
            let size = match self.threads {
                1 => left,
                threads => (left / (2 * threads)).max(1),
            };
            let round = (left > 0).then_some((first, size));
            first += match size {
                1 => left,
                _ => size * self.threads,
            };
            round
        })
    }

    fn count(self) -> usize {
        let counts = self.rounds().map(|(first, size)| match size {
            1 => self.all - first,
            _ => self.threads,
        });
        counts.sum()
    }

    fn get(self, piece: usize) -> Range<usize> {
        let mut found = 0..0;
        for (round, (first, size)) in self.rounds().enumerate() {
            if round * self.threads > piece {
                break;
            }
            let first = first + (piece - round * self.threads) * size;
            found = first..first + size;
        }
        found
    }
}

impl Instructions {
    /// The products of a tile with a span's tokens.
    fn multiply(
        self,
        bits: usize,
        tile: &TileRows<'_>,
        x: &Rounded,
        span: Span,
        into: &mut Products,
    ) {
        match span.count {
            1 => self.with::<1>(bits, tile, x, span, into),
            2 => self.with::<2>(bits, tile, x, span, into),
            3 => self.with::<3>(bits, tile, x, span, into),
            4 => self.with::<4>(bits, tile, x, span, into),
            5 => self.with::<5>(bits, tile, x, span, into),
            6 => self.with::<6>(bits, tile, x, span, into),
            7 => self.with::<7>(bits, tile, x, span, into),
            8 => self.with::<8>(bits, tile, x, span, into),
            MOST => self.with::<MOST>(bits, tile, x, span, into),
            _ => unreachable!("no span is of {} tokens", span.count),
        }
    }

    #[inline]
    fn with<const T: usize>(
        self,
        bits: usize,
        tile: &TileRows<'_>,
        x: &Rounded,
        span: Span,
        into: &mut Products,
    ) {
        let (chunks, factors) = x.of::<T>(span.first);
        let products = match (self, bits) {
            (Self::Portable, 4) => portable::multiply::<T, 4>(tile, chunks, factors),
            (Self::Portable, _) => portable::multiply::<T, 8>(tile, chunks, factors),
            // SAFETY: these instructions are chosen where `is_there` says so.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, 4) => unsafe { avx2::multiply::<T, 4>(tile, chunks, factors) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, _) => unsafe { avx2::multiply::<T, 8>(tile, chunks, factors) },
            // SAFETY: these instructions are chosen where `has_vnni` says so.
            #[cfg(target_arch = "x86_64")]
            (Self::AvxVnni, 4) => unsafe { avx2::multiply_vnni::<T, 4>(tile, chunks, factors) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Self::AvxVnni, _) => unsafe { avx2::multiply_vnni::<T, 8>(tile, chunks, factors) },
            // SAFETY: these instructions are chosen where `is_there` says so.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, 4) => unsafe { avx512::multiply::<T, 4>(tile, chunks, factors) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, _) => unsafe { avx512::multiply::<T, 8>(tile, chunks, factors) },
            // SAFETY: these instructions are chosen where `is_there` says so,
            // as it does wherever `is_mixed_there` does.
            #[cfg(target_arch = "aarch64")]
            (Self::Neon | Self::NeonMixed, 4) => unsafe {
                neon::multiply::<T, 4>(tile, chunks, factors)
            },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            (Self::Neon, _) => unsafe { neon::multiply::<T, 8>(tile, chunks, factors) },
            // SAFETY: these are chosen where `is_mixed_there` says so.
            #[cfg(target_arch = "aarch64")]
            (Self::NeonMixed, _) => unsafe { neon::multiply_mixed::<T>(tile, chunks, factors) },
        };
        into[..T].copy_from_slice(&products);
    }

    /// `act` for each token, compiled for these instructions.
    fn act(
        self,
        gate: &mut [[f32; WIDTH]],
        up: &[[f32; WIDTH]],
        act: &impl Fn(&mut [f32; WIDTH], &[f32; WIDTH]),
    ) {
        match self {
            Self::Portable => gate.iter_mut().zip(up).for_each(|(gate, up)| act(gate, up)),
            // NEON is what all code of these machines is compiled for.
            #[cfg(target_arch = "aarch64")]
            Self::Neon | Self::NeonMixed => {
                gate.iter_mut().zip(up).for_each(|(gate, up)| act(gate, up));
            }
            // SAFETY: these instructions are chosen where `is_there` says so,
            // which is asked by `has_vnni`, too.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::AvxVnni => unsafe { avx2::act(gate, up, act) },
            // SAFETY: these instructions are chosen where `is_there` says so.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512::act(gate, up, act) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_all_there_is_in_order_each_once() {
        for threads in [1, 2, 3, 7, 64] {
            for all in (0..300).chain([1000, 9_999, 151_936]) {
                let pieces = Pieces { all, threads };
                let mut next = 0;
                for piece in 0..pieces.count() {
                    let piece = pieces.get(piece);
                    assert_eq!(piece.start, next);
                    assert!(!piece.is_empty());
                    next = piece.end;
                }
                assert_eq!(next, all);
            }
        }
    }
}
