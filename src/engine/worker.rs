//! The engine thread's work: takes requests in the order they came and
//! generates for one at a time. Between two steps it looks whether anybody
//! still wants the result.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tracing::{Span, debug, error};

use super::detokenizer::Detokenizer;
use super::draws::Draws;
use super::{EngineError, Event, FinishReason, Request, Usage};
use crate::model::{Draw, Input, Model, SequenceId, Step, Tokenizer, Tokens};

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
            if let Some(memory) = self.model.memory() {
                debug!(
                    active_bytes = memory.active,
                    peak_bytes = memory.peak,
                    cached_bytes = memory.cached,
                    "memory of the backend"
                );
            }
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
        let overlaps = self.model.info().overlaps;
        let tokenizer = self.tokenizer.clone();
        let mut detokenizer = Detokenizer::new(&tokenizer);
        let mut draws = Draws::new(*sampling);
        let mut usage = Usage {
            prompt_tokens: prompt.len(),
            generated_tokens: 0,
            time_to_first_token: Duration::ZERO,
        };
        let mut step = self.prefill(sequence, job, draws.next())?;
        loop {
            let may_go_on = usage.generated_tokens + 1 < limit;
            // Where steps are evaluated in the background, the next one is
            // set off before this one's token is known, so that the device
            // never waits. At a turn's end that step was in vain.
            let ahead = match may_go_on && overlaps {
                true => Some(self.step(sequence, Tokens::Drawn, job, draws.next())?),
                false => None,
            };
            let token = step.tokens()?;
            let &[token] = token.as_slice() else {
                return Err(EngineError::Model("the model drew no token".to_owned()).into());
            };
            usage.generated_tokens += 1;
            if usage.generated_tokens == 1 {
                usage.time_to_first_token = job.submitted.elapsed();
            }
            if self.end_of_sequence.contains(&token) {
                send(job, detokenizer.finish()?)?;
                return Ok((FinishReason::Stop, usage));
            }
            send(job, detokenizer.push(token)?)?;
            if !may_go_on {
                send(job, detokenizer.finish()?)?;
                return Ok((FinishReason::Length, usage));
            }
            step = match ahead {
                Some(step) => step,
                None => self.step(sequence, Tokens::Given(&[token]), job, draws.next())?,
            };
        }
    }

    /// Evaluates the prompt; its last step draws the first token.
    fn prefill(
        &mut self,
        sequence: SequenceId,
        job: &Job,
        draw: Draw,
    ) -> Result<Box<dyn Step>, Stopped> {
        let prompt = &job.request.prompt;
        let Some((_, before_last)) = prompt.split_last() else {
            return Err(EngineError::Model("the prompt is empty".to_owned()).into());
        };
        let last_chunk = before_last.len() / PREFILL_CHUNK * PREFILL_CHUNK;
        for chunk in prompt[..last_chunk].chunks(PREFILL_CHUNK) {
            wanted(job)?;
            let step = self.model.submit(&[Input {
                sequence,
                tokens: Tokens::Given(chunk),
                draw: None,
            }])?;
            // One chunk at a time: a cancelled request must not leave a queue
            // of them behind, nor a long one the memory of all.
            step.wait()?;
        }
        self.step(sequence, Tokens::Given(&prompt[last_chunk..]), job, draw)
    }

    /// Sets off a step that draws the token after `tokens`.
    fn step(
        &mut self,
        sequence: SequenceId,
        tokens: Tokens<'_>,
        job: &Job,
        draw: Draw,
    ) -> Result<Box<dyn Step>, Stopped> {
        wanted(job)?;
        Ok(self.model.submit(&[Input {
            sequence,
            tokens,
            draw: Some(draw),
        }])?)
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
