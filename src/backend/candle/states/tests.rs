//! What a GPU's element types make of what f32 says. What that is to be is
//! tested for every backend.

use candle_core::Device;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

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

const STEPS: [[usize; 3]; 5] = [[9, 0, 1], [1, 2, 1], [1, 1, 1], [0, 20, 1], [3, 1, 0]];

#[test]
fn convolutions_of_half_precision_are_those_of_f32() {
    for (channels, taps) in [(1, 2), (5, 3), (64, 4), (6, 1)] {
        for silu in [false, true] {
            let run = |dtype| {
                let mut dice = StdRng::seed_from_u64(1);
                let weight = random(&mut dice, &[channels, taps], dtype);
                over_steps(&STEPS, |rows, spans| {
                    let x = random(&mut dice, &[rows, channels], dtype);
                    causal_conv(&x, &weight, silu, spans).unwrap()
                })
            };
            let (wide, wide_states) = run(DType::F32);
            for dtype in [DType::BF16, DType::F16] {
                let (said, states) = run(dtype);
                for (said, wide) in said.iter().zip(&wide) {
                    assert_close(said, &wide.to_dtype(dtype).unwrap(), tolerance(dtype));
                }
                for (state, wide) in states.iter().zip(&wide_states) {
                    assert_eq!(state.is_some(), taps > 1);
                    assert_eq!(state.is_some(), wide.is_some());
                    if let (Some(state), Some(wide)) = (state, wide) {
                        assert_close(state, &wide.to_dtype(dtype).unwrap(), 0.0);
                    }
                }
            }
        }
    }
}

#[test]
fn the_delta_rule_in_half_precision_keeps_its_state_in_f32() {
    for (key_heads, heads, key_dim, value_dim) in [(1, 1, 8, 8), (2, 4, 33, 7), (2, 2, 64, 16)] {
        let run = |dtype: DType| {
            let mut dice = StdRng::seed_from_u64(2);
            let [a_log, dt_bias] = [(); 2].map(|()| random(&mut dice, &[heads], dtype));
            over_steps(&STEPS, |rows, spans| {
                let q = random(&mut dice, &[rows, key_heads, key_dim], dtype);
                let k = random(&mut dice, &[rows, key_heads, key_dim], dtype);
                let v = random(&mut dice, &[rows, heads, value_dim], dtype);
                // No key is longer than 1, and every type holds them.
                let k = (k / 8.0).unwrap();
                let a = random(&mut dice, &[rows, heads], dtype);
                let b = random(&mut dice, &[rows, heads], dtype);
                let gates = DeltaGates {
                    a: &a,
                    b: &b,
                    a_log: &a_log,
                    dt_bias: &dt_bias,
                };
                gated_delta(&q, &k, &v, &gates, spans).unwrap()
            })
        };
        let (wide, wide_states) = run(DType::F32);
        for dtype in [DType::BF16, DType::F16] {
            let (said, states) = run(dtype);
            for (said, wide) in said.iter().zip(&wide) {
                assert_eq!(said.dtype(), dtype);
                assert_close(said, &wide.to_dtype(dtype).unwrap(), tolerance(dtype));
            }
            for (state, wide) in states.iter().zip(&wide_states) {
                let (state, wide) = (state.as_ref().unwrap(), wide.as_ref().unwrap());
                assert_eq!(state.dtype(), DType::F32);
                assert_close(state, wide, tolerance(DType::F32));
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
        let decays = elements(&decay(&gates).unwrap());
        for (a, decay) in a.iter().zip(decays) {
            let softplus = f64::from(*a).exp().ln_1p();
            let expected = (-f64::from(a_log).exp() * softplus).exp();
            // What is rounded is multiplied by g ln g, at most 1 / e.
            let error = (f64::from(decay) - expected).abs();
            assert!(
                error < 3.0 * f64::from(f32::EPSILON),
                "{a}: {decay} {expected}"
            );
        }
    }
}
