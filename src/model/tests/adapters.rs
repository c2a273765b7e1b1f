//! Adapters that fit a model, and those that do not.

use super::golden::{F32_UNIT, Golden, fixture, tolerance, unit_on};
use super::states::{edited, floats, of_folder};
use super::*;

/// An adapter's folder with a configuration and a product of ones for the
/// projection `name` of the bundled model, whose hidden size is `hidden`.
fn adapter(config: &Value, tensors: &[(&str, [usize; 2])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("adapter_config.json"),
        config.to_string(),
    )
    .unwrap();
    let tensors: HashMap<String, Stored> = tensors
        .iter()
        .map(|(name, shape)| {
            let ones = 1f32.to_le_bytes().repeat(shape[0] * shape[1]);
            let stored = (safetensors::Dtype::F32, shape.to_vec(), ones);
            ((*name).to_owned(), stored)
        })
        .collect();
    write(&folder.path().join("adapters.safetensors"), &tensors);
    folder
}

#[test]
fn adapters_that_do_not_fit_are_refused_with_the_reason() {
    let lora = json!({"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 2.0}});
    let load = |config: &Value, tensors: &[(&str, [usize; 2])]| {
        let folder = adapter(config, tensors);
        let files = crate::demo::files().with_adapter(folder.path().to_owned());
        load_files(&files)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let config = DecoderConfig::load(&crate::demo::files()).unwrap();
    let (hidden, queries) = (config.hidden_size, config.heads * config.head_dim);
    let (a, b) = (
        "model.layers.0.self_attn.q_proj.lora_a",
        "model.layers.0.self_attn.q_proj.lora_b",
    );
    let whole = [(a, [hidden, 2]), (b, [2, queries])];
    load(&lora, &whole).unwrap();
    for (config, tensors, named) in [
        (json!({"fine_tune_type": "dora"}), &whole[..], "dora"),
        (
            json!({"lora_parameters": {"alpha": 2}}),
            &whole,
            "lora_parameters.scale",
        ),
        (lora.clone(), &whole[..1], "q_proj.lora_b is missing"),
        (lora.clone(), &whole[1..], "q_proj.lora_a is missing"),
        (
            lora.clone(),
            &[(a, [hidden, 2]), (b, [3, queries])],
            "lora_b",
        ),
        (
            lora.clone(),
            &[
                (a, [hidden, 2]),
                (b, [2, queries]),
                ("model.layers.99.x.lora_a", [1, 1]),
            ],
            "model.layers.99.x.lora_a fits no projection",
        ),
    ] {
        let error = load(&config, tensors).unwrap_err();
        assert!(error.contains(named), "{named}: {error}");
    }
    let empty = tempfile::tempdir().unwrap();
    let files = crate::demo::files().with_adapter(empty.path().to_owned());
    let error = load_files(&files).map(drop).unwrap_err().to_string();
    assert!(error.contains("no adapter_config.json"), "{error}");
    std::fs::write(empty.path().join("adapter_model.safetensors"), "").unwrap();
    let error = load_files(&files).map(drop).unwrap_err().to_string();
    assert!(error.contains("PEFT"), "{error}");
}

/// Numbers about as large as a trained adapter's.
fn noise(count: usize, seed: &mut u32) -> Vec<f32> {
    let next = |_| {
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*seed >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(next).collect()
}

/// On matrices that come apart at load, and on one that does not, an adapter
/// does what it would do added to the weights.
#[test]
fn an_adapter_of_matrices_that_come_apart_is_as_good_as_merged() {
    let name = "qwen3-next-f32";
    let (rank, scale, mut seed) = (3, 2.0, 1);
    let mut tensors: HashMap<String, Stored> = HashMap::new();
    let merged = edited(name, |weights| {
        for projection in [
            "model.layers.0.linear_attn.in_proj_qkvz",
            "model.layers.0.linear_attn.in_proj_ba",
            "model.layers.1.self_attn.q_proj",
            "model.layers.2.linear_attn.out_proj",
        ] {
            let (_, shape, data) = weights.get_mut(&format!("{projection}.weight")).unwrap();
            let (rows, columns) = (shape[0], shape[1]);
            let down = noise(columns * rank, &mut seed);
            let up = noise(rank * rows, &mut seed);
            let added = |row: usize, column: usize| {
                let each = (0..rank).map(|i| down[column * rank + i] * up[i * rows + row]);
                scale * each.sum::<f32>()
            };
            let sums = floats(data).enumerate().map(|(at, weight)| {
                let sum = weight + added(at / columns, at % columns);
                sum.to_le_bytes()
            });
            *data = sums.flatten().collect();
            for (part, shape, values) in [
                ("lora_a", vec![columns, rank], down),
                ("lora_b", vec![rank, rows], up),
            ] {
                let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                let stored = (safetensors::Dtype::F32, shape, bytes);
                tensors.insert(format!("{projection}.{part}"), stored);
            }
        }
    });
    let folder = adapter(
        &json!({"lora_parameters": {"rank": 3, "scale": scale}}),
        &[],
    );
    write(&folder.path().join("adapters.safetensors"), &tensors);
    let adapted = ModelFiles::Folder(fixture(name)).with_adapter(folder.path().to_owned());
    let Golden { prompts, scale, .. } = Golden::read(&fixture(name));
    for &backend in BackendChoice::BUILT_IN {
        let mut merged = load(&of_folder(&merged), backend, &()).unwrap();
        let mut adapted = load(&adapted, backend, &()).unwrap();
        for case in &prompts[1..] {
            let expected = logits_of(&mut *merged, &case.ids, 5);
            let logits = logits_of(&mut *adapted, &case.ids, 5);
            let off = tolerance(unit_on(backend), 4, scale);
            assert_close(&logits, &expected, off, &format!("{backend:?}"));
            let before = logits.iter().zip(&case.logits);
            let moved = before.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let exact = tolerance(F32_UNIT, 4, scale);
            assert!(moved > 100.0 * exact, "{backend:?}: only {moved}");
        }
    }
}

#[test]
fn an_adapter_makes_another_fingerprint() {
    let lora = json!({"lora_parameters": {"rank": 2, "scale": 2.0}});
    let folder = adapter(&lora, &[("a", [1, 1])]);
    let adapted = || crate::demo::files().with_adapter(folder.path().to_owned());
    let before = adapted().fingerprint().unwrap();
    assert_ne!(before, crate::demo::files().fingerprint().unwrap());
    assert_eq!(before, adapted().fingerprint().unwrap());
    std::fs::write(folder.path().join("adapter_config.json"), "{}").unwrap();
    assert_ne!(before, adapted().fingerprint().unwrap());
}
