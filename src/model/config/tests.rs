//! Configurations that are read as written, and ones that are refused.

#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

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
        config.quantization,
        Some(Quantization {
            group_size: 64,
            bits: 4
        })
    );
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
        (
            "quantization",
            json!({"group_size": 64, "bits": 3}),
            "3 bits",
        ),
        ("quantization", json!({"group_size": 16, "bits": 4}), "16"),
        (
            "quantization",
            json!({"group_size": 32, "bits": 4, "mode": "mxfp4"}),
            "mxfp4",
        ),
        ("quantization", json!({"quant_method": "gptq"}), "gptq"),
        (
            "quantization",
            json!({"group_size": 64, "bits": 4, "lm_head": {"group_size": 64, "bits": 8}}),
            "lm_head",
        ),
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
