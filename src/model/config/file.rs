//! The fields of `config.json` as written, and what they come to for a family.

mod layers;

use half::bf16;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::families::{self, Biases, EmbeddingScale, Family, Windows};
use super::{AttentionConfig, ConfigError, DecoderConfig};
use crate::backend::Activation;
use crate::model::quantization::Quantizations;

/// A configuration as written, and its family.
pub(super) struct File {
    fields: Fields,
    name: String,
    prefix: &'static str,
    family: Family,
}

#[derive(Deserialize)]
struct Fields {
    hidden_size: usize,
    intermediate_size: Option<usize>,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    original_max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f32>,
    norm_eps: Option<f32>,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    rope_scaling: Option<Map<String, Value>>,
    /// Where transformers 5 writes what stands above, for all layers or by
    /// the type of the layer.
    rope_parameters: Option<Map<String, Value>>,
    partial_rotary_factor: Option<f64>,
    position_embedding_type: Option<String>,
    no_rope_layers: Option<Vec<usize>>,
    no_rope_layer_interval: Option<usize>,
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    attention_multiplier: Option<f32>,
    query_pre_attn_scalar: Option<f32>,
    attn_logit_softcapping: Option<f32>,
    embedding_multiplier: Option<f32>,
    residual_multiplier: Option<f32>,
    logits_scaling: Option<f32>,
    final_logit_softcapping: Option<f32>,
    #[serde(default)]
    use_sliding_window: bool,
    sliding_window: Option<usize>,
    #[serde(alias = "_sliding_window_pattern")]
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
    num_experts: Option<usize>,
    num_local_experts: Option<usize>,
    #[serde(default)]
    num_experts_per_tok: usize,
    norm_topk_prob: Option<bool>,
    moe_intermediate_size: Option<usize>,
    shared_expert_intermediate_size: Option<usize>,
    decoder_sparse_step: Option<usize>,
    #[serde(default)]
    mlp_only_layers: Vec<usize>,
    full_attention_interval: Option<usize>,
    attn_output_gate: Option<bool>,
    linear_num_key_heads: Option<usize>,
    linear_num_value_heads: Option<usize>,
    linear_key_head_dim: Option<usize>,
    linear_value_head_dim: Option<usize>,
    linear_conv_kernel_dim: Option<usize>,
    full_attn_idxs: Option<Vec<usize>>,
    #[serde(rename = "conv_L_cache")]
    conv_l_cache: Option<usize>,
    #[serde(default)]
    conv_bias: bool,
    block_ff_dim: Option<usize>,
    #[serde(default)]
    block_auto_adjust_ff_dim: bool,
    block_ffn_dim_multiplier: Option<f64>,
    block_multiple_of: Option<usize>,
    hidden_act: Option<String>,
    quantization: Option<Map<String, Value>>,
    quantization_config: Option<Map<String, Value>>,
}

/// Keys that stand beside a `text_config` and are for it.
const SHARED: [&str; 4] = [
    "quantization",
    "quantization_config",
    "tie_word_embeddings",
    "vocab_size",
];

fn missing(key: &str) -> ConfigError {
    ConfigError::Invalid(format!("it has no {key}"))
}

impl File {
    /// Reads the fields and finds the family.
    pub(super) fn read(value: Value) -> Result<Self, ConfigError> {
        let Value::Object(mut object) = value else {
            return Err(ConfigError::Invalid("it is not an object".to_owned()));
        };
        let type_of = |object: &Map<String, Value>| {
            let name = object.get("model_type").and_then(Value::as_str);
            name.map(str::to_owned)
        };
        let Some(mut name) = type_of(&object) else {
            return Err(ConfigError::Invalid("it has no model_type".to_owned()));
        };
        let mut prefix = "";
        if let Some(usual) = families::nested(&name) {
            prefix = "language_model.";
            name = usual.to_owned();
            // mlx-lm writes Qwen3.5 without one too.
            if let Some(Value::Object(mut inner)) = object.remove("text_config") {
                for key in SHARED {
                    if let Some(value) = object.remove(key) {
                        inner.entry(key).or_insert(value);
                    }
                }
                name = type_of(&inner).unwrap_or(name);
                object = inner;
            }
        }
        let Some(family) = families::find(&name) else {
            return Err(ConfigError::UnknownFamily(name));
        };
        for (key, number) in family.defaults {
            object
                .entry(*key)
                .or_insert_with(|| match number.fract() == 0.0 {
                    true => Value::from(*number as u64),
                    false => Value::from(*number),
                });
        }
        let fields = serde_json::from_value(Value::Object(object))
            .map_err(|error| ConfigError::Invalid(error.to_string()))?;
        Ok(Self {
            fields,
            name,
            prefix,
            family,
        })
    }

    /// The decoder that the file describes.
    pub(super) fn describe(self) -> Result<DecoderConfig, ConfigError> {
        self.check()?;
        let (fields, family) = (&self.fields, self.family);
        let heads = fields.num_attention_heads;
        let head_dim = fields.head_dim.unwrap_or(fields.hidden_size / heads.max(1));
        let (ropes, layers) = self.layers(head_dim)?;
        let scale = match (fields.attention_multiplier, fields.query_pre_attn_scalar) {
            (Some(multiplier), _) => multiplier,
            (None, Some(scalar)) => scalar.powf(-0.5),
            (None, None) => (head_dim as f32).powf(-0.5),
        };
        let attention = AttentionConfig {
            scale,
            softcap: fields.attn_logit_softcapping,
            qk_norm: family.qk_norm,
            qkv_bias: match family.biases {
                Biases::AsWritten => fields.attention_bias,
                Biases::QueryKeyValue | Biases::All => true,
            },
            output_bias: match family.biases {
                Biases::AsWritten => fields.attention_bias,
                Biases::QueryKeyValue => false,
                Biases::All => true,
            },
            fused: family.fused,
            sinks: family.sinks,
            gated: family.output_gate,
        };
        let Some(norm_eps) = fields.rms_norm_eps.or(fields.norm_eps) else {
            return Err(missing("rms_norm_eps"));
        };
        let root = (fields.hidden_size as f32).sqrt();
        Ok(DecoderConfig {
            prefix: self.prefix,
            hidden_size: fields.hidden_size,
            heads,
            kv_heads: fields.num_key_value_heads.unwrap_or(heads),
            head_dim,
            vocabulary_size: fields.vocab_size,
            context_length: fields.max_position_embeddings,
            attention,
            norms: family.norms,
            names: family.names,
            norm_eps,
            norm_offset: family.norm_offset,
            ropes,
            layers,
            embedding_scale: match family.embedding_scale {
                EmbeddingScale::AsWritten => fields.embedding_multiplier.unwrap_or(1.0),
                EmbeddingScale::Root => root,
                EmbeddingScale::RoundedRoot => bf16::from_f32(root).to_f32(),
            },
            residual_scale: fields.residual_multiplier.unwrap_or(1.0),
            logits_scale: fields.logits_scaling.map_or(1.0, f32::recip),
            logits_softcap: fields.final_logit_softcapping,
            tied_embeddings: fields
                .tie_word_embeddings
                .filter(|_| !family.stored_output_counts),
            quantizations: self.quantizations()?,
            eight_bits: family.eight_bits,
            family: self.name,
        })
    }

    /// Refuses features that would silently change what the model computes.
    fn check(&self) -> Result<(), ConfigError> {
        let unsupported = |key, value: &dyn ToString, supported| {
            Err(ConfigError::Unsupported {
                key,
                value: value.to_string(),
                supported,
            })
        };
        let fields = &self.fields;
        if fields.use_sliding_window && self.family.windows == Windows::None {
            return unsupported("use_sliding_window", &true, "false");
        }
        if self.family.output_gate && fields.attn_output_gate == Some(false) {
            return unsupported("attn_output_gate", &false, "true");
        }
        let experts = fields.num_local_experts.or(fields.num_experts);
        if self.family.experts.is_none() && experts.is_some_and(|count| count > 0) {
            return unsupported("num_local_experts", &experts.unwrap_or(0), "0");
        }
        let (fits, supported) = match self.family.activation {
            Activation::Silu | Activation::ClampedSilu => (["silu", "swish"].as_slice(), "silu"),
            // Gemma's first configurations say gelu and mean the other one.
            Activation::GeluTanh => (
                ["gelu_pytorch_tanh", "gelu_new", "gelu"].as_slice(),
                "gelu_pytorch_tanh",
            ),
        };
        match fields.hidden_act.as_deref() {
            Some(other) if !fits.contains(&other) => unsupported("hidden_act", &other, supported),
            _ => Ok(()),
        }
    }

    fn quantizations(&self) -> Result<Quantizations, ConfigError> {
        let fields = &self.fields;
        let written = fields
            .quantization
            .as_ref()
            .or(fields.quantization_config.as_ref());
        written.map_or(Ok(Quantizations::default()), Quantizations::parse)
    }
}
