//! Every operation on every backend of this build, against its definition
//! written down in f64. Inputs are f32, so that what differs is rounding of
//! f32 (2^-24) in sums of some hundred terms.

#![allow(clippy::unwrap_used)]

use std::num::NonZero;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::blob::Blob;

/// The backends whose products of quantized weights are exact but for f32.
/// What the others round has tests of its own.
fn exact() -> impl Iterator<Item = BackendChoice> {
    let choices = BackendChoice::BUILT_IN.iter().copied();
    choices.filter(|&choice| choice != BackendChoice::Candle)
}

/// candle as GPUs have it, on the CPU.
fn tensors() -> candle::Candle {
    let (device, dtype) = (candle_core::Device::Cpu, candle_core::DType::F32);
    candle::Candle::on(device, dtype, NonZero::new(2).unwrap())
}

/// A test that is run once a backend: each there is, and what GPUs have.
macro_rules! on_every_backend {
    ($(fn $name:ident($backend:ident: &B) $body:block)*) => {$(
        on_backends! {
            BackendChoice::BUILT_IN.iter().copied(), Some(tensors()),
            fn $name($backend: &B) $body
        }
    )*};
}
macro_rules! on_backends {
    ($choices:expr, $(fn $name:ident($backend:ident: &B) $body:block)*) => {$(
        on_backends! { $choices, None::<candle::Candle>, fn $name($backend: &B) $body }
    )*};
    ($choices:expr, $tensors:expr, fn $name:ident($backend:ident: &B) $body:block) => {
        #[test]
        fn $name() {
            struct Work;
            impl WithBackend for Work {
                type Output = ();
                fn with<B: Backend>(self, backend: B) {
                    let $backend = &backend;
                    $body
                }
            }
            for choice in $choices {
                start(choice, Work).unwrap();
            }
            if let Some(tensors) = $tensors {
                Work.with(tensors);
            }
        }
    };
}

mod convolution;
mod fused;
mod matrices;
mod sampling;
mod start;
mod states;
pub(super) mod stored;

/// The relative error that sums in another order may have.
const TOLERANCE: f64 = 2e-5;

fn assert_close(got: &[f32], expected: &[f64], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-3, |top: f64, x| top.max(x.abs()));
    for (index, (&got, expected)) in got.iter().zip(expected).enumerate() {
        assert!(
            (f64::from(got) - expected).abs() <= TOLERANCE * scale,
            "{what}: element {index} is {got}, not {expected}"
        );
    }
}

struct Dice(StdRng);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.0.random_range(-1.0..1.0)).collect()
    }

    /// Numbers that bf16 and f16 hold exactly: whole 128ths.
    fn short_floats(&mut self, count: usize) -> Vec<f32> {
        let floats = self.floats(count);
        floats.iter().map(|x| (x * 128.0).round() / 128.0).collect()
    }

    fn numbers(&mut self, count: usize, below: u32) -> Vec<u32> {
        (0..count).map(|_| self.0.random_range(0..below)).collect()
    }
}

fn raw(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> RawTensor {
    RawTensor {
        dtype,
        shape: shape.to_vec(),
        bytes: Blob::from_static(bytes.leak()),
    }
}

fn raw_floats(shape: &[usize], values: &[f32]) -> RawTensor {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    raw(Dtype::F32, shape, bytes)
}

fn tensor<B: Backend>(backend: &B, shape: &[usize], values: &[f32]) -> B::Tensor {
    backend.parameter(&raw_floats(shape, values)).unwrap()
}

/// Tokens that are all there.
fn read<B: Backend>(backend: &B, tokens: &B::Tokens) -> Vec<u32> {
    let tokens = backend.read_tokens(tokens).unwrap().into_iter();
    tokens.map(|token| token.unwrap()).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// What [`Activation`] says, written once more.
fn activated(activation: Activation, gate: f64, up: f64) -> f64 {
    match activation {
        Activation::Silu => silu(gate) * up,
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044715 * gate.powi(3));
            0.5 * gate * (1.0 + inner.tanh()) * up
        }
        Activation::ClampedSilu => {
            let gate = gate.min(7.0);
            gate / (1.0 + (-1.702 * gate).exp()) * (up.clamp(-7.0, 7.0) + 1.0)
        }
    }
}

/// `x` `[T, in]` times the transposed `weight` `[out, in]`.
fn product(x: &[f64], weight: &[f64], columns: usize) -> Vec<f64> {
    x.chunks_exact(columns)
        .flat_map(|x| {
            weight
                .chunks_exact(columns)
                .map(move |w| w.iter().zip(x).map(|(w, x)| w * x).sum())
        })
        .collect()
}

on_every_backend! {
    fn norms_sums_and_gates_are_what_they_are_called(backend: &B) {
        let mut dice = Dice::new(1);
        for (rows, width) in [(1, 64), (5, 96), (3, 1024)] {
            let (a, b) = (dice.floats(rows * width), dice.floats(rows * width));
            let weight = dice.floats(width);
            let (x, y) = (
                tensor(backend, &[rows, width], &a),
                tensor(backend, &[rows, width], &b),
            );
            let normed = backend.rms_norm(&x, &tensor(backend, &[width], &weight), 1e-5);
            let expected: Vec<f64> = wide(&a)
                .chunks_exact(width)
                .flat_map(|row| {
                    let mean = row.iter().map(|x| x * x).sum::<f64>() / width as f64;
                    let factor = (mean + 1e-5).sqrt().recip();
                    row.iter()
                        .zip(&weight)
                        .map(move |(x, w)| x * factor * f64::from(*w))
                        .collect::<Vec<_>>()
                })
                .collect();
            assert_close(&backend.read(&normed.unwrap()).unwrap(), &expected, "rms_norm");

            let pairs = || wide(&a).into_iter().zip(wide(&b));
            let sum: Vec<f64> = pairs().map(|(a, b)| a + b).collect();
            let got = backend.read(&backend.add(x.clone(), &y).unwrap()).unwrap();
            assert_close(&got, &sum, "add");
            let row = backend.add(x.clone(), &tensor(backend, &[width], &weight)).unwrap();
            let cycled = wide(&a).into_iter().zip(wide(&weight).into_iter().cycle());
            let sum: Vec<f64> = cycled.map(|(a, b)| a + b).collect();
            assert_close(&backend.read(&row).unwrap(), &sum, "add a row");
            let shifted: Vec<f64> = wide(&a).iter().map(|a| a + 1.0).collect();
            let got = backend.read(&backend.shift(x.clone(), 1.0).unwrap()).unwrap();
            assert_close(&got, &shifted, "shift");
            let scaled: Vec<f64> = wide(&a).iter().map(|a| a * 0.37f32 as f64).collect();
            let got = backend.read(&backend.scale(x.clone(), 0.37).unwrap()).unwrap();
            assert_close(&got, &scaled, "scale");
            let capped: Vec<f64> = wide(&a).iter().map(|a| 0.7f32 as f64 * (a / 0.7f32 as f64).tanh()).collect();
            let got = backend.read(&backend.softcap(x.clone(), 0.7).unwrap()).unwrap();
            assert_close(&got, &capped, "softcap");
        }
    }

    fn gates_are_what_their_activations_say(backend: &B) {
        let mut dice = Dice::new(11);
        let (rows, width) = (3, 64);
        // Far beyond the limits of the clamped one.
        let many = |dice: &mut Dice| -> Vec<f32> {
            dice.floats(rows * width).iter().map(|x| x * 12.0).collect()
        };
        let (a, b) = (many(&mut dice), many(&mut dice));
        let (x, y) = (tensor(backend, &[rows, width], &a), tensor(backend, &[rows, width], &b));
        for activation in [Activation::Silu, Activation::GeluTanh, Activation::ClampedSilu] {
            let pairs = wide(&a).into_iter().zip(wide(&b));
            let gated: Vec<f64> = pairs.map(|(a, b)| activated(activation, a, b)).collect();
            let got = backend.read(&backend.gated(&x, &y, activation).unwrap()).unwrap();
            assert_close(&got, &gated, &format!("{activation:?}"));
        }
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let whole: Vec<f64> = wide(&a).iter().zip(wide(&b)).map(|(a, b)| a * sigmoid(b)).collect();
        let got = backend.read(&backend.sigmoid_gate(&x, &y).unwrap()).unwrap();
        assert_close(&got, &whole, "sigmoid_gate");
        let gates = [-2.0f32, 0.5, 3.0];
        let by_row: Vec<f64> = wide(&a)
            .chunks(width)
            .zip(gates)
            .flat_map(|(row, gate)| row.iter().map(move |a| a * sigmoid(f64::from(gate))).collect::<Vec<_>>())
            .collect();
        let got = backend.sigmoid_gate(&x, &tensor(backend, &[rows, 1], &gates)).unwrap();
        assert_close(&backend.read(&got).unwrap(), &by_row, "sigmoid_gate by row");
    }

    fn rows_are_selected_in_the_order_asked_for(backend: &B) {
        let values: Vec<f32> = (0..12).map(|x| x as f32).collect();
        let x = tensor(backend, &[4, 3], &values);
        for rows in [&[0u32, 1, 2, 3][..], &[3, 0], &[2], &[0], &[1, 1, 3, 2, 0]] {
            let expected: Vec<f32> = rows
                .iter()
                .flat_map(|&row| values[row as usize * 3..][..3].to_vec())
                .collect();
            let got = backend.select_rows(&x, rows).unwrap();
            assert_eq!(backend.read(&got).unwrap(), expected, "{rows:?}");
        }
    }

    fn heads_are_rotated_by_their_position(backend: &B) {
        let mut dice = Dice::new(2);
        // Far positions are the test: an angle of 40,000 in f32 is off by
        // 2^-9, whoever computes it. So frequencies that make them exact.
        for (head_dim, rotated, positions, magnitudes) in [
            (64, 64, vec![0u32], vec![1.0]),
            (64, 64, vec![5, 6, 7, 100, 0], vec![1.0; 5]),
            (64, 64, vec![5, 6], vec![1.25, 0.5]),
            (64, 48, vec![5, 6, 7, 100, 0], vec![1.0; 5]),
            (64, 16, vec![9, 3], vec![1.0, 1.5]),
            (32, 32, vec![4096, 1, 40_960], vec![1.0; 3]),
        ] {
            let heads = 3;
            let x = dice.floats(positions.len() * heads * head_dim);
            let half = rotated / 2;
            let inv_freq: Vec<f32> = (0..half).map(|i| 0.5f32.powi(i as i32)).collect();
            let tensor = tensor(backend, &[positions.len(), heads, head_dim], &x);
            let magnitude = |at| {
                let mut all = positions.iter().zip(&magnitudes);
                *all.find(|(position, _)| **position == at).unwrap().1
            };
            let rotation = backend.rotation(&positions, &inv_freq, magnitude).unwrap();
            let got = backend.read(&backend.rotate(tensor, &rotation).unwrap()).unwrap();
            let mut expected = wide(&x);
            for (row, head) in x.chunks_exact(head_dim).enumerate() {
                let position = f64::from(positions[row / heads]);
                let magnitude = f64::from(magnitudes[row / heads]);
                for i in 0..half {
                    let (sin, cos) = (position * f64::from(inv_freq[i])).sin_cos();
                    let (sin, cos) = (sin * magnitude, cos * magnitude);
                    let (a, b) = (f64::from(head[i]), f64::from(head[i + half]));
                    expected[row * head_dim + i] = a * cos - b * sin;
                    expected[row * head_dim + i + half] = a * sin + b * cos;
                }
            }
            // The library's own sine and cosine of a large angle.
            let scale = 3e-3;
            for (got, expected) in got.iter().zip(&expected) {
                assert!((f64::from(*got) - expected).abs() < scale, "{got} {expected}");
            }
            if positions.iter().all(|&position| position <= 100) {
                assert_close(&got, &expected, "rotate");
            }
        }
    }

    fn attention_sees_its_own_sequence_up_to_itself_and_no_further_than_its_window(backend: &B) {
        let mut dice = Dice::new(3);
        let (heads, kv_heads, head_dim) = (4, 2, 64);
        for window in [None, Some(1), Some(3), Some(20), Some(400)] {
            for (with_sinks, softcap) in
                [(false, None), (true, None), (false, Some(0.5)), (true, Some(0.5))]
            {
                let sinks = dice.floats(heads);
                let sinks = with_sinks.then(|| (tensor(backend, &[heads], &sinks), sinks));
                let settings = AttentionSettings {
                    scale: 0.125,
                    softcap,
                    window,
                    sinks: sinks.as_ref().map(|(sinks, _)| sinks),
                };
                // Two sequences: one in pieces of several sizes, across the
                // growth of its buffers, and one that joins later.
                let mut sequences = [Reference::new(backend), Reference::new(backend)];
                for step in [[7, 0], [1, 5], [250, 1], [1, 1], [30, 2], [1, 40]] {
                    let tokens: usize = step.iter().sum();
                    let q = dice.floats(tokens * heads * head_dim);
                    // Keys and values may be kept in f16.
                    let k = dice.short_floats(tokens * kv_heads * head_dim);
                    let v = dice.short_floats(tokens * kv_heads * head_dim);
                    let mut expected = Vec::new();
                    let mut start = 0;
                    for (sequence, count) in sequences.iter_mut().zip(step) {
                        let of = |x: &[f32], heads: usize| {
                            let row = heads * head_dim;
                            wide(&x[start * row..(start + count) * row])
                        };
                        sequence.k.extend(of(&k, kv_heads));
                        sequence.v.extend(of(&v, kv_heads));
                        let sinks = sinks.as_ref().map(|(_, sinks)| sinks.as_slice());
                        expected.extend(sequence.attend(&of(&q, heads), window, softcap, sinks));
                        start += count;
                    }
                    let shape = |heads| [tokens, heads, head_dim];
                    let mut spans: Vec<Span<'_, B::Kv>> = sequences
                        .iter_mut()
                        .zip(step)
                        .filter(|(_, tokens)| *tokens > 0)
                        .map(|(sequence, tokens)| Span { tokens, kv: &mut sequence.kv })
                        .collect();
                    let got = backend.attention(
                        &tensor(backend, &shape(heads), &q),
                        &tensor(backend, &shape(kv_heads), &k),
                        &tensor(backend, &shape(kv_heads), &v),
                        &mut spans,
                        &settings,
                    );
                    let got = backend.read(&got.unwrap()).unwrap();
                    assert_close(&got, &expected, &format!("{window:?} {softcap:?} {with_sinks} {step:?}"));
                }
            }
        }
    }

    fn a_fork_goes_on_from_its_prefix_and_leaves_the_original_as_it_is(backend: &B) {
        let mut dice = Dice::new(8);
        let row = 2 * 64;
        // Within a piece of the buffers, at its end, beyond it, and nothing.
        for (len, forked) in [(7, 3), (300, 255), (300, 256), (300, 257), (256, 256), (5, 0)] {
            let mut original = Reference::new(backend);
            original.go_on(backend, &mut dice, len);
            let mut fork = Reference {
                kv: backend.fork_kv(&original.kv, forked).unwrap(),
                k: original.k[..forked * row].to_vec(),
                v: original.v[..forked * row].to_vec(),
            };
            for tokens in [1, 5, 30] {
                fork.go_on(backend, &mut dice, tokens);
                original.go_on(backend, &mut dice, tokens);
            }
            // And it needs the original no more.
            drop(original);
            fork.go_on(backend, &mut dice, 2);
        }
        let empty = backend.fork_kv(&backend.kv(2, 64).unwrap(), 0).unwrap();
        let mut empty = Reference { kv: empty, k: Vec::new(), v: Vec::new() };
        empty.go_on(backend, &mut dice, 3);
    }

    fn keys_and_values_are_read_out_and_go_on_where_they_are_written(backend: &B) {
        let mut dice = Dice::new(9);
        let row = 2 * 64;
        // Within a piece of the buffers, at its end, beyond it.
        for (len, read) in [(1, 1), (7, 3), (256, 256), (300, 255), (600, 600)] {
            let mut original = Reference::new(backend);
            original.go_on(backend, &mut dice, len);
            let raw = backend.read_kv(&original.kv, read).unwrap();
            let mut copy = Reference {
                kv: backend.kv(2, 64).unwrap(),
                k: original.k[..read * row].to_vec(),
                v: original.v[..read * row].to_vec(),
            };
            for (raw, expected) in [(&raw.keys, &copy.k), (&raw.values, &copy.v)] {
                assert_eq!(raw.dtype, backend.kv_type(&tensor(backend, &[1], &[0.0])));
                assert_eq!(raw.shape, [read, 2, 64]);
                assert_eq!(wide(&raw.to_f32().unwrap()), *expected);
            }
            backend.write_kv(&mut copy.kv, &raw).unwrap();
            original.go_on(backend, &mut dice, 2);
            assert!(backend.read_kv(&original.kv, len + 3).is_err());
            drop(original);
            for tokens in [1, 5, 30] {
                copy.go_on(backend, &mut dice, tokens);
            }
        }
        assert!(backend.read_kv(&backend.kv(2, 64).unwrap(), 1).is_err());
    }

    fn tokens_come_from_where_they_are_said_to(backend: &B) {
        let logits = tensor(backend, &[3, 4], &[0., 9., 0., 0., 9., 0., 0., 0., 0., 0., 0., 9.]);
        let drawn = backend.sample(&logits, &[Draw::GREEDY; 3]).unwrap();
        backend.start(&[&logits], &[&drawn]).unwrap();
        assert_eq!(read(backend, &drawn), [1, 0, 3]);
        // A table whose rows say their numbers.
        let numbers: Vec<f32> = (0..9).map(|row| row as f32).collect();
        let table = MatrixWeights::Dense(raw_floats(&[9, 1], &numbers));
        let table = backend.matrix(table).unwrap();
        let of = |place| TokenSource::Drawn(&drawn, place);
        let given = TokenSource::Given(&[7, 8]);
        for (parts, expected) in [
            (vec![of(0), of(1), of(2)], vec![1., 0., 3.]),
            (vec![of(2), of(1), of(0)], vec![3., 0., 1.]),
            (vec![of(0), of(2), of(1)], vec![1., 3., 0.]),
            (vec![of(0), of(1)], vec![1., 0.]),
            (vec![of(1), given, of(1)], vec![0., 7., 8., 0.]),
            (vec![TokenSource::Given(&[5])], vec![5.]),
        ] {
            let rows = backend.embed(&table, &parts).unwrap();
            assert_eq!(backend.read(&rows).unwrap(), expected);
        }
    }

    fn draws_are_the_samplers(backend: &B) {
        let mut dice = Dice::new(6);
        let vocabulary = 50;
        for case in 0..60 {
            // A draw a row, of all kinds in one step.
            let draws: Vec<Draw> = (0..5)
                .map(|row| Draw {
                    temperature: [0.0, 0.3, 0.7, 1.0, 1.5][(case + row) % 5],
                    top_p: [1.0, 0.9, 0.5, 0.0, 0.05][(case / 5 + row) % 5],
                    min_p: [0.0, 0.1, 0.5, 1.0][(case / 3 + row) % 4],
                    min_tokens_to_keep: [1, 3, 70][(case + row) % 3],
                    uniform: 0.0,
                })
                .collect();
            let logits: Vec<f32> =
                dice.floats(5 * vocabulary).iter().map(|x| x * 4.0).collect();
            // What each row may draw: the host's sampler, asked everywhere.
            let places = || (0..400).map(|place| place as f32 / 400.0);
            let expected: Vec<Vec<u32>> = logits
                .chunks(vocabulary)
                .zip(&draws)
                .map(|(row, draw)| {
                    let mut sampler = Sampler::default();
                    let mut counts = vec![0u32; vocabulary];
                    for uniform in places() {
                        let draw = Draw { uniform, ..*draw };
                        counts[sampler.sample(row, &draw).unwrap() as usize] += 1;
                    }
                    counts
                })
                .collect();
            let mut got = vec![vec![0u32; vocabulary]; 5];
            let tensor = tensor(backend, &[5, vocabulary], &logits);
            for uniform in places() {
                let draws: Vec<Draw> =
                    draws.iter().map(|draw| Draw { uniform, ..*draw }).collect();
                let tokens = backend.sample(&tensor, &draws).unwrap();
                for (row, token) in read(backend, &tokens).into_iter().enumerate() {
                    got[row][token as usize] += 1;
                }
            }
            for ((got, expected), draw) in got.iter().zip(&expected).zip(&draws) {
                for (token, (got, expected)) in got.iter().zip(expected).enumerate() {
                    // The same stretch, give or take its two ends.
                    assert!(got.abs_diff(*expected) <= 2, "{token}: {got} {expected} {draw:?}");
                }
            }
        }
    }

    fn what_is_not_a_number_gives_no_token_and_the_rows_beside_it_theirs(backend: &B) {
        let mut dice = Dice::new(9);
        let values = dice.short_floats(12);
        let table = MatrixWeights::Dense(raw_floats(&[3, 4], &values));
        let table = backend.matrix(table).unwrap();
        for (temperature, top_p, min_p) in
            [(0.0, 1.0, 0.0), (1.0, 1.0, 0.0), (1.0, 0.5, 0.0), (1.0, 1.0, 0.1)]
        {
            let none = [f32::NAN; 3];
            let logits = [[1.0, 2.0, 30.0], none, [30.0, 2.0, 1.0], none].concat();
            let logits = tensor(backend, &[4, 3], &logits);
            let draw = Draw { temperature, top_p, min_p, uniform: 0.5, ..Draw::GREEDY };
            let drawn = backend.sample(&logits, &[draw; 4]).unwrap();
            // Fed on before it is read, all of it and a part: it is the id of
            // some row of the table.
            let of = |place| TokenSource::Drawn(&drawn, place);
            for parts in [vec![of(0), of(1), of(2), of(3)], vec![of(3), of(0)]] {
                let rows = backend.read(&backend.embed(&table, &parts).unwrap()).unwrap();
                assert_eq!(rows.len(), parts.len() * 4);
                assert!(rows.chunks(4).all(|row| values.chunks(4).any(|values| row == values)));
            }
            assert_eq!(backend.read_tokens(&drawn).unwrap()[..], [Some(2), None, Some(0), None]);
        }
    }

    fn shapes_that_do_not_fit_are_errors_with_the_operations_name(backend: &B) {
        let a = tensor(backend, &[2, 3], &[0.0; 6]);
        let b = tensor(backend, &[5, 7], &[0.0; 35]);
        let error = backend.add(a.clone(), &b).map(drop).unwrap_err();
        assert_eq!(error.op, "add");
        assert!(!error.reason.is_empty() && !error.reason.contains(".cpp"), "{error}");
        let matrix = backend.matrix(MatrixWeights::Dense(raw_floats(&[4, 5], &[0.0; 20]))).unwrap();
        assert_eq!(backend.project(&a, &matrix).map(drop).unwrap_err().op, "project");
    }
}

/// One sequence's keys and values, on the backend and in f64.
struct Reference<K> {
    kv: K,
    k: Vec<f64>,
    v: Vec<f64>,
}

impl<K> Reference<K> {
    fn new<B: Backend<Kv = K>>(backend: &B) -> Self {
        Self {
            kv: backend.kv(2, 64).unwrap(),
            k: Vec::new(),
            v: Vec::new(),
        }
    }

    /// The next `tokens` tokens, of which each sees all before it.
    fn go_on<B: Backend<Kv = K>>(&mut self, backend: &B, dice: &mut Dice, tokens: usize) {
        let [q, k, v] = [4, 2, 2].map(|heads| dice.short_floats(tokens * heads * 64));
        self.k.extend(wide(&k));
        self.v.extend(wide(&v));
        let shape = |heads| [tokens, heads, 64];
        let got = backend.attention(
            &tensor(backend, &shape(4), &q),
            &tensor(backend, &shape(2), &k),
            &tensor(backend, &shape(2), &v),
            &mut [Span {
                tokens,
                kv: &mut self.kv,
            }],
            &AttentionSettings {
                scale: 0.125,
                softcap: None,
                window: None,
                sinks: None,
            },
        );
        let got = backend.read(&got.unwrap()).unwrap();
        let expected = self.attend(&wide(&q), None, None, None);
        assert_close(&got, &expected, &format!("{tokens} more"));
    }

    /// Rows of 4 heads of 64, which 2 heads of keys and values serve.
    fn attend(
        &self,
        q: &[f64],
        window: Option<usize>,
        softcap: Option<f32>,
        sinks: Option<&[f32]>,
    ) -> Vec<f64> {
        let (heads, kv_heads, head_dim) = (4, 2, 64);
        let len = self.k.len() / (kv_heads * head_dim);
        let tokens = q.len() / (heads * head_dim);
        let mut output = Vec::new();
        for (row, q) in q.chunks_exact(head_dim).enumerate() {
            let (token, head) = (row / heads, row % heads);
            let own = len - tokens + token;
            let first = window.map_or(0, |window| (own + 1).saturating_sub(window));
            let at = |position: usize| (position * kv_heads + head / 2) * head_dim;
            let weights: Vec<f64> = (first..=own)
                .map(|position| {
                    let k = &self.k[at(position)..][..head_dim];
                    let score = 0.125 * q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>();
                    match softcap.map(f64::from) {
                        Some(cap) => (cap * (score / cap).tanh()).exp(),
                        None => score.exp(),
                    }
                })
                .collect();
            let sink = sinks.map_or(0.0, |sinks| f64::from(sinks[head]).exp());
            let total = weights.iter().sum::<f64>() + sink;
            let mut sum = vec![0.0; head_dim];
            for (position, weight) in (first..=own).zip(weights) {
                let v = &self.v[at(position)..][..head_dim];
                sum.iter_mut()
                    .zip(v)
                    .for_each(|(sum, v)| *sum += weight / total * v);
            }
            output.extend(sum);
        }
        output
    }
}
