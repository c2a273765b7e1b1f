//! Reads turns whose calls and whose reasoning stand between markers, with the
//! content outside of them.
//!
//! The rules, with `<think>` and `</think>` for the form's own markers:
//! - Reasoning stands between `<think>` and `</think>`. It may be open from the
//!   start, because the prompt ended with `<think>`. If it never closes, all the
//!   rest is reasoning. Calls inside are not calls.
//! - If the turn's first marker of reasoning is `</think>`, everything before it
//!   was reasoning. Later ones are dropped.
//! - A marker inside a tool call is text, as far as the form can tell.
//! - Some forms have markers around the whole answer, such as `<response>` and
//!   `</response>`: the first counts where the content begins, and then the
//!   second where it ends. Anywhere else they are text.
//! - Some forms have calls that nothing opens: they are looked for where the
//!   content begins, and only there.
//!
//! Knows nothing of tokens, and of calls' forms only [`Form`]'s seam.

use super::{Piece, longest_start};
use crate::chat::formats::{CallReader, Form, ParsedCall, Tools};
use crate::chat::reasoning;

/// Reads one turn.
pub(super) struct Reader {
    form: &'static Form,
    tools: Tools,
    state: State,
    /// Text not yet given out, since it may be the start of a marker.
    held: String,
    /// All text fed so far, kept until the first marker of reasoning for
    /// [`Piece::WasReasoning`]. What is still to be looked at is its end.
    raw: Option<String>,
    any_calls: bool,
    /// Whether the content has not begun, so that a bare call may.
    fresh: bool,
    /// What closes the answer, if it was opened.
    answer: Option<&'static str>,
    /// The text that has closed the answer, and blanks, unless more follows.
    closed: String,
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
    /// With what closes it.
    AnswerOpens(&'static str),
    AnswerCloses,
}

impl Reader {
    /// A reader of the turn that follows `prompt`.
    pub(super) fn new(form: &'static Form, prompt: &str) -> Self {
        let reasoning = reasoning::opened_by(prompt, form.reasoning);
        Self {
            form,
            tools: Tools::default(),
            state: if reasoning {
                State::Reasoning
            } else {
                State::Content
            },
            held: String::new(),
            raw: (!reasoning).then(String::new),
            any_calls: false,
            fresh: true,
            answer: None,
            closed: String::new(),
        }
    }

    /// Says what the model may call.
    pub(super) fn set_tools(&mut self, tools: Tools) {
        self.tools = tools;
    }

    /// Takes more text and gives what it comes to.
    pub(super) fn feed(&mut self, text: &str) -> Vec<Piece> {
        if let Some(raw) = &mut self.raw {
            raw.push_str(text);
        }
        let mut pieces = Vec::new();
        self.read(&mut pieces, text.to_owned());
        pieces
    }

    /// Takes the end of the turn.
    pub(super) fn finish(&mut self) -> Vec<Piece> {
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
                State::Content if self.fresh => self.begin(pieces, text),
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

    /// Looks whether a bare call begins the content, as far as there may be one.
    fn begin(&mut self, pieces: &mut Vec<Piece>, text: String) -> String {
        let Some(bare) = self.form.bare.filter(|_| !self.tools.are_none()) else {
            return self.scan(pieces, &text);
        };
        self.held.push_str(&text);
        let start = self.held.trim_start();
        match bare.begins(start) {
            Some(true) => {
                self.fresh = false;
                self.state = State::Call(bare.reader());
                std::mem::take(&mut self.held)
            }
            Some(false) => self.scan(pieces, ""),
            None => String::new(),
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
                    self.fresh = true;
                    self.answer = None;
                    self.closed.clear();
                    pieces.push(Piece::WasReasoning(raw));
                }
                self.state = State::Content;
            }
            Marker::CallOpens => {
                self.fresh = false;
                self.closed.clear();
                self.state = State::Call((self.form.reader)(marker_text, &self.tools));
            }
            Marker::CallCloses => {}
            Marker::AnswerOpens(closing) if self.fresh => self.answer = Some(closing),
            Marker::AnswerOpens(_) => self.give(pieces, marker_text),
            Marker::AnswerCloses => {
                // What stood there before has not closed it.
                let earlier = std::mem::replace(&mut self.closed, marker_text.to_owned());
                push(pieces, &earlier);
            }
        }
        rest
    }

    /// The markers that mean something now.
    fn markers(&self) -> Vec<(&'static str, Marker)> {
        let all = |texts: &'static [&'static str], marker: Marker| {
            texts.iter().map(move |text| (*text, marker))
        };
        let mut markers = Vec::new();
        for (opening, closing) in self.form.reasoning {
            markers.push((*opening, Marker::ReasoningOpens));
            markers.push((*closing, Marker::ReasoningCloses));
        }
        if matches!(self.state, State::Content) {
            match self.answer {
                Some(closing) => markers.push((closing, Marker::AnswerCloses)),
                None => markers.extend(
                    (self.form.answer.iter())
                        .map(|(opening, closing)| (*opening, Marker::AnswerOpens(closing))),
                ),
            }
            markers.extend(all(self.form.openings, Marker::CallOpens));
            // One closing marker too many is no content; without any call
            // before it, it is the model's own words.
            if self.any_calls {
                markers.extend(all(self.form.closings, Marker::CallCloses));
            }
        }
        markers
    }

    fn give(&mut self, pieces: &mut Vec<Piece>, text: &str) {
        if text.is_empty() {
            return;
        }
        if matches!(self.state, State::Reasoning) {
            pieces.push(Piece::Reasoning(text.to_owned()));
            return;
        }
        let blank = text.chars().all(char::is_whitespace);
        self.fresh &= blank;
        if !self.closed.is_empty() {
            if blank {
                self.closed.push_str(text);
                return;
            }
            // The answer goes on: that was no end.
            let closed = std::mem::take(&mut self.closed);
            push(pieces, &closed);
        }
        push(pieces, text);
    }
}

fn push(pieces: &mut Vec<Piece>, content: &str) {
    if !content.is_empty() {
        pieces.push(Piece::Content(content.to_owned()));
    }
}
