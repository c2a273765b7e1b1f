//! Weight matrices on a GPU: products with activations, and rows of the table
//! that embeds tokens, which stay in the host's memory besides.

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Error, Module, Result, Tensor};
use half::f16;

use super::{Candle, dense};
use crate::backend::packed::PackedRows;
use crate::backend::threads::Threads;
use crate::backend::{MatrixWeights, RawTensor};

/// A weight matrix `[out, in]`.
pub struct Matrix {
    rows: PackedRows,
    device: DeviceMatrix,
}

impl Matrix {
    pub(super) fn load(weights: MatrixWeights, candle: &Candle) -> Result<Self> {
        let device = DeviceMatrix::load(&weights, candle)?;
        Ok(Self {
            rows: PackedRows::new(weights).map_err(Error::msg)?,
            device,
        })
    }

    /// Rows `ids` as `[ids, in]`.
    pub(super) fn rows(&self, ids: &[u32], device: &Device, dtype: DType) -> Result<Tensor> {
        let (count, columns) = (self.rows.count, self.rows.columns);
        let mut values = vec![0.0; ids.len() * columns];
        for (&id, out) in ids.iter().zip(values.chunks_exact_mut(columns)) {
            let row = id as usize;
            if row >= count {
                candle_core::bail!("row {id} of a table of {count}");
            }
            self.rows.unpack(row, out);
        }
        Tensor::from_vec(values, (ids.len(), columns), device)?.to_dtype(dtype)
    }

    /// `[T, in]` to `[T, out]`.
    pub(super) fn project(&self, x: &Tensor) -> Result<Tensor> {
        match &self.device {
            DeviceMatrix::Dense(transposed) => x.matmul(transposed),
            DeviceMatrix::Blocks(blocks) => blocks
                .forward(&x.to_dtype(DType::F32)?)?
                .to_dtype(x.dtype()),
        }
    }
}

/// The weights as the device multiplies them.
enum DeviceMatrix {
    /// `[in, out]` in the activations' type.
    Dense(Tensor),
    /// Blocks of a type that candle has GPU kernels for.
    Blocks(QMatMul),
}

impl DeviceMatrix {
    fn load(weights: &MatrixWeights, candle: &Candle) -> Result<Self> {
        let (device, dtype) = (&candle.device, candle.dtype);
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
                let (scales, biases) = (to_f32(scales)?, to_f32(biases)?);
                let blocks = q4_1(packed, &scales, &biases, *group_size);
                let storage = QStorage::from_data(blocks.into(), device, GgmlDType::Q4_1)?;
                return Ok(Self::Blocks(QMatMul::from_qtensor(QTensor::new(
                    storage, shape,
                )?)?));
            }
            // ggml has no such blocks on all devices, so these weights are
            // unpacked.
            MatrixWeights::Affine { .. } | MatrixWeights::Mxfp4 { .. } => {
                unpacked(weights, &candle.threads)?
                    .to_dtype(dtype)?
                    .to_device(device)?
            }
        };
        Ok(Self::Dense(dense.to_dtype(dtype)?.t()?.contiguous()?))
    }
}

fn to_f32(raw: &RawTensor) -> Result<Vec<f32>> {
    raw.to_f32().map_err(Error::msg)
}

/// The weights as `f32` in the host's memory.
fn unpacked(weights: &MatrixWeights, threads: &Threads) -> Result<Tensor> {
    let rows = PackedRows::new(weights.clone()).map_err(Error::msg)?;
    let mut values = vec![0.0; rows.count * rows.columns];
    threads.for_each_chunk(&mut values, rows.columns, |row, out| rows.unpack(row, out));
    Tensor::from_vec(values, (rows.count, rows.columns), &Device::Cpu)
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
