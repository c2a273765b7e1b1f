//! Held-out conversations of the bundled model's kind, and what is right in
//! them. `models/demo/training/held_out.py` writes them.

use std::path::Path;

use llm_server::model::Tokenizer;
use serde::Deserialize;
use serde_json::Value;

/// What ends a turn.
pub(crate) const END: &str = "<|im_end|>";

#[derive(Deserialize)]
struct Line {
    parts: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Part {
    Text {
        text: String,
    },
    Reply {
        reply: String,
        calls: Option<Vec<Value>>,
        holds: Option<Vec<String>>,
    },
}

/// A conversation.
pub(crate) struct Conversation {
    pub(crate) tokens: Vec<u32>,
    /// Whether each of them is the model's to say.
    pub(crate) replies: Vec<bool>,
    pub(crate) scored: Vec<Scored>,
}

/// A reply that can be right or wrong.
pub(crate) struct Scored {
    /// How many tokens of the conversation are before it.
    pub(crate) behind: usize,
    right: Right,
}

enum Right {
    /// These calls, in any order, and no other.
    Calls(Vec<Value>),
    /// No call, and all of these.
    Holds(Vec<String>),
}

/// Reads all conversations.
pub(crate) fn read(path: &Path, tokenizer: &Tokenizer) -> Vec<Conversation> {
    let text = std::fs::read_to_string(path);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.map(|line| conversation(line, tokenizer)).collect()
}

fn conversation(line: Line, tokenizer: &Tokenizer) -> Conversation {
    let mut conversation = Conversation {
        tokens: Vec::new(),
        replies: Vec::new(),
        scored: Vec::new(),
    };
    for part in line.parts {
        let behind = conversation.tokens.len();
        let (text, is_reply, right) = match part {
            Part::Text { text } => (text, false, None),
            Part::Reply {
                reply,
                calls,
                holds,
            } => {
                let calls = calls.map(Right::Calls);
                (reply, true, calls.or(holds.map(Right::Holds)))
            }
        };
        // Part by part, as prompts and replies become tokens.
        conversation.tokens.extend(tokenizer.encode(&text).unwrap());
        let end = conversation.tokens.len();
        conversation.replies.resize(end, is_reply);
        let scored = right.map(|right| Scored { behind, right });
        conversation.scored.extend(scored);
    }
    conversation
}

impl Scored {
    /// Whether `reply`, without what ends it, is right.
    pub(crate) fn is_right(&self, reply: &str) -> bool {
        let Some(mut said) = calls(reply) else {
            return false;
        };
        match &self.right {
            Right::Holds(parts) => said.is_empty() && parts.iter().all(|part| reply.contains(part)),
            Right::Calls(calls) => {
                let all = calls.iter().all(|call| {
                    let place = said.iter().position(|said| said == call);
                    place.map(|place| said.swap_remove(place)).is_some()
                });
                all && said.is_empty()
            }
        }
    }
}

/// The calls in a reply, `None` if one of them cannot be read.
fn calls(reply: &str) -> Option<Vec<Value>> {
    let mut pieces = reply.split("<tool_call>\n");
    pieces.next();
    pieces
        .map(|piece| {
            let (call, _) = piece.split_once("\n</tool_call>")?;
            serde_json::from_str(call).ok()
        })
        .collect()
}
