//! Layers whose operator is no attention: which they are, and of what size.

use super::*;

/// Qwen3-Next-80B-A3B as published.
fn qwen3_next(changes: Value) -> Result<DecoderConfig, ConfigError> {
    let mut keys = json!({
        "hidden_size": 2048, "intermediate_size": 5120, "num_hidden_layers": 48,
        "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
        "rope_theta": 10_000_000, "partial_rotary_factor": 0.25, "tie_word_embeddings": false,
        "full_attention_interval": 4, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
        "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_value_head_dim": 128,
        "num_experts": 512, "num_experts_per_tok": 10, "norm_topk_prob": true,
        "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
        "decoder_sparse_step": 1, "mlp_only_layers": []
    });
    let changes = changes.as_object().unwrap().clone();
    keys.as_object_mut().unwrap().extend(changes);
    of_family("qwen3_next", keys)
}

/// Qwen3.5 of the same sizes, without experts, nested as published.
fn qwen3_5(changes: Value) -> Result<DecoderConfig, ConfigError> {
    let mut text = json!({
        "model_type": "qwen3_5_text", "hidden_size": 1024, "intermediate_size": 3584,
        "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
        "head_dim": 256, "vocab_size": 248_320, "max_position_embeddings": 262_144,
        "rms_norm_eps": 1e-6, "hidden_act": "silu", "attn_output_gate": true,
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
        "linear_num_value_heads": 16, "linear_value_head_dim": 128,
        "layer_types": [
            "linear_attention", "linear_attention", "linear_attention", "full_attention"],
        "full_attention_interval": 4, "mtp_num_hidden_layers": 1, "tie_word_embeddings": true,
        "rope_parameters": {
            "mrope_interleaved": true, "mrope_section": [11, 11, 10], "rope_type": "default",
            "rope_theta": 10_000_000, "partial_rotary_factor": 0.25
        }
    });
    let object = text.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => object.remove(key),
            value => object.insert(key.clone(), value.clone()),
        };
    }
    let whole = json!({
        "model_type": "qwen3_5", "text_config": text, "vision_config": {"depth": 12},
        "tie_word_embeddings": true, "image_token_id": 248_056, "quantization": {
            "group_size": 64, "bits": 4,
            "language_model.model.layers.0.mlp.gate": {"group_size": 64, "bits": 8}
        }
    });
    DecoderConfig::parse(&whole.to_string())
}

/// LFM2-1.2B as published.
fn lfm2(changes: Value) -> Result<DecoderConfig, ConfigError> {
    let mut keys = json!({
        "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": null, "intermediate_size": null,
        "rms_norm_eps": null, "norm_eps": 1e-5, "tie_word_embeddings": null, "hidden_act": null,
        "block_auto_adjust_ff_dim": true, "block_ff_dim": 12288, "block_dim": 2048,
        "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256, "conv_L_cache": 3,
        "conv_bias": false, "full_attn_idxs": [2, 5, 8, 10, 12, 14]
    });
    let changes = changes.as_object().unwrap().clone();
    keys.as_object_mut().unwrap().extend(changes);
    of_family("lfm2", keys)
}

/// The layers of attention.
fn attending(config: &DecoderConfig) -> Vec<usize> {
    let layers = config.layers.iter().enumerate();
    let attends = |layer: &LayerConfig| matches!(layer.operator, OperatorConfig::Attention { .. });
    let attending = layers.filter(|(_, layer)| attends(layer));
    attending.map(|(index, _)| index).collect()
}

#[test]
fn delta_nets_are_in_all_but_every_so_manieth_layer() {
    let config = qwen3_next(json!({})).unwrap();
    assert_eq!(
        attending(&config),
        [3, 7, 11, 15, 19, 23, 27, 31, 35, 39, 43, 47]
    );
    assert_eq!(config.kv_layers(), 12);
    let net = DeltaConfig {
        key_heads: 16,
        value_heads: 32,
        key_dim: 128,
        value_dim: 128,
        kernel: 4,
        fused: true,
    };
    assert_eq!(config.layers[0].operator, OperatorConfig::Delta(net));
    assert_eq!(
        (net.keys(), net.values(), net.channels()),
        (2048, 4096, 8192)
    );
    // Three rows of channels in 16 bits, and 32 states of 128 by 128 in 32.
    let layer = 3 * 8192 * 2 + 32 * 128 * 128 * 4;
    assert_eq!(config.state_bytes(2), 36 * layer);
    assert_eq!(config.ropes[0].inv_freq.len(), 32);
    assert!(config.attention.gated && config.attention.qk_norm == QkNorm::Head);
    let MlpConfig::Experts(experts) = config.layers[0].mlp else {
        panic!("all layers have experts");
    };
    assert_eq!(
        (experts.count, experts.top_k, experts.shared),
        (512, 10, Some(512))
    );
    assert!(experts.renormalize);

    let usual = qwen3_next(json!({"full_attention_interval": null})).unwrap();
    assert_eq!(attending(&usual), attending(&config));
    let kinds = json!(["full_attention", "linear_attention"]);
    let listed = json!({"num_hidden_layers": 2, "layer_types": kinds});
    assert_eq!(attending(&qwen3_next(listed).unwrap()), [0]);
    let chosen = json!({"norm_topk_prob": null, "num_hidden_layers": 1});
    let MlpConfig::Experts(experts) = qwen3_next(chosen).unwrap().layers[0].mlp else {
        panic!("all layers have experts");
    };
    assert!(!experts.renormalize);
}

#[test]
fn qwen3_5_is_found_within_a_larger_model() {
    let config = qwen3_5(json!({})).unwrap();
    assert_eq!(
        (config.family.as_str(), config.prefix),
        ("qwen3_5_text", "language_model.")
    );
    assert_eq!(attending(&config), [3]);
    let OperatorConfig::Delta(net) = config.layers[0].operator else {
        panic!("layer 0 is a delta net");
    };
    assert!(!net.fused);
    assert_eq!(config.ropes[0].inv_freq.len(), 32);
    assert_eq!(config.tied_embeddings, Some(true));
    let bits = |name| config.quantizations.of(name).map(Quantization::bits);
    assert_eq!(bits("language_model.model.layers.0.mlp.gate"), Some(8));
    assert_eq!(bits("language_model.model.layers.1.mlp.gate"), Some(4));

    // A quarter is the default, and what the rope says goes first.
    let rope = |parameters: Value, beside: Value| {
        let changes = json!({"rope_parameters": parameters, "partial_rotary_factor": beside});
        qwen3_5(changes).unwrap().ropes[0].inv_freq.len()
    };
    let theta = json!({"rope_theta": 1e7});
    assert_eq!(rope(theta.clone(), json!(null)), 32);
    assert_eq!(rope(theta, json!(0.5)), 64);
    let mrope = json!({"rope_theta": 1e7, "type": "mrope", "partial_rotary_factor": 0.125});
    assert_eq!(rope(mrope, json!(0.5)), 16);

    // As mlx-lm writes a model that has no other part.
    let mut flat = qwen3();
    let more = json!({
        "model_type": "qwen3_5_moe", "num_hidden_layers": 1, "full_attention_interval": 1,
        "intermediate_size": null, "num_experts": 8, "num_experts_per_tok": 2,
        "moe_intermediate_size": 96, "shared_expert_intermediate_size": 64
    });
    let object = flat.as_object_mut().unwrap();
    object.extend(more.as_object().unwrap().clone());
    let flat = DecoderConfig::parse(&flat.to_string()).unwrap();
    assert_eq!(
        (flat.family.as_str(), flat.prefix),
        ("qwen3_5_moe_text", "language_model.")
    );
    let MlpConfig::Experts(experts) = flat.layers[0].mlp else {
        panic!("all layers have experts");
    };
    assert!(experts.renormalize && experts.shared == Some(64));
}

#[test]
fn short_convolutions_are_in_the_layers_that_do_not_attend() {
    let config = lfm2(json!({})).unwrap();
    assert_eq!(attending(&config), [2, 5, 8, 10, 12, 14]);
    let conv = ConvConfig {
        kernel: 3,
        bias: false,
    };
    assert_eq!(config.layers[0].operator, OperatorConfig::Conv(conv));
    assert_eq!(config.state_bytes(2), 10 * 2 * 2048 * 2);
    assert_eq!((config.head_dim, config.norm_eps), (64, 1e-5));
    assert_eq!(config.names.last_norm, "model.embedding_norm");
    let width = |changes: Value| match lfm2(changes).unwrap().layers[0].mlp {
        MlpConfig::Gated(gated) => gated.width,
        MlpConfig::Experts(_) => panic!("LFM2 has no experts"),
    };
    assert_eq!(width(json!({})), 8192);
    // LFM2-350M: two thirds are 4437, and 18 times 256 is next.
    assert_eq!(width(json!({"block_ff_dim": 6656})), 4608);
    let odd = json!({"block_ff_dim": 100, "block_ffn_dim_multiplier": 1.3, "block_multiple_of": 8});
    assert_eq!(width(odd), 88); // 66, then 85.8
    let plain = json!({
        "block_auto_adjust_ff_dim": false, "block_ff_dim": null, "intermediate_size": 10752
    });
    assert_eq!(width(plain), 10752);
    let listed = json!({
        "num_hidden_layers": 3, "full_attn_idxs": null,
        "layer_types": ["conv", "full_attention", "conv"]
    });
    assert_eq!(attending(&lfm2(listed).unwrap()), [1]);
}

#[test]
fn operators_that_cannot_be_made_are_refused_with_the_key() {
    type Make = fn(Value) -> Result<DecoderConfig, ConfigError>;
    let cases: [(Make, Value, &str); 13] = [
        (
            qwen3_next,
            json!({"linear_num_key_heads": null}),
            "linear_num_key_heads",
        ),
        (
            qwen3_next,
            json!({"linear_num_value_heads": 40}),
            "40 heads of values",
        ),
        (
            qwen3_next,
            json!({"linear_conv_kernel_dim": 0}),
            "linear_conv_kernel_dim is 0",
        ),
        (
            qwen3_next,
            json!({"linear_value_head_dim": 0}),
            "linear_value_head_dim is 0",
        ),
        (
            qwen3_next,
            json!({"layer_types": ["full_attention"]}),
            "layer 1",
        ),
        (
            qwen3_next,
            json!({"layer_types": ["conv"]}),
            "layer type is conv",
        ),
        (
            qwen3_next,
            json!({"use_sliding_window": true}),
            "use_sliding_window",
        ),
        (
            qwen3_5,
            json!({"attn_output_gate": false}),
            "attn_output_gate",
        ),
        (
            qwen3_5,
            json!({"intermediate_size": null}),
            "intermediate_size",
        ),
        (qwen3_5, json!({"rms_norm_eps": null}), "rms_norm_eps"),
        (lfm2, json!({"conv_L_cache": null}), "conv_L_cache"),
        (lfm2, json!({"full_attn_idxs": null}), "layer_types"),
        (lfm2, json!({"num_experts": 8}), "num_local_experts is 8"),
    ];
    for (make, changes, named) in cases {
        let error = make(changes.clone()).expect_err(&changes.to_string());
        let error = error.to_string();
        assert!(error.contains(named), "{changes}: {error}");
    }
}
