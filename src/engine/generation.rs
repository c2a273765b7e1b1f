//! One request on its way through the engine: how its tokens are drawn, and
//! what they become for whoever waits.
//!
//! Knows nothing of other requests or of the model.

use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;
use tracing::{Span, debug, error, warn};

use super::detokenizer::Detokenizer;
use super::draws::Draws;
use super::grammar::{Constraint, ConstraintError};
use super::worker::Job;
use super::{EngineError, Event, FinishReason, Usage};
use crate::model::{Draw, ModelError, Sampler, Tokenizer};

/// A request being generated.
pub(super) struct Generation<'a> {
    events: UnboundedSender<Event>,
    submitted: Instant,
    span: Span,
    draws: Draws,
    detokenizer: Detokenizer<'a>,
    /// What binds its tool calls.
    constraint: Option<Constraint>,
    /// What was generated, without the end's own token.
    tokens: Vec<u32>,
    usage: Usage,
}

impl<'a> Generation<'a> {
    /// A request whose prompt has `prompt_tokens`.
    pub(super) fn new(job: Job, prompt_tokens: usize, tokenizer: &'a Tokenizer) -> Self {
        Self {
            draws: Draws::new(job.request.sampling),
            constraint: job.request.calls.map(|calls| match calls.in_reasoning {
                true => Constraint::in_reasoning(&calls.grammar),
                false => Constraint::new(&calls.grammar),
            }),
            detokenizer: Detokenizer::new(tokenizer),
            tokens: Vec::new(),
            usage: Usage {
                prompt_tokens,
                ..Usage::default()
            },
            events: job.events,
            submitted: job.submitted,
            span: job.span,
        }
    }

    /// Whether anybody still waits for it.
    pub(super) fn wanted(&self) -> bool {
        !self.events.is_closed()
    }

    /// It begins, and `cached` tokens of its prompt are there already.
    pub(super) fn begin(&mut self, cached: usize) {
        self.usage.cached_tokens = cached;
        self.usage.prefilled_tokens = self.usage.prompt_tokens - cached;
    }

    /// How its next token is drawn.
    pub(super) fn draw(&mut self) -> Draw {
        self.draws.next()
    }

    /// Whether its next token may be any.
    pub(super) fn is_free(&self) -> bool {
        self.constraint.as_ref().is_none_or(Constraint::is_free)
    }

    /// The token that comes next: the one drawn, or if that may not stand
    /// there, one drawn again by `sampler` from those that may. `logits` are
    /// those it was drawn from.
    ///
    /// # Errors
    /// If the logits cannot be had or none of them is a number.
    pub(super) fn settle(
        &mut self,
        drawn: u32,
        sampler: &mut Sampler,
        logits: impl FnOnce() -> Result<Vec<f32>, ModelError>,
    ) -> Result<u32, EngineError> {
        let Some(constraint) = &mut self.constraint else {
            return Ok(drawn);
        };
        let mut token = drawn;
        if !constraint.accepts(drawn) {
            match constraint.mask() {
                Ok(mask) => {
                    let mut logits = logits()?;
                    for (logit, token) in logits.iter_mut().zip(0..) {
                        if !mask.allows(token) {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                    let draw = self.draws.next();
                    token = sampler.sample(&logits, &draw).ok_or_else(|| {
                        EngineError::Model("no token may follow in the tool call".to_owned())
                    })?;
                }
                Err(reason) => released(&self.span, &reason),
            }
        }
        if let Err(reason) = constraint.advance(token) {
            released(&self.span, &reason);
        }
        Ok(token)
    }

    /// Takes the next token. The end's own is not text.
    ///
    /// # Errors
    /// If the tokenizer has no text for it.
    pub(super) fn push(&mut self, token: u32, is_end: bool) -> Result<(), EngineError> {
        self.usage.generated_tokens += 1;
        if self.usage.generated_tokens == 1 {
            self.usage.time_to_first_token = self.submitted.elapsed();
        }
        if !is_end {
            self.tokens.push(token);
            let text = self.detokenizer.push(token)?;
            self.send(text);
        }
        Ok(())
    }

    /// The end.
    pub(super) fn finish(mut self, reason: FinishReason) {
        match self.detokenizer.finish() {
            Ok(text) => self.send(text),
            Err(error) => return self.fail(error.into()),
        }
        let usage = self.usage;
        let tokens = std::mem::take(&mut self.tokens);
        self.span.in_scope(|| {
            debug!(
                prompt_tokens = usage.prompt_tokens,
                cached_tokens = usage.cached_tokens,
                prefilled_tokens = usage.prefilled_tokens,
                generated_tokens = usage.generated_tokens,
                "generated"
            );
        });
        self.tell(Event::Finished {
            reason,
            usage,
            tokens,
        });
    }

    /// Nobody waits for it any more.
    pub(super) fn cancel(self) {
        self.span.in_scope(|| {
            debug!(
                generated_tokens = self.usage.generated_tokens,
                "generation cancelled"
            );
        });
    }

    /// It came to nothing.
    pub(super) fn fail(self, error: EngineError) {
        // What is the request's own fault is told to whoever made it.
        if matches!(error, EngineError::Model(_)) {
            self.span.in_scope(|| error!(%error, "generation failed"));
        }
        self.tell(Event::Failed(error));
    }

    fn send(&self, text: String) {
        if !text.is_empty() {
            self.tell(Event::Text(text));
        }
    }

    /// A receiver that has gone needs no answer; it is noticed before the
    /// next step.
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }
}

/// A call that goes on unbound: it may come out malformed, which the model is
/// told then.
fn released(span: &Span, reason: &ConstraintError) {
    span.in_scope(|| warn!(%reason, "a tool call is not bound to its schema"));
}
