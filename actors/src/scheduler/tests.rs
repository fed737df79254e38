//! The scheduler alone: budgets, chunks, preemption, spreading over stages.

mod reserved;
mod scripts;

use troupe_runtime::{
    id::{Digest, Epoch, RequestId, SequenceId, StepId},
    prefix::{Chain, Scope},
    wire::{
        generate::SamplingOptions,
        step::{Outcome, SampledTokens, SequenceResult, StepPlan, StepResult},
    },
};

use super::*;
use crate::kv::blocks::BlockPools;

fn spec(prompt_len: u32) -> SequenceSpec {
    let scope = Scope { model: Digest([1; 32]), kv_dtype: "float32", adapter: None, salt: None };
    SequenceSpec {
        owner: Owner::default(),
        request: RequestId::default(),
        tokens: (0..prompt_len).collect(),
        prompt_len,
        choice: 0,
        seed: 0,
        options: SamplingOptions { max_tokens: 1000, ..SamplingOptions::default() },
        adapter: None,
        traceparent: None,
        priority: 0,
        chain: Chain::new(&[0; 32], &scope),
        keeps_blocks: false,
        hashes: vec![],
        first_choice: None,
    }
}

/// A prompt that shares no block with those of other numbers.
fn other(prompt_len: u32, number: u32) -> SequenceSpec {
    let tokens = (0..prompt_len).map(|at| at + 1000 * number).collect();
    SequenceSpec { tokens, ..spec(prompt_len) }
}

fn limits(max_batched_tokens: u32, stages: u32) -> Limits {
    Limits {
        max_batched_tokens,
        max_sequences: 64,
        long_prefill_threshold: 0,
        stages,
        depth: stages + 1,
        policy: Policy::Fcfs,
        prefix_caching: true,
        watermark: 0,
        max_loras: 0,
        speculation: None,
        whole_prompts: false,
    }
}

fn scheduler(max_batched_tokens: u32, stages: u32, blocks: u32) -> Scheduler {
    Scheduler::new(limits(max_batched_tokens, stages), BlockPools::new(4, &[blocks]))
}

fn compose(scheduler: &mut Scheduler) -> StepPlan {
    scheduler.compose(Epoch::default()).expect("work")
}

/// Completes a step: every sequence that samples gets one token.
fn complete(scheduler: &mut Scheduler, plan: &StepPlan) {
    complete_with(scheduler, plan, &[7]);
}

/// Completes a step: every sequence that samples gets these tokens.
fn complete_with(scheduler: &mut Scheduler, plan: &StepPlan, tokens: &[u32]) {
    let sampled = |(sequence, _)| SequenceResult {
        sequence,
        outcome: Outcome::Tokens(SampledTokens {
            tokens: tokens.into(),
            ..SampledTokens::default()
        }),
    };
    let outcomes = plan.spans().filter(|(_, span)| span.sample).map(sampled).collect();
    let result = StepResult { epoch: plan.epoch, step: plan.step, outcomes, compute_us: 0 };
    let parts = scheduler.complete(&result).expect("the step is in flight");
    for SequenceResult { sequence, outcome } in result.outcomes {
        let Outcome::Tokens(sampled) = outcome else { continue };
        sampled.tokens.iter().for_each(|token| scheduler.append(sequence, *token));
    }
    parts.iter().for_each(|part| scheduler.settle(part.id));
    scheduler.check_integrity().expect("all blocks and sequences are in place");
}

#[test]
fn a_long_prompt_is_chunked_and_decodes_go_first() {
    let mut scheduler = scheduler(8, 1, 100);
    let short = scheduler.add(spec(3));
    let first = compose(&mut scheduler);
    complete(&mut scheduler, &first);
    let long = scheduler.add(other(20, 1));
    let mut computed = 0;
    while computed < 20 {
        let plan = compose(&mut scheduler);
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
fn the_next_step_is_planned_before_its_token_is_known() {
    let mut scheduler = scheduler(64, 1, 100);
    scheduler.add(spec(3));
    let first = compose(&mut scheduler);
    let second = compose(&mut scheduler);
    assert_eq!(second.running[0].placeholder, Some(first.step));
    assert_eq!((second.running[0].span.computed, second.running[0].span.count), (3, 1));
    assert!(scheduler.compose(Epoch::default()).is_none(), "two steps in flight");
    complete(&mut scheduler, &first);
    let third = compose(&mut scheduler);
    assert_eq!(third.running[0].placeholder, Some(second.step));
    assert_eq!(third.running[0].appended.as_slice(), [7], "what the first step brought");
    complete(&mut scheduler, &second);
    complete(&mut scheduler, &third);
}

#[test]
fn nothing_is_planned_beyond_the_last_token() {
    let mut scheduler = scheduler(64, 1, 100);
    let options = SamplingOptions { max_tokens: 2, ..SamplingOptions::default() };
    scheduler.add(SequenceSpec { options, ..spec(3) });
    let (first, second) = (compose(&mut scheduler), compose(&mut scheduler));
    complete(&mut scheduler, &first);
    assert!(scheduler.compose(Epoch::default()).is_none(), "the second is on its way");
    complete(&mut scheduler, &second);
}

#[test]
fn the_youngest_is_preempted_and_starts_again_with_all_its_tokens() {
    // Five blocks of four positions: two sequences of eight positions fit, but do not grow.
    let mut scheduler = scheduler(64, 1, 5);
    let old = scheduler.add(spec(8));
    let young = scheduler.add(other(8, 1));
    let mut resumed: Option<(SequenceId, _)> = None;
    let mut plans = std::collections::VecDeque::new();
    for _ in 0..60 {
        plans.extend(std::iter::from_fn(|| scheduler.compose(Epoch::default())));
        let Some(plan) = plans.pop_front() else { break };
        assert!(!plan.preempted.contains(&old), "the oldest is never a victim");
        complete(&mut scheduler, &plan);
        if let Some(again) = plan.resumed.first() {
            resumed = Some((again.sequence, again.span));
            break;
        }
        if scheduler.sequence(old).is_some_and(|sequence| sequence.tokens().len() >= 16) {
            scheduler.release(old);
        }
    }
    let (id, span) = resumed.expect("the young one came back once the old one was done");
    assert_eq!(id, young);
    assert!(span.computed + span.count > 8, "prompt and the output it had");
    assert!(scheduler.counters().preemptions >= 1);
}

#[test]
fn sequences_spread_over_the_stages() {
    let mut scheduler = scheduler(1024, 4, 1000);
    for number in 0..8 {
        scheduler.add(other(4, number));
    }
    let plans: Vec<_> = (0..5).map_while(|_| scheduler.compose(Epoch::default())).collect();
    let sizes: Vec<_> = plans.iter().map(|plan| plan.spans().count()).collect();
    assert_eq!(sizes, [2, 2, 2, 2, 2]);
    assert_eq!(plans[4].running[0].placeholder, Some(plans[0].step), "the first come round again");
    assert!(scheduler.compose(Epoch::default()).is_none(), "one step per stage and one more");
}

#[test]
fn a_sequence_that_ends_in_flight_gives_its_blocks_back_when_its_steps_are_done() {
    let mut scheduler = scheduler(64, 1, 10);
    let id = scheduler.add(spec(8));
    let (first, second) = (compose(&mut scheduler), compose(&mut scheduler));
    scheduler.release(id);
    assert_eq!(scheduler.usage().held, 3, "the steps may still write them");
    complete(&mut scheduler, &first);
    assert_eq!(scheduler.usage().held, 3);
    complete(&mut scheduler, &second);
    assert_eq!(scheduler.usage().held, 0);
    let other = scheduler.add(other(1, 1));
    let next = compose(&mut scheduler);
    assert_eq!(next.finished, [id], "the workers forget it");
    assert_eq!(next.new[0].sequence, other);
}

#[test]
fn a_prompt_that_was_seen_is_not_computed_again_but_for_its_last_token() {
    let mut scheduler = scheduler(64, 1, 100);
    let first = scheduler.add(spec(10));
    let plan = compose(&mut scheduler);
    complete(&mut scheduler, &plan);
    scheduler.release(first);
    let second = scheduler.add(spec(10));
    let plan = compose(&mut scheduler);
    let (_, span) = plan.spans().find(|(id, _)| *id == second).expect("it runs");
    assert_eq!((span.computed, span.count), (9, 1));
    assert_eq!(plan.copies.len(), 1, "the block that it will write is copied");
    assert_eq!(scheduler.sequence(second).map(Sequence::cached_tokens), Some(9));
    assert_eq!(scheduler.counters().prefix_hits, 9);
}

#[test]
fn equal_prompts_of_one_step_share_what_they_can() {
    let mut scheduler = scheduler(64, 1, 100);
    scheduler.add(spec(10));
    scheduler.add(spec(10));
    let plan = compose(&mut scheduler);
    let spans: Vec<_> = plan.spans().map(|(_, span)| (span.computed, span.count)).collect();
    assert_eq!(spans, [(0, 10), (8, 2)], "full blocks; the last is not there yet to be copied");
    complete(&mut scheduler, &plan);
}

#[test]
fn choices_of_a_request_wait_for_the_first_one_and_share_its_prompt() {
    let mut scheduler = scheduler(8, 1, 100);
    let first = scheduler.add(spec(10));
    let second = scheduler.add(SequenceSpec { first_choice: Some(first), ..spec(10) });
    let plans = [compose(&mut scheduler), compose(&mut scheduler)];
    assert!(plans.iter().all(|plan| plan.spans().all(|(id, _)| id == first)), "two chunks");
    complete(&mut scheduler, &plans[0]);
    let plan = compose(&mut scheduler);
    let (_, span) = plan.spans().find(|(id, _)| *id == second).expect("its turn");
    assert_eq!((span.computed, plan.copies.len()), (9, 1));
}

#[test]
fn equal_blocks_that_grew_apart_become_one() {
    let mut scheduler = scheduler(64, 1, 100);
    let a = scheduler.add(spec(6));
    let b = scheduler.add(spec(6));
    let mut plans = std::collections::VecDeque::new();
    let mut swapped = 0;
    for _ in 0..12 {
        plans.extend(std::iter::from_fn(|| scheduler.compose(Epoch::default())));
        let plan = plans.pop_front().expect("work");
        swapped += plan.running.iter().map(|running| running.swaps.len()).sum::<usize>();
        complete(&mut scheduler, &plan);
    }
    assert!(swapped >= 2, "both sample the same tokens: {swapped}");
    assert!(scheduler.counters().merged_blocks as usize >= swapped, "one may not be told yet");
    scheduler.release(a);
    scheduler.release(b);
}

#[test]
fn drafts_that_are_right_are_kept_and_wrong_ones_are_computed_again() {
    let speculation = Some(NgramSettings { num_tokens: 2, longest: 2, shortest: 1 });
    let limits = Limits { speculation, ..limits(64, 1) };
    let mut scheduler = Scheduler::new(limits, BlockPools::new(4, &[100]));
    scheduler.add(SequenceSpec { tokens: vec![1, 2, 3, 1, 2, 3, 1], ..spec(7) });
    let plan = compose(&mut scheduler);
    assert!(scheduler.compose(Epoch::default()).is_none(), "drafts need the last token");
    complete_with(&mut scheduler, &plan, &[2]);
    let plan = compose(&mut scheduler);
    assert_eq!((plan.running[0].drafts.as_slice(), plan.running[0].span.count), (&[3, 1][..], 3));
    complete_with(&mut scheduler, &plan, &[9]);
    let plan = compose(&mut scheduler);
    assert!(plan.running[0].drafts.is_empty(), "nothing ever followed a nine");
    assert_eq!(plan.running[0].span.computed, 8, "the drafts' positions are computed again");
    complete_with(&mut scheduler, &plan, &[1]);
    for sampled in [&[2, 9, 1][..], &[2, 8]] {
        let plan = compose(&mut scheduler);
        assert_eq!(plan.running[0].drafts.as_slice(), [2, 9]);
        complete_with(&mut scheduler, &plan, sampled);
    }
    let counters = scheduler.counters();
    assert_eq!((counters.drafts, counters.draft_tokens, counters.accepted_tokens), (3, 6, 3));
    assert_eq!(counters.accepted_per_position, [2, 1]);
}

#[test]
fn priorities_and_prefixes_decide_who_is_next() {
    let order = |policy, specs: Vec<SequenceSpec>| -> Vec<usize> {
        let limits = Limits { policy, max_sequences: 1, ..limits(64, 1) };
        let mut scheduler = Scheduler::new(limits, BlockPools::new(4, &[100]));
        let warm = scheduler.add(SequenceSpec { priority: -9, ..spec(8) });
        let plan = compose(&mut scheduler);
        complete(&mut scheduler, &plan);
        let ids: Vec<_> = specs.into_iter().map(|spec| scheduler.add(spec)).collect();
        scheduler.release(warm);
        let mut order = Vec::new();
        while order.len() < ids.len() {
            let Some(plan) = scheduler.compose(Epoch::default()) else { break };
            complete(&mut scheduler, &plan);
            let (id, _) = plan.spans().next().expect("one runs");
            order.extend(ids.iter().position(|own| *own == id));
            scheduler.release(id);
        }
        order
    };
    let plain = || vec![other(8, 1), other(8, 2), spec(8)];
    assert_eq!(order(Policy::Fcfs, plain()), [0, 1, 2]);
    assert_eq!(order(Policy::Lpm, plain()), [2, 0, 1]);
    let mut urgent = plain();
    urgent[1].priority = -1;
    assert_eq!(order(Policy::Priority, urgent), [1, 0, 2]);
}

#[test]
fn whoever_was_overtaken_often_enough_is_next() {
    let limits = Limits { policy: Policy::Priority, max_sequences: 1, ..limits(64, 1) };
    let mut scheduler = Scheduler::new(limits, BlockPools::new(4, &[100]));
    let patient = scheduler.add(SequenceSpec { priority: 5, ..spec(4) });
    for number in 1..100 {
        scheduler.add(other(4, number));
        let plan = compose(&mut scheduler);
        complete(&mut scheduler, &plan);
        let (id, _) = plan.spans().next().expect("one runs");
        if id == patient {
            assert_eq!(number, 3, "two full batches, of one sequence each");
            return;
        }
        scheduler.release(id);
    }
    panic!("it starved");
}

#[test]
fn many_that_waited_long_take_every_second_place_and_no_more() {
    let limits = Limits { policy: Policy::Priority, max_sequences: 1, ..limits(64, 1) };
    let mut scheduler = Scheduler::new(limits, BlockPools::new(4, &[100]));
    let patient: Vec<_> =
        (0..20).map(|n| scheduler.add(SequenceSpec { priority: 5, ..other(4, n) })).collect();
    let mut order = Vec::new();
    for number in 20..40 {
        scheduler.add(other(4, number));
        let plan = compose(&mut scheduler);
        complete(&mut scheduler, &plan);
        let (id, _) = plan.spans().next().expect("one runs");
        order.push(patient.contains(&id));
        scheduler.release(id);
    }
    assert_eq!(order[..2], [false, false], "so long they wait");
    assert!(order[2..].chunks(2).all(|two| *two == [true, false]), "{order:?}");
}

#[test]
fn what_only_waits_for_the_next_step_has_its_place() {
    let limits = Limits { max_sequences: 2, ..limits(64, 1) };
    let mut scheduler = Scheduler::new(limits, BlockPools::new(4, &[3]));
    (0..3).for_each(|number| _ = scheduler.add(other(4, number)));
    assert_eq!((scheduler.counts(), scheduler.about_to_run()), ((0, 3), 2));
    let plan = compose(&mut scheduler);
    assert_eq!((scheduler.counts(), scheduler.about_to_run()), ((2, 1), 0));
    // A place, and too few blocks: that is a queue.
    let ids: Vec<_> = plan.spans().map(|(id, _)| id).collect();
    complete(&mut scheduler, &plan);
    scheduler.release(ids[0]);
    scheduler.add(other(12, 9));
    assert_eq!(scheduler.about_to_run(), 1);
    let plan = compose(&mut scheduler);
    complete(&mut scheduler, &plan);
    scheduler.release(ids[1]);
    compose(&mut scheduler);
    assert_eq!((scheduler.counts(), scheduler.about_to_run()), ((1, 1), 0));
}

#[test]
fn a_result_for_an_unknown_step_is_refused() {
    let mut scheduler = scheduler(64, 1, 10);
    let result = StepResult { step: StepId(9), ..StepResult::default() };
    assert!(scheduler.complete(&result).is_err());
}
