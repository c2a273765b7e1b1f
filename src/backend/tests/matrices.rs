//! Matrices and experts in every format.

use half::{bf16, f16};

use super::*;

on_backends! {
    exact(),
    fn matrices_of_every_format_give_their_rows_and_products(backend: &B) {
        let mut dice = Dice::new(4);
        let (rows, columns) = (40, 256);
        for (what, weights, values) in every_format(&mut dice, &[rows, columns]) {
            let matrix = backend.matrix(weights).unwrap();
            for tokens in [1, 3, 20] {
                let x = dice.short_floats(tokens * columns);
                let got = backend.project(&tensor(backend, &[tokens, columns], &x), &matrix);
                let got = backend.read(&got.unwrap()).unwrap();
                assert_close(&got, &product(&wide(&x), &values, columns), &what);
            }
            let ids = [7u32, 0, 39, 7];
            let rows = backend.embed(&matrix, &[TokenSource::Given(&ids)]).unwrap();
            let got = backend.read(&rows).unwrap();
            let expected = ids.map(|id| values[id as usize * columns..][..columns].to_vec());
            // An unpacked row may be rounded to the type of its scales.
            let expected = expected.concat();
            for (got, expected) in got.iter().zip(&expected) {
                let error = (f64::from(*got) - expected).abs();
                assert!(error <= expected.abs() / 256.0 + 1e-6, "{what}: {got} {expected}");
            }
        }
    }

    fn several_products_at_once_are_those_one_by_one(backend: &B) {
        let mut dice = Dice::new(14);
        let (rows, columns) = (48, 256);
        let load = |dice: &mut Dice, rows| {
            let formats = every_format(dice, &[rows, columns]).into_iter();
            formats.map(|(_, weights, _)| backend.matrix(weights).unwrap()).collect::<Vec<_>>()
        };
        let (gates, ups) = (load(&mut dice, rows), load(&mut dice, rows));
        let others = load(&mut dice, 19);
        for tokens in [1, 7] {
            let x = tensor(backend, &[tokens, columns], &dice.short_floats(tokens * columns));
            // Matrices of one format and of several.
            for (place, gate) in gates.iter().enumerate() {
                for (up, other) in [(place, place), (0, gates.len() - 1)] {
                    let (up, other) = (&ups[up], &others[other]);
                    let read = |x| backend.read(&x).unwrap();
                    let alone = [gate, up, other].map(|matrix| backend.project(&x, matrix).unwrap());
                    let together = backend.project_each(&x, [gate, up, other]).unwrap();
                    let activation = Activation::GeluTanh;
                    let gated = backend.gated(&alone[0], &alone[1], activation).unwrap();
                    let at_once = backend.project_gated(&x, gate, up, activation).unwrap();
                    assert_eq!(together.map(read), alone.map(read));
                    let gated = wide(&read(gated));
                    assert_close(&read(at_once), &gated, "gated");
                }
            }
        }
    }

    fn experts_say_what_their_shares_of_them_say(backend: &B) {
        let mut dice = Dice::new(5);
        let (count, hidden, inner) = (6, 128, 64);
        let all = [
            every_format(&mut dice, &[count, inner, hidden]),
            every_format(&mut dice, &[count, inner, hidden]),
            every_format(&mut dice, &[count, hidden, inner]),
        ];
        let [gates, ups, downs] = all;
        for ((gate, up), down) in gates.into_iter().zip(ups).zip(downs) {
            let (what, gate, gate_values) = gate;
            let (_, up, up_values) = up;
            let (_, down, down_values) = down;
            // As most families have them, and as gpt-oss has.
            let own = [inner, inner, hidden].map(|width| dice.floats(count * width));
            let zero = [inner, inner, hidden].map(|width| vec![0.0; count * width]);
            let raw_biases = || {
                let [gate, up, down] = [0, 1, 2].map(|i| {
                    raw_floats(&[count, own[i].len() / count], &own[i])
                });
                ExpertBiases { gate, up, down }
            };
            let load = |biases, activation| {
                let (gate, up, down) = (gate.clone(), up.clone(), down.clone());
                backend.experts(ExpertWeights { gate, up, down, biases, activation, count }).unwrap()
            };
            let plain = load(None, Activation::Silu);
            let biased = load(Some(raw_biases()), Activation::ClampedSilu);
            // Few rows and many: they take different ways.
            for (tokens, top_k, renormalize, with_biases) in [
                (1, 2, true, false),
                (3, 1, false, false),
                (2, 6, false, false),
                (40, 3, true, false),
                (2, 3, true, true),
                (40, 3, true, true),
            ] {
                let (experts, biases, activation) = match with_biases {
                    false => (&plain, &zero, Activation::Silu),
                    true => (&biased, &own, Activation::ClampedSilu),
                };
                let x = dice.short_floats(tokens * hidden);
                let router: Vec<f32> = dice.floats(tokens * count).iter().map(|x| x * 3.0).collect();
                let mut expected = Vec::new();
                for (x, router) in wide(&x).chunks(hidden).zip(wide(&router).chunks(count)) {
                    let mut shares: Vec<(usize, f64)> =
                        router.iter().map(|x| x.exp()).enumerate().collect();
                    let all: f64 = shares.iter().map(|(_, share)| share).sum();
                    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
                    shares.truncate(top_k);
                    let chosen: f64 = shares.iter().map(|(_, share)| share).sum();
                    let mut sum = vec![0.0; hidden];
                    for (expert, share) in shares {
                        let of = |values: &[f64]| {
                            values[expert * inner * hidden..][..inner * hidden].to_vec()
                        };
                        let biased = |product: Vec<f64>, biases: &[f32]| -> Vec<f64> {
                            let width = product.len();
                            let biases = wide(&biases[expert * width..][..width]);
                            product.iter().zip(biases).map(|(x, bias)| x + bias).collect()
                        };
                        let gate = biased(product(x, &of(&gate_values), hidden), &biases[0]);
                        let up = biased(product(x, &of(&up_values), hidden), &biases[1]);
                        let gated: Vec<f64> = gate
                            .iter()
                            .zip(up)
                            .map(|(gate, up)| activated(activation, *gate, up))
                            .collect();
                        let said = biased(product(&gated, &of(&down_values), inner), &biases[2]);
                        let share = share / if renormalize { chosen } else { all };
                        sum.iter_mut().zip(said).for_each(|(sum, said)| *sum += share * said);
                    }
                    expected.extend(sum);
                }
                let got = backend.mix_experts(
                    &tensor(backend, &[tokens, hidden], &x),
                    &tensor(backend, &[tokens, count], &router),
                    experts,
                    top_k,
                    renormalize,
                );
                let what = format!("{what}, {tokens} tokens to {top_k}, {activation:?}");
                assert_close(&backend.read(&got.unwrap()).unwrap(), &expected, &what);
            }
        }
    }
}

/// Random weights of a shape in every format there is, and their values.
pub(super) fn every_format(
    dice: &mut Dice,
    shape: &[usize],
) -> Vec<(String, MatrixWeights, Vec<f64>)> {
    let elements: usize = shape.iter().product();
    let (&columns, rows) = shape.split_last().unwrap();
    let of_row = |length: usize| [rows, &[length]].concat();
    let values = dice.short_floats(elements);
    let dense = |dtype, bytes: Vec<u8>| {
        (
            format!("{dtype:?}"),
            MatrixWeights::Dense(raw(dtype, shape, bytes)),
            wide(&values),
        )
    };
    let mut formats = vec![
        dense(
            Dtype::F32,
            values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        ),
        dense(
            Dtype::Bf16,
            values
                .iter()
                .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
                .collect(),
        ),
        dense(
            Dtype::F16,
            values
                .iter()
                .flat_map(|&x| f16::from_f32(x).to_le_bytes())
                .collect(),
        ),
    ];
    for bits in [2, 3, 4, 5, 6, 8] {
        for group_size in [32, 64, 128] {
            if !columns.is_multiple_of(group_size) {
                continue;
            }
            let numbers = dice.numbers(elements, 1 << bits);
            let scales = dice.floats(elements / group_size);
            let biases = dice.floats(elements / group_size);
            let values = numbers
                .iter()
                .enumerate()
                .map(|(i, &q)| {
                    let group = i / group_size;
                    f64::from(q) * f64::from(scales[group]) + f64::from(biases[group])
                })
                .collect();
            let groups = of_row(columns / group_size);
            let weights = MatrixWeights::Affine {
                packed: raw(
                    Dtype::U32,
                    &of_row(columns * bits / 32),
                    bit_string(&numbers, bits),
                ),
                scales: raw_floats(&groups, &scales),
                biases: raw_floats(&groups, &biases),
                group_size,
                bits,
            };
            formats.push((format!("{bits} bits by {group_size}"), weights, values));
        }
    }
    let numbers = dice.numbers(elements, 16);
    let exponents: Vec<u8> = dice
        .numbers(elements / 32, 9)
        .iter()
        .map(|&e| 122 + e as u8)
        .collect();
    let float = |q: u32| {
        let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][q as usize & 7];
        if q & 8 == 0 { magnitude } else { -magnitude }
    };
    let values = numbers
        .iter()
        .enumerate()
        .map(|(i, &q)| float(q) * 2f64.powi(i32::from(exponents[i / 32]) - 127))
        .collect();
    let weights = MatrixWeights::Mxfp4 {
        packed: raw(Dtype::U32, &of_row(columns / 8), bit_string(&numbers, 4)),
        scales: raw(Dtype::U8, &of_row(columns / 32), exponents),
    };
    formats.push(("mxfp4".to_owned(), weights, values));
    formats
}

/// The numbers as one string of bits, lowest first.
fn bit_string(numbers: &[u32], bits: usize) -> Vec<u8> {
    let mut bytes = vec![0u8; numbers.len() * bits / 8];
    for (index, number) in numbers.iter().enumerate() {
        for bit in 0..bits {
            let at = index * bits + bit;
            bytes[at / 8] |= ((number >> bit & 1) as u8) << (at % 8);
        }
    }
    bytes
}
