//! Which sequences are parked, by their token ids: the longest common prefix
//! of a new prompt with any of them, and which of them go when room is short.
//!
//! Some models' sequences can be forked only at *marks*, where a snapshot of
//! them was taken, and at their end. Then the longest prefix that one can be
//! forked at counts, and each snapshot takes its room.
//!
//! A trie over token ids and plain handles. Knows nothing of tensors, of
//! requests or of the tokens' meaning, and closes nothing itself: what has to
//! be closed is returned.

mod trie;

use std::collections::BTreeMap;

use trie::Node;
pub(super) use trie::common_prefix;

/// The parked sequences. No two of them have the same ids.
///
/// Invariant: `used` is the sum of what the entries take and at most `budget`.
pub(super) struct PrefixCache<H> {
    root: Node<H>,
    entries: BTreeMap<H, Entry>,
    /// The most tokens that may be parked.
    budget: usize,
    /// Tokens parked, and what the states beside them take.
    used: usize,
    /// What a state takes, in tokens: that of a sequence, and each that was
    /// kept in a snapshot. 0 where sequences have none: then they can be
    /// forked anywhere.
    state_tokens: usize,
    /// Counts uses, so that the entry used longest ago is known.
    clock: u64,
}

/// A parked sequence.
struct Entry {
    ids: Vec<u32>,
    /// Where snapshots of it were taken, in order.
    marks: Vec<usize>,
    /// Never evicted.
    pinned: bool,
    last_use: u64,
}

/// A parked sequence that shares a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hit<H> {
    /// Which.
    pub(super) handle: H,
    /// How many ids are common. Never 0.
    pub(super) len: usize,
    /// Whether these are all of its ids and it is not pinned, so that it may
    /// be taken.
    pub(super) can_take: bool,
}

/// What parked sequences have of a prompt, where they can be forked only at
/// their marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marked<H> {
    /// The one that can be forked furthest on.
    pub(super) hit: Option<Hit<H>>,
    /// How many ids any of them has in common with it.
    pub(super) common: usize,
}

impl Entry {
    /// What it takes, in tokens.
    fn cost(&self, state_tokens: usize) -> usize {
        cost(self.ids.len(), self.marks.len(), state_tokens)
    }

    /// Whether all that can be forked of this one can be forked of `other` as
    /// well, which has to begin with all of its ids.
    fn is_covered_by(&self, other: &Self) -> bool {
        let there = |mark: &usize| other.marks.contains(mark) || *mark == other.ids.len();
        self.marks.iter().all(there) && there(&self.ids.len())
    }
}

impl<H: Copy + Ord> PrefixCache<H> {
    /// A cache of at most `budget` tokens, of sequences each of whose states
    /// takes as much as `state_tokens`.
    pub(super) fn with_states(budget: usize, state_tokens: usize) -> Self {
        Self {
            state_tokens,
            ..Self::new(budget)
        }
    }

    /// A cache of at most `budget` tokens, of sequences without states.
    pub(super) fn new(budget: usize) -> Self {
        Self {
            state_tokens: 0,
            root: Node::new(Vec::new(), None),
            entries: BTreeMap::new(),
            budget,
            used: 0,
            clock: 0,
        }
    }

    /// Tokens parked, and what the states beside them take.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// What pinned entries take.
    pub(super) fn pinned(&self) -> usize {
        let pinned = self.entries.values().filter(|entry| entry.pinned);
        pinned.map(|entry| entry.cost(self.state_tokens)).sum()
    }

    /// The pinned entry and its ids.
    pub(super) fn pinned_entry(&self) -> Option<(H, &[u32])> {
        let mut entries = self.entries.iter();
        let (&handle, entry) = entries.find(|(_, entry)| entry.pinned)?;
        Some((handle, &entry.ids))
    }

    /// The entry that shares the most ids with `ids`, if any shares one. Among
    /// several, one that ends with the common ids.
    pub(super) fn longest(&self, ids: &[u32]) -> Option<Hit<H>> {
        let (node, len) = self.root.descend(ids);
        let handle = match len {
            0 => None,
            _ => node.any(),
        }?;
        let entry = self.entries.get(&handle)?;
        Some(Hit {
            handle,
            len,
            can_take: !entry.pinned && entry.ids.len() == len,
        })
    }

    /// The entry that can be forked furthest on within `ids`, if any can; with
    /// at most `most` snapshots in the copy. Among several one that can be
    /// taken, then the one used last.
    pub(super) fn longest_marked(&self, ids: &[u32], most: usize) -> Marked<H> {
        let sharing = self.root.sharing(ids);
        let hits = sharing.iter().filter_map(|&(handle, common)| {
            let entry = self.entries.get(&handle)?;
            let len = deepest(&entry.marks, entry.ids.len(), common, most)?;
            let can_take = !entry.pinned && entry.ids.len() == len;
            let hit = Hit {
                handle,
                len,
                can_take,
            };
            Some((hit, entry.last_use))
        });
        let best = hits.max_by_key(|(hit, last_use)| (hit.len, hit.can_take, *last_use));
        Marked {
            hit: best.map(|(hit, _)| hit),
            common: sharing.iter().map(|(_, common)| *common).max().unwrap_or(0),
        }
    }

    /// Where snapshots of an entry's first `len` ids were taken.
    pub(super) fn marks(&self, handle: H, len: usize) -> &[usize] {
        let marks = self.entries.get(&handle).map(|entry| &entry.marks[..]);
        up_to(marks.unwrap_or_default(), len)
    }

    /// What an entry takes.
    pub(super) fn cost(&self, handle: H) -> usize {
        let entry = self.entries.get(&handle);
        entry.map_or(0, |entry| entry.cost(self.state_tokens))
    }

    /// Says that an entry was of use: it is evicted after all others.
    pub(super) fn touch(&mut self, handle: H) {
        self.clock += 1;
        if let Some(entry) = self.entries.get_mut(&handle) {
            entry.last_use = self.clock;
        }
    }

    /// Parks a sequence of which there are no snapshots, see [`Self::park`].
    pub(super) fn insert(&mut self, handle: H, ids: Vec<u32>, pinned: bool) -> Vec<H> {
        self.park(handle, ids, Vec::new(), pinned)
    }

    /// Parks a sequence; a `pinned` one takes the place of the one pinned
    /// before. Returns what is to be closed: entries that had to go, those
    /// that are prefixes of the new one, or the new one itself, if it does
    /// not fit or another holds all of its ids. Where there are states, an
    /// entry is not closed for another that cannot be forked where it can.
    pub(super) fn park(
        &mut self,
        handle: H,
        ids: Vec<u32>,
        marks: Vec<usize>,
        pinned: bool,
    ) -> Vec<H> {
        debug_assert!(marks.is_sorted() && marks.last().is_none_or(|&mark| mark <= ids.len()));
        let entry = Entry {
            ids,
            marks,
            pinned,
            last_use: 0,
        };
        let cost = entry.cost(self.state_tokens);
        let beside = if pinned { 0 } else { self.pinned() };
        if entry.ids.is_empty() || cost.saturating_add(beside) > self.budget {
            return vec![handle];
        }
        if pinned {
            self.entries
                .values_mut()
                .for_each(|entry| entry.pinned = false);
        }
        if let Some(holder) = self.holder(&entry)
            && let Some(other) = self.entries.get_mut(&holder)
        {
            other.pinned |= pinned;
            self.touch(holder);
            return vec![handle];
        }
        let mut closed = self.root.ends_along(&entry.ids);
        closed.retain(|handle| {
            let other = &self.entries[handle];
            let twins = other.ids.len() == entry.ids.len();
            !other.pinned && (self.state_tokens == 0 || twins || other.is_covered_by(&entry))
        });
        for &handle in &closed {
            self.take(handle);
        }
        while self.used + cost > self.budget {
            // What is pinned fits beside the new one, so there is another.
            match self.evict(None) {
                Some(evicted) => closed.push(evicted),
                None => break,
            }
        }
        self.used += cost;
        self.root.insert(&entry.ids, handle);
        self.entries.insert(handle, entry);
        self.touch(handle);
        closed
    }

    /// The entry that makes a new one useless, if there is one: it holds all
    /// of its ids, and is the one pinned if the new one would be.
    fn holder(&self, new: &Entry) -> Option<H> {
        if self.state_tokens == 0 {
            let twin = self.longest(&new.ids)?;
            let other = self.entries.get(&twin.handle)?;
            let holds = twin.len == new.ids.len();
            return (holds && (!new.pinned || other.ids.len() == twin.len)).then_some(twin.handle);
        }
        let holds = |other: &Entry| match other.ids.len() == new.ids.len() {
            true if other.pinned => true,
            true if !new.pinned => other.marks.len() >= new.marks.len(),
            true => new.is_covered_by(other),
            false => !new.pinned && new.is_covered_by(other),
        };
        let sharing = self.root.sharing(&new.ids).into_iter();
        let holding = sharing.filter(|(_, common)| *common == new.ids.len());
        let mut holders = holding.filter(|(handle, _)| self.entries.get(handle).is_some_and(holds));
        holders.next().map(|(handle, _)| handle)
    }

    /// Moves an entry out: its sequence goes on or is closed. Whether there
    /// was such an entry.
    pub(super) fn take(&mut self, handle: H) -> bool {
        let Some(entry) = self.entries.remove(&handle) else {
            return false;
        };
        self.used -= entry.cost(self.state_tokens);
        self.root.remove(&entry.ids);
        true
    }

    /// Tokens that evicting everything evictable would free, `keep` left
    /// alone.
    pub(super) fn evictable(&self, keep: Option<H>) -> usize {
        self.candidates(keep)
            .map(|(_, entry)| entry.cost(self.state_tokens))
            .sum()
    }

    /// Removes the entry that was used longest ago, if one is left that is
    /// neither pinned nor `keep`. It has to be closed.
    pub(super) fn evict(&mut self, keep: Option<H>) -> Option<H> {
        let oldest = self
            .candidates(keep)
            .min_by_key(|(_, entry)| entry.last_use)
            .map(|(&handle, _)| handle)?;
        self.take(oldest);
        Some(oldest)
    }

    fn candidates(&self, keep: Option<H>) -> impl Iterator<Item = (&H, &Entry)> {
        self.entries
            .iter()
            .filter(move |(handle, entry)| !entry.pinned && Some(**handle) != keep)
    }
}

/// What a sequence takes, in tokens: itself, its state and those kept at its
/// marks.
pub(super) fn cost(tokens: usize, marks: usize, state_tokens: usize) -> usize {
    tokens.saturating_add(state_tokens.saturating_mul(marks.saturating_add(1)))
}

/// Those of `marks`, which are in order, that are at most `len`.
pub(super) fn up_to(marks: &[usize], len: usize) -> &[usize] {
    &marks[..marks.partition_point(|&mark| mark <= len)]
}

/// The furthest on within `common` that a sequence of `len` ids can be forked
/// and its copy has at most `most` snapshots, if it can be at all.
pub(super) fn deepest(marks: &[usize], len: usize, common: usize, most: usize) -> Option<usize> {
    let position = match len <= common && marks.len() <= most {
        true => len,
        false => *up_to(&marks[..marks.len().min(most)], common).last()?,
    };
    (position > 0).then_some(position)
}

#[cfg(test)]
mod tests;
