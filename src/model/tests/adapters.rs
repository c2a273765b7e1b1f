//! Adapters that fit a model, and those that do not.

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
