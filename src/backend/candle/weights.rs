//! Weight matrices: products with activations, and rows of the table that
//! embeds tokens.
//!
//! On the CPU the elements stay where the file was mapped and rows are
//! unpacked on the way into a product, so a model takes the memory of its
//! file and loading it reads nothing twice.

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module, Result, Tensor};
use half::f16;
use pulp::Arch;
use rayon::prelude::*;

use super::dense;
use crate::backend::{Dtype, MatrixWeights, RawTensor};
use crate::blob::Blob;

/// From this many tokens on, unpacked blocks go through candle's blocked
/// product; below it the unpacking would cost more than the product.
const BLOCKED_FROM: usize = 8;

/// Rows unpacked at a time for the blocked product: 4 MiB at 1,024 columns.
const BLOCK_ROWS: usize = 1024;

/// Rows a thread takes at a time for few tokens.
const CHUNK_ROWS: usize = 16;

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
            None => self.rows.project(x),
        }
    }
}

/// Rows of a matrix as they are stored.
struct PackedRows {
    /// `out`.
    count: usize,
    /// `in`.
    columns: usize,
    /// The elements; each row is `row_bytes` long.
    bytes: Blob,
    row_bytes: usize,
    format: Format,
    /// The instruction set of this machine.
    arch: Arch,
}

/// How the elements of a row are stored.
enum Format {
    F32,
    F16,
    Bf16,
    /// See [`MatrixWeights::Affine`].
    Affine {
        bits: AffineBits,
        group_size: usize,
        /// `(scale, bias)` of each group, `[out, in / group_size]`.
        groups: Vec<(f32, f32)>,
    },
}

#[derive(Clone, Copy)]
enum AffineBits {
    Four,
    Eight,
}

impl PackedRows {
    fn new(weights: MatrixWeights) -> Result<Self> {
        let (elements, columns, format) = match weights {
            MatrixWeights::Dense(raw) => {
                let format = match raw.dtype {
                    Dtype::F32 => Format::F32,
                    Dtype::F16 => Format::F16,
                    Dtype::Bf16 => Format::Bf16,
                    Dtype::U32 => candle_core::bail!("integers are not weights"),
                };
                let columns = raw.shape[1];
                (raw, columns, format)
            }
            MatrixWeights::Affine {
                packed,
                scales,
                biases,
                group_size,
                bits,
            } => {
                let columns = packed.shape[1] * 32 / bits;
                let bits = match bits {
                    4 => AffineBits::Four,
                    8 => AffineBits::Eight,
                    other => candle_core::bail!("{other}-bit weights"),
                };
                let groups = to_f32(&scales)?.into_iter().zip(to_f32(&biases)?).collect();
                let format = Format::Affine {
                    bits,
                    group_size,
                    groups,
                };
                (packed, columns, format)
            }
        };
        let count = elements.shape[0];
        let row_bytes = elements.shape[1] * elements.dtype.size();
        assert_eq!(
            elements.bytes.len(),
            count * row_bytes,
            "a raw tensor holds its shape"
        );
        Ok(Self {
            count,
            columns,
            bytes: elements.bytes,
            row_bytes,
            format,
            arch: Arch::new(),
        })
    }

    /// Row `row` as `f32` into `out`, which is `columns` long.
    fn unpack(&self, row: usize, out: &mut [f32]) {
        self.arch.dispatch(|| self.unpack_inline(row, out));
    }

    #[inline(always)]
    fn unpack_inline(&self, row: usize, out: &mut [f32]) {
        let bytes = &self.bytes[row * self.row_bytes..][..self.row_bytes];
        match &self.format {
            Format::F32 => {
                for (out, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *out = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            Format::F16 => {
                for (out, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *out = f16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
            Format::Bf16 => {
                for (out, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *out = f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
                }
            }
            Format::Affine {
                bits,
                group_size,
                groups,
            } => {
                let per_row = self.columns / group_size;
                let groups = &groups[row * per_row..][..per_row];
                let group_bytes = self.row_bytes / per_row;
                for ((out, bytes), &(scale, bias)) in out
                    .chunks_exact_mut(*group_size)
                    .zip(bytes.chunks_exact(group_bytes))
                    .zip(groups)
                {
                    match bits {
                        AffineBits::Four => {
                            for (out, &byte) in out.chunks_exact_mut(2).zip(bytes) {
                                out[0] = f32::from(byte & 15) * scale + bias;
                                out[1] = f32::from(byte >> 4) * scale + bias;
                            }
                        }
                        AffineBits::Eight => {
                            for (out, &byte) in out.iter_mut().zip(bytes) {
                                *out = f32::from(byte) * scale + bias;
                            }
                        }
                    }
                }
            }
        }
    }

    fn project(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, columns) = x.dims2()?;
        if columns != self.columns {
            candle_core::bail!("{columns} columns meet weights of {}", self.columns);
        }
        if tokens < BLOCKED_FROM {
            self.project_few(x, tokens)
        } else {
            self.project_blocked(x)
        }
    }

    /// Row by row: unpacked once, multiplied with every token.
    fn project_few(&self, x: &Tensor, tokens: usize) -> Result<Tensor> {
        let x: Vec<f32> = x.flatten_all()?.to_vec1()?;
        // Transposed, so that every chunk of rows writes its own part.
        let mut transposed = vec![0.0; self.count * tokens];
        transposed
            .par_chunks_mut(CHUNK_ROWS * tokens)
            .enumerate()
            .for_each_init(
                || vec![0.0; self.columns],
                |row_buffer, (chunk, out)| {
                    self.arch.dispatch(|| {
                        for (offset, out) in out.chunks_exact_mut(tokens).enumerate() {
                            self.unpack_inline(chunk * CHUNK_ROWS + offset, row_buffer);
                            for (out, x) in out.iter_mut().zip(x.chunks_exact(self.columns)) {
                                *out = dot(row_buffer, x);
                            }
                        }
                    });
                },
            );
        Tensor::from_vec(transposed, (self.count, tokens), &Device::Cpu)?
            .t()?
            .contiguous()
    }

    /// Block by block: unpacked once, then candle's blocked product.
    fn project_blocked(&self, x: &Tensor) -> Result<Tensor> {
        let mut outputs = Vec::with_capacity(self.count.div_ceil(BLOCK_ROWS));
        for start in (0..self.count).step_by(BLOCK_ROWS) {
            let rows = BLOCK_ROWS.min(self.count - start);
            let mut block = vec![0.0; rows * self.columns];
            block
                .par_chunks_mut(self.columns)
                .enumerate()
                .for_each(|(offset, out)| self.unpack(start + offset, out));
            let block = Tensor::from_vec(block, (rows, self.columns), &Device::Cpu)?;
            outputs.push(x.matmul(&block.t()?)?);
        }
        match outputs.len() {
            1 => Ok(outputs.swap_remove(0)),
            _ => Tensor::cat(&outputs, 1),
        }
    }
}

/// The sum of products. Sixteen partial sums let the compiler use whatever
/// vector width the caller was compiled for.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// The elements of a stored floating-point tensor.
fn to_f32(raw: &RawTensor) -> Result<Vec<f32>> {
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
            // ggml's 8-bit blocks have no bias, so these weights are unpacked.
            MatrixWeights::Affine { .. } => {
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
