//! Weight matrices in the host's memory: rows left as they are stored, and
//! unpacked one at a time. Knows nothing of what they are multiplied with.

use pulp::{Arch, Simd, WithSimd};

use super::{Dtype, MatrixWeights};
use crate::blob::Blob;

/// Rows of a matrix as they are stored.
pub(in crate::backend) struct PackedRows {
    /// `out`.
    pub(in crate::backend) count: usize,
    /// `in`.
    pub(in crate::backend) columns: usize,
    /// The elements; each row is `row_bytes` long.
    bytes: Blob,
    row_bytes: usize,
    pub(in crate::backend) format: Format,
    /// A copy of 4-bit weights that begin in the middle of a word. Files are
    /// rarely like that.
    moved: Option<Vec<u32>>,
    /// The instruction set of this machine.
    pub(in crate::backend) arch: Arch,
}

/// How the elements of a row are stored.
pub(in crate::backend) enum Format {
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

/// This machine's vector instructions. For four-bit weights those of eight
/// lanes where there are longer ones too: a block of weights in the order of
/// such vectors fits the smallest groups.
fn instructions(format: &Format) -> Arch {
    #[cfg(target_arch = "x86_64")]
    if let (Format::Affine { bits: 4, .. }, Some(simd)) = (format, pulp::x86::V3::try_new()) {
        return Arch::V3(simd);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = format;
    Arch::new()
}

/// The words that `bytes` hold, unless they are where words may be.
fn moved(bytes: &[u8]) -> Option<Vec<u32>> {
    if bytemuck::try_cast_slice::<u8, u32>(bytes).is_ok() {
        return None;
    }
    let words = bytes.chunks_exact(4);
    Some(
        words
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
    )
}

/// A half-precision number, by operations that the compiler can vectorize.
#[inline(always)]
fn f16_to_f32(bits: u16) -> f32 {
    let (bits, sign) = (u32::from(bits & 0x7fff), u32::from(bits >> 15) << 31);
    // The exponent's bias is 15 there and 127 here.
    let finite = f32::from_bits(bits << 13) * f32::from_bits((127 + 112) << 23);
    // Infinity and NaN keep their largest exponent.
    let special = if bits >= 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(finite.to_bits() | special | sign)
}

impl PackedRows {
    pub(in crate::backend) fn new(weights: MatrixWeights) -> Result<Self, String> {
        let (elements, columns, format) = match weights {
            MatrixWeights::Dense(raw) => {
                let format = match raw.dtype {
                    Dtype::F32 => Format::F32,
                    Dtype::F16 => Format::F16,
                    Dtype::Bf16 => Format::Bf16,
                    Dtype::U32 | Dtype::U8 => return Err("integers are not weights".to_owned()),
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
                    scales: scales.to_f32()?,
                    biases: biases.to_f32()?,
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
        let moved = match &format {
            Format::Affine { bits: 4, .. } => moved(&elements.bytes),
            _ => None,
        };
        Ok(Self {
            count,
            columns,
            moved,
            bytes: elements.bytes,
            row_bytes,
            arch: instructions(&format),
            format,
        })
    }

    /// Row `row` as `f32` into `out`, which is `columns` long.
    pub(in crate::backend) fn unpack(&self, row: usize, out: &mut [f32]) {
        self.arch.dispatch(UnpackRow {
            rows: self,
            row,
            out,
        });
    }

    /// The bytes of row `row`.
    #[inline(always)]
    pub(in crate::backend) fn row(&self, row: usize) -> &[u8] {
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }

    /// The words of 4-bit weights, eight in each, the first one lowest.
    #[inline(always)]
    pub(in crate::backend) fn words(&self) -> &[u32] {
        match &self.moved {
            Some(words) => words,
            None => bytemuck::cast_slice(&self.bytes),
        }
    }

    /// [`Self::unpack`] within a function that is compiled for this machine's
    /// vector instructions.
    #[inline(always)]
    pub(in crate::backend) fn unpack_inline(&self, row: usize, out: &mut [f32]) {
        let bytes = self.row(row);
        match &self.format {
            Format::F32 => {
                for (out, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *out = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            Format::F16 => {
                for (out, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *out = f16_to_f32(u16::from_le_bytes([b[0], b[1]]));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_precision_number_is_converted_exactly() {
        for bits in 0..=u16::MAX {
            let (got, expected) = (f16_to_f32(bits), half::f16::from_bits(bits).to_f32());
            assert!(
                got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan()),
                "{bits:#06x} is {got}, not {expected}"
            );
        }
    }
}
