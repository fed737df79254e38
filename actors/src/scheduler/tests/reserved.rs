//! Sequences whose blocks another group fills: what is reserved, for whom, and what becomes of it.

use troupe_runtime::{spec::service::Eviction, wire::transfer::Run};

use super::*;
use crate::kv::tiers::Tiers;

#[test]
fn what_is_missing_of_full_blocks_before_the_last_token_is_reserved() {
    let mut scheduler = scheduler(64, 1, 20);
    let id = scheduler.add(spec(13));
    let reserved = scheduler.reserve(id, 1, u32::MAX).expect("there is room");
    assert_eq!((reserved.wants, reserved.cached), (vec![Run::new(0, 3)], 0));
    assert_eq!(reserved.blocks[0].len(), 3);
    assert_eq!(scheduler.usage().held, 4, "the last token has a block too");
    assert!(scheduler.compose(Epoch::default()).is_none(), "it neither waits nor runs");
    assert_eq!(scheduler.counts(), (0, 1));
    scheduler.check_integrity().expect("it is in one place");
    scheduler.fetched(id, 2);
    let plan = compose(&mut scheduler);
    assert_eq!(plan.new[0].span.computed, 8, "it begins behind what came");
    assert_eq!(plan.new[0].block_tables[0][..3], reserved.blocks[0]);
    complete(&mut scheduler, &plan);
    // What came is found by others from now on.
    let again = scheduler.add(spec(13));
    complete_all(&mut scheduler);
    assert_eq!(scheduler.sequence(again).expect("it lives").cached_tokens(), 12);
}

#[test]
fn what_is_here_is_not_asked_for_and_what_ends_gives_all_back() {
    let mut scheduler = scheduler(64, 1, 20);
    let first = scheduler.add(spec(9));
    complete_all(&mut scheduler);
    scheduler.release(first);
    complete_all(&mut scheduler);
    let id = scheduler.add(spec(21));
    let reserved = scheduler.reserve(id, 1, u32::MAX).expect("there is room");
    assert_eq!((reserved.wants, reserved.cached), (vec![Run::new(2, 5)], 8));
    scheduler.release(id);
    assert_eq!((scheduler.usage().held, scheduler.counts()), (0, (0, 0)));
    let short = scheduler.add(spec(12));
    assert_eq!(
        scheduler.reserve(short, 1, u32::MAX),
        None,
        "one token is missing, and is computed here"
    );
    let scored = SequenceSpec {
        options: SamplingOptions { prompt_logprobs: Some(0), ..SamplingOptions::default() },
        ..other(20, 3)
    };
    let scored = scheduler.add(scored);
    assert_eq!(scheduler.reserve(scored, 1, u32::MAX), None, "its logits are wanted");
    scheduler.check_integrity().expect("all are in place");
}

#[test]
fn half_of_the_blocks_are_for_those_that_run_and_whoever_waits_for_room_is_not_overtaken() {
    let mut scheduler = scheduler(64, 1, 16);
    let ids: Vec<_> = (1..4).map(|number| scheduler.add(other(16, number))).collect();
    assert!(
        scheduler.reserve(ids[0], 1, u32::MAX).is_some()
            && scheduler.reserve(ids[1], 1, u32::MAX).is_some()
    );
    assert_eq!(scheduler.reserve(ids[2], 1, u32::MAX), None, "more than half would be held");
    let mut scheduler = self::scheduler(64, 1, 16);
    let (large, small) = (scheduler.add(other(60, 1)), scheduler.add(other(16, 2)));
    assert_eq!(
        scheduler.reserve(small, 1, u32::MAX),
        None,
        "the large one would have to wait longer"
    );
    assert!(scheduler.reserve(large, 1, u32::MAX).is_some(), "one alone may have all");
}

/// Runs until nothing is in flight that another step would not repeat.
fn complete_all(scheduler: &mut Scheduler) {
    if let Some(plan) = scheduler.compose(Epoch::default()) {
        complete(scheduler, &plan);
    }
}

#[test]
fn what_a_preempted_sequence_had_comes_back_from_the_tiers() {
    let tiers = Tiers::new(1, (16, 0), Eviction::Lru);
    let mut scheduler = scheduler(64, 1, 6).with_tiers(tiers);
    let (old, young) = (scheduler.add(other(8, 1)), scheduler.add(other(8, 2)));
    // One step at a time, so that nothing is in flight when blocks change hands.
    let mut plan = compose(&mut scheduler);
    while plan.preempted.is_empty() {
        complete(&mut scheduler, &plan);
        plan = compose(&mut scheduler);
    }
    assert_eq!(plan.preempted, [young]);
    let mut kept: Vec<_> = scheduler.moves().iter().map(|step| step.key).collect();
    // The old one takes what the young one had, until nothing of it is here.
    while scheduler.sequence(old).is_some_and(|own| own.tokens().len() < 24) {
        complete(&mut scheduler, &plan);
        assert!(scheduler.reserve_kept(young).is_none(), "there is no room");
        plan = compose(&mut scheduler);
        kept.extend(scheduler.moves().iter().map(|step| step.key));
        assert!(plan.resumed.is_empty());
    }
    complete(&mut scheduler, &plan);
    scheduler.release(old);
    let length = scheduler.sequence(young).map_or(0, |own| own.tokens().len()) as u32;
    let Kept { reserved, places } = scheduler.reserve_kept(young).expect("it is kept");
    let (run, end) = (reserved.wants[0], reserved.wants[0].end);
    assert!(run.first == 0 && end >= 2, "{run:?}");
    assert_eq!(places[0].len() as u32, run.len());
    assert!(places[0].iter().all(|place| kept.contains(&place.key)), "ranks were told to");
    scheduler.unpin(&places);
    scheduler.loaded(young, end);
    let plan = compose(&mut scheduler);
    let span = plan.resumed[0].span;
    assert_eq!((span.computed, span.count), (end * 4, length - end * 4), "and nothing twice");
    assert!(plan.new.is_empty() && scheduler.tiers().is_some_and(|tiers| tiers.pinned() == 0));
    complete(&mut scheduler, &plan);
}
