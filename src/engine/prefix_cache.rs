//! Which sequences are parked, by their token ids: the longest common prefix
//! of a new prompt with any of them, and which of them go when room is short.
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
/// Invariant: `used` is the sum of the entries' lengths and at most `budget`.
pub(super) struct PrefixCache<H> {
    root: Node<H>,
    entries: BTreeMap<H, Entry>,
    /// The most tokens that may be parked.
    budget: usize,
    /// Tokens parked.
    used: usize,
    /// Counts uses, so that the entry used longest ago is known.
    clock: u64,
}

/// A parked sequence.
struct Entry {
    ids: Vec<u32>,
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

impl<H: Copy + Ord> PrefixCache<H> {
    /// A cache of at most `budget` tokens.
    pub(super) fn new(budget: usize) -> Self {
        Self {
            root: Node::new(Vec::new(), None),
            entries: BTreeMap::new(),
            budget,
            used: 0,
            clock: 0,
        }
    }

    /// Tokens parked.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Tokens of pinned entries.
    pub(super) fn pinned(&self) -> usize {
        let pinned = self.entries.values().filter(|entry| entry.pinned);
        pinned.map(|entry| entry.ids.len()).sum()
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

    /// Says that an entry was of use: it is evicted after all others.
    pub(super) fn touch(&mut self, handle: H) {
        self.clock += 1;
        if let Some(entry) = self.entries.get_mut(&handle) {
            entry.last_use = self.clock;
        }
    }

    /// Parks a sequence; a `pinned` one takes the place of the one pinned
    /// before. Returns what is to be closed: entries that had to go, those
    /// that are prefixes of the new one, or the new one itself, if it does
    /// not fit or another holds all of its ids.
    pub(super) fn insert(&mut self, handle: H, ids: Vec<u32>, pinned: bool) -> Vec<H> {
        let beside = if pinned { 0 } else { self.pinned() };
        if ids.is_empty() || ids.len() + beside > self.budget {
            return vec![handle];
        }
        if pinned {
            self.entries
                .values_mut()
                .for_each(|entry| entry.pinned = false);
        }
        let twin = self.longest(&ids).filter(|hit| hit.len == ids.len());
        if let Some(twin) = twin
            && let Some(entry) = self.entries.get_mut(&twin.handle)
            && (!pinned || entry.ids.len() == ids.len())
        {
            entry.pinned |= pinned;
            self.touch(twin.handle);
            return vec![handle];
        }
        let mut closed = self.root.ends_along(&ids);
        closed.retain(|handle| !self.entries[handle].pinned);
        for &handle in &closed {
            self.take(handle);
        }
        while self.used + ids.len() > self.budget {
            // What is pinned fits beside the new one, so there is another.
            match self.evict(None) {
                Some(evicted) => closed.push(evicted),
                None => break,
            }
        }
        self.used += ids.len();
        self.root.insert(&ids, handle);
        let entry = Entry {
            ids,
            pinned,
            last_use: 0,
        };
        self.entries.insert(handle, entry);
        self.touch(handle);
        closed
    }

    /// Moves an entry out: its sequence goes on or is closed. Whether there
    /// was such an entry.
    pub(super) fn take(&mut self, handle: H) -> bool {
        let Some(entry) = self.entries.remove(&handle) else {
            return false;
        };
        self.used -= entry.ids.len();
        self.root.remove(&entry.ids);
        true
    }

    /// Tokens that evicting everything evictable would free, `keep` left
    /// alone.
    pub(super) fn evictable(&self, keep: Option<H>) -> usize {
        self.candidates(keep)
            .map(|(_, entry)| entry.ids.len())
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

#[cfg(test)]
mod tests;
