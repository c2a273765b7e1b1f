//! What the two ways of computing have in common, and what only the kernel
//! says. What both are to say is tested for every backend.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// Numbers from -1 to 1 that every type holds exactly.
fn random(dice: &mut StdRng, shape: &[usize], dtype: DType) -> Tensor {
    let count = shape.iter().product();
    let numbers = (0..count).map(|_| dice.random_range(-64..=64) as f32 / 64.0);
    let tensor = Tensor::from_vec(numbers.collect::<Vec<_>>(), shape, &Device::Cpu).unwrap();
    tensor.to_dtype(dtype).unwrap()
}

fn elements(x: &Tensor) -> Vec<f32> {
    wide(x).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(a: &Tensor, b: &Tensor, tolerance: f32) {
    assert_eq!((a.dims(), a.dtype()), (b.dims(), b.dtype()));
    for (a, b) in elements(a).into_iter().zip(elements(b)) {
        assert!((a - b).abs() <= tolerance * a.abs().max(1.0), "{a} {b}");
    }
}

/// One unit of the last place of what a result is rounded to, and of f32's
/// sums.
fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => 1.0 / 128.0,
        DType::F16 => 1.0 / 1024.0,
        _ => 1e-5,
    }
}

/// Runs `compute` for `steps`, the tokens of each sequence, with its states.
fn over_steps<const N: usize>(
    steps: &[[usize; N]],
    mut compute: impl FnMut(usize, &mut [StateSpan<'_, Tensor>]) -> Tensor,
) -> (Vec<Tensor>, Vec<Option<Tensor>>) {
    let mut states = vec![None; N];
    let said = steps.iter().map(|step| {
        let mut spans: Vec<StateSpan<'_, Tensor>> = states
            .iter_mut()
            .zip(step)
            .map(|(state, &tokens)| StateSpan { tokens, state })
            .collect();
        compute(step.iter().sum(), &mut spans)
    });
    (said.collect(), states)
}

type Convolution = fn(&Tensor, &Tensor, bool, &mut [StateSpan<'_, Tensor>]) -> Result<Tensor>;
type Delta = fn(
    &Tensor,
    &Tensor,
    &Tensor,
    &DeltaGates<'_, Tensor>,
    &mut [StateSpan<'_, Tensor>],
) -> Result<Tensor>;

const STEPS: [[usize; 3]; 5] = [[9, 0, 1], [1, 2, 1], [1, 1, 1], [0, 20, 1], [3, 1, 0]];

#[test]
fn both_ways_convolve_alike() {
    for dtype in DTYPES {
        for (channels, taps) in [(1, 2), (5, 3), (64, 4), (6, 1)] {
            for silu in [false, true] {
                let run = |convolve: Convolution| {
                    let mut dice = StdRng::seed_from_u64(1);
                    let weight = random(&mut dice, &[channels, taps], dtype);
                    over_steps(&STEPS, |rows, spans| {
                        let x = random(&mut dice, &[rows, channels], dtype);
                        convolve(&x, &weight, silu, spans).unwrap()
                    })
                };
                let (said, states) = run(kernel::causal_conv);
                let (plain, plain_states) = run(plain::causal_conv);
                for (said, plain) in said.iter().zip(&plain) {
                    assert_close(said, plain, tolerance(dtype));
                }
                for (state, plain) in states.iter().zip(&plain_states) {
                    assert_eq!(state.is_some(), taps > 1);
                    assert_eq!(state.is_some(), plain.is_some());
                    if let (Some(state), Some(plain)) = (state, plain) {
                        assert_close(state, plain, 0.0);
                    }
                }
            }
        }
    }
}

#[test]
fn both_ways_follow_the_delta_rule_alike() {
    for dtype in DTYPES {
        for (key_heads, heads, key_dim, value_dim) in
            [(1, 1, 8, 8), (2, 4, 33, 7), (1, 4, 3, 20), (2, 2, 64, 16)]
        {
            let run = |delta: Delta| {
                let mut dice = StdRng::seed_from_u64(2);
                let [a_log, dt_bias] = [DType::F32, dtype].map(|dtype| {
                    let x = random(&mut dice, &[heads], dtype);
                    (x * 3.0).unwrap()
                });
                over_steps(&STEPS, |rows, spans| {
                    let q = random(&mut dice, &[rows, key_heads, key_dim], dtype);
                    let k = random(&mut dice, &[rows, key_heads, key_dim], dtype);
                    let v = random(&mut dice, &[rows, heads, value_dim], dtype);
                    // No key is longer than 1.
                    let k = (k / (key_dim as f64).sqrt()).unwrap();
                    let a = (random(&mut dice, &[rows, heads], dtype) * 20.0).unwrap();
                    let b = (random(&mut dice, &[rows, heads], dtype) * 4.0).unwrap();
                    let gates = DeltaGates {
                        a: &a,
                        b: &b,
                        a_log: &a_log,
                        dt_bias: &dt_bias,
                    };
                    delta(&q, &k, &v, &gates, spans).unwrap()
                })
            };
            let (said, states) = run(kernel::gated_delta);
            let (plain, plain_states) = run(plain::gated_delta);
            for (said, plain) in said.iter().zip(&plain) {
                assert_eq!(said.dtype(), dtype);
                assert_close(said, plain, tolerance(dtype));
            }
            for (state, plain) in states.iter().zip(&plain_states) {
                let (state, plain) = (state.as_ref().unwrap(), plain.as_ref().unwrap());
                assert_eq!(state.dtype(), DType::F32);
                assert_close(state, plain, tolerance(DType::F32));
            }
        }
    }
}

#[test]
fn a_decay_of_next_to_nothing_is_not_rounded_to_none() {
    let a: Vec<f32> = (-240..=40).map(|x| x as f32 / 10.0).collect();
    let tensor = |x: &[f32], shape: &[usize]| Tensor::from_slice(x, shape, &Device::Cpu).unwrap();
    for a_log in [-4.0, 0.0, 4.0] {
        let gates = DeltaGates {
            a: &tensor(&a, &[a.len(), 1]),
            b: &tensor(&a, &[a.len(), 1]),
            a_log: &tensor(&[a_log], &[1]),
            dt_bias: &tensor(&[0.0], &[1]),
        };
        let plain = elements(&plain::decay(&gates).unwrap());
        let (decay, _) = kernel::gates(&gates).unwrap();
        for (a, decays) in a.iter().zip(plain.into_iter().zip(decay)) {
            let softplus = f64::from(*a).exp().ln_1p();
            let expected = (-f64::from(a_log).exp() * softplus).exp();
            // What is rounded is multiplied by g ln g, at most 1 / e.
            for decay in [decays.0, decays.1] {
                let error = (f64::from(decay) - expected).abs();
                assert!(
                    error < 3.0 * f64::from(f32::EPSILON),
                    "{a}: {decay} {expected}"
                );
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_pieces_nor_on_the_others_of_its_step() {
    let mut dice = StdRng::seed_from_u64(3);
    let (rows, heads, key_dim, value_dim) = (90, 4, 40, 11);
    let [q, k] = [(); 2].map(|()| random(&mut dice, &[rows, 2, key_dim], DType::F32));
    let k = (k / 7.0).unwrap();
    let v = random(&mut dice, &[rows, heads, value_dim], DType::F32);
    let [a, b] = [(); 2].map(|()| random(&mut dice, &[rows, heads], DType::F32));
    let [a_log, dt_bias] = [(); 2].map(|()| random(&mut dice, &[heads], DType::F32));
    let weight = random(&mut dice, &[heads, 4], DType::F32);
    // The first sequence is rows 0..60, the second one 60..90, by pieces of so
    // many rows.
    let run = |steps: &[[usize; 2]]| {
        let mut next = [0, 60];
        let mut said = [Vec::new(), Vec::new()];
        let mut states = vec![None; 2];
        let mut carried = vec![None; 2];
        for step in steps {
            let of = |x: &Tensor| {
                let parts = [0, 1].map(|i| x.narrow(0, next[i], step[i]).unwrap());
                Tensor::cat(&parts, 0).unwrap()
            };
            fn spans<'a>(
                states: &'a mut [Option<Tensor>],
                step: &[usize; 2],
            ) -> Vec<StateSpan<'a, Tensor>> {
                let spans = states.iter_mut().zip(step);
                spans
                    .map(|(state, &tokens)| StateSpan { tokens, state })
                    .collect()
            }
            let gates = DeltaGates {
                a: &of(&a),
                b: &of(&b),
                a_log: &a_log,
                dt_bias: &dt_bias,
            };
            let (q, k, v) = (of(&q), of(&k), of(&v));
            let delta = gated_delta(&q, &k, &v, &gates, &mut spans(&mut states, step)).unwrap();
            let convolved =
                causal_conv(gates.a, &weight, true, &mut spans(&mut carried, step)).unwrap();
            for said_now in [delta.flatten_from(1).unwrap(), convolved] {
                let (first, second) = (step[0], step[1]);
                said[0].push(elements(&said_now.narrow(0, 0, first).unwrap()));
                said[1].push(elements(&said_now.narrow(0, first, second).unwrap()));
            }
            next[0] += step[0];
            next[1] += step[1];
        }
        assert_eq!(next, [60, 90]);
        // What the delta rule says and what the convolution says, in turn.
        let said = said.map(|said| {
            let every = |first| -> Vec<f32> {
                said.iter()
                    .skip(first)
                    .step_by(2)
                    .flatten()
                    .copied()
                    .collect()
            };
            [every(0), every(1)]
        });
        let left = states.iter().chain(&carried);
        let left: Vec<Vec<f32>> = left.map(|x| elements(x.as_ref().unwrap())).collect();
        (said, left)
    };
    let whole = run(&[[60, 30]]);
    assert_eq!(whole, run(&[[60, 0], [0, 30]]));
    assert_eq!(whole, run(&[[1, 30], [40, 0], [19, 0]]));
    let mut by_token = vec![[1, 1]; 30];
    by_token.extend(vec![[1, 0]; 30]);
    assert_eq!(whole, run(&by_token));
}
