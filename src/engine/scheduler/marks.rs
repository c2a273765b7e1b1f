//! Where sequences with states can be forked, and so where a request begins
//! and where snapshots are taken.
//!
//! A snapshot takes room and a step cut in two, so few are taken: where the
//! caller expects prompts to part, where another waits for what is being
//! evaluated, and where a prompt has left another one and no snapshot was. That
//! last one helps nobody yet, but where two have parted a third will, such as
//! after a preamble.

use super::admission::{Source, Start};
use super::{Action, Arrival, Running, Scheduler, Slot, States};
use crate::engine::prefix_cache::{common_prefix, deepest, up_to};

/// A running sequence's marks: where there are snapshots of it, and where some
/// will be taken once it has come there.
///
/// Invariant: both are in order, and the latter after the former.
#[derive(Debug, Default)]
pub(super) struct Marks {
    taken: Vec<usize>,
    wanted: Vec<usize>,
}

impl Marks {
    fn new(taken: Vec<usize>, mut wanted: Vec<usize>) -> Self {
        wanted.sort_unstable();
        debug_assert!(taken.iter().chain(&wanted).is_sorted());
        Self { taken, wanted }
    }

    /// How many there are or will be.
    pub(super) fn count(&self) -> usize {
        self.taken.len() + self.wanted.len()
    }

    /// Where the next snapshot is to be taken.
    pub(super) fn next(&self) -> Option<usize> {
        self.wanted.first().copied()
    }

    /// Where there are snapshots.
    pub(super) fn taken(self) -> Vec<usize> {
        self.taken
    }

    /// Wants no more snapshots. Whether it did.
    pub(super) fn want_none(&mut self) -> bool {
        !std::mem::take(&mut self.wanted).is_empty()
    }

    /// Those of a sequence that begins with nothing instead of a copy.
    pub(super) fn of_none(&self) -> Self {
        Self::new(Vec::new(), self.wanted.clone())
    }

    /// Wants one at `position`, where there is none.
    fn want(&mut self, position: usize) {
        let place = self.wanted.partition_point(|&mark| mark < position);
        self.wanted.insert(place, position);
    }

    /// The last one, taken or to be taken, that is in the first `common` and
    /// among the first `most`.
    fn coming(&self, common: usize, most: usize) -> Option<usize> {
        let all = self.taken.iter().chain(&self.wanted).take(most);
        all.take_while(|mark| **mark <= common).last().copied()
    }
}

/// What there is of a prompt.
struct Best {
    source: Source,
    /// How many tokens a sequence that begins from it has,
    len: usize,
    /// and where there are snapshots of them.
    marks: Vec<usize>,
    /// How many tokens others have in common with it.
    common: usize,
}

/// What will be there of a prompt.
struct Coming {
    len: usize,
    /// The running request to which a mark has to be added for that.
    add_to: Option<usize>,
}

/// How many times what a request would evaluate in vain it may evaluate once
/// more, so that others evaluate nothing in vain.
const MOST_BACK: usize = 4;

/// How many of a full sequence's marks, the first ones, a prompt that shares
/// `common` tokens with it keeps when it begins further up to make room. Marks
/// near the end come and go; those before are the further apart the further
/// from it, so that a history is evaluated again the seldomer the longer it is.
fn worth_keeping(marks: &[usize], common: usize) -> usize {
    let mut keep = marks.len().saturating_sub(2);
    while keep > 0 {
        let before = if keep > 1 { marks[keep - 2] } else { 0 };
        if marks[keep - 1] - before >= common - marks[keep - 1] {
            break;
        }
        keep -= 1;
    }
    keep
}

impl Scheduler {
    /// Plans the snapshots of those that have come to a mark.
    pub(super) fn take_snapshots(&mut self) {
        for running in &mut self.running {
            if running.marks.next() == Some(running.evaluated) {
                running.marks.wanted.remove(0);
                running.marks.taken.push(running.evaluated);
                self.actions.push(Action::Snapshot {
                    request: running.id,
                    slot: running.slot,
                    len: running.evaluated,
                });
            }
        }
    }

    /// There is no snapshot of a running sequence at `position` though there
    /// should be.
    pub(in crate::engine) fn unmark(&mut self, slot: Slot, position: usize) {
        let of = |running: &&mut Running| running.slot == slot;
        if let Some(running) = self.running.iter_mut().find(of) {
            running.marks.taken.retain(|mark| *mark != position);
        }
    }

    /// How one of those waiting can begin.
    pub(super) fn start_at_mark(&mut self, which: usize, states: States) -> Start {
        let arrival = &self.waiting[which];
        let before_last = &arrival.prompt[..arrival.prompt.len() - 1];
        let most = self.most_marks(arrival, states);
        let mut best = self.best(before_last, most);
        let lost = best.common - best.len;
        if lost >= states.worth && best.marks.len() == most {
            // It may take no snapshot where it leaves the others, and so would
            // the next one and the next. It begins further up, which makes
            // room for some, unless that costs too much for one request.
            let back = self.best(before_last, worth_keeping(&best.marks, best.common));
            if best.len - back.len <= MOST_BACK * lost {
                best = back;
            }
        }
        let found = self.coming(before_last, &best, most, states);
        let mut waits = found.is_some();
        if let Some(Coming {
            len,
            add_to: Some(place),
        }) = found
        {
            let keep = match best.source {
                Source::Parked(hit) => Some(hit.handle),
                _ => None,
            };
            // Where there is no room for it, what is there has to do.
            waits = self.evict_for(states.tokens, keep);
            if waits {
                self.running[place].marks.want(len);
            }
        }
        if waits {
            return Start {
                source: Source::Coming,
                marks: Marks::default(),
            };
        }
        let wanted = self.wanted(&self.waiting[which], &best, most, states);
        Start {
            source: best.source,
            marks: Marks::new(best.marks, wanted),
        }
    }

    /// The most snapshots a request's sequence may have.
    fn most_marks(&self, arrival: &Arrival, states: States) -> usize {
        let room = self.most_tokens().saturating_sub(arrival.worst_case());
        states.most.min(room / states.tokens)
    }

    /// What there is of a prompt that can be begun from with at most `most`
    /// snapshots.
    fn best(&self, ids: &[u32], most: usize) -> Best {
        let parked = self.cache.longest_marked(ids, most);
        let mut best = Best {
            source: parked.hit.map_or(Source::Nothing, Source::Parked),
            len: parked.hit.map_or(0, |hit| hit.len),
            marks: Vec::new(),
            common: parked.common,
        };
        let mut copied = None;
        // Of two that have as much of it, one with a snapshot there.
        let mut marked = true;
        for running in &self.running {
            let common = common_prefix(&running.ids, ids);
            best.common = best.common.max(common);
            let taken = &running.marks.taken[..];
            let Some(there) = deepest(taken, running.evaluated, common, most) else {
                continue;
            };
            let is_marked = taken.contains(&there);
            if (there, is_marked) > (best.len, marked) {
                best.len = there;
                best.source = Source::Running(running.slot, there);
                marked = is_marked;
                copied = Some(taken);
            }
        }
        let marks = match best.source {
            Source::Parked(hit) => self.cache.marks(hit.handle, best.len),
            _ => up_to(copied.unwrap_or_default(), best.len),
        };
        best.marks = marks.to_vec();
        best
    }

    /// More of a prompt than the best that is there, if that will be there
    /// soon or can be.
    fn coming(&self, ids: &[u32], best: &Best, most: usize, states: States) -> Option<Coming> {
        let mut coming = Coming {
            len: best.len,
            add_to: None,
        };
        let prefilling = self.running.iter().enumerate();
        let prefilling = prefilling.filter(|(_, running)| running.prefilling());
        let common = prefilling.map(|(place, running)| {
            let common = common_prefix(&running.ids, ids);
            (place, running, common)
        });
        let common: Vec<_> = common.filter(|(.., common)| *common > best.len).collect();
        for (_, running, common) in &common {
            let mark = running.marks.coming(*common, most);
            coming.len = coming.len.max(mark.unwrap_or(0));
        }
        for (place, running, common) in common {
            let may_add = running.marks.count() < states.most.min(most);
            if may_add && common > running.evaluated && common >= coming.len + states.worth {
                coming = Coming {
                    len: common,
                    add_to: Some(place),
                };
            }
        }
        (coming.len > best.len).then_some(coming)
    }

    /// Where snapshots are to be taken of a request's sequence: where it leaves
    /// others, at the first boundary and at the last ones.
    fn wanted(&self, arrival: &Arrival, best: &Best, most: usize, states: States) -> Vec<usize> {
        let prompt_len = arrival.prompt.len();
        let pinned = if arrival.pin { 0 } else { self.cache.pinned() };
        let to_park = self.limits.cache_tokens.saturating_sub(pinned + prompt_len);
        // The sequence would not be parked with more: one state is its own.
        let most = most.min((to_park / states.tokens).saturating_sub(1));
        let apart = |position: usize, other: &usize| other.abs_diff(position) >= states.worth;
        let is_apart = |position: usize| {
            let mut others = best.marks.iter().chain(&[0]);
            others.all(|other| apart(position, other))
        };
        let mut boundaries = arrival.boundaries.clone();
        boundaries
            .retain(|&boundary| (best.len..prompt_len).contains(&boundary) && is_apart(boundary));
        boundaries.sort_unstable();
        let first = boundaries.first().copied();
        let leaves = match best.source {
            _ if best.common >= best.len + states.worth => Some(best.common),
            // The other goes on, and its end with it.
            Source::Running(_, end) => Some(end).filter(|end| is_apart(*end)),
            _ => None,
        };
        let mut wanted: Vec<usize> = Vec::new();
        let positions = leaves.into_iter().chain(first);
        for position in positions.chain(boundaries.into_iter().rev()) {
            if best.marks.len() + wanted.len() >= most {
                break;
            }
            if wanted.iter().all(|other| apart(position, other)) {
                wanted.push(position);
            }
        }
        wanted
    }
}
