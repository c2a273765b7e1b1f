//! The model: its files, its tokenizer and the config-driven decoder over
//! [`crate::backend`]. Knows nothing of requests.

mod config;
mod decoder;
mod files;
mod rope;
mod tokenizer;
mod weights;

pub use config::{ConfigError, DecoderConfig, end_of_sequence_ids};
pub use files::{FilesError, ModelFiles};
pub use tokenizer::{Tokenizer, TokenizerError};

use crate::backend::{self, BackendChoice, BackendError, Started};
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

    /// Ends a sequence and frees its KV cache. An unknown one is ignored.
    fn close(&mut self, sequence: SequenceId);

    /// Evaluates the next tokens of several sequences in one step, prefill
    /// and decode alike, and appends them to their KV caches. Returns a row
    /// of logits for each input that asks for them, in the order of `batch`.
    ///
    /// A sequence may occur once in a step. After an error the sequences of
    /// the step are in no known state and have to be closed.
    ///
    /// # Errors
    /// If a sequence or a token is unknown, an input is empty, or the backend
    /// fails.
    fn forward(&mut self, batch: &[Input<'_>]) -> Result<Logits, ModelError>;
}

/// A handle to a sequence of a [`Model`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(u64);

/// One sequence's part of a step.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The sequence.
    pub sequence: SequenceId,
    /// Its next tokens, at least one.
    pub tokens: &'a [u32],
    /// Whether the logits after the last of them are wanted.
    pub logits: bool,
}

/// Rows of logits, one for each input of a step that asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    values: Vec<f32>,
    vocabulary_size: usize,
}

impl Logits {
    /// The rows, each as long as the vocabulary.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.vocabulary_size)
    }
}

/// What a model is.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// `model_type` in its configuration.
    pub family: String,
    /// What it runs on, for people.
    pub backend: String,
    /// Weights, counted unpacked.
    pub parameters: u64,
    /// Rows of the output projection.
    pub vocabulary_size: usize,
    /// The most positions the model was made for.
    pub context_length: usize,
    /// Bytes of KV cache a token takes.
    pub kv_bytes_per_token: usize,
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
pub fn load(
    files: &ModelFiles,
    backend: BackendChoice,
    progress: &dyn Progress,
) -> Result<Box<dyn Model>, ModelError> {
    let config = DecoderConfig::load(files)?;
    Ok(match backend::start(backend)? {
        Started::Candle(candle) => Box::new(Decoder::load(candle, config, files, progress)?),
    })
}

#[cfg(test)]
mod tests;
