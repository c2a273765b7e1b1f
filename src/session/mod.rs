//! One request's tool loop: ask the model, run the tool calls it makes at
//! once, feed the results back, until it answers or a limit is reached.
//!
//! Knows nothing of HTTP and nothing of tokens.

use std::sync::Arc;

use crate::chat::ChatModel;
use crate::mcp::Registry;

/// What the loop is told by the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The system prompt every conversation begins with; may be empty.
    pub system_prompt: String,
    /// How many rounds of tool calls a request may use before the model has
    /// to answer without tools.
    pub max_tool_rounds: usize,
    /// The longest tool result the model is shown, in characters; what is
    /// beyond is cut, with a note that says so.
    pub tool_result_limit: usize,
}

/// Answers prompts with a model and the tools of the MCP servers.
pub struct ToolLoop {
    model: Arc<dyn ChatModel>,
    tools: Arc<Registry>,
    settings: Settings,
}

/// A prompt's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What the model said in the end, without its reasoning.
    pub text: String,
}

/// Why a prompt has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The prompt does not fit the model's context, even alone.
    #[error("the prompt needs {needed} tokens but the context holds {limit}")]
    PromptTooLong {
        /// Tokens of the conversation, with one at least to generate.
        needed: usize,
        /// Tokens the context holds.
        limit: usize,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] crate::chat::ChatError),
}

impl ToolLoop {
    /// A loop over `model` that offers it `tools`.
    pub fn new(model: Arc<dyn ChatModel>, tools: Arc<Registry>, settings: Settings) -> Self {
        Self {
            model,
            tools,
            settings,
        }
    }

    /// Answers one prompt. Dropping the future cancels the generation and
    /// the tool calls.
    ///
    /// # Errors
    /// If the prompt is too long or the model fails; never because of a tool.
    pub async fn answer(&self, _prompt: &str) -> Result<Answer, SessionError> {
        unimplemented!()
    }
}
