//! What a model's `config.json` says of its decoder. Knows no tensors.
//!
//! `file` reads the fields, `families` says what sets the families apart, and
//! what comes of both is a [`DecoderConfig`], which says everything the
//! decoder needs and nothing of where it comes from.

mod ends;
mod families;
mod file;

use serde_json::Value;

use super::files::{FilesError, ModelFiles};
use super::quantization::Quantizations;
use super::rope::Rope;
use crate::backend::Activation;
pub use ends::end_of_sequence_ids;
use file::File;

/// A decoder, described.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// `model_type`.
    pub family: String,
    /// What the names of all its weights begin with: nothing, or where the
    /// language model is a part of a larger one.
    pub prefix: &'static str,
    /// Width of the residual stream.
    pub hidden_size: usize,
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
    /// What all layers' attention has in common.
    pub attention: AttentionConfig,
    /// Where the norms of a layer stand.
    pub norms: NormPlacement,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// Added to the stored weights of the norms.
    pub norm_offset: f32,
    /// The rotary embeddings that layers choose from.
    pub ropes: Vec<Rope>,
    /// The embedding is multiplied by it.
    pub embedding_scale: f32,
    /// What a block says is multiplied by it before it is added.
    pub residual_scale: f32,
    /// Logits are multiplied by it.
    pub logits_scale: f32,
    /// Logits `x` then become `cap * tanh(x / cap)`.
    pub logits_softcap: Option<f32>,
    /// Whether the output projection is the embedding; if it is not said, it
    /// is where none is stored.
    pub tied_embeddings: Option<bool>,
    /// How matrices are quantized unless they are stored unquantized.
    pub quantizations: Quantizations,
}

/// What all layers' attention has in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionConfig {
    /// Scores are multiplied by it.
    pub scale: f32,
    /// Scores `s` then become `cap * tanh(s / cap)`.
    pub softcap: Option<f32>,
    /// How queries and keys are normed.
    pub qk_norm: QkNorm,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has one.
    pub output_bias: bool,
    /// Whether queries, keys and values are stored as one matrix.
    pub fused: bool,
    /// Whether each head has a sink.
    pub sinks: bool,
}

/// How queries and keys are normed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// Not at all.
    None,
    /// Each head by itself.
    Head,
    /// All heads together.
    Full,
}

/// Where the norms of a layer stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before attention and before the MLP.
    Before,
    /// Behind each, before what it says is added.
    After,
    /// Both.
    Around,
}

/// What is particular to a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerConfig {
    /// How many positions its attention sees; `None` is all.
    pub window: Option<usize>,
    /// Which of [`DecoderConfig::ropes`] rotates its queries and keys; `None`
    /// is none.
    pub rope: Option<usize>,
    /// What follows attention.
    pub mlp: MlpConfig,
}

/// What follows attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MlpConfig {
    /// One gated MLP.
    Gated(GatedConfig),
    /// Several, of which each token is sent to some.
    Experts(ExpertsConfig),
}

/// A gated MLP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GatedConfig {
    /// Its width.
    pub width: usize,
    /// What the gate goes through.
    pub activation: Activation,
    /// Whether its three products have biases.
    pub bias: bool,
    /// Whether gate and up projection are stored as one matrix.
    pub fused: bool,
}

/// The experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertsConfig {
    /// What the router's weights are called within the layer.
    pub router: &'static str,
    /// What the experts' are called.
    pub experts: &'static str,
    /// How many there are.
    pub count: usize,
    /// How many a token is sent to.
    pub top_k: usize,
    /// Whether the chosen ones' weights are made to add up to 1.
    pub renormalize: bool,
    /// Width of an expert's MLP.
    pub width: usize,
    /// What their gates go through.
    pub activation: Activation,
    /// Whether the router's product and the experts' three have biases.
    pub bias: bool,
    /// Width of the MLP that every token goes through besides, weighed by a
    /// gate of its own.
    pub shared: Option<usize>,
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
    #[error("models of type \"{0}\" are not supported; supported are: {list}", list = families::names())]
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
        let value: Value =
            serde_json::from_str(text).map_err(|error| ConfigError::Invalid(error.to_string()))?;
        let config = File::read(value)?.describe()?;
        config.check()?;
        Ok(config)
    }

    /// Every number that something is divided by or counted with is usable.
    fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.layers.len()),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocabulary_size),
            ("max_position_embeddings", self.context_length),
        ];
        let widths = self.layers.iter().map(|layer| match layer.mlp {
            MlpConfig::Gated(gated) => ("intermediate_size", gated.width),
            MlpConfig::Experts(experts) => ("moe_intermediate_size", experts.width),
        });
        if let Some((key, _)) = positive.into_iter().chain(widths).find(|(_, n)| *n == 0) {
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

#[cfg(test)]
mod tests;
