//! What tool calls came to, as the model is shown it: errors marked, long
//! texts cut, and cut harder where the model's context is full. Does not know
//! who made the calls.

use crate::chat::Message;
use crate::excerpt::head;

/// What stands for a result that cannot be shown at all.
const TOO_LONG: &str = "Error: the result is too long for the conversation; \
                        ask for less, or answer without it.";

/// How often the newest results are cut harder, each time to a quarter.
const CUTS: u32 = 3;

/// A tool call's result. The text may already be a head; the length is that
/// of the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ToolResult {
    text: String,
    characters: usize,
}

/// Makes tool results shorter step by step, the newest first: they are what
/// made the conversation too long.
#[derive(Debug, Default)]
pub(super) struct Shrinking {
    steps: u32,
}

impl ToolResult {
    /// The result of a call that went well.
    pub(super) fn ok(text: String) -> Self {
        let characters = text.chars().count();
        Self { text, characters }
    }

    /// The result of a call that went wrong.
    pub(super) fn error(text: String) -> Self {
        if text.starts_with("Error: ") {
            Self::ok(text)
        } else {
            Self::ok(format!("Error: {text}"))
        }
    }

    /// Forgets what is beyond `limit` characters.
    pub(super) fn cut(&mut self, limit: usize) {
        let kept = head(&self.text, limit).len();
        self.text.truncate(kept);
        self.text.shrink_to_fit();
    }

    /// The first `limit` characters, with a note if that is not all.
    pub(super) fn shown(&self, limit: usize) -> String {
        let head = head(&self.text, limit);
        let shown = head.chars().count();
        if shown == self.characters {
            return head.to_owned();
        }
        format!(
            "{head}\n[cut: only the first {shown} of {} characters are shown]",
            self.characters
        )
    }
}

impl Shrinking {
    /// Makes results in `messages` shorter; `newest` are the last turn's and
    /// where they stand. False if nothing is left to be made shorter.
    pub(super) fn step(
        &mut self,
        messages: &mut [Message],
        newest: &[(usize, ToolResult)],
    ) -> bool {
        let longest = newest
            .iter()
            .map(|(_, result)| result.text.chars().count())
            .max()
            .unwrap_or(0);
        let mut changed = false;
        while !changed && self.steps < CUTS + 2 {
            self.steps += 1;
            if self.steps <= CUTS {
                let limit = longest / 4_usize.pow(self.steps);
                for (index, result) in newest {
                    changed |= shorten(&mut messages[*index], result.shown(limit));
                }
            } else if self.steps == CUTS + 1 {
                for (index, _) in newest {
                    changed |= shorten(&mut messages[*index], TOO_LONG.to_owned());
                }
            } else {
                for message in &mut *messages {
                    changed |= shorten(message, TOO_LONG.to_owned());
                }
            }
        }
        changed
    }
}

/// Puts `text` in the place of a tool's result if it is shorter.
fn shorten(message: &mut Message, text: String) -> bool {
    match message {
        Message::Tool { content, .. } if text.len() < content.len() => {
            *content = text;
            true
        }
        _ => false,
    }
}
