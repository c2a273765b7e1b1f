//! gpt-oss' turns, which are made of messages:
//!
//! ```text
//! <|channel|>analysis<|message|>reasoning<|end|>
//! <|start|>assistant<|channel|>commentary to=functions.name <|constrain|>json<|message|>{…}<|call|>
//! <|start|>assistant<|channel|>final<|message|>content<|return|>
//! ```
//!
//! - The prompt ends with `<|start|>assistant`, so that a turn begins in the
//!   header of its first message.
//! - A message with a recipient, which may stand in the role's part of the
//!   header as well as in the channel's, is a call, whatever its channel.
//! - Without one, `analysis` is reasoning and all else is content, the preamble
//!   on `commentary` too. Between two messages there is an empty line.
//! - A call ends with its JSON: markers in a string of it are text. Elsewhere
//!   any marker ends a message.
//! - A turn without any markers is content.
//!
//! Reads whole turns: here nothing stands outside of the markers.

use super::json;
use super::steps::{Start, malformed, start};
use crate::chat::turn::{Piece, longest_start};

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const END: &str = "<|end|>";
const CALL: &str = "<|call|>";
const RETURN: &str = "<|return|>";
/// What a message ends at; the first two begin the next one.
const ENDS: [&str; 5] = [START, CHANNEL, END, CALL, RETURN];
/// What a header ends at.
const HEADER_ENDS: [&str; 5] = [MESSAGE, START, END, CALL, RETURN];
/// The header of an answer that a prompt may have begun.
const FINAL: &str = "<|channel|>final<|message|>";

/// What stands around reasoning. The model may write more into the header.
pub(super) const REASONING: [(&str, &str); 1] = [("<|channel|>analysis<|message|>", END)];

/// Reads a turn.
pub(in crate::chat) struct Reader {
    state: State,
    /// Text that is not yet read.
    held: String,
    /// What has been given, and whether the message in hand gave any of it.
    gave_content: bool,
    gave_reasoning: bool,
    in_message: bool,
}

#[derive(Debug)]
enum State {
    /// In a header. Unless a marker began it, it may turn out to be text that
    /// stands between messages, or instead of them.
    Header {
        marked: bool,
    },
    Reasoning,
    Content,
    /// In a message to this tool.
    Call(String),
    /// Behind a call, up to a marker.
    Behind,
}

impl Reader {
    /// A reader of the turn that follows `prompt`.
    pub(in crate::chat) fn new(prompt: &str) -> Self {
        let prompt = prompt.trim_end();
        let state = if prompt.ends_with(REASONING[0].0) {
            State::Reasoning
        } else if prompt.ends_with(FINAL) {
            State::Content
        } else {
            State::Header { marked: false }
        };
        Self {
            state,
            held: String::new(),
            gave_content: false,
            gave_reasoning: false,
            in_message: false,
        }
    }

    /// Takes more text and gives what it comes to.
    pub(in crate::chat) fn feed(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while self.step(&mut pieces, false) {}
        pieces
    }

    /// Takes the end of the turn.
    pub(in crate::chat) fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        while self.step(&mut pieces, true) {}
        pieces
    }

    /// Takes what can be taken of the text; `false` if nothing more can.
    fn step(&mut self, pieces: &mut Vec<Piece>, ended: bool) -> bool {
        match &self.state {
            State::Header { marked } => {
                let marked = *marked;
                self.header(pieces, marked, ended)
            }
            State::Reasoning | State::Content => self.text(pieces, ended),
            State::Call(name) => {
                let name = name.clone();
                self.call(pieces, &name, ended)
            }
            State::Behind => self.behind(ended),
        }
    }

    fn header(&mut self, pieces: &mut Vec<Piece>, marked: bool, ended: bool) -> bool {
        let Some((at, marker)) = first_of(&self.held, &HEADER_ENDS) else {
            if !ended || self.held.is_empty() {
                return false;
            }
            let header = std::mem::take(&mut self.held);
            self.abandon(pieces, &header, marked);
            return true;
        };
        let header = self.take(at);
        self.take(marker.len());
        if marker == MESSAGE {
            self.in_message = false;
            self.state = match recipient(&header) {
                Some(tool) => State::Call(tool.to_owned()),
                None if channel(&header) == Some("analysis") => State::Reasoning,
                None => State::Content,
            };
        } else {
            self.abandon(pieces, &header, marked);
            self.state = State::Header {
                marked: marker == START,
            };
        }
        true
    }

    /// Deals with a header that no message follows.
    fn abandon(&mut self, pieces: &mut Vec<Piece>, header: &str, marked: bool) {
        let marked = marked || header.contains(CHANNEL);
        let tool = recipient(header);
        if let Some(tool) = tool.filter(|_| marked || header.trim_start().starts_with(TO)) {
            // What ends with the name may have it in part only.
            let name = (!header.ends_with(tool)).then(|| tool.to_owned());
            pieces.push(Piece::Call(malformed(name, header, CUT)));
        } else if !marked && !header.trim().is_empty() {
            self.in_message = false;
            self.state = State::Content;
            self.give(pieces, header);
        }
    }

    fn text(&mut self, pieces: &mut Vec<Piece>, ended: bool) -> bool {
        let found = first_of(&self.held, &ENDS);
        let length = match found {
            Some((at, _)) => at,
            None if ended => self.held.len(),
            None => self.held.len() - longest_start(&self.held, ENDS.into_iter()),
        };
        let text = self.take(length);
        self.give(pieces, &text);
        match found {
            Some((_, marker)) => self.end_message(marker),
            None => return false,
        }
        true
    }

    fn call(&mut self, pieces: &mut Vec<Piece>, name: &str, ended: bool) -> bool {
        let text = self.held.trim_start();
        let blanks = self.held.len() - text.len();
        let is_object = text.starts_with('{');
        let complete = if is_object {
            json::extent(text)
        } else {
            first_of(text, &ENDS).map(|(at, _)| at)
        };
        let (length, call) = match complete {
            Some(length) if is_object => (length, json::with_arguments(name, &text[..length])),
            Some(length) => {
                let reason = "the tool call's arguments are not a JSON object";
                let call = malformed(Some(name.to_owned()), &text[..length], reason);
                (length, call)
            }
            None if ended => {
                let length = end_of_broken(text).unwrap_or(text.len());
                let call = malformed(Some(name.to_owned()), &text[..length], CUT);
                (length, call)
            }
            None => return false,
        };
        pieces.push(Piece::Call(call));
        self.take(blanks + length);
        self.state = State::Behind;
        true
    }

    fn behind(&mut self, ended: bool) -> bool {
        let text = self.held.trim_start();
        if text.is_empty() {
            return false;
        }
        let blanks = self.held.len() - text.len();
        match start(text, ended, &ENDS) {
            Start::With(marker) => {
                self.take(blanks);
                self.end_message(marker);
            }
            Start::Perhaps => return false,
            Start::Other => {
                self.in_message = false;
                self.state = State::Content;
            }
        }
        true
    }

    /// Goes on to the next header, past the marker that the text begins with
    /// unless it is part of that.
    fn end_message(&mut self, marker: &str) {
        let marked = marker == START || marker == CHANNEL;
        if marker != CHANNEL {
            self.take(marker.len());
        }
        self.state = State::Header { marked };
    }

    fn give(&mut self, pieces: &mut Vec<Piece>, text: &str) {
        if text.is_empty() {
            return;
        }
        let reasoning = matches!(self.state, State::Reasoning);
        let gave = if reasoning {
            &mut self.gave_reasoning
        } else {
            &mut self.gave_content
        };
        let between = if *gave && !self.in_message {
            "\n\n"
        } else {
            ""
        };
        *gave = true;
        self.in_message = true;
        let text = format!("{between}{text}");
        pieces.push(if reasoning {
            Piece::Reasoning(text)
        } else {
            Piece::Content(text)
        });
    }

    fn take(&mut self, length: usize) -> String {
        let rest = self.held.split_off(length);
        std::mem::replace(&mut self.held, rest)
    }
}

const CUT: &str = "the tool call ends before it is complete";

/// The first of `markers` in `text`.
fn first_of(text: &str, markers: &[&'static str]) -> Option<(usize, &'static str)> {
    let found = markers
        .iter()
        .filter_map(|marker| Some((text.find(marker)?, *marker)));
    found.min_by_key(|(at, _)| *at)
}

/// Where a call ends whose quotes or brackets do not match: at a marker with
/// another message behind it, or nothing at all.
fn end_of_broken(text: &str) -> Option<usize> {
    let ends = ENDS.iter().flat_map(|marker| text.match_indices(marker));
    let whole = ends.filter(|(at, marker)| {
        let next = text[at + marker.len()..].trim_start();
        next.is_empty() || next.starts_with(START) || *marker == START
    });
    whole.map(|(at, _)| at).min()
}

/// What stands before the recipient.
const TO: &str = "to=";

/// The tool that a message is to. Only calls have a recipient that is not one
/// of the conversation's parties.
fn recipient(header: &str) -> Option<&str> {
    let mut found = header.match_indices(TO).filter(|(at, _)| {
        let before = header[..*at].chars().next_back();
        before.is_none_or(|before| before == '>' || before.is_whitespace())
    });
    let (at, _) = found.next()?;
    let name = word(&header[at + TO.len()..]);
    let name = name.strip_prefix("functions.").unwrap_or(name);
    (!matches!(name, "" | "assistant" | "user" | "all")).then_some(name)
}

fn channel(header: &str) -> Option<&str> {
    let (_, behind) = header.split_once(CHANNEL)?;
    Some(word(behind.trim_start()))
}

/// The beginning of `text` up to a blank or a marker.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| c.is_whitespace() || c == '<');
    &text[..end.unwrap_or(text.len())]
}
