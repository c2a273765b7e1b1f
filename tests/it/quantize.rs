//! `quantize`: a model in floating point gets 4- or 8-bit weights when it is
//! loaded.

use std::fs;
use std::path::Path;

use half::bf16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize_to_file};
use serde_json::{Value, json};

use crate::support::{Finished, Setup, repository};

fn json(finished: &Finished) -> Value {
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    serde_json::from_str(&finished.stdout).unwrap()
}

/// A tiny model in bf16, most of whose matrices can be quantized.
fn dense() -> String {
    let folder = repository("tests/golden/llama-window-bf16");
    folder.to_str().unwrap().to_owned()
}

#[test]
fn inspect_says_what_is_quantized_at_load_and_what_it_takes() {
    let of = |setup: Setup, arguments: &[&str]| json(&setup.run(arguments).0);
    let weights = |about: &Value| about["memory"]["weights_bytes"].as_u64().unwrap();
    let set = || Setup::new().set("model_name", dense());
    let plain = of(set(), &["inspect", "--json"]);
    let four = of(set().set("quantize", 4), &["inspect", "--json"]);
    assert_eq!(plain["quantized_at_load"], Value::Null);
    assert_eq!(
        four["quantized_at_load"],
        json!({"from": "bf16", "bits": 4})
    );
    assert_eq!(four["parameters"], plain["parameters"]);
    assert!(weights(&four) * 2 < weights(&plain));
    let named = ["inspect", &dense(), "--json", "--quantize", "8"];
    let eight = of(Setup::new().without_config(), &named);
    assert!((weights(&four) + 1..weights(&plain)).contains(&weights(&eight)));

    let (finished, _) = set().set("quantize", 8).run(&["inspect"]);
    let line = "a weight, scales included; bf16, quantized to 8 bits at load";
    assert!(finished.stdout.contains(line), "{}", finished.stdout);
    let (finished, _) = Setup::new().set("quantize", 8).run(&["inspect"]);
    let line = "a weight, scales included; nothing is left to quantize at load";
    assert!(finished.stdout.contains(line), "{}", finished.stdout);
}

/// The reference: what mlx-lm computes with the model converted by it.
#[test]
fn logits_are_those_of_a_converted_model() {
    let file = |path: &str| -> Value {
        serde_json::from_slice(&fs::read(repository(path)).unwrap()).unwrap()
    };
    let reference = file("tests/fixtures/quantized.json");
    let golden = file("tests/golden/llama-window-bf16/golden.json");
    let ids = golden["prompts"][0]["ids"].as_array().unwrap();
    let ids: Vec<String> = ids.iter().map(Value::to_string).collect();
    let ids = ids.join(" ");
    let run = |quantize: &[&str]| {
        let arguments = ["inspect", "--backend", "candle-f32", "--tokens", &ids];
        let setup = Setup::new().set("model_name", dense());
        json(&setup.run(&[&arguments[..], quantize].concat()).0)["top"].clone()
    };
    let plain = run(&[]);
    for bits in ["4", "8"] {
        let expected = &reference["models"]["llama-window-bf16"][bits]["logits"][0];
        let top = run(&["--quantize", bits]);
        assert_ne!(top, plain);
        for pair in top.as_array().unwrap() {
            let (id, logit) = (pair[0].as_u64().unwrap(), pair[1].as_f64().unwrap());
            let expected = expected[id as usize].as_f64().unwrap();
            assert!((logit - expected).abs() < 1e-3, "{bits} bits, {id}: {pair}");
        }
    }
}

#[test]
fn other_numbers_of_bits_are_refused() {
    for wrong in [json!(5), json!("4"), json!(true), json!(16)] {
        let (finished, _) = Setup::new().set("quantize", wrong).run(&["check"]);
        assert_eq!(finished.code, Some(78), "{finished:?}");
        let said = &finished.stderr;
        assert!(said.contains("quantize"), "{said}");
        assert!(said.contains("write 4 or 8"), "{said}");
    }
    for command in ["bench", "inspect"] {
        let (finished, _) = Setup::new().run(&[command, "demo", "--quantize", "3"]);
        assert_eq!(finished.code, Some(2), "{finished:?}");
        assert!(finished.stderr.contains("write 4 or 8"), "{finished:?}");
    }
}

/// The bundled model's weights in bf16 in the folder `model`.
fn unpacked(setup: &Setup) {
    let folder = setup.model_folder();
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        let view = file.tensor(name).unwrap();
        let halves = view.data().as_chunks().0.iter();
        halves.map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
    };
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, view) in file.iter() {
        let name = name.to_owned();
        if name.ends_with(".scales") || name.ends_with(".biases") {
            continue;
        }
        if view.dtype() != Dtype::U32 {
            tensors.push((name, view.shape().to_vec(), view.data().to_vec()));
            continue;
        }
        let path = name.strip_suffix(".weight").unwrap();
        let (scales, biases) = (
            floats(&format!("{path}.scales")),
            floats(&format!("{path}.biases")),
        );
        let codes = view.data().iter().flat_map(|byte| [byte & 15, byte >> 4]);
        let weights = codes.enumerate().flat_map(|(at, code)| {
            let group = at / 64;
            bf16::from_f32(f32::from(code) * scales[group] + biases[group]).to_le_bytes()
        });
        let shape = vec![view.shape()[0], view.shape()[1] * 8];
        tensors.push((name, shape, weights.collect()));
    }
    let views = tensors.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::BF16, shape.clone(), data).unwrap();
        (name.clone(), view)
    });
    serialize_to_file(views, None, &path).unwrap();
    without_quantization(&folder.join("config.json"));
}

fn without_quantization(path: &Path) {
    let mut config: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let config = config.as_object_mut().unwrap();
    config.remove("quantization");
    config.remove("quantization_config");
    fs::write(path, json!(config).to_string()).unwrap();
}

/// Tokens of the preamble that the last warm-up found.
fn cached(setup: &Setup) -> usize {
    let log = setup.log();
    let line = log.lines().rfind(|line| line.contains("warmed up"));
    let rest = line.unwrap().split("cached_tokens=").nth(1).unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// The server on a model in bf16: quantized at load it answers as well, says
/// so in the log, and takes no keys and values of the unquantized one's.
#[test]
fn a_model_quantized_at_load_answers_and_keeps_its_own_preamble() {
    let setup = Setup::with_tools();
    unpacked(&setup);
    let mut setup = setup
        .set("model_name", "./model")
        .set("prefix_cache_dir", "kv");
    let quantized = |log: &str| log.matches("quantized at load").count();
    for (quantize, told, found) in [
        (None, 0, false),
        (Some(8), 1, false),
        (Some(8), 2, true),
        (Some(4), 3, false),
        (None, 3, true),
    ] {
        setup = match quantize {
            Some(bits) => setup.set("quantize", bits),
            None => setup.without("quantize"),
        };
        let program = setup.start();
        let answer = program.ask("what is 17 * 23?");
        assert!(answer.contains("391"), "{quantize:?}: {answer}");
        setup = program.stop();
        let log = setup.log();
        assert_eq!(quantized(&log), told, "{quantize:?}: {log}");
        assert_eq!(cached(&setup) > 0, found, "{quantize:?}: {log}");
    }
}

#[test]
fn a_model_that_is_quantized_in_its_files_is_warned_of() {
    let program = Setup::new().set("quantize", 4).start();
    assert!(program.ask("hello!").contains("Hello"));
    let log = program.stop().log();
    let line = log
        .lines()
        .find(|line| line.contains("quantize changes nothing"));
    assert!(line.is_some_and(|line| line.contains("WARN")), "{log}");
}
