//! The tokenizer: text to token ids and back, as `tokenizer.json` defines it.

use super::files::{FilesError, ModelFiles};

/// A model's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

/// A tokenizer that does not load, or a text it cannot take.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file cannot be had.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The file is not a tokenizer.
    #[error("the model's tokenizer.json does not load: {0}")]
    Invalid(String),
    /// The text cannot be tokenized.
    #[error("the text cannot be tokenized: {0}")]
    Encode(String),
    /// The ids cannot be turned into text.
    #[error("the tokens cannot be turned into text: {0}")]
    Decode(String),
}

impl Tokenizer {
    /// Loads `tokenizer.json`.
    ///
    /// # Errors
    /// If it is missing or is not a tokenizer.
    pub fn load(files: &ModelFiles) -> Result<Self, TokenizerError> {
        let bytes = files.open("tokenizer.json")?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&*bytes)
            .map_err(|error| TokenizerError::Invalid(error.to_string()))?;
        // A tokenizer.json may carry settings of its training; a prompt is
        // never cut and never padded.
        inner
            .with_truncation(None)
            .map_err(|error| TokenizerError::Invalid(error.to_string()))?;
        inner.with_padding(None);
        Ok(Self { inner })
    }

    /// The tokenizer itself, for what looks into its vocabulary.
    pub(crate) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    /// Token ids of `text`. Markers written in the text, such as
    /// `<|im_start|>`, become their tokens; nothing is added around it, since
    /// a chat template writes all of it.
    ///
    /// # Errors
    /// If the tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| TokenizerError::Encode(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, markers included.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.inner
            .decode(ids, false)
            .map_err(|error| TokenizerError::Decode(error.to_string()))
    }

    /// The id of a token written exactly `token`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// How many ids there are, added tokens included.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}
