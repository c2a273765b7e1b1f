//! The engine thread's work: takes requests, has the scheduler plan, carries
//! the plan out on the model and hands the tokens to whoever waits. Before
//! each step it looks whether anybody still wants the result.

mod preamble;
mod steps;

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;
use tracing::{Span, debug, info, warn};

use super::generation::Generation;
use super::preamble_store::PreambleStore;
use super::scheduler::{
    Action, Arrival, Limits, Origin, Part, Prefill, Refused, RequestId, Scheduler, Slot, States,
};
use super::{EngineError, Event, FinishReason, Request, Settings};
use crate::model::{Model, ModelError, Sampler, SequenceId, Tokenizer};

/// A request as it is handed over to the engine's thread.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) events: UnboundedSender<Event>,
    pub(super) submitted: Instant,
    pub(super) span: Span,
}

/// The model and what generating with it takes.
pub(super) struct Worker<'a> {
    tokenizer: &'a Tokenizer,
    end_of_sequence: &'a [u32],
    context_length: usize,
    scheduler: Scheduler,
    /// The requests the scheduler knows.
    generations: BTreeMap<RequestId, Generation<'a>>,
    next_request: RequestId,
    /// The model's handles of the scheduler's sequences.
    sequences: BTreeMap<Slot, SequenceId>,
    /// For the tokens that are drawn again, one request's after the other's.
    sampler: Sampler,
    /// Where the pinned sequence is kept over a restart, if anywhere.
    preambles: Option<PreambleStore>,
    model: Box<dyn Model>,
}

impl From<ModelError> for EngineError {
    fn from(error: ModelError) -> Self {
        Self::Model(error.to_string())
    }
}

impl From<crate::model::TokenizerError> for EngineError {
    fn from(error: crate::model::TokenizerError) -> Self {
        Self::Model(error.to_string())
    }
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        model: Box<dyn Model>,
        tokenizer: &'a Tokenizer,
        settings: &'a Settings,
        context_length: usize,
    ) -> Self {
        let token = bytes_per_token(&*model);
        let state = model.info().state_bytes;
        let limits = Limits {
            max_batch: settings.max_batch.max(1),
            kv_tokens: settings.kv_bytes.map_or(usize::MAX, |bytes| bytes / token),
            cache_tokens: settings.prefix_cache_bytes / token,
            prefill: Prefill::default(),
            states: (state > 0).then(|| States::new(state.div_ceil(token))),
        };
        info!(
            kv_bytes_per_token = token,
            kv_tokens = settings.kv_bytes.map(|_| limits.kv_tokens),
            prefix_cache_tokens = limits.cache_tokens,
            state_bytes = (state > 0).then_some(state),
            "room for keys and values"
        );
        Self {
            tokenizer,
            end_of_sequence: &settings.end_of_sequence,
            context_length,
            scheduler: Scheduler::new(limits),
            generations: BTreeMap::new(),
            next_request: 0,
            sequences: BTreeMap::new(),
            sampler: Sampler::default(),
            preambles: preambles(&*model, settings),
            model,
        }
    }

    /// Works until every engine handle is dropped and every request done.
    pub(super) fn run(mut self, queue: &mpsc::Receiver<Job>) {
        while self.wait_for_work(queue) {
            self.arrivals(queue);
            self.drop_unwanted();
            let plan = self.scheduler.plan();
            for refused in plan.refused {
                self.refuse(refused);
            }
            let mut without = Vec::new();
            for action in plan.actions {
                self.act(action, &mut without);
            }
            self.step(plan.parts, queue);
        }
        self.finish_storing();
    }

    /// Takes on whoever has come. Whether somebody has.
    fn arrivals(&mut self, queue: &mpsc::Receiver<Job>) -> bool {
        let before = self.next_request;
        while let Ok(job) = queue.try_recv() {
            self.arrive(job);
        }
        self.next_request > before
    }

    fn arrive(&mut self, mut job: Job) {
        let prompt = std::mem::take(&mut job.request.prompt);
        let fault = self.fault(&prompt);
        let max_tokens = job.request.max_tokens.max(1);
        let pin = job.request.pin;
        let boundaries = std::mem::take(&mut job.request.boundaries);
        let generation = Generation::new(job, prompt.len(), self.tokenizer);
        if let Some(error) = fault {
            return generation.fail(error);
        }
        let id = self.next_request;
        self.next_request += 1;
        self.generations.insert(id, generation);
        if pin {
            self.restore(&prompt);
        }
        // An answer ends where the context does, or the memory.
        let context = self.context_length.saturating_sub(prompt.len());
        let room = context.min(self.scheduler.most_generated(prompt.len()));
        self.scheduler.submit(Arrival {
            id,
            max_tokens: max_tokens.min(room).max(1),
            prompt,
            pin,
            boundaries,
        });
    }

    /// Why a prompt cannot be taken on. A step that it would spoil would be
    /// spoilt for others too.
    fn fault(&self, prompt: &[u32]) -> Option<EngineError> {
        let (needed, limit) = (prompt.len() + 1, self.context_length);
        let vocabulary = self.model.info().vocabulary_size;
        if needed > limit {
            return Some(EngineError::ContextExceeded { needed, limit });
        }
        if prompt.is_empty() {
            return Some(EngineError::Model("the prompt is empty".to_owned()));
        }
        let unknown = prompt.iter().find(|&&id| id as usize >= vocabulary)?;
        let reason = format!("the model has no token {unknown}");
        Some(EngineError::Model(reason))
    }

    /// Ends the requests nobody waits for any more. Whether there were any.
    fn drop_unwanted(&mut self) -> bool {
        let unwanted =
            |(&id, generation): (&RequestId, &Generation<'_>)| (!generation.wanted()).then_some(id);
        let unwanted: Vec<RequestId> = self.generations.iter().filter_map(unwanted).collect();
        for &id in &unwanted {
            self.scheduler.end(id);
            if let Some(generation) = self.generations.remove(&id) {
                generation.cancel();
            }
        }
        !unwanted.is_empty()
    }

    fn refuse(&mut self, refused: Refused) {
        let Refused {
            request,
            needed,
            limit,
        } = refused;
        if let Some(generation) = self.generations.remove(&request) {
            warn!(
                needed,
                limit, "a prompt does not fit the memory for keys and values"
            );
            generation.fail(EngineError::ContextExceeded { needed, limit });
        }
    }

    /// Carries out one of a plan's actions. `without` are the sequences of
    /// which this plan's snapshots came to nothing, and where those were to be.
    fn act(&mut self, action: Action, without: &mut Vec<(Slot, usize)>) {
        match action {
            Action::Begin {
                request,
                slot,
                from,
                cached,
            } => {
                if let Some(generation) = self.generations.get_mut(&request) {
                    generation.begin(cached);
                }
                if let Err(error) = self.obtain(slot, from, cached) {
                    self.scheduler.spoil(request, slot);
                    if let Some(generation) = self.generations.remove(&request) {
                        generation.fail(error);
                    }
                }
                // The copy of one without a snapshot there has none either.
                if let Origin::Fork(original) = from
                    && without.contains(&(original, cached))
                {
                    without.push((slot, cached));
                    self.scheduler.unmark(slot, cached);
                }
            }
            Action::Snapshot { request, slot, len } => {
                // Where there is no sequence, its request has failed already.
                if let Some(&sequence) = self.sequences.get(&slot)
                    && let Err(error) = self.model.snapshot(sequence)
                {
                    without.push((slot, len));
                    self.scheduler.spoil(request, slot);
                    if let Some(generation) = self.generations.remove(&request) {
                        generation.fail(error.into());
                    }
                }
            }
            Action::Close(slot) => {
                if let Some(sequence) = self.sequences.remove(&slot) {
                    if let Some(store) = &mut self.preambles {
                        store.closing(sequence);
                    }
                    self.model.close(sequence);
                }
            }
        }
    }

    /// Has the model make the sequence of a slot.
    fn obtain(&mut self, slot: Slot, from: Origin, len: usize) -> Result<(), EngineError> {
        let sequence = match from {
            Origin::Parked => return Ok(()),
            Origin::Fresh => self.model.open()?,
            Origin::Fork(original) => match self.sequences.get(&original) {
                Some(&original) => self.model.fork(original, len)?,
                // It was to be made in this very plan, and was not.
                None => return Err(EngineError::Model("its prefix is gone".to_owned())),
            },
        };
        self.sequences.insert(slot, sequence);
        Ok(())
    }

    /// Takes a request's next token.
    fn take(&mut self, id: RequestId, token: u32) {
        self.scheduler.push(id, token);
        let reason = match self.end_of_sequence.contains(&token) {
            true => Some(FinishReason::Stop),
            false if self.scheduler.at_limit(id) => Some(FinishReason::Length),
            false => None,
        };
        let Some(generation) = self.generations.get_mut(&id) else {
            return;
        };
        let taken = generation.push(token, reason == Some(FinishReason::Stop));
        if taken.is_ok() && reason.is_none() {
            return;
        }
        self.scheduler.end(id);
        self.store_pinned();
        if let Some(generation) = self.generations.remove(&id) {
            match (taken, reason) {
                (Err(error), _) => generation.fail(error),
                (Ok(()), Some(reason)) => generation.finish(reason),
                (Ok(()), None) => {}
            }
        }
        self.log_memory();
    }

    /// The requests of a step that came to nothing. Those that had ended by
    /// then have their answer, but their sequences are spoilt too.
    fn fail(&mut self, parts: &[Part], error: &EngineError) {
        for part in parts {
            self.scheduler.spoil(part.request, part.slot);
            if let Some(generation) = self.generations.remove(&part.request) {
                generation.fail(error.clone());
            }
        }
    }

    fn log_memory(&self) {
        let room = self.scheduler.room();
        let token = bytes_per_token(&*self.model);
        debug!(
            running_bytes = room.running.saturating_mul(token),
            parked_bytes = room.parked * token,
            "keys and values"
        );
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

/// What memory is counted in; a model need not have keys and values.
fn bytes_per_token(model: &dyn Model) -> usize {
    model.info().kv_bytes_per_token.max(1)
}

/// The store of preambles, if there is to be one. It keeps keys and values and
/// nothing else.
fn preambles(model: &dyn Model, settings: &Settings) -> Option<PreambleStore> {
    let folder = settings.preambles.as_ref()?;
    let info = model.info();
    if info.state_bytes > 0 {
        warn!(
            family = ?info.family,
            "this model carries more than keys and values, which prefix_cache_dir does not keep; \
             its preamble will not survive a restart"
        );
        return None;
    }
    PreambleStore::open(folder, info.kv)
}
