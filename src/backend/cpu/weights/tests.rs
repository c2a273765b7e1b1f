//! Products and rows against the definition in `f64`, for every format.

#![allow(clippy::unwrap_used)]

use std::num::NonZero;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::backend::cpu::Cpu;
use crate::backend::tests::stored::{FORMATS, assert_close, reference, weights};
use crate::backend::{Backend, TokenSource};

fn cpu() -> Cpu {
    Cpu::start(Products::F32, NonZero::new(2))
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
    let rows = cpu
        .embed(&matrix, &[TokenSource::Given(&[7, 0, 7])])
        .unwrap();
    let expected: Vec<(f64, f64)> = [7, 0, 7]
        .iter()
        .flat_map(|row| &values[row * 128..][..128])
        .map(|&value| (value, 1.0))
        .collect();
    assert_close(&rows, &expected, 1e-6, "rows");
    let Err(error) = cpu.embed(&matrix, &[TokenSource::Given(&[3, 10])]) else {
        panic!("row 10 of 10 is there");
    };
    assert!(error.to_string().contains("row 10"), "{error}");
}
