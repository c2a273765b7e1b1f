//! The ids of calls: the one that the model wrote with a call, where its form
//! has such a thing, and otherwise one of ours, in the shape that the form's
//! templates want.
//!
//! Templates name a call by its id where its result is; what the model wrote
//! and what it then reads is the same id.

use std::collections::HashSet;

use super::formats::{ParsedCall, ToolFormat};
use super::{Message, ToolCall};

#[cfg(test)]
mod tests;

/// The start of our ids. With five digits it makes nine characters, all
/// letters and digits, which is the one form that Mistral's templates accept.
const OURS: &str = "call";

/// The most characters that an id may have.
const LONGEST: usize = 64;

/// Names the calls of a reply, so that each id is there once in the
/// conversation.
#[derive(Debug)]
pub(super) struct Ids {
    format: ToolFormat,
    taken: HashSet<String>,
    /// The number of the next id of ours.
    next: usize,
}

impl Ids {
    /// For a reply to the conversation `messages`.
    pub(super) fn new(format: ToolFormat, messages: &[Message]) -> Self {
        let calls = messages.iter().flat_map(|message| match message {
            Message::Assistant { tool_calls, .. } => tool_calls.as_slice(),
            _ => &[],
        });
        let taken: HashSet<String> = calls.map(|call| call.id.clone()).collect();
        let number = |id: &String| match format {
            ToolFormat::KimiK2 => kimi_number(id),
            _ => id.strip_prefix(OURS)?.parse().ok(),
        };
        let last: Option<usize> = taken.iter().filter_map(number).max();
        Self {
            format,
            next: last.map_or(0, |last| last.saturating_add(1)),
            taken,
        }
    }

    /// The call with its id.
    pub(super) fn named(&mut self, call: ParsedCall) -> ToolCall {
        let ParsedCall {
            name,
            arguments,
            id,
        } = call;
        let usable = |id: &String| is_shaped(self.format, id, &name) && !self.taken.contains(id);
        let id = match id.filter(usable) {
            Some(id) => id,
            None => self.own(&name),
        };
        self.taken.insert(id.clone());
        ToolCall {
            id,
            name,
            arguments,
        }
    }

    /// The next of ours that is free.
    fn own(&mut self, name: &str) -> String {
        loop {
            let number = self.next;
            self.next = self.next.saturating_add(1);
            let id = match self.format {
                // The one place where the name is in the history.
                ToolFormat::KimiK2 if name.is_empty() => format!("functions.unknown:{number}"),
                ToolFormat::KimiK2 => format!("functions.{name}:{number}"),
                _ => format!("{OURS}{number:05}"),
            };
            if !self.taken.contains(&id) {
                return id;
            }
        }
    }
}

/// Whether the form's templates take `id` for that of a call of `name`.
fn is_shaped(format: ToolFormat, id: &str, name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    match format {
        ToolFormat::Mistral => id.len() == 9 && id.bytes().all(plain),
        ToolFormat::KimiK2 => {
            let rest = id.strip_prefix("functions.");
            let number = rest.and_then(|rest| rest.strip_prefix(name));
            number.is_some_and(|number| number.starts_with(':')) && kimi_number(id).is_some()
        }
        _ => {
            let fits = |byte: u8| plain(byte) || b"_-.:".contains(&byte);
            !id.is_empty() && id.len() <= LONGEST && id.bytes().all(fits)
        }
    }
}

/// The number in `functions.name:0`.
fn kimi_number(id: &str) -> Option<usize> {
    let (_, number) = id.strip_prefix("functions.")?.rsplit_once(':')?;
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    // What `parse` takes beyond digits is a sign.
    is_number.then(|| number.parse().ok())?
}
