//! Products and rows against the definition in `f64`, for every format.

#![allow(clippy::unwrap_used)]

use std::num::NonZero;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::backend::tests::stored::{FORMATS, assert_close, reference, weights};

fn candle() -> Candle {
    Candle::on(Device::Cpu, DType::F32, NonZero::<usize>::MIN)
}

fn elements(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
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
        assert_close(
            &elements(&matrix.project(&x).unwrap()),
            &expected,
            tolerance,
            format,
        );
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
        assert_close(&elements(&rows), &expected, 1e-6, format);
        assert!(matrix.rows(&[10], &Device::Cpu, DType::F32).is_err());
    }
}
