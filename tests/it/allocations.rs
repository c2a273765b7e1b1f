//! What drawing tokens allocates, counted by this binary's allocator: nothing,
//! once a sampler has seen a row.

use std::hint::black_box;
use std::num::NonZero;

use allocation_counter::measure;
use llm_server::backend::cpu::{Cpu, Products};
use llm_server::backend::{Backend, Draw, Dtype, RawTensor, Sampler};
use llm_server::blob::Blob;

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
