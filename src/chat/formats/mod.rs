//! The forms models write tool calls in, one small file each. A form has a
//! text that opens a call and a `CallReader` that is fed what follows it.
//!
//! Knows nothing of what surrounds a call: [`super::turn`] finds the opening
//! text and keeps content and reasoning apart.

mod hermes;
mod json;

use super::Arguments;

/// The form a model writes its tool calls in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// JSON between `<tool_call>` and `</tool_call>`: Hermes, Qwen and many
    /// others, and what models are asked for whose template knows no tools.
    Hermes,
}

/// A call as its text says, before it has an id.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedCall {
    /// The tool's name; empty if none could be read.
    pub name: String,
    /// The arguments.
    pub arguments: Arguments,
}

/// Reads one block of calls, fed the text behind the opening marker in pieces
/// cut anywhere. How it was cut makes no difference to what is read.
pub(super) trait CallReader: Send {
    /// Takes the next piece. `None` asks for more; otherwise the block is over
    /// and the answer is what it came to.
    fn feed(&mut self, text: &str) -> Option<Block>;

    /// Takes the end of the model's turn, in the middle of a block.
    fn finish(&mut self) -> Block;
}

/// What a block came to.
#[derive(Debug, PartialEq)]
pub(super) struct Block {
    /// Its calls, in order.
    pub(super) calls: Vec<ParsedCall>,
    /// What was fed and does not belong to it.
    pub(super) rest: String,
}

impl ToolFormat {
    /// The form that a template's own markers show.
    pub(super) fn of_template(_template: &str) -> Self {
        Self::Hermes
    }

    /// The text that opens a block of calls.
    pub(super) fn opening(self) -> &'static str {
        match self {
            Self::Hermes => hermes::OPENING,
        }
    }

    /// The text that closes one, which models sometimes write once too often.
    pub(super) fn closing(self) -> &'static str {
        match self {
            Self::Hermes => hermes::CLOSING,
        }
    }

    /// A reader for one block.
    pub(super) fn reader(self) -> Box<dyn CallReader> {
        match self {
            Self::Hermes => Box::new(hermes::Reader::default()),
        }
    }
}
