//! What is MLX's alone: its memory, and its errors.

#![allow(clippy::unwrap_used)]

use mlx_rs::memory;

use super::*;
use crate::backend::BackendChoice;
use crate::model::{Draw, Input, Tokens};

/// One row of keys and values appended to `kv`, and attended to.
fn attend(mlx: &Mlx, kv: &mut Kv) -> Result<Vec<f32>, BackendError> {
    let row = Array::from_slice(&[1.0f32; 2 * 64], &[1, 2, 64]);
    let settings = AttentionSettings {
        scale: 1.0,
        softcap: None,
        window: None,
        sinks: None,
    };
    let spans = &mut [Span { tokens: 1, kv }];
    let attended = mlx.attention(&row, &row, &row, spans, &settings)?;
    mlx.start(&[&attended], &[])?;
    mlx.read(&attended)
}

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn what_does_not_fit_is_refused_and_the_rest_goes_on() {
    let mut mlx = Mlx::start().unwrap();
    let mut kv = mlx.kv(2, 64).unwrap();
    assert_eq!(attend(&mlx, &mut kv).unwrap(), [1.0; 128]);
    let limit = memory::active_memory().unwrap() + 2000;
    let tight = Memory::with_limit(mlx.device, limit);
    let roomy = std::mem::replace(&mut mlx.memory, tight);
    // Within the rows it has, a sequence goes on; another finds no room.
    assert_eq!(attend(&mlx, &mut kv).unwrap(), [1.0; 128]);
    let error = attend(&mlx, &mut mlx.kv(2, 64).unwrap()).unwrap_err();
    assert_eq!(error.op, "attention");
    assert!(error.reason.contains("1 MiB more do not fit"), "{error}");
    let weights = RawTensor {
        dtype: crate::backend::Dtype::F32,
        shape: vec![2, 500],
        bytes: crate::blob::Blob::from_static(&[0; 4000]),
    };
    let error = mlx.parameter(&weights).unwrap_err();
    assert_eq!(error.op, "load");
    let error = mlx
        .memory
        .check_scores([4, 2, 2], 64)
        .map_err(|error| error.op);
    assert_eq!(error, Ok(()));
    let error = mlx.memory.check_scores([4, 100, 100], 72).unwrap_err();
    assert_eq!(error.op, "attention");
    let heads = Array::from_slice(&[0.5f32; 64], &[1, 1, 64]);
    let gate = Array::from_slice(&[0.0f32], &[1, 1]);
    let of_head = Array::from_slice(&[0.0f32], &[1]);
    let learn = |mlx: &Mlx, state: &mut Option<Array>| {
        let gates = DeltaGates {
            a: &gate,
            b: &gate,
            a_log: &of_head,
            dt_bias: &of_head,
        };
        let spans = &mut [StateSpan { tokens: 1, state }];
        mlx.gated_delta(&heads, &heads, &heads, &gates, spans)
    };
    // 16 kB of state.
    let mut state = None;
    let error = learn(&mlx, &mut state).unwrap_err();
    assert_eq!(error.op, "gated_delta");
    assert!(state.is_none() && error.reason.contains("do not fit"));
    mlx.memory = roomy;
    learn(&mlx, &mut state).unwrap();
    mlx.parameter(&weights).unwrap();
    let mut other = mlx.kv(2, 64).unwrap();
    assert_eq!(attend(&mlx, &mut other).unwrap(), [1.0; 128]);
    assert_eq!(attend(&mlx, &mut kv).unwrap(), [1.0; 128]);
}

/// A state that is not evaluated would hold on to all the rows it comes from.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn states_are_evaluated_with_what_is_said() {
    let mlx = Mlx::start().unwrap();
    let (rows, width) = (1000, 64);
    let ones = |shape: &[i32]| {
        let count: i32 = shape.iter().product();
        Array::from_slice(&vec![1.0f32; count as usize], shape)
    };
    let mut states = [const { None::<Array> }; 6];
    let before = memory::active_memory().unwrap();
    {
        let said = |tokens: [usize; 3], states: &mut [Option<Array>]| {
            let (convolved, delta) = states.split_at_mut(3);
            let spans = |states| -> Vec<StateSpan<'_, Array>> {
                let spans = <&mut [Option<Array>]>::into_iter(states).zip(tokens);
                spans
                    .map(|(state, tokens)| StateSpan { tokens, state })
                    .collect()
            };
            let x = ones(&[rows, width]);
            let x = mlx.scale(x.clone(), 0.125).unwrap();
            let convolved = mlx.causal_conv(&x, &ones(&[width, 4]), true, &mut spans(convolved));
            let heads = mlx.split_heads(x.clone(), 1).unwrap();
            let (gate, of_head) = (ones(&[rows, 1]), ones(&[1]));
            let gates = DeltaGates {
                a: &gate,
                b: &gate,
                a_log: &of_head,
                dt_bias: &of_head,
            };
            let delta = mlx.gated_delta(&heads, &heads, &heads, &gates, &mut spans(delta));
            [convolved.unwrap(), delta.unwrap()]
        };
        for tokens in [[998, 1, 1], [1, 1, 998]] {
            let [convolved, delta] = said(tokens, &mut states);
            mlx.start(&[&convolved, &delta], &[]).unwrap();
            mlx.wait(&convolved).unwrap();
            mlx.wait(&delta).unwrap();
        }
    }
    let held = memory::active_memory().unwrap() - before;
    // 3 rows of 256 bytes, and 64 of them, three times each, where the rows
    // of a step are 256 kB. Of a small buffer MLX keeps up to 16 KiB too much.
    assert!((50_000..160_000).contains(&held), "{held}");
    assert!(states.iter().all(Option::is_some));
}

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn twenty_models_one_after_the_other() {
    let mut after = Vec::new();
    for _ in 0..20 {
        let files = crate::demo::files();
        let mut model = crate::model::load(&files, BackendChoice::Mlx, &()).unwrap();
        let loaded = memory::active_memory().unwrap();
        let sequence = model.open().unwrap();
        let input = Input {
            sequence,
            tokens: Tokens::Given(&[1, 2, 3]),
            draw: Some(Draw::GREEDY),
        };
        // One step is read, one is still under way when the model goes.
        let first = model.submit(&[input]).unwrap();
        let second = model.submit(&[Input {
            tokens: Tokens::Drawn,
            ..input
        }]);
        first.tokens().unwrap();
        let used = model.memory().unwrap();
        // 2.3 MB of weights, and 6 layers of keys and values of 256 rows.
        assert!(
            loaded > 2_000_000 && used.active > loaded + 700_000,
            "{used:?}"
        );
        assert!(used.peak >= used.active);
        drop((first, second, model));
        after.push(memory::active_memory().unwrap());
        assert_eq!(memory::cache_memory().unwrap(), 0);
    }
    assert_eq!(after, [after[0]; 20]);
    assert!(after[0] < 1000, "{after:?}");
}

/// MLX counts memory for the whole process, so these have one each.
#[test]
fn memory_is_bounded_and_given_back() {
    for name in [
        "what_does_not_fit_is_refused_and_the_rest_goes_on",
        "states_are_evaluated_with_what_is_said",
        "twenty_models_one_after_the_other",
    ] {
        let alone = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .arg(format!("backend::mlx::tests::{name}"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&alone.stdout).into_owned();
        let why = String::from_utf8_lossy(&alone.stderr);
        assert!(
            alone.status.success() && said.contains("1 passed"),
            "{said}{why}"
        );
    }
}
