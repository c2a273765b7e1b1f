//! Weight matrices on the CPU: rows left as they are stored, and unpacked on
//! the way into a product.

use candle_core::{Device, Result, Tensor};
use half::f16;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::weights::to_f32;
use crate::backend::{Dtype, MatrixWeights};
use crate::blob::Blob;

/// From this many tokens on, unpacked blocks go through candle's blocked
/// product; below it the unpacking would cost more than the product.
const BLOCKED_FROM: usize = 16;

/// Rows unpacked at a time for the blocked product: 4 MiB at 1,024 columns.
const BLOCK_ROWS: usize = 1024;

/// Rows a thread takes at a time for few tokens.
const CHUNK_ROWS: usize = 16;

/// Rows of a matrix as they are stored.
pub(super) struct PackedRows {
    /// `out`.
    pub(super) count: usize,
    /// `in`.
    pub(super) columns: usize,
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
        bits: usize,
        group_size: usize,
        /// Of each group, `[out, in / group_size]`.
        scales: Vec<f32>,
        /// Of each group, `[out, in / group_size]`.
        biases: Vec<f32>,
    },
    /// See [`MatrixWeights::Mxfp4`].
    Mxfp4 {
        /// Of each group, `[out, in / 32]`.
        scales: Vec<f32>,
    },
}

/// What the 16 values of a four-bit float (E2M1) stand for.
const E2M1: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// The power of two that an E8M0 exponent stands for.
fn e8m0(exponent: u8) -> f32 {
    match exponent {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(exponent) << 23),
    }
}

impl PackedRows {
    pub(super) fn new(weights: MatrixWeights) -> Result<Self> {
        let (elements, columns, format) = match weights {
            MatrixWeights::Dense(raw) => {
                let format = match raw.dtype {
                    Dtype::F32 => Format::F32,
                    Dtype::F16 => Format::F16,
                    Dtype::Bf16 => Format::Bf16,
                    Dtype::U32 | Dtype::U8 => candle_core::bail!("integers are not weights"),
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
                let format = Format::Affine {
                    bits,
                    group_size,
                    scales: to_f32(&scales)?,
                    biases: to_f32(&biases)?,
                };
                (packed, columns, format)
            }
            MatrixWeights::Mxfp4 { packed, scales } => {
                let columns = packed.shape[1] * 8;
                let scales = scales.bytes.iter().map(|&byte| e8m0(byte)).collect();
                (packed, columns, Format::Mxfp4 { scales })
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
    pub(super) fn unpack(&self, row: usize, out: &mut [f32]) {
        self.arch.dispatch(UnpackRow {
            rows: self,
            row,
            out,
        });
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
                scales,
                biases,
            } => {
                let per_row = self.columns / group_size;
                let first = row * per_row;
                let group_bytes = self.row_bytes / per_row;
                for (((out, bytes), &scale), &bias) in out
                    .chunks_exact_mut(*group_size)
                    .zip(bytes.chunks_exact(group_bytes))
                    .zip(&scales[first..first + per_row])
                    .zip(&biases[first..first + per_row])
                {
                    match *bits {
                        4 => {
                            for (out, &byte) in out.chunks_exact_mut(2).zip(bytes) {
                                out[0] = f32::from(byte & 15) * scale + bias;
                                out[1] = f32::from(byte >> 4) * scale + bias;
                            }
                        }
                        8 => {
                            for (out, &byte) in out.iter_mut().zip(bytes) {
                                *out = f32::from(byte) * scale + bias;
                            }
                        }
                        // Eight weights fill as many bytes as they have bits.
                        bits => {
                            let mask = (1u64 << bits) - 1;
                            for (out, bytes) in
                                out.chunks_exact_mut(8).zip(bytes.chunks_exact(bits))
                            {
                                let mut word = 0u64;
                                for &byte in bytes.iter().rev() {
                                    word = word << 8 | u64::from(byte);
                                }
                                for out in out {
                                    *out = (word & mask) as f32 * scale + bias;
                                    word >>= bits;
                                }
                            }
                        }
                    }
                }
            }
            Format::Mxfp4 { scales } => {
                let per_row = self.columns / 32;
                let groups = out.chunks_exact_mut(32).zip(bytes.chunks_exact(16));
                for ((out, bytes), &scale) in groups.zip(&scales[row * per_row..]) {
                    for (out, &byte) in out.chunks_exact_mut(2).zip(bytes) {
                        out[0] = E2M1[usize::from(byte & 15)] * scale;
                        out[1] = E2M1[usize::from(byte >> 4)] * scale;
                    }
                }
            }
        }
    }

    pub(super) fn project(&self, x: &Tensor) -> Result<Tensor> {
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

    /// Row by row, each multiplied with every token.
    fn project_few(&self, x: &Tensor, tokens: usize) -> Result<Tensor> {
        let x = Activations::new(x.flatten_all()?.to_vec1()?, self);
        // Transposed, so that every chunk of rows writes its own part.
        let mut transposed = vec![0.0; self.count * tokens];
        transposed
            .par_chunks_mut(CHUNK_ROWS * tokens)
            .enumerate()
            .for_each_init(
                || vec![0.0; self.columns],
                |buffer, (chunk, out)| {
                    self.arch.dispatch(MultiplyRows {
                        rows: self,
                        first: chunk * CHUNK_ROWS,
                        x: &x,
                        buffer,
                        out,
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

/// [`PackedRows::unpack`] with this machine's vector instructions.
struct UnpackRow<'a> {
    rows: &'a PackedRows,
    row: usize,
    out: &'a mut [f32],
}

impl WithSimd for UnpackRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        self.rows.unpack_inline(self.row, self.out);
    }
}

/// Activations of few tokens, as the products below read them.
struct Activations {
    /// `[tokens, columns]`. For 4-bit weights the even columns of a token come
    /// first, then the odd ones: a byte of weights holds one of each, so that
    /// neither needs shuffling.
    values: Vec<f32>,
    /// `[tokens, groups]`: the sums over the groups of 4-bit weights, which
    /// are what the groups' biases are multiplied with.
    sums: Vec<f32>,
}

impl Activations {
    fn new(values: Vec<f32>, rows: &PackedRows) -> Self {
        let Format::Affine {
            bits: 4,
            group_size,
            ..
        } = &rows.format
        else {
            let sums = Vec::new();
            return Self { values, sums };
        };
        let every_other = |token: &[f32], first: usize| -> Vec<f32> {
            token.iter().skip(first).step_by(2).copied().collect()
        };
        Self {
            sums: values
                .chunks_exact(*group_size)
                .map(|group| group.iter().sum())
                .collect(),
            values: values
                .chunks_exact(rows.columns)
                .flat_map(|token| [every_other(token, 0), every_other(token, 1)].concat())
                .collect(),
        }
    }
}

/// Consecutive rows times all tokens, with this machine's vector instructions.
struct MultiplyRows<'a> {
    rows: &'a PackedRows,
    first: usize,
    x: &'a Activations,
    /// Room for a row.
    buffer: &'a mut [f32],
    /// `[rows, tokens]`.
    out: &'a mut [f32],
}

impl WithSimd for MultiplyRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let columns = self.rows.columns;
        let tokens = self.x.values.len() / columns;
        for (offset, out) in self.out.chunks_exact_mut(tokens).enumerate() {
            let row = self.first + offset;
            let tokens = self.x.values.chunks_exact(columns);
            match &self.rows.format {
                Format::Affine {
                    bits: 4,
                    group_size,
                    scales,
                    biases,
                } => {
                    let per_row = columns / group_size;
                    let groups = row * per_row..(row + 1) * per_row;
                    let (scales, biases) = (&scales[groups.clone()], &biases[groups]);
                    let bytes = &self.rows.bytes[row * self.rows.row_bytes..][..columns / 2];
                    let sums = self.x.sums.chunks_exact(per_row);
                    for ((out, token), sums) in out.iter_mut().zip(tokens).zip(sums) {
                        let (even, odd) = token.split_at(columns / 2);
                        *out = dot_four(bytes, scales, even, odd) + dot(biases, sums);
                    }
                }
                _ => {
                    self.rows.unpack_inline(row, self.buffer);
                    for (out, token) in out.iter_mut().zip(tokens) {
                        *out = dot(self.buffer, token);
                    }
                }
            }
        }
    }
}

/// Partial sums of a product: as many as let the compiler use whatever vector
/// width the caller was compiled for.
const LANES: usize = 16;

/// The sum of products.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// A row of 4-bit weights times a token, but for the biases: with
/// `w = scale * q + bias`, a group adds `scale * Σ q x` here and `bias * Σ x`
/// elsewhere. Groups have a multiple of 32 weights.
#[inline(always)]
fn dot_four(bytes: &[u8], scales: &[f32], even: &[f32], odd: &[f32]) -> f32 {
    let half = bytes.len() / scales.len();
    let mut partial = [0.0f32; LANES];
    for (((bytes, &scale), even), odd) in bytes
        .chunks_exact(half)
        .zip(scales)
        .zip(even.chunks_exact(half))
        .zip(odd.chunks_exact(half))
    {
        for ((bytes, even), odd) in bytes
            .chunks_exact(LANES)
            .zip(even.chunks_exact(LANES))
            .zip(odd.chunks_exact(LANES))
        {
            for i in 0..LANES {
                let (low, high) = (f32::from(bytes[i] & 15), f32::from(bytes[i] >> 4));
                partial[i] += scale * (low * even[i] + high * odd[i]);
            }
        }
    }
    partial.iter().sum()
}
