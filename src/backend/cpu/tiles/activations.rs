//! Activations rounded to eight bits, a scale for each group of columns of
//! each token.

#![allow(unsafe_code)]
// Lanes of several arrays are walked by their indices.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::GROUPS;
use super::shared::Shared;
use crate::backend::threads::Threads;

/// Eight columns of a token, the first ones lowest.
pub(super) type Chunk = [i32; 2];

/// What a group of a token's columns is made of: `x` is about `scale * q`, and
/// `sum` is the sum of `x` as it was, not as it is rounded.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Factors {
    pub(super) scale: f32,
    pub(super) sum: f32,
}

/// The most tokens that a product takes at a time.
pub(super) const MOST: usize = 12;

/// The most that are left to smaller spans, which are of every length up to
/// this one.
const FEW: usize = 8;

/// Elements that one thread rounds before others are worth their waking.
const ALONE: usize = 16 << 10;

/// About as many elements a thread rounds at a time.
const AT_A_TIME: usize = 12 << 10;

/// Tokens rounded to eight bits, in spans of as many as a product takes at a
/// time, the chunks of a span's tokens side by side. Made once and used again:
/// it keeps its memory.
#[derive(Default)]
pub(in super::super) struct Rounded {
    tokens: usize,
    columns: usize,
    group_size: usize,
    /// `[spans][columns / 8][tokens of the span]`.
    chunks: Vec<Chunk>,
    /// `[spans][groups][tokens of the span]`.
    factors: Vec<Factors>,
}

/// Tokens that are multiplied together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span {
    pub(super) first: usize,
    pub(super) count: usize,
}

/// How many spans `tokens` tokens are.
pub(super) fn spans(tokens: usize) -> usize {
    let (full, rest) = full_spans(tokens);
    full + rest.div_ceil(FEW)
}

/// Span `index` of `tokens` tokens. Full ones come first; the rest, which are
/// fewer than two full ones, are shared out evenly, as a product with one or
/// two tokens costs nearly as much as one with four.
fn span(tokens: usize, index: usize) -> Span {
    let (full, rest) = full_spans(tokens);
    if index < full {
        return Span {
            first: index * MOST,
            count: MOST,
        };
    }
    let (index, shares) = (index - full, rest.div_ceil(FEW));
    let (each, longer) = (rest / shares, rest % shares);
    Span {
        first: full * MOST + index * each + index.min(longer),
        count: each + usize::from(index < longer),
    }
}

/// How many full spans `tokens` tokens are, and the tokens left.
fn full_spans(tokens: usize) -> (usize, usize) {
    let full = match tokens % MOST {
        0 => tokens / MOST,
        _ => (tokens / MOST).saturating_sub(1),
    };
    (full, tokens - full * MOST)
}

impl Rounded {
    /// How many tokens were rounded.
    pub(in super::super) fn tokens(&self) -> usize {
        self.tokens
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn group_size(&self) -> usize {
        self.group_size
    }

    /// How many spans the tokens are.
    pub(super) fn spans(&self) -> usize {
        spans(self.tokens)
    }

    /// Rounds `x`, `[tokens, columns]`, whose groups are of `group_size`
    /// columns, in place of what was rounded before.
    ///
    /// # Panics
    ///
    /// If there are no tiles of such groups, or `x` or `columns` are not whole
    /// numbers of them.
    pub(in super::super) fn round(
        &mut self,
        threads: &Threads,
        x: &[f32],
        columns: usize,
        group_size: usize,
    ) {
        assert!(GROUPS.contains(&group_size) && columns.is_multiple_of(group_size));
        assert!(columns > 0 && x.len().is_multiple_of(columns));
        self.tokens = x.len() / columns;
        self.columns = columns;
        self.group_size = group_size;
        self.chunks.resize(x.len() / 8, [0; 2]);
        self.factors
            .resize(x.len() / group_size, Factors::default());

        let groups = columns / group_size;
        let into = Into {
            tokens: self.tokens,
            columns,
            group_size,
            chunks: Shared::new(&mut self.chunks),
            factors: Shared::new(&mut self.factors),
        };
        let spans = spans(self.tokens);
        let arch = Arch::new();
        let round = |span, groups| {
            arch.dispatch(Round {
                x,
                into,
                span,
                groups,
            })
        };
        if x.len() <= ALONE {
            return (0..spans).for_each(|span| round(span, 0..groups));
        }
        // Groups share no places, so that the work can be split between any.
        let per_task = (AT_A_TIME / (MOST * group_size)).max(1);
        let per_span = groups.div_ceil(per_task);
        threads.for_each(spans * per_span, |task| {
            let first = task % per_span * per_task;
            round(task / per_span, first..groups.min(first + per_task));
        });
    }

    /// Where and how long span `index` is.
    pub(super) fn span(&self, index: usize) -> Span {
        span(self.tokens, index)
    }

    /// The chunks and factors of a span of `T` tokens.
    #[inline]
    pub(super) fn of<const T: usize>(&self, first: usize) -> (&[[Chunk; T]], &[[Factors; T]]) {
        let (chunks, groups) = (self.columns / 8, self.columns / self.group_size);
        let all = &self.chunks[first * chunks..][..T * chunks];
        let factors = &self.factors[first * groups..][..T * groups];
        (all.as_chunks().0, factors.as_chunks().0)
    }
}

/// Where rounded activations go.
#[derive(Clone, Copy)]
struct Into<'a> {
    tokens: usize,
    columns: usize,
    group_size: usize,
    chunks: Shared<'a, Chunk>,
    factors: Shared<'a, Factors>,
}

/// The rounding of some groups of the columns of a span's tokens, with this
/// machine's vector instructions. Whoever makes one answers for it: no two
/// that run at a time have a group of a span in common.
struct Round<'a> {
    x: &'a [f32],
    into: Into<'a>,
    span: usize,
    groups: Range<usize>,
}

impl WithSimd for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self {
            x,
            into,
            span: index,
            groups: some,
        } = self;
        let (columns, group_size) = (into.columns, into.group_size);
        let (groups, per_group) = (columns / group_size, group_size / 8);
        let Span { first, count } = span(into.tokens, index);
        let places = first * groups + some.start * count..first * groups + some.end * count;
        // SAFETY: spans begin where others end, so each group of each span has
        // places of its own; and no two that run have the same, as `Round`
        // says, which `Rounded::round` sees to: it makes one for each.
        let factors = unsafe { into.factors.part(places.clone()) };
        // SAFETY: as above.
        let chunks = unsafe {
            into.chunks
                .part(places.start * per_group..places.end * per_group)
        };
        for ((group, factors), chunks) in some
            .zip(factors.chunks_exact_mut(count))
            .zip(chunks.chunks_exact_mut(per_group * count))
        {
            for t in 0..count {
                let x = &x[(first + t) * columns + group * group_size..][..group_size];
                let (x, _) = x.as_chunks();
                let inverse;
                (factors[t], inverse) = factors_of(x);
                for (x, chunks) in x.iter().zip(chunks.chunks_exact_mut(count)) {
                    chunks[t] = round_eight(x, inverse);
                }
            }
        }
    }
}
/// What a group of columns is made of, and what its columns are multiplied
/// with to be rounded. Sums are of every eighth column, then those together,
/// on every machine.
#[inline(always)]
fn factors_of(x: &[[f32; 8]]) -> (Factors, f32) {
    let mut largest = [0f32; 8];
    let mut sums = [0f32; 8];
    for x in x {
        for lane in 0..8 {
            let size = x[lane].abs();
            largest[lane] = if size > largest[lane] {
                size
            } else {
                largest[lane]
            };
            sums[lane] += x[lane];
        }
    }
    let largest = largest.into_iter().fold(0f32, f32::max);
    let sum =
        ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
    match largest {
        // What is not a number shows in the sum.
        0.0 => (Factors { scale: 0.0, sum }, 0.0),
        _ => {
            let scale = largest / 127.0;
            (Factors { scale, sum }, 127.0 / largest)
        }
    }
}

/// Adding it to a number of at most 2^22 rounds that to a whole one, which is
/// then in the lowest bits of the sum.
const ROUNDING: f32 = 12_582_912.0;

/// `x * inverse`, which is from -127 to 127, rounded to whole numbers, ties to
/// even.
#[inline(always)]
fn round_eight(x: &[f32; 8], inverse: f32) -> Chunk {
    let mut bytes = [0u32; 8];
    for lane in 0..8 {
        bytes[lane] = (x[lane] * inverse + ROUNDING).to_bits() & 0xff;
    }
    let word = |b: &[u32]| (b[0] | b[1] << 8 | b[2] << 16 | b[3] << 24) as i32;
    [word(&bytes[..4]), word(&bytes[4..])]
}
