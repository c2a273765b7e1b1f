//! Draws of many rows at once.

use super::*;

on_every_backend! {
    fn a_row_draws_alone_what_it_draws_among_sixteen(backend: &B) {
        let mut dice = Dice::new(10);
        // Enough for the rows to be shared among threads, and few.
        for vocabulary in [3_000, 40] {
            let rows: Vec<Vec<f32>> = (0..16)
                .map(|_| dice.floats(vocabulary).iter().map(|x| x * 4.0).collect())
                .collect();
            let draws: Vec<Draw> = (0..16)
                .map(|row| Draw {
                    temperature: [0.0, 0.7, 1.0, 1.5][row % 4],
                    top_p: [1.0, 0.9, 0.5][row % 3],
                    min_p: [0.0, 0.1][row / 4 % 2],
                    min_tokens_to_keep: [1, 3][row / 8],
                    uniform: dice.0.random(),
                })
                .collect();
            let drawn = |order: &[usize]| {
                let logits: Vec<f32> = order.iter().flat_map(|&row| rows[row].clone()).collect();
                let logits = tensor(backend, &[order.len(), vocabulary], &logits);
                let draws: Vec<Draw> = order.iter().map(|&row| draws[row]).collect();
                read(backend, &backend.sample(&logits, &draws).unwrap())
            };
            let alone: Vec<u32> = (0..16).flat_map(|row| drawn(&[row])).collect();
            // Rows have something of their own, or the order would not matter.
            let different: std::collections::BTreeSet<u32> = alone.iter().copied().collect();
            assert!(different.len() >= 8, "{alone:?}");
            let forwards: Vec<usize> = (0..16).collect();
            let backwards: Vec<usize> = (0..16).rev().collect();
            for order in [&forwards[..], &backwards, &forwards[3..9], &[7, 7, 2, 7]] {
                let expected: Vec<u32> = order.iter().map(|&row| alone[row]).collect();
                assert_eq!(drawn(order), expected, "{order:?} of {vocabulary}");
            }
        }
    }
}
