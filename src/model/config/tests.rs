//! Configurations that are read as written, and ones that are refused.

#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::model::quantization::Quantization;

/// Qwen3-0.6B as mlx-community publishes it, 4 bits.
fn qwen3() -> Value {
    json!({
        "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000, "rope_scaling": null,
        "tie_word_embeddings": true, "attention_bias": false, "hidden_act": "silu",
        "use_sliding_window": false, "sliding_window": null,
        "quantization": {"group_size": 64, "bits": 4}
    })
}

/// The configuration with one key replaced, or removed by `null`.
fn parse_with(key: &str, value: Value) -> Result<DecoderConfig, ConfigError> {
    let mut config = qwen3();
    match value {
        Value::Null => config.as_object_mut().unwrap().remove(key),
        value => config
            .as_object_mut()
            .unwrap()
            .insert(key.to_owned(), value),
    };
    DecoderConfig::parse(&config.to_string())
}

#[test]
fn a_published_configuration_is_read() {
    let config = DecoderConfig::parse(&qwen3().to_string()).unwrap();
    assert_eq!(
        (config.heads, config.kv_heads, config.head_dim),
        (16, 8, 128)
    );
    assert_eq!(config.rope_theta, 1e6);
    assert!(config.tied_embeddings && config.qk_norm);
    assert_eq!(
        config.quantizations.of("lm_head"),
        Some(Quantization::Affine {
            group_size: 64,
            bits: 4
        })
    );
    let plain = LayerConfig {
        window: None,
        experts: None,
    };
    assert_eq!(config.layers, [plain; 28]);
}

#[test]
fn transformers_5_writes_the_rope_elsewhere() {
    let mut value = qwen3();
    let object = value.as_object_mut().unwrap();
    object.remove("rope_theta");
    object.insert(
        "rope_parameters".to_owned(),
        json!({"rope_theta": 5e5, "rope_type": "default"}),
    );
    assert_eq!(
        DecoderConfig::parse(&value.to_string()).unwrap().rope_theta,
        5e5
    );
}

#[test]
fn what_would_compute_something_else_is_refused_with_its_name() {
    for (key, value, named) in [
        ("model_type", json!("mamba"), "mamba"),
        ("model_type", json!(null), "model_type"),
        ("hidden_size", json!(null), "hidden_size"),
        ("hidden_size", json!("wide"), "invalid type"),
        ("num_attention_heads", json!(0), "num_attention_heads"),
        ("num_key_value_heads", json!(3), "3 key-value heads"),
        ("head_dim", json!(63), "63"),
        ("rope_theta", json!(null), "rope_theta"),
        ("rope_scaling", json!({"rope_type": "yarn"}), "yarn"),
        ("rope_parameters", json!({"type": "linear"}), "linear"),
        ("attention_bias", json!(true), "attention_bias"),
        ("use_sliding_window", json!(true), "use_sliding_window"),
        ("hidden_act", json!("gelu"), "gelu"),
        ("mlp_bias", json!(true), "mlp_bias"),
        ("quantization", json!({"quant_method": "gptq"}), "gptq"),
    ] {
        let error = parse_with(key, value.clone()).expect_err(&format!("{key}: {value}"));
        assert!(error.to_string().contains(named), "{key}: {value}: {error}");
    }
    let unknown = parse_with("model_type", json!("mamba"))
        .unwrap_err()
        .to_string();
    assert!(
        unknown.contains("qwen3"),
        "the known families are listed: {unknown}"
    );
}

#[test]
fn windows_are_those_of_the_layers_that_slide() {
    let windows = |family: &str, window: Value, types: Value| {
        let mut config = qwen3();
        let object = config.as_object_mut().unwrap();
        object.insert("model_type".to_owned(), json!(family));
        object.insert("num_hidden_layers".to_owned(), json!(2));
        object.insert("sliding_window".to_owned(), window);
        object.insert("layer_types".to_owned(), types);
        let config = DecoderConfig::parse(&config.to_string());
        config.map(|config| config.layers.iter().map(|layer| layer.window).collect())
    };
    let alternating = json!(["sliding_attention", "full_attention"]);
    let ok = |expected: [Option<usize>; 2]| expected.to_vec();
    for (family, window, types, expected) in [
        ("llama", json!(16), alternating.clone(), [Some(16), None]),
        ("llama", json!(16), json!(null), [None, None]),
        ("mistral", json!(16), json!(null), [Some(16), Some(16)]),
        ("mistral", json!(null), json!(null), [None, None]),
        ("mistral", json!(16), alternating.clone(), [Some(16), None]),
        ("qwen3", json!(16), json!(null), [None, None]),
    ] {
        let got: Vec<Option<usize>> = windows(family, window, types).unwrap();
        assert_eq!(got, ok(expected), "{family}");
    }
    for (window, types, named) in [
        (
            json!(null),
            alternating.clone(),
            "sliding_window is missing",
        ),
        (json!(0), alternating, "sliding_window is 0"),
        (json!(16), json!(["sliding_attention"]), "layer 1"),
        (
            json!(16),
            json!(["linear_attention", "full_attention"]),
            "linear_attention",
        ),
    ] {
        let error = windows("llama", window, types).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn experts_are_in_the_layers_that_are_sparse() {
    let parse = |top_k: usize, step: usize| {
        let mut config = qwen3();
        let more = json!({
            "model_type": "qwen3_moe", "num_hidden_layers": 4, "num_experts": 8,
            "num_experts_per_tok": top_k, "norm_topk_prob": true, "moe_intermediate_size": 96,
            "decoder_sparse_step": step, "mlp_only_layers": [1]
        });
        let object = config.as_object_mut().unwrap();
        object.extend(more.as_object().unwrap().clone());
        DecoderConfig::parse(&config.to_string())
    };
    let sparse = |step| -> Vec<bool> {
        let layers = parse(2, step).unwrap().layers;
        layers.iter().map(|layer| layer.experts.is_some()).collect()
    };
    assert_eq!(sparse(1), [true, false, true, true]);
    assert_eq!(sparse(2), [false, false, false, true]);
    assert_eq!(
        parse(2, 1).unwrap().layers[0].experts,
        Some(ExpertsConfig {
            count: 8,
            top_k: 2,
            renormalize: true,
            intermediate_size: 96
        })
    );
    for top_k in [0, 9] {
        let error = parse(top_k, 1).unwrap_err().to_string();
        assert!(error.contains("num_experts_per_tok"), "{error}");
    }
}

#[test]
fn the_end_of_sequence_is_what_any_of_the_files_says() {
    static FILES: [(&str, &[u8]); 3] = [
        ("config.json", br#"{"eos_token_id": 7}"#),
        (
            "generation_config.json",
            br#"{"eos_token_id": [9, 7, -1, 8.5]}"#,
        ),
        ("tokenizer_config.json", br#"{"eos_token": "<end>"}"#),
    ];
    static AS_OBJECT: [(&str, &[u8]); 1] = [(
        "tokenizer_config.json",
        br#"{"eos_token": {"content": "<end>", "special": true}}"#,
    )];
    let ids = |files| {
        let token_id = |token: &str| (token == "<end>").then_some(12);
        end_of_sequence_ids(&ModelFiles::Embedded(files), token_id).unwrap()
    };
    assert_eq!(ids(&FILES), [7, 9, 12]);
    assert_eq!(ids(&FILES[..1]), [7]);
    assert_eq!(ids(&AS_OBJECT), [12]);
    assert_eq!(ids(&[]), [0u32; 0]);
}
