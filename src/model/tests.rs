//! The decoder against mlx-lm on the bundled model, against itself in other
//! groupings of the same tokens, and against damaged files.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;

use half::bf16;
use safetensors::tensor::TensorView;
use safetensors::{SafeTensors, serialize_to_file};
use serde_json::{Value, json};

use super::*;
use crate::backend::BackendChoice;

mod adapters;
mod golden;
mod not_numbers;
mod quantized;
mod restored;
mod states;
mod steps;

/// What mlx-lm computes, written by `tests/support/golden_demo.py`.
fn golden() -> Vec<Value> {
    serde_json::from_str(include_str!("golden_demo.json")).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Loads on whatever runs here, for tests of the files.
fn load_files(files: &ModelFiles) -> Result<Box<dyn Model>, ModelError> {
    load(files, BackendChoice::Auto, &())
}

/// The bundled model on each backend of this build, and how far its logits
/// may be from the reference, which is in f32.
fn demos() -> Vec<(Box<dyn Model>, f32)> {
    BackendChoice::BUILT_IN
        .iter()
        .map(|&backend| {
            let model = load(&crate::demo::files(), backend, &()).unwrap();
            let tolerance = match backend {
                BackendChoice::Mlx => BF16_TOLERANCE,
                BackendChoice::Candle => ROUNDED_TOLERANCE,
                _ => F32_TOLERANCE,
            };
            (model, tolerance)
        })
        .collect()
}

fn demo() -> Box<dyn Model> {
    load(&crate::demo::files(), BackendChoice::CandleF32, &()).unwrap()
}

fn input(sequence: SequenceId, tokens: &[u32]) -> Input<'_> {
    Input {
        sequence,
        tokens: Tokens::Given(tokens),
        draw: Some(Draw::GREEDY),
    }
}

/// The same, and nothing is wanted of it.
fn silent(sequence: SequenceId, tokens: &[u32]) -> Input<'_> {
    Input {
        draw: None,
        ..input(sequence, tokens)
    }
}

fn forward(model: &mut dyn Model, batch: &[Input<'_>]) -> Logits {
    let step = model.submit(batch).unwrap();
    let logits = step.logits().unwrap();
    // One at a time they are the same.
    for (place, row) in logits.rows().enumerate() {
        assert_eq!(step.row(place).unwrap(), row);
    }
    assert!(step.row(logits.rows().len()).is_err());
    logits
}

/// The tokens a step drew, all of which there are.
fn tokens_of(step: &dyn Step) -> Vec<u32> {
    let tokens = step.tokens().unwrap().into_iter();
    tokens.map(|token| token.unwrap()).collect()
}

/// The logits after the last of `tokens`, fed in pieces of `chunk`.
fn logits_of(model: &mut dyn Model, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let sequence = model.open().unwrap();
    let mut last = Vec::new();
    for piece in tokens.chunks(chunk) {
        let logits = forward(model, &[input(sequence, piece)]);
        last = logits.rows().next().unwrap().to_vec();
    }
    model.close(sequence);
    last
}

/// The `count` most likely tokens after `prompt`, one after the other, each
/// step set off before the token of the one before it is known.
fn greedy(model: &mut dyn Model, prompt: &[u32], count: usize) -> Vec<u32> {
    let sequence = model.open().unwrap();
    let mut step = model.submit(&[input(sequence, prompt)]).unwrap();
    let mut tokens = Vec::with_capacity(count);
    for _ in 1..count {
        let next = Input {
            tokens: Tokens::Drawn,
            ..input(sequence, &[])
        };
        let ahead = model.submit(&[next]).unwrap();
        tokens.extend(tokens_of(&*step));
        step = ahead;
    }
    tokens.extend(tokens_of(&*step));
    model.close(sequence);
    tokens
}

fn argmax(row: &[f32]) -> u32 {
    let best = row.iter().zip(0..).max_by(|a, b| a.0.total_cmp(b.0));
    best.unwrap().1
}

fn assert_close(a: &[f32], b: &[f32], tolerance: f32, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (index, (a, b)) in a.iter().zip(b).enumerate() {
        assert!(
            (a - b).abs() <= tolerance,
            "{what}: logit {index} is {a}, not {b}"
        );
    }
}

/// f32 sums in another order, through six layers: logits of up to about 20
/// differ in the fifth digit.
const F32_TOLERANCE: f32 = 2e-3;

/// A bf16 has 8 significant bits: each rounding is off by up to 2^-9. Some 60
/// of them, ten a layer, add up like a random walk: sqrt(60) * 2^-9 of logits
/// up to 24 is 0.36, and three times that is rare. mlx-lm's own bf16 logits of
/// these prompts are off by up to 0.43.
const BF16_TOLERANCE: f32 = 1.0;

/// Activations in 127ths of the largest of their group: a product is off by
/// about 2^-8 of itself. Seven of them a layer, 42 in all, are twice a bf16's
/// rounding each, of which there are 60.
const ROUNDED_TOLERANCE: f32 = 2.0 * BF16_TOLERANCE;

#[test]
fn logits_and_greedy_tokens_are_those_of_mlx_lm() {
    for (mut model, tolerance) in demos() {
        for case in golden() {
            let prompt = ids(&case["ids"]);
            let logits = logits_of(&mut *model, &prompt, prompt.len());
            for pair in case["top"].as_array().unwrap() {
                let (id, expected) = (pair[0].as_u64().unwrap(), pair[1].as_f64().unwrap() as f32);
                let got = logits[id as usize];
                assert!(
                    (got - expected).abs() < tolerance,
                    "token {id}: {got}, not {expected}"
                );
            }
            let expected = ids(&case["greedy"]);
            let got = greedy(&mut *model, &prompt, expected.len());
            assert_eq!(got, expected, "{}", case["prompt"]);
        }
    }
}

#[test]
fn a_prompt_in_pieces_gives_the_logits_of_the_whole() {
    for (mut model, tolerance) in demos() {
        let prompt = ids(&golden()[0]["ids"]);
        let whole = logits_of(&mut *model, &prompt, prompt.len());
        for chunk in [1, 7, 64, prompt.len() - 1] {
            let pieces = logits_of(&mut *model, &prompt, chunk);
            assert_close(&pieces, &whole, tolerance, &format!("pieces of {chunk}"));
        }
    }
}

#[test]
fn a_ragged_batch_gives_each_sequence_its_own_logits() {
    for (mut model, tolerance) in demos() {
        let prompts: Vec<Vec<u32>> = golden().iter().map(|case| ids(&case["ids"])).collect();
        let lengths = [prompts[0].len(), 3, 50];
        let cut = |i: usize| &prompts[i][..lengths[i]];
        let alone: Vec<Vec<f32>> = (0..3)
            .map(|i| logits_of(&mut *model, cut(i), lengths[i]))
            .collect();

        // The first decodes its last token, the second is all new, the third
        // is in the middle of its prefill and wants no logits, then ends it.
        let sequences: Vec<SequenceId> = (0..3).map(|_| model.open().unwrap()).collect();
        let [a, b, c] = [sequences[0], sequences[1], sequences[2]];
        let (head, last) = cut(0).split_at(lengths[0] - 1);
        let (begin, end) = cut(2).split_at(20);
        forward(&mut *model, &[silent(a, head)]);
        let first = forward(
            &mut *model,
            &[input(b, cut(1)), silent(c, begin), input(a, last)],
        );
        let second = forward(&mut *model, &[input(c, end)]);
        let rows: Vec<&[f32]> = first.rows().chain(second.rows()).collect();
        assert_eq!(rows.len(), 3);
        assert_close(rows[0], &alone[1], tolerance, "the new one");
        assert_close(rows[1], &alone[0], tolerance, "the decoding one");
        assert_close(rows[2], &alone[2], tolerance, "the one in pieces");
    }
}

#[test]
fn tokens_drawn_and_not_yet_known_go_on_as_known_ones_do() {
    for (mut model, tolerance) in demos() {
        let [first, second] = [0, 1].map(|i| ids(&golden()[i]["ids"]));
        let [a, b] = [model.open().unwrap(), model.open().unwrap()];
        let step = model.submit(&[input(a, &first), input(b, &second)]);
        let step = step.unwrap();
        // In another order than they were drawn in, and beside known ones.
        let drawn = |sequence| Input {
            tokens: Tokens::Drawn,
            ..input(sequence, &[])
        };
        let c = model.open().unwrap();
        let next = [drawn(b), input(c, &first), drawn(a)];
        let next = model.submit(&next).unwrap().logits().unwrap();
        let known = tokens_of(&*step);
        let expected = [
            [second.clone(), vec![known[1]]].concat(),
            first.clone(),
            [first.clone(), vec![known[0]]].concat(),
        ];
        for (row, tokens) in next.rows().zip(expected) {
            let alone = logits_of(&mut *model, &tokens, tokens.len());
            assert_close(row, &alone, tolerance, "after a drawn token");
        }
    }
}

#[test]
fn a_fork_continues_as_the_original_would_and_does_not_disturb_it() {
    for (mut model, tolerance) in demos() {
        let prompt = ids(&golden()[0]["ids"]);
        let original = model.open().unwrap();
        let step = model.submit(&[input(original, &prompt)]).unwrap();
        for len in [0, 1, prompt.len() - 1, prompt.len()] {
            let fork = model.fork(original, len).unwrap();
            // First off the path the original took, so that a disturbed
            // original would show, then once more along it.
            let other = [&prompt[..len], &[7, 8, 9]].concat();
            let logits = forward(&mut *model, &[input(fork, &[7, 8, 9])]);
            let alone = logits_of(&mut *model, &other, other.len());
            let row = logits.rows().next().unwrap();
            assert_close(row, &alone, tolerance, &format!("a fork at {len}"));
            model.close(fork);
            let again = model.fork(original, len).unwrap();
            let rest = [&prompt[len..], &[7]].concat();
            let logits = forward(&mut *model, &[input(again, &rest)]);
            let alone = logits_of(&mut *model, &[&prompt[..], &[7]].concat(), 50);
            let row = logits.rows().next().unwrap();
            assert_close(row, &alone, tolerance, &format!("a fork along {len}"));
        }
        // The original, and what it drew, are what they were.
        let drawn = Input {
            tokens: Tokens::Drawn,
            ..input(original, &[])
        };
        let fork = model.fork(original, prompt.len()).unwrap();
        let logits = forward(&mut *model, &[drawn]);
        let known = tokens_of(&*step)[0];
        let whole = [&prompt[..], &[known]].concat();
        let alone = logits_of(&mut *model, &whole, whole.len());
        let row = logits.rows().next().unwrap();
        assert_close(row, &alone, tolerance, "the original");

        let drawn = Input {
            sequence: fork,
            ..drawn
        };
        assert!(matches!(model.submit(&[drawn]), Err(ModelError::Input(_))));
        let too_long = model.fork(original, prompt.len() + 2);
        assert!(matches!(too_long, Err(ModelError::Input(_))));
        model.close(original);
        assert!(matches!(model.fork(original, 1), Err(ModelError::Input(_))));
        let rest = [known];
        let logits = forward(&mut *model, &[input(fork, &rest)]);
        let row = logits.rows().next().unwrap();
        assert_close(row, &alone, tolerance, "a fork whose original is gone");
    }
}

#[test]
fn a_step_that_cannot_be_evaluated_is_refused_and_changes_nothing() {
    for (mut model, tolerance) in demos() {
        let sequence = model.open().unwrap();
        let closed = model.open().unwrap();
        model.close(closed);
        let silent = silent(sequence, &[1, 2]);
        assert_eq!(forward(&mut *model, &[silent]).rows().len(), 0);
        let drawn = Input {
            tokens: Tokens::Drawn,
            ..silent
        };
        for batch in [
            vec![input(sequence, &[])],
            vec![input(sequence, &[2048])],
            vec![input(sequence, &[1]), input(sequence, &[2])],
            vec![input(sequence, &[1]), input(closed, &[2])],
            vec![drawn],
        ] {
            assert!(
                matches!(model.submit(&batch), Err(ModelError::Input(_))),
                "{batch:?}"
            );
        }
        let after = forward(&mut *model, &[input(sequence, &[3])]);
        let fresh = logits_of(&mut *model, &[1, 2, 3], 3);
        let after = after.rows().next().unwrap();
        assert_close(after, &fresh, tolerance, "after the refusals");
    }
}

#[test]
fn the_parameters_are_counted_as_the_files_hold_them() {
    // 4,067,328: what models/demo/README.md gives and its trainer printed.
    assert_eq!(demo().info().parameters, 4_067_328);
    // Keys and values, 6 layers, 2 heads of 64: in f32, in f16, and as MLX's
    // activations.
    for ((model, _), size) in demos().iter().rev().zip([4, 2, 2]) {
        assert_eq!(model.info().kv_bytes_per_token, 2 * 6 * 2 * 64 * size);
    }
}

/// A tensor that can be written: type, shape, bytes.
type Stored = (safetensors::Dtype, Vec<usize>, Vec<u8>);

fn demo_tensors() -> HashMap<String, Stored> {
    let blob = crate::demo::files().open("model.safetensors").unwrap();
    let file = SafeTensors::deserialize(&blob).unwrap();
    file.iter()
        .map(|(name, view)| {
            (
                name.to_owned(),
                (view.dtype(), view.shape().to_vec(), view.data().to_vec()),
            )
        })
        .collect()
}

fn write(path: &Path, tensors: &HashMap<String, Stored>) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (
            name.clone(),
            TensorView::new(*dtype, shape.clone(), data).unwrap(),
        )
    });
    serialize_to_file(views, None, path).unwrap();
}

/// A folder with the bundled model's files but for the weights, its
/// configuration changed by `edit`.
fn folder(edit: impl FnOnce(&mut serde_json::Map<String, Value>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let files = crate::demo::files();
    for name in files.names().unwrap() {
        if name != "model.safetensors" {
            std::fs::write(folder.path().join(&name), &*files.open(&name).unwrap()).unwrap();
        }
    }
    let mut config: Value =
        serde_json::from_str(&files.text("config.json").unwrap().unwrap()).unwrap();
    edit(config.as_object_mut().unwrap());
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

fn load_folder(folder: &tempfile::TempDir) -> Result<Box<dyn Model>, ModelError> {
    load_files(&ModelFiles::Folder(folder.path().to_owned()))
}

fn on_candle(folder: &tempfile::TempDir) -> Box<dyn Model> {
    let files = ModelFiles::Folder(folder.path().to_owned());
    load(&files, BackendChoice::CandleF32, &()).unwrap()
}

/// The bundled model's quantized matrices, each turned by `convert` from its
/// 4-bit values, scales and biases (one of each a weight) into tensors of its
/// own.
fn converted(
    convert: impl Fn(&str, &[usize], &[u8], Vec<f32>) -> Vec<(String, Stored)>,
) -> HashMap<String, Stored> {
    let tensors = demo_tensors();
    let wide = |stored: &Stored| -> Vec<f32> {
        stored
            .2
            .chunks_exact(2)
            .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect()
    };
    let mut out = HashMap::new();
    for (name, stored) in &tensors {
        let prefix = name.rsplit_once('.').unwrap().0;
        let part = |part: &str| tensors.get(&format!("{prefix}.{part}"));
        match (part("scales"), part("biases")) {
            (Some(scales), Some(biases)) if name.ends_with(".weight") => {
                let quantized: Vec<u8> = stored.2.iter().flat_map(|b| [b & 15, b >> 4]).collect();
                let (scales, biases) = (wide(scales), wide(biases));
                let values = quantized
                    .iter()
                    .enumerate()
                    .map(|(i, &q)| f32::from(q) * scales[i / 64] + biases[i / 64])
                    .collect();
                let shape = [stored.1[0], stored.1[1] * 8];
                out.extend(convert(prefix, &shape, &quantized, values));
            }
            (Some(_), Some(_)) => {}
            _ => {
                out.insert(name.clone(), stored.clone());
            }
        }
    }
    out
}

#[test]
fn the_same_weights_in_other_formats_give_the_same_logits() {
    let prompt = ids(&golden()[1]["ids"]);
    let expected = logits_of(&mut *demo(), &prompt, prompt.len());

    let f32s = converted(|prefix, shape, _, values| {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        vec![(
            format!("{prefix}.weight"),
            (safetensors::Dtype::F32, shape.to_vec(), bytes),
        )]
    });
    let bf16s = converted(|prefix, shape, _, values| {
        let bytes = values
            .iter()
            .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
            .collect();
        vec![(
            format!("{prefix}.weight"),
            (safetensors::Dtype::BF16, shape.to_vec(), bytes),
        )]
    });
    // The same 4-bit numbers in 8 bits each: the same weights exactly.
    let scales_and_biases = demo_tensors();
    let eight = converted(|prefix, shape, quantized, _| {
        let packed = vec![shape[0], shape[1] / 4];
        let kept = |part: &str| {
            let name = format!("{prefix}.{part}");
            (name.clone(), scales_and_biases[&name].clone())
        };
        vec![
            (
                format!("{prefix}.weight"),
                (safetensors::Dtype::U32, packed, quantized.to_vec()),
            ),
            kept("scales"),
            kept("biases"),
        ]
    });
    for (what, tensors, quantization, tolerance) in [
        ("f32", f32s, None, F32_TOLERANCE),
        (
            "8 bits",
            eight,
            Some(json!({"group_size": 64, "bits": 8})),
            F32_TOLERANCE,
        ),
        // Each weight is off by up to 2^-9 of itself.
        ("bf16", bf16s, None, 0.5),
    ] {
        let folder = folder(|config| {
            config.remove("quantization_config");
            config.remove("quantization");
            config.extend(quantization.map(|value| ("quantization".to_owned(), value)));
        });
        write(&folder.path().join("model.safetensors"), &tensors);
        let mut model = on_candle(&folder);
        let logits = logits_of(&mut *model, &prompt, prompt.len());
        assert_close(&logits, &expected, tolerance, what);
        assert_eq!(argmax(&logits), argmax(&expected), "{what}");
    }
}

#[test]
fn an_output_projection_of_its_own_is_used() {
    let mut tensors = demo_tensors();
    for part in ["weight", "scales", "biases"] {
        let stored = tensors[&format!("model.embed_tokens.{part}")].clone();
        tensors.insert(format!("lm_head.{part}"), stored);
    }
    // A projection whose row 5 is its row 6 makes the two logits equal.
    for part in ["weight", "scales", "biases"] {
        let (_, shape, bytes) = tensors.get_mut(&format!("lm_head.{part}")).unwrap();
        let row = bytes.len() / shape[0];
        bytes.copy_within(6 * row..7 * row, 5 * row);
    }
    let folder = folder(|config| {
        config.insert("tie_word_embeddings".to_owned(), json!(false));
    });
    write(&folder.path().join("model.safetensors"), &tensors);
    let prompt = ids(&golden()[2]["ids"]);
    let logits = logits_of(&mut *on_candle(&folder), &prompt, prompt.len());
    let tied = logits_of(&mut *demo(), &prompt, prompt.len());
    assert_eq!(logits[5], logits[6]);
    assert_ne!(tied[5], tied[6]);
}

#[test]
fn shards_are_read_by_their_index_and_other_files_left_alone() {
    let (even, odd): (HashMap<_, _>, HashMap<_, _>) = demo_tensors()
        .into_iter()
        .partition(|(name, _)| name.len() % 2 == 0);
    let folder = folder(|_| ());
    write(
        &folder.path().join("model-00001-of-00002.safetensors"),
        &even,
    );
    write(
        &folder.path().join("model-00002-of-00002.safetensors"),
        &odd,
    );
    std::fs::write(folder.path().join("model-old.safetensors"), b"not a model").unwrap();
    let map: serde_json::Map<String, Value> = even
        .keys()
        .map(|name| (name.clone(), json!("model-00001-of-00002.safetensors")))
        .chain(
            odd.keys()
                .map(|name| (name.clone(), json!("model-00002-of-00002.safetensors"))),
        )
        .collect();
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(&index, json!({"weight_map": map}).to_string()).unwrap();
    let prompt = ids(&golden()[2]["ids"]);
    let logits = logits_of(&mut *on_candle(&folder), &prompt, prompt.len());
    assert_eq!(logits, logits_of(&mut *demo(), &prompt, prompt.len()));

    std::fs::write(
        &index,
        json!({"weight_map": {"a": "../../etc/passwd"}}).to_string(),
    )
    .unwrap();
    let error = load_folder(&folder).err().unwrap().to_string();
    assert!(error.contains("not a file beside it"), "{error}");
}

#[test]
fn damaged_weights_are_refused_by_name() {
    let whole = crate::demo::files().open("model.safetensors").unwrap();
    let without = |name: &str| {
        let mut tensors = demo_tensors();
        assert!(tensors.remove(name).is_some());
        tensors
    };
    let misshapen = {
        let mut tensors = demo_tensors();
        let norm = tensors.get_mut("model.norm.weight").unwrap();
        norm.1 = vec![2, 128];
        tensors
    };
    type Damage<'a> = (&'a str, Box<dyn Fn(&Path) + 'a>);
    let cases: Vec<Damage> = vec![
        ("there is no .safetensors file", Box::new(|_: &Path| ())),
        (
            "model.safetensors is damaged or incomplete",
            Box::new(|path: &Path| {
                std::fs::write(path, &whole[..whole.len() - 100]).unwrap();
            }),
        ),
        (
            "damaged or incomplete",
            Box::new(|path: &Path| {
                std::fs::write(path, &whole[..500]).unwrap();
            }),
        ),
        (
            "damaged or incomplete",
            Box::new(|path: &Path| {
                std::fs::write(path, b"").unwrap();
            }),
        ),
        (
            "model.layers.3.mlp.up_proj.weight is missing",
            Box::new(|path: &Path| {
                write(path, &without("model.layers.3.mlp.up_proj.weight"));
            }),
        ),
        (
            "model.layers.3.mlp.up_proj.biases is missing",
            Box::new(|path: &Path| {
                write(path, &without("model.layers.3.mlp.up_proj.biases"));
            }),
        ),
        (
            "model.norm.weight in model.safetensors has the shape",
            Box::new(|path: &Path| {
                write(path, &misshapen);
            }),
        ),
    ];
    for (named, damage) in cases {
        let folder = folder(|_| ());
        damage(&folder.path().join("model.safetensors"));
        let error = load_folder(&folder).err().expect(named).to_string();
        assert!(error.contains(named), "{error}");
    }
}
