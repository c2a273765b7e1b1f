//! The prefix cache against a list that is searched in full.

#![allow(clippy::unwrap_used)]

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

mod marks;

/// What the cache holds, as a list.
#[derive(Clone)]
struct Parked {
    handle: u32,
    ids: Vec<u32>,
    pinned: bool,
    last_use: usize,
}

struct Both {
    cache: PrefixCache<u32>,
    list: Vec<Parked>,
    budget: usize,
    clock: usize,
    next: u32,
}

impl Both {
    fn new(budget: usize) -> Self {
        Self {
            cache: PrefixCache::new(budget),
            list: Vec::new(),
            budget,
            clock: 0,
            next: 0,
        }
    }

    fn touch(&mut self, handle: u32) {
        self.clock += 1;
        let clock = self.clock;
        self.get(handle).last_use = clock;
    }

    fn get(&mut self, handle: u32) -> &mut Parked {
        let found = self.list.iter_mut().find(|parked| parked.handle == handle);
        found.unwrap()
    }

    /// The list's entry that was used longest ago, of those not pinned.
    fn oldest(&self, keep: Option<u32>) -> Option<Parked> {
        let loose = self.list.iter().filter(|parked| !parked.pinned);
        let loose = loose.filter(|parked| Some(parked.handle) != keep);
        loose.min_by_key(|parked| parked.last_use).cloned()
    }

    fn drop(&mut self, handle: u32) {
        self.list.retain(|parked| parked.handle != handle);
    }

    fn used(&self) -> usize {
        self.list.iter().map(|parked| parked.ids.len()).sum()
    }

    /// As [`PrefixCache::insert`] says, on the list and on the cache.
    fn insert(&mut self, ids: &[u32], pinned: bool) -> u32 {
        let handle = self.next;
        self.next += 1;
        let closed = self.cache.insert(handle, ids.to_vec(), pinned);
        let beside: usize = self
            .list
            .iter()
            .filter(|parked| parked.pinned && !pinned)
            .map(|parked| parked.ids.len())
            .sum();
        if ids.is_empty() || ids.len() + beside > self.budget {
            assert_eq!(closed, [handle]);
            return handle;
        }
        if pinned {
            self.list
                .iter_mut()
                .for_each(|parked| parked.pinned = false);
        }
        let same = self.list.iter().find(|parked| parked.ids == ids).cloned();
        if let Some(same) = same {
            assert_eq!(closed, [handle]);
            self.touch(same.handle);
            self.get(same.handle).pinned |= pinned;
            return handle;
        }
        let holds = |parked: &&Parked| parked.ids.starts_with(ids);
        if !pinned && self.list.iter().any(|parked| holds(&parked)) {
            // Which of them was of use is the cache's choice.
            assert_eq!(closed, [handle]);
            let holding = self.list.iter().filter(holds);
            let newest = holding.max_by_key(|parked| self.cache.entries[&parked.handle].last_use);
            let newest = newest.unwrap().handle;
            self.touch(newest);
            return handle;
        }
        let (mut gone, mut left): (Vec<Parked>, Vec<Parked>) = self
            .list
            .drain(..)
            .partition(|parked| !parked.pinned && ids.starts_with(&parked.ids));
        std::mem::swap(&mut self.list, &mut left);
        gone.sort_by_key(|parked| parked.ids.len());
        while self.used() + ids.len() > self.budget {
            let oldest = self.oldest(None).unwrap();
            self.drop(oldest.handle);
            gone.push(oldest);
        }
        let gone: Vec<u32> = gone.iter().map(|parked| parked.handle).collect();
        assert_eq!(closed, gone);
        self.list.push(Parked {
            handle,
            ids: ids.to_vec(),
            pinned,
            last_use: 0,
        });
        self.touch(handle);
        handle
    }

    /// A lookup, checked against the list.
    fn longest(&self, ids: &[u32]) -> Option<Hit<u32>> {
        let hit = self.cache.longest(ids);
        let best = self
            .list
            .iter()
            .map(|parked| common_prefix(&parked.ids, ids));
        assert_eq!(hit.map_or(0, |hit| hit.len), best.max().unwrap_or(0));
        let hit = hit?;
        let of = |handle| self.list.iter().find(|parked| parked.handle == handle);
        let found = of(hit.handle).unwrap();
        assert_eq!(found.ids[..hit.len], ids[..hit.len]);
        // One that ends there comes before all others.
        let ends = |parked: &Parked| parked.ids == ids[..hit.len];
        assert_eq!(ends(found), self.list.iter().any(ends));
        assert_eq!(hit.can_take, ends(found) && !found.pinned);
        Some(hit)
    }

    fn check(&self) {
        assert_eq!(self.cache.used(), self.used());
        assert!(self.used() <= self.budget);
        let pinned: Vec<&Parked> = self.list.iter().filter(|parked| parked.pinned).collect();
        assert!(pinned.len() <= 1, "only the newest pin is kept");
        let tokens: usize = pinned.iter().map(|parked| parked.ids.len()).sum();
        assert_eq!(self.cache.pinned(), tokens);
        assert_eq!(self.cache.evictable(None), self.used() - tokens);
        let mut ends = BTreeMap::new();
        collect(&self.cache.root, &mut Vec::new(), true, &mut ends);
        let list: BTreeMap<Vec<u32>, u32> = self
            .list
            .iter()
            .map(|parked| (parked.ids.clone(), parked.handle))
            .collect();
        assert_eq!(ends, list);
    }
}

/// The entries of a trie, whose every node must be needed.
fn collect(
    node: &Node<u32>,
    path: &mut Vec<u32>,
    is_root: bool,
    ends: &mut BTreeMap<Vec<u32>, u32>,
) {
    let before = path.len();
    path.extend(&node.edge);
    assert_eq!(node.edge.is_empty(), is_root);
    assert!(is_root || node.handle.is_some() || node.children.len() > 1);
    if let Some(handle) = node.handle {
        ends.insert(path.clone(), handle);
    }
    for (first, child) in &node.children {
        assert_eq!(child.edge.first(), Some(first));
        collect(child, path, false, ends);
    }
    path.truncate(before);
}

fn random_ids(dice: &mut StdRng) -> Vec<u32> {
    let len = dice.random_range(0..14);
    // Mostly the same token, so that long prefixes are common.
    let id = |dice: &mut StdRng| dice.random_range(0..9u32).saturating_sub(5).min(2);
    (0..len).map(|_| id(dice)).collect()
}

#[test]
fn it_does_what_a_list_would_for_100000_random_rounds() {
    for seed in 0..10 {
        let dice = &mut StdRng::seed_from_u64(seed);
        let mut both = Both::new([0, 5, 12, 40, 100][seed as usize % 5]);
        let mut hits = 0;
        for _ in 0..10_000 {
            let ids = random_ids(dice);
            match dice.random_range(0..10) {
                0..4 => {
                    let pinned = dice.random_bool(0.1);
                    both.insert(&ids, pinned);
                }
                4..6 => {
                    if let Some(hit) = both.longest(&ids) {
                        hits += 1;
                        both.cache.touch(hit.handle);
                        both.touch(hit.handle);
                    }
                }
                6 => {
                    if let Some(hit) = both.longest(&ids).filter(|hit| hit.can_take) {
                        assert!(both.cache.take(hit.handle));
                        assert!(!both.cache.take(hit.handle));
                        both.drop(hit.handle);
                    }
                }
                7 => {
                    let keep = both.longest(&ids).map(|hit| hit.handle);
                    let oldest = both.oldest(keep).map(|parked| parked.handle);
                    assert_eq!(both.cache.evict(keep), oldest);
                    oldest.into_iter().for_each(|handle| both.drop(handle));
                }
                _ => {
                    both.longest(&ids);
                }
            }
            both.check();
        }
        assert!(hits > 500 || both.budget == 0, "seed {seed}: {hits} hits");
    }
}

#[test]
fn a_new_pin_takes_the_place_of_the_old_one_which_may_then_go() {
    let mut cache = PrefixCache::new(6);
    assert!(cache.insert('a', vec![1, 1, 1], true).is_empty());
    assert_eq!(cache.evict(None), None);
    // There is no room beside the pin, and it stays.
    assert_eq!(cache.insert('b', vec![2, 2, 2, 2], false), ['b']);
    assert!(cache.insert('c', vec![3, 3], true).is_empty());
    assert_eq!(cache.insert('d', vec![2, 2, 2, 2], false), ['a']);
    assert_eq!(cache.evict(None), Some('d'));
    assert_eq!(cache.evict(None), None);
}
