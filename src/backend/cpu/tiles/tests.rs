#![allow(clippy::unwrap_used)]

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::kernel::{Instructions, project_by};
use super::*;

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
        let tiles = Tiles::new(&Stored {
            count: self.count,
            columns: self.columns,
            bits: self.bits,
            group_size: self.group_size,
            weights: &self.weights,
            scales_are: self.scales_are,
            scales: &self.scales,
            biases: &self.biases,
        });
        tiles.unwrap()
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
        all.extend(avx512::is_there().then_some(Instructions::Avx512));
    }
    #[cfg(target_arch = "aarch64")]
    {
        all.extend(neon::is_there().then_some(Instructions::Neon));
        all.extend(neon::is_mixed_there().then_some(Instructions::NeonMixed));
    }
    all
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
    assert!(Tiles::new(&stored(4, 64, 64)).is_some());
    for (bits, group_size, columns) in [(3, 64, 64), (4, 48, 96), (4, 64, 96), (8, 64, 0)] {
        assert!(Tiles::new(&stored(bits, group_size, columns)).is_none());
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
            let products = project_by(&tiles, &x, by);
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
                    let got = f64::from(products[token * sample.count + row]);
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
    let products = project_by(&sample.tiles(), &x, Instructions::Portable);
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
        let kinds = rng.random_range(1..=extremes.len());
        let x: Vec<f32> = (0..rng.random_range(1..40) * columns)
            .map(|_| match rng.random_bool(0.9) {
                true => rng.random_range(-2.0..2.0),
                false => extremes[rng.random_range(0..kinds)],
            })
            .collect();
        let expected = bits(&project_by(&tiles, &x, Instructions::Portable));
        for by in instructions() {
            let got = bits(&project_by(&tiles, &x, by));
            assert!(got == expected, "{by:?}, {}", sample.what());
        }
    }
}

#[test]
fn the_largest_sums_are_the_same_too() {
    for (mut sample, mut rng) in samples() {
        let tokens = rng.random_range(1..40);
        for (weights, x) in [(255, 1.0), (255, -1.0), (0, -1.0)] {
            sample.weights.fill(weights);
            let (tiles, x) = (sample.tiles(), vec![x; tokens * sample.columns]);
            let expected = project_by(&tiles, &x, Instructions::Portable);
            for by in instructions() {
                let got = project_by(&tiles, &x, by);
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
        let together = project(&tiles, &x);
        for (x, together) in x.chunks(columns).zip(together.chunks(sample.count)) {
            assert!(project(&tiles, x) == together, "{}", sample.what());
        }
    }
}

#[test]
fn what_is_not_a_number_shows_in_its_own_token_alone() {
    let mut rng = StdRng::seed_from_u64(3);
    let sample = Sample::new(&mut rng, 20, 2);
    let (tiles, columns) = (sample.tiles(), sample.columns);
    let mut x = vec![0.5; 3 * columns];
    let well = project(&tiles, &x);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        x[columns + 5] = bad;
        let products = project(&tiles, &x);
        let (rows, count) = (products.chunks(sample.count), sample.count);
        let rows: Vec<&[f32]> = rows.collect();
        assert!(rows[1].iter().all(|x| !x.is_finite()));
        assert_eq!(rows[0], &well[..count]);
        assert_eq!(rows[2], &well[..count]);
    }
}
