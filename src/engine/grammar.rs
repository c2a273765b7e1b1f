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
//! What a call looks like is told by a [`CallFormat`], of which there is one for
//! each family of models. The names and the frame of a call are matched here;
//! its arguments by llguidance, with one grammar a tool, so that a schema it
//! cannot express loosens that tool alone. Arguments are JSON by the schema, or
//! literals or texts between tags, in which the schema binds as far as such
//! forms go; what is lost comes back as a [`Fallback`].
//!
//! Knows nothing of prompts, sampling and what the tools do.

mod arguments;
mod choice;
mod compile;
mod constraint;
mod dead_end;
mod extent;
mod families;
mod format;
mod free_text;
mod head;
mod literals;
mod members;
mod outline;
mod patterns;
mod schema;
mod search;
mod source;
mod tag_families;
mod tagged;
mod vocabulary;

#[cfg(test)]
mod tests;

pub use compile::{CallGrammar, Fallback, Loss, ToolSchema};
pub use constraint::{Constraint, ConstraintError, Mask};
pub use format::CallFormat;
pub use vocabulary::Vocabulary;

/// How much whitespace may stand at one place of a call. Enough for indented
/// JSON; bounded because a model can fall into writing nothing else.
const MAX_BLANKS: usize = 32;

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
