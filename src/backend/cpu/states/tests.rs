//! What the kernels say beyond what every backend's tests hold them to.

use std::num::NonZero;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::backend::cpu::Products;

fn cpu() -> Cpu {
    Cpu::start(Products::F32, NonZero::new(2))
}

/// Numbers from -1 to 1 times `scale`.
fn random(cpu: &Cpu, dice: &mut StdRng, shape: &[usize], scale: f32) -> Array {
    let count = shape.iter().product();
    let numbers = (0..count).map(|_| dice.random_range(-64..=64) as f32 / 64.0 * scale);
    let shape = crate::backend::cpu::Shape::new(shape).unwrap();
    cpu.pool.filled(shape, &numbers.collect::<Vec<_>>())
}

#[test]
fn a_decay_of_next_to_nothing_is_not_rounded_to_none() {
    let cpu = cpu();
    let a: Vec<f32> = (-240..=40).map(|x| x as f32 / 10.0).collect();
    for a_log in [-4.0, 0.0, 4.0] {
        let column = cpu.pool.filled([a.len(), 1], &a);
        let (decay, _) = gates(&DeltaGates {
            a: &column,
            b: &column,
            a_log: &cpu.pool.filled([1], &[a_log]),
            dt_bias: &cpu.pool.filled([1], &[0.0]),
        });
        for (a, &decay) in a.iter().zip(&*decay) {
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

#[test]
fn a_row_does_not_depend_on_the_pieces_nor_on_the_others_of_its_step() {
    let (cpu, mut dice) = (cpu(), StdRng::seed_from_u64(3));
    let (rows, heads, key_dim, value_dim) = (90, 4, 40, 11);
    let q = random(&cpu, &mut dice, &[rows, 2, key_dim], 1.0);
    let k = random(&cpu, &mut dice, &[rows, 2, key_dim], 1.0 / 7.0);
    let v = random(&cpu, &mut dice, &[rows, heads, value_dim], 1.0);
    let [a, b] = [(); 2].map(|()| random(&cpu, &mut dice, &[rows, heads], 1.0));
    let [a_log, dt_bias] = [(); 2].map(|()| random(&cpu, &mut dice, &[heads], 1.0));
    let weight = random(&cpu, &mut dice, &[heads, 4], 1.0);
    // The first sequence is rows 0..60, the second one 60..90, by pieces of so
    // many rows.
    let run = |steps: &[[usize; 2]]| {
        let mut next = [0, 60];
        let mut said = [Vec::new(), Vec::new()];
        let mut states = vec![None; 2];
        let mut carried = vec![None; 2];
        for step in steps {
            // The rows that come next of both sequences.
            let of = |x: &Array| {
                let width = x.len() / rows;
                let part = |i: usize| &x[next[i] * width..][..step[i] * width];
                let mut shape = x.shape().to_vec();
                shape[0] = step[0] + step[1];
                let shape = crate::backend::cpu::Shape::new(&shape).unwrap();
                cpu.pool.filled(shape, &[part(0), part(1)].concat())
            };
            fn spans<'a>(
                states: &'a mut [Option<Array>],
                step: &[usize; 2],
            ) -> Vec<StateSpan<'a, Array>> {
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
            let delta =
                gated_delta(&cpu, &q, &k, &v, &gates, &mut spans(&mut states, step)).unwrap();
            let convolved =
                causal_conv(&cpu, gates.a, &weight, true, &mut spans(&mut carried, step)).unwrap();
            for said_now in [delta, convolved] {
                let width = said_now.len() / (step[0] + step[1]);
                let (first, second) = said_now.split_at(step[0] * width);
                said[0].push(first.to_vec());
                said[1].push(second.to_vec());
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
        let left: Vec<Vec<f32>> = left.map(|x| x.as_ref().unwrap().to_vec()).collect();
        (said, left)
    };
    let whole = run(&[[60, 30]]);
    assert_eq!(whole, run(&[[60, 0], [0, 30]]));
    assert_eq!(whole, run(&[[1, 30], [40, 0], [19, 0]]));
    let mut by_token = vec![[1, 1]; 30];
    by_token.extend(vec![[1, 0]; 30]);
    assert_eq!(whole, run(&by_token));
}
