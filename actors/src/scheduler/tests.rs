//! The scheduler alone: budgets, chunks, preemption, spreading over stages.

use troupe_runtime::{
    id::{Epoch, StepId},
    wire::{
        generate::SamplingOptions,
        step::{StepPlan, StepResult},
    },
};

use super::*;
use crate::kv::blocks::BlockPools;

fn spec(prompt_len: u32) -> SequenceSpec {
    SequenceSpec {
        tokens: (0..prompt_len).collect(),
        prompt_len,
        choice: 0,
        seed: 0,
        options: SamplingOptions { max_tokens: 1000, ..SamplingOptions::default() },
        adapter: None,
        traceparent: None,
        priority: 0,
    }
}

fn scheduler(max_batched_tokens: u32, depth: u32, blocks: u32) -> Scheduler {
    let limits = Limits { max_batched_tokens, max_sequences: 64, depth };
    Scheduler::new(limits, BlockPools::new(4, &[blocks]))
}

/// Completes a step: every sequence that samples gets one token.
fn complete(scheduler: &mut Scheduler, plan: &StepPlan) {
    let result = StepResult { epoch: plan.epoch, step: plan.step, ..StepResult::default() };
    let wanted = scheduler.complete(&result).expect("the step is in flight");
    for (id, span) in plan.spans() {
        if span.sample && wanted.contains(&id) {
            scheduler.append(id, 7);
        }
    }
    scheduler.check_integrity().expect("all blocks and sequences are in place");
}

#[test]
fn a_long_prompt_is_chunked_and_decodes_go_first() {
    let mut scheduler = scheduler(8, 1, 100);
    let short = scheduler.add(spec(3));
    let first = scheduler.compose(Epoch::default()).expect("work");
    complete(&mut scheduler, &first);
    let long = scheduler.add(spec(20));
    let mut computed = 0;
    while computed < 20 {
        let plan = scheduler.compose(Epoch::default()).expect("work");
        assert_eq!(plan.running[0].sequence, short, "decode first");
        assert!(plan.tokens() <= 8);
        let (_, span) = plan.spans().find(|(id, _)| *id == long).expect("the rest is the chunk's");
        assert_eq!(span.computed, computed);
        computed += span.count;
        assert_eq!(span.sample, computed == 20, "only the last chunk yields a token");
        complete(&mut scheduler, &plan);
    }
}

#[test]
fn the_youngest_is_preempted_and_starts_again_with_all_its_tokens() {
    // Six blocks of four positions: two sequences of eight positions fit, but do not grow.
    let mut scheduler = scheduler(64, 1, 5);
    let old = scheduler.add(spec(8));
    let young = scheduler.add(spec(8));
    let mut resumed = None;
    for _ in 0..40 {
        let Some(plan) = scheduler.compose(Epoch::default()) else { break };
        assert!(!plan.preempted.contains(&old), "the oldest is never a victim");
        if let Some(again) = plan.resumed.first() {
            resumed = Some((again.sequence, again.span));
        }
        complete(&mut scheduler, &plan);
        let done = scheduler.sequence(old).is_some_and(|s| s.tokens().len() >= 16);
        if done {
            scheduler.release(old);
        }
        if resumed.is_some() {
            break;
        }
    }
    let (id, span) = resumed.expect("the young one came back once the old one was done");
    assert_eq!(id, young);
    assert_eq!(span.computed, 0);
    assert!(span.count > 8, "prompt and the output it had");
    assert!(scheduler.preemptions() >= 1);
}

#[test]
fn sequences_spread_over_the_stages() {
    let mut scheduler = scheduler(1024, 4, 1000);
    for _ in 0..8 {
        scheduler.add(spec(4));
    }
    let plans: Vec<_> = (0..4).map_while(|_| scheduler.compose(Epoch::default())).collect();
    let sizes: Vec<_> = plans.iter().map(|plan| plan.spans().count()).collect();
    assert_eq!(sizes, [2, 2, 2, 2]);
    assert!(scheduler.compose(Epoch::default()).is_none(), "one step per stage");
}

#[test]
fn a_sequence_that_ends_in_flight_gives_its_blocks_back_when_the_step_is_done() {
    let mut scheduler = scheduler(64, 1, 10);
    let id = scheduler.add(spec(8));
    let plan = scheduler.compose(Epoch::default()).expect("work");
    scheduler.release(id);
    assert_eq!(scheduler.usage().0, 2, "the step may still write them");
    complete(&mut scheduler, &plan);
    assert_eq!(scheduler.usage().0, 0);
    let other = scheduler.add(spec(1));
    let next = scheduler.compose(Epoch::default()).expect("work");
    assert_eq!(next.finished, [id], "the workers forget it");
    assert_eq!(next.new[0].sequence, other);
}

#[test]
fn a_result_for_an_unknown_step_is_refused() {
    let mut scheduler = scheduler(64, 1, 10);
    let result = StepResult { step: StepId(9), ..StepResult::default() };
    assert!(scheduler.complete(&result).is_err());
}
