//! The model: its files, its tokenizer and the config-driven decoder over
//! [`crate::backend`]. Knows nothing of requests.

mod files;
mod tokenizer;

pub use files::{Blob, FilesError, ModelFiles};
pub use tokenizer::{Tokenizer, TokenizerError};
