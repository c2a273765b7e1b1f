//! Reads a reply that is there as a whole, as the local model's replies are
//! read while they are generated. Knows no forms and no tokens.

use super::ToolCall;
use super::formats::ToolFormat;
use super::ids::Ids;
use super::turn::{Turn, TurnReader};

/// What a reply says.
#[derive(Debug, Clone, PartialEq)]
pub struct WholeReply {
    /// The text outside of tool calls and reasoning, trimmed.
    pub content: String,
    /// The reasoning, where there was any.
    pub reasoning: Option<String>,
    /// The calls, in order, with the ids they have in a new conversation.
    pub tool_calls: Vec<ToolCall>,
}

impl WholeReply {
    /// Reads `text`, which a model that writes calls in `format` wrote behind
    /// `prompt`.
    pub fn read(format: ToolFormat, prompt: &str, text: &str) -> Self {
        let mut reader = TurnReader::new(format, prompt);
        let mut turn = Turn::default();
        turn.extend(reader.feed(text));
        turn.extend(reader.finish());
        let (content, reasoning, calls) = turn.into_parts();
        let mut ids = Ids::new(format, &[]);
        Self {
            content,
            reasoning,
            tool_calls: calls.into_iter().map(|call| ids.named(call)).collect(),
        }
    }
}
