//! What a model's `config.json` says of its decoder. Knows no tensors.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::files::{FilesError, ModelFiles};

/// The families this program runs, by the `model_type` they have.
const FAMILIES: [&str; 1] = ["qwen3"];

/// A decoder, described. A family is a way to fill this in, not code.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// `model_type`.
    pub family: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
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
    pub quantization: Option<Quantization>,
}

/// MLX's affine quantization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantization {
    /// Weights that share a scale and a bias.
    pub group_size: usize,
    /// Bits of a weight.
    pub bits: usize,
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
    #[error("models of type \"{0}\" are not supported; supported are: {list}", list = FAMILIES.join(", "))]
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
    use_sliding_window: bool,
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
        let family = match value.get("model_type").and_then(Value::as_str) {
            Some(family) if FAMILIES.contains(&family) => family.to_owned(),
            Some(other) => return Err(ConfigError::UnknownFamily(other.to_owned())),
            None => return Err(ConfigError::Invalid("it has no model_type".to_owned())),
        };
        let file: File = serde_json::from_value(value).map_err(invalid)?;
        file.check()?;
        let config = Self {
            rope_theta: file.rope_theta()?,
            quantization: file.quantization()?,
            family,
            hidden_size: file.hidden_size,
            intermediate_size: file.intermediate_size,
            layers: file.num_hidden_layers,
            heads: file.num_attention_heads,
            kv_heads: file.num_key_value_heads.unwrap_or(file.num_attention_heads),
            head_dim: file
                .head_dim
                .unwrap_or(file.hidden_size / file.num_attention_heads.max(1)),
            vocabulary_size: file.vocab_size,
            context_length: file.max_position_embeddings,
            norm_eps: file.rms_norm_eps,
            qk_norm: true,
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
            ("num_hidden_layers", self.layers),
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
    fn check(&self) -> Result<(), ConfigError> {
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
        if self.use_sliding_window {
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

    fn quantization(&self) -> Result<Option<Quantization>, ConfigError> {
        let Some(written) = self
            .quantization
            .as_ref()
            .or(self.quantization_config.as_ref())
        else {
            return Ok(None);
        };
        let unsupported = |value: String| ConfigError::Unsupported {
            key: "quantization",
            value,
            supported: "MLX's affine one, of 4 or 8 bits in groups of 32, 64 or 128",
        };
        if let Some(mode) = written.get("mode").and_then(Value::as_str)
            && mode != "affine"
        {
            return Err(unsupported(mode.to_owned()));
        }
        // Other makers' quantizations share the key but not MLX's two fields.
        let field = |key| written.get(key).and_then(Value::as_u64);
        let (Some(group_size), Some(bits)) = (field("group_size"), field("bits")) else {
            let method = written.get("quant_method").and_then(Value::as_str);
            return Err(unsupported(
                method.unwrap_or("of an unknown kind").to_owned(),
            ));
        };
        if !matches!(bits, 4 | 8) || !matches!(group_size, 32 | 64 | 128) {
            return Err(unsupported(format!(
                "{bits} bits in groups of {group_size}"
            )));
        }
        if let Some((layer, _)) = written.iter().find(|(_, value)| value.is_object()) {
            return Err(unsupported(format!("of its own kind for {layer}")));
        }
        Ok(Some(Quantization {
            group_size: group_size as usize,
            bits: bits as usize,
        }))
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
