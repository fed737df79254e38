//! Whole runs: what holds for every one of them.

use std::collections::BTreeMap;

use super::{
    cluster::Cluster,
    core,
    cost::CostModel,
    load::Load,
    outcome::Run,
    profiles::{NAMES, Profile},
    report::Figures,
    synthetic::{Arrivals, Synthetic, tests::SMALL},
    trace,
};

const CLUSTER: Cluster = Cluster {
    endpoints: 4,
    blocks: 1000,
    block_size: 16,
    max_num_seqs: 16,
    max_num_batched_tokens: 512,
    cost: CostModel {
        base_us: 4000.0,
        prefill_token_us: 25.0,
        sequence_us: 20.0,
        context_token_us: 0.01,
    },
};

fn run(cluster: &Cluster, load: &Load, profile: &str, seed: u64) -> Run {
    let profile = Profile::named(profile).expect("it is known");
    core::run(cluster, load, &profile, seed).expect("the books add up")
}

/// Tokens of each conversation's answers.
fn outputs(run: &Run) -> BTreeMap<u32, u32> {
    let mut outputs = BTreeMap::new();
    for one in &run.answered {
        *outputs.entry(one.conversation).or_insert(0) += one.output;
    }
    outputs
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_does_not() {
    for profile in NAMES {
        let (load, other) = (SMALL.load(7), SMALL.load(8));
        let first = run(&CLUSTER, &load, profile, 7);
        assert_eq!(first, run(&CLUSTER, &load, profile, 7), "{profile}");
        let figures = Figures::new(profile, &first);
        assert_eq!(figures, Figures::new(profile, &run(&CLUSTER, &load, profile, 7)));
        assert_ne!(first.trace, run(&CLUSTER, &other, profile, 8).trace, "{profile}");
    }
}

#[test]
fn every_request_ends_with_all_its_tokens_under_every_profile() {
    let at_once = Synthetic { arrivals: Arrivals::AtOnce(6), ..SMALL };
    for load in [SMALL.load(1), at_once.load(1)] {
        let wanted = load
            .conversations
            .iter()
            .enumerate()
            .map(|(index, one)| (index as u32, one.turns.iter().map(|turn| turn.output).sum()));
        let wanted: BTreeMap<u32, u32> = wanted.collect();
        for profile in NAMES {
            let run = run(&CLUSTER, &load, profile, 1);
            assert_eq!((run.answered.len(), run.refused), (load.requests(), 0));
            assert_eq!(outputs(&run), wanted, "{profile}");
            assert!(run.answered.iter().all(|one| one.cached < one.prompt), "{profile}");
        }
    }
}

#[test]
fn who_knows_what_is_cached_hits_more_often_than_chance() {
    let load = SMALL.load(3);
    let hits = |profile| Figures::new(profile, &run(&CLUSTER, &load, profile, 3)).hit_rate;
    let (random, default, llm_d) = (hits("random"), hits("default"), hits("llm-d"));
    assert!(random > 0.2, "turns and system prompts repeat: {random}");
    assert!(default > random + 0.05 && llm_d > random + 0.05, "{default} {llm_d} {random}");
}

#[test]
fn one_after_the_other_takes_all_alike() {
    // One request each, so that nobody comes out of step.
    let load = Synthetic { conversations: 80, turns: 1, ..SMALL }.load(5);
    let figures = Figures::new("round-robin", &run(&CLUSTER, &load, "round-robin", 5));
    assert_eq!(figures.requests, 80);
    assert!(figures.busiest < 1.5, "{figures:?}");
    assert!(figures.fairness > 0.3 && figures.fairness <= 1.0, "{figures:?}");
}

#[test]
fn a_trace_shares_what_its_ids_share() {
    let line = |at: u32, ids: &str| {
        format!(
            "{{\"timestamp\": {at}, \"input_length\": 1000, \"output_length\": 4, \
             \"hash_ids\": {ids}}}\n"
        )
    };
    let text = line(0, "[1, 2]") + &line(5000, "[1, 3]") + &line(10_000, "[4, 5]");
    let load = trace::read(&text, None, 1.0).expect("it is right");
    let run = run(&Cluster { endpoints: 1, ..CLUSTER }, &load, "default", 0);
    let cached: Vec<u32> = run.answered.iter().map(|one| one.cached).collect();
    assert_eq!(cached, [0, 512, 0]);
}

#[test]
fn what_does_not_fit_is_refused_and_the_rest_goes_on() {
    let line = |length: usize| {
        let ids: Vec<usize> = (0..length.div_ceil(512)).collect();
        format!(
            "{{\"timestamp\": 0, \"input_length\": {length}, \"output_length\": 4, \
             \"hash_ids\": {ids:?}}}\n"
        )
    };
    let load = trace::read(&(line(20_000) + &line(100)), None, 1.0).expect("it is right");
    let run = run(&CLUSTER, &load, "default", 0);
    assert_eq!((run.answered.len(), run.refused), (1, 1));
    assert!(run.refusal.expect("it says why").contains("16000"));
}

#[test]
fn engines_without_room_preempt_and_answer_all_the_same() {
    let tight = Cluster { endpoints: 2, blocks: 60, max_num_seqs: 8, ..CLUSTER };
    let sizes = Synthetic { system_tokens: 64, output_tokens: 200, turns: 2, ..SMALL };
    let load = sizes.load(2);
    for profile in ["default", "random"] {
        let run = run(&tight, &load, profile, 2);
        assert_eq!((run.answered.len(), run.refused), (load.requests(), 0));
    }
}

#[test]
fn thousands_of_endpoints_take_a_small_load() {
    let many = Cluster { endpoints: 2000, blocks: 100, ..CLUSTER };
    let load = Synthetic { conversations: 50, turns: 2, ..SMALL }.load(4);
    let run = run(&many, &load, "default", 4);
    assert_eq!((run.answered.len(), run.busy.len()), (100, 2000));
}
