//! Products and rows against the definition in `f64`, for every format.

#![allow(clippy::unwrap_used)]

use std::num::NonZero;

use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::backend::cpu::Cpu;
use crate::backend::{Backend, RawTensor};
use crate::blob::Blob;

fn cpu() -> Cpu {
    Cpu::start(Products::F32, NonZero::new(2))
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
fn assert_close(got: &[f32], expected: &[(f64, f64)], tolerance: f64, what: &str) {
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
fn products_are_those_of_the_definition_for_few_and_many_tokens() {
    let (cpu, mut random) = (cpu(), StdRng::seed_from_u64(3));
    for format in FORMATS {
        // More rows than a block, and numbers that fill neither chunk nor block.
        for (rows, columns) in [(1, 128), (33, 256), (1100, 128)] {
            let (stored, values) = weights(&mut random, format, rows, columns);
            let matrix = Matrix::load(stored, &cpu).unwrap();
            for tokens in [1, 2, 3, 8, 21, 50] {
                let x: Vec<f32> = (0..tokens * columns)
                    .map(|_| random.random_range(-2.0..2.0))
                    .collect();
                let expected = reference(&x, &values, columns);
                let got = cpu.product(&cpu.pool.filled([tokens, columns], &x), &matrix);
                let got = got.unwrap();
                assert_eq!(got.shape(), [tokens, rows]);
                // Sums of `columns` products in f32 and the rounding of the
                // unpacked weight.
                let tolerance = f64::from(f32::EPSILON) * (columns as f64).sqrt() * 2.0;
                assert_close(
                    &got,
                    &expected,
                    tolerance,
                    &format!("{format} {tokens}×{rows}"),
                );
            }
        }
    }
}

#[test]
fn a_token_has_the_same_products_to_the_last_bit_in_whatever_company() {
    let (cpu, mut random) = (cpu(), StdRng::seed_from_u64(6));
    for format in FORMATS {
        let (stored, _) = weights(&mut random, format, 37, 256);
        let matrix = Matrix::load(stored, &cpu).unwrap();
        let x: Vec<f32> = (0..30 * 256)
            .map(|_| random.random_range(-2.0..2.0))
            .collect();
        let product = |x: &[f32]| -> Vec<f32> {
            let x = cpu.pool.filled([x.len() / 256, 256], x);
            cpu.product(&x, &matrix).unwrap().to_vec()
        };
        let together = product(&x);
        for tokens in [1, 2, 3, 8, 29] {
            for (x, expected) in x.chunks(tokens * 256).zip(together.chunks(tokens * 37)) {
                assert_eq!(product(x), expected, "{format}, {tokens} at once");
            }
        }
    }
}

#[test]
fn a_row_that_the_table_lacks_is_refused() {
    let (cpu, mut random) = (cpu(), StdRng::seed_from_u64(5));
    let (stored, values) = weights(&mut random, "affine 4/64", 10, 128);
    let matrix = Matrix::load(stored, &cpu).unwrap();
    let rows = cpu.embed(&matrix, &vec![7, 0, 7]).unwrap();
    let expected: Vec<(f64, f64)> = [7, 0, 7]
        .iter()
        .flat_map(|row| &values[row * 128..][..128])
        .map(|&value| (value, 1.0))
        .collect();
    assert_close(&rows, &expected, 1e-6, "rows");
    let Err(error) = cpu.embed(&matrix, &vec![3, 10]) else {
        panic!("row 10 of 10 is there");
    };
    assert!(error.to_string().contains("row 10"), "{error}");
}
