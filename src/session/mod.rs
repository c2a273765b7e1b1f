//! One request's tool loop: ask the model, run the tool calls it makes at
//! once, feed the results back, until it answers or a limit is reached.
//!
//! Knows nothing of HTTP and nothing of tokens but their numbers.

mod results;
mod tools;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tracing::{info, warn};

use crate::chat::{ChatError, ChatModel, ChatRequest, Finish, Message, Reply, ToolSpec, Usage};
use results::{Shrinking, ToolResult};
pub use tools::ToolSource;

/// What the user reads where the model has used all its rounds and then says
/// nothing, not even without tools.
const NOTHING_AFTER_THE_LAST_ROUND: &str =
    "The limit on rounds of tool calls was reached before there was an answer.";

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
    tools: Arc<dyn ToolSource>,
    settings: Settings,
}

/// A prompt's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What the model said in the end, without its reasoning.
    pub text: String,
    /// How often the model was asked.
    pub rounds: usize,
    /// Tokens of the prompts of all rounds together. A round's prompt holds
    /// the rounds before it, so that this counts the beginning several times.
    pub prompt_tokens: usize,
    /// Tokens generated in all rounds together.
    pub generated_tokens: usize,
    /// From the first round's submission to its first generated token.
    pub time_to_first_token: Duration,
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
    Model(#[from] ChatError),
}

/// What a request has cost so far.
#[derive(Debug, Default)]
struct Tally {
    rounds: usize,
    prompt_tokens: usize,
    generated_tokens: usize,
    time_to_first_token: Duration,
}

/// A conversation under way.
struct Conversation {
    messages: Vec<Message>,
    /// Where the newest tool results stand in `messages`, and what they say:
    /// they are what gives way when the context is full.
    newest: Vec<(usize, ToolResult)>,
}

impl ToolLoop {
    /// A loop over `model` that offers it `tools`.
    pub fn new(model: Arc<dyn ChatModel>, tools: Arc<dyn ToolSource>, settings: Settings) -> Self {
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
    pub async fn answer(&self, prompt: &str) -> Result<Answer, SessionError> {
        // One list for the whole request: the tools are part of the prompt's
        // beginning, and a prompt that keeps its beginning is not computed
        // again. A tool that vanishes meanwhile answers with an error.
        let offered: Vec<ToolSpec> = self.offered();
        let mut conversation = Conversation::new(&self.settings.system_prompt, prompt);
        let mut tally = Tally::default();
        for _ in 0..self.settings.max_tool_rounds {
            let reply = self.ask(&mut conversation, &offered, &mut tally).await?;
            if reply.tool_calls.is_empty() {
                return Ok(conclude(reply, tally));
            }
            // The calls run at once; each server's time-out is the tool
            // source's to keep, and the results come in the calls' order.
            let calls = reply.tool_calls.iter();
            let run = |call| tools::run(&*self.tools, &offered, call);
            let results = join_all(calls.map(run)).await;
            conversation.extend(reply, results, self.settings.tool_result_limit);
        }
        let reply = self.ask(&mut conversation, &[], &mut tally).await?;
        Ok(conclude_without_tools(reply, tally))
    }

    /// Has the model evaluate what every request begins with, and says what
    /// that cost.
    ///
    /// # Errors
    /// If the model cannot take it.
    pub async fn warm_up(&self) -> Result<Usage, SessionError> {
        let offered = self.offered();
        let conversation = Conversation::new(&self.settings.system_prompt, "Hello");
        let request = ChatRequest {
            messages: &conversation.messages,
            tools: &offered,
        };
        self.model
            .warm_up(request)
            .await
            .map_err(|error| match error {
                ChatError::ContextExceeded { needed, limit } => {
                    SessionError::PromptTooLong { needed, limit }
                }
                other => other.into(),
            })
    }

    fn offered(&self) -> Vec<ToolSpec> {
        let tools = self.tools.tools();
        let specs = tools.iter().map(|tool| ToolSpec {
            name: tool.name.clone(),
            description: tool.description.clone(),
            parameters: tool.input_schema.clone(),
        });
        specs.collect()
    }

    /// Asks the model for its next turn. Where the context is full, tool
    /// results are made shorter and it is asked again, a bounded number of
    /// times.
    async fn ask(
        &self,
        conversation: &mut Conversation,
        tools: &[ToolSpec],
        tally: &mut Tally,
    ) -> Result<Reply, SessionError> {
        let mut shrinking = Shrinking::default();
        loop {
            let request = ChatRequest {
                messages: &conversation.messages,
                tools,
            };
            let (needed, limit) = match self.model.reply(request).await {
                Ok(reply) => {
                    tally.add(&reply);
                    return Ok(reply);
                }
                Err(ChatError::ContextExceeded { needed, limit }) => (needed, limit),
                Err(error) => return Err(error.into()),
            };
            if tally.rounds == 0 {
                return Err(SessionError::PromptTooLong { needed, limit });
            }
            if !shrinking.step(&mut conversation.messages, &conversation.newest) {
                return Err(ChatError::ContextExceeded { needed, limit }.into());
            }
            warn!(
                needed,
                limit, "the context is full: tool results are made shorter"
            );
        }
    }
}

impl Conversation {
    fn new(system_prompt: &str, prompt: &str) -> Self {
        let mut messages = Vec::new();
        if !system_prompt.is_empty() {
            messages.push(Message::System(system_prompt.to_owned()));
        }
        messages.push(Message::User(prompt.to_owned()));
        Self {
            messages,
            newest: Vec::new(),
        }
    }

    /// Appends the model's turn and what its calls came to, which are as many
    /// as the calls and in their order.
    fn extend(&mut self, reply: Reply, results: Vec<ToolResult>, limit: usize) {
        debug_assert_eq!(reply.tool_calls.len(), results.len());
        let calls = reply.tool_calls.clone();
        self.messages.push(Message::Assistant {
            content: reply.content,
            reasoning: reply.reasoning,
            tool_calls: reply.tool_calls,
            written: reply.written,
        });
        self.newest.clear();
        for (call, mut result) in calls.into_iter().zip(results) {
            result.cut(limit);
            self.newest.push((self.messages.len(), result.clone()));
            self.messages.push(Message::Tool {
                call_id: call.id,
                name: call.name,
                content: result.shown(limit),
            });
        }
    }
}

impl Tally {
    fn add(&mut self, reply: &Reply) {
        if self.rounds == 0 {
            self.time_to_first_token = reply.usage.time_to_first_token;
        }
        self.rounds += 1;
        self.prompt_tokens += reply.usage.prompt_tokens;
        self.generated_tokens += reply.usage.generated_tokens;
        info!(
            round = self.rounds,
            prompt_tokens = reply.usage.prompt_tokens,
            cached_tokens = reply.usage.cached_tokens,
            prefilled_tokens = reply.usage.prefilled_tokens,
            generated_tokens = reply.usage.generated_tokens,
            calls = reply.tool_calls.len(),
            "the model replied"
        );
    }

    fn answer(self, text: String) -> Answer {
        Answer {
            text,
            rounds: self.rounds,
            prompt_tokens: self.prompt_tokens,
            generated_tokens: self.generated_tokens,
            time_to_first_token: self.time_to_first_token,
        }
    }
}

/// The answer of a reply that makes no calls.
fn conclude(reply: Reply, tally: Tally) -> Answer {
    if reply.finish == Finish::Length {
        warn!("the answer is cut: the limit on tokens or the context's end was reached");
    } else if reply.content.is_empty() {
        warn!("the model ended its turn without a word and without a call");
    }
    tally.answer(reply.content)
}

/// The answer of the last reply, which was offered no tools: calls it makes
/// nevertheless are not run.
fn conclude_without_tools(reply: Reply, tally: Tally) -> Answer {
    let ignored = reply.tool_calls.len();
    if tally.rounds > 1 {
        warn!(ignored, "the limit on rounds of tool calls was reached");
    }
    if reply.content.is_empty() {
        return tally.answer(NOTHING_AFTER_THE_LAST_ROUND.to_owned());
    }
    conclude(reply, tally)
}

#[cfg(test)]
mod tests;
