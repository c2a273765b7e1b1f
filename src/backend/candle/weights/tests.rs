//! Products and rows against the definition in `f64`, for every format.

#![allow(clippy::unwrap_used)]

use std::num::NonZero;

use half::bf16;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::backend::Dtype;
use crate::blob::Blob;

fn candle() -> Candle {
    Candle::on(Device::Cpu, DType::F32, NonZero::<usize>::MIN)
}

/// A stored tensor of the given bytes.
fn raw(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> RawTensor {
    RawTensor {
        dtype,
        shape: shape.to_vec(),
        bytes: Blob::from_static(Vec::leak(bytes)),
    }
}

fn bf16s(random: &mut StdRng, shape: &[usize], low: f32, high: f32) -> (RawTensor, Vec<f64>) {
    let values: Vec<bf16> = (0..shape.iter().product())
        .map(|_| bf16::from_f32(random.random_range(low..high)))
        .collect();
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    (
        raw(Dtype::Bf16, shape, bytes),
        values.iter().map(|v| v.to_f64()).collect(),
    )
}

/// Random weights in a format, and their values by its definition.
fn weights(
    random: &mut StdRng,
    format: &str,
    rows: usize,
    columns: usize,
) -> (MatrixWeights, Vec<f64>) {
    let count = rows * columns;
    let dense = |dtype, bytes| MatrixWeights::Dense(raw(dtype, &[rows, columns], bytes));
    let values: Vec<f32> = (0..count).map(|_| random.random_range(-1.0..1.0)).collect();
    match format {
        "f32" => {
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            (
                dense(Dtype::F32, bytes),
                values.iter().map(|&v| v.into()).collect(),
            )
        }
        "f16" => {
            let values: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            (
                dense(Dtype::F16, bytes),
                values.iter().map(|v| v.to_f64()).collect(),
            )
        }
        "bf16" => {
            let (raw, values) = bf16s(random, &[rows, columns], -1.0, 1.0);
            (MatrixWeights::Dense(raw), values)
        }
        affine => {
            let (bits, group_size) = match affine {
                "affine 4/64" => (4, 64),
                "affine 4/32" => (4, 32),
                "affine 8/64" => (8, 64),
                "affine 8/128" => (8, 128),
                other => panic!("{other}?"),
            };
            let quantized: Vec<u32> = (0..count)
                .map(|_| random.random_range(0..1 << bits))
                .collect();
            let packed: Vec<u8> = quantized
                .chunks_exact(32 / bits)
                .flat_map(|word| {
                    word.iter()
                        .enumerate()
                        .fold(0u32, |packed, (i, q)| packed | q << (i * bits))
                        .to_le_bytes()
                })
                .collect();
            let groups = [rows, columns / group_size];
            let (scales, scale_values) = bf16s(random, &groups, 0.001, 0.02);
            let (biases, bias_values) = bf16s(random, &groups, -0.2, 0.2);
            let values = quantized
                .iter()
                .enumerate()
                .map(|(i, &q)| {
                    f64::from(q) * scale_values[i / group_size] + bias_values[i / group_size]
                })
                .collect();
            let weights = MatrixWeights::Affine {
                packed: raw(Dtype::U32, &[rows, columns * bits / 32], packed),
                scales,
                biases,
                group_size,
                bits,
            };
            (weights, values)
        }
    }
}

const FORMATS: [&str; 7] = [
    "f32",
    "f16",
    "bf16",
    "affine 4/64",
    "affine 4/32",
    "affine 8/64",
    "affine 8/128",
];

/// `x` times the transposed weights, and the sum of the products' sizes,
/// which bounds the rounding.
fn reference(x: &[f32], weights: &[f64], columns: usize) -> Vec<(f64, f64)> {
    x.chunks_exact(columns)
        .flat_map(|x| {
            weights.chunks_exact(columns).map(move |row| {
                row.iter().zip(x).fold((0.0, 0.0), |(sum, size), (w, &x)| {
                    let product = w * f64::from(x);
                    (sum + product, size + product.abs())
                })
            })
        })
        .collect()
}

/// Every element within `tolerance` of the sum of its products' sizes.
fn assert_close(got: &Tensor, expected: &[(f64, f64)], tolerance: f64, what: &str) {
    let got: Vec<f32> = got.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(got.len(), expected.len(), "{what}");
    for (index, (got, (value, size))) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - value).abs();
        assert!(
            error <= tolerance * size,
            "{what}, element {index}: {got} is not {value}"
        );
    }
}

#[test]
fn the_gpu_forms_of_the_weights_give_the_same_products() {
    let mut random = StdRng::seed_from_u64(4);
    for format in FORMATS {
        let (stored, values) = weights(&mut random, format, 40, 256);
        let matrix = Matrix::load(stored, &candle()).unwrap();
        let is_blocks = matches!(matrix.device, DeviceMatrix::Blocks(_));
        assert_eq!(is_blocks, format.starts_with("affine 4"), "{format}");
        let x: Vec<f32> = (0..5 * 256)
            .map(|_| random.random_range(-2.0..2.0))
            .collect();
        let expected = reference(&x, &values, 256);
        let x = Tensor::from_vec(x, (5, 256), &Device::Cpu).unwrap();
        // candle's product of blocks rounds the activations to 8 bits.
        let tolerance = if is_blocks { 0.01 } else { 1e-5 };
        assert_close(&matrix.project(&x).unwrap(), &expected, tolerance, format);
    }
}

#[test]
fn rows_are_those_asked_for_and_an_unknown_one_is_refused() {
    let mut random = StdRng::seed_from_u64(5);
    for format in FORMATS {
        let (stored, values) = weights(&mut random, format, 10, 128);
        let matrix = Matrix::load(stored, &candle()).unwrap();
        let rows = matrix.rows(&[7, 0, 7], &Device::Cpu, DType::F32).unwrap();
        let expected: Vec<(f64, f64)> = [7, 0, 7]
            .iter()
            .flat_map(|row| &values[row * 128..][..128])
            .map(|&value| (value, 1.0))
            .collect();
        assert_close(&rows, &expected, 1e-6, format);
        assert!(matrix.rows(&[10], &Device::Cpu, DType::F32).is_err());
    }
}
