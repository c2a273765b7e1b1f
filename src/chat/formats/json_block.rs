//! Calls as JSON between two markers: an object, an array of them, or several
//! of either.
//!
//! A block ends with its JSON, not with the marker: the closing marker inside a
//! string argument is text, and a call whose closing marker is missing counts.
//!
//! Knows no form's markers.

use super::json::{self, Extent};
use super::steps::malformed;
use super::{Block, CallReader, ParsedCall};

/// What the JSON between the markers means.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meaning {
    /// The calls of a complete text, one at least.
    pub(super) calls: fn(&str) -> Vec<ParsedCall>,
    /// The name in a text that is cut short or broken.
    pub(super) name: fn(&str) -> Option<String>,
}

/// Objects with a name and arguments.
const NAMED: Meaning = Meaning {
    calls: json::calls,
    name: json::name_in,
};

/// Reads what follows the opening marker.
#[derive(Debug)]
pub(super) struct Reader {
    meaning: Meaning,
    opening: &'static str,
    closing: &'static str,
    /// What was fed and is not yet a call.
    text: String,
    /// How much of `text` `state` has seen.
    seen: usize,
    state: State,
    calls: Vec<ParsedCall>,
}

#[derive(Debug)]
enum State {
    /// Before a value, or between one and the closing marker.
    Between,
    /// Inside a JSON object or array, which starts at the start of `text`.
    Value(Extent),
    /// Inside something that is not JSON and ends at the closing marker.
    Other,
}

impl CallReader for Reader {
    fn feed(&mut self, text: &str) -> Option<Block> {
        self.text.push_str(text);
        loop {
            let step = match &mut self.state {
                State::Between => self.between(),
                State::Value(extent) => {
                    let unseen = &self.text.as_bytes()[self.seen..];
                    match unseen.iter().position(|byte| extent.ends_at(*byte)) {
                        Some(last) => {
                            let rest = self.text.split_off(self.seen + last + 1);
                            let value = std::mem::replace(&mut self.text, rest);
                            self.calls.extend((self.meaning.calls)(&value));
                            self.state = State::Between;
                            Step::Again
                        }
                        None => {
                            self.seen = self.text.len();
                            Step::More
                        }
                    }
                }
                State::Other => match find_from(&self.text, self.seen, self.closing) {
                    Some(end) => {
                        let rest = self.text.split_off(end + self.closing.len());
                        self.text.truncate(end);
                        self.not_json();
                        Step::Over(rest)
                    }
                    None => {
                        self.seen = self.text.len().saturating_sub(self.closing.len());
                        Step::More
                    }
                },
            };
            match step {
                Step::Again => {}
                Step::More => return None,
                Step::Over(rest) => return Some(self.block(rest)),
            }
        }
    }

    fn finish(&mut self) -> Block {
        let text = std::mem::take(&mut self.text);
        match self.state {
            // Whitespace or the start of a closing marker, at most.
            State::Between if !self.calls.is_empty() => self.block(String::new()),
            State::Value(_) => {
                let (call, rest) = match self.cut_at_closing(&text) {
                    Some((call, rest)) => (call, rest),
                    None => (text.as_str(), ""),
                };
                self.refuse(call, "the tool call's JSON ends before it is complete");
                self.block(rest.to_owned())
            }
            State::Between | State::Other => {
                self.text = text;
                self.not_json();
                self.block(String::new())
            }
        }
    }
}

/// What to do after a look at the text.
enum Step {
    /// Look again, in the new state.
    Again,
    /// Nothing, until there is more text.
    More,
    /// The block is over, and this is behind it.
    Over(String),
}

impl Reader {
    /// A reader of the block that `opening` opens and `closing` closes.
    pub(super) fn new(opening: &'static str, closing: &'static str) -> Self {
        Self::meaning(opening, closing, NAMED)
    }

    /// The same for JSON that means something else.
    pub(super) fn meaning(opening: &'static str, closing: &'static str, meaning: Meaning) -> Self {
        Self {
            meaning,
            opening,
            closing,
            text: String::new(),
            seen: 0,
            state: State::Between,
            calls: Vec::new(),
        }
    }

    fn between(&mut self) -> Step {
        let text = self.text.trim_start();
        if let Some(rest) = text.strip_prefix(self.closing) {
            let rest = rest.to_owned();
            if self.calls.is_empty() {
                self.text.clear();
                self.not_json();
            }
            return Step::Over(rest);
        }
        if text.starts_with(['{', '[']) {
            self.text = text.to_owned();
            self.seen = 0;
            self.state = State::Value(Extent::default());
            Step::Again
        } else if self.closing.starts_with(text) {
            Step::More
        } else if self.calls.is_empty() {
            self.seen = 0;
            self.state = State::Other;
            Step::Again
        } else {
            // The JSON is complete and only its closing marker is missing.
            Step::Over(std::mem::take(&mut self.text))
        }
    }

    fn not_json(&mut self) {
        let text = std::mem::take(&mut self.text);
        self.refuse(&text, "the tool call is not a JSON object");
    }

    fn refuse(&mut self, text: &str, reason: &str) {
        let call = malformed((self.meaning.name)(text), text, reason);
        self.calls.push(call);
    }

    fn block(&mut self, rest: String) -> Block {
        Block {
            calls: std::mem::take(&mut self.calls),
            rest,
        }
    }

    /// Where a call ends whose quotes or brackets do not match, so that its
    /// JSON never ended: at a closing marker with nothing but another call, or
    /// nothing at all, behind it. Any other closing marker may be part of an
    /// argument.
    fn cut_at_closing<'a>(&self, text: &'a str) -> Option<(&'a str, &'a str)> {
        text.match_indices(self.closing).find_map(|(at, marker)| {
            let rest = &text[at + marker.len()..];
            let next = rest.trim_start();
            (next.is_empty() || next.starts_with(self.opening)).then_some((&text[..at], rest))
        })
    }
}

/// Where `wanted` is in `text`, if not before `from`.
fn find_from(text: &str, from: usize, wanted: &str) -> Option<usize> {
    let from = (0..=from).rev().find(|at| text.is_char_boundary(*at))?;
    Some(from + text[from..].find(wanted)?)
}
