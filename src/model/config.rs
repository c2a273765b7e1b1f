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
    /// What the weights of its parts are called.
    pub names: Names,
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
    /// What the names of matrices end in that mlx-lm quantizes to 8 bits
    /// however few the others get.
    pub eight_bits: &'static [&'static str],
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
    /// Whether each head has a gate, whose rows follow its query's.
    pub gated: bool,
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

/// What the weights of parts are called that not all families call the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// The last norm.
    pub last_norm: &'static str,
    /// The norm before a layer's operator.
    pub operator_norm: &'static str,
    /// The norm before its MLP, where that has none behind it.
    pub mlp_norm: &'static str,
    /// The norms of queries and keys.
    pub qk_norms: [&'static str; 2],
    /// Attention's output projection.
    pub output: &'static str,
    /// The MLP.
    pub mlp: &'static str,
    /// Its gate, up and down projection.
    pub projections: [&'static str; 3],
}

/// What is particular to a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerConfig {
    /// What takes a sequence's tokens together.
    pub operator: OperatorConfig,
    /// What follows it.
    pub mlp: MlpConfig,
}

/// What takes a sequence's tokens together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OperatorConfig {
    /// Attention, over keys and values.
    Attention {
        /// How many positions it sees; `None` is all.
        window: Option<usize>,
        /// Which of [`DecoderConfig::ropes`] rotates its queries and keys;
        /// `None` is none.
        rope: Option<usize>,
    },
    /// A gated delta net, over a state.
    Delta(DeltaConfig),
    /// A gated short convolution, over the last few tokens.
    Conv(ConvConfig),
}

/// A gated delta net.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaConfig {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values; `key_heads` divides it.
    pub value_heads: usize,
    /// Width of a query or key.
    pub key_dim: usize,
    /// Width of a value.
    pub value_dim: usize,
    /// Tokens its convolution sees.
    pub kernel: usize,
    /// Whether its projections are stored as two matrices, key head by key
    /// head.
    pub fused: bool,
}

impl DeltaConfig {
    /// Width of all queries, which is that of all keys.
    pub fn keys(&self) -> usize {
        self.key_heads * self.key_dim
    }

    /// Width of all values.
    pub fn values(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Width of what the convolution goes over: queries, keys and values.
    pub fn channels(&self) -> usize {
        2 * self.keys() + self.values()
    }
}

/// A gated short convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvConfig {
    /// Tokens it sees.
    pub kernel: usize,
    /// Whether it and its projections have biases.
    pub bias: bool,
}

/// What follows a layer's operator.
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

    /// Layers with keys and values.
    pub(super) fn kv_layers(&self) -> usize {
        let attention =
            |layer: &&LayerConfig| matches!(layer.operator, OperatorConfig::Attention { .. });
        self.layers.iter().filter(attention).count()
    }

    /// Bytes of what a sequence carries beside keys and values: activations,
    /// whose elements take `element` bytes, and in delta nets numbers of f32.
    pub(super) fn state_bytes(&self, element: usize) -> usize {
        let of = |layer: &LayerConfig| match layer.operator {
            OperatorConfig::Attention { .. } => 0,
            OperatorConfig::Delta(delta) => {
                let rows = (delta.kernel - 1) * delta.channels() * element;
                rows + delta.values() * delta.key_dim * size_of::<f32>()
            }
            OperatorConfig::Conv(conv) => (conv.kernel - 1) * self.hidden_size * element,
        };
        self.layers.iter().map(of).sum()
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
        let operators = self.layers.iter().flat_map(|layer| match layer.operator {
            OperatorConfig::Attention { .. } => Vec::new(),
            OperatorConfig::Delta(delta) => vec![
                ("linear_num_key_heads", delta.key_heads),
                ("linear_num_value_heads", delta.value_heads),
                ("linear_key_head_dim", delta.key_dim),
                ("linear_value_head_dim", delta.value_dim),
                ("linear_conv_kernel_dim", delta.kernel),
            ],
            OperatorConfig::Conv(conv) => vec![("conv_L_cache", conv.kernel)],
        });
        let mut all = positive.into_iter().chain(widths).chain(operators);
        if let Some((key, _)) = all.find(|(_, n)| *n == 0) {
            return Err(ConfigError::Invalid(format!("{key} is 0")));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(ConfigError::Invalid(format!(
                "{} attention heads do not share {} key-value heads evenly",
                self.heads, self.kv_heads
            )));
        }
        for layer in &self.layers {
            if let OperatorConfig::Delta(delta) = layer.operator
                && !delta.value_heads.is_multiple_of(delta.key_heads)
            {
                return Err(ConfigError::Invalid(format!(
                    "{} heads of values do not share {} heads of keys evenly \
                     (linear_num_value_heads, linear_num_key_heads)",
                    delta.value_heads, delta.key_heads
                )));
            }
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
