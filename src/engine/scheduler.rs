//! What the engine does next: which waiting requests begin and from what,
//! and which tokens of which sequences make up the next step.
//!
//! Decides and does nothing: a [`Plan`] is plain values, the worker carries
//! it out. Knows nothing of tensors, text, clocks or of how tokens are drawn.
//! Memory is counted in tokens, for each takes the same; a model's states, in
//! as many tokens as take as much.

mod admission;
mod marks;
mod plan;

use std::collections::VecDeque;

pub(super) use plan::{
    Action, Arrival, Limits, Origin, Part, Plan, Prefill, Refused, RequestId, Room, Slot, States,
};

use super::prefix_cache::{self, PrefixCache};
use crate::model::ShortList;
use marks::Marks;

/// The requests and the parked sequences.
///
/// Invariant: what the running requests reserve and what is parked is at most
/// `limits.kv_tokens`. Every sequence belongs to one running request or is
/// parked; the slots of others are in an [`Action::Close`] that was or will
/// be given out.
pub(super) struct Scheduler {
    limits: Limits,
    /// In the order they came.
    waiting: VecDeque<Arrival>,
    /// In the order they began.
    running: Vec<Running>,
    cache: PrefixCache<Slot>,
    next_slot: u64,
    /// What the next plan begins with.
    actions: Vec<Action>,
}

/// A request that has a sequence.
struct Running {
    id: RequestId,
    slot: Slot,
    /// Prompt and generated tokens that are known.
    ids: Vec<u32>,
    prompt_len: usize,
    max_tokens: usize,
    /// Tokens the sequence has or will have after the steps given out. One
    /// more than `ids` while a step runs ahead.
    evaluated: usize,
    pin: bool,
    /// None where there are no states.
    marks: Marks,
}

impl Running {
    fn prefilling(&self) -> bool {
        self.evaluated < self.prompt_len
    }

    /// The most tokens its sequence may come to.
    fn worst_case(&self) -> usize {
        self.prompt_len.saturating_add(self.max_tokens)
    }

    /// What is kept free for it, in tokens.
    fn reserved(&self, state_tokens: usize) -> usize {
        prefix_cache::cost(self.worst_case(), self.marks.count(), state_tokens)
    }
}

impl Scheduler {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            waiting: VecDeque::new(),
            running: Vec::new(),
            cache: PrefixCache::with_states(limits.cache_tokens, limits.state_tokens()),
            next_slot: 0,
            actions: Vec::new(),
        }
    }

    /// Takes a request on.
    pub(super) fn submit(&mut self, arrival: Arrival) {
        debug_assert!(!arrival.prompt.is_empty() && arrival.max_tokens > 0);
        self.waiting.push_back(arrival);
    }

    /// What to do next. Whatever was drawn in the step before must have been
    /// said.
    pub(super) fn plan(&mut self) -> Plan {
        self.take_snapshots();
        let refused = self.admit();
        let parts = self.step();
        debug_assert!(!parts.is_empty() || self.waiting.is_empty());
        Plan {
            refused,
            actions: std::mem::take(&mut self.actions),
            parts,
        }
    }

    /// Every decoding sequence's one token, and of the prompts, in the order
    /// they began, what fits and comes before their next marks.
    fn step(&mut self) -> ShortList<Part> {
        let decoding = self.running.iter().any(|running| !running.prefilling());
        let mut prefill = match decoding {
            true => self.limits.prefill.beside_decoding,
            false => self.limits.prefill.alone,
        };
        let mut parts = ShortList::with_capacity(self.running.len());
        for running in &mut self.running {
            let start = running.evaluated;
            let end = running.marks.next().unwrap_or(running.ids.len());
            debug_assert!(start < end || start == running.ids.len());
            let left = end - start;
            let count = match running.prefilling() {
                true => left.min(prefill),
                false => left,
            };
            if running.prefilling() {
                prefill -= count;
            }
            if count == 0 {
                continue;
            }
            running.evaluated += count;
            parts.push(Part {
                request: running.id,
                slot: running.slot,
                range: start..running.evaluated,
                draws: running.evaluated == running.ids.len(),
            });
        }
        parts
    }

    /// Sets off the step after the last plan's before the tokens that one
    /// draws are known, if that step can only be their evaluation: all
    /// running requests draw and none of them is at its limit, and no plan
    /// could begin another. True if so; the step's parts are the last one's,
    /// each with the token drawn.
    pub(super) fn run_ahead(&mut self, last: &[Part]) -> bool {
        let all_draw = last.len() == self.running.len() && last.iter().all(|part| part.draws);
        // Where a prompt was finished, a request may have waited for that.
        // Otherwise nothing has changed since the last plan found no room.
        let nobody_begins = self.waiting.is_empty()
            || self
                .running
                .iter()
                .all(|running| running.ids.len() > running.prompt_len);
        // The step in flight draws one token more than `ids` has.
        let all_go_on = self
            .running
            .iter()
            .all(|running| running.ids.len() + 1 < running.worst_case());
        // Whoever waits for the end of a prompt is gone, but it is a mark yet.
        let no_marks = self
            .running
            .iter()
            .all(|running| running.marks.next().is_none());
        let ahead = !self.running.is_empty() && all_draw && nobody_begins && all_go_on && no_marks;
        if ahead {
            self.running
                .iter_mut()
                .for_each(|running| running.evaluated += 1);
        }
        ahead
    }

    /// The ids a part is of.
    pub(super) fn ids(&self, part: &Part) -> &[u32] {
        self.find(part.request)
            .map_or(&[], |running| &running.ids[part.range.clone()])
    }

    /// A token was drawn for a running request.
    pub(super) fn push(&mut self, request: RequestId, token: u32) {
        let found = self
            .running
            .iter_mut()
            .find(|running| running.id == request);
        if let Some(running) = found {
            running.ids.push(token);
        }
    }

    /// Whether a running request has generated all it may.
    pub(super) fn at_limit(&self, request: RequestId) -> bool {
        self.find(request)
            .is_none_or(|running| running.ids.len() >= running.worst_case())
    }

    /// A request is over or nobody wants it any more. If it was running, its
    /// sequence is parked with what is evaluated of it.
    pub(super) fn end(&mut self, request: RequestId) {
        self.waiting.retain(|arrival| arrival.id != request);
        let Some(mut running) = self.remove(request) else {
            return;
        };
        debug_assert!(running.evaluated <= running.ids.len());
        running.ids.truncate(running.evaluated);
        let (slot, marks) = (running.slot, running.marks.taken());
        let closed = self.cache.park(slot, running.ids, marks, running.pin);
        self.actions.extend(closed.into_iter().map(Action::Close));
    }

    /// A step that a sequence was in came to nothing, or the sequence could
    /// not be had: it is in no known state. Its request is over if it was not
    /// yet, and if it was, nobody goes on from its sequence.
    pub(super) fn spoil(&mut self, request: RequestId, slot: Slot) {
        if self.remove(request).is_some() || self.cache.take(slot) {
            self.actions.push(Action::Close(slot));
        }
    }

    /// The pinned sequence and its ids.
    pub(super) fn pinned(&self) -> Option<(Slot, &[u32])> {
        self.cache.pinned_entry()
    }

    /// Whether a parked sequence of these ids would be of use, and there is
    /// room for it as things are.
    pub(super) fn can_adopt(&self, ids: &[u32]) -> bool {
        let there = match self.limits.states {
            None => self.cache.longest(ids),
            Some(_) => self.cache.longest_marked(ids, usize::MAX).hit,
        };
        let cost = prefix_cache::cost(ids.len(), 0, self.limits.state_tokens());
        // What is to be closed still takes its room.
        self.actions.is_empty()
            && there.map_or(0, |hit| hit.len) < ids.len()
            && self.cache.used() + cost <= self.limits.cache_tokens
            && cost <= self.room().free
    }

    /// Parks a sequence that comes from elsewhere. [`Self::can_adopt`] must
    /// hold.
    pub(super) fn adopt(&mut self, ids: Vec<u32>) -> Slot {
        debug_assert!(self.can_adopt(&ids));
        let slot = self.new_slot();
        let closed = self.cache.insert(slot, ids, false);
        self.actions.extend(closed.into_iter().map(Action::Close));
        slot
    }

    /// The most tokens a sequence may have when nothing else runs: what is
    /// pinned stays beside it, and so does its own state.
    pub(super) fn most_tokens(&self) -> usize {
        let beside = self.cache.pinned() + self.limits.state_tokens();
        self.limits.kv_tokens.saturating_sub(beside)
    }

    /// The most tokens that are generated after a prompt, if it fits. They
    /// leave some room for snapshots.
    pub(super) fn most_generated(&self, prompt_len: usize) -> usize {
        let left = self.most_tokens().saturating_sub(prompt_len);
        let snapshots = self.limits.state_tokens().saturating_mul(2);
        left - snapshots.min(left / 2)
    }

    /// How the room is used.
    pub(super) fn room(&self) -> Room {
        let total = self.limits.kv_tokens;
        let running = self
            .running
            .iter()
            .map(|running| running.reserved(self.limits.state_tokens()))
            .sum();
        let parked = self.cache.used();
        Room {
            total,
            running,
            parked,
            free: total - running - parked,
        }
    }

    fn find(&self, request: RequestId) -> Option<&Running> {
        self.running.iter().find(|running| running.id == request)
    }

    fn remove(&mut self, request: RequestId) -> Option<Running> {
        let place = self
            .running
            .iter()
            .position(|running| running.id == request)?;
        Some(self.running.remove(place))
    }
}

#[cfg(test)]
mod tests;
