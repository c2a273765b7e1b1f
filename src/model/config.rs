//! What a model's `config.json` says of its decoder. Knows no tensors.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::files::{FilesError, ModelFiles};
use super::quantization::Quantizations;

/// What sets the families apart, by the `model_type` they have.
const FAMILIES: [(&str, Family); 4] = [
    ("llama", Family::LLAMA),
    (
        "mistral",
        Family {
            windows: Windows::All,
            ..Family::LLAMA
        },
    ),
    (
        "qwen3",
        Family {
            qk_norm: true,
            windows: Windows::None,
            ..Family::LLAMA
        },
    ),
    (
        "qwen3_moe",
        Family {
            qk_norm: true,
            windows: Windows::None,
            experts: true,
        },
    ),
];

/// A family: a way to fill in a [`DecoderConfig`], not code.
#[derive(Clone, Copy)]
struct Family {
    /// Whether queries and keys are normed by head.
    qk_norm: bool,
    /// What `sliding_window` means.
    windows: Windows,
    /// Whether layers may have experts.
    experts: bool,
}

/// Which layers `sliding_window` is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Windows {
    /// None; one that asks for it is refused.
    None,
    /// Those that `layer_types` names.
    ByType,
    /// Those that `layer_types` names, or all.
    All,
}

impl Family {
    const LLAMA: Self = Self {
        qk_norm: false,
        windows: Windows::ByType,
        experts: false,
    };
}

/// The names of the families.
fn families() -> String {
    FAMILIES.map(|(name, _)| name).join(", ")
}

/// A decoder, described.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// `model_type`.
    pub family: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP of layers without experts.
    pub intermediate_size: usize,
    /// What is particular to each layer.
    pub layers: Vec<LayerConfig>,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocabulary_size: usize,
    /// Positions the model was made for.
    pub context_length: usize,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether queries and keys are normed by head.
    pub qk_norm: bool,
    /// Whether the output projection is the embedding.
    pub tied_embeddings: bool,
    /// How matrices are quantized unless they are stored unquantized.
    pub quantizations: Quantizations,
}

/// What is particular to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// How many positions its attention sees; `None` is all.
    pub window: Option<usize>,
    /// Its experts, if it has any in place of one MLP.
    pub experts: Option<ExpertsConfig>,
}

/// The experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertsConfig {
    /// How many there are.
    pub count: usize,
    /// How many a token is sent to.
    pub top_k: usize,
    /// Whether the chosen ones' weights are made to add up to 1.
    pub renormalize: bool,
    /// Width of an expert's MLP.
    pub intermediate_size: usize,
}

/// A configuration this program cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be had.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The file is missing.
    #[error("the model has no config.json")]
    Missing,
    /// Not JSON, or a field is missing or of the wrong type.
    #[error("the model's config.json cannot be read: {0}")]
    Invalid(String),
    /// A family nobody taught this program.
    #[error("models of type \"{0}\" are not supported; supported are: {list}", list = families())]
    UnknownFamily(String),
    /// A feature of a known family that is not there.
    #[error("the model's {key} is {value}, which is not supported; supported is {supported}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// What it says.
        value: String,
        /// What would be fine.
        supported: &'static str,
    },
}

/// The fields of `config.json` as written.
#[derive(Deserialize)]
struct File {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    rope_theta: Option<f64>,
    rope_scaling: Option<Map<String, Value>>,
    /// Where transformers 5 writes what the two before held.
    rope_parameters: Option<Map<String, Value>>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    sliding_window: Option<usize>,
    layer_types: Option<Vec<String>>,
    #[serde(default)]
    num_experts: usize,
    #[serde(default)]
    num_experts_per_tok: usize,
    #[serde(default)]
    norm_topk_prob: bool,
    moe_intermediate_size: Option<usize>,
    decoder_sparse_step: Option<usize>,
    #[serde(default)]
    mlp_only_layers: Vec<usize>,
    hidden_act: Option<String>,
    quantization: Option<Map<String, Value>>,
    quantization_config: Option<Map<String, Value>>,
}

impl DecoderConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// If it is missing, damaged, or describes what this program cannot run.
    pub fn load(files: &ModelFiles) -> Result<Self, ConfigError> {
        let text = files.text("config.json")?.ok_or(ConfigError::Missing)?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, ConfigError> {
        let invalid = |error: serde_json::Error| ConfigError::Invalid(error.to_string());
        let value: Value = serde_json::from_str(text).map_err(invalid)?;
        let Some(name) = value.get("model_type").and_then(Value::as_str) else {
            return Err(ConfigError::Invalid("it has no model_type".to_owned()));
        };
        let Some(&(name, family)) = FAMILIES.iter().find(|(known, _)| *known == name) else {
            return Err(ConfigError::UnknownFamily(name.to_owned()));
        };
        let file: File = serde_json::from_value(value).map_err(invalid)?;
        file.check(family)?;
        let config = Self {
            rope_theta: file.rope_theta()?,
            quantizations: file.quantizations()?,
            layers: file.layers(family)?,
            family: name.to_owned(),
            hidden_size: file.hidden_size,
            intermediate_size: file.intermediate_size,
            heads: file.num_attention_heads,
            kv_heads: file.num_key_value_heads.unwrap_or(file.num_attention_heads),
            head_dim: file
                .head_dim
                .unwrap_or(file.hidden_size / file.num_attention_heads.max(1)),
            vocabulary_size: file.vocab_size,
            context_length: file.max_position_embeddings,
            norm_eps: file.rms_norm_eps,
            qk_norm: family.qk_norm,
            tied_embeddings: file.tie_word_embeddings,
        };
        config.check()?;
        Ok(config)
    }

    /// Every number that something is divided by or counted with is usable.
    fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.layers.len()),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocabulary_size),
            ("max_position_embeddings", self.context_length),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::Invalid(format!("{key} is 0")));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(ConfigError::Invalid(format!(
                "{} attention heads do not share {} key-value heads evenly",
                self.heads, self.kv_heads
            )));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(ConfigError::Invalid(format!(
                "head_dim is odd: {}",
                self.head_dim
            )));
        }
        Ok(())
    }
}

impl File {
    /// Refuses features that would silently change what the model computes.
    fn check(&self, family: Family) -> Result<(), ConfigError> {
        let unsupported = |key, value: &dyn ToString, supported| {
            Err(ConfigError::Unsupported {
                key,
                value: value.to_string(),
                supported,
            })
        };
        if self.attention_bias {
            return unsupported("attention_bias", &true, "false");
        }
        if self.mlp_bias {
            return unsupported("mlp_bias", &true, "false");
        }
        if self.use_sliding_window && family.windows == Windows::None {
            return unsupported("use_sliding_window", &true, "false");
        }
        match self.hidden_act.as_deref() {
            None | Some("silu" | "swish") => {}
            Some(other) => return unsupported("hidden_act", &other, "silu"),
        }
        for parameters in [&self.rope_scaling, &self.rope_parameters]
            .into_iter()
            .flatten()
        {
            let kind = parameters
                .get("rope_type")
                .or_else(|| parameters.get("type"))
                .and_then(Value::as_str);
            match kind {
                None | Some("default") => {}
                Some(other) => return unsupported("rope type", &other, "default"),
            }
        }
        Ok(())
    }

    fn rope_theta(&self) -> Result<f64, ConfigError> {
        let nested = || self.rope_parameters.as_ref()?.get("rope_theta")?.as_f64();
        match self.rope_theta.or_else(nested) {
            Some(theta) if theta > 0.0 => Ok(theta),
            Some(theta) => Err(ConfigError::Invalid(format!("rope_theta is {theta}"))),
            None => Err(ConfigError::Invalid("it has no rope_theta".to_owned())),
        }
    }

    fn quantizations(&self) -> Result<Quantizations, ConfigError> {
        let written = self
            .quantization
            .as_ref()
            .or(self.quantization_config.as_ref());
        written.map_or(Ok(Quantizations::default()), Quantizations::parse)
    }

    fn layers(&self, family: Family) -> Result<Vec<LayerConfig>, ConfigError> {
        let experts = match family.experts && self.num_experts > 0 {
            true => Some(self.experts()?),
            false => None,
        };
        let step = self.decoder_sparse_step.unwrap_or(1).max(1);
        (0..self.num_hidden_layers)
            .map(|layer| {
                let sparse =
                    !self.mlp_only_layers.contains(&layer) && (layer + 1).is_multiple_of(step);
                Ok(LayerConfig {
                    window: self.window(family, layer)?,
                    experts: experts.filter(|_| sparse),
                })
            })
            .collect()
    }

    fn experts(&self) -> Result<ExpertsConfig, ConfigError> {
        let top_k = self.num_experts_per_tok;
        if top_k == 0 || top_k > self.num_experts {
            return Err(ConfigError::Invalid(format!(
                "num_experts_per_tok is {top_k} of {} experts",
                self.num_experts
            )));
        }
        match self.moe_intermediate_size {
            Some(intermediate_size) if intermediate_size > 0 => Ok(ExpertsConfig {
                count: self.num_experts,
                top_k,
                renormalize: self.norm_topk_prob,
                intermediate_size,
            }),
            _ => Err(ConfigError::Invalid(
                "it has no moe_intermediate_size".to_owned(),
            )),
        }
    }

    /// The window of a layer.
    fn window(&self, family: Family, layer: usize) -> Result<Option<usize>, ConfigError> {
        let slides = match (family.windows, &self.layer_types) {
            (Windows::None, _) | (Windows::ByType, None) => false,
            (Windows::All, None) => self.sliding_window.is_some(),
            (_, Some(types)) => match types.get(layer).map(String::as_str) {
                Some("sliding_attention") => true,
                Some("full_attention") => false,
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
        match self.sliding_window {
            _ if !slides => Ok(None),
            Some(window) if window > 0 => Ok(Some(window)),
            other => Err(ConfigError::Invalid(format!(
                "sliding_window is {}",
                other.map_or("missing".to_owned(), |window| window.to_string())
            ))),
        }
    }
}

/// The ids that end a turn: those that `generation_config.json` and
/// `config.json` list, and the one `tokenizer_config.json` names, whose id
/// `token_id` knows. Models are published with any of the three left behind.
///
/// # Errors
/// If one of the files is there and cannot be read.
pub fn end_of_sequence_ids(
    files: &ModelFiles,
    token_id: impl Fn(&str) -> Option<u32>,
) -> Result<Vec<u32>, ConfigError> {
    let mut ids: Vec<u32> = Vec::new();
    for name in [
        "generation_config.json",
        "config.json",
        "tokenizer_config.json",
    ] {
        let Some(text) = files.text(name)? else {
            continue;
        };
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| ConfigError::Invalid(format!("{name}: {error}")))?;
        let named = value["eos_token"]
            .as_str()
            .or_else(|| value["eos_token"]["content"].as_str());
        ids.extend(named.and_then(&token_id));
        let listed = match &value["eos_token_id"] {
            Value::Array(ids) => ids.as_slice(),
            other => std::slice::from_ref(other),
        };
        ids.extend(
            listed
                .iter()
                .filter_map(Value::as_u64)
                .filter_map(|id| u32::try_from(id).ok()),
        );
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

#[cfg(test)]
mod tests;
