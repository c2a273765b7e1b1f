//! Weight matrices: products with activations, and rows of the table that
//! embeds tokens.
//!
//! On the CPU the elements stay where the file was mapped and rows are
//! unpacked on the way into a product, so a model takes the memory of its
//! file and loading it reads nothing twice.

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module, Result, Tensor};
use half::f16;
use rayon::prelude::*;

use super::dense;
use super::packed::PackedRows;
use super::product;
use crate::backend::{MatrixWeights, RawTensor};

/// A weight matrix `[out, in]`.
pub struct Matrix {
    rows: PackedRows,
    /// The same weights on a GPU, where there is one.
    device: Option<DeviceMatrix>,
}

impl Matrix {
    pub(super) fn load(weights: MatrixWeights, device: &Device, dtype: DType) -> Result<Self> {
        let on_device = match device {
            Device::Cpu => None,
            gpu => Some(DeviceMatrix::load(&weights, gpu, dtype)?),
        };
        Ok(Self {
            rows: PackedRows::new(weights)?,
            device: on_device,
        })
    }

    /// Rows `ids` as `[ids, in]`.
    pub(super) fn rows(&self, ids: &[u32], device: &Device, dtype: DType) -> Result<Tensor> {
        let columns = self.rows.columns;
        let mut values = vec![0.0; ids.len() * columns];
        for (&id, out) in ids.iter().zip(values.chunks_exact_mut(columns)) {
            if id as usize >= self.rows.count {
                candle_core::bail!("row {id} of a table of {}", self.rows.count);
            }
            self.rows.unpack(id as usize, out);
        }
        Tensor::from_vec(values, (ids.len(), columns), device)?.to_dtype(dtype)
    }

    /// `[T, in]` to `[T, out]`.
    pub(super) fn project(&self, x: &Tensor) -> Result<Tensor> {
        match &self.device {
            Some(matrix) => matrix.project(x),
            None => product::project(&self.rows, x),
        }
    }
}

/// The elements of a stored floating-point tensor.
pub(super) fn to_f32(raw: &RawTensor) -> Result<Vec<f32>> {
    dense(raw, &Device::Cpu)?
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1()
}

/// A weight matrix on a GPU.
enum DeviceMatrix {
    /// `[in, out]` in the activations' type.
    Dense(Tensor),
    /// Blocks of a type that candle has GPU kernels for.
    Blocks(QMatMul),
}

impl DeviceMatrix {
    fn load(weights: &MatrixWeights, device: &Device, dtype: DType) -> Result<Self> {
        let dense = match weights {
            MatrixWeights::Dense(raw) => dense(raw, device)?,
            MatrixWeights::Affine {
                packed,
                scales,
                biases,
                group_size,
                bits: 4,
            } if group_size % 32 == 0 => {
                let shape = (packed.shape[0], packed.shape[1] * 8);
                let blocks = q4_1(packed, &to_f32(scales)?, &to_f32(biases)?, *group_size);
                let storage = QStorage::from_data(blocks.into(), device, GgmlDType::Q4_1)?;
                return Ok(Self::Blocks(QMatMul::from_qtensor(QTensor::new(
                    storage, shape,
                )?)?));
            }
            // ggml has no such blocks on all devices, so these weights are
            // unpacked.
            MatrixWeights::Affine { .. } | MatrixWeights::Mxfp4 { .. } => {
                let rows = PackedRows::new(weights.clone())?;
                let mut values = vec![0.0; rows.count * rows.columns];
                values
                    .par_chunks_mut(rows.columns)
                    .enumerate()
                    .for_each(|(row, out)| rows.unpack(row, out));
                Tensor::from_vec(values, (rows.count, rows.columns), &Device::Cpu)?
                    .to_dtype(dtype)?
                    .to_device(device)?
            }
        };
        Ok(Self::Dense(dense.to_dtype(dtype)?.t()?.contiguous()?))
    }

    fn project(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(transposed) => x.matmul(transposed),
            Self::Blocks(blocks) => blocks
                .forward(&x.to_dtype(DType::F32)?)?
                .to_dtype(x.dtype()),
        }
    }
}

/// MLX's 4-bit groups as ggml's Q4_1 blocks of 32: a half-precision scale and
/// minimum, then 16 bytes that hold weight `j` low and weight `j + 16` high.
/// A group's scale and bias are repeated in each of its blocks.
fn q4_1(packed: &RawTensor, scales: &[f32], biases: &[f32], group_size: usize) -> Vec<u8> {
    let mut blocks = Vec::with_capacity(packed.bytes.len() / 16 * 20);
    for (index, bytes) in packed.bytes.chunks_exact(16).enumerate() {
        let group = index * 32 / group_size;
        blocks.extend(f16::from_f32(scales[group]).to_le_bytes());
        blocks.extend(f16::from_f32(biases[group]).to_le_bytes());
        let weight = |i: usize| (bytes[i / 2] >> (4 * (i % 2))) & 15;
        blocks.extend((0..16).map(|j| weight(j) | weight(j + 16) << 4));
    }
    blocks
}

#[cfg(test)]
mod tests;
