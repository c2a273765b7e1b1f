//! How a plan's step is evaluated: set off, those that can be set off before
//! it is read, and what was drawn in it handed on.

use std::sync::mpsc;
use std::time::Instant;

use tracing::trace;

use super::{Job, Worker};
use crate::engine::EngineError;
use crate::engine::generation::Generation;
use crate::engine::scheduler::Part;
use crate::model::{Input, ModelError, ShortList, Submitted, Tokens};

/// A step on its way.
struct Flight {
    step: Submitted,
    /// When it was set off: where steps are evaluated in the background, the
    /// one before may have been under way still.
    began: Instant,
}

impl Worker<'_> {
    /// Evaluates a step and those that can be set off before it is read.
    pub(super) fn step(&mut self, mut parts: ShortList<Part>, queue: &mpsc::Receiver<Job>) {
        // Those whose sequence could not be had have failed already.
        parts.retain(|part| self.generations.contains_key(&part.request));
        if parts.is_empty() {
            return;
        }
        let Some(mut step) = self.launch(&parts, false) else {
            return;
        };
        // Where steps are evaluated in the background, the next one is set
        // off before this one's tokens are known, so that the device never
        // waits. At a turn's end that step was in vain.
        while self.model.info().overlaps
            && !self.arrivals(queue)
            && !self.drop_unwanted()
            && self.all_free()
            && self.scheduler.run_ahead(&parts)
        {
            let Some(ahead) = self.launch(&parts, true) else {
                return;
            };
            self.land(&step, &parts);
            step = ahead;
        }
        self.land(&step, &parts);
    }

    /// Whether every token that is on its way may stand where it comes. In a
    /// tool call it is known only when it is there.
    fn all_free(&self) -> bool {
        self.generations.values().all(Generation::is_free)
    }

    /// Sets off a step: `parts`, or the token drawn last for each of them. On
    /// an error all of them have failed.
    fn launch(&mut self, parts: &[Part], drawn: bool) -> Option<Flight> {
        match self.submit(parts, drawn) {
            Ok(flight) => Some(flight),
            Err(error) => {
                self.fail(parts, &error.into());
                None
            }
        }
    }

    fn submit(&mut self, parts: &[Part], drawn: bool) -> Result<Flight, ModelError> {
        let mut inputs = ShortList::with_capacity(parts.len());
        for part in parts {
            let generation = self.generations.get_mut(&part.request);
            let Some(&sequence) = self.sequences.get(&part.slot) else {
                return Err(ModelError::Input("a sequence is gone".to_owned()));
            };
            inputs.push(Input {
                sequence,
                tokens: match drawn {
                    true => Tokens::Drawn,
                    false => Tokens::Given(self.scheduler.ids(part)),
                },
                draw: generation.filter(|_| part.draws).map(Generation::draw),
            });
        }
        let began = Instant::now();
        let step = self.model.submit(&inputs)?;
        if inputs.iter().all(|input| input.draw.is_none()) {
            // One step of prompts at a time: a cancelled request must not
            // leave a queue of them behind, nor a long one the memory of all.
            step.wait()?;
        }
        Ok(Flight { step, began })
    }

    /// Reads a step's tokens and hands them on.
    fn land(&mut self, flight: &Flight, parts: &[Part]) {
        let drawing = || parts.iter().filter(|part| part.draws);
        let read = flight.step.tokens();
        trace!(
            sequences = parts.len(),
            tokens = parts.iter().map(|part| part.range.len()).sum::<usize>(),
            draws = drawing().count(),
            ms = flight.began.elapsed().as_secs_f64() * 1e3,
            "step"
        );
        let tokens = match read {
            Ok(tokens) if tokens.len() == drawing().count() => tokens,
            Ok(_) => {
                let error = EngineError::Model("the model drew no token".to_owned());
                return self.fail(parts, &error);
            }
            Err(error) => return self.fail(parts, &error.into()),
        };
        for (row, (part, token)) in drawing().zip(tokens).enumerate() {
            // One that has ended since the step was set off has no use for it.
            let Some(generation) = self.generations.get_mut(&part.request) else {
                continue;
            };
            let settled = match token {
                Some(token) => generation.settle(token, &mut self.sampler, || flight.step.row(row)),
                None => Err(EngineError::Model(
                    "the model's logits are not numbers".to_owned(),
                )),
            };
            match settled {
                Ok(token) => self.take(part.request, token),
                Err(error) => self.fail(std::slice::from_ref(part), &error),
            }
        }
    }
}
