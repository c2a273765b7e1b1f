//! Weight matrices, and rows of the table that embeds tokens.

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::take_axis;
use mlx_rs::{Array, ops};

use super::array::{from_raw, length};
use super::memory::Memory;
use super::sys;
use crate::backend::{BackendError, MatrixWeights};

/// A weight matrix `[out, in]`; of experts, `[experts, out, in]`.
pub enum Matrix {
    Dense {
        /// `[…, out, in]`.
        weight: Array,
        /// The same seen as `[…, in, out]`.
        transposed: Array,
    },
    Affine {
        packed: Array,
        scales: Array,
        biases: Array,
        group_size: i32,
        bits: i32,
    },
    Mxfp4 {
        packed: Array,
        scales: Array,
    },
}

impl Matrix {
    pub(super) fn load(weights: &MatrixWeights, memory: &Memory) -> Result<Self, BackendError> {
        Ok(match weights {
            MatrixWeights::Dense(raw) => {
                let weight = from_raw(raw, memory)?;
                let transposed = weight.swap_axes(-1, -2).map_err(super::failed("load"))?;
                Self::Dense { weight, transposed }
            }
            MatrixWeights::Affine {
                packed,
                scales,
                biases,
                group_size,
                bits,
            } => Self::Affine {
                packed: from_raw(packed, memory)?,
                scales: from_raw(scales, memory)?,
                biases: from_raw(biases, memory)?,
                group_size: length(*group_size, "load")?,
                bits: length(*bits, "load")?,
            },
            MatrixWeights::Mxfp4 { packed, scales } => Self::Mxfp4 {
                packed: from_raw(packed, memory)?,
                scales: from_raw(scales, memory)?,
            },
        })
    }

    /// Rows `ids` `[n]`: `[n, in]`.
    pub(super) fn rows(&self, ids: &Array) -> Result<Array, Exception> {
        let rows = |table: &Array| take_axis(table, ids, 0);
        match self {
            Self::Dense { weight, .. } => rows(weight),
            Self::Affine {
                packed,
                scales,
                biases,
                group_size,
                bits,
            } => ops::dequantize(
                rows(packed)?,
                rows(scales)?,
                &rows(biases)?,
                *group_size,
                *bits,
            ),
            Self::Mxfp4 { packed, scales } => sys::mxfp4_dequantize(&rows(packed)?, &rows(scales)?),
        }
    }

    /// `[T, in]` to `[T, out]`.
    pub(super) fn project(&self, x: &Array) -> Result<Array, Exception> {
        match self {
            Self::Dense { transposed, .. } => x.matmul(transposed),
            Self::Affine {
                packed,
                scales,
                biases,
                group_size,
                bits,
            } => ops::quantized_matmul(x, packed, scales, biases, true, *group_size, *bits),
            Self::Mxfp4 { packed, scales } => sys::mxfp4_matmul(x, packed, scales),
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
            Self::Dense { transposed, .. } => ops::gather_mm(x, transposed, None, experts, sorted),
            Self::Affine {
                packed,
                scales,
                biases,
                group_size,
                bits,
            } => ops::gather_qmm(
                x,
                packed,
                scales,
                biases,
                None,
                experts,
                true,
                *group_size,
                *bits,
                sorted,
            ),
            Self::Mxfp4 { packed, scales } => {
                sys::mxfp4_gather_matmul(x, packed, scales, experts, sorted)
            }
        }
    }
}
