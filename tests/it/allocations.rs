//! What drawing tokens and a whole step allocate, counted by this binary's
//! allocator: next to nothing, once there was such a step.

use std::hint::black_box;
use std::num::NonZero;

use allocation_counter::measure;
use llm_server::backend::cpu::{Cpu, Products};
use llm_server::backend::{
    Backend, BackendChoice, BackendSettings, Draw, Dtype, RawTensor, Sampler,
};
use llm_server::blob::Blob;
use llm_server::demo;
use llm_server::model::{self, Input, Tokens};

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
fn a_step_allocates_the_list_of_its_tokens_and_no_more() {
    // Allocations are counted by thread: one that does all the work.
    let cpu = Cpu::start(Products::Rounded, NonZero::new(1));
    // Few logits, which one thread looks through, and many, which all do.
    for (rows, vocabulary) in [(1, 2_000), (16, 500), (16, 4_000)] {
        let bytes = logits(rows * vocabulary)
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect::<Vec<u8>>();
        let tensor = cpu
            .parameter(&RawTensor {
                dtype: Dtype::F32,
                shape: vec![rows, vocabulary],
                bytes: Blob::from_static(bytes.leak()),
            })
            .unwrap();
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
        assert_eq!(counted.count_total, 200, "{what}");
        assert_eq!(counted.bytes_total, 200 * 4 * rows as u64, "{what}");
    }
}

/// Of a whole model's step: the lists that describe it, and nothing of the
/// size of activations, logits or scratch, whose memory goes round.
#[test]
fn a_step_of_decoding_takes_no_memory_for_what_it_computes() {
    const STREAMS: usize = 4;
    for choice in [BackendChoice::Candle, BackendChoice::CandleF32] {
        let settings = BackendSettings {
            choice,
            threads: NonZero::new(1),
        };
        let mut model = model::load(&demo::files(), settings, &()).unwrap();
        let streams = [(); STREAMS].map(|()| model.open().unwrap());
        let mut step = |token: u32| {
            let tokens = [token];
            let batch = streams.map(|sequence| Input {
                sequence,
                tokens: Tokens::Given(&tokens),
                draw: Some(Draw::GREEDY),
            });
            let step = model.submit(&batch).unwrap();
            assert_eq!(step.tokens().unwrap().len(), STREAMS);
        };
        // All within the first page of keys and values.
        (1..8).for_each(&mut step);
        let counted = measure(|| step(9));
        // Six layers: each has lists of the four streams, and of the tokens
        // only angles, ids and draws. One layer's activations are 64 times
        // its share of this: 4 rows of 256 and more, in f32, several times.
        let bytes = counted.bytes_total;
        assert!(bytes < 16_000, "{choice:?}: {counted:?}");
        assert!(counted.count_total < 200, "{choice:?}: {counted:?}");
    }
}
