//! Configurations that are read as written, and ones that are refused.

#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::model::quantization::Quantization;

mod operators;

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

/// The base of the first rope's frequencies, to the digits that f32 leaves.
fn inverse_base(config: &DecoderConfig) -> f64 {
    let frequency = f64::from(config.ropes[0].inv_freq[1]);
    let base = frequency.powf(-(config.head_dim as f64) / 2.0);
    (base / 100.0).round() * 100.0
}

/// The window and the rope of a layer of attention.
fn attention(layer: &LayerConfig) -> (Option<usize>, Option<usize>) {
    match layer.operator {
        OperatorConfig::Attention { window, rope } => (window, rope),
        other => panic!("{other:?} is no attention"),
    }
}

/// A configuration of a family with some keys put in, or taken out by `null`.
fn of_family(family: &str, changes: Value) -> Result<DecoderConfig, ConfigError> {
    let mut config = qwen3();
    let object = config.as_object_mut().unwrap();
    object.insert("model_type".to_owned(), json!(family));
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => object.remove(key),
            value => object.insert(key.clone(), value.clone()),
        };
    }
    DecoderConfig::parse(&config.to_string())
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
    assert_eq!(inverse_base(&config), 1e6);
    assert_eq!(config.tied_embeddings, Some(true));
    assert_eq!(config.attention.qk_norm, QkNorm::Head);
    assert_eq!(config.attention.scale, 128f32.powf(-0.5));
    assert!(!config.attention.qkv_bias && !config.attention.output_bias);
    assert_eq!(
        config.quantizations.of("lm_head"),
        Some(Quantization::Affine {
            group_size: 64,
            bits: 4
        })
    );
    let plain = LayerConfig {
        operator: OperatorConfig::Attention {
            window: None,
            rope: Some(0),
        },
        mlp: MlpConfig::Gated(GatedConfig {
            width: 3072,
            activation: Activation::Silu,
            bias: false,
            fused: false,
        }),
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
    let config = DecoderConfig::parse(&value.to_string()).unwrap();
    assert_eq!(inverse_base(&config), 5e5);
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
        ("rope_scaling", json!({"rope_type": "ntk"}), "ntk"),
        ("rope_parameters", json!({"type": "linear"}), "no factor"),
        ("partial_rotary_factor", json!(0.001), "0 dimensions"),
        ("no_rope_layers", json!([1, 0]), "28"),
        ("num_local_experts", json!(8), "num_local_experts is 8"),
        ("use_sliding_window", json!(true), "use_sliding_window"),
        ("hidden_act", json!("gelu"), "gelu"),
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
        config.map(|config| {
            config
                .layers
                .iter()
                .map(|layer| attention(layer).0)
                .collect()
        })
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
        let sparse = |layer: &LayerConfig| matches!(layer.mlp, MlpConfig::Experts(_));
        layers.iter().map(sparse).collect()
    };
    assert_eq!(sparse(1), [true, false, true, true]);
    assert_eq!(sparse(2), [false, false, false, true]);
    assert_eq!(
        parse(2, 1).unwrap().layers[0].mlp,
        MlpConfig::Experts(ExpertsConfig {
            router: "mlp.gate",
            experts: "mlp.switch_mlp",
            count: 8,
            top_k: 2,
            renormalize: true,
            width: 96,
            activation: Activation::Silu,
            bias: false,
            shared: None,
        })
    );
    for top_k in [0, 9] {
        let error = parse(top_k, 1).unwrap_err().to_string();
        assert!(error.contains("num_experts_per_tok"), "{error}");
    }
}

#[test]
fn families_differ_as_their_descriptions_say() {
    let gemma = json!({
        "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": null, "num_hidden_layers": 6,
        "rope_theta": null, "sliding_window": 64
    });
    let gemma3 = of_family("gemma3_text", gemma.clone()).unwrap();
    assert_eq!(inverse_base(&gemma3), 1e6);
    assert_eq!(gemma3.ropes.len(), 2);
    let layers = gemma3.layers.iter().map(attention);
    let sliding = (Some(64), Some(1));
    assert_eq!(
        layers.collect::<Vec<_>>(),
        [sliding, sliding, sliding, sliding, sliding, (None, Some(0))]
    );
    assert_eq!(gemma3.norms, NormPlacement::Around);
    assert_eq!((gemma3.norm_offset, gemma3.embedding_scale), (1.0, 32.0));
    assert_eq!(gemma3.attention.scale, 1.0 / 16.0);
    assert_eq!(gemma3.tied_embeddings, None);

    let mut with_base = gemma;
    with_base["rope_theta"] = json!(10_000);
    let gemma2 = of_family("gemma2", with_base).unwrap();
    let windows: Vec<bool> = gemma2
        .layers
        .iter()
        .map(|l| attention(l).0.is_some())
        .collect();
    assert_eq!(windows, [true, false, true, false, true, false]);
    assert_eq!(
        (gemma2.attention.softcap, gemma2.logits_softcap),
        (Some(50.0), Some(30.0))
    );
    assert_eq!(gemma2.ropes.len(), 1);

    let qwen2 = of_family("qwen2", json!({})).unwrap();
    assert!(qwen2.attention.qkv_bias && !qwen2.attention.output_bias);

    let granite = of_family(
        "granite",
        json!({
            "attention_multiplier": 0.25, "embedding_multiplier": 12, "residual_multiplier": 0.5,
            "logits_scaling": 8
        }),
    )
    .unwrap();
    assert_eq!(
        (granite.attention.scale, granite.embedding_scale),
        (0.25, 12.0)
    );
    assert_eq!((granite.residual_scale, granite.logits_scale), (0.5, 0.125));

    let smollm = of_family("smollm3", json!({"num_hidden_layers": 5})).unwrap();
    let ropes: Vec<_> = smollm
        .layers
        .iter()
        .map(|layer| attention(layer).1)
        .collect();
    assert_eq!(ropes, [Some(0), Some(0), Some(0), None, Some(0)]);

    let phi = of_family("phi3", json!({"partial_rotary_factor": 0.75})).unwrap();
    assert_eq!(phi.ropes[0].inv_freq.len(), 48);
    assert!(phi.attention.fused);

    let olmo = of_family(
        "olmo3",
        json!({
            "num_hidden_layers": 4, "sliding_window": 16,
            "rope_scaling": {"rope_type": "linear", "factor": 2}
        }),
    )
    .unwrap();
    let halved = olmo.ropes[0].inv_freq[0] / olmo.ropes[1].inv_freq[0];
    assert_eq!(
        (
            halved,
            attention(&olmo.layers[3]).1,
            attention(&olmo.layers[0]).1
        ),
        (0.5, Some(0), Some(1))
    );

    let oss = of_family(
        "gpt_oss",
        json!({
            "num_hidden_layers": 2, "sliding_window": 16, "num_local_experts": 4,
            "num_experts_per_tok": 2
        }),
    )
    .unwrap();
    assert!(oss.attention.sinks && oss.attention.output_bias);
    let MlpConfig::Experts(experts) = oss.layers[0].mlp else {
        panic!("gpt-oss has experts");
    };
    assert!(experts.bias && experts.renormalize && experts.width == 3072);
}

#[test]
fn a_language_model_within_a_larger_one_is_found() {
    let mut inner = qwen3();
    let object = inner.as_object_mut().unwrap();
    object.remove("quantization");
    object.remove("model_type");
    object.insert("hidden_act".to_owned(), json!("gelu_pytorch_tanh"));
    let whole = json!({
        "model_type": "gemma3", "text_config": inner, "vision_config": {"hidden_size": 1},
        "quantization": {"group_size": 32, "bits": 8}
    });
    let config = DecoderConfig::parse(&whole.to_string()).unwrap();
    assert_eq!(
        (config.family.as_str(), config.prefix),
        ("gemma3_text", "language_model.")
    );
    assert_eq!(config.hidden_size, 1024);
    let quantization = config.quantizations.of("language_model.lm_head");
    assert_eq!(
        quantization,
        Some(Quantization::Affine {
            group_size: 32,
            bits: 8
        })
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

/// Rows of the README's table of models: the families, and the tiny models
/// that each was compared on.
fn rows_of_the_readme() -> Vec<(Vec<String>, Vec<String>)> {
    let readme = include_str!("../../../README.md");
    let (_, table) = readme.split_once("| `model_type` |").unwrap();
    let names = |cell: &str| -> Vec<String> {
        let odd = cell.split('`').skip(1).step_by(2);
        odd.map(str::to_owned).collect()
    };
    table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').collect();
            (names(cells[1]), names(cells[3]))
        })
        .collect()
}

#[test]
fn the_readme_lists_the_families_and_what_they_were_compared_on() {
    let rows = rows_of_the_readme();
    let mut listed: Vec<&str> = rows
        .iter()
        .flat_map(|row| row.0.iter())
        .map(String::as_str)
        .collect();
    let known = families::names();
    let mut known: Vec<&str> = known.split(", ").collect();
    listed.sort_unstable();
    known.sort_unstable();
    assert_eq!(listed, known);

    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut compared: Vec<String> = Vec::new();
    for (families, models) in rows {
        let mut seen: Vec<String> = Vec::new();
        for model in models {
            let text = std::fs::read_to_string(golden.join(&model).join("config.json")).unwrap();
            let config: Value = serde_json::from_str(&text).unwrap();
            let types = [&config["model_type"], &config["text_config"]["model_type"]];
            seen.extend(
                types
                    .iter()
                    .filter_map(|name| Some(name.as_str()?.to_owned())),
            );
            compared.push(model);
        }
        for family in families {
            assert!(seen.contains(&family), "{family} was compared on nothing");
        }
    }
    let mut there: Vec<String> = std::fs::read_dir(golden)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    compared.sort();
    there.sort();
    assert_eq!(compared, there);
}
