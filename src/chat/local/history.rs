//! The token ids of a prompt whose beginning the model has had before: what it
//! was given and what it wrote stay as they are, token for token, and only what
//! the template adds behind the model's turn is tokenized.
//!
//! Knows nothing of the engine, and of tools only that a turn reads the same
//! with its calls written another way.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

use crate::chat::Message;
use crate::chat::formats::{ParsedCall, ToolFormat};
use crate::chat::turn::{Turn, TurnReader};
use crate::excerpt::head;
use crate::model::{Tokenizer, TokenizerError};

/// How much of a turn is read at once, in characters: a reader's work grows
/// with the square of a piece that is full of markers.
const PIECE: usize = 256;

/// What the model was given and what it wrote, token for token: a reply's
/// record, for the [`Message::Assistant`] that the reply becomes. Opaque to
/// whoever carries it there, and cheap to clone.
#[derive(Clone, PartialEq)]
pub struct Written(Arc<Record>);

#[derive(PartialEq)]
struct Record {
    /// The conversation up to the turn, as the template writes it.
    prompt: String,
    /// The turn, as the model wrote it, without its end.
    turn: String,
    /// The ids the model was given, then those of its turn.
    ids: Vec<u32>,
}

impl Written {
    /// The record of a reply to a prompt: its text as the template writes it,
    /// the ids the model was given, and the turn's text and ids.
    pub(super) fn new(prompt: String, mut ids: Vec<u32>, turn: String, generated: &[u32]) -> Self {
        ids.extend_from_slice(generated);
        Self(Arc::new(Record { prompt, turn, ids }))
    }

    /// A record that fits no conversation, for those who only carry it.
    #[cfg(test)]
    pub(crate) fn of(turn: &str) -> Self {
        Self::new(turn.to_owned(), Vec::new(), turn.to_owned(), &[])
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Written({} tokens)", self.0.ids.len())
    }
}

/// A prompt's ids.
#[derive(Debug, PartialEq)]
pub(super) struct Tokenized {
    pub(super) ids: Vec<u32>,
    /// How many of them, from the first, are those of a record.
    pub(super) kept: usize,
}

/// Tokenizes conversations.
pub(super) struct History {
    tokenizer: Arc<Tokenizer>,
    /// The tokens that end a turn, with their texts.
    ends: Vec<(u32, String)>,
    format: ToolFormat,
}

impl History {
    /// For a model whose turns end with one of the tokens `ends` and whose
    /// calls are written in `format`.
    pub(super) fn new(tokenizer: Arc<Tokenizer>, ends: &[u32], format: ToolFormat) -> Self {
        let ends = ends.iter().filter_map(|&id| {
            let text = tokenizer.decode(&[id]).ok()?;
            (!text.is_empty()).then_some((id, text))
        });
        Self {
            ends: ends.collect(),
            tokenizer,
            format,
        }
    }

    /// The ids of the conversation `messages`, which the template writes as
    /// `text`. The newest record that still stands gives the first of them.
    ///
    /// # Errors
    /// If the tokenizer refuses the text.
    pub(super) fn tokenize(
        &self,
        messages: &[Message],
        text: &str,
    ) -> Result<Tokenized, TokenizerError> {
        let records = messages.iter().rev().filter_map(|message| match message {
            Message::Assistant { written, .. } => written.as_ref(),
            _ => None,
        });
        for Written(record) in records {
            if let Some(tokenized) = self.go_on(record, text)? {
                return Ok(tokenized);
            }
        }
        let ids = self.tokenizer.encode(text)?;
        Ok(Tokenized { ids, kept: 0 })
    }

    /// The ids of `text` if it is the record's conversation gone on. `None` if
    /// the template has rewritten it: other tools, a date, reasoning left out,
    /// a turn that now reads otherwise.
    fn go_on(&self, record: &Record, text: &str) -> Result<Option<Tokenized>, TokenizerError> {
        let Some(rest) = text.strip_prefix(&record.prompt) else {
            return Ok(None);
        };
        // A turn that speaks of its own end does so here too.
        let spoken = self.ends_in(&record.turn).count();
        let Some((turn, end)) = self.ends_in(rest).nth(spoken) else {
            return Ok(None);
        };
        let now = self.read(record, &rest[..turn]);
        if !reads_as(&now, &self.read(record, &record.turn)) {
            return Ok(None);
        }
        let added = self.tokenizer.encode(&rest[turn..])?;
        // Between the two there must be no token that is part of both, and
        // none that the tokenizer puts before every text.
        if added.first() != Some(&end) {
            return Ok(None);
        }
        let kept = record.ids.len();
        let ids = [record.ids.as_slice(), &added].concat();
        Ok(Some(Tokenized { ids, kept }))
    }

    /// Where in `text` something stands that ends a turn, and its token.
    fn ends_in<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (usize, u32)> + 'a {
        let mut from = 0;
        std::iter::from_fn(move || {
            let found = self.ends.iter().filter_map(|(id, end)| {
                let at = from + text[from..].find(end)?;
                Some((at, end.len(), *id))
            });
            // Of two that start together the longer one is meant.
            let (at, len, id) = found.min_by_key(|(at, len, _)| (*at, Reverse(*len)))?;
            from = at + len;
            Some((at, id))
        })
    }

    /// What `turn` comes to behind the record's prompt.
    fn read(&self, record: &Record, turn: &str) -> Read {
        let mut reader = TurnReader::new(self.format, &record.prompt);
        let mut read = Turn::default();
        let mut rest = turn;
        while !rest.is_empty() {
            let piece = head(rest, PIECE);
            read.extend(reader.feed(piece));
            rest = &rest[piece.len()..];
        }
        read.extend(reader.finish());
        read.into_parts()
    }
}

/// What a turn says: content, reasoning, calls.
type Read = (String, Option<String>, Vec<ParsedCall>);

/// Whether a turn says `now` what it said when the model wrote it. The template
/// may show an id where the model wrote none, but no other than it wrote: what
/// follows names the call by it.
fn reads_as(now: &Read, written: &Read) -> bool {
    let (content, reasoning, calls) = now;
    let same = |(now, written): (&ParsedCall, &ParsedCall)| {
        let id = written.id.is_none() || now.id == written.id;
        id && now.name == written.name && now.arguments == written.arguments
    };
    *content == written.0
        && *reasoning == written.1
        && calls.len() == written.2.len()
        && calls.iter().zip(&written.2).all(same)
}
