//! The seam to the tensor library: a handful of coarse operations that the
//! decoder is written over, and the one place that decides which libraries
//! are compiled in. Knows nothing of models, tokens or requests.
//!
//! Shapes are row-major. `T` is the number of tokens of a step, those of all
//! its sequences one after the other; there is no padding and no batch axis.

pub mod candle;

use crate::blob::Blob;

/// The backend a configuration asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// The best one of those compiled in.
    #[default]
    Auto,
    /// candle: Metal or CUDA where compiled in, else the CPU.
    Candle,
}

impl BackendChoice {
    /// The choices by the names the configuration knows them by.
    pub const NAMES: [(&'static str, Self); 2] = [("auto", Self::Auto), ("candle", Self::Candle)];
}

/// A backend that was started.
pub enum Started {
    /// candle.
    Candle(candle::Candle),
}

/// Starts the backend that `choice` names.
///
/// # Errors
/// If its device cannot be had.
pub fn start(choice: BackendChoice) -> Result<Started, BackendError> {
    match choice {
        BackendChoice::Auto | BackendChoice::Candle => {
            Ok(Started::Candle(candle::Candle::start()?))
        }
    }
}

/// An operation of the tensor library that failed.
#[derive(Debug, thiserror::Error)]
#[error("{op}: {reason}")]
pub struct BackendError {
    /// The operation, as named in [`Backend`].
    pub op: &'static str,
    /// What the library says.
    pub reason: String,
}

/// The element types weights are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point, IEEE.
    F16,
    /// 16-bit floating point, the upper half of an `f32`.
    Bf16,
    /// 32-bit unsigned: packed quantized weights.
    U32,
}

impl Dtype {
    /// Bytes an element takes.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// A stored tensor: little-endian elements, row-major, still where the file
/// put them.
#[derive(Debug, Clone)]
pub struct RawTensor {
    /// Type of the elements.
    pub dtype: Dtype,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// The elements: exactly the product of `shape` times the element's size.
    pub bytes: Blob,
}

/// A weight matrix `[out, in]` as stored.
#[derive(Debug, Clone)]
pub enum MatrixWeights {
    /// Floating-point elements.
    Dense(RawTensor),
    /// MLX's affine quantization: row by row, groups of `group_size` weights
    /// share a scale and a bias, and a weight is `scale * q + bias` with `q`
    /// an unsigned number of `bits` bits, packed low bits first.
    Affine {
        /// `[out, in * bits / 32]`, [`Dtype::U32`].
        packed: RawTensor,
        /// `[out, in / group_size]`, floating point.
        scales: RawTensor,
        /// `[out, in / group_size]`, floating point.
        biases: RawTensor,
        /// Weights in a group.
        group_size: usize,
        /// Bits of a weight: 4 or 8.
        bits: usize,
    },
}

/// One sequence's part of a step, for attention: the next `tokens` rows of
/// the flat batch, and the keys and values it has so far.
pub struct Span<'a, K> {
    /// How many rows of the batch are this sequence's.
    pub tokens: usize,
    /// Its keys and values in this layer; the step's are appended.
    pub kv: &'a mut K,
}

/// A tensor library.
pub trait Backend: 'static {
    /// Activations and small parameters.
    type Tensor: Clone;
    /// A weight matrix made ready for products.
    type Matrix;
    /// Rotary angles of one step.
    type Rotation;
    /// Keys and values of one sequence in one layer. Dropping it frees them.
    type Kv;

    /// What it is and runs on, for people: `candle on the CPU, 8 threads`.
    fn describe(&self) -> String;

    /// Bytes one element of the KV cache takes.
    fn kv_element_size(&self) -> usize;

    /// A floating-point parameter as an activation-typed tensor.
    fn parameter(&self, raw: &RawTensor) -> Result<Self::Tensor, BackendError>;

    /// Makes a weight matrix `[out, in]` ready for products. The decoder has
    /// checked that the shapes agree with one another.
    fn matrix(&self, weights: MatrixWeights) -> Result<Self::Matrix, BackendError>;

    /// Rows `ids` of `table` `[vocabulary, hidden]`: `[T, hidden]`. Every id
    /// must be below the number of rows.
    fn embed(&self, table: &Self::Matrix, ids: &[u32]) -> Result<Self::Tensor, BackendError>;

    /// `x` times the transposed `weight`: `[T, in]` to `[T, out]`.
    fn project(
        &self,
        x: &Self::Tensor,
        weight: &Self::Matrix,
    ) -> Result<Self::Tensor, BackendError>;

    /// Root-mean-square norm over the last axis, scaled by `weight`
    /// (Zhang & Sennrich 2019, <https://arxiv.org/abs/1910.07467>).
    fn rms_norm(
        &self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor, BackendError>;

    /// `[T, heads * head_dim]` seen as `[T, heads, head_dim]`.
    fn split_heads(&self, x: &Self::Tensor, heads: usize) -> Result<Self::Tensor, BackendError>;

    /// The angles of tokens at `positions` (one a row of the batch) for the
    /// inverse frequencies `inv_freq` (half of the rotated dimensions).
    fn rotation(&self, positions: &[u32], inv_freq: &[f32])
    -> Result<Self::Rotation, BackendError>;

    /// Rotates `[T, heads, head_dim]`, the two halves of the head paired
    /// (Su et al. 2021, <https://arxiv.org/abs/2104.09864>, in the layout of
    /// GPT-NeoX).
    fn rotate(
        &self,
        x: &Self::Tensor,
        rotation: &Self::Rotation,
    ) -> Result<Self::Tensor, BackendError>;

    /// Empty keys and values for one sequence in one layer.
    fn kv(&self, kv_heads: usize, head_dim: usize) -> Result<Self::Kv, BackendError>;

    /// Appends each span's rows of `k` and `v` (`[T, kv_heads, head_dim]`) to
    /// its sequence, then lets each row of `q` (`[T, heads, head_dim]`)
    /// attend to its own sequence up to itself, scores scaled by `scale`:
    /// `[T, heads * head_dim]`. Heads share key-value heads in equal groups.
    /// The spans' tokens add up to `T`.
    fn attention(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        spans: &mut [Span<'_, Self::Kv>],
        scale: f32,
    ) -> Result<Self::Tensor, BackendError>;

    /// `a + b`, of one shape.
    fn add(&self, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor, BackendError>;

    /// `silu(gate) * up`, of one shape (Shazeer 2020,
    /// <https://arxiv.org/abs/2002.05202>).
    fn swiglu(&self, gate: &Self::Tensor, up: &Self::Tensor) -> Result<Self::Tensor, BackendError>;

    /// The rows of `x` `[T, n]` that `rows` names, in its order.
    fn select_rows(&self, x: &Self::Tensor, rows: &[u32]) -> Result<Self::Tensor, BackendError>;

    /// The elements in row-major order. Waits for the computation.
    fn read(&self, x: &Self::Tensor) -> Result<Vec<f32>, BackendError>;
}
