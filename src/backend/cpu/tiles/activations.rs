//! Activations rounded to eight bits, a scale for each group of columns of
//! each token.

// Lanes of several arrays are walked by their indices.
#![allow(clippy::needless_range_loop)]

use pulp::{Arch, Simd, WithSimd};

use super::GROUPS;

/// Eight columns of a token, the first ones lowest.
pub(super) type Chunk = [i32; 2];

/// What a group of a token's columns is made of: `x` is about `scale * q`, and
/// `sum` is the sum of `x` as it was, not as it is rounded.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Factors {
    pub(super) scale: f32,
    pub(super) sum: f32,
}

/// How many tokens a product takes at a time, the most first.
pub(super) const SPANS: [usize; 5] = [12, 8, 4, 2, 1];

/// Tokens rounded to eight bits, in spans of as many as [`SPANS`] has, the
/// chunks of a span's tokens side by side.
pub(super) struct Activations {
    columns: usize,
    group_size: usize,
    /// `[spans][columns / 8][tokens of the span]`.
    chunks: Vec<Chunk>,
    /// `[spans][groups][tokens of the span]`.
    factors: Vec<Factors>,
}

/// The spans of `tokens` tokens: the first of each and how many there are.
pub(super) fn spans(tokens: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let count = *SPANS.iter().find(|&&span| span <= tokens - first)?;
        first += count;
        Some((first - count, count))
    })
}

impl Activations {
    /// Rounds `x` `[tokens, columns]`, whose groups are of `group_size`
    /// columns, one of [`GROUPS`].
    pub(super) fn new(x: &[f32], columns: usize, group_size: usize) -> Self {
        debug_assert!(GROUPS.contains(&group_size) && columns.is_multiple_of(group_size));
        let mut rounded = Self {
            columns,
            group_size,
            chunks: vec![[0; 2]; x.len() / 8],
            factors: vec![Factors::default(); x.len() / group_size],
        };
        Arch::new().dispatch(Round {
            x,
            into: &mut rounded,
        });
        rounded
    }

    /// The chunks and factors of the span of `T` tokens that begins at
    /// `first`.
    pub(super) fn span<const T: usize>(&self, first: usize) -> (&[[Chunk; T]], &[[Factors; T]]) {
        let (chunks, groups) = (self.columns / 8, self.columns / self.group_size);
        let all = &self.chunks[first * chunks..][..T * chunks];
        let factors = &self.factors[first * groups..][..T * groups];
        (all.as_chunks().0, factors.as_chunks().0)
    }
}

/// [`Activations::new`] with this machine's vector instructions.
struct Round<'a> {
    x: &'a [f32],
    into: &'a mut Activations,
}

impl WithSimd for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { x, into } = self;
        let (columns, group_size) = (into.columns, into.group_size);
        let groups = columns / group_size;
        for (first, count) in spans(x.len() / columns) {
            let chunks = &mut into.chunks[first * columns / 8..][..count * columns / 8];
            let factors = &mut into.factors[first * groups..][..count * groups];
            let tokens = x[first * columns..].chunks_exact(columns).take(count);
            for (t, x) in tokens.enumerate() {
                for ((x, chunks), factors) in x
                    .chunks_exact(group_size)
                    .zip(chunks.chunks_exact_mut(group_size / 8 * count))
                    .zip(factors.chunks_exact_mut(count))
                {
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
