//! The scheduler with a world that does what it says and checks it.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::engine::prefix_cache::common_prefix;

mod cases;
mod states;

/// A request as the world sees it.
struct Asked {
    /// The prompt, then the tokens the world has drawn.
    ids: Vec<u32>,
    prompt_len: usize,
    max_tokens: usize,
    /// The round it came in.
    round: usize,
    slot: Option<Slot>,
}

impl Asked {
    fn worst_case(&self) -> usize {
        self.prompt_len + self.max_tokens
    }
}

/// The sequences as plain ids, and whoever waits.
struct World {
    scheduler: Scheduler,
    limits: Limits,
    sequences: BTreeMap<Slot, Vec<u32>>,
    /// Where there are snapshots of them.
    snapshots: BTreeMap<Slot, BTreeSet<usize>>,
    /// Those closed with the next plan, for a snapshot came to nothing.
    spoilt: BTreeSet<Slot>,
    /// How many snapshots were asked for. Every so many-th fails.
    asked_snapshots: usize,
    fails: Option<usize>,
    asked: BTreeMap<RequestId, Asked>,
    next_request: RequestId,
    round: usize,
    /// The most rounds a request took.
    longest: usize,
    finished: usize,
    refused: usize,
    /// Prompt tokens evaluated, and those that were not.
    prefilled: usize,
    cached: usize,
}

impl World {
    fn new(limits: Limits) -> Self {
        Self {
            scheduler: Scheduler::new(limits),
            limits,
            sequences: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            spoilt: BTreeSet::new(),
            asked_snapshots: 0,
            fails: None,
            asked: BTreeMap::new(),
            next_request: 0,
            round: 0,
            longest: 0,
            finished: 0,
            refused: 0,
            prefilled: 0,
            cached: 0,
        }
    }

    fn submit(&mut self, prompt: &[u32], max_tokens: usize, pin: bool) -> RequestId {
        self.submit_parting(prompt, max_tokens, pin, &[])
    }

    /// A request whose caller says where prompts part.
    fn submit_parting(
        &mut self,
        prompt: &[u32],
        max_tokens: usize,
        pin: bool,
        boundaries: &[usize],
    ) -> RequestId {
        let id = self.next_request;
        self.next_request += 1;
        let asked = Asked {
            ids: prompt.to_vec(),
            prompt_len: prompt.len(),
            max_tokens,
            round: self.round,
            slot: None,
        };
        self.asked.insert(id, asked);
        self.scheduler.submit(Arrival {
            id,
            prompt: prompt.to_vec(),
            max_tokens,
            pin,
            boundaries: boundaries.to_vec(),
        });
        id
    }

    /// A sequence from elsewhere, if it is of use and there is room.
    fn adopt(&mut self, ids: &[u32]) -> bool {
        let can = self.scheduler.can_adopt(ids);
        if can {
            let slot = self.scheduler.adopt(ids.to_vec());
            assert!(self.sequences.insert(slot, ids.to_vec()).is_none());
            self.snapshots.insert(slot, BTreeSet::new());
        }
        can
    }

    /// Plans, checks the plan and carries it out; what it drew is not said.
    fn plan(&mut self) -> ShortList<Part> {
        self.round += 1;
        let plan = self.scheduler.plan();
        for refused in plan.refused {
            let asked = self.asked.remove(&refused.request).unwrap();
            assert!(asked.slot.is_none());
            assert_eq!(refused.needed, asked.worst_case());
            assert!(refused.needed > refused.limit);
            let beside = self.limits.cache_tokens + self.limits.state_tokens();
            assert!(refused.limit + beside >= self.limits.kv_tokens);
            self.refused += 1;
        }
        let mut without = Vec::new();
        for action in plan.actions {
            self.act(action, &mut without);
        }
        self.check_room();
        let mut parts = plan.parts;
        parts.retain(|part| self.asked.contains_key(&part.request));
        if without.is_empty() {
            self.check_parts(&parts);
        }
        for part in &parts {
            let asked = &self.asked[&part.request];
            self.prefilled +=
                part.range.end.min(asked.prompt_len) - part.range.start.min(asked.prompt_len);
            let ids = &asked.ids[part.range.clone()];
            assert_eq!(self.scheduler.ids(part), ids);
            self.sequences.get_mut(&part.slot).unwrap().extend(ids);
        }
        parts
    }

    fn act(&mut self, action: Action, without: &mut Vec<(Slot, usize)>) {
        match action {
            Action::Snapshot { request, slot, len } => {
                assert!(self.limits.states.is_some());
                self.snapshot(request, slot, len, without);
            }
            Action::Close(slot) => {
                self.sequences.remove(&slot).unwrap();
                self.snapshots.remove(&slot).unwrap();
                self.spoilt.remove(&slot);
                let in_use = self.asked.values().any(|asked| asked.slot == Some(slot));
                assert!(!in_use, "a running request's sequence is closed");
            }
            Action::Begin {
                request,
                slot,
                from,
                cached,
            } => {
                let asked = &self.asked[&request];
                let mut snapshots = BTreeSet::new();
                let prompt = &asked.ids[..asked.prompt_len];
                assert!(cached < prompt.len(), "nothing is left to evaluate");
                // Whoever runs has this much of it or will have; it is not
                // evaluated a second time meanwhile.
                let others = self.asked.values().filter(|other| other.slot.is_some());
                for other in others.filter(|_| self.limits.states.is_none()) {
                    let common = common_prefix(&other.ids[..other.prompt_len], prompt);
                    assert!(cached >= common.min(prompt.len() - 1));
                }
                match from {
                    Origin::Fresh => {
                        assert_eq!(cached, 0);
                        assert!(self.sequences.insert(slot, Vec::new()).is_none());
                    }
                    Origin::Parked => {
                        assert_eq!(self.sequences[&slot], prompt[..cached]);
                        let taken = self.asked.values().any(|asked| asked.slot == Some(slot));
                        assert!(!taken, "two requests have one sequence");
                        snapshots = self.snapshots[&slot].clone();
                    }
                    Origin::Fork(original) => {
                        let copy = self.sequences[&original][..cached].to_vec();
                        assert_eq!(copy, prompt[..cached]);
                        assert!(cached > 0);
                        snapshots = self.snapshots[&original].clone();
                        assert!(
                            self.limits.states.is_none()
                                || snapshots.contains(&cached)
                                || self.sequences[&original].len() == cached,
                            "a fork where there is no snapshot"
                        );
                        snapshots.retain(|len| *len <= cached);
                        assert!(self.sequences.insert(slot, copy).is_none());
                        if without.contains(&(original, cached)) {
                            without.push((slot, cached));
                            self.scheduler.unmark(slot, cached);
                        }
                    }
                }
                self.snapshots.insert(slot, snapshots);
                self.cached += cached;
                self.asked.get_mut(&request).unwrap().slot = Some(slot);
            }
        }
        let held: usize = self.sequences.keys().map(|slot| self.held(*slot)).sum();
        assert!(held <= self.limits.kv_tokens, "{held} tokens are held");
    }

    fn check_room(&self) {
        let running = || self.asked.values().filter(|asked| asked.slot.is_some());
        let room = self.scheduler.room();
        assert_eq!(room.total, self.limits.kv_tokens);
        assert_eq!(room.running + room.parked + room.free, room.total);
        let least: usize = running().map(|asked| self.least(asked)).sum();
        let most = self.limits.states.map_or(0, |states| states.most);
        let most = running().count() * most * self.limits.state_tokens();
        assert!((least..=least + most).contains(&room.running));
        let parked = self.sequences.keys();
        let parked = parked.filter(|slot| !self.spoilt.contains(slot));
        let parked = parked.filter(|slot| running().all(|asked| asked.slot != Some(**slot)));
        let parked: usize = parked.map(|slot| self.held(*slot)).sum();
        assert_eq!(room.parked, parked);
        assert!(parked <= self.limits.cache_tokens);
        assert!(running().count() <= self.limits.max_batch);
    }

    /// What a sequence takes.
    fn held(&self, slot: Slot) -> usize {
        let states = 1 + self.snapshots[&slot].len();
        self.sequences[&slot].len() + states * self.limits.state_tokens()
    }

    /// What a running request has to reserve at least: snapshots may be to
    /// come.
    fn least(&self, asked: &Asked) -> usize {
        let snapshots = asked.slot.map_or(0, |slot| self.snapshots[&slot].len());
        asked.worst_case() + (1 + snapshots) * self.limits.state_tokens()
    }

    fn check_parts(&self, parts: &[Part]) {
        let (mut prefill, mut decoding) = (0, 0);
        for part in parts {
            let asked = &self.asked[&part.request];
            assert_eq!(asked.slot, Some(part.slot));
            assert_eq!(self.sequences[&part.slot], asked.ids[..part.range.start]);
            assert_eq!(part.draws, part.range.end == asked.ids.len());
            assert!(!part.range.is_empty());
            match part.range.start < asked.prompt_len {
                true => prefill += part.range.len(),
                false => {
                    assert_eq!(part.range.len(), 1);
                    decoding += 1;
                }
            }
        }
        // Whoever decodes is in every step, and if anybody waits for the end
        // of a prompt, one gets on.
        let running = || self.asked.values().filter(|asked| asked.slot.is_some());
        let decodes = |asked: &&Asked| asked.ids.len() > asked.prompt_len;
        assert_eq!(decoding, running().filter(decodes).count());
        assert_eq!(prefill > 0, running().any(|asked| !decodes(&asked)));
        let share = match decoding {
            0 => self.limits.prefill.alone,
            _ => self.limits.prefill.beside_decoding,
        };
        assert!(prefill <= share);
        assert!(
            !parts.is_empty() || self.asked.is_empty(),
            "somebody starves"
        );
    }

    /// Says what was drawn, and ends whoever is done or has drawn `end`.
    fn draw(&mut self, parts: &[Part], mut token: impl FnMut() -> u32, end: u32) {
        for part in parts.iter().filter(|part| part.draws) {
            let Some(asked) = self.asked.get_mut(&part.request) else {
                continue;
            };
            let token = token();
            asked.ids.push(token);
            self.scheduler.push(part.request, token);
            let at_limit = asked.ids.len() == asked.worst_case();
            assert_eq!(self.scheduler.at_limit(part.request), at_limit);
            if at_limit || token == end {
                self.longest = self.longest.max(self.round - asked.round);
                self.finished += 1;
                self.end(part.request);
            }
        }
    }

    fn end(&mut self, request: RequestId) {
        self.scheduler.end(request);
        self.asked.remove(&request);
    }

    /// The step after that of `parts`, before that is read. Returns whether
    /// there is one.
    fn run_ahead(&mut self, parts: &[Part]) -> bool {
        let ahead = self.scheduler.run_ahead(parts);
        if ahead {
            self.round += 1;
            for part in parts {
                let asked = &self.asked[&part.request];
                assert!(asked.ids.len() + 1 < asked.worst_case());
            }
            assert_eq!(
                self.asked
                    .values()
                    .filter(|asked| asked.slot.is_some())
                    .count(),
                parts.len()
            );
        }
        ahead
    }
}

/// Five tokens, the last of which ends a turn.
const END: u32 = 4;

/// A prompt that is likely to share a prefix with others: a piece of one of
/// two long texts, or of what was said before, and a little of its own.
fn random_prompt(dice: &mut StdRng, said: &[Vec<u32>]) -> Vec<u32> {
    const TEXTS: [[u32; 12]; 2] = [
        [0, 1, 2, 3, 0, 0, 1, 1, 2, 2, 3, 3],
        [0, 1, 2, 3, 0, 3, 2, 1, 0, 3, 2, 1],
    ];
    let base = match dice.random_range(0..5) {
        0..3 => TEXTS[dice.random_range(0..2)].to_vec(),
        3 if !said.is_empty() => said[dice.random_range(0..said.len())].clone(),
        _ => Vec::new(),
    };
    let cut = dice.random_range(0..=base.len().min(18));
    let mut prompt = match dice.random_bool(0.6) {
        true => base[..base.len().min(18)].to_vec(),
        false => base[..cut].to_vec(),
    };
    let own = dice.random_range(0..4);
    prompt.extend((0..own).map(|_| dice.random_range(0..4)));
    if prompt.is_empty() {
        prompt.push(0);
    }
    prompt
}

fn random_limits(dice: &mut StdRng) -> Limits {
    Limits {
        max_batch: dice.random_range(1..6),
        kv_tokens: [20, 40, 60, 100_000][dice.random_range(0..4)],
        cache_tokens: [0, 15, 30, 60][dice.random_range(0..4)],
        prefill: Prefill {
            alone: dice.random_range(3..12),
            beside_decoding: dice.random_range(1..4),
        },
        states: None,
    }
}

#[test]
fn it_keeps_its_word_for_100000_random_rounds() {
    let (mut cached, mut finished, mut refused, mut ahead) = (0, 0, 0, 0);
    let mut adopted = 0;
    for seed in 0..50 {
        let dice = &mut StdRng::seed_from_u64(seed);
        let mut world = World::new(random_limits(dice));
        let mut said: Vec<Vec<u32>> = Vec::new();
        let busy = dice.random_range(0.2..0.9);
        while world.round < 2_000 || !world.asked.is_empty() {
            // The last rounds take nobody new: whoever is there must end.
            while world.round < 2_000 && world.asked.len() < 16 && dice.random_bool(busy) {
                let prompt = random_prompt(dice, &said);
                let max_tokens = dice.random_range(1..8);
                world.submit(&prompt, max_tokens, dice.random_bool(0.05));
            }
            if dice.random_bool(0.1) {
                let ids = random_prompt(dice, &said);
                adopted += usize::from(world.adopt(&ids));
            }
            let cancelled = world.asked.keys().find(|_| dice.random_bool(0.01)).copied();
            cancelled.into_iter().for_each(|id| world.end(id));
            let mut parts = world.plan();
            if dice.random_bool(0.01) {
                for part in &parts {
                    world.scheduler.spoil(part.request, part.slot);
                    world.asked.remove(&part.request);
                }
                continue;
            }
            while dice.random_bool(0.5) && world.run_ahead(&parts) {
                ahead += 1;
                said.extend(world.asked.values().map(|asked| asked.ids.clone()));
                let before: Vec<_> = parts.iter().map(|part| part.request).collect();
                world.draw_evaluated(&parts, || dice.random_range(0..5));
                parts.retain(|part| world.asked.contains_key(&part.request));
                if parts.len() < before.len() {
                    break;
                }
            }
            said.extend(world.asked.values().map(|asked| asked.ids.clone()));
            said.drain(..said.len().saturating_sub(40));
            world.draw(&parts, || dice.random_range(0..5), END);
        }
        // Sixteen requests of at most 21 + 7 tokens: all of them one after
        // the other, a token a step, twice.
        assert!(world.longest <= 2 * 16 * 28, "{} rounds", world.longest);
        world.plan();
        assert_eq!(world.scheduler.room().running, 0);
        cached += world.cached;
        finished += world.finished;
        refused += world.refused;
    }
    // The rounds were worth it.
    assert!(cached > 50_000, "{cached} tokens were cached");
    assert!(finished > 20_000, "{finished} requests finished");
    assert!(refused > 50, "{refused} requests were refused");
    assert!(ahead > 1_000, "{ahead} steps ran ahead");
    assert!(adopted > 500, "{adopted} sequences were adopted");
}

impl World {
    /// [`Self::draw`] after a step has run ahead: what is drawn is evaluated.
    fn draw_evaluated(&mut self, parts: &[Part], mut token: impl FnMut() -> u32) {
        for part in parts {
            let one = token();
            self.sequences.get_mut(&part.slot).unwrap().push(one);
            self.draw(std::slice::from_ref(part), || one, END);
        }
    }
}
