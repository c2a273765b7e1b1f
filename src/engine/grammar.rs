//! Tool calls that cannot be malformed: from the marker that opens a call to
//! the one that closes it, a model's tokens are bound to the form of a call,
//! the names of the offered tools and the JSON schema of the tool's arguments.
//! All other text is free.
//!
//! - [`Vocabulary`]: the bytes of a model's tokens; made once a model.
//! - [`CallGrammar`]: what a call to one of some tools may look like; compiled
//!   once for a set of tools and shared by requests.
//! - [`Constraint`]: the state of one generation. Sample first, ask whether the
//!   token is [accepted](Constraint::accepts), and only if it is not, sample
//!   again under the [mask](Constraint::mask).
//!
//! The names and the frame of a call are matched here; its arguments by
//! llguidance, with one grammar a tool, so that a schema it cannot express
//! loosens that tool alone.
//!
//! Knows nothing of prompts, sampling and what the tools do.

mod arguments;
mod compile;
mod constraint;
mod extent;
mod free_text;
mod head;
mod schema;
mod vocabulary;

#[cfg(test)]
mod tests;

pub use compile::{CallGrammar, Fallback, Loss, ToolSchema};
pub use constraint::{Constraint, ConstraintError, Mask};
pub use vocabulary::Vocabulary;

/// How much whitespace may stand at one place of a call. Enough for indented
/// JSON; bounded because a model can fall into writing nothing else.
const MAX_BLANKS: usize = 32;

/// How a call is written: `opener`, then a JSON object with two members, the
/// tool's name and its arguments, then `closer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallFormat {
    /// The text that opens a call.
    pub opener: String,
    /// The text that closes it.
    pub closer: String,
    /// The key of the tool's name, the object's first.
    pub name_key: String,
    /// The key of the arguments.
    pub arguments_key: String,
    /// The texts around the model's reasoning, in which a call is not a call.
    pub reasoning: Option<(String, String)>,
}

impl CallFormat {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, as the Hermes
    /// and Qwen models write it, with reasoning in `<think>`.
    pub fn hermes() -> Self {
        Self {
            opener: "<tool_call>".to_owned(),
            closer: "</tool_call>".to_owned(),
            name_key: "name".to_owned(),
            arguments_key: "arguments".to_owned(),
            reasoning: Some(("<think>".to_owned(), "</think>".to_owned())),
        }
    }

    /// All texts that structure a turn.
    fn markers(&self) -> impl Iterator<Item = &str> {
        let reasoning = self.reasoning.iter();
        let reasoning = reasoning.flat_map(|(opens, closes)| [opens.as_str(), closes.as_str()]);
        [self.opener.as_str(), self.closer.as_str()]
            .into_iter()
            .chain(reasoning)
    }
}

/// Why there is no grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// The bytes behind the tokenizer's ids cannot be told.
    #[error("the tokens' bytes cannot be told from the tokenizer: {0}")]
    Tokenizer(String),
    /// The logits are too narrow for the tokenizer, or there are no tokens.
    #[error("the model has {logits} logits but the tokenizer's ids go up to {ids}")]
    Width {
        /// The width of the logits.
        logits: usize,
        /// One more than the largest id with a text.
        ids: usize,
    },
    /// A format without an opener or a closer constrains nothing.
    #[error("a tool call's format needs an opening and a closing text")]
    Format,
    /// Without tools there is no call to allow.
    #[error("there are no tools to call")]
    NoTools,
    /// Two tools have the same name.
    #[error("there are two tools named {0:?}")]
    DuplicateTool(String),
    /// Not even plain JSON could be compiled.
    #[error("the grammar does not compile: {0}")]
    Compile(String),
}
