//! Queries and keys on their way to attention: normed head by head, then
//! rotated, in place.

use pulp::Arch;

use super::elementwise::{norm_factor, rows_at_once};
use super::{Array, Cpu, Result};
use crate::backend::threads::Threads;

/// The cosines and sines of a step's tokens, `[T, rotated / 2]` each.
pub struct Rotation {
    cos: Array,
    sin: Array,
    half: usize,
}

/// The same, for any thread to look at.
#[derive(Clone, Copy)]
pub(super) struct Angles<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    half: usize,
}

impl Rotation {
    /// As [`crate::backend::Backend::rotation`] says. In f64 and in one pass:
    /// at long positions an f32 product of position and frequency is off by
    /// more than the angle's own step.
    pub(super) fn new(
        cpu: &Cpu,
        positions: &[u32],
        inv_freq: &[f32],
        magnitude: impl Fn(u32) -> f32,
    ) -> Self {
        let half = inv_freq.len();
        let shape = [positions.len(), half];
        let (mut cos, mut sin) = (cpu.pool.array(shape), cpu.pool.array(shape));
        let angles = positions.iter().flat_map(|&at| {
            let (at, size) = (f64::from(at), f64::from(magnitude(at)));
            inv_freq.iter().map(move |&freq| {
                let (sin, cos) = (at * f64::from(freq)).sin_cos();
                ((cos * size) as f32, (sin * size) as f32)
            })
        });
        let both = cos.own().iter_mut().zip(sin.own());
        for (angle, (cos, sin)) in angles.zip(both) {
            (*cos, *sin) = angle;
        }
        Self { cos, sin, half }
    }

    pub(super) fn angles(&self) -> Angles<'_> {
        Angles {
            cos: &self.cos,
            sin: &self.sin,
            half: self.half,
        }
    }

    /// Whether it is one of so many tokens' heads.
    pub(super) fn fits(&self, tokens: usize, head_dim: usize) -> bool {
        2 * self.half <= head_dim && self.cos.shape() == [tokens, self.half]
    }
}

impl Angles<'_> {
    /// Rotates a head of token `row`.
    #[inline(always)]
    fn rotate(self, row: usize, head: &mut [f32]) {
        let half = self.half;
        let cos = &self.cos[row * half..][..half];
        let sin = &self.sin[row * half..][..half];
        let (first, second) = head.split_at_mut(half);
        let second = &mut second[..half];
        for i in 0..half {
            let (a, b) = (first[i], second[i]);
            first[i] = a * cos[i] - b * sin[i];
            second[i] = a * sin[i] + b * cos[i];
        }
    }
}

/// What is done to a step's heads `[T, heads, head_dim]` before attention.
#[derive(Clone, Copy, Default)]
pub(super) struct Way<'a> {
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    /// `[head_dim]`: each is normed by itself.
    pub(super) norm: Option<&'a [f32]>,
    /// It fits. Each is rotated then.
    pub(super) rotation: Option<Angles<'a>>,
}

/// As [`crate::backend::Backend::norm_rotate`] says, in place, with the heads
/// of `tokens` tokens each.
pub(super) fn norm_rotate<const N: usize>(
    threads: &Threads,
    heads: [&mut [f32]; N],
    ways: [Way<'_>; N],
    tokens: usize,
    eps: f32,
) {
    let elements = heads.iter().map(|heads| heads.len()).sum();
    if elements == 0 {
        return;
    }
    let arch = Arch::new();
    let at_once = rows_at_once(threads, tokens, elements);
    let widths = ways.map(|way| way.heads * way.head_dim);
    let chunks = widths.map(|width| at_once * width);
    threads.for_each_chunks(heads, chunks, |chunk, parts| {
        arch.dispatch(
            #[inline(always)]
            || {
                for ((part, way), width) in parts.into_iter().zip(ways).zip(widths) {
                    for (offset, row) in part.chunks_exact_mut(width).enumerate() {
                        way.go(chunk * at_once + offset, row, eps);
                    }
                }
            },
        );
    });
}

impl Way<'_> {
    /// The heads of token `row`.
    #[inline(always)]
    fn go(&self, row: usize, heads: &mut [f32], eps: f32) {
        for head in heads.chunks_exact_mut(self.head_dim) {
            if let Some(weight) = self.norm {
                let factor = norm_factor(head, eps);
                for (x, weight) in head.iter_mut().zip(weight) {
                    *x = *x * factor * weight;
                }
            }
            if let Some(rotation) = self.rotation {
                rotation.rotate(row, head);
            }
        }
    }
}

impl Cpu {
    /// Heads of a step, normed and rotated where they are to be.
    pub(super) fn ready<const N: usize>(
        &self,
        mut of: [Array; N],
        norms: [Option<&Array>; N],
        eps: f32,
        rotations: [Option<&Rotation>; N],
    ) -> Result<[Array; N]> {
        let mut ways = [Way::default(); N];
        let tokens = of[0].heads()?.0;
        for place in 0..N {
            let (count, heads, head_dim) = of[place].heads()?;
            let (norm, rotation) = (norms[place], rotations[place]);
            let fits = count == tokens
                && norm.is_none_or(|norm| norm.shape() == [head_dim])
                && rotation.is_none_or(|rotation| rotation.fits(tokens, head_dim));
            if !fits {
                let norm = norm.map(Array::shape);
                let angles = rotation.map(|rotation| rotation.cos.shape());
                return Err(format!(
                    "{:?} of {tokens} tokens by a norm of {norm:?} and {angles:?} angles",
                    of[place].shape()
                ));
            }
            ways[place] = Way {
                heads,
                head_dim,
                norm: norm.map(|norm| &**norm),
                rotation: rotation.map(Rotation::angles),
            };
        }
        let heads = of.each_mut().map(Array::own);
        norm_rotate(&self.threads, heads, ways, tokens, eps);
        Ok(of)
    }
}
