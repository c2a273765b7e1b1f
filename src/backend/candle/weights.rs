//! Weight matrices: products with activations, and rows of the table that
//! embeds tokens.
//!
//! On the CPU four- and eight-bit weights are repacked into tiles for integer
//! products. Others stay where the file was mapped and rows are unpacked on
//! the way into a product. Either way a model takes the memory of its file.

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module, Result, Tensor};
use half::f16;
use rayon::prelude::*;

use super::dense;
use super::packed::PackedRows;
use super::product;
use super::tiles::{self, Scales, Stored, Tiles};
use super::{Candle, Products, with_elements};
use crate::backend::{Dtype, MatrixWeights, RawTensor};

/// A weight matrix `[out, in]`.
pub struct Matrix {
    rows: Rows,
    /// The same weights on a GPU, where there is one.
    device: Option<DeviceMatrix>,
}

/// A weight matrix on the CPU.
enum Rows {
    Tiles(Tiles),
    Packed(PackedRows),
}

impl Matrix {
    pub(super) fn load(weights: MatrixWeights, candle: &Candle) -> Result<Self> {
        let (device, tiles) = match (&candle.device, candle.products) {
            (Device::Cpu, Products::Rounded) if tiles::are_fast() => (None, in_tiles(&weights)),
            (Device::Cpu, _) => (None, None),
            (gpu, _) => (Some(DeviceMatrix::load(&weights, gpu, candle.dtype)?), None),
        };
        Ok(Self {
            rows: match tiles {
                Some(tiles) => Rows::Tiles(tiles),
                None => Rows::Packed(PackedRows::new(weights)?),
            },
            device,
        })
    }

    /// Rows `ids` as `[ids, in]`.
    pub(super) fn rows(&self, ids: &[u32], device: &Device, dtype: DType) -> Result<Tensor> {
        let (count, columns) = match &self.rows {
            Rows::Tiles(tiles) => (tiles.count, tiles.columns),
            Rows::Packed(rows) => (rows.count, rows.columns),
        };
        let mut values = vec![0.0; ids.len() * columns];
        for (&id, out) in ids.iter().zip(values.chunks_exact_mut(columns)) {
            let row = id as usize;
            if row >= count {
                candle_core::bail!("row {id} of a table of {count}");
            }
            match &self.rows {
                Rows::Tiles(tiles) => tiles.unpack(row, out),
                Rows::Packed(rows) => rows.unpack(row, out),
            }
        }
        Tensor::from_vec(values, (ids.len(), columns), device)?.to_dtype(dtype)
    }

    /// `[T, in]` to `[T, out]`.
    pub(super) fn project(&self, x: &Tensor) -> Result<Tensor> {
        match &self.device {
            Some(matrix) => matrix.project(x),
            None => match &self.rows {
                Rows::Tiles(tiles) => {
                    let (tokens, columns) = x.dims2()?;
                    if columns != tiles.columns {
                        candle_core::bail!("{columns} columns meet weights of {}", tiles.columns);
                    }
                    let product = with_elements(x, |x| Ok(tiles::project(tiles, x)))?;
                    Tensor::from_vec(product, (tokens, tiles.count), &Device::Cpu)
                }
                Rows::Packed(rows) => product::project(rows, x),
            },
        }
    }
}

/// The weights in tiles, where there are such for their kind.
fn in_tiles(weights: &MatrixWeights) -> Option<Tiles> {
    let MatrixWeights::Affine {
        packed,
        scales,
        biases,
        group_size,
        bits,
    } = weights
    else {
        return None;
    };
    let scales_are = match (scales.dtype, biases.dtype) {
        (Dtype::Bf16, Dtype::Bf16) => Scales::Bf16,
        (Dtype::F16, Dtype::F16) => Scales::F16,
        (Dtype::F32, Dtype::F32) => Scales::F32,
        _ => return None,
    };
    let [count, words] = packed.shape[..] else {
        return None;
    };
    Tiles::new(&Stored {
        count,
        columns: words * 32 / bits,
        bits: *bits,
        group_size: *group_size,
        weights: &packed.bytes,
        scales_are,
        scales: &scales.bytes,
        biases: &biases.bytes,
    })
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
