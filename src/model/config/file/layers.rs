//! What the fields of `config.json` come to for each layer: its operator, its
//! rope, its MLP.

use serde_json::{Map, Value};

use super::{File, missing};
use crate::model::config::families::{Operators, Renormalize, Ropes, Windows};
use crate::model::config::{
    ConfigError, ConvConfig, DeltaConfig, ExpertsConfig, GatedConfig, LayerConfig, MlpConfig,
    OperatorConfig,
};
use crate::model::rope::{Rope, RopeSettings};

impl File {
    /// The ropes, and the layers that choose from them.
    pub(super) fn layers(
        &self,
        head_dim: usize,
    ) -> Result<(Vec<Rope>, Vec<LayerConfig>), ConfigError> {
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
        let step = fields.decoder_sparse_step.unwrap_or(1).max(1);
        let sparse = |layer: usize| {
            experts.filter(|_| {
                !fields.mlp_only_layers.contains(&layer) && (layer + 1).is_multiple_of(step)
            })
        };
        let gated = |width| GatedConfig {
            width,
            activation: self.family.activation,
            bias: fields.mlp_bias,
            fused: self.family.fused,
        };
        let layer = |layer: usize| {
            Ok(LayerConfig {
                operator: self.operator(layer, place_of_local)?,
                mlp: match sparse(layer) {
                    Some(experts) => MlpConfig::Experts(experts),
                    None => MlpConfig::Gated(gated(self.mlp_width()?)),
                },
            })
        };
        let layers = (0..count).map(layer).collect::<Result<_, ConfigError>>()?;
        Ok((ropes, layers))
    }

    /// What takes a sequence's tokens together in a layer, where windows
    /// have the rope in place `local`.
    fn operator(&self, layer: usize, local: usize) -> Result<OperatorConfig, ConfigError> {
        let attention = |window: Option<usize>| OperatorConfig::Attention {
            window,
            rope: self
                .rotates(layer)
                .then_some(if window.is_some() { local } else { 0 }),
        };
        let fields = &self.fields;
        let attends = |other| match self.layer_type(layer)? {
            "full_attention" => Ok(true),
            kind if kind == other => Ok(false),
            kind => Err(ConfigError::Unsupported {
                key: "layer type",
                value: kind.to_owned(),
                supported: "full_attention, linear_attention in Qwen's, conv in LFM2",
            }),
        };
        let number = |key, value: Option<usize>| value.ok_or_else(|| missing(key));
        match self.family.operators {
            Operators::Attention => Ok(attention(self.window(layer)?)),
            Operators::DeltaNets { fused } => {
                let every = fields.full_attention_interval.unwrap_or(4);
                if match fields.layer_types {
                    Some(_) => attends("linear_attention")?,
                    None => (layer + 1).is_multiple_of(every.max(1)),
                } {
                    return Ok(attention(None));
                }
                Ok(OperatorConfig::Delta(DeltaConfig {
                    key_heads: number("linear_num_key_heads", fields.linear_num_key_heads)?,
                    value_heads: number("linear_num_value_heads", fields.linear_num_value_heads)?,
                    key_dim: number("linear_key_head_dim", fields.linear_key_head_dim)?,
                    value_dim: number("linear_value_head_dim", fields.linear_value_head_dim)?,
                    kernel: number("linear_conv_kernel_dim", fields.linear_conv_kernel_dim)?,
                    fused,
                }))
            }
            Operators::ShortConvs => {
                if match &fields.full_attn_idxs {
                    Some(listed) => listed.contains(&layer),
                    None => attends("conv")?,
                } {
                    return Ok(attention(None));
                }
                Ok(OperatorConfig::Conv(ConvConfig {
                    kernel: number("conv_L_cache", fields.conv_l_cache)?,
                    bias: fields.conv_bias,
                }))
            }
        }
    }

    /// What `layer_types` says of a layer.
    fn layer_type(&self, layer: usize) -> Result<&str, ConfigError> {
        let Some(types) = &self.fields.layer_types else {
            return Err(missing("layer_types"));
        };
        let said = types.get(layer).map(String::as_str);
        said.ok_or_else(|| {
            ConfigError::Invalid(format!("layer_types says nothing of layer {layer}"))
        })
    }

    /// Width of the MLPs that are not experts.
    fn mlp_width(&self) -> Result<usize, ConfigError> {
        let fields = &self.fields;
        let written = fields.block_ff_dim.or(fields.intermediate_size);
        let width = written.ok_or_else(|| missing("intermediate_size"))?;
        if !fields.block_auto_adjust_ff_dim {
            return Ok(width);
        }
        let narrow = 2 * width / 3;
        let wide = match fields.block_ffn_dim_multiplier {
            Some(multiplier) => (multiplier * narrow as f64) as usize,
            None => narrow,
        };
        Ok(wide.next_multiple_of(fields.block_multiple_of.unwrap_or(1).max(1)))
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
            return Err(missing("rope_theta"));
        };
        let partial = in_parameters("partial_rotary_factor").or(fields.partial_rotary_factor);
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
            renormalize: match names.renormalize {
                Renormalize::Always => true,
                Renormalize::IfWritten => fields.norm_topk_prob.unwrap_or(false),
                Renormalize::UnlessWritten => fields.norm_topk_prob.unwrap_or(true),
            },
            width: match fields.moe_intermediate_size {
                Some(width) => width,
                None => self.mlp_width()?,
            },
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
            (_, Some(_)) => match self.layer_type(layer)? {
                "sliding_attention" => true,
                "full_attention" | "attention" => false,
                other => {
                    return Err(ConfigError::Unsupported {
                        key: "layer type",
                        value: other.to_owned(),
                        supported: "full_attention, sliding_attention",
                    });
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
