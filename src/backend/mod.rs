//! The seam to the tensor library: a handful of coarse operations that the
//! decoder is written over. `start` is the one place that decides which
//! libraries are compiled in, and which one runs. Knows nothing of models or
//! requests.
//!
//! Shapes are row-major. `T` is the number of tokens of a step, those of all
//! its sequences one after the other; there is no padding and no batch axis.
//!
//! A backend may evaluate in the background: an operation then only says what
//! is to be computed, [`Backend::start`] sets the computation off, and the
//! `read` operations wait for it.

mod activation;
pub mod candle;
pub mod cpu;
#[cfg(any(feature = "mlx", all(target_os = "macos", target_arch = "aarch64")))]
pub mod mlx;
mod packed;
mod routing;
mod sampler;
mod samplers;
mod start;
mod threads;
mod weights;

use std::ops::Range;

use smallvec::SmallVec;

pub use activation::Activation;
use routing::likely_experts;
pub use sampler::{Draw, Sampler};
pub use start::{BackendChoice, BackendSettings, WithBackend, start};
pub use weights::{Dtype, ExpertBiases, ExpertWeights, MatrixWeights, RawKv, RawTensor};

/// How many sequences are in a step at most, as a rule.
pub const USUAL_SEQUENCES: usize = 16;

/// A list of something for each sequence of a step, or for each token of one
/// that decodes. It takes memory of its own only where there are more than
/// [`USUAL_SEQUENCES`].
pub type ShortList<T> = SmallVec<[T; USUAL_SEQUENCES]>;

/// An operation of the tensor library that failed.
#[derive(Debug, thiserror::Error)]
#[error("{op}: {reason}")]
pub struct BackendError {
    /// The operation, as named in [`Backend`].
    pub op: &'static str,
    /// What the library says.
    pub reason: String,
}

/// One sequence's part of a step, for attention: the next `tokens` rows of
/// the flat batch, and the keys and values it has so far.
pub struct Span<'a, K> {
    /// How many rows of the batch are this sequence's.
    pub tokens: usize,
    /// Its keys and values in this layer; the step's are appended.
    pub kv: &'a mut K,
}

/// One sequence's part of a step, for an operation that carries something of
/// a fixed size from one row to the next: the next `tokens` rows of the flat
/// batch, and what the rows before them have left.
pub struct StateSpan<'a, T> {
    /// How many rows of the batch are this sequence's.
    pub tokens: usize,
    /// `None` before the first row. It is replaced, never written to: a copy
    /// of the handle stays what it is.
    pub state: &'a mut Option<T>,
}

/// What decides how much the heads of [`Backend::gated_delta`] forget and
/// learn with each token.
pub struct DeltaGates<'a, T> {
    /// `[T, value_heads]`: `exp(-exp(a_log) * softplus(a + dt_bias))` is what
    /// is left of a head's state.
    pub a: &'a T,
    /// `[T, value_heads]`: its sigmoid is how much of the new value is taken
    /// in.
    pub b: &'a T,
    /// `[value_heads]`.
    pub a_log: &'a T,
    /// `[value_heads]`.
    pub dt_bias: &'a T,
}

/// What a row of attention sees and how.
#[derive(Debug, Clone, Copy)]
pub struct AttentionSettings<'a, T> {
    /// Scores are multiplied by it.
    pub scale: f32,
    /// Scores `s` then become `cap * tanh(s / cap)` (Gemma 2,
    /// <https://arxiv.org/abs/2408.00118>).
    pub softcap: Option<f32>,
    /// How many positions a row sees at most, its own and those right before
    /// it; `None` is all. Never 0.
    pub window: Option<usize>,
    /// A logit a head, `[heads]`, that joins the softmax and carries no value
    /// (Xiao et al. 2023, <https://arxiv.org/abs/2309.17453>, as learned in
    /// gpt-oss).
    pub sinks: Option<&'a T>,
}

/// Where a part of a step's token ids comes from.
pub enum TokenSource<'a, I> {
    /// They are known.
    Given(&'a [u32]),
    /// The id in place `.1` of ids drawn earlier, which may not be known yet.
    Drawn(&'a I, usize),
}

/// Memory a backend holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// In use now.
    pub active: usize,
    /// The most that was in use at once.
    pub peak: usize,
    /// Freed, and kept to be used again.
    pub cached: usize,
}

/// A tensor library.
pub trait Backend: 'static {
    /// Activations and small parameters.
    type Tensor: Clone;
    /// A weight matrix made ready for products.
    type Matrix;
    /// The gated MLPs of a layer's experts.
    type Experts;
    /// Token ids that a step drew, on the device.
    type Tokens;
    /// Rotary angles of one step.
    type Rotation;
    /// Keys and values of one sequence in one layer. Dropping it frees them.
    type Kv;

    /// Whether it evaluates in the background.
    const OVERLAPS: bool;

    /// Its name, where what it computed is kept for later.
    fn name(&self) -> &'static str;

    /// What it is and runs on, for people: `the CPU, 8 threads`.
    fn describe(&self) -> String;

    /// How many of the host's threads compute.
    fn threads(&self) -> usize;

    /// Told once the weights are loaded, before the first step.
    ///
    /// # Errors
    /// If the memory they take cannot be secured.
    fn loaded(&self) -> Result<(), BackendError>;

    /// The memory it holds, where the library counts it.
    fn memory(&self) -> Option<MemoryUse>;

    /// The type of the elements of `x`.
    fn element_type(&self, x: &Self::Tensor) -> Dtype;

    /// The type that keys and values are kept in, `x` being an activation.
    fn kv_type(&self, x: &Self::Tensor) -> Dtype {
        self.element_type(x)
    }

    /// A floating-point parameter as an activation-typed tensor.
    fn parameter(&self, raw: &RawTensor) -> Result<Self::Tensor, BackendError>;

    /// Makes a weight matrix `[out, in]` ready for products. The decoder has
    /// checked that the shapes agree with one another.
    fn matrix(&self, weights: MatrixWeights) -> Result<Self::Matrix, BackendError>;

    /// Makes the experts of a layer ready. The decoder has checked that the
    /// shapes agree with one another.
    fn experts(&self, weights: ExpertWeights) -> Result<Self::Experts, BackendError>;

    /// Rows of `table` `[vocabulary, hidden]`, those of a step's token ids, part
    /// after part: `[T, hidden]`. Every id must be below the number of rows.
    fn embed(
        &self,
        table: &Self::Matrix,
        ids: &[TokenSource<'_, Self::Tokens>],
    ) -> Result<Self::Tensor, BackendError>;

    /// `x` times the transposed `weight`: `[T, in]` to `[T, out]`.
    fn project(
        &self,
        x: &Self::Tensor,
        weight: &Self::Matrix,
    ) -> Result<Self::Tensor, BackendError>;

    /// [`Self::project`] by each of `weights`.
    fn project_each<const N: usize>(
        &self,
        x: &Self::Tensor,
        weights: [&Self::Matrix; N],
    ) -> Result<[Self::Tensor; N], BackendError> {
        let products = weights.into_iter().map(|weight| self.project(x, weight));
        let products = products.collect::<Result<SmallVec<[_; N]>, _>>()?;
        // There are N.
        products.into_inner().map_err(|_| BackendError {
            op: "project_each",
            reason: "products are missing".to_owned(),
        })
    }

    /// [`Self::gated`] of the products of `x` with `gate` and `up`.
    fn project_gated(
        &self,
        x: &Self::Tensor,
        gate: &Self::Matrix,
        up: &Self::Matrix,
        activation: Activation,
    ) -> Result<Self::Tensor, BackendError> {
        self.gated(&self.project(x, gate)?, &self.project(x, up)?, activation)
    }

    /// Root-mean-square norm over the last axis, scaled by `weight`
    /// (Zhang & Sennrich 2019, <https://arxiv.org/abs/1910.07467>).
    fn rms_norm(
        &self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor, BackendError>;

    /// `x + said`, of one shape, and its [`Self::rms_norm`].
    fn add_norm(
        &self,
        x: Self::Tensor,
        said: &Self::Tensor,
        weight: &Self::Tensor,
        eps: f32,
    ) -> Result<(Self::Tensor, Self::Tensor), BackendError> {
        let sum = self.add(x, said)?;
        let normed = self.rms_norm(&sum, weight, eps)?;
        Ok((sum, normed))
    }

    /// `[T, heads * head_dim]` seen as `[T, heads, head_dim]`.
    fn split_heads(&self, x: Self::Tensor, heads: usize) -> Result<Self::Tensor, BackendError>;

    /// `[T, heads, head_dim]` seen as `[T, heads * head_dim]`.
    fn merge_heads(&self, x: Self::Tensor) -> Result<Self::Tensor, BackendError>;

    /// The angles of tokens at `positions` (one a row of the batch) for the
    /// inverse frequencies `inv_freq` (half of the rotated dimensions), and
    /// what the rotated dimensions of a row are multiplied by, by its position.
    fn rotation(
        &self,
        positions: &[u32],
        inv_freq: &[f32],
        magnitude: impl Fn(u32) -> f32,
    ) -> Result<Self::Rotation, BackendError>;

    /// Rotates the first dimensions of each head of `[T, heads, head_dim]`,
    /// as many as the rotation has, their two halves paired (Su et al. 2021,
    /// <https://arxiv.org/abs/2104.09864>, in the layout of GPT-NeoX). The
    /// others stay as they are.
    fn rotate(
        &self,
        x: Self::Tensor,
        rotation: &Self::Rotation,
    ) -> Result<Self::Tensor, BackendError>;

    /// Queries and keys on their way to attention, `[T, heads, head_dim]`
    /// each: [`Self::rms_norm`] of each head by `norms`, then
    /// [`Self::rotate`], where they are given.
    fn norm_rotate(
        &self,
        [mut q, mut k]: [Self::Tensor; 2],
        norms: Option<[&Self::Tensor; 2]>,
        eps: f32,
        rotations: Option<[&Self::Rotation; 2]>,
    ) -> Result<[Self::Tensor; 2], BackendError> {
        if let Some([of_q, of_k]) = norms {
            (q, k) = (self.rms_norm(&q, of_q, eps)?, self.rms_norm(&k, of_k, eps)?);
        }
        if let Some([of_q, of_k]) = rotations {
            (q, k) = (self.rotate(q, of_q)?, self.rotate(k, of_k)?);
        }
        Ok([q, k])
    }

    /// Empty keys and values for one sequence in one layer.
    fn kv(&self, kv_heads: usize, head_dim: usize) -> Result<Self::Kv, BackendError>;

    /// A copy of the first `len` tokens' keys and values, which lives on by
    /// itself. `kv` holds at least as many.
    fn fork_kv(&self, kv: &Self::Kv, len: usize) -> Result<Self::Kv, BackendError>;

    /// A copy in the host's memory of the first `len` tokens' keys and values,
    /// in the type they are kept in. `kv` holds at least as many, and `len` is
    /// at least 1. Waits for their computation.
    fn read_kv(&self, kv: &Self::Kv, len: usize) -> Result<RawKv, BackendError>;

    /// Appends what [`Self::read_kv`] gave to `kv`, which has as many heads, as
    /// wide.
    ///
    /// # Errors
    /// If they are of a type that this backend does not keep, or there is no
    /// room for them.
    fn write_kv(&self, kv: &mut Self::Kv, raw: &RawKv) -> Result<(), BackendError>;

    /// Appends each span's rows of `k` and `v` (`[T, kv_heads, head_dim]`) to
    /// its sequence, then lets each row of `q` (`[T, heads, head_dim]`)
    /// attend to its own sequence up to itself: `[T, heads * head_dim]`.
    /// Heads share key-value heads in equal groups. The spans' tokens add up
    /// to `T`.
    fn attention(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        spans: &mut [Span<'_, Self::Kv>],
        settings: &AttentionSettings<'_, Self::Tensor>,
    ) -> Result<Self::Tensor, BackendError>;

    /// A causal convolution along each sequence, every channel by itself:
    /// output `t` is `sum_j weight[c, j] * x[t - K + 1 + j, c]`, `weight`
    /// `[channels, K]`, where rows before a sequence's first are zero; then
    /// through SiLU, if `silu`. `x` is `[T, channels]`, as is the result, of
    /// its type. What a sequence carries on are its last `K - 1` rows of `x`,
    /// `[K - 1, channels]`, of the type of `x` too; with `K` 1 there is
    /// nothing to carry, and `None` stays. The spans' tokens add up to `T`; a
    /// span without any leaves its state as it is. At least one row.
    fn causal_conv(
        &self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        silu: bool,
        spans: &mut [StateSpan<'_, Self::Tensor>],
    ) -> Result<Self::Tensor, BackendError>;

    /// The gated delta rule (Yang et al. 2024,
    /// <https://arxiv.org/abs/2412.06464>). Each head of values has a state
    /// `S` `[value_dim, key_dim]`, zero at first, and each token does
    /// `S = g S`, then `S = S + beta (v - S k) k^T`, and says `S q`, with `g`
    /// and `beta` as `gates` says. `q` and `k` are `[T, key_heads, key_dim]`,
    /// `v` and the result `[T, value_heads, value_dim]`; value heads share key
    /// heads in equal groups, those of the first key head first. The result is
    /// of `v`'s type. States `[value_heads, value_dim, key_dim]` are kept in
    /// f32, and all of it is computed in f32, the gates too, from what is
    /// given in any type. Keys are not to be longer than 1: rounding errors
    /// would grow from token to token, as would the state. The spans' tokens
    /// add up to `T`; a span without any leaves its state as it is. At least
    /// one row.
    fn gated_delta(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        gates: &DeltaGates<'_, Self::Tensor>,
        spans: &mut [StateSpan<'_, Self::Tensor>],
    ) -> Result<Self::Tensor, BackendError>;

    /// Columns `range` of `x` `[T, n]`, at least one.
    fn columns(&self, x: &Self::Tensor, range: Range<usize>) -> Result<Self::Tensor, BackendError>;

    /// `a * b`, of one shape.
    fn multiply(&self, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor, BackendError>;

    /// `a + b`, of one shape, or `b` a row that is added to every row of `a`.
    /// The sum is of `a`'s type.
    fn add(&self, a: Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor, BackendError>;

    /// `x + offset`.
    fn shift(&self, x: Self::Tensor, offset: f32) -> Result<Self::Tensor, BackendError>;

    /// `x * factor`.
    fn scale(&self, x: Self::Tensor, factor: f32) -> Result<Self::Tensor, BackendError>;

    /// `cap * tanh(x / cap)`.
    fn softcap(&self, x: Self::Tensor, cap: f32) -> Result<Self::Tensor, BackendError>;

    /// The activation of `gate`, times `up`, of one shape (Shazeer 2020,
    /// <https://arxiv.org/abs/2002.05202>).
    fn gated(
        &self,
        gate: &Self::Tensor,
        up: &Self::Tensor,
        activation: Activation,
    ) -> Result<Self::Tensor, BackendError>;

    /// `x` `[T, n]` times `sigmoid(gate)`, `gate` of the same shape or
    /// `[T, 1]`.
    fn sigmoid_gate(
        &self,
        x: &Self::Tensor,
        gate: &Self::Tensor,
    ) -> Result<Self::Tensor, BackendError>;

    /// Sends each row of `x` `[T, hidden]` through the gated MLPs of its
    /// `top_k` most likely experts and adds up what they say, weighed by
    /// their probability: the softmax of `router` `[T, experts]`, taken over
    /// all experts or, if `renormalize`, over the chosen ones
    /// (Shazeer et al. 2017, <https://arxiv.org/abs/1701.06538>). `top_k` is
    /// at least 1 and at most the number of experts.
    fn mix_experts(
        &self,
        x: &Self::Tensor,
        router: &Self::Tensor,
        experts: &Self::Experts,
        top_k: usize,
        renormalize: bool,
    ) -> Result<Self::Tensor, BackendError>;

    /// The rows of `x` `[T, n]` that `rows` names, in its order.
    fn select_rows(&self, x: &Self::Tensor, rows: &[u32]) -> Result<Self::Tensor, BackendError>;

    /// Draws a token from each row of `logits` `[n, vocabulary]`, as the
    /// `n` entries of `draws` say. From a row that is not numbers none can be
    /// drawn, which shows in [`Backend::read_tokens`]; until it is read some
    /// id below `vocabulary` stands for it, and the other rows are as they
    /// would be without it.
    fn sample(&self, logits: &Self::Tensor, draws: &[Draw]) -> Result<Self::Tokens, BackendError>;

    /// Sets off the computation of these, and of the keys and values that
    /// were appended and the states that were left behind on the way. Does
    /// not wait.
    fn start(
        &self,
        tensors: &[&Self::Tensor],
        tokens: &[&Self::Tokens],
    ) -> Result<(), BackendError>;

    /// Waits for the computation.
    fn wait(&self, x: &Self::Tensor) -> Result<(), BackendError>;

    /// The elements in row-major order. Waits for the computation.
    fn read(&self, x: &Self::Tensor) -> Result<Vec<f32>, BackendError>;

    /// The ids; `None` where one was to be drawn from logits that are not
    /// numbers. Waits for the computation.
    fn read_tokens(&self, tokens: &Self::Tokens) -> Result<ShortList<Option<u32>>, BackendError>;
}

#[cfg(test)]
mod tests;
