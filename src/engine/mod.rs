//! The engine: one OS thread that owns the model and turns token ids into
//! more token ids. `submit` a request, read its events.
//!
//! Knows nothing of JSON, HTTP, MCP or what the prompt says.

mod detokenizer;
mod draws;
mod generation;
pub mod grammar;
mod preamble_store;
mod prefix_cache;
mod scheduler;
mod worker;

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc as events, oneshot, watch};
use tracing::Span;

use crate::model::{Fingerprint, Model, ModelError, ModelInfo, Tokenizer, USUAL_SEQUENCES};
use grammar::CallGrammar;
use worker::{Job, Worker};

/// What the engine is told by the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The most tokens a sequence may have, prompt and generated; `None` is
    /// what the model was made for.
    pub context_length: Option<usize>,
    /// The tokens that end a turn.
    pub end_of_sequence: Vec<u32>,
    /// The most requests worked on at once; the others wait.
    pub max_batch: usize,
    /// The most bytes of keys and values and of the states beside them, of
    /// requests and parked sequences together; `None` is no limit. A prompt that takes more is refused, a
    /// request that does not fit beside the others waits.
    pub kv_bytes: Option<usize>,
    /// The most bytes of keys and values, and of the states beside them, of
    /// sequences that are parked for prompts that begin like them; 0 parks
    /// none.
    pub prefix_cache_bytes: usize,
    /// Where the pinned sequence is kept over a restart; `None` keeps it
    /// nowhere, and so does a model with states.
    pub preambles: Option<PreambleFolder>,
}

/// A folder of keys and values.
#[derive(Debug, Clone)]
pub struct PreambleFolder {
    /// The folder; made if there is none.
    pub path: PathBuf,
    /// The model's files: keys and values of other files are not used.
    pub model: Fingerprint,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            context_length: None,
            end_of_sequence: Vec::new(),
            max_batch: USUAL_SEQUENCES,
            kv_bytes: None,
            prefix_cache_bytes: 2 << 30,
            preambles: None,
        }
    }
}

/// How the next token is chosen from the logits. The definitions are those of
/// mlx-lm's `sample_utils`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token; larger is more random.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps
    /// all, and so does 0.
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
    /// What tool calls may look like; `None` lets them be anything.
    pub calls: Option<Calls>,
    /// Whether the prompt is one that many others will begin like: it stays
    /// in the prefix cache until another such request has ended.
    pub pin: bool,
    /// How many of the prompt's tokens other prompts are likely to begin with
    /// before they part from it: up to the end of the preamble, of the last
    /// message. Of use only where [`ModelInfo::state_bytes`] is not 0, and only
    /// a few are used; in any order, and what cannot be is ignored.
    pub boundaries: Vec<usize>,
}

/// What binds a request's tool calls.
#[derive(Debug, Clone)]
pub struct Calls {
    /// The calls there may be.
    pub grammar: CallGrammar,
    /// Whether the prompt ends inside the model's reasoning, where a call is
    /// none.
    pub in_reasoning: bool,
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
        /// The ids that were generated, without the end-of-sequence token if
        /// one was the last: what ends a turn in a prompt, its writer knows.
        tokens: Vec<u32>,
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
    /// Those of them whose keys and values were there already, from other
    /// requests.
    pub cached_tokens: usize,
    /// Those of them that were evaluated: all others.
    pub prefilled_tokens: usize,
    /// Tokens generated, the end-of-sequence token included.
    pub generated_tokens: usize,
    /// From submission to the first generated token.
    pub time_to_first_token: Duration,
}

/// Why the engine could not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The prompt does not fit the context, or the memory for it.
    #[error("the prompt has {needed} tokens but the context holds {limit}")]
    ContextExceeded {
        /// Tokens of the prompt plus the one that must be generated.
        needed: usize,
        /// Tokens the context holds, or the memory if that is less.
        limit: usize,
    },
    /// The model failed on this request.
    #[error("{0}")]
    Model(String),
    /// The engine thread is gone.
    #[error("the engine has stopped")]
    Stopped,
}

/// Why the engine is not running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The model did not load.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The operating system gave no thread.
    #[error("cannot start the engine's thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The thread panicked while it loaded the model.
    #[error("the engine failed while it loaded the model")]
    Panicked,
}

/// A running engine. Clones share it; when the last one is dropped the
/// engine finishes the requests it has and its thread ends.
#[derive(Clone)]
pub struct Engine {
    jobs: mpsc::Sender<Job>,
    info: Arc<ModelInfo>,
    context_length: usize,
    end_of_sequence: Arc<[u32]>,
}

/// The engine's thread.
pub struct EngineThread {
    handle: JoinHandle<()>,
    /// Dropped by the thread as it ends, in whatever way.
    alive: watch::Receiver<()>,
}

/// The events of one request. Dropping it cancels the request before the
/// engine's next step.
pub struct Events {
    receiver: events::UnboundedReceiver<Event>,
    ended: bool,
}

/// Starts an engine. `load` runs on its thread, which will own the model;
/// the future is ready when the model is.
///
/// # Errors
/// If the model does not load.
pub async fn start<L>(
    load: L,
    tokenizer: Arc<Tokenizer>,
    settings: Settings,
) -> Result<(Engine, EngineThread), StartError>
where
    L: FnOnce() -> Result<Box<dyn Model>, ModelError> + Send + 'static,
{
    let (jobs, queue) = mpsc::channel();
    let (loaded, wait) = oneshot::channel();
    let (still_alive, alive) = watch::channel(());
    let end_of_sequence: Arc<[u32]> = settings.end_of_sequence.as_slice().into();
    let span = Span::current();
    let handle = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || {
            let _still_alive = still_alive;
            let model = match span.in_scope(load) {
                Ok(model) => model,
                Err(error) => {
                    // Nobody waiting any more is no reason to go on.
                    let _ = loaded.send(Err(error));
                    return;
                }
            };
            let info = Arc::new(model.info().clone());
            let made_for = info.context_length;
            let context_length = settings.context_length.unwrap_or(made_for).min(made_for);
            if loaded.send(Ok((info, context_length))).is_ok() {
                Worker::new(model, &tokenizer, &settings, context_length).run(&queue);
            }
        })?;
    match wait.await {
        Ok(Ok((info, context_length))) => Ok((
            Engine {
                jobs,
                info,
                context_length,
                end_of_sequence,
            },
            EngineThread { handle, alive },
        )),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(StartError::Panicked),
    }
}

impl Engine {
    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The tokens that end a turn.
    pub fn end_of_sequence(&self) -> &[u32] {
        &self.end_of_sequence
    }

    /// The most tokens a sequence may have, prompt and generated.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Hands a request to the engine. Never blocks. The engine's log lines
    /// of the request are written within the current span.
    pub fn submit(&self, request: Request) -> Events {
        let (sender, receiver) = events::unbounded_channel();
        let job = Job {
            request,
            events: sender,
            submitted: Instant::now(),
            span: Span::current(),
        };
        // If the engine is gone the job is dropped and the events end
        // without a last one, which `Events::next` reports.
        let _ = self.jobs.send(job);
        Events {
            receiver,
            ended: false,
        }
    }
}

impl EngineThread {
    /// Waits until the thread has ended. While engines are still held it
    /// only ends by a failure.
    pub async fn ended(&self) {
        let mut alive = self.alive.clone();
        // Nothing is ever sent: the only change is the sender's end.
        let _ = alive.changed().await;
    }

    /// Waits for the thread's end. Every [`Engine`] must have been dropped.
    /// Returns whether it ended without a panic.
    pub fn join(self) -> bool {
        self.handle.join().is_ok()
    }
}

impl Events {
    /// The next event; `None` after the last one.
    pub async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = self
            .receiver
            .recv()
            .await
            .unwrap_or(Event::Failed(EngineError::Stopped));
        self.ended = !matches!(event, Event::Text(_));
        Some(event)
    }
}

#[cfg(test)]
mod tests;
