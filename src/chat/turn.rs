//! Reads one turn of the model as it is written: reasoning, content and tool
//! calls, from text that comes in pieces cut anywhere.
//!
//! Knows nothing of tokens. `marked` reads the turns of all forms but one,
//! whose own reader is `super::formats::harmony`.

mod marked;
#[cfg(test)]
mod tests;

use super::ToolSpec;
use super::formats::{ParsedCall, ToolFormat, Tools, harmony};

/// A piece of a turn.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Text of the answer.
    Content(String),
    /// Text of the reasoning.
    Reasoning(String),
    /// A tool call.
    Call(ParsedCall),
    /// The end of reasoning without its opening: all pieces so far are void, and this
    /// text, the turn's own so far, was reasoning.
    WasReasoning(String),
}

/// Reads one turn.
pub struct TurnReader(Reader);

enum Reader {
    Marked(marked::Reader),
    Harmony(harmony::Reader),
}

impl TurnReader {
    /// A reader of the turn that follows `prompt`.
    pub fn new(format: ToolFormat, prompt: &str) -> Self {
        Self(match format.form() {
            Some(form) => Reader::Marked(marked::Reader::new(form, prompt)),
            None => Reader::Harmony(harmony::Reader::new(prompt)),
        })
    }

    /// The same reader, which knows what the model may call: their schemas
    /// decide what an argument means that is written without quotes, and
    /// without any tools JSON that looks like a call is content.
    #[must_use]
    pub fn with_tools(mut self, tools: &[ToolSpec]) -> Self {
        if let Reader::Marked(reader) = &mut self.0 {
            reader.set_tools(Tools::known(tools));
        }
        self
    }

    /// Takes more text and gives what it comes to.
    pub fn feed(&mut self, text: &str) -> Vec<Piece> {
        match &mut self.0 {
            Reader::Marked(reader) => reader.feed(text),
            Reader::Harmony(reader) => reader.feed(text),
        }
    }

    /// Takes the end of the turn.
    pub fn finish(&mut self) -> Vec<Piece> {
        match &mut self.0 {
            Reader::Marked(reader) => reader.finish(),
            Reader::Harmony(reader) => reader.finish(),
        }
    }
}

/// How many bytes at the end of `text` may be the start of a marker.
pub(super) fn longest_start<'a>(text: &str, markers: impl Iterator<Item = &'a str>) -> usize {
    markers
        .filter_map(|marker| {
            (1..marker.len())
                .rev()
                .filter(|length| marker.is_char_boundary(*length))
                .find(|length| text.ends_with(&marker[..*length]))
        })
        .max()
        .unwrap_or(0)
}

/// A turn put together.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Turn {
    content: String,
    reasoning: String,
    calls: Vec<ParsedCall>,
}

impl Turn {
    /// Adds what a reader gave.
    pub fn extend(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            match piece {
                Piece::Content(text) => self.content.push_str(&text),
                Piece::Reasoning(text) => self.reasoning.push_str(&text),
                Piece::Call(call) => self.calls.push(call),
                Piece::WasReasoning(text) => {
                    *self = Self {
                        reasoning: text,
                        ..Self::default()
                    };
                }
            }
        }
    }

    /// The answer's text, trimmed; the reasoning, trimmed, if there is any; the
    /// calls, in order.
    pub fn into_parts(self) -> (String, Option<String>, Vec<ParsedCall>) {
        let reasoning = self.reasoning.trim();
        let reasoning = (!reasoning.is_empty()).then(|| reasoning.to_owned());
        (self.content.trim().to_owned(), reasoning, self.calls)
    }
}
