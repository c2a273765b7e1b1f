//! The causal convolution against its definition in f64, and the columns and
//! products that lead to it and come after it.

use super::states::{short, spans};
use super::*;

/// A sequence's convolution: output `t` of rows `[len, channels]`.
fn convolved(rows: &[f32], weight: &[f32], channels: usize, silu_too: bool) -> Vec<f64> {
    let taps = weight.len() / channels;
    let len = rows.len() / channels;
    let mut output = Vec::new();
    for t in 0..len {
        for c in 0..channels {
            let sum = (0..taps)
                .filter(|j| t + j + 1 >= taps)
                .map(|j| {
                    let x = rows[(t + j + 1 - taps) * channels + c];
                    f64::from(weight[c * taps + j]) * f64::from(x)
                })
                .sum();
            output.push(if silu_too { silu(sum) } else { sum });
        }
    }
    output
}

/// Rows `x` of several sequences are fed, so many of each.
fn feed<B: Backend>(
    backend: &B,
    weight: &B::Tensor,
    x: &B::Tensor,
    counts: &[usize],
    silu_too: bool,
    states: &mut [Option<B::Tensor>],
) -> B::Tensor {
    let mut spans = spans(counts.iter().copied(), states);
    backend
        .causal_conv(x, weight, silu_too, &mut spans)
        .unwrap()
}

on_every_backend! {
    fn a_convolution_sees_its_own_sequence_as_far_back_as_it_has_weights(backend: &B) {
        let mut dice = Dice::new(27);
        for (channels, taps) in [(1, 2), (5, 3), (64, 4), (33, 4), (96, 3), (7, 1)] {
            for silu_too in [false, true] {
                let weight = dice.floats(channels * taps);
                let on_device = tensor(backend, &[channels, taps], &weight);
                let mut states = vec![None; 3];
                let mut rows = vec![Vec::new(); 3];
                for step in [[1, 0, 9], [1, 2, 1], [1, 1, 1], [40, 1, 0], [2, 1, 3], [1, 17, 1]] {
                    let count: usize = step.iter().sum();
                    let x = dice.floats(count * channels);
                    let mut start = 0;
                    let mut expected = Vec::new();
                    for (rows, count) in rows.iter_mut().zip(step) {
                        rows.extend(&x[start * channels..(start + count) * channels]);
                        let all = convolved(rows, &weight, channels, silu_too);
                        expected.extend(&all[all.len() - count * channels..]);
                        start += count;
                    }
                    let x = tensor(backend, &[count, channels], &x);
                    let got = feed(backend, &on_device, &x, &step, silu_too, &mut states);
                    let what = format!("{channels} {taps} {silu_too} {step:?}");
                    assert_close(&backend.read(&got).unwrap(), &expected, &what);
                    for (state, rows) in states.iter().zip(&rows) {
                        let Some(state) = state else {
                            assert!(rows.is_empty() || taps == 1, "{what}");
                            continue;
                        };
                        // Exactly the last rows; before the first, zeros.
                        let carried = (taps - 1) * channels;
                        let mut last = vec![0.0; carried];
                        last.extend(rows);
                        let last = &last[last.len() - carried..];
                        assert_eq!(backend.read(state).unwrap(), last, "{what}");
                    }
                }
            }
        }
    }


    fn rows_that_are_carried_on_stay_what_they_were(backend: &B) {
        let mut dice = Dice::new(25);
        let channels = 6;
        let weight = tensor(backend, &[channels, 4], &dice.floats(channels * 4));
        for first in [1, 3, 80] {
            let mut states = [None, None];
            let mut go_on = |states: &mut [Option<B::Tensor>], counts: [usize; 2]| {
                let rows = counts[0] + counts[1];
                let x = tensor(backend, &[rows, channels], &dice.floats(rows * channels));
                feed(backend, &weight, &x, &counts, true, states);
            };
            go_on(&mut states, [first, 1]);
            let kept = states.clone().map(Option::unwrap);
            let read = || kept.each_ref().map(|state| backend.read(state).unwrap());
            let before = read();
            go_on(&mut states, [1, 1]);
            go_on(&mut states, [9, 2]);
            assert_eq!(before, read());
        }
    }

    fn a_span_of_no_rows_carries_on_what_it_had(backend: &B) {
        let mut dice = Dice::new(26);
        let weight = tensor(backend, &[4, 3], &dice.floats(12));
        let mut states = [None, None, None];
        let x = tensor(backend, &[1, 4], &dice.floats(4));
        feed(backend, &weight, &x, &[0, 1, 0], true, &mut states);
        let before = backend.read(states[1].as_ref().unwrap()).unwrap();
        let x = tensor(backend, &[5, 4], &dice.floats(20));
        feed(backend, &weight, &x, &[0, 0, 5], true, &mut states);
        assert!(states[0].is_none());
        assert_eq!(before, backend.read(states[1].as_ref().unwrap()).unwrap());
    }

    fn a_convolution_of_bf16_rounds_once(backend: &B) {
        let mut dice = Dice::new(28);
        let make = |shape: &[usize], values: &[f32]| {
            let bytes = values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes());
            backend.parameter(&raw(Dtype::Bf16, shape, bytes.collect())).unwrap()
        };
        let (channels, taps) = (8, 4);
        let mut x = dice.floats(20 * channels);
        let mut weight = dice.floats(channels * taps);
        short(&mut x);
        short(&mut weight);
        let mut states = [None];
        let rows = make(&[20, channels], &x);
        let weights = make(&[channels, taps], &weight);
        let got = feed(backend, &weights, &rows, &[20], false, &mut states);
        assert_eq!(backend.element_type(&got), backend.element_type(&rows));
        let expected = convolved(&x, &weight, channels, false);
        for (got, expected) in backend.read(&got).unwrap().iter().zip(&expected) {
            let error = (f64::from(*got) - expected).abs();
            assert!(error <= expected.abs() / 256.0 + 1e-6, "{got} {expected}");
        }
        let [Some(state)] = states else { panic!("no state") };
        assert_eq!(backend.element_type(&state), backend.element_type(&rows));
        assert_eq!(backend.read(&state).unwrap(), x[17 * channels..]);
    }

    fn columns_and_products_are_those_asked_for(backend: &B) {
        let values: Vec<f32> = (0..24).map(|x| x as f32).collect();
        let x = tensor(backend, &[3, 8], &values);
        for range in [0..8, 0..3, 3..4, 2..8] {
            let expected: Vec<f32> =
                values.chunks(8).flat_map(|row| row[range.clone()].to_vec()).collect();
            let columns = backend.columns(&x, range.clone()).unwrap();
            assert_eq!(backend.read(&columns).unwrap(), expected, "{range:?}");
            // As good an operand as any.
            let squares: Vec<f32> = expected.iter().map(|x| x * x).collect();
            let product = backend.multiply(&columns, &columns).unwrap();
            assert_eq!(backend.read(&product).unwrap(), squares, "{range:?}");
            let one = tensor(backend, &[range.len()], &vec![1.0; range.len()]);
            backend.read(&backend.rms_norm(&columns, &one, 1e-5).unwrap()).unwrap();
            let heads = backend.split_heads(columns, range.len()).unwrap();
            let merged = backend.merge_heads(heads).unwrap();
            assert_eq!(backend.read(&merged).unwrap(), expected);
        }
        for range in [4..9, 9..10, 3..3] {
            assert_eq!(backend.columns(&x, range).map(drop).unwrap_err().op, "columns");
        }
    }

    fn rows_and_weights_that_do_not_fit_are_errors(backend: &B) {
        let zeros = |shape: &[usize]| tensor(backend, shape, &vec![0.0; shape.iter().product()]);
        let (x, weight) = (zeros(&[3, 4]), zeros(&[4, 3]));
        let convolve = |x: &B::Tensor, weight: &B::Tensor, tokens, state: Option<B::Tensor>| {
            let state = &mut { state };
            backend.causal_conv(x, weight, true, &mut [StateSpan { tokens, state }]).map(drop)
        };
        convolve(&x, &weight, 3, None).unwrap();
        convolve(&x, &weight, 3, Some(zeros(&[2, 4]))).unwrap();
        for error in [
            convolve(&x, &weight, 2, None),
            convolve(&x, &weight, 4, None),
            convolve(&x, &zeros(&[3, 3]), 3, None),
            convolve(&x, &weight, 3, Some(zeros(&[3, 4]))),
        ] {
            assert_eq!(error.unwrap_err().op, "causal_conv");
        }
    }
}
