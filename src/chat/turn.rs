//! Reads one turn of the model as it is written: reasoning, content and tool
//! calls, from text that comes in pieces cut anywhere.
//!
//! The rules:
//! - Reasoning stands between `<think>` and `</think>`. It may be open from the
//!   start, because the prompt ended with `<think>`. If it never closes, all the
//!   rest is reasoning. Calls inside are not calls.
//! - If the turn's first marker of reasoning is `</think>`, everything before it
//!   was reasoning. Later ones are dropped.
//! - A marker inside a tool call's JSON is text.
//!
//! Knows nothing of tokens, and of calls' forms only [`ToolFormat`]'s seam.

#[cfg(test)]
mod tests;

use super::formats::{CallReader, ParsedCall, ToolFormat};
use super::reasoning;

/// A piece of a turn.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Text of the answer.
    Content(String),
    /// Text of the reasoning.
    Reasoning(String),
    /// A tool call.
    Call(ParsedCall),
    /// A `</think>` without an opening: all pieces so far are void, and this
    /// text, the turn's own so far, was reasoning.
    WasReasoning(String),
}

/// Reads one turn.
pub struct TurnReader {
    format: ToolFormat,
    state: State,
    /// Text not yet given out, since it may be the start of a marker.
    held: String,
    /// All text fed so far, kept until the first marker of reasoning for
    /// [`Piece::WasReasoning`]. What is still to be looked at is its end.
    raw: Option<String>,
    any_calls: bool,
}

enum State {
    Content,
    Reasoning,
    Call(Box<dyn CallReader>),
}

/// What a marker says.
#[derive(Clone, Copy)]
enum Marker {
    ReasoningOpens,
    ReasoningCloses,
    CallOpens,
    CallCloses,
}

impl TurnReader {
    /// A reader of the turn that follows `prompt`.
    pub fn new(format: ToolFormat, prompt: &str) -> Self {
        let reasoning = reasoning::opened_by(prompt);
        Self {
            format,
            state: if reasoning {
                State::Reasoning
            } else {
                State::Content
            },
            held: String::new(),
            raw: (!reasoning).then(String::new),
            any_calls: false,
        }
    }

    /// Takes more text and gives what it comes to.
    pub fn feed(&mut self, text: &str) -> Vec<Piece> {
        if let Some(raw) = &mut self.raw {
            raw.push_str(text);
        }
        let mut pieces = Vec::new();
        self.read(&mut pieces, text.to_owned());
        pieces
    }

    /// Takes the end of the turn.
    pub fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        // A block cut short may leave text that opens the next one.
        while let State::Call(reader) = &mut self.state {
            let block = reader.finish();
            self.end_call(&mut pieces, block.calls);
            self.read(&mut pieces, block.rest);
        }
        let held = std::mem::take(&mut self.held);
        self.give(&mut pieces, &held);
        pieces
    }

    /// Reads `text`; each pass takes what is before the next change of state.
    fn read(&mut self, pieces: &mut Vec<Piece>, mut text: String) {
        while !text.is_empty() {
            text = match &mut self.state {
                State::Content | State::Reasoning => self.scan(pieces, &text),
                State::Call(reader) => match reader.feed(&text) {
                    Some(block) => {
                        self.end_call(pieces, block.calls);
                        block.rest
                    }
                    None => return,
                },
            };
        }
    }

    fn end_call(&mut self, pieces: &mut Vec<Piece>, calls: Vec<ParsedCall>) {
        self.any_calls |= !calls.is_empty();
        pieces.extend(calls.into_iter().map(Piece::Call));
        self.state = State::Content;
    }

    /// Gives out text up to the next marker and takes the marker; returns what
    /// is behind it.
    fn scan(&mut self, pieces: &mut Vec<Piece>, text: &str) -> String {
        self.held.push_str(text);
        let held = std::mem::take(&mut self.held);
        let markers = self.markers();
        let found = markers
            .iter()
            .filter_map(|(text, marker)| Some((held.find(text)?, *text, *marker)))
            .min_by_key(|(at, ..)| *at);
        let Some((at, marker_text, marker)) = found else {
            let keep = longest_start(&held, markers.iter().map(|(text, _)| *text));
            let (give, keep) = held.split_at(held.len() - keep);
            self.give(pieces, give);
            self.held = keep.to_owned();
            return String::new();
        };
        self.give(pieces, &held[..at]);
        let rest = held[at + marker_text.len()..].to_owned();
        match marker {
            Marker::ReasoningOpens => {
                self.raw = None;
                self.state = State::Reasoning;
            }
            Marker::ReasoningCloses => {
                if let Some(mut raw) = self.raw.take() {
                    raw.truncate(raw.len() - rest.len() - marker_text.len());
                    self.any_calls = false;
                    pieces.push(Piece::WasReasoning(raw));
                }
                self.state = State::Content;
            }
            Marker::CallOpens => self.state = State::Call(self.format.reader()),
            Marker::CallCloses => {}
        }
        rest
    }

    /// The markers that mean something now.
    fn markers(&self) -> Vec<(&'static str, Marker)> {
        let mut markers = vec![
            (reasoning::OPENING, Marker::ReasoningOpens),
            (reasoning::CLOSING, Marker::ReasoningCloses),
        ];
        if matches!(self.state, State::Content) {
            markers.push((self.format.opening(), Marker::CallOpens));
            // One closing marker too many is no content; without any call
            // before it, it is the model's own words.
            if self.any_calls {
                markers.push((self.format.closing(), Marker::CallCloses));
            }
        }
        markers
    }

    fn give(&mut self, pieces: &mut Vec<Piece>, text: &str) {
        if text.is_empty() {
            return;
        }
        pieces.push(match self.state {
            State::Reasoning => Piece::Reasoning(text.to_owned()),
            State::Content | State::Call(_) => Piece::Content(text.to_owned()),
        });
    }
}

/// How many bytes at the end of `text` may be the start of a marker.
fn longest_start<'a>(text: &str, markers: impl Iterator<Item = &'a str>) -> usize {
    markers
        .filter_map(|marker| {
            (1..marker.len())
                .rev()
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
