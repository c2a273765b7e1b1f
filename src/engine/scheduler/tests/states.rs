//! Sequences with states, which are forked where a snapshot was taken alone.

use super::cases::{GO_ON, LIMITS, prompt};
use super::*;

const STATES: States = States {
    tokens: 100,
    most: 8,
    worth: 16,
};

const WITH: Limits = Limits {
    states: Some(STATES),
    ..LIMITS
};

impl World {
    /// Has a snapshot taken, unless it is one of those that fail: then its
    /// request is over.
    pub(super) fn snapshot(
        &mut self,
        request: RequestId,
        slot: Slot,
        len: usize,
        without: &mut Vec<(Slot, usize)>,
    ) {
        assert_eq!(self.asked[&request].slot, Some(slot));
        assert_eq!(self.sequences[&slot].len(), len);
        self.asked_snapshots += 1;
        let fails = self
            .fails
            .is_some_and(|nth| self.asked_snapshots.is_multiple_of(nth));
        if fails {
            without.push((slot, len));
            self.scheduler.spoil(request, slot);
            self.spoilt.insert(slot);
            self.asked.remove(&request);
            return;
        }
        let snapshots = self.snapshots.get_mut(&slot).unwrap();
        assert!(snapshots.insert(len), "there is one already");
        assert!(snapshots.len() <= self.limits.states.unwrap().most);
    }

    /// What a request behind others evaluates of its prompt.
    fn costs(&mut self, prompt: &[u32], max_tokens: usize, boundaries: &[usize]) -> usize {
        let before = self.prefilled;
        self.submit_parting(prompt, max_tokens, false, boundaries);
        self.finish();
        self.prefilled - before
    }
}

#[test]
fn it_keeps_its_word_with_states_for_100000_random_rounds() {
    let (mut cached, mut prefilled, mut finished, mut refused) = (0, 0, 0, 0);
    let (mut snapshots, mut ahead, mut adopted) = (0, 0, 0);
    for seed in 0..50 {
        let dice = &mut StdRng::seed_from_u64(seed);
        let mut limits = random_limits(dice);
        limits.kv_tokens = [30, 60, 120, 100_000][seed as usize % 4];
        limits.cache_tokens = [0, 25, 50, 100, 1_000][seed as usize % 5];
        limits.states = Some(States {
            tokens: dice.random_range(1..6),
            most: dice.random_range(0..6),
            worth: dice.random_range(1..5),
        });
        let mut world = World::new(limits);
        world.fails = (seed % 3 == 0).then_some(50);
        let mut said: Vec<Vec<u32>> = Vec::new();
        let busy = dice.random_range(0.2..0.9);
        while world.round < 2_000 || !world.asked.is_empty() {
            while world.round < 2_000 && world.asked.len() < 16 && dice.random_bool(busy) {
                let prompt = random_prompt(dice, &said);
                let max_tokens = dice.random_range(1..8);
                let boundaries = (0..dice.random_range(0..4))
                    .map(|_| dice.random_range(0..25))
                    .collect::<Vec<_>>();
                let pin = dice.random_bool(0.05);
                world.submit_parting(&prompt, max_tokens, pin, &boundaries);
            }
            if dice.random_bool(0.1) {
                adopted += usize::from(world.adopt(&random_prompt(dice, &said)));
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
                let before = parts.len();
                world.draw_evaluated(&parts, || dice.random_range(0..5));
                parts.retain(|part| world.asked.contains_key(&part.request));
                if parts.len() < before {
                    break;
                }
            }
            said.extend(world.asked.values().map(|asked| asked.ids.clone()));
            said.drain(..said.len().saturating_sub(40));
            world.draw(&parts, || dice.random_range(0..5), END);
        }
        assert!(world.longest <= 2 * 16 * 28, "{} rounds", world.longest);
        world.plan();
        assert_eq!(world.scheduler.room().running, 0);
        cached += world.cached;
        prefilled += world.prefilled;
        finished += world.finished;
        refused += world.refused;
        snapshots += world.asked_snapshots;
    }
    assert!(
        cached > 50_000,
        "{cached} tokens were cached, {prefilled} not"
    );
    assert!(finished > 20_000, "{finished} requests finished");
    assert!(refused > 50, "{refused} requests were refused");
    assert!(snapshots > 5_000, "{snapshots} snapshots were taken");
    assert!(ahead > 1_000, "{ahead} steps ran ahead");
    assert!(adopted > 500, "{adopted} sequences were adopted");
}

#[test]
fn eight_at_once_behind_one_prefix_evaluate_it_once() {
    let mut world = World::new(WITH);
    for client in 0..8 {
        world.submit(&prompt(700, &[client + 10, 1, 1]), 2, false);
    }
    world.finish();
    assert_eq!(world.finished, 8);
    assert_eq!(world.prefilled, 700 + 8 * 3);
    assert_eq!(world.asked_snapshots, 1);
    // Another one later finds the mark as well.
    assert_eq!(world.costs(&prompt(700, &[9, 9]), 2, &[]), 2);
}

#[test]
fn the_same_prompt_at_once_costs_one_token_more_each() {
    let mut world = World::new(WITH);
    for _ in 0..3 {
        world.submit(&prompt(50, &[]), 1, false);
    }
    world.finish();
    assert_eq!(world.prefilled, 52);
    assert_eq!(world.sequences.len(), 1, "twins are not kept");
}

#[test]
fn the_same_prompt_again_costs_one_token_from_the_third_time_on() {
    let mut world = World::new(WITH);
    let mut costs = || world.costs(&prompt(50, &[]), 1, &[]);
    assert_eq!([costs(), costs(), costs(), costs()], [50, 50, 1, 1]);
}

#[test]
fn a_prompt_that_begins_another_is_shared_whichever_comes_first() {
    let (short, long) = (prompt(40, &[]), prompt(40, &[1; 20]));
    for (first, second, expected) in [(&short, &long, 60), (&long, &short, 61)] {
        let mut world = World::new(WITH);
        world.submit(first, 9, false);
        world.submit(second, 9, false);
        world.finish();
        assert_eq!(world.prefilled, expected);
    }
}

#[test]
fn a_step_does_not_run_ahead_of_a_mark() {
    let mut world = World::new(WITH);
    world.submit(&prompt(40, &[]), 9, false);
    let waiting = world.submit(&prompt(40, &[1; 20]), 9, false);
    let parts = world.plan();
    assert!(world.asked[&waiting].slot.is_none());
    world.end(waiting);
    // The mark at the prompt's end is there, though nobody waits for it.
    assert!(!world.run_ahead(&parts));
    world.draw(&parts, || GO_ON, END);
    let parts = world.plan();
    assert_eq!(world.asked_snapshots, 1);
    assert!(world.run_ahead(&parts));
    world.draw_evaluated(&parts, || GO_ON);
    world.draw(&parts, || GO_ON, END);
    world.finish();
}

#[test]
fn where_two_have_parted_a_third_parts_from_them_for_nothing() {
    let mut world = World::new(WITH);
    assert_eq!(world.costs(&prompt(300, &[1; 30]), 3, &[]), 330);
    assert_eq!(world.costs(&prompt(300, &[2; 20]), 3, &[]), 320);
    assert_eq!(world.asked_snapshots, 1);
    assert_eq!(world.costs(&prompt(300, &[3; 10]), 3, &[]), 10);
    assert_eq!(world.costs(&prompt(300, &[4; 10]), 3, &[]), 10);
    // Nor need the two be one after the other.
    let first = world.submit(&[&[5; 200][..], &[6; 9]].concat(), 30, false);
    let parts = world.plan();
    world.draw(&parts, || GO_ON, END);
    for last in [7, 8] {
        world.submit(&[&[5; 200][..], &[last; 9]].concat(), 3, false);
    }
    let before = world.prefilled;
    let parts = world.plan();
    assert!(world.asked.contains_key(&first));
    world.draw(&parts, || GO_ON, END);
    world.finish();
    assert_eq!(world.prefilled - before, 200 + 2 * 9);
}

#[test]
fn where_another_stands_it_is_marked_in_the_copy() {
    let mut world = World::new(WITH);
    world.submit(&prompt(512, &[1; 200]), 2, false);
    let parts = world.plan();
    assert_eq!(parts[0].range.end, 512);
    for own in 10..13 {
        world.submit(&prompt(512, &[own; 20]), 2, false);
    }
    world.finish();
    assert_eq!(world.prefilled, 512 + 200 + 3 * 20);
    assert_eq!(world.asked_snapshots, 1);
    assert_eq!(world.costs(&prompt(512, &[5; 7]), 2, &[]), 7);
}

#[test]
fn what_is_not_worth_a_snapshot_gets_none() {
    let mut world = World::new(WITH);
    assert_eq!(world.costs(&prompt(15, &[1; 30]), 3, &[15]), 45);
    assert_eq!(world.costs(&prompt(15, &[2; 30]), 3, &[15]), 45);
    assert_eq!(world.asked_snapshots, 0);
    world.submit(&prompt(15, &[3; 30]), 3, false);
    world.submit(&prompt(15, &[4; 30]), 3, false);
    assert_eq!(world.plan().len(), 2, "nobody waits for so little");
}

#[test]
fn a_history_that_grows_is_continued_in_place() {
    let mut world = World::new(WITH);
    let mut history = prompt(100, &[1]);
    for round in 0..20 {
        let new = if round == 0 { history.len() } else { 1 + 30 };
        let boundary = history.len() - 1;
        assert_eq!(world.costs(&history, 5, &[boundary]), new, "round {round}");
        assert_eq!(world.sequences.len(), 1, "no copy was made");
        history.extend([GO_ON; 5]);
        history.extend([1; 30]);
    }
    assert_eq!(world.asked_snapshots, STATES.most);
}

#[test]
fn a_thought_that_is_dropped_costs_what_comes_after_it_alone() {
    let mut world = World::new(WITH);
    let asked = prompt(100, &[1; 20]);
    let header = [2, 2];
    let boundaries = [asked.len(), 100];
    let first = [&asked[..], &header].concat();
    assert_eq!(world.costs(&first, 30, &boundaries), 122);
    // The answer without the thought before it, and another question.
    let second = [&asked[..], &header, &[0; 3], &[1; 20], &header].concat();
    let cost = world.costs(&second, 30, &[second.len() - 2, 100]);
    assert_eq!(cost, second.len() - asked.len());
}

#[test]
fn boundaries_that_cannot_be_are_ignored_and_of_many_the_first_and_the_last_are_used() {
    let mut world = World::new(WITH);
    let text: Vec<u32> = (0..400).collect();
    let all: Vec<usize> = (1..20).rev().map(|n| n * 20).collect();
    let boundaries = [&[0, 400, 401, usize::MAX, 20, 20, 15][..], &all].concat();
    world.costs(&text, 1, &boundaries);
    let taken: Vec<usize> = world.snapshots.values().flatten().copied().collect();
    assert_eq!(taken, [20, 260, 280, 300, 320, 340, 360, 380]);
}

#[test]
fn a_conversation_may_have_more_turns_than_a_sequence_has_snapshots() {
    // Each turn's thought is dropped with the next one: every turn leaves the
    // one before it at its boundary.
    let mut world = World::new(Limits {
        kv_tokens: 100_000,
        cache_tokens: 50_000,
        ..WITH
    });
    let mut history = prompt(100, &[]);
    let (mut costs, turns) = (0, 40);
    for turn in 0..turns {
        history.extend([turn + 5; 30]);
        costs += world.costs(&history, 20, &[100, history.len() - 4]);
        history.extend([2; 30]);
    }
    let least = history.len();
    assert!(costs < 3 * least, "{costs} tokens instead of {least}");
}

#[test]
fn what_is_pinned_is_forked_at_its_boundary_and_stays() {
    let mut world = World::new(Limits {
        cache_tokens: 450,
        ..WITH
    });
    world.submit_parting(&prompt(150, &[9; 5]), 1, true, &[150]);
    world.finish();
    for user in 10..14 {
        assert_eq!(world.costs(&prompt(150, &[user; 40]), 2, &[150]), 40);
    }
    let (slot, ids) = world.scheduler.pinned().unwrap();
    assert_eq!(ids, prompt(150, &[9; 5]));
    assert_eq!(world.snapshots[&slot], [150].into());
    assert_eq!(world.scheduler.room().parked, 155 + 2 * STATES.tokens);
}

#[test]
fn where_there_is_no_room_for_snapshots_requests_run_without() {
    let mut world = World::new(Limits {
        kv_tokens: 260,
        cache_tokens: 260,
        ..WITH
    });
    for user in 0..3 {
        world.submit_parting(&prompt(100, &[user + 10; 40]), 20, false, &[100]);
    }
    world.submit(&prompt(100, &[1]), 60, false);
    world.finish();
    assert_eq!((world.finished, world.refused), (3, 1));
    assert_eq!(world.asked_snapshots, 0);
    assert_eq!(world.scheduler.most_tokens(), 160);
    assert_eq!(world.scheduler.most_generated(100), 30);
}

#[test]
fn a_request_does_not_wait_for_the_room_of_its_snapshots() {
    let mut world = World::new(Limits {
        kv_tokens: 700,
        ..WITH
    });
    world.submit(&[1; 40], 160, false);
    let second = world.submit_parting(&prompt(100, &[2; 40]), 160, false, &[100]);
    let parts = world.plan();
    // 300 for the first, and 400 for the second, or 500 with a snapshot.
    assert!(world.asked[&second].slot.is_some());
    world.draw(&parts, || GO_ON, END);
    world.finish();
    assert_eq!(world.asked_snapshots, 0);
}

#[test]
fn a_sequence_has_no_more_snapshots_than_it_can_be_parked_with() {
    let mut world = World::new(Limits {
        cache_tokens: 400,
        ..WITH
    });
    let text = prompt(150, &[]);
    assert_eq!(world.costs(&text, 3, &[30, 60, 90]), 150);
    assert_eq!(world.scheduler.room().parked, 152 + 2 * STATES.tokens);
    assert_eq!(world.costs(&prompt(90, &[1; 5]), 3, &[]), 65);
}

#[test]
fn what_goes_on_needs_no_room_for_what_is_there() {
    let mut history = prompt(150, &[]);
    let mut world = World::new(Limits {
        kv_tokens: 150 + 3 + 20 + 3 + 2 * STATES.tokens,
        ..WITH
    });
    assert_eq!(world.costs(&history, 3, &[100]), 150);
    history.extend([GO_ON; 3]);
    history.extend([1; 20]);
    assert_eq!(world.costs(&history, 3, &[]), 21);
}

#[test]
fn a_snapshot_that_fails_takes_its_own_request_along_alone() {
    let mut world = World::new(WITH);
    world.fails = Some(1);
    for client in 0..3 {
        world.submit(&prompt(300, &[client + 10; 20]), 2, false);
    }
    world.finish();
    assert_eq!(world.finished, 2);
    assert_eq!(world.prefilled, 300 + 2 * 20);
    // The copies have no snapshot there either.
    assert!(world.snapshots.values().all(BTreeSet::is_empty));
    world.fails = None;
    assert_eq!(world.costs(&prompt(300, &[7; 20]), 2, &[]), 320);
    assert_eq!(world.costs(&prompt(300, &[8; 20]), 2, &[]), 20);
}
