//! Which waiting requests begin, and from what.
//!
//! First come, first served: where the first cannot begin for want of room,
//! nobody passes it. One that waits for a prefix that another is evaluating
//! is passed, but keeps its place in the batch, and nobody who passes it
//! shares more with it than is there already, so it waits for that one
//! evaluation alone.

use super::marks::Marks;
use super::{Action, Arrival, Origin, Refused, Running, Scheduler, Slot};
use crate::engine::prefix_cache::{Hit, common_prefix, cost};

/// What a request can begin from, the best there is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    /// Nothing of its prompt is there.
    Nothing,
    /// A parked sequence.
    Parked(Hit<Slot>),
    /// The first tokens of a running one's.
    Running(Slot, usize),
    /// More of its prompt will be there soon.
    Coming,
}

/// How a request can begin.
pub(super) struct Start {
    pub(super) source: Source,
    pub(super) marks: Marks,
}

/// A request's sequence as it begins.
struct Begun {
    slot: Slot,
    from: Origin,
    cached: usize,
    marks: Marks,
}

impl Scheduler {
    /// Begins as many requests as there is room for. Returns those that there
    /// will never be room for.
    pub(super) fn admit(&mut self) -> Vec<Refused> {
        let mut refused = Vec::new();
        let mut next = 0;
        while next < self.waiting.len() && self.running.len() + next < self.limits.max_batch {
            // Those before it wait for a prefix: they are `next` in number.
            if let Some(never) = self.never_fits(&self.waiting[next]) {
                self.waiting.remove(next);
                refused.push(never);
                continue;
            }
            let start = self.start(next);
            if matches!(start.source, Source::Coming) {
                next += 1;
                continue;
            }
            let worst_case = self.waiting[next].worst_case();
            let Some(begun) = self.make_room(start, worst_case) else {
                break;
            };
            if let Some(arrival) = self.waiting.remove(next) {
                self.begin(arrival, begun);
            }
        }
        refused
    }

    fn begin(&mut self, arrival: Arrival, begun: Begun) {
        let Begun {
            slot,
            from,
            cached,
            marks,
        } = begun;
        self.actions.push(Action::Begin {
            request: arrival.id,
            slot,
            from,
            cached,
        });
        self.running.push(Running {
            id: arrival.id,
            slot,
            prompt_len: arrival.prompt.len(),
            ids: arrival.prompt,
            max_tokens: arrival.max_tokens,
            evaluated: cached,
            pin: arrival.pin,
            marks,
        });
        // It may begin at a mark of its own.
        self.take_snapshots();
    }

    fn never_fits(&self, arrival: &Arrival) -> Option<Refused> {
        let needed = arrival.worst_case();
        let limit = self.most_tokens();
        (needed > limit).then_some(Refused {
            request: arrival.id,
            needed,
            limit,
        })
    }

    /// How one of those waiting can begin.
    fn start(&mut self, which: usize) -> Start {
        match self.limits.states {
            None => Start {
                source: self.source(&self.waiting[which].prompt),
                marks: Marks::default(),
            },
            Some(states) => self.start_at_mark(which, states),
        }
    }

    fn source(&self, prompt: &[u32]) -> Source {
        // The last token is always evaluated: its logits are needed.
        let before_last = &prompt[..prompt.len() - 1];
        let hit = self.cache.longest(before_last);
        let mut best = hit.map_or(0, |hit| hit.len);
        let mut source = hit.map_or(Source::Nothing, Source::Parked);
        let mut coming = 0;
        for running in &self.running {
            let common = common_prefix(&running.ids, before_last);
            let there = common.min(running.evaluated);
            if there > best {
                best = there;
                source = Source::Running(running.slot, there);
            }
            if running.prefilling() {
                coming = coming.max(common);
            }
        }
        match coming > best {
            true => Source::Coming,
            false => source,
        }
    }

    /// Finds room for a request that may come to `worst_case` tokens, by
    /// evicting if it must, and its sequence. `None` if there is no room until
    /// others end. Its marks may be fewer: they are worth no waiting.
    fn make_room(&mut self, start: Start, worst_case: usize) -> Option<Begun> {
        let Start { source, mut marks } = start;
        let (keep, taken) = match source {
            Source::Parked(hit) if hit.can_take => (Some(hit.handle), self.cache.cost(hit.handle)),
            Source::Parked(hit) => (Some(hit.handle), 0),
            _ => (None, 0),
        };
        let afresh = marks.of_none();
        if !self.evict_for_marked(worst_case, taken, &mut marks, keep) {
            // A source may be in the way of what is made from it. While
            // others run, theirs is the room to wait for.
            marks = afresh;
            if !self.running.is_empty() || !self.evict_for_marked(worst_case, 0, &mut marks, None) {
                return None;
            }
            return Some(Begun {
                slot: self.new_slot(),
                from: Origin::Fresh,
                cached: 0,
                marks,
            });
        }
        let (slot, from, cached) = match source {
            Source::Parked(hit) if hit.can_take => {
                self.cache.take(hit.handle);
                (hit.handle, Origin::Parked, hit.len)
            }
            Source::Parked(hit) => {
                self.cache.touch(hit.handle);
                (self.new_slot(), Origin::Fork(hit.handle), hit.len)
            }
            Source::Running(from, len) => (self.new_slot(), Origin::Fork(from), len),
            Source::Nothing | Source::Coming => (self.new_slot(), Origin::Fresh, 0),
        };
        Some(Begun {
            slot,
            from,
            cached,
            marks,
        })
    }

    /// Evicts until a sequence fits that may come to `worst_case` tokens and
    /// of which `taken` are there: with its marks or, where that would not do,
    /// without those that it wants.
    fn evict_for_marked(
        &mut self,
        worst_case: usize,
        taken: usize,
        marks: &mut Marks,
        keep: Option<Slot>,
    ) -> bool {
        let state_tokens = self.limits.state_tokens();
        let needed = |marks: &Marks| cost(worst_case, marks.count(), state_tokens) - taken;
        if self.evict_for(needed(marks), keep) {
            return true;
        }
        marks.want_none() && self.evict_for(needed(marks), keep)
    }

    /// Evicts until `tokens` more fit, the least recently used first and
    /// `keep` never. If that would not do, evicts nothing and is false.
    pub(super) fn evict_for(&mut self, tokens: usize, keep: Option<Slot>) -> bool {
        let free = self.room().free;
        if tokens > free.saturating_add(self.cache.evictable(keep)) {
            return false;
        }
        while self.room().free < tokens {
            let Some(evicted) = self.cache.evict(keep) else {
                return false;
            };
            self.actions.push(Action::Close(evicted));
        }
        true
    }

    pub(super) fn new_slot(&mut self) -> Slot {
        let slot = Slot(self.next_slot);
        self.next_slot += 1;
        slot
    }
}
