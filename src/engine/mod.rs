//! The engine: one OS thread that owns the model and turns token ids into
//! more token ids. `submit` a request, read its events.
//!
//! Knows nothing of JSON, HTTP, MCP or what the prompt says.

use std::time::Duration;

/// How the next token is chosen from the logits. The definitions are those of
/// mlx-lm's `sample_utils`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token; larger is more random.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this times the most likely; 0 drops none.
    pub min_p: f32,
    /// `min_p` never leaves fewer tokens than this.
    pub min_tokens_to_keep: usize,
    /// Makes the choice repeatable.
    pub seed: u64,
}

/// What the engine is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The prompt; at least one token.
    pub prompt: Vec<u32>,
    /// The most tokens to generate; at least one. The context's end may come first.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// What the engine says of a request, in order: any number of `Text`, then
/// one `Finished` or one `Failed`, then nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// More text, never half a character.
    Text(String),
    /// The end.
    Finished {
        /// Why.
        reason: FinishReason,
        /// What it cost.
        usage: Usage,
    },
    /// The request came to nothing.
    Failed(EngineError),
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model produced an end-of-sequence token.
    Stop,
    /// `max_tokens` were generated or the context is full.
    Length,
}

/// What a request cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, the end-of-sequence token included.
    pub generated_tokens: usize,
    /// From submission to the first generated token.
    pub time_to_first_token: Duration,
}

/// Why the engine could not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The prompt does not fit the context.
    #[error("the prompt has {needed} tokens but the context holds {limit}")]
    ContextExceeded {
        /// Tokens of the prompt plus the one that must be generated.
        needed: usize,
        /// Tokens the context holds.
        limit: usize,
    },
    /// The model failed on this request.
    #[error("{0}")]
    Model(String),
    /// The engine thread is gone.
    #[error("the engine has stopped")]
    Stopped,
}

/// A running engine. Cheap to clone; the thread ends when the last clone is
/// dropped and `EngineThread::join` waits for it.
#[derive(Clone)]
pub struct Engine {}

/// The events of one request. Dropping it cancels the request before the
/// engine's next step.
pub struct Events {}

impl Engine {
    /// Hands a request to the engine. Never blocks.
    pub fn submit(&self, _request: Request) -> Events {
        unimplemented!()
    }
}

impl Events {
    /// The next event; `None` after the last one.
    pub async fn next(&mut self) -> Option<Event> {
        unimplemented!()
    }
}
