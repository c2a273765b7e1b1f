//! The bytes of a model's tokens, in the form llguidance walks them.
//!
//! Knows nothing of tools and schemas.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokRxInfo, TokTrie};
use llguidance::{ParserFactory, panic_utils};
use serde_json::Value;
use tokenizers::Tokenizer;

use super::format::Form;
use super::{CallFormat, GrammarError};

/// Longer tokens are never part of a call: the trie cannot hold them.
const MAX_TOKEN_BYTES: usize = 512;

/// A model's tokens as bytes, and the form its calls have. Cheap to clone.
#[derive(Clone)]
pub struct Vocabulary {
    inner: Arc<Inner>,
}

struct Inner {
    factory: ParserFactory,
    format: CallFormat,
    /// The tokens that may be refused where llguidance allows them: those with
    /// a digit, which may make a number too long, and with the end of a tag.
    doubtful: Vec<u32>,
    /// The tokens that end a turn.
    ends: Vec<u32>,
}

impl Vocabulary {
    /// The tokens of `tokenizer`, for a model whose logits are
    /// `vocabulary_size` wide. `end_of_sequence` and other special tokens are
    /// not allowed inside a call, unless they are a marker of `format`; nor
    /// are ids that the tokenizer does not know.
    ///
    /// # Errors
    /// If the tokenizer's decoder is of an unknown kind, or the logits are
    /// narrower than the tokenizer's ids.
    pub fn new(
        tokenizer: &Tokenizer,
        end_of_sequence: &[u32],
        vocabulary_size: usize,
        format: CallFormat,
    ) -> Result<Self, GrammarError> {
        if !format.is_complete() {
            return Err(GrammarError::Format);
        }
        let words = words(tokenizer, end_of_sequence, vocabulary_size, &format)?;
        // The trie and llguidance assert what they need; a tokenizer that
        // breaks it is an error of this model, not of the process.
        let factory = panic_utils::catch_unwind(AssertUnwindSafe(|| {
            let width = u32::try_from(words.len())?;
            let trie = TokTrie::from(&TokRxInfo::new(width, INVALID_TOKEN), &words);
            let environment: llguidance::toktrie::TokEnv = Arc::new(ApproximateTokEnv::new(trie));
            let slices = SlicedBiasComputer::json_slices();
            let mut factory = ParserFactory::new(&environment, Default::default(), &slices)?;
            factory.quiet();
            *factory.limits_mut() = ParserLimits {
                verbose_errors: false,
                max_lexer_states: 100_000,
                ..ParserLimits::default()
            };
            Ok(factory)
        }))
        .map_err(|error| GrammarError::Tokenizer(first_line(&error.to_string())))?;
        let edge = match &format.form {
            Form::Tagged(tags) => tags.value_closes.bytes().last(),
            Form::Json { .. } | Form::Python | Form::Marked { .. } => None,
        };
        let doubtful = |byte: &u8| byte.is_ascii_digit() || Some(*byte) == edge;
        let doubtful = (0u32..)
            .zip(&words)
            .filter(|(_, word)| word.iter().any(doubtful))
            .map(|(token, _)| token)
            .collect();
        let ends = end_of_sequence.iter().copied();
        let inner = Inner {
            factory,
            format,
            doubtful,
            ends: ends.filter(|id| (*id as usize) < words.len()).collect(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// How calls are written.
    pub fn format(&self) -> &CallFormat {
        &self.inner.format
    }

    /// The width of the logits.
    pub fn size(&self) -> usize {
        self.trie().vocab_size()
    }

    /// The bytes of a token: none for an id without text, for the end of a
    /// sequence and for special tokens that mark nothing in the format.
    pub(super) fn bytes(&self, token: u32) -> &[u8] {
        let trie = self.trie();
        if (token as usize) < trie.vocab_size() {
            trie.token(token)
        } else {
            &[]
        }
    }

    /// The tokens that may be refused where llguidance allows them.
    pub(super) fn doubtful(&self) -> &[u32] {
        &self.inner.doubtful
    }

    /// The tokens that end a turn.
    pub(super) fn ends(&self) -> &[u32] {
        &self.inner.ends
    }

    pub(super) fn factory(&self) -> &ParserFactory {
        &self.inner.factory
    }

    fn trie(&self) -> &TokTrie {
        self.inner.factory.tok_env().tok_trie()
    }
}

/// llguidance's errors may carry a backtrace.
pub(super) fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// The bytes of each id below `size`.
fn words(
    tokenizer: &Tokenizer,
    end_of_sequence: &[u32],
    size: usize,
    format: &CallFormat,
) -> Result<Vec<Vec<u8>>, GrammarError> {
    let vocabulary = tokenizer.get_vocab(true);
    let ids = vocabulary.values().max().map_or(0, |id| *id as usize + 1);
    if ids == 0 || ids > size {
        return Err(GrammarError::Width { logits: size, ids });
    }
    let decoder = Decoder::of(tokenizer)?;
    let mut words = vec![Vec::new(); size];
    for (text, id) in vocabulary {
        words[id as usize] = decoder.bytes(&text);
    }
    for (id, token) in tokenizer.get_added_tokens_decoder() {
        let marker = format.has_marker(&token.content);
        if let Some(word) = words.get_mut(id as usize) {
            if token.special && !marker {
                word.clear();
            } else {
                *word = token.content.into_bytes();
            }
        }
    }
    for id in end_of_sequence {
        if let Some(word) = words.get_mut(*id as usize) {
            word.clear();
        }
    }
    for word in &mut words {
        // No text has the byte 0xFF, and llguidance marks special tokens by it.
        if word.len() > MAX_TOKEN_BYTES || word.first() == Some(&0xFF) {
            word.clear();
        }
    }
    Ok(words)
}

/// How a token's entry in the vocabulary becomes bytes.
#[derive(Debug, Default)]
struct Decoder {
    /// Set where each character of an entry stands for one byte.
    byte_level: Option<HashMap<char, u8>>,
    /// Entries such as `<0x0A>` stand for that byte.
    byte_fallback: bool,
    /// What is to be replaced by what, in order.
    replacements: Vec<(String, String)>,
}

impl Decoder {
    /// Reads it from the decoder's own description, since its parts have
    /// private fields.
    fn of(tokenizer: &Tokenizer) -> Result<Self, GrammarError> {
        let decoder = serde_json::to_value(tokenizer.get_decoder())
            .map_err(|error| GrammarError::Tokenizer(error.to_string()))?;
        let mut found = Self::default();
        found.add(&decoder);
        if found.byte_level.is_none() && !found.byte_fallback && found.replacements.is_empty() {
            return Err(GrammarError::Tokenizer(format!(
                "its decoder is of an unknown kind ({})",
                decoder["type"]
            )));
        }
        Ok(found)
    }

    fn add(&mut self, decoder: &Value) {
        match decoder["type"].as_str() {
            Some("Sequence") => {
                let parts = decoder["decoders"].as_array();
                parts.into_iter().flatten().for_each(|part| self.add(part));
            }
            Some("ByteLevel") => self.byte_level = Some(byte_characters()),
            Some("ByteFallback") => self.byte_fallback = true,
            Some("Metaspace") => {
                if let Some(space) = decoder["replacement"].as_str() {
                    self.replacements.push((space.to_owned(), " ".to_owned()));
                }
            }
            Some("Replace") => {
                let pattern = decoder["pattern"]["String"].as_str();
                if let (Some(pattern), Some(content)) = (pattern, decoder["content"].as_str()) {
                    self.replacements
                        .push((pattern.to_owned(), content.to_owned()));
                }
            }
            // The rest joins tokens or strips the ends of a whole text, and
            // a call stands in the middle of one.
            _ => {}
        }
    }

    fn bytes(&self, entry: &str) -> Vec<u8> {
        if let Some(characters) = &self.byte_level {
            let bytes: Option<Vec<u8>> = entry
                .chars()
                .map(|character| characters.get(&character).copied())
                .collect();
            return bytes.unwrap_or_else(|| entry.as_bytes().to_vec());
        }
        if self.byte_fallback
            && let Some(digits) = entry
                .strip_prefix("<0x")
                .and_then(|rest| rest.strip_suffix('>'))
            && digits.len() == 2
            && let Ok(byte) = u8::from_str_radix(digits, 16)
        {
            return vec![byte];
        }
        let mut text = entry.to_owned();
        for (pattern, content) in &self.replacements {
            text = text.replace(pattern, content);
        }
        text.into_bytes()
    }
}

/// The character that byte-level vocabularies write for each byte: itself
/// where it is printable, otherwise the next one from U+0100 on.
fn byte_characters() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = (0x100u32..).filter_map(char::from_u32);
    (0..=u8::MAX)
        .filter_map(|byte| {
            let character = if printable(byte) {
                char::from(byte)
            } else {
                others.next()?
            };
            Some((character, byte))
        })
        .collect()
}
