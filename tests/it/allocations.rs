//! What drawing tokens and a whole step allocate, counted by this binary's
//! allocator: nothing, once there was such a step.

use std::hint::black_box;
use std::num::NonZero;

use allocation_counter::measure;
use llm_server::backend::cpu::{Cpu, Products};
use llm_server::backend::{
    Activation, Backend, BackendChoice, BackendSettings, DeltaGates, Draw, Dtype, ExpertWeights,
    MatrixWeights, RawTensor, Sampler, ShortList, StateSpan, USUAL_SEQUENCES,
};
use llm_server::blob::Blob;
use llm_server::demo;
use llm_server::model::{self, Input, Model, SequenceId, Tokens};

/// Positions of a page of keys and values.
const PAGE: usize = 32;

/// Four kinds of draws: the most likely token, any, and with either bound.
fn draw(kind: usize, uniform: f32) -> Draw {
    Draw {
        temperature: [0.0, 0.8, 0.8, 0.8][kind % 4],
        top_p: [1.0, 1.0, 0.9, 1.0][kind % 4],
        min_p: [0.0, 0.0, 0.0, 0.05][kind % 4],
        min_tokens_to_keep: 3,
        uniform,
    }
}

/// Numbers that look random, between -4 and 4.
fn logits(count: usize) -> Vec<f32> {
    (0..count as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 21) as f32 - 4.0)
        .collect()
}

/// A tensor of them.
fn stored(shape: &[usize]) -> RawTensor {
    let numbers = logits(shape.iter().product());
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    RawTensor {
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        bytes: Blob::from_static(bytes.leak()),
    }
}

#[test]
fn a_warm_sampler_allocates_nothing() {
    const VOCABULARY: usize = 5_000;
    let logits = logits(VOCABULARY + 1_000);
    for kind in 0..4 {
        let mut sampler = Sampler::default();
        let mut sample = |step: usize| {
            let row = &logits[step..][..VOCABULARY];
            sampler.sample(row, &draw(kind, step as f32 / 1_000.0))
        };
        assert!(sample(0).is_some());
        let counted = measure(|| {
            for step in 0..1_000 {
                black_box(sample(step));
            }
        });
        assert_eq!(counted.count_total, 0, "kind {kind}: {counted:?}");
    }
}

#[test]
fn a_step_s_draws_allocate_nothing() {
    // Allocations are counted by thread: one that does all the work.
    let cpu = Cpu::start(Products::Rounded, NonZero::new(1));
    // Few logits, which one thread looks through, and many, which all do.
    for (rows, vocabulary) in [(1, 2_000), (16, 500), (16, 4_000)] {
        let tensor = cpu.parameter(&stored(&[rows, vocabulary])).unwrap();
        let mut draws: Vec<Draw> = (0..rows).map(|row| draw(row, 0.0)).collect();
        let mut step = |step: usize| {
            for draw in &mut draws {
                draw.uniform = step as f32 / 200.0;
            }
            cpu.sample(&tensor, &draws).unwrap()
        };
        assert_eq!(step(0).len(), rows);
        let counted = measure(|| {
            for number in 0..200 {
                black_box(step(number));
            }
        });
        let what = format!("{rows} rows of {vocabulary}: {counted:?}");
        assert_eq!(counted.count_total, 0, "{what}");
    }
}

/// The same step of each sequence, and the tokens drawn after it.
fn step(model: &mut dyn Model, sequences: &[SequenceId], tokens: Tokens<'_>) {
    let inputs = sequences.iter().map(|&sequence| Input {
        sequence,
        tokens,
        draw: Some(Draw::GREEDY),
    });
    let step = model.submit(&inputs.collect::<ShortList<_>>()).unwrap();
    assert_eq!(step.tokens().unwrap().len(), sequences.len());
}

/// Of a whole model's step: nothing at all, and at the end of a page of keys
/// and values the next page.
#[test]
fn a_step_allocates_pages_of_keys_and_values_and_no_more() {
    for choice in [BackendChoice::Candle, BackendChoice::CandleF32] {
        for streams in [1, 8, USUAL_SEQUENCES] {
            let settings = BackendSettings {
                choice,
                threads: NonZero::new(1),
            };
            let mut model = model::load(&demo::files(), settings, &()).unwrap();
            let pages = (model.info().kv.layers * streams) as u64;
            let mut sequences: Vec<_> = (0..streams).map(|_| model.open().unwrap()).collect();
            // A prompt in two pieces, and a step of each kind.
            let prompt: Vec<u32> = (1..PAGE as u32 - 2).collect();
            step(&mut *model, &sequences, Tokens::Given(&prompt[..4]));
            step(&mut *model, &sequences, Tokens::Given(&prompt[4..]));
            step(&mut *model, &sequences, Tokens::Given(&[4]));
            step(&mut *model, &sequences, Tokens::Drawn);
            // Others, when there was all of it once.
            for sequence in &mut sequences {
                model.close(*sequence);
                *sequence = model.open().unwrap();
            }
            step(&mut *model, &sequences, Tokens::Given(&prompt[..4]));
            let rest = Tokens::Given(&prompt[4..]);
            let counted = measure(|| step(&mut *model, &sequences, rest));
            let what = format!("{choice:?}, {streams} prompts: {counted:?}");
            assert_eq!(counted.count_total, 0, "{what}");
            let mut ends = 0;
            for len in prompt.len()..3 * PAGE {
                let token = [len as u32];
                let tokens = match len % 3 {
                    0 => Tokens::Drawn,
                    _ => Tokens::Given(&token),
                };
                let counted = measure(|| step(&mut *model, &sequences, tokens));
                let what = format!("{choice:?}, {streams} streams, {len} tokens: {counted:?}");
                if len % PAGE != 0 {
                    assert_eq!(counted.count_total, 0, "{what}");
                    continue;
                }
                // What holds each page, and now and then the list of a
                // sequence's grows, or there is memory for more of them.
                assert!((pages..3 * pages).contains(&counted.count_total), "{what}");
                ends += 1;
            }
            assert_eq!(ends, 2);
        }
    }
}

/// What other operators and experts do in a step that decodes. They are of
/// models that are not bundled.
#[test]
fn operations_with_states_and_experts_allocate_nothing() {
    let cpu = Cpu::start(Products::Rounded, NonZero::new(1));
    let tensor = |shape: &[usize]| cpu.parameter(&stored(shape)).unwrap();
    let matrices = |shape: &[usize]| MatrixWeights::Dense(stored(shape));
    let (hidden, experts, width) = (64, 30, 32);
    let mixed = cpu
        .experts(ExpertWeights {
            count: experts,
            gate: matrices(&[experts, width, hidden]),
            up: matrices(&[experts, width, hidden]),
            down: matrices(&[experts, hidden, width]),
            biases: None,
            activation: Activation::Silu,
        })
        .unwrap();
    let (heads, dim, channels) = (2, 32, 96);
    let weight = tensor(&[channels, 4]);
    let [a_log, dt_bias] = [(); 2].map(|()| tensor(&[heads]));
    for streams in [1, 8, USUAL_SEQUENCES] {
        let x = tensor(&[streams, hidden]);
        let router = tensor(&[streams, experts]);
        let conv = tensor(&[streams, channels]);
        let [q, k, v] = [(); 3].map(|()| tensor(&[streams, heads, dim]));
        let [a, b] = [(); 2].map(|()| tensor(&[streams, heads]));
        let gates = DeltaGates {
            a: &a,
            b: &b,
            a_log: &a_log,
            dt_bias: &dt_bias,
        };
        let mut carried = vec![None; streams];
        let mut states = vec![None; streams];
        let mut step = || {
            let said = cpu.causal_conv(&conv, &weight, true, &mut spans(&mut carried));
            black_box(said.unwrap());
            let said = cpu.gated_delta(&q, &k, &v, &gates, &mut spans(&mut states));
            black_box(said.unwrap());
            black_box(cpu.mix_experts(&x, &router, &mixed, 8, true).unwrap());
        };
        (0..3).for_each(|_| step());
        let counted = measure(|| (0..20).for_each(|_| step()));
        assert_eq!(counted.count_total, 0, "{streams} streams: {counted:?}");
    }
}

/// One token of each of several sequences.
fn spans<T>(states: &mut [Option<T>]) -> ShortList<StateSpan<'_, T>> {
    let spans = states.iter_mut();
    spans.map(|state| StateSpan { tokens: 1, state }).collect()
}
