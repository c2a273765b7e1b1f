//! The fields of `config.json` as written, and what they come to for a family.

use half::bf16;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::families::{self, Biases, EmbeddingScale, Family, Ropes, Windows};
use super::{
    AttentionConfig, ConfigError, DecoderConfig, ExpertsConfig, GatedConfig, LayerConfig, MlpConfig,
};
use crate::backend::Activation;
use crate::model::quantization::Quantizations;
use crate::model::rope::{Rope, RopeSettings};

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
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    original_max_position_embeddings: Option<usize>,
    rms_norm_eps: f32,
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
    #[serde(default)]
    norm_topk_prob: bool,
    moe_intermediate_size: Option<usize>,
    shared_expert_intermediate_size: Option<usize>,
    decoder_sparse_step: Option<usize>,
    #[serde(default)]
    mlp_only_layers: Vec<usize>,
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
        if let Some(usual) = families::nested(&name)
            && let Some(Value::Object(mut inner)) = object.remove("text_config")
        {
            for key in SHARED {
                if let Some(value) = object.remove(key) {
                    inner.entry(key).or_insert(value);
                }
            }
            prefix = "language_model.";
            name = type_of(&inner).unwrap_or_else(|| usual.to_owned());
            object = inner;
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
            norm_eps: fields.rms_norm_eps,
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

    /// The ropes, and the layers that choose from them.
    fn layers(&self, head_dim: usize) -> Result<(Vec<Rope>, Vec<LayerConfig>), ConfigError> {
        let fields = &self.fields;
        let count = fields.num_hidden_layers;
        if let Some(listed) = &fields.no_rope_layers
            && listed.len() != count
        {
            return Err(ConfigError::Invalid(format!(
                "no_rope_layers says something of {} layers, and there are {count}",
                listed.len()
            )));
        }
        let mut ropes = vec![self.rope(head_dim, false)?];
        let local = self.rope(head_dim, true)?;
        let place_of_local = match local == ropes[0] {
            true => 0,
            false => {
                ropes.push(local);
                1
            }
        };
        let experts = match self.family.experts {
            Some(_) => self.experts()?,
            None => None,
        };
        let gated = GatedConfig {
            width: fields.intermediate_size,
            activation: self.family.activation,
            bias: fields.mlp_bias,
            fused: self.family.fused,
        };
        let step = fields.decoder_sparse_step.unwrap_or(1).max(1);
        let layer = |layer: usize| {
            let window = self.window(layer)?;
            let sparse =
                !fields.mlp_only_layers.contains(&layer) && (layer + 1).is_multiple_of(step);
            Ok(LayerConfig {
                window,
                rope: self.rotates(layer).then_some(if window.is_some() {
                    place_of_local
                } else {
                    0
                }),
                mlp: match experts.filter(|_| sparse) {
                    Some(experts) => MlpConfig::Experts(experts),
                    None => MlpConfig::Gated(gated),
                },
            })
        };
        let layers = (0..count).map(layer).collect::<Result<_, ConfigError>>()?;
        Ok((ropes, layers))
    }

    /// Whether a layer is rotated.
    fn rotates(&self, layer: usize) -> bool {
        let fields = &self.fields;
        if fields.position_embedding_type.as_deref() == Some("nope") {
            return false;
        }
        match (&fields.no_rope_layers, self.family.no_rope_every) {
            // 1 is for layers that are.
            (Some(listed), _) => listed.get(layer) != Some(&0),
            (None, Some(every)) => {
                let every = fields.no_rope_layer_interval.unwrap_or(every);
                !(layer + 1).is_multiple_of(every.max(1))
            }
            (None, None) => true,
        }
    }

    /// The rope of layers with windows (`local`), or of the others.
    fn rope(&self, head_dim: usize, local: bool) -> Result<Rope, ConfigError> {
        let fields = &self.fields;
        let own = local && self.family.ropes != Ropes::Alike;
        let kind = match local {
            true => "sliding_attention",
            false => "full_attention",
        };
        let by_type = |map: &Map<String, Value>| map.get(kind).and_then(Value::as_object).cloned();
        let parameters = match &fields.rope_parameters {
            Some(map) if map.values().any(Value::is_object) => by_type(map),
            Some(map) => (!own).then(|| map.clone()),
            None => None,
        };
        let scaling = parameters
            .clone()
            .or_else(|| fields.rope_scaling.clone().filter(|_| !own));
        let in_parameters = |key| parameters.as_ref()?.get(key)?.as_f64();
        let plain = || {
            let shared = || fields.rope_parameters.as_ref()?.get("rope_theta")?.as_f64();
            fields.rope_theta.or_else(shared)
        };
        let theta = match own && self.family.ropes == Ropes::OwnWhereSliding {
            true => in_parameters("rope_theta").or(fields.rope_local_base_freq),
            false => in_parameters("rope_theta").or_else(plain),
        };
        let Some(theta) = theta else {
            return Err(ConfigError::Invalid("it has no rope_theta".to_owned()));
        };
        let partial = fields
            .partial_rotary_factor
            .or_else(|| in_parameters("partial_rotary_factor"));
        Rope::new(RopeSettings {
            theta,
            dims: partial.map_or(head_dim, |part| (head_dim as f64 * part) as usize),
            context_length: fields.max_position_embeddings,
            original_length: fields.original_max_position_embeddings,
            scaling: scaling.as_ref(),
        })
    }

    /// The experts of the layers that have some, if there are any.
    fn experts(&self) -> Result<Option<ExpertsConfig>, ConfigError> {
        let fields = &self.fields;
        let count = fields.num_experts.or(fields.num_local_experts).unwrap_or(0);
        let Some(names) = self.family.experts.filter(|_| count > 0) else {
            return Ok(None);
        };
        let top_k = fields.num_experts_per_tok;
        if top_k == 0 || top_k > count {
            return Err(ConfigError::Invalid(format!(
                "num_experts_per_tok is {top_k} of {count} experts"
            )));
        }
        Ok(Some(ExpertsConfig {
            router: names.router,
            experts: names.experts,
            count,
            top_k,
            renormalize: names.renormalize.unwrap_or(fields.norm_topk_prob),
            width: fields
                .moe_intermediate_size
                .unwrap_or(fields.intermediate_size),
            activation: self.family.activation,
            bias: names.bias,
            shared: fields
                .shared_expert_intermediate_size
                .filter(|width| *width > 0),
        }))
    }

    /// The window of a layer.
    fn window(&self, layer: usize) -> Result<Option<usize>, ConfigError> {
        let fields = &self.fields;
        let slides = match (self.family.windows, &fields.layer_types) {
            (Windows::None, _) | (Windows::ByType, None) => false,
            (Windows::All, None) => fields.sliding_window.is_some(),
            (Windows::AllButEvery(usual), None) => {
                let every = fields.sliding_window_pattern.unwrap_or(usual);
                fields.sliding_window.is_some() && !(layer + 1).is_multiple_of(every.max(1))
            }
            (_, Some(types)) => match types.get(layer).map(String::as_str) {
                Some("sliding_attention") => true,
                Some("full_attention" | "attention") => false,
                Some(other) => {
                    return Err(ConfigError::Unsupported {
                        key: "layer type",
                        value: other.to_owned(),
                        supported: "full_attention, sliding_attention",
                    });
                }
                None => {
                    return Err(ConfigError::Invalid(format!(
                        "layer_types says nothing of layer {layer}"
                    )));
                }
            },
        };
        match fields.sliding_window {
            _ if !slides => Ok(None),
            Some(window) if window > 0 => Ok(Some(window)),
            other => Err(ConfigError::Invalid(format!(
                "sliding_window is {}",
                other.map_or("missing".to_owned(), |window| window.to_string())
            ))),
        }
    }
}
