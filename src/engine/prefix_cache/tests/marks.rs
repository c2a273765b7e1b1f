//! Sequences with states against a list that is searched in full.

use super::*;

const STATE: usize = 3;

/// What the cache holds, as a list.
#[derive(Clone)]
struct Marked {
    handle: u32,
    ids: Vec<u32>,
    marks: Vec<usize>,
    pinned: bool,
    last_use: usize,
}

impl Marked {
    fn cost(&self) -> usize {
        self.ids.len() + STATE * (1 + self.marks.len())
    }

    /// Where it can be forked.
    fn positions(&self) -> Vec<usize> {
        let mut positions = self.marks.clone();
        positions.push(self.ids.len());
        positions
    }

    fn covers(&self, other: &Self) -> bool {
        let there = self.positions();
        self.ids.starts_with(&other.ids) && other.positions().iter().all(|at| there.contains(at))
    }

    /// Where it can be forked within `ids` with `most` marks in the copy.
    fn forks(&self, ids: &[u32], most: usize) -> usize {
        let common = common_prefix(&self.ids, ids);
        let fits =
            |at: &usize| *at <= common && self.marks.iter().filter(|m| *m <= at).count() <= most;
        self.positions().into_iter().filter(fits).max().unwrap_or(0)
    }
}

struct Both {
    cache: PrefixCache<u32>,
    list: Vec<Marked>,
    budget: usize,
    clock: usize,
}

impl Both {
    fn touch(&mut self, handle: u32) {
        self.clock += 1;
        let clock = self.clock;
        self.get(handle).last_use = clock;
    }

    fn get(&mut self, handle: u32) -> &mut Marked {
        let found = self.list.iter_mut().find(|marked| marked.handle == handle);
        found.unwrap()
    }

    fn oldest(&self, keep: Option<u32>) -> Option<u32> {
        let loose = self.list.iter().filter(|marked| !marked.pinned);
        let loose = loose.filter(|marked| Some(marked.handle) != keep);
        let oldest = loose.min_by_key(|marked| marked.last_use);
        oldest.map(|marked| marked.handle)
    }

    fn used(&self) -> usize {
        self.list.iter().map(Marked::cost).sum()
    }

    fn pinned(&self) -> usize {
        let pinned = self.list.iter().filter(|marked| marked.pinned);
        pinned.map(Marked::cost).sum()
    }

    fn park(&mut self, handle: u32, ids: Vec<u32>, marks: Vec<usize>, pinned: bool) {
        let closed = self.cache.park(handle, ids.clone(), marks.clone(), pinned);
        let new = Marked {
            handle,
            ids,
            marks,
            pinned,
            last_use: 0,
        };
        let beside = if pinned { 0 } else { self.pinned() };
        if new.ids.is_empty() || new.cost() + beside > self.budget {
            assert_eq!(closed, [handle]);
            return;
        }
        if pinned {
            self.list.iter_mut().for_each(|other| other.pinned = false);
        }
        // Whether another makes this one useless.
        let serves = |other: &Marked| match other.ids == new.ids {
            true if pinned => other.covers(&new),
            true => other.pinned || other.marks.len() >= new.marks.len(),
            false => !pinned && other.covers(&new),
        };
        if closed == [handle] {
            // Another serves instead, and was of use.
            let entries = &self.cache.entries;
            let newest = self
                .list
                .iter()
                .max_by_key(|other| entries[&other.handle].last_use);
            let newest = newest.unwrap().handle;
            self.touch(newest);
            let other = self.get(newest);
            assert!(serves(other));
            other.pinned |= pinned;
            return;
        }
        // Had another served as well, it would have.
        assert!(!self.list.iter().any(serves));
        let useless = |other: &Marked| !other.pinned && (new.covers(other) || other.ids == new.ids);
        let mut gone: Vec<Marked> = self
            .list
            .iter()
            .filter(|other| useless(other))
            .cloned()
            .collect();
        self.list.retain(|other| !useless(other));
        gone.sort_by_key(|other| other.ids.len());
        let mut gone: Vec<u32> = gone.iter().map(|other| other.handle).collect();
        while self.used() + new.cost() > self.budget {
            let oldest = self.oldest(None).unwrap();
            self.list.retain(|other| other.handle != oldest);
            gone.push(oldest);
        }
        assert_eq!(closed, gone);
        self.list.push(new);
        self.touch(handle);
    }

    fn longest(&self, ids: &[u32], most: usize) -> Option<Hit<u32>> {
        let found = self.cache.longest_marked(ids, most);
        let common = self.list.iter().map(|other| common_prefix(&other.ids, ids));
        assert_eq!(found.common, common.max().unwrap_or(0));
        let best = self.list.iter().map(|other| other.forks(ids, most)).max();
        assert_eq!(found.hit.map_or(0, |hit| hit.len), best.unwrap_or(0));
        let hit = found.hit?;
        let can_take = |other: &Marked| !other.pinned && other.ids.len() == hit.len;
        let all = self
            .list
            .iter()
            .filter(|other| other.forks(ids, most) == hit.len);
        let expected = all
            .max_by_key(|other| (can_take(other), other.last_use))
            .unwrap();
        assert_eq!(hit.handle, expected.handle);
        assert_eq!(hit.can_take, can_take(expected));
        let mut marks = expected.marks.clone();
        marks.retain(|mark| *mark <= hit.len);
        assert_eq!(self.cache.marks(hit.handle, hit.len), marks);
        assert!(marks.len() <= most);
        assert_eq!(self.cache.cost(hit.handle), expected.cost());
        Some(hit)
    }

    fn check(&self) {
        assert_eq!(self.cache.used(), self.used());
        assert!(self.used() <= self.budget);
        assert_eq!(self.cache.pinned(), self.pinned());
        assert_eq!(self.cache.evictable(None), self.used() - self.pinned());
        let mut ends = BTreeMap::new();
        collect(&self.cache.root, &mut Vec::new(), true, &mut ends);
        let list = self.list.iter();
        let list: BTreeMap<Vec<u32>, u32> = list
            .map(|other| (other.ids.clone(), other.handle))
            .collect();
        assert_eq!(ends, list);
        for other in &self.list {
            let entry = &self.cache.entries[&other.handle];
            assert_eq!((&entry.marks, entry.pinned), (&other.marks, other.pinned));
        }
    }
}

#[test]
fn it_does_what_a_list_would_for_100000_random_rounds() {
    let (mut hits, mut marked, mut taken) = (0, 0, 0);
    for seed in 0..10 {
        let dice = &mut StdRng::seed_from_u64(seed);
        let budget = [0, 12, 30, 80, 200][seed as usize % 5];
        let mut both = Both {
            cache: PrefixCache::with_states(budget, STATE),
            list: Vec::new(),
            budget,
            clock: 0,
        };
        for round in 0..10_000 {
            let ids = random_ids(dice);
            let most = dice.random_range(0..5);
            match dice.random_range(0..10) {
                0..4 => {
                    let marks = (1..=ids.len()).filter(|_| dice.random_bool(0.2)).collect();
                    let pinned = dice.random_bool(0.1);
                    both.park(round, ids, marks, pinned);
                }
                4..7 => {
                    if let Some(hit) = both.longest(&ids, most) {
                        hits += 1;
                        match hit.can_take {
                            true => {
                                taken += 1;
                                assert!(both.cache.take(hit.handle));
                                both.list.retain(|other| other.handle != hit.handle);
                            }
                            false => {
                                marked += 1;
                                both.cache.touch(hit.handle);
                                both.touch(hit.handle);
                            }
                        }
                    }
                }
                7 => {
                    let keep = both.longest(&ids, most).map(|hit| hit.handle);
                    let oldest = both.oldest(keep);
                    assert_eq!(both.cache.evict(keep), oldest);
                    both.list.retain(|other| Some(other.handle) != oldest);
                }
                _ => {
                    both.longest(&ids, most);
                }
            }
            both.check();
        }
    }
    assert!(
        hits > 5_000,
        "{hits} hits, {marked} at marks, {taken} taken"
    );
    assert!(
        marked > 1_000 && taken > 1_000,
        "{marked} at marks, {taken} taken"
    );
}

#[test]
fn the_deepest_mark_counts_and_what_is_common_is_told_besides() {
    let mut cache = PrefixCache::with_states(100, 1);
    assert!(
        cache
            .park('a', vec![1, 2, 3, 4, 5], vec![2], false)
            .is_empty()
    );
    let found = cache.longest_marked(&[1, 2, 3, 4, 9], 8);
    let hit = Hit {
        handle: 'a',
        len: 2,
        can_take: false,
    };
    assert_eq!((found.hit, found.common), (Some(hit), 4));
    // A copy without snapshots cannot have that one.
    assert_eq!(cache.longest_marked(&[1, 2, 3, 4, 9], 0).hit, None);
    let whole = cache.longest_marked(&[1, 2, 3, 4, 5, 6], 8).hit.unwrap();
    assert!(whole.can_take && whole.len == 5);
    assert_eq!(cache.longest_marked(&[1, 9], 8).common, 1);
}

#[test]
fn an_entry_that_can_be_forked_elsewhere_is_kept_beside_a_longer_one() {
    let mut cache = PrefixCache::with_states(100, 1);
    assert!(cache.park('a', vec![1, 2, 3], vec![1], false).is_empty());
    assert!(cache.park('b', vec![1, 2, 3, 4], vec![1], false).is_empty());
    assert_eq!(
        cache.park('c', vec![1, 2, 3, 4, 5], vec![1, 3, 4], false),
        ['a', 'b']
    );
    assert_eq!(cache.park('d', vec![1, 2, 3], vec![1], false), ['d']);
    // Of twins, the one with more marks.
    assert_eq!(
        cache.park('e', vec![1, 2, 3, 4, 5], vec![1, 2, 3, 5], false),
        ['c']
    );
    assert_eq!(cache.park('f', vec![1, 2, 3, 4, 5], vec![5], false), ['f']);
    let pinned = cache.park('g', vec![1, 2, 3, 4, 5], vec![4], true);
    assert_eq!(pinned, ['e'], "it has no mark at 4");
    let twin = cache.park('h', vec![1, 2, 3, 4, 5], vec![1, 2], false);
    assert_eq!(twin, ['h']);
    assert_eq!(cache.used(), 5 + 2);
}
