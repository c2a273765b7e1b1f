//! Drives the forms whose blocks are read step by step: a form says what the
//! text in front of it begins with, and the reader here holds the text, asks
//! again when there is more of it, and deals with calls that are cut short.
//!
//! A form's step answers from the text before it alone and commits itself only
//! to what more text cannot change: that is what makes cuts not matter.
//!
//! Knows no form's markers.

use super::values::Tools;
use super::{Arguments, Block, CallReader, ParsedCall};

/// What a step looks at.
pub(super) struct Look<'a> {
    /// The text of the block that no step has taken yet; not empty.
    pub(super) text: &'a str,
    /// Whether this is all there will ever be.
    pub(super) ended: bool,
    /// The last character that was taken, whitespace aside.
    pub(super) before: Option<char>,
    /// Whether no call of the block has been read.
    pub(super) first: bool,
    /// What the model may call.
    pub(super) tools: &'a Tools,
}

/// What the text begins with. Lengths are in bytes and not 0, but for `Over`.
#[derive(Debug)]
pub(super) enum Step {
    /// That is open until there is more text; if there is none, it is a call
    /// cut short.
    More,
    /// Calls.
    Calls(Vec<ParsedCall>, usize),
    /// What belongs to the block and means nothing.
    Skip(usize),
    /// Something that is neither a call nor the end of the block.
    Unreadable,
    /// The end of the block, which is so long.
    Over(usize),
}

/// A form that is read in steps.
pub(super) struct Syntax {
    /// Looks at the text.
    pub(super) step: fn(&Look<'_>) -> Step,
    /// The name in a call that is cut short or unreadable.
    pub(super) name: fn(&str) -> Option<String>,
    /// What a call, or something unreadable, ends at.
    pub(super) ends: &'static [&'static str],
    /// What the next call begins with.
    pub(super) begins: &'static [&'static str],
    /// Reads what follows the opening marker as this, where the marker is part
    /// of the first call.
    pub(super) keeps: &'static [&'static str],
}

/// Reads a block in steps.
pub(super) struct Reader {
    syntax: &'static Syntax,
    tools: Tools,
    text: String,
    before: Option<char>,
    calls: Vec<ParsedCall>,
    /// Whether the text begins with something unreadable.
    unreadable: bool,
}

impl Reader {
    /// A reader of the block that `opening` opens.
    pub(super) fn boxed(
        syntax: &'static Syntax,
        opening: &'static str,
        tools: &Tools,
    ) -> Box<dyn CallReader> {
        let keeps = syntax.keeps.contains(&opening);
        Box::new(Self {
            syntax,
            tools: tools.clone(),
            text: if keeps { opening } else { "" }.to_owned(),
            before: None,
            calls: Vec::new(),
            unreadable: false,
        })
    }

    /// Takes all that can be taken. The text behind the block, if it is over.
    fn advance(&mut self, ended: bool) -> Option<String> {
        loop {
            if self.unreadable && !self.pass_unreadable(ended) {
                return None;
            }
            if self.text.is_empty() {
                return None;
            }
            let look = Look {
                text: &self.text,
                ended,
                before: self.before,
                first: self.calls.is_empty(),
                tools: &self.tools,
            };
            match (self.syntax.step)(&look) {
                Step::More => return None,
                Step::Unreadable => self.unreadable = true,
                Step::Skip(length) => {
                    self.take(length);
                }
                Step::Calls(calls, length) => {
                    self.take(length);
                    self.calls.extend(calls);
                }
                Step::Over(length) => {
                    let last = self.take(length);
                    if self.calls.is_empty() {
                        self.refuse(&last, NO_CALL);
                    }
                    return Some(std::mem::take(&mut self.text));
                }
            }
        }
    }

    fn take(&mut self, length: usize) -> String {
        let rest = self.text.split_off(length);
        let taken = std::mem::replace(&mut self.text, rest);
        self.before = taken.trim_end().chars().next_back().or(self.before);
        taken
    }

    /// Takes what is unreadable as a malformed call, up to where it ends or
    /// another call begins. `false` if that is open.
    fn pass_unreadable(&mut self, ended: bool) -> bool {
        // The first character is of the thing itself.
        let thing = self.text.trim_start();
        let from = thing.chars().next().map_or(0, char::len_utf8);
        let from = self.text.len() - thing.len() + from;
        let marks = self.syntax.ends.iter().chain(self.syntax.begins);
        let found = marks.filter_map(|mark| Some(from + self.text[from..].find(mark)?));
        let length = match found.min() {
            Some(length) => length,
            None if ended => self.text.len(),
            None => return false,
        };
        let taken = self.take(length);
        self.refuse(&taken, UNREADABLE);
        self.unreadable = false;
        true
    }

    fn refuse(&mut self, text: &str, reason: &str) {
        let call = malformed((self.syntax.name)(text), text, reason);
        self.calls.push(call);
    }

    fn block(&mut self, rest: String) -> Block {
        Block {
            calls: std::mem::take(&mut self.calls),
            rest,
        }
    }
}

const NO_CALL: &str = "there is no tool call between the markers";
const UNREADABLE: &str = "the tool call is not written in the model's form";
const CUT: &str = "the tool call ends before it is complete";

/// A call that cannot be carried out.
pub(super) fn malformed(name: Option<String>, text: &str, reason: &str) -> ParsedCall {
    ParsedCall {
        name: name.unwrap_or_default(),
        arguments: Arguments::Malformed {
            text: text.trim().to_owned(),
            reason: reason.to_owned(),
        },
        id: None,
    }
}

impl CallReader for Reader {
    fn feed(&mut self, text: &str) -> Option<Block> {
        self.text.push_str(text);
        let rest = self.advance(false)?;
        Some(self.block(rest))
    }

    fn finish(&mut self) -> Block {
        let left = self.text.trim();
        if !self.calls.is_empty() && self.syntax.ends.iter().any(|end| end.starts_with(left)) {
            // Blanks, or the start of a closing marker.
            return self.block(String::new());
        }
        if let Some(rest) = self.advance(true) {
            return self.block(rest);
        }
        let text = std::mem::take(&mut self.text);
        if text.trim().is_empty() && !self.calls.is_empty() {
            return self.block(String::new());
        }
        let end = end_of_broken(self.syntax, &text).unwrap_or(text.len());
        self.refuse(&text[..end], CUT);
        self.block(text[end..].to_owned())
    }
}

/// Where a call ends that never came to its end, since its quotes or brackets
/// do not match: at a marker that ends a call with nothing but more markers, or
/// nothing at all, behind it. Any other may be part of an argument.
fn end_of_broken(syntax: &Syntax, text: &str) -> Option<usize> {
    let marks = || syntax.ends.iter().chain(syntax.begins);
    let ends = if syntax.ends.is_empty() {
        syntax.begins
    } else {
        syntax.ends
    };
    let mut found: Vec<(usize, &str)> = ends
        .iter()
        .flat_map(|mark| text.match_indices(mark))
        .filter(|(at, mark)| {
            let next = text[at + mark.len()..].trim_start();
            syntax.ends.is_empty() || next.is_empty() || marks().any(|mark| next.starts_with(mark))
        })
        .collect();
    found.sort_unstable();
    found.first().map(|(at, _)| *at)
}

/// What a text begins with.
pub(super) enum Start {
    /// This marker.
    With(&'static str),
    /// One of them perhaps, if there is more text.
    Perhaps,
    /// None of them.
    Other,
}

/// Which of `markers` the text begins with.
pub(super) fn start(text: &str, ended: bool, markers: &[&'static str]) -> Start {
    match markers.iter().find(|marker| text.starts_with(**marker)) {
        Some(marker) => Start::With(marker),
        None if !ended && markers.iter().any(|marker| marker.starts_with(text)) => Start::Perhaps,
        None => Start::Other,
    }
}
