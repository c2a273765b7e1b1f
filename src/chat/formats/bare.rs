//! Calls that no marker opens: JSON at the beginning of the turn's content,
//! which is a call only if it has a call's name and arguments. And the last
//! resort, `Json`: bare JSON as the whole content, in a fence or not, or JSON
//! between the markers that some templates have which have no form of their own
//! here.
//!
//! Where it is known that there are no tools, bare JSON is content.

use super::json_block::Reader as Marked;
use super::steps::malformed;
use super::{Block, CallReader, Form, ParsedCall, THINK, hermes, json, python};

/// How calls look that nothing opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::chat) enum Bare {
    /// JSON objects with `;` between them. What follows is content.
    Llama,
    /// As `Llama`, with `functools` before an array.
    Functools,
    /// JSON that is the whole content; in a fence or not, with `functools` or
    /// without.
    Whole,
}

const FUNCTOOLS: &str = "functools[";
const FENCES: [&str; 2] = ["```json", "```"];
const FENCE: &str = "```";

/// Markers around JSON: Hermes', those of Nemotron Nano 2, and those of
/// MiniMax M1 and Apriel.
const MARKERS: [(&str, &str); 3] = [
    (hermes::OPENING, hermes::CLOSING),
    ("<TOOLCALL>", "</TOOLCALL>"),
    ("<tool_calls>", "</tool_calls>"),
];

pub(super) const FORM: Form = Form {
    openings: &[MARKERS[0].0, MARKERS[1].0, MARKERS[2].0],
    closings: &[MARKERS[0].1, MARKERS[1].1, MARKERS[2].1],
    reasoning: &[THINK],
    answer: &[],
    reader: |opening, _| {
        let pair = MARKERS.iter().find(|(text, _)| *text == opening);
        let (_, closing) = pair.unwrap_or(&MARKERS[0]);
        Box::new(Marked::new(opening, closing))
    },
    bare: Some(Bare::Whole),
};

impl Bare {
    /// Whether content that begins with `text`, which begins with no blank, may
    /// be such a call. `None` if more text will tell.
    pub(in crate::chat) fn begins(self, text: &str) -> Option<bool> {
        let starts: &[&str] = match self {
            Self::Llama => &["{", "["],
            Self::Functools => &[FUNCTOOLS],
            Self::Whole => &["{", "[", FUNCTOOLS, FENCE],
        };
        if starts.iter().any(|start| text.starts_with(start)) {
            return Some(true);
        }
        let open = starts.iter().any(|start| start.starts_with(text));
        (!open).then_some(false)
    }

    /// A reader of such a call, fed the content from its beginning. What turns
    /// out to be no call comes back as the rest of a block without calls.
    pub(in crate::chat) fn reader(self) -> Box<dyn CallReader> {
        Box::new(Reader::new(self, false))
    }
}

/// Reads bare JSON.
pub(super) struct Reader {
    bare: Bare,
    /// Whether a marker says that it is a call.
    marked: bool,
    text: String,
    /// What the calls are written as so far, with what is between them.
    taken: String,
    calls: Vec<ParsedCall>,
    /// Whether a fence stands before the JSON.
    fenced: bool,
}

/// What the text comes to.
enum Looked {
    More,
    /// There is no call in it, or none any more.
    Over,
    Took,
}

impl Reader {
    pub(super) fn new(bare: Bare, marked: bool) -> Self {
        Self {
            bare,
            marked,
            text: String::new(),
            taken: String::new(),
            calls: Vec::new(),
            fenced: false,
        }
    }

    fn take(&mut self, length: usize) -> String {
        let rest = self.text.split_off(length);
        let taken = std::mem::replace(&mut self.text, rest);
        self.taken.push_str(&taken);
        taken
    }

    fn look(&mut self, ended: bool) -> Looked {
        let text = self.text.trim_start();
        let blanks = self.text.len() - text.len();
        if text.is_empty() {
            return Looked::More;
        }
        if self.calls.is_empty() && !self.marked && self.taken.is_empty() {
            return self.prefix(blanks, ended);
        }
        if text.starts_with(['{', '[']) {
            return self.json(blanks, ended);
        }
        if !self.calls.is_empty() {
            let between = if self.bare == Bare::Whole { ',' } else { ';' };
            if text.starts_with(between) {
                self.take(blanks + 1);
                return Looked::Took;
            }
            if self.fenced && text.starts_with(FENCE) {
                self.fenced = false;
                self.take(blanks + FENCE.len());
                return Looked::Took;
            }
            if self.fenced && FENCE.starts_with(text) {
                return Looked::More;
            }
            return Looked::Over;
        }
        if !self.marked {
            return Looked::Over;
        }
        match python::call(text) {
            Ok((mut call, length)) => {
                // Llama's notation of its built-in tools.
                if let Some(name) = call.name.strip_suffix(".call") {
                    call.name = name.to_owned();
                }
                self.take(blanks + length);
                self.calls.push(call);
                Looked::Took
            }
            Err(python::Stop::More) => Looked::More,
            Err(python::Stop::Bad) if ended => Looked::Over,
            // Python's code, to the end of the turn.
            Err(python::Stop::Bad) => Looked::More,
        }
    }

    /// Takes what may stand before the JSON.
    fn prefix(&mut self, blanks: usize, ended: bool) -> Looked {
        let text = &self.text[blanks..];
        let fence = FENCES.iter().find(|fence| text.starts_with(**fence));
        if let Some(fence) = fence {
            // The name of the fence's language may still be coming.
            let behind = text[fence.len()..].trim_start();
            if behind.is_empty() || "json".starts_with(behind) {
                return Looked::More;
            }
            self.fenced = true;
            let length = blanks + fence.len();
            self.take(length);
            return Looked::Took;
        }
        if text.starts_with(FUNCTOOLS) {
            self.take(blanks + FUNCTOOLS.len() - 1);
            return Looked::Took;
        }
        if text.starts_with(['{', '[']) {
            return self.json(blanks, ended);
        }
        Looked::More
    }

    fn json(&mut self, blanks: usize, ended: bool) -> Looked {
        let text = &self.text[blanks..];
        let length = match json::extent(text) {
            Some(length) => length,
            None if !ended => return Looked::More,
            // Behind a call it is another one, however little there is of it.
            None if self.marked || !self.calls.is_empty() || json::is_call(text) => {
                let reason = "the tool call's JSON ends before it is complete";
                let call = json::malformed(text, reason.to_owned());
                self.take(self.text.len());
                self.calls.push(call);
                return Looked::Took;
            }
            None => return Looked::Over,
        };
        let value = &text[..length];
        if !(self.marked || json::is_call(value)) {
            return Looked::Over;
        }
        let calls = json::calls(value);
        self.take(blanks + length);
        self.calls.extend(calls);
        Looked::Took
    }

    /// The block, now that no more calls come.
    fn over(&mut self, ended: bool) -> Block {
        let mut calls = std::mem::take(&mut self.calls);
        let mut rest = std::mem::take(&mut self.text);
        let left = rest.trim();
        let none_left = left.is_empty() || (self.fenced && FENCE.starts_with(left));
        if !calls.is_empty() && ended && none_left {
            rest.clear();
        } else if self.bare == Bare::Whole {
            calls.clear();
        }
        if calls.is_empty() {
            rest.insert_str(0, &self.taken);
        }
        if calls.is_empty() && self.marked {
            let reason = "what follows <|python_tag|> is not a tool call";
            calls.push(malformed(None, &std::mem::take(&mut rest), reason));
        }
        Block { calls, rest }
    }
}

impl CallReader for Reader {
    fn feed(&mut self, text: &str) -> Option<Block> {
        self.text.push_str(text);
        loop {
            match self.look(false) {
                Looked::More => return None,
                Looked::Took => {}
                Looked::Over => return Some(self.over(false)),
            }
        }
    }

    fn finish(&mut self) -> Block {
        while let Looked::Took = self.look(true) {}
        self.over(true)
    }
}
