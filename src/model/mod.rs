//! The model: its files, its tokenizer and the config-driven decoder over
//! [`crate::backend`]. Knows nothing of requests.

mod adapter;
mod config;
mod decoder;
mod describe;
mod evaluation;
mod files;
mod fingerprint;
mod layer;
mod linear;
mod quantization;
mod quantize;
mod rope;
mod rows;
mod sequence;
mod step;
mod tokenizer;
mod weights;

pub use crate::backend::{Draw, Dtype, RawKv, RawTensor, Sampler, ShortList, USUAL_SEQUENCES};
pub use config::{ConfigError, DecoderConfig, end_of_sequence_ids};
pub use describe::{Description, Quantized, describe};
pub use files::{FilesError, ModelFiles};
pub use fingerprint::Fingerprint;
pub use quantize::Quantize;
pub use step::{Input, Logits, Step, Submitted, Tokens};
pub use tokenizer::{Tokenizer, TokenizerError};

use crate::backend::{self, Backend, BackendError, BackendSettings, MemoryUse, WithBackend};
use crate::progress::Progress;
use decoder::Decoder;

/// A loaded model. It lives on one thread, the engine's.
pub trait Model {
    /// What it is.
    fn info(&self) -> &ModelInfo;

    /// Begins a sequence with nothing in its KV cache.
    ///
    /// # Errors
    /// If the backend cannot give it room.
    fn open(&mut self) -> Result<SequenceId, ModelError>;

    /// Begins a sequence with a copy of the first `len` tokens' KV cache of
    /// another, which is left as it is. No token was drawn for the new one.
    /// Where [`ModelInfo::state_bytes`] is not 0, `len` has to be all of the
    /// sequence's tokens or as many as it had at a [`Self::snapshot`].
    ///
    /// # Errors
    /// If there is no such sequence, it has fewer tokens or no snapshot there,
    /// or the backend cannot give the copy room.
    fn fork(&mut self, sequence: SequenceId, len: usize) -> Result<SequenceId, ModelError>;

    /// Makes it possible to fork a sequence where it is now, though it goes
    /// on: keeps a copy of what it carries beside its KV cache, and does
    /// nothing where [`ModelInfo::state_bytes`] is 0. A fork has the
    /// snapshots of the part that it is a copy of.
    ///
    /// # Errors
    /// If there is no such sequence.
    fn snapshot(&mut self, sequence: SequenceId) -> Result<(), ModelError>;

    /// A copy of the first `len` tokens' KV cache of a sequence, that of one
    /// of the [`KvLayout::layers`]. `len` is at least 1.
    ///
    /// # Errors
    /// If there is no such sequence or layer, the sequence has fewer tokens,
    /// [`ModelInfo::state_bytes`] is not 0, or the backend cannot read them.
    fn export(&self, sequence: SequenceId, layer: usize, len: usize) -> Result<RawKv, ModelError>;

    /// Begins a sequence with a KV cache of `len` tokens that [`Self::export`]
    /// gave of each layer in turn. Takes one after the other, so that they need
    /// not all be in memory beside the sequence. No token was drawn for it.
    ///
    /// # Errors
    /// If there are not as many as [`KvLayout::layers`], one is of another
    /// shape than the model's or of a type the backend does not keep, there is
    /// no room for them, or [`ModelInfo::state_bytes`] is not 0.
    fn import(
        &mut self,
        len: usize,
        layers: &mut dyn Iterator<Item = RawKv>,
    ) -> Result<SequenceId, ModelError>;

    /// Ends a sequence and frees its KV cache. An unknown one is ignored.
    fn close(&mut self, sequence: SequenceId);

    /// The memory the backend holds, where it counts it.
    fn memory(&self) -> Option<MemoryUse>;

    /// Sets off a step: the next tokens of several sequences at once, prefill
    /// and decode alike, which are appended to their KV caches. Where
    /// [`ModelInfo::overlaps`], it returns before they are evaluated.
    ///
    /// A sequence may occur once in a step. After an error here or in the
    /// step, the sequences of the step are in no known state and have to be
    /// closed.
    ///
    /// # Errors
    /// If a sequence or a token is unknown, an input is empty, or the backend
    /// fails.
    fn submit(&mut self, batch: &[Input<'_>]) -> Result<Submitted, ModelError>;
}

/// A handle to a sequence of a [`Model`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(u64);

/// What a model is.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// `model_type` in its configuration.
    pub family: String,
    /// What it runs on, for people.
    pub backend: String,
    /// How many of the host's threads compute.
    pub threads: usize,
    /// Weights, counted unpacked.
    pub parameters: u64,
    /// Rows of the output projection.
    pub vocabulary_size: usize,
    /// The most positions the model was made for.
    pub context_length: usize,
    /// Bytes of KV cache a token takes.
    pub kv_bytes_per_token: usize,
    /// Bytes of what a sequence carries beside its KV cache, however long it
    /// is, and of what each of its snapshots keeps. 0 where all of it is in
    /// the KV cache: then it can be forked anywhere.
    pub state_bytes: usize,
    /// What the KV cache is made of.
    pub kv: KvLayout,
    /// Whether steps are evaluated in the background.
    pub overlaps: bool,
}

/// What a KV cache is made of: where two are the same, one model's can be gone
/// on with on the other, if it is of the same weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLayout {
    /// The tensor library's name.
    pub backend: &'static str,
    /// How many layers have keys and values.
    pub layers: usize,
    /// Heads of keys and values in each.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Type of the elements.
    pub dtype: Dtype,
}

impl KvLayout {
    /// Bytes a token takes.
    pub fn bytes_per_token(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim * self.dtype.size()
    }
}

/// A model that does not load or fails at work.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be had.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// Its configuration is not one this program runs.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its weights are incomplete or damaged.
    #[error("the model's weights do not load: {0}")]
    Weights(String),
    /// Its adapter is incomplete, damaged or of another model.
    #[error("the adapter cannot be used: {0}")]
    Adapter(String),
    /// The tensor library failed.
    #[error("the tensor library failed in {0}")]
    Backend(#[from] BackendError),
    /// A step that cannot be evaluated.
    #[error("{0}")]
    Input(String),
}

/// Loads a model onto the calling thread. `progress` is told of the bytes of
/// weights.
///
/// # Errors
/// If a file is missing or damaged, the model is of an unknown kind, or the
/// backend does not start.
pub fn load<S: Into<BackendSettings>>(
    files: &ModelFiles,
    backend: S,
    progress: &dyn Progress,
) -> Result<Box<dyn Model>, ModelError> {
    let config = DecoderConfig::load(files)?;
    let work = Load {
        config,
        files,
        progress,
    };
    backend::start(backend, work)?
}

/// What remains to be done once a backend has started.
struct Load<'a> {
    config: DecoderConfig,
    files: &'a ModelFiles,
    progress: &'a dyn Progress,
}

impl WithBackend for Load<'_> {
    type Output = Result<Box<dyn Model>, ModelError>;

    fn with<B: Backend>(self, backend: B) -> Self::Output {
        let decoder = Decoder::load(backend, self.config, self.files, self.progress)?;
        Ok(Box::new(decoder))
    }
}

#[cfg(test)]
mod tests;
