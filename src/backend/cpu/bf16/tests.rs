//! Every kernel against f64, whatever the shape, and against itself with other
//! tokens beside.

#![allow(clippy::unwrap_used)]

use std::num::NonZero;

use half::bf16;

use super::*;

fn threads() -> Threads {
    Threads::new(NonZero::new(2).unwrap())
}

fn kernels() -> Vec<Kernel> {
    let mut kernels = vec![Kernel::best(), Kernel::Portable];
    kernels.dedup();
    kernels
}

/// Numbers between -1 and 1.
fn noise(count: usize, mut seed: u32) -> Vec<f32> {
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn rows(kernel: Kernel, columns: usize, weights: &[f32]) -> Bf16Rows {
    let bytes = weights.iter().map(|w| bf16::from_f32(*w).to_le_bytes());
    let bytes: Vec<u8> = bytes.flatten().collect();
    let rows = Bf16Rows::new(weights.len() / columns, columns, bytes.into()).unwrap();
    Bf16Rows { kernel, ..rows }
}

fn rounded_of(x: &[f32], columns: usize) -> RoundedBf16 {
    let mut rounded = RoundedBf16::default();
    rounded.round(&threads(), x, columns);
    rounded
}

fn product(weights: &Bf16Rows, x: &[f32]) -> Vec<f32> {
    let x = rounded_of(x, weights.columns);
    let mut out = vec![f32::NAN; x.tokens * weights.count];
    project(&threads(), [weights], &x, [&mut out]);
    out
}

#[test]
fn activations_are_rounded_to_even() {
    let mut x = noise(70, 1);
    x.extend([0.0, -0.0, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-40]);
    x.extend([0x3f80_8000, 0x3f81_8000, 0xbf80_8001].map(f32::from_bits));
    for x in x {
        assert_eq!(rounded(x), bf16::from_f32(x).to_bits(), "{x}");
    }
    for bits in [0x7fc0_0000, 0x7f80_0001, 0xffff_ffff] {
        assert!(bf16::from_bits(rounded(f32::from_bits(bits))).is_nan());
    }
}

#[test]
fn products_are_those_of_f64_but_for_rounding() {
    for kernel in kernels() {
        for columns in [1, 2, 31, 32, 33, 63, 64, 100, 1024] {
            for (count, tokens) in [(1, 1), (3, 2), (4, 6), (5, 7), (67, 13), (130, 8)] {
                let (w, x) = (noise(count * columns, 7), noise(tokens * columns, 9));
                let got = product(&rows(kernel, columns, &w), &x);
                let value = |x: &f32| f64::from(bf16::from_f32(*x).to_f32());
                for (t, x) in x.chunks(columns).enumerate() {
                    for (r, w) in w.chunks(columns).enumerate() {
                        let terms = || w.iter().zip(x).map(|(w, x)| value(w) * value(x));
                        let exact: f64 = terms().sum();
                        let size: f64 = terms().map(f64::abs).sum();
                        // Additions that a term goes through at most.
                        let additions = (2 * columns.div_ceil(STEP) + 4) as f64;
                        let bound = additions * f64::from(f32::EPSILON) / 2.0 * size;
                        let off = (f64::from(got[t * count + r]) - exact).abs();
                        assert!(
                            off <= bound,
                            "{kernel:?} {columns} {count} {tokens}: {off:e} > {bound:e}"
                        );
                    }
                }
            }
        }
    }
}

/// Neither other tokens nor other matrices show.
#[test]
fn a_tokens_products_are_its_own() {
    let (columns, counts) = (200, [70, 3, 9]);
    for kernel in kernels() {
        let matrices = counts.map(|count| rows(kernel, columns, &noise(count * columns, 3)));
        for tokens in 1..=15 {
            let x = noise(tokens * columns, 5);
            let rounded = rounded_of(&x, columns);
            let mut outs = counts.map(|count| vec![f32::NAN; count * tokens]);
            let room = outs.each_mut().map(Vec::as_mut_slice);
            project(&threads(), matrices.each_ref(), &rounded, room);
            for (matrix, out) in matrices.iter().zip(&outs) {
                for (x, out) in x.chunks(columns).zip(out.chunks(matrix.count)) {
                    assert_eq!(product(matrix, x), out, "{kernel:?}, {tokens} tokens");
                }
            }
        }
    }
}

#[test]
fn gated_products_are_the_activation_of_both() {
    let (columns, count) = (96, 150);
    let activation = |gate: f32, up: f32| gate.tanh() * up;
    for kernel in kernels() {
        let [gate, up] = [1, 2].map(|seed| rows(kernel, columns, &noise(count * columns, seed)));
        for tokens in [1, 6, 7, 20] {
            let x = noise(tokens * columns, 8);
            let (mut expected, ups) = (product(&gate, &x), product(&up, &x));
            for (gate, up) in expected.iter_mut().zip(ups) {
                *gate = activation(*gate, up);
            }
            let mut out = vec![f32::NAN; tokens * count];
            let x = rounded_of(&x, columns);
            project_gated(&threads(), [&gate, &up], &x, &mut out, activation);
            assert_eq!(out, expected, "{kernel:?}, {tokens} tokens");
        }
    }
}

#[test]
fn extremes_are_as_they_should_be() {
    for kernel in kernels() {
        let columns = 40;
        let mut weights = vec![1.0; columns];
        weights[39] = 0.5;
        let weights = rows(kernel, columns, &weights);
        let of = |place: usize, value: f32| {
            let mut x = vec![0.0; 3 * columns];
            x[columns + place] = value;
            let product = product(&weights, &x);
            assert_eq!(
                (product[0], product[2]),
                (0.0, 0.0),
                "the others' are theirs"
            );
            product[1]
        };
        assert!(of(39, f32::NAN).is_nan() && of(3, f32::NAN).is_nan());
        assert_eq!(of(39, f32::INFINITY), f32::INFINITY);
        assert_eq!(of(39, -3e38), -bf16::from_f32(3e38).to_f32() / 2.0);
        assert_eq!(of(39, f32::MIN_POSITIVE * 2.0), f32::MIN_POSITIVE);
        assert_eq!(of(3, 1e-40), 0.0, "below the normal range");
        // What is beyond a row's last column is not of the row.
        let mut two = vec![0.0; 2 * columns];
        two[columns] = f32::INFINITY;
        let two = rows(kernel, columns, &two);
        assert_eq!(product(&two, &vec![1.0; columns]), [0.0, f32::INFINITY]);
    }
}

/// What was there before does not show, and memory is kept.
#[test]
fn a_buffer_is_used_again() {
    let weights = rows(Kernel::best(), 33, &noise(5 * 33, 2));
    let threads = threads();
    let mut x = RoundedBf16::default();
    x.round(&threads, &vec![f32::NAN; 4 * 64], 64);
    let place = x.lines.as_ptr();
    let next = noise(2 * 33, 6);
    x.round(&threads, &next, 33);
    assert_eq!(x.lines.as_ptr(), place);
    let mut out = vec![0.0; 10];
    project(&threads, [&weights], &x, [&mut out]);
    assert_eq!(out, product(&weights, &next));
}
