//! Requests that draw at random, alone and beside others.

use super::batching::{encode, user};
use super::*;

/// Draws at random, by its seed.
fn asks(prompt: &[u32], seed: u64) -> Request {
    Request {
        sampling: Sampling {
            temperature: 4.0,
            seed,
            ..GREEDY
        },
        ..super::batching::asks(prompt, 12)
    }
}

#[tokio::test]
async fn a_seed_gives_the_same_answer_in_any_company_and_in_any_place() {
    // On candle, where a row of few comes out the same to the last bit.
    let load = || crate::model::load(&crate::demo::files(), BackendChoice::Candle, &());
    let prompt = encode(&user("hello there"));
    let (engine, _thread) = start(load, tokenizer(), settings(None)).await.unwrap();
    let mut alone = Vec::new();
    for seed in 0..10 {
        alone.push(finish(engine.submit(asks(&prompt, seed))).await.0);
    }
    let mut different = alone.clone();
    different.sort();
    different.dedup();
    assert!(different.len() >= 8, "{alone:?}");
    for order in [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [9, 3, 0, 7, 1, 8, 2, 6, 4, 5],
    ] {
        let all = order.map(|seed| (seed, engine.submit(asks(&prompt, seed))));
        for (seed, events) in all {
            assert_eq!(finish(events).await.0, alone[seed as usize], "seed {seed}");
        }
    }
}
