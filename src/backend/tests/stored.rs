//! Weights as files store them, and what they stand for.

use half::{bf16, f16};

use super::*;

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
pub(in crate::backend) fn weights(
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

pub(in crate::backend) const FORMATS: [&str; 7] = [
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
pub(in crate::backend) fn reference(x: &[f32], weights: &[f64], columns: usize) -> Vec<(f64, f64)> {
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
pub(in crate::backend) fn assert_close(
    got: &[f32],
    expected: &[(f64, f64)],
    tolerance: f64,
    what: &str,
) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (index, (got, (value, size))) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - value).abs();
        assert!(
            error <= tolerance * size,
            "{what}, element {index}: {got} is not {value}"
        );
    }
}
