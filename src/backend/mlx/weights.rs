//! Weight matrices, and rows of the table that embeds tokens.

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::take_axis;
use mlx_rs::transforms::eval;
use mlx_rs::{Array, DeviceType, Dtype, ops};

use super::array::{from_raw, length};
use super::memory::Memory;
use super::sys;
use crate::backend::{BackendError, MatrixWeights};

/// A weight matrix `[out, in]`; of experts, `[experts, out, in]`.
pub enum Matrix {
    Dense(Dense),
    Affine(Affine),
    Mxfp4(Mxfp4),
}

pub struct Dense {
    /// `[…, out, in]`.
    weight: Array,
    /// The same seen as `[…, in, out]`.
    transposed: Array,
}

pub struct Affine {
    packed: Array,
    scales: Array,
    biases: Array,
    group_size: i32,
    bits: i32,
}

pub struct Mxfp4 {
    packed: Array,
    scales: Array,
}

impl Matrix {
    pub(super) fn load(weights: &MatrixWeights, memory: &Memory) -> Result<Self, BackendError> {
        let array = |raw| from_raw(raw, memory);
        Ok(match weights {
            MatrixWeights::Dense(raw) => {
                let weight = array(raw)?;
                let transposed = weight.swap_axes(-1, -2).map_err(super::failed("load"))?;
                Self::Dense(Dense { weight, transposed })
            }
            MatrixWeights::Affine {
                packed,
                scales,
                biases,
                group_size,
                bits,
            } => Self::Affine(Affine {
                packed: array(packed)?,
                scales: array(scales)?,
                biases: array(biases)?,
                group_size: length(*group_size, "load")?,
                bits: length(*bits, "load")?,
            }),
            MatrixWeights::Mxfp4 { packed, scales } => Self::Mxfp4(Mxfp4 {
                packed: array(packed)?,
                scales: array(scales)?,
            }),
        })
    }

    /// The same for [`Self::project_by`], where MLX's CPU build knows no other
    /// floats than f32.
    pub(super) fn load_experts(
        weights: &MatrixWeights,
        memory: &Memory,
    ) -> Result<Self, BackendError> {
        let matrix = Self::load(weights, memory)?;
        let Self::Dense(dense) = &matrix else {
            return Ok(matrix);
        };
        if matches!(memory.device(), DeviceType::Gpu) || dense.weight.dtype() == Dtype::Float32 {
            return Ok(matrix);
        }
        let widen = || {
            let weight = dense.weight.as_dtype(Dtype::Float32)?;
            eval([&weight])?;
            let transposed = weight.swap_axes(-1, -2)?;
            Ok(Self::Dense(Dense { weight, transposed }))
        };
        widen().map_err(super::failed("load"))
    }

    /// Rows `ids` `[n]`: `[n, in]`.
    pub(super) fn rows(&self, ids: &Array) -> Result<Array, Exception> {
        let rows = |table: &Array| take_axis(table, ids, 0);
        match self {
            Self::Dense(dense) => rows(&dense.weight),
            Self::Affine(affine) => ops::dequantize(
                rows(&affine.packed)?,
                rows(&affine.scales)?,
                &rows(&affine.biases)?,
                affine.group_size,
                affine.bits,
            ),
            Self::Mxfp4(Mxfp4 { packed, scales }) => {
                sys::mxfp4_dequantize(&rows(packed)?, &rows(scales)?)
            }
        }
    }

    /// `[T, in]` to `[T, out]`.
    pub(super) fn project(&self, x: &Array) -> Result<Array, Exception> {
        match self {
            Self::Dense(dense) => x.matmul(&dense.transposed),
            Self::Affine(affine) => ops::quantized_matmul(
                x,
                &affine.packed,
                &affine.scales,
                &affine.biases,
                true,
                affine.group_size,
                affine.bits,
            ),
            Self::Mxfp4(Mxfp4 { packed, scales }) => sys::mxfp4_matmul(x, packed, scales),
        }
    }

    /// `[n, 1, in]` to `[n, 1, out]`, each row by the matrix of the expert
    /// that `experts` `[n]` names; `sorted` if those never fall.
    pub(super) fn project_by(
        &self,
        x: &Array,
        experts: &Array,
        sorted: bool,
    ) -> Result<Array, Exception> {
        match self {
            Self::Dense(dense) => ops::gather_mm(x, &dense.transposed, None, experts, sorted),
            Self::Affine(affine) => ops::gather_qmm(
                x,
                &affine.packed,
                &affine.scales,
                &affine.biases,
                None,
                experts,
                true,
                affine.group_size,
                affine.bits,
                sorted,
            ),
            Self::Mxfp4(Mxfp4 { packed, scales }) => {
                sys::mxfp4_gather_matmul(x, packed, scales, experts, sorted)
            }
        }
    }
}
