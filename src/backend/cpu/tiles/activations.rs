//! Activations rounded to eight bits, a scale for each group of columns of
//! each token.

#![allow(unsafe_code)]
// Lanes of several arrays are walked by their indices.
#![allow(clippy::needless_range_loop)]

use std::array;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::GROUPS;
#[cfg(target_arch = "x86_64")]
use super::avx512;
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
pub(super) const ALONE: usize = 4 << 10;

/// About as many elements a thread rounds at a time.
const AT_A_TIME: usize = 3 << 10;

/// Tokens rounded to eight bits, in spans of as many as a product takes at a
/// time, the chunks of a span's tokens side by side. Made once and used again:
/// it keeps its memory.
#[derive(Default)]
pub(in super::super) struct Rounded {
    tokens: usize,
    columns: usize,
    group_size: usize,
    spans: Vec<Span>,
    /// `[spans][columns / 8][tokens of the span]`, and more.
    chunks: Vec<Chunk>,
    /// `[spans][groups][tokens of the span]`, and more.
    factors: Vec<Factors>,
}

/// Tokens that are multiplied together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span {
    pub(super) first: usize,
    pub(super) count: usize,
}

/// How many spans `tokens` tokens are.
fn spans(tokens: usize) -> usize {
    let (full, rest) = full_spans(tokens);
    full + rest.div_ceil(FEW)
}

/// Span `index` of `tokens` tokens. Full ones come first; the rest, which are
/// fewer than two full ones, are shared out evenly, as a product with one or
/// two tokens costs nearly as much as one with four.
pub(super) fn span(tokens: usize, index: usize) -> Span {
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

    /// The spans that the tokens are.
    pub(super) fn spans(&self) -> &[Span] {
        &self.spans
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
        let into = self.make_room(x.len() / columns, columns, group_size);
        let (spans, groups) = (into.spans(), columns / group_size);
        let round = |span, groups| {
            Round {
                x: Made(x, columns),
                into,
                span,
                groups,
            }
            .run();
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

    /// Room for so many tokens, in place of those that were rounded before.
    pub(super) fn make_room(
        &mut self,
        tokens: usize,
        columns: usize,
        group_size: usize,
    ) -> Into<'_> {
        (self.tokens, self.columns, self.group_size) = (tokens, columns, group_size);
        let (chunks, factors) = (tokens * columns / 8, tokens * columns / group_size);
        // Longer ones are left as they are: growing again would fill them.
        if self.chunks.len() < chunks {
            self.chunks.resize(chunks, [0; 2]);
        }
        if self.factors.len() < factors {
            self.factors.resize(factors, Factors::default());
        }
        self.spans.clear();
        self.spans
            .extend((0..spans(tokens)).map(|index| span(tokens, index)));
        Into {
            tokens,
            columns,
            group_size,
            chunks: Shared::new(&mut self.chunks[..chunks]),
            factors: Shared::new(&mut self.factors[..factors]),
        }
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
pub(super) struct Into<'a> {
    tokens: usize,
    columns: usize,
    group_size: usize,
    chunks: Shared<'a, Chunk>,
    factors: Shared<'a, Factors>,
}

impl Into<'_> {
    /// How many spans there are.
    pub(super) fn spans(&self) -> usize {
        spans(self.tokens)
    }
}

/// Where what is rounded comes from.
pub(super) trait Source {
    /// The `N` times [`LANES`] columns of a token that begin at `column`.
    ///
    /// # Safety
    ///
    /// No column of a token is asked for twice, by whichever thread.
    unsafe fn group<const N: usize>(&self, token: usize, column: usize) -> &[[f32; LANES]; N];
}

/// Rows `[tokens, columns]` that are there already.
struct Made<'a>(&'a [f32], usize);

impl Source for Made<'_> {
    #[inline(always)]
    unsafe fn group<const N: usize>(&self, token: usize, column: usize) -> &[[f32; LANES]; N] {
        let x = &self.0[token * self.1 + column..][..N * LANES];
        let x = x.as_chunks().0.first_chunk();
        x.expect("there are N times LANES columns")
    }
}

/// The rounding of some groups of the columns of a span's tokens, with this
/// machine's vector instructions. Whoever makes one answers for it: no two
/// that run at a time have a group of a span in common.
pub(super) struct Round<'a, X> {
    pub(super) x: X,
    pub(super) into: Into<'a>,
    pub(super) span: usize,
    pub(super) groups: Range<usize>,
}

/// Columns that are taken side by side.
pub(super) const LANES: usize = 16;

/// A group of `N` times [`LANES`] columns as it is rounded: what it is made
/// of, and the bytes.
pub(super) type Group<const N: usize> = (Factors, [[u8; LANES]; N]);

impl<X: Source> Round<'_, X> {
    pub(super) fn run(self) {
        #[cfg(target_arch = "x86_64")]
        if avx512::is_there() {
            // SAFETY: just asked for.
            return unsafe { avx512::round(self) };
        }
        Arch::new().dispatch(self);
    }

    /// How many times [`LANES`] columns a group has.
    pub(super) fn group_lanes(&self) -> usize {
        self.into.group_size / LANES
    }

    /// All of it by `one`, which rounds a group.
    #[inline(always)]
    pub(super) fn by<const N: usize>(self, one: impl Fn(&[[f32; LANES]; N]) -> Group<N>) {
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
        // says, which those who make one see to: each of them has its own.
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
                // SAFETY: spans have tokens of their own, and `Round` says that
                // no two that run have a group of a span in common.
                let x = unsafe { x.group(first + t, group * group_size) };
                let bytes;
                (factors[t], bytes) = one(x);
                let eights = bytes.as_flattened().as_chunks().0;
                for (chunks, &[a, b, c, d, e, f, g, h]) in
                    chunks.chunks_exact_mut(count).zip(eights)
                {
                    let word = i32::from_le_bytes;
                    chunks[t] = [word([a, b, c, d]), word([e, f, g, h])];
                }
            }
        }
    }
}

impl<X: Source> WithSimd for Round<'_, X> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        match self.group_lanes() {
            2 => self.by::<2>(round_group),
            4 => self.by::<4>(round_group),
            _ => self.by::<8>(round_group),
        }
    }
}

/// A group rounded. Sums are of every sixteenth column, then those together in
/// halves, on every machine.
#[inline(always)]
pub(super) fn round_group<const N: usize>(x: &[[f32; LANES]; N]) -> Group<N> {
    let mut largest = [0f32; LANES];
    let mut sums = [0f32; LANES];
    for x in x {
        for lane in 0..LANES {
            largest[lane] = larger(largest[lane], x[lane].abs());
            sums[lane] += x[lane];
        }
    }
    let (factors, inverse) = factors_of(folded(largest, larger), folded(sums, |a, b| a + b));
    let byte = |x: f32| (x * inverse + ROUNDING).to_bits() as u8;
    (factors, x.map(|x| x.map(byte)))
}

/// What a group is made of whose largest element and sum are these, and what
/// its elements are multiplied with to be rounded.
#[inline(always)]
pub(super) fn factors_of(largest: f32, sum: f32) -> (Factors, f32) {
    match largest {
        // What is not a number shows in the sum.
        0.0 => (Factors { scale: 0.0, sum }, 0.0),
        _ => {
            let scale = largest / 127.0;
            (Factors { scale, sum }, 127.0 / largest)
        }
    }
}

/// The larger one; `a` if `b` is not a number. One instruction, unlike
/// `f32::max`.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// All of it made one, in halves, as vectors are folded.
#[inline(always)]
fn folded(x: [f32; LANES], by: impl Fn(f32, f32) -> f32) -> f32 {
    let x: [f32; 8] = array::from_fn(|lane| by(x[lane], x[lane + 8]));
    let x: [f32; 4] = array::from_fn(|lane| by(x[lane], x[lane + 4]));
    by(by(x[0], x[2]), by(x[1], x[3]))
}

/// Added to a number of at most 2^22 it rounds that to a whole one, ties to
/// even, which is then in the lowest bits of the sum.
pub(super) const ROUNDING: f32 = 12_582_912.0;
