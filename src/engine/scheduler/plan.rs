//! What the scheduler is told and what it says: plain values.

use std::ops::Range;

use crate::model::ShortList;

/// A request's name within the engine.
pub(in crate::engine) type RequestId = u64;

/// A sequence's name within the engine: the scheduler gives it out, the
/// worker knows the model's handle for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::engine) struct Slot(pub(super) u64);

/// What the scheduler goes by.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Limits {
    /// The most requests running at once; at least 1.
    pub(in crate::engine) max_batch: usize,
    /// The most tokens of all sequences, running and parked. A running one
    /// counts with the most it may come to.
    pub(in crate::engine) kv_tokens: usize,
    /// The most tokens parked.
    pub(in crate::engine) cache_tokens: usize,
    pub(in crate::engine) prefill: Prefill,
    /// What sequences carry beside keys and values; `None` where they carry
    /// nothing and can be forked anywhere.
    pub(in crate::engine) states: Option<States>,
}

impl Limits {
    /// What a state takes, in tokens.
    pub(super) fn state_tokens(&self) -> usize {
        self.states.map_or(0, |states| states.tokens)
    }
}

/// What there is to know of sequences with a state: one can be forked at its
/// end, and where a snapshot of it was taken.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct States {
    /// What a state takes, that of a sequence and each that a snapshot keeps:
    /// as much as so many tokens. At least 1.
    pub(in crate::engine) tokens: usize,
    /// The most snapshots of a sequence.
    pub(in crate::engine) most: usize,
    /// How many tokens a snapshot has to save whoever forks there, or it is
    /// not taken. At least 1.
    pub(in crate::engine) worth: usize,
}

impl States {
    /// Of states that take as much as so many tokens.
    pub(in crate::engine) fn new(tokens: usize) -> Self {
        Self {
            tokens: tokens.max(1),
            // A preamble's end, and a turn's each for as many turns as a
            // conversation mostly has; a few hundred MB of the largest models'.
            most: 8,
            // A snapshot cuts a prompt's step in two, and a step of one token
            // takes about as long as one of this many.
            worth: 16,
        }
    }
}

/// The most prompt tokens of a step; at least 1 each.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Prefill {
    /// While nobody decodes.
    pub(in crate::engine) alone: usize,
    /// While others decode and wait for the whole step.
    pub(in crate::engine) beside_decoding: usize,
}

impl Default for Prefill {
    fn default() -> Self {
        Self {
            // Enough to use the hardware, few enough that a cancelled request
            // stops soon.
            alone: 512,
            // A step may take a few times as long as without a prompt, but
            // not as long as a full one; and a product with 128 rows already
            // reads each weight once for all of them: more gains little.
            beside_decoding: 128,
        }
    }
}

/// A request as the scheduler sees it.
#[derive(Debug)]
pub(in crate::engine) struct Arrival {
    pub(in crate::engine) id: RequestId,
    /// At least one token.
    pub(in crate::engine) prompt: Vec<u32>,
    /// The most tokens to generate; at least one.
    pub(in crate::engine) max_tokens: usize,
    /// Whether its sequence is pinned once it is parked.
    pub(in crate::engine) pin: bool,
    /// How many tokens of its prompt others are expected to have in common
    /// with it. Those that cannot be are ignored.
    pub(in crate::engine) boundaries: Vec<usize>,
}

impl Arrival {
    /// The most tokens its sequence may come to.
    pub(super) fn worst_case(&self) -> usize {
        self.prompt.len().saturating_add(self.max_tokens)
    }
}

/// What is to be done, in this order: the refusals said, the actions carried
/// out one after the other, the parts evaluated in one step.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::engine) struct Plan {
    pub(in crate::engine) refused: Vec<Refused>,
    pub(in crate::engine) actions: Vec<Action>,
    /// Empty when there is nothing to evaluate; then nobody is waiting.
    pub(in crate::engine) parts: ShortList<Part>,
}

/// A request that can never run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Refused {
    pub(in crate::engine) request: RequestId,
    /// The most tokens its sequence may come to.
    pub(in crate::engine) needed: usize,
    /// How many there is room for when nothing else runs.
    pub(in crate::engine) limit: usize,
}

/// Something done with the model's sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Action {
    /// A request begins: `slot` is its sequence, and `cached` tokens of its
    /// prompt are there already.
    Begin {
        request: RequestId,
        slot: Slot,
        from: Origin,
        cached: usize,
    },
    /// A snapshot of a request's sequence as it is now, with `len` tokens.
    Snapshot {
        request: RequestId,
        slot: Slot,
        len: usize,
    },
    /// A sequence nobody needs any more.
    Close(Slot),
}

/// Where a request's sequence comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Origin {
    /// It is opened, empty.
    Fresh,
    /// It is there: a parked sequence goes on.
    Parked,
    /// It is a copy of the cached tokens of another, which stays as it is.
    Fork(Slot),
}

/// One sequence's part of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) struct Part {
    pub(in crate::engine) request: RequestId,
    pub(in crate::engine) slot: Slot,
    /// Which of its ids, see [`super::Scheduler::ids`].
    pub(in crate::engine) range: Range<usize>,
    /// Whether a token is drawn after the last of them. Then the worker says
    /// [`super::Scheduler::push`], and if nothing comes after it [`super::Scheduler::end`].
    pub(in crate::engine) draws: bool,
}

/// How the room for tokens is used: `running + parked + free = total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Room {
    pub(in crate::engine) total: usize,
    /// Reserved by the running requests, each for its worst case and for its
    /// snapshots.
    pub(in crate::engine) running: usize,
    /// Taken by parked sequences.
    pub(in crate::engine) parked: usize,
    pub(in crate::engine) free: usize,
}
