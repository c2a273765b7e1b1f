//! Where text meets tokens: messages, the model's chat template, the formats
//! tool calls are written in, and the split between reasoning and answer.
//!
//! Knows nothing of HTTP and nothing of MCP.

pub mod formats;
mod ids;
pub mod local;
mod reasoning;
pub mod template;
pub mod turn;
mod whole_reply;

pub use crate::engine::{FinishReason as Finish, Usage};
pub use local::{LocalModel, Settings, Written};
pub use template::ChatTemplate;
pub use whole_reply::WholeReply;

use futures::future::BoxFuture;
use serde_json::{Map, Value};

/// A tool as the model is told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSpec {
    /// The name the model calls it by.
    pub name: String,
    /// What it does; may be empty.
    pub description: String,
    /// The JSON schema of its arguments.
    pub parameters: Value,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The operator's instructions.
    System(String),
    /// What the user said.
    User(String),
    /// What the model said.
    Assistant {
        /// The text outside of tool calls and reasoning.
        content: String,
        /// The text between the reasoning markers, where there was any.
        reasoning: Option<String>,
        /// The calls it made, in order.
        tool_calls: Vec<ToolCall>,
        /// The reply's record, if the message is a reply of this model's:
        /// what is in it then costs nothing in the next prompt. The other
        /// fields alone say what the message is.
        written: Option<Written>,
    },
    /// What a tool call came to.
    Tool {
        /// The `id` of the call.
        call_id: String,
        /// The tool's name.
        name: String,
        /// The result.
        content: String,
    },
}

/// A tool call the model made.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// Unique within the conversation.
    pub id: String,
    /// The tool's name as the model wrote it. Empty if none could be read.
    pub name: String,
    /// The arguments.
    pub arguments: Arguments,
}

/// The arguments of a tool call as the model wrote them.
#[derive(Debug, Clone, PartialEq)]
pub enum Arguments {
    /// A JSON object.
    Object(Map<String, Value>),
    /// Something that is not a JSON object.
    Malformed {
        /// The call's text as the model wrote it.
        text: String,
        /// What is wrong with it, in one sentence the model can use.
        reason: String,
    },
}

/// What the model is asked.
#[derive(Debug, Clone, Copy)]
pub struct ChatRequest<'a> {
    /// The conversation so far, oldest first.
    pub messages: &'a [Message],
    /// The tools it may call; none if empty.
    pub tools: &'a [ToolSpec],
}

/// What the model said.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The text outside of tool calls and reasoning, trimmed.
    pub content: String,
    /// The reasoning, where there was any.
    pub reasoning: Option<String>,
    /// The calls it wants made, in order.
    pub tool_calls: Vec<ToolCall>,
    /// Why it stopped.
    pub finish: Finish,
    /// What it cost.
    pub usage: Usage,
    /// A record for the [`Message::Assistant`] that this becomes, from models
    /// that keep one.
    pub written: Option<Written>,
}

/// Why the model gave no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    /// The conversation does not fit the model's context.
    #[error("the conversation needs {needed} tokens but the context holds {limit}")]
    ContextExceeded {
        /// Tokens of the conversation, with one at least to generate.
        needed: usize,
        /// Tokens the context holds.
        limit: usize,
    },
    /// The chat template refused the conversation or failed.
    #[error("the chat template failed: {0}")]
    Template(String),
    /// The engine failed or is gone.
    #[error("the engine failed: {0}")]
    Engine(String),
}

/// A model that can be talked to: the local engine, and in tests a script.
pub trait ChatModel: Send + Sync {
    /// Generates the assistant's next turn. Dropping the future cancels the
    /// generation.
    ///
    /// Where the conversation goes on from an earlier reply and its message
    /// has that reply's [`Reply::written`], the model need not take in again
    /// what it was given and what it wrote then.
    fn reply<'a>(&'a self, request: ChatRequest<'a>) -> BoxFuture<'a, Result<Reply, ChatError>>;

    /// Does the work of a request up to the first token and throws the token
    /// away: what the model needs is in place afterwards, and what cannot
    /// work has shown.
    fn warm_up<'a>(&'a self, request: ChatRequest<'a>) -> BoxFuture<'a, Result<Usage, ChatError>>;
}
