//! What is wanted of the scheduler, one case at a time.

use super::*;

pub(super) const LIMITS: Limits = Limits {
    max_batch: 16,
    kv_tokens: 10_000,
    cache_tokens: 5_000,
    prefill: Prefill {
        alone: 512,
        beside_decoding: 128,
    },
    states: None,
};

/// Never the end.
pub(super) const GO_ON: u32 = 3;

impl World {
    /// Runs until everybody has ended.
    pub(super) fn finish(&mut self) {
        while !self.asked.is_empty() {
            let parts = self.plan();
            self.draw(&parts, || GO_ON, END);
        }
        self.plan();
    }

    fn began_with(&self, request: RequestId) -> usize {
        self.sequences[&self.asked[&request].slot.unwrap()].len()
    }
}

pub(super) fn prompt(shared: usize, own: &[u32]) -> Vec<u32> {
    [&vec![0; shared], own].concat()
}

#[test]
fn eight_at_once_behind_one_prefix_evaluate_it_once() {
    let mut world = World::new(LIMITS);
    for client in 0..8 {
        world.submit(&prompt(700, &[client + 10, 1, 1]), 2, false);
    }
    world.finish();
    assert_eq!(world.finished, 8);
    assert_eq!(world.prefilled, 700 + 8 * 3);
}

#[test]
fn a_history_that_grows_is_continued_in_place() {
    let mut world = World::new(LIMITS);
    let mut history = prompt(100, &[1]);
    for round in 0..4 {
        let before = world.prefilled;
        world.submit(&history, 5, false);
        world.finish();
        let new = if round == 0 { history.len() } else { 1 + 3 };
        assert_eq!(world.prefilled - before, new);
        assert_eq!(world.sequences.len(), 1, "no copy was made");
        // The tokens generated, the last of which is not evaluated, and what
        // comes after them.
        history.extend([GO_ON; 5]);
        history.extend([1, 2, 0]);
    }
}

#[test]
fn the_same_prompt_again_costs_one_token() {
    let mut world = World::new(LIMITS);
    for expected in [50, 51, 52] {
        world.submit(&prompt(50, &[]), 1, false);
        world.finish();
        assert_eq!(world.prefilled, expected);
    }
    assert_eq!(world.sequences.len(), 1, "twins are not kept");
}

#[test]
fn a_prompt_beside_decoding_is_evaluated_in_smaller_pieces() {
    let mut world = World::new(LIMITS);
    let first = world.submit(&[1, 2], 20, false);
    let parts = world.plan();
    world.draw(&parts, || GO_ON, END);
    let second = world.submit(&prompt(300, &[]), 5, false);
    for expected in [128, 128, 44] {
        let parts = world.plan();
        let of = |request| parts.iter().find(|part| part.request == request).unwrap();
        assert_eq!(of(first).range.len(), 1);
        assert_eq!(of(second).range.len(), expected);
        world.draw(&parts, || GO_ON, END);
    }
}

#[test]
fn a_prefix_is_copied_from_one_who_still_runs() {
    let mut world = World::new(LIMITS);
    world.submit(&prompt(30, &[1]), 20, false);
    let parts = world.plan();
    world.draw(&parts, || GO_ON, END);
    let second = world.submit(&prompt(30, &[2]), 20, false);
    let parts = world.plan();
    assert_eq!(parts.len(), 2);
    assert_eq!(world.began_with(second), 31);
    assert_eq!((world.cached, world.prefilled), (30, 32));
}

#[test]
fn one_who_waits_for_a_prefix_is_passed_but_keeps_its_place() {
    let limits = Limits {
        max_batch: 2,
        ..LIMITS
    };
    let mut world = World::new(limits);
    world.submit(&prompt(600, &[1]), 2, false);
    let second = world.submit(&prompt(600, &[2]), 2, false);
    let third = world.submit(&[2, 2], 2, false);
    let parts = world.plan();
    assert_eq!(parts.len(), 1);
    world.draw(&parts, || GO_ON, END);
    world.plan();
    // The prefix was not there until the end of this step.
    assert!(world.asked[&second].slot.is_none());
    assert!(world.asked[&third].slot.is_none());

    let mut world = World::new(Limits {
        max_batch: 3,
        ..LIMITS
    });
    world.submit(&prompt(600, &[1]), 2, false);
    let second = world.submit(&prompt(600, &[2]), 2, false);
    let third = world.submit(&[2, 2], 2, false);
    world.plan();
    assert!(world.asked[&second].slot.is_none());
    assert!(world.asked[&third].slot.is_some());
}

#[test]
fn a_cancelled_prefill_is_gone_on_with_by_those_who_waited_for_it() {
    let mut world = World::new(LIMITS);
    let first = world.submit(&prompt(1200, &[1]), 2, false);
    world.submit(&prompt(1200, &[2]), 2, false);
    let parts = world.plan();
    world.draw(&parts, || GO_ON, END);
    world.end(first);
    world.finish();
    assert_eq!(world.prefilled, 1201);
    assert_eq!(world.cached, 512);
}

#[test]
fn who_does_not_fit_waits_and_nobody_passes_and_who_never_will_is_refused() {
    let limits = Limits {
        kv_tokens: 100,
        cache_tokens: 100,
        ..LIMITS
    };
    let mut world = World::new(limits);
    world.submit(&prompt(10, &[1]), 50, false);
    let second = world.submit(&[1; 10], 50, false);
    let third = world.submit(&[2; 5], 5, false);
    world.submit(&[2; 60], 41, false);
    let parts = world.plan();
    world.draw(&parts, || GO_ON, END);
    assert!(world.asked[&second].slot.is_none());
    assert!(world.asked[&third].slot.is_none());
    world.finish();
    assert_eq!((world.finished, world.refused), (3, 1));

    // What is pinned stays, so what does not fit beside it is refused too.
    let mut world = World::new(limits);
    world.submit(&[0; 40], 1, true);
    world.submit(&[1; 50], 11, false);
    world.finish();
    assert_eq!((world.finished, world.refused), (1, 1));
    world.submit(&[1; 50], 10, false);
    world.submit(&prompt(40, &[1]), 10, false);
    world.finish();
    assert_eq!((world.finished, world.cached), (3, 40));
}

#[test]
fn a_source_that_is_in_the_way_of_its_copy_gives_way() {
    let mut world = World::new(Limits {
        kv_tokens: 100,
        ..LIMITS
    });
    world.submit(&prompt(50, &[1; 10]), 1, false);
    world.finish();
    world.submit(&prompt(50, &[2; 10]), 20, false);
    world.finish();
    assert_eq!((world.finished, world.cached), (2, 0));
}

#[test]
fn a_step_runs_ahead_only_where_nothing_else_can_follow() {
    let mut world = World::new(LIMITS);
    world.submit(&prompt(600, &[1]), 2, false);
    // Neither the prompt nor the turn is at its end.
    let parts = world.plan();
    assert!(!world.run_ahead(&parts), "nothing is drawn");
    let parts = world.plan();
    assert!(world.run_ahead(&parts));
    world.draw_evaluated(&parts, || GO_ON);
    assert!(!world.run_ahead(&parts), "the token in flight is the last");
    world.draw(&parts, || GO_ON, END);
    // What was evaluated ahead is in the parked sequence.
    world.plan();
    assert_eq!(world.scheduler.room().parked, 602);

    let mut world = World::new(LIMITS);
    world.submit(&prompt(50, &[1]), 9, false);
    world.submit(&prompt(50, &[2]), 9, false);
    let parts = world.plan();
    assert!(!world.run_ahead(&parts), "the other may begin now");
}

#[test]
fn nobody_goes_on_from_a_spoilt_sequence() {
    let mut world = World::new(LIMITS);
    let running = world.submit(&prompt(50, &[1]), 9, false);
    let ended = world.submit(&[2; 50], 1, false);
    let parts = world.plan();
    world.draw(&parts, || GO_ON, END);
    assert!(!world.asked.contains_key(&ended));
    for part in &parts {
        world.scheduler.spoil(part.request, part.slot);
    }
    world.asked.remove(&running);
    world.plan();
    assert!(world.sequences.is_empty());
    world.submit(&prompt(50, &[1]), 1, false);
    world.submit(&[2; 50], 1, false);
    world.finish();
    assert_eq!(world.cached, 0);
}

#[test]
fn what_is_adopted_is_taken_over_by_the_prompt_it_is_of() {
    // Room for the prompt and its answer and no more: nothing is copied.
    let mut world = World::new(Limits {
        kv_tokens: 51,
        cache_tokens: 50,
        ..LIMITS
    });
    let text = prompt(50, &[]);
    assert!(world.adopt(&text[..49]));
    assert!(!world.adopt(&text[..49]), "it is there already");
    assert!(!world.adopt(&text[..20]), "more is there already");
    assert_eq!(world.scheduler.pinned(), None);
    world.submit(&text, 1, true);
    world.finish();
    assert_eq!((world.cached, world.prefilled), (49, 1));
    assert_eq!(world.sequences.len(), 1);
    let (slot, ids) = world.scheduler.pinned().unwrap();
    assert_eq!((ids, &world.sequences[&slot]), (&text[..], &text));
}

#[test]
fn nothing_is_adopted_that_there_is_no_room_for() {
    let mut world = World::new(Limits {
        kv_tokens: 100,
        cache_tokens: 60,
        ..LIMITS
    });
    assert!(!world.adopt(&[]));
    assert!(!world.adopt(&prompt(61, &[])), "the cache is smaller");
    world.submit(&prompt(40, &[1]), 10, false);
    let parts = world.plan();
    assert!(!world.adopt(&[7; 50]), "the memory is in use");
    assert!(world.adopt(&[7; 10]));
    world.draw(&parts, || GO_ON, END);
    world.finish();
    // The other's 50 tokens are parked beside the 10.
    assert!(!world.adopt(&[8; 5]), "the cache is in use");
    assert_eq!(world.scheduler.room().parked, 60);
}

#[test]
fn what_makes_way_for_an_adopted_sequence_takes_its_room_until_it_is_closed() {
    let mut world = World::new(LIMITS);
    assert!(world.adopt(&[7; 10]));
    assert!(world.adopt(&[7; 12]), "its prefix makes way");
    assert_eq!(world.sequences.len(), 2);
    assert!(!world.adopt(&[8; 5]));
    world.plan();
    assert_eq!(world.sequences.values().collect::<Vec<_>>(), [&[7; 12]]);
    assert!(world.adopt(&[8; 5]));
}
