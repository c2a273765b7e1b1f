//! Quantizes a model's matrices while it is loaded, to MLX's affine format:
//! what `mlx_lm.convert -q` would have made of them, bit by bit. Knows nothing
//! of what computes with them.

use std::cell::Cell;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use tracing::{info, warn};

use super::config::DecoderConfig;
use crate::backend::{Dtype, MatrixWeights, RawTensor};

/// Weights that share a scale and a bias, as mlx-lm has it by default.
const GROUP: usize = 64;

/// Groups that a thread takes at once: a quarter of a megabyte of 16-bit
/// weights.
const TASK: usize = 2048;

/// The smallest scale.
const EPS: f32 = 1e-7;

/// A float from here on up to twice as much is a whole number: what is added
/// to it is rounded, to even where it is halfway, and stands in its last bits.
const WHOLE: f32 = 8_388_608.0;

/// What becomes of a model's floating-point matrices when they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantize {
    /// Weights of 4 bits.
    Four,
    /// Weights of 8 bits.
    Eight,
}

impl Quantize {
    /// Bits of a weight.
    pub fn bits(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// The one of so many bits, if there is one.
    pub fn of_bits(bits: u64) -> Option<Self> {
        match bits {
            4 => Some(Self::Four),
            8 => Some(Self::Eight),
            _ => None,
        }
    }
}

/// Quantizes the matrices of one model, one when it is asked for: there is
/// never a second copy of more than one.
pub(super) struct Quantizer {
    asked: Quantize,
    /// What the names of matrices end in that get 8 bits all the same.
    eight_bits: &'static [&'static str],
    /// Matrices quantized so far.
    quantized: Cell<usize>,
    /// Those that stay in floating point, since groups do not fill their rows.
    uneven: Cell<usize>,
}

impl Quantizer {
    pub(super) fn new(asked: Quantize, config: &DecoderConfig) -> Self {
        Self {
            asked,
            eight_bits: config.eight_bits,
            quantized: Cell::new(0),
            uneven: Cell::new(0),
        }
    }

    /// What most matrices become.
    pub(super) fn asked(&self) -> Quantize {
        self.asked
    }

    /// The bits that weights of the matrix `name` get. `None` for what cannot
    /// be quantized: rows that groups do not fill.
    fn bits(&self, name: &str, raw: &RawTensor) -> Option<usize> {
        let columns = *raw.shape.last()?;
        if raw.shape.len() < 2 || !raw.dtype.is_float() || !columns.is_multiple_of(GROUP) {
            return None;
        }
        let eight = self.eight_bits.iter().any(|end| name.ends_with(end));
        Some(if eight { 8 } else { self.asked.bits() })
    }

    /// The matrix `name`, quantized if it is in floating point.
    pub(super) fn matrix(&self, name: &str, weights: MatrixWeights) -> MatrixWeights {
        let count = |cell: &Cell<usize>| cell.set(cell.get() + 1);
        match weights {
            MatrixWeights::Dense(raw) => match self.bits(name, &raw) {
                Some(bits) => {
                    count(&self.quantized);
                    quantized(&raw, bits)
                }
                None => {
                    count(&self.uneven);
                    MatrixWeights::Dense(raw)
                }
            },
            stored => stored,
        }
    }

    /// Bytes that the matrix `name` takes once it is quantized, `None` where
    /// it will not be.
    pub(super) fn bytes(&self, name: &str, raw: &RawTensor) -> Option<u64> {
        let bits = self.bits(name, raw)?;
        let groups = raw.shape.iter().product::<usize>() / GROUP;
        Some((groups * (GROUP * bits / 8 + 2 * raw.dtype.size())) as u64)
    }

    /// Says in the log what was done.
    pub(super) fn report(&self) {
        let (bits, matrices, left) = (self.asked.bits(), self.quantized.get(), self.uneven.get());
        match matrices {
            0 => warn!(
                bits,
                "quantize changes nothing: the model's matrices are quantized in its files, or \
                 have rows that are no multiple of {GROUP}"
            ),
            _ => info!(bits, matrices, left, "quantized at load"),
        }
    }
}

/// A matrix in floating point whose rows are multiples of [`GROUP`].
fn quantized(raw: &RawTensor, bits: usize) -> MatrixWeights {
    let (group, size) = match bits {
        4 => (group_of::<4> as fn(&_, &mut _) -> _, raw.dtype.size()),
        _ => (group_of::<8> as fn(&_, &mut _) -> _, raw.dtype.size()),
    };
    let groups = raw.bytes.len() / (GROUP * size);
    let packed_size = GROUP * bits / 8;
    let mut packed = vec![0; groups * packed_size];
    let (mut scales, mut biases) = (vec![0; groups * size], vec![0; groups * size]);
    let tasks = raw.bytes.par_chunks(TASK * GROUP * size);
    let outs = packed
        .par_chunks_mut(TASK * packed_size)
        .zip(scales.par_chunks_mut(TASK * size))
        .zip(biases.par_chunks_mut(TASK * size));
    tasks
        .zip(outs)
        .for_each(|(stored, ((packed, scales), biases))| {
            let mut weights = [0.0; GROUP];
            let outs = packed
                .chunks_exact_mut(packed_size)
                .zip(scales.chunks_exact_mut(size))
                .zip(biases.chunks_exact_mut(size));
            for (stored, ((packed, scale), bias)) in stored.chunks_exact(GROUP * size).zip(outs) {
                read(raw.dtype, stored, &mut weights);
                let (scale_is, bias_is) = group(&weights, packed);
                write(raw.dtype, scale_is, scale);
                write(raw.dtype, bias_is, bias);
            }
        });
    let (&columns, rows) = raw.shape.split_last().unwrap_or((&0, &[]));
    let of = |dtype, length: usize, bytes: Vec<u8>| RawTensor {
        dtype,
        shape: [rows, &[length]].concat(),
        bytes: bytes.into(),
    };
    MatrixWeights::Affine {
        packed: of(Dtype::U32, columns * bits / 32, packed),
        scales: of(raw.dtype, columns / GROUP, scales),
        biases: of(raw.dtype, columns / GROUP, biases),
        group_size: GROUP,
        bits,
    }
}

/// Quantizes a group as `mx.quantize` does on a CPU: gives its scale and bias,
/// and writes its weights. The end of the range that is farther from 0 is met
/// exactly, and so is 0. Weights that are not numbers make a scale that is
/// none, so that they are seen as they would be unquantized.
#[inline]
fn group_of<const BITS: usize>(weights: &[f32; GROUP], packed: &mut [u8]) -> (f32, f32) {
    const LANES: usize = 16;
    let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let mut wrong = [false; LANES];
    for weights in weights.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let weight = weights[lane];
            low[lane] = if weight < low[lane] {
                weight
            } else {
                low[lane]
            };
            high[lane] = if high[lane] < weight {
                weight
            } else {
                high[lane]
            };
            wrong[lane] |= !weight.is_finite();
        }
    }
    let low = low.into_iter().fold(f32::INFINITY, f32::min);
    let high = high.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if wrong.contains(&true) {
        return (f32::NAN, f32::NAN);
    }
    let most = ((1 << BITS) - 1) as f32;
    let size = ((high - low) / most).max(EPS);
    let (mut scale, edge) = match low.abs() > high.abs() {
        true => (size, low),
        false => (-size, high),
    };
    let steps = (edge / scale).round_ties_even();
    let mut bias = 0.0;
    if steps != 0.0 {
        (scale, bias) = (edge / steps, edge);
    }
    let mut codes = [0u8; GROUP];
    for (code, weight) in codes.iter_mut().zip(weights) {
        let exact = (weight - bias) / scale;
        let exact = if exact > 0.0 { exact } else { 0.0 };
        let exact = if exact < most { exact } else { most };
        *code = (exact + WHOLE).to_bits() as u8;
    }
    match BITS {
        4 => {
            for (byte, [low, high]) in packed.iter_mut().zip(codes.as_chunks().0) {
                *byte = low | high << 4;
            }
        }
        _ => packed.copy_from_slice(&codes),
    }
    (scale, bias)
}

fn read(dtype: Dtype, stored: &[u8], weights: &mut [f32; GROUP]) {
    match dtype {
        Dtype::Bf16 => {
            for (weight, &bytes) in weights.iter_mut().zip(stored.as_chunks().0) {
                *weight = f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
            }
        }
        Dtype::F16 => {
            let mut halves = [f16::ZERO; GROUP];
            for (half, &bytes) in halves.iter_mut().zip(stored.as_chunks().0) {
                *half = f16::from_le_bytes(bytes);
            }
            halves.convert_to_f32_slice(weights);
        }
        // `Quantizer::bits` lets nothing else than floats pass.
        _ => {
            for (weight, &bytes) in weights.iter_mut().zip(stored.as_chunks().0) {
                *weight = f32::from_le_bytes(bytes);
            }
        }
    }
}

fn write(dtype: Dtype, value: f32, out: &mut [u8]) {
    match dtype {
        Dtype::Bf16 => out.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
        Dtype::F16 => out.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
        _ => out.copy_from_slice(&value.to_le_bytes()),
    }
}

#[cfg(test)]
mod tests;
