//! Tensors as files store them: a model's weights, and keys and values. Knows no
//! tensor library.

use std::ops::Range;

use half::{bf16, f16};

use super::Activation;
use crate::blob::Blob;

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
    /// 8-bit unsigned: exponents that groups of mxfp4 weights share.
    U8,
}

impl Dtype {
    /// Bytes an element takes.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::U8 => 1,
        }
    }

    /// Whether the elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }
}

/// A stored tensor: little-endian elements, row-major; weights are still where
/// the file put them.
#[derive(Debug, Clone)]
pub struct RawTensor {
    /// Type of the elements.
    pub dtype: Dtype,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// The elements: exactly the product of `shape` times the element's size.
    pub bytes: Blob,
}

impl RawTensor {
    /// Entries `range` of the first axis, `None` if there are none such.
    pub fn entries(&self, range: Range<usize>) -> Option<Self> {
        let (&count, rest) = self.shape.split_first()?;
        let size = self.bytes.len() / count.max(1);
        Some(Self {
            dtype: self.dtype,
            shape: [&[range.len()], rest].concat(),
            bytes: self.bytes.slice(range.start * size..range.end * size)?,
        })
    }

    /// `[a, b]` as `[b, a]`; a tensor of another rank as it is.
    pub fn transposed(&self) -> Self {
        let &[rows, columns] = self.shape.as_slice() else {
            return self.clone();
        };
        let size = self.dtype.size();
        let mut bytes = Vec::with_capacity(self.bytes.len());
        for column in 0..columns {
            for row in 0..rows {
                bytes.extend_from_slice(&self.bytes[(row * columns + column) * size..][..size]);
            }
        }
        Self {
            dtype: self.dtype,
            shape: vec![columns, rows],
            bytes: bytes.into(),
        }
    }

    /// The elements of a floating-point tensor.
    ///
    /// # Errors
    /// If they are integers.
    pub(in crate::backend) fn to_f32(&self) -> Result<Vec<f32>, String> {
        let halves = || self.bytes.as_chunks().0.iter().copied();
        Ok(match self.dtype {
            Dtype::F32 => {
                let words = self.bytes.as_chunks().0.iter();
                words.map(|&bytes| f32::from_le_bytes(bytes)).collect()
            }
            Dtype::F16 => halves().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::Bf16 => halves().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            Dtype::U32 | Dtype::U8 => return Err("integers where numbers belong".to_owned()),
        })
    }

    /// Entry `index` of the first axis, `None` if there is none such.
    pub fn entry(&self, index: usize) -> Option<Self> {
        let (&count, shape) = self.shape.split_first()?;
        let size = self.bytes.len() / count.max(1);
        Some(Self {
            dtype: self.dtype,
            shape: shape.to_vec(),
            bytes: self.bytes.slice(index * size..(index + 1) * size)?,
        })
    }
}

/// The keys and values of a sequence's first tokens in one layer, as any
/// backend of the same element type can go on with them.
#[derive(Debug, Clone)]
pub struct RawKv {
    /// `[tokens, kv_heads, head_dim]`, rotated.
    pub keys: RawTensor,
    /// `[tokens, kv_heads, head_dim]`.
    pub values: RawTensor,
}

/// A weight matrix `[out, in]` as stored; of experts, `[experts, out, in]`.
#[derive(Debug, Clone)]
pub enum MatrixWeights {
    /// Floating-point elements.
    Dense(RawTensor),
    /// MLX's affine quantization: row by row, groups of `group_size` weights
    /// share a scale and a bias, and a weight is `scale * q + bias` with `q`
    /// an unsigned number of `bits` bits. A row is one string of bits, the
    /// lowest of each byte first.
    Affine {
        /// `[…, out, in * bits / 32]`, [`Dtype::U32`].
        packed: RawTensor,
        /// `[…, out, in / group_size]`, floating point.
        scales: RawTensor,
        /// `[…, out, in / group_size]`, floating point.
        biases: RawTensor,
        /// Weights in a group: 32, 64 or 128.
        group_size: usize,
        /// Bits of a weight: 2, 3, 4, 5, 6 or 8.
        bits: usize,
    },
    /// MXFP4 of the OCP Microscaling formats 1.0
    /// (<https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf>):
    /// groups of 32 four-bit floats (E2M1) share a power of two (E8M0).
    Mxfp4 {
        /// `[…, out, in / 8]`, [`Dtype::U32`], packed low bits first.
        packed: RawTensor,
        /// `[…, out, in / 32]`, [`Dtype::U8`]: exponents, biased by 127.
        scales: RawTensor,
    },
}

impl MatrixWeights {
    /// The matrix of one of the experts, `None` if there is none such.
    pub fn expert(&self, index: usize) -> Option<Self> {
        self.each(|raw| raw.entry(index))
    }

    /// Rows `range` of `[out, in]`, `None` if there are none such.
    pub fn rows(&self, range: Range<usize>) -> Option<Self> {
        self.each(|raw| raw.entries(range.clone()))
    }

    /// The same format with another part of each of its tensors.
    fn each(&self, part: impl Fn(&RawTensor) -> Option<RawTensor>) -> Option<Self> {
        Some(match self {
            Self::Dense(raw) => Self::Dense(part(raw)?),
            Self::Affine {
                packed,
                scales,
                biases,
                group_size,
                bits,
            } => Self::Affine {
                packed: part(packed)?,
                scales: part(scales)?,
                biases: part(biases)?,
                group_size: *group_size,
                bits: *bits,
            },
            Self::Mxfp4 { packed, scales } => Self::Mxfp4 {
                packed: part(packed)?,
                scales: part(scales)?,
            },
        })
    }
}

/// The gated MLPs of a layer's experts, as stored.
#[derive(Debug, Clone)]
pub struct ExpertWeights {
    /// `[experts, intermediate, hidden]`.
    pub gate: MatrixWeights,
    /// `[experts, intermediate, hidden]`.
    pub up: MatrixWeights,
    /// `[experts, hidden, intermediate]`.
    pub down: MatrixWeights,
    /// What is added to each of the three products.
    pub biases: Option<ExpertBiases>,
    /// What the gate goes through.
    pub activation: Activation,
    /// How many there are.
    pub count: usize,
}

/// What is added to the products of a layer's experts, as stored.
#[derive(Debug, Clone)]
pub struct ExpertBiases {
    /// `[experts, intermediate]`.
    pub gate: RawTensor,
    /// `[experts, intermediate]`.
    pub up: RawTensor,
    /// `[experts, hidden]`.
    pub down: RawTensor,
}
