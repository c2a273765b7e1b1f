//! The engine thread's work: takes requests in the order they came and
//! generates for one at a time. Between two steps it looks whether anybody
//! still wants the result.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tracing::{Span, debug, error};

use super::detokenizer::Detokenizer;
use super::sampler::Sampler;
use super::{EngineError, Event, FinishReason, Request, Usage};
use crate::model::{Input, Model, SequenceId, Tokenizer};

/// Tokens of a prompt evaluated in one step: enough to use the hardware,
/// few enough that a cancelled request stops soon.
const PREFILL_CHUNK: usize = 512;

/// A request on its way through the engine.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) events: UnboundedSender<Event>,
    pub(super) submitted: Instant,
    pub(super) span: Span,
}

/// The model and what generating with it takes.
pub(super) struct Worker {
    model: Box<dyn Model>,
    tokenizer: Arc<Tokenizer>,
    end_of_sequence: Vec<u32>,
    context_length: usize,
}

/// The receiver of a request's events has gone.
struct Cancelled;

/// Why a generation ended early.
enum Stopped {
    Cancelled,
    Failed(EngineError),
}

impl From<Cancelled> for Stopped {
    fn from(Cancelled: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl<E: Into<EngineError>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl From<crate::model::ModelError> for EngineError {
    fn from(error: crate::model::ModelError) -> Self {
        Self::Model(error.to_string())
    }
}

impl From<crate::model::TokenizerError> for EngineError {
    fn from(error: crate::model::TokenizerError) -> Self {
        Self::Model(error.to_string())
    }
}

impl Worker {
    pub(super) fn new(
        model: Box<dyn Model>,
        tokenizer: Arc<Tokenizer>,
        end_of_sequence: Vec<u32>,
        context_length: usize,
    ) -> Self {
        Self {
            model,
            tokenizer,
            end_of_sequence,
            context_length,
        }
    }

    /// Works until every engine handle is dropped.
    pub(super) fn run(mut self, queue: &mpsc::Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            let span = job.span.clone();
            let _entered = span.enter();
            if job.events.is_closed() {
                debug!("cancelled before it began");
                continue;
            }
            let last = match self.serve(&job) {
                Ok((reason, usage)) => Event::Finished { reason, usage },
                Err(Stopped::Cancelled) => {
                    debug!("generation cancelled");
                    continue;
                }
                Err(Stopped::Failed(error)) => {
                    if !matches!(error, EngineError::ContextExceeded { .. }) {
                        error!(%error, "generation failed");
                    }
                    Event::Failed(error)
                }
            };
            // A receiver that has gone needs no answer.
            let _ = job.events.send(last);
        }
    }

    fn serve(&mut self, job: &Job) -> Result<(FinishReason, Usage), Stopped> {
        let needed = job.request.prompt.len() + 1;
        if needed > self.context_length {
            return Err(EngineError::ContextExceeded {
                needed,
                limit: self.context_length,
            }
            .into());
        }
        let sequence = self.model.open()?;
        let result = self.generate(sequence, job);
        self.model.close(sequence);
        result
    }

    fn generate(
        &mut self,
        sequence: SequenceId,
        job: &Job,
    ) -> Result<(FinishReason, Usage), Stopped> {
        let Request {
            prompt,
            max_tokens,
            sampling,
        } = &job.request;
        let room = self.context_length - prompt.len();
        let limit = (*max_tokens).max(1).min(room);
        let tokenizer = self.tokenizer.clone();
        let mut detokenizer = Detokenizer::new(&tokenizer);
        let mut sampler = Sampler::new(*sampling);
        let mut usage = Usage {
            prompt_tokens: prompt.len(),
            generated_tokens: 0,
            time_to_first_token: Duration::ZERO,
        };
        let mut token = self.prefill(sequence, job, &mut sampler)?;
        loop {
            usage.generated_tokens += 1;
            if usage.generated_tokens == 1 {
                usage.time_to_first_token = job.submitted.elapsed();
            }
            if self.end_of_sequence.contains(&token) {
                send(job, detokenizer.finish()?)?;
                return Ok((FinishReason::Stop, usage));
            }
            send(job, detokenizer.push(token)?)?;
            if usage.generated_tokens == limit {
                send(job, detokenizer.finish()?)?;
                return Ok((FinishReason::Length, usage));
            }
            token = self.step(sequence, &[token], job, &mut sampler)?;
        }
    }

    /// Evaluates the prompt and samples the first token.
    fn prefill(
        &mut self,
        sequence: SequenceId,
        job: &Job,
        sampler: &mut Sampler,
    ) -> Result<u32, Stopped> {
        let prompt = &job.request.prompt;
        let Some((_, before_last)) = prompt.split_last() else {
            return Err(EngineError::Model("the prompt is empty".to_owned()).into());
        };
        let last_chunk = before_last.len() / PREFILL_CHUNK * PREFILL_CHUNK;
        for chunk in prompt[..last_chunk].chunks(PREFILL_CHUNK) {
            wanted(job)?;
            self.model.forward(&[Input {
                sequence,
                tokens: chunk,
                logits: false,
            }])?;
        }
        self.step(sequence, &prompt[last_chunk..], job, sampler)
    }

    /// Evaluates `tokens` and samples the one after them.
    fn step(
        &mut self,
        sequence: SequenceId,
        tokens: &[u32],
        job: &Job,
        sampler: &mut Sampler,
    ) -> Result<u32, Stopped> {
        wanted(job)?;
        let logits = self.model.forward(&[Input {
            sequence,
            tokens,
            logits: true,
        }])?;
        let row = logits
            .rows()
            .next()
            .ok_or_else(|| EngineError::Model("the model gave no logits".to_owned()))?;
        sampler.sample(row).ok_or_else(|| {
            EngineError::Model("the model's logits are not numbers".to_owned()).into()
        })
    }
}

/// Whether anybody still waits for this request.
fn wanted(job: &Job) -> Result<(), Cancelled> {
    match job.events.is_closed() {
        true => Err(Cancelled),
        false => Ok(()),
    }
}

fn send(job: &Job, text: String) -> Result<(), Cancelled> {
    if text.is_empty() {
        return Ok(());
    }
    job.events.send(Event::Text(text)).map_err(|_| Cancelled)
}
