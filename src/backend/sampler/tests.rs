//! The sampler against the definition, written down a second time in the
//! plainest way, and its draws against the distribution they should have.

#![allow(clippy::unwrap_used)]

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const GREEDY: Draw = Draw::GREEDY;

/// The probabilities mlx-lm's `make_sampler` draws with: its `apply_top_p`,
/// `apply_min_p` and `categorical_sampling`, on a full sort.
fn reference(logits: &[f32], sampling: &Draw) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&l| f64::from(l - top).exp()).sum();
    let mut logprobs: Vec<f64> = logits
        .iter()
        .map(|&l| f64::from(l - top) - total.ln())
        .collect();
    let mut sorted = logprobs.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    if sampling.top_p > 0.0 && sampling.top_p < 1.0 {
        let mut above = 0.0;
        let mut threshold = f64::NEG_INFINITY;
        for &logprob in &sorted {
            if above >= f64::from(sampling.top_p) {
                break;
            }
            threshold = logprob;
            above += logprob.exp();
        }
        for logprob in &mut logprobs {
            if *logprob < threshold {
                *logprob = f64::NEG_INFINITY;
            }
        }
    }
    if sampling.min_p != 0.0 {
        let limit = sorted[0] + f64::from(sampling.min_p).ln();
        let kept = sorted[(sampling.min_tokens_to_keep - 1).min(sorted.len() - 1)];
        for logprob in &mut logprobs {
            let protected = sampling.min_tokens_to_keep > 1 && *logprob >= kept;
            if *logprob < limit && !protected {
                *logprob = f64::NEG_INFINITY;
            }
        }
    }
    let weights: Vec<f64> = logprobs
        .iter()
        .map(|l| (l / f64::from(sampling.temperature)).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

fn random_logits(random: &mut StdRng, len: usize) -> Vec<f32> {
    (0..len).map(|_| random.random_range(-4.0..4.0)).collect()
}

/// The candidates that are left before the draw.
fn support(logits: &[f32], sampling: Draw) -> Vec<u32> {
    let mut sampler = Sampler::default();
    sampler.sample(logits, &sampling).unwrap();
    let mut kept: Vec<u32> = sampler.candidates.iter().map(|c| c.1).collect();
    kept.sort_unstable();
    kept
}

#[test]
fn greedy_takes_the_first_of_the_most_likely() {
    let sample = |logits: &[f32]| Sampler::default().sample(logits, &GREEDY);
    assert_eq!(sample(&[1.0, 3.0, 3.0, 2.0]), Some(1));
    assert_eq!(sample(&[f32::NAN, -1.0, f32::NEG_INFINITY]), Some(1));
    assert_eq!(sample(&[f32::NAN, f32::INFINITY]), None);
}

#[test]
fn the_tokens_left_are_those_of_the_reference() {
    let mut random = StdRng::seed_from_u64(7);
    for case in 0..2_000 {
        let len = random.random_range(1..400);
        let logits = random_logits(&mut random, len);
        let sampling = Draw {
            temperature: random.random_range(0.1..2.0),
            top_p: [0.0, 1.0, 0.05, 0.5, 0.9, 0.999][case % 6],
            min_p: [0.0, 0.02, 0.3, 1.0][case % 4],
            min_tokens_to_keep: [1, 2, 5, 500][case % 4],
            uniform: random.random(),
        };
        let expected: Vec<u32> = reference(&logits, &sampling)
            .iter()
            .zip(0..)
            .filter(|(p, _)| **p > 0.0)
            .map(|(_, token)| token)
            .collect();
        assert_eq!(
            support(&logits, sampling),
            expected,
            "case {case}: {sampling:?}"
        );
    }
}

#[test]
fn tokens_as_likely_as_the_last_one_kept_stay() {
    let sampling = Draw {
        temperature: 1.0,
        top_p: 0.5,
        ..GREEDY
    };
    assert_eq!(support(&[2.0, 1.0, 2.0, 2.0, 0.0], sampling), [0, 2, 3]);
}

#[test]
fn draws_follow_the_distribution() {
    let mut random = StdRng::seed_from_u64(11);
    for (case, (temperature, top_p, min_p)) in [
        (1.0, 1.0, 0.0),
        (0.7, 0.9, 0.0),
        (1.5, 1.0, 0.1),
        (0.3, 0.95, 0.02),
    ]
    .into_iter()
    .enumerate()
    {
        let logits = random_logits(&mut random, 40);
        let sampling = Draw {
            temperature,
            top_p,
            min_p,
            ..GREEDY
        };
        let expected = reference(&logits, &sampling);
        let draws = 200_000;
        let mut counts = vec![0u32; logits.len()];
        let mut sampler = Sampler::default();
        for _ in 0..draws {
            let uniform = random.random();
            let draw = Draw {
                uniform,
                ..sampling
            };
            counts[sampler.sample(&logits, &draw).unwrap() as usize] += 1;
        }
        // Pearson's statistic over the tokens that can be drawn: its mean is
        // their number less one, its variance twice that.
        let possible: Vec<(u32, f64)> = counts
            .iter()
            .zip(&expected)
            .filter(|(_, p)| **p > 0.0)
            .map(|(count, p)| (*count, p * f64::from(draws)))
            .collect();
        assert_eq!(
            possible.iter().map(|(count, _)| count).sum::<u32>(),
            draws as u32
        );
        let statistic: f64 = possible
            .iter()
            .map(|(count, mean)| (f64::from(*count) - mean).powi(2) / mean)
            .sum();
        let degrees = (possible.len() - 1) as f64;
        assert!(
            statistic < degrees + 5.0 * (2.0 * degrees).sqrt() + 5.0,
            "case {case}: {statistic} with {degrees} degrees of freedom"
        );
    }
}
