#![allow(clippy::unwrap_used)]

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use std::num::NonZero;

use super::instructions::Instructions;
use super::kernel::{project_by, project_gated_by};
#[cfg(target_arch = "x86_64")]
use super::out::Places;
use super::*;
use crate::backend::cpu::elementwise;

fn threads(count: usize) -> Threads {
    Threads::new(NonZero::new(count).unwrap())
}

fn rounded(threads: &Threads, tiles: &Tiles, x: &[f32]) -> Rounded {
    let mut rounded = Rounded::default();
    rounded.round(threads, x, tiles.columns, tiles.group_size);
    rounded
}

/// What one matrix gives, by one thread.
fn products(by: Instructions, tiles: &Tiles, x: &[f32]) -> Vec<f32> {
    let threads = threads(1);
    // What is not written shows.
    let mut out = vec![f32::NAN; x.len() / tiles.columns * tiles.count];
    let x = rounded(&threads, tiles, x);
    project_by(by, &threads, &[tiles], &x, &mut [&mut out]);
    out
}

/// A matrix in every kind of storage, and what it stands for.
struct Sample {
    count: usize,
    columns: usize,
    bits: usize,
    group_size: usize,
    scales_are: Scales,
    weights: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
    /// `[count, columns]`.
    values: Vec<f64>,
    /// `[count, columns / group_size]`.
    steps: Vec<f64>,
}

impl Sample {
    fn new(rng: &mut StdRng, count: usize, groups: usize) -> Self {
        let bits = [4, 8][rng.random_range(0..2)];
        let group_size = GROUPS[rng.random_range(0..3)];
        let scales_are = [Scales::Bf16, Scales::F16, Scales::F32][rng.random_range(0..3)];
        Self::of(rng, count, groups, bits, group_size, scales_are)
    }

    /// As many rows and columns of its own, in groups of the same size.
    fn other(&self, rng: &mut StdRng) -> Self {
        let (groups, bits) = (
            self.columns / self.group_size,
            [4, 8][rng.random_range(0..2)],
        );
        let scales_are = [Scales::Bf16, Scales::F16, Scales::F32][rng.random_range(0..3)];
        Self::of(rng, self.count, groups, bits, self.group_size, scales_are)
    }

    fn of(
        rng: &mut StdRng,
        count: usize,
        groups: usize,
        bits: usize,
        group_size: usize,
        scales_are: Scales,
    ) -> Self {
        let columns = groups * group_size;
        let all = count * groups;
        // Whole 256ths: all three types hold them exactly.
        let mut numbers = |below: i32| -> Vec<f64> {
            let numbers = (0..all).map(|_| f64::from(rng.random_range(-below..below)) / 256.0);
            numbers.collect()
        };
        let (steps, offsets) = (numbers(128), numbers(256));
        let stored = |values: &[f64]| -> Vec<u8> {
            let bytes = |&value: &f64| match scales_are {
                Scales::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
                Scales::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
                Scales::F32 => (value as f32).to_le_bytes().to_vec(),
            };
            values.iter().flat_map(bytes).collect()
        };
        let mut quants: Vec<u8> = (0..count * columns).map(|_| rng.random()).collect();
        if bits == 4 {
            quants.iter_mut().for_each(|quant| *quant &= 15);
        }
        let values = quants.iter().enumerate().map(|(place, &quant)| {
            let group = place / group_size;
            f64::from(quant) * steps[group] + offsets[group]
        });
        let weights = match bits {
            4 => quants
                .chunks(2)
                .map(|pair| pair[0] | pair[1] << 4)
                .collect(),
            _ => quants.clone(),
        };
        Self {
            count,
            columns,
            bits,
            group_size,
            scales_are,
            weights,
            scales: stored(&steps),
            biases: stored(&offsets),
            values: values.collect(),
            steps,
        }
    }

    fn tiles(&self) -> Tiles {
        let stored = Stored {
            count: self.count,
            columns: self.columns,
            bits: self.bits,
            group_size: self.group_size,
            weights: &self.weights,
            scales_are: self.scales_are,
            scales: &self.scales,
            biases: &self.biases,
        };
        Tiles::new(&threads(1), &stored).unwrap()
    }

    fn what(&self) -> String {
        let Self {
            count,
            columns,
            bits,
            group_size,
            scales_are,
            ..
        } = self;
        format!("{count} x {columns}, {bits} bits, groups of {group_size}, {scales_are:?}")
    }
}

fn samples() -> impl Iterator<Item = (Sample, StdRng)> {
    (0..60).map(|seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = rng.random_range(1..70);
        let groups = rng.random_range(1..6);
        (Sample::new(&mut rng, count, groups), rng)
    })
}

/// All that run here.
fn instructions() -> Vec<Instructions> {
    let mut all = vec![Instructions::Portable];
    #[cfg(target_arch = "x86_64")]
    {
        all.extend(avx2::is_there().then_some(Instructions::Avx2));
        all.extend(avx2::has_vnni().then_some(Instructions::AvxVnni));
        all.extend(avx512::is_there().then_some(Instructions::Avx512));
    }
    #[cfg(target_arch = "aarch64")]
    {
        all.extend(neon::is_there().then_some(Instructions::Neon));
        all.extend(neon::is_mixed_there().then_some(Instructions::NeonMixed));
    }
    all
}

fn best() -> Instructions {
    instructions()[instructions().len() - 1]
}

#[test]
fn rows_unpack_to_what_was_stored() {
    for (sample, _) in samples() {
        let tiles = sample.tiles();
        let mut row = vec![0.0; sample.columns];
        for (index, expected) in sample.values.chunks(sample.columns).enumerate() {
            tiles.unpack(index, &mut row);
            for (got, expected) in row.iter().zip(expected) {
                assert_eq!(
                    f64::from(*got),
                    *expected,
                    "row {index} of {}",
                    sample.what()
                );
            }
        }
    }
}

#[test]
fn other_formats_have_no_tiles() {
    let stored = |bits, group_size, columns| Stored {
        count: 1,
        columns,
        bits,
        group_size,
        weights: &[0; 512],
        scales_are: Scales::F32,
        scales: &[0; 64],
        biases: &[0; 64],
    };
    assert!(Tiles::new(&threads(1), &stored(4, 64, 64)).is_some());
    for (bits, group_size, columns) in [(3, 64, 64), (4, 48, 96), (4, 64, 96), (8, 64, 0)] {
        assert!(Tiles::new(&threads(1), &stored(bits, group_size, columns)).is_none());
    }
}

/// A group of `x` is rounded to steps of its largest element's 127th, so each
/// element is off by at most half of that, which the weights' distance from
/// their bias multiplies; what f32 adds is less than a millionth of the sum
/// of all sizes.
#[test]
fn products_are_within_the_bound_of_the_rounding() {
    for (sample, mut rng) in samples() {
        let (tiles, columns) = (sample.tiles(), sample.columns);
        let tokens = rng.random_range(1..64);
        let size = [1e-3, 1.0, 1e4][rng.random_range(0..3)];
        let x: Vec<f32> = (0..tokens * columns)
            .map(|_| rng.random_range(-size..size))
            .collect();
        for by in instructions() {
            let got = products(by, &tiles, &x);
            for (token, x) in x.chunks(columns).enumerate() {
                for row in 0..sample.count {
                    let values = &sample.values[row * columns..][..columns];
                    let (mut sum, mut bound) = (0.0, 0.0);
                    for (group, x) in x.chunks(sample.group_size).enumerate() {
                        let largest = x.iter().fold(0f32, |top, x| top.max(x.abs()));
                        let step = sample.steps[row * columns / sample.group_size + group];
                        let values = &values[group * sample.group_size..][..x.len()];
                        for (&x, &value) in x.iter().zip(values) {
                            let most = f64::from((1u32 << sample.bits) - 1);
                            sum += f64::from(x) * value;
                            bound += f64::from(largest) / 254.0 * (step * most).abs();
                            bound += 1e-6 * (f64::from(x) * value).abs();
                        }
                    }
                    let got = f64::from(got[token * sample.count + row]);
                    assert!(
                        (got - sum).abs() <= bound,
                        "{by:?}, {}: {got} is not {sum} within {bound}",
                        sample.what()
                    );
                }
            }
        }
    }
}

#[test]
fn the_rounding_is_that_fine() {
    // Of many random terms, errors cancel: what is off in the mean is far
    // below the bound, and not 0, or nothing was rounded.
    let mut rng = StdRng::seed_from_u64(7);
    let sample = Sample::new(&mut rng, 64, 16);
    let x: Vec<f32> = (0..sample.columns)
        .map(|_| rng.random_range(-1.0..1.0))
        .collect();
    let products = products(Instructions::Portable, &sample.tiles(), &x);
    let (mut off, mut size) = (0.0, 0.0);
    for (got, values) in products.iter().zip(sample.values.chunks(sample.columns)) {
        let exact: f64 = values.iter().zip(&x).map(|(v, &x)| v * f64::from(x)).sum();
        off += (f64::from(*got) - exact).powi(2);
        size += exact.powi(2);
    }
    let relative = (off / size).sqrt();
    assert!((1e-5..0.01).contains(&relative), "{relative}");
}

/// The bits of the products, whatever NaN they are.
fn bits(products: &[f32]) -> Vec<u32> {
    let bits = |x: &f32| {
        if x.is_nan() {
            f32::NAN.to_bits()
        } else {
            x.to_bits()
        }
    };
    products.iter().map(bits).collect()
}

#[test]
fn all_instructions_give_the_same_bits_even_of_extremes() {
    for (sample, mut rng) in samples() {
        let (tiles, columns) = (sample.tiles(), sample.columns);
        let kinds = rng.random_range(1..10);
        let x: Vec<f32> = (0..rng.random_range(1..40) * columns)
            .map(|_| extreme(&mut rng, kinds))
            .collect();
        let expected = bits(&products(Instructions::Portable, &tiles, &x));
        for by in instructions() {
            let got = bits(&products(by, &tiles, &x));
            assert!(got == expected, "{by:?}, {}", sample.what());
        }
    }
}

/// Numbers, and sometimes what is hardly one.
fn extreme(rng: &mut StdRng, kinds: usize) -> f32 {
    let extremes = [
        0.0,
        -0.0,
        1.0,
        -1e30,
        3e38,
        1e-40,
        f32::MIN_POSITIVE,
        f32::INFINITY,
        f32::NAN,
    ];
    match rng.random_bool(0.9) {
        true => rng.random_range(-2.0..2.0),
        false => extremes[rng.random_range(0..kinds.min(extremes.len()))],
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
#[allow(unsafe_code)]
fn all_instructions_round_to_the_same_bits() {
    use activations::{LANES, round_group};
    fn one<const N: usize>(rng: &mut StdRng) {
        let kinds = rng.random_range(1..10);
        let mut x = [[0.0; LANES]; N];
        for x in x.as_flattened_mut() {
            *x = extreme(rng, kinds) * [1.0, 0.0, 1e-39, 1e-20][kinds % 4];
        }
        let (expected, expected_bytes) = round_group(&x);
        // SAFETY: the caller has asked.
        let (factors, bytes) = unsafe { avx512::round_group(&x) };
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        assert!(
            same(factors.scale, expected.scale),
            "{factors:?}, not {expected:?}"
        );
        assert!(
            same(factors.sum, expected.sum),
            "{factors:?}, not {expected:?}"
        );
        assert_eq!(bytes, expected_bytes);
    }
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..if avx512::is_there() { 2_000 } else { 0 } {
        one::<2>(&mut rng);
        one::<4>(&mut rng);
        one::<8>(&mut rng);
    }
}

/// Products of AVX-VNNI by the same code with AVX-512's encoding of it, where
/// the machine lacks the other.
#[cfg(target_arch = "x86_64")]
#[test]
#[allow(unsafe_code)]
fn avx_vnni_gives_the_same_bits() {
    if !avx512::is_there() || !is_x86_feature_detected!("avx512vl") {
        return;
    }
    for (sample, mut rng) in samples() {
        let (tiles, threads) = (sample.tiles(), threads(1));
        let x: Vec<f32> = (0..3 * sample.columns)
            .map(|_| rng.random_range(-1.0..1.0))
            .collect();
        let expected = products(Instructions::Portable, &tiles, &x);
        let x = rounded(&threads, &tiles, &x);
        let (chunks, factors) = x.of::<3>(0);
        for index in 0..tiles.tiles() {
            let tile = tiles.tile(index);
            let mut got = [[0.0; WIDTH]; 3];
            let mut out = Places::of(&mut got);
            // SAFETY: asked for above.
            unsafe {
                match sample.bits {
                    4 => avx2::multiply_vnni_512::<3, 4>(&tile, chunks, factors, &mut out),
                    _ => avx2::multiply_vnni_512::<3, 8>(&tile, chunks, factors, &mut out),
                }
            }
            for (got, expected) in got.iter().zip(expected.chunks(sample.count)) {
                let expected = &expected[index * WIDTH..];
                let rows = expected.len().min(WIDTH);
                assert!(got[..rows] == expected[..rows], "{}", sample.what());
            }
        }
    }
}

/// What `act` is in these tests: something that no mix-up leaves the same.
fn act(gate: &mut [f32; WIDTH], up: &[f32; WIDTH]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + gate.abs()) * up;
    }
}

#[test]
fn gated_products_are_those_of_both_matrices() {
    for (gate, mut rng) in samples() {
        let up = gate.other(&mut rng);
        let (gate, up) = (gate.tiles(), up.tiles());
        let tokens = rng.random_range(1..40);
        let x: Vec<f32> = (0..tokens * gate.columns)
            .map(|_| rng.random_range(-1.0..1.0))
            .collect();
        for by in instructions() {
            let expected: Vec<f32> = products(by, &gate, &x)
                .into_iter()
                .zip(products(by, &up, &x))
                .map(|(gate, up)| gate / (1.0 + gate.abs()) * up)
                .collect();
            let threads = threads(3);
            let x = rounded(&threads, &gate, &x);
            let mut out = vec![f32::NAN; expected.len()];
            project_gated_by(by, &threads, &gate, &up, &x, &mut out, act);
            assert!(out == expected, "{by:?}, {tokens} tokens");
        }
    }
}

#[test]
fn matrices_together_give_what_each_gives_alone() {
    for (first, mut rng) in samples() {
        let mut all = vec![first];
        for _ in 0..rng.random_range(0..6) {
            all.push(all[0].other(&mut rng));
        }
        let tiles: Vec<Tiles> = all.iter().map(Sample::tiles).collect();
        let tokens = rng.random_range(1..40);
        let x: Vec<f32> = (0..tokens * all[0].columns)
            .map(|_| rng.random_range(-1.0..1.0))
            .collect();
        let alone: Vec<Vec<f32>> = tiles.iter().map(|t| products(best(), t, &x)).collect();
        let threads = threads(rng.random_range(1..5));
        let x = rounded(&threads, &tiles[0], &x);
        let mut outs: Vec<Vec<f32>> = alone.iter().map(|o| vec![f32::NAN; o.len()]).collect();
        let mut slices: Vec<&mut [f32]> = outs.iter_mut().map(Vec::as_mut_slice).collect();
        project(&threads, &tiles.iter().collect::<Vec<_>>(), &x, &mut slices);
        assert!(outs == alone, "{} matrices, {tokens} tokens", all.len());
    }
}

/// Enough that activations are rounded and multiplied in several blocks, by
/// several threads.
#[test]
fn many_tokens_are_multiplied_as_few_are() {
    let mut rng = StdRng::seed_from_u64(11);
    let sample = Sample::of(&mut rng, 40, 2048 / 64, 4, 64, Scales::Bf16);
    let (tiles, columns) = (sample.tiles(), sample.columns);
    let x: Vec<f32> = (0..301 * columns)
        .map(|_| rng.random_range(-1.0..1.0))
        .collect();
    let threads = threads(3);
    let mut together = vec![f32::NAN; 301 * sample.count];
    let all = rounded(&threads, &tiles, &x);
    project(&threads, &[&tiles], &all, &mut [&mut together]);
    for (x, together) in x.chunks(columns).zip(together.chunks(sample.count)) {
        assert!(products(best(), &tiles, x) == together);
    }
}

#[test]
fn a_norm_is_rounded_on_the_way_as_it_is_by_itself() {
    for (sample, mut rng) in samples().take(20) {
        let (columns, group_size) = (sample.columns, sample.group_size);
        let (tiles, threads) = (sample.tiles(), threads(rng.random_range(1..5)));
        let weight: Vec<f32> = (0..columns).map(|_| rng.random_range(-2.0..2.0)).collect();
        let mut rounded = Rounded::default();
        for tokens in [0, 1, 5, 8, 17, 30, 200] {
            let rows = |rng: &mut StdRng| -> Vec<f32> {
                let count = tokens * columns;
                let mut rows: Vec<f32> = (0..count).map(|_| rng.random_range(-1.0..1.0)).collect();
                // A row of zeros, and one that is not all numbers.
                rows.iter_mut().take(columns).for_each(|x| *x = 0.0);
                rows.iter_mut()
                    .skip(columns)
                    .take(1)
                    .for_each(|x| *x = f32::NAN);
                rows
            };
            let (x, said) = (rows(&mut rng), rows(&mut rng));
            let mut sum = x.clone();
            elementwise::add(&threads, &mut sum, &said);
            let mut normed = vec![0.0; x.len()];
            elementwise::rms_norm(&threads, &sum, &weight, 1e-5, &mut normed);
            let (mut got_sum, mut got_normed) = (vec![7.0; x.len()], vec![7.0; x.len()]);
            let of = Normed {
                x: &x,
                said: &said,
                weight: &weight,
                eps: 1e-5,
            };
            let outs = [&mut got_sum[..], &mut got_normed];
            rounded.round_normed(&threads, of, outs, group_size);
            let what = format!("{tokens} tokens, {}", sample.what());
            assert!(bits(&got_sum) == bits(&sum), "{what}");
            assert!(bits(&got_normed) == bits(&normed), "{what}");
            let mut out = vec![0.0; tokens * sample.count];
            project(&threads, &[&tiles], &rounded, &mut [&mut out]);
            let expected = products(best(), &tiles, &normed);
            assert!(bits(&out) == bits(&expected), "{what}");
        }
    }
}

#[test]
fn what_is_rounded_again_leaves_nothing_behind() {
    let mut rng = StdRng::seed_from_u64(5);
    let sample = Sample::new(&mut rng, 33, 4);
    let (tiles, threads) = (sample.tiles(), threads(2));
    let mut again = Rounded::default();
    for tokens in [30, 1, 13, 0, 2] {
        let x: Vec<f32> = (0..tokens * sample.columns)
            .map(|_| rng.random_range(-1.0..1.0))
            .collect();
        again.round(&threads, &x, sample.columns, sample.group_size);
        let mut out = vec![f32::NAN; tokens * sample.count];
        project(&threads, &[&tiles], &again, &mut [&mut out]);
        assert!(out == products(best(), &tiles, &x), "{tokens} tokens");
    }
}

#[test]
#[should_panic(expected = "columns")]
fn matrices_of_other_columns_are_refused() {
    let mut rng = StdRng::seed_from_u64(5);
    let mut sample = |groups| Sample::of(&mut rng, 16, groups, 4, 64, Scales::F16).tiles();
    let (one, other, threads) = (sample(1), sample(2), threads(1));
    let x = rounded(&threads, &one, &[1.0; 64]);
    project(&threads, &[&other], &x, &mut [&mut [0.0; 16]]);
}

#[test]
#[should_panic(expected = "products")]
fn outputs_of_another_length_are_refused() {
    let mut rng = StdRng::seed_from_u64(5);
    let tiles = Sample::of(&mut rng, 16, 1, 4, 64, Scales::F16).tiles();
    let threads = threads(1);
    let x = rounded(&threads, &tiles, &[1.0; 64]);
    project(&threads, &[&tiles], &x, &mut [&mut [0.0; 15]]);
}

#[test]
fn the_largest_sums_are_the_same_too() {
    for (mut sample, mut rng) in samples() {
        let tokens = rng.random_range(1..40);
        for (weights, x) in [(255, 1.0), (255, -1.0), (0, -1.0)] {
            sample.weights.fill(weights);
            let (tiles, x) = (sample.tiles(), vec![x; tokens * sample.columns]);
            let expected = products(Instructions::Portable, &tiles, &x);
            for by in instructions() {
                let got = products(by, &tiles, &x);
                assert!(got == expected, "{by:?}, {}", sample.what());
            }
        }
    }
}

#[test]
fn a_tokens_products_do_not_depend_on_the_others() {
    for (sample, mut rng) in samples() {
        let (tiles, columns) = (sample.tiles(), sample.columns);
        let tokens = rng.random_range(2..120);
        let x: Vec<f32> = (0..tokens * columns)
            .map(|_| rng.random_range(-1.0..1.0))
            .collect();
        let together = products(best(), &tiles, &x);
        for (x, together) in x.chunks(columns).zip(together.chunks(sample.count)) {
            assert!(products(best(), &tiles, x) == together, "{}", sample.what());
        }
    }
}

#[test]
fn what_is_not_a_number_shows_in_its_own_token_alone() {
    let mut rng = StdRng::seed_from_u64(3);
    let sample = Sample::new(&mut rng, 20, 2);
    let (tiles, columns) = (sample.tiles(), sample.columns);
    let mut x = vec![0.5; 3 * columns];
    let well = products(best(), &tiles, &x);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        x[columns + 5] = bad;
        let products = products(best(), &tiles, &x);
        let (rows, count) = (products.chunks(sample.count), sample.count);
        let rows: Vec<&[f32]> = rows.collect();
        assert!(rows[1].iter().all(|x| !x.is_finite()));
        assert_eq!(rows[0], &well[..count]);
        assert_eq!(rows[2], &well[..count]);
    }
}
