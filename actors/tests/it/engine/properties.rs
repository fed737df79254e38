//! Random groups, requests and delays: every request gets what it would get alone.
//!
//! Seeded, so that a run is the same everywhere; a case that fails is printed as small as possible.

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, RngSeed},
};
use troupe_actors::{
    leader::request::RequestKey,
    scheduler::{NgramSettings, Policy},
};
use troupe_runtime::{
    id::RequestId,
    spec::service::Eviction,
    wire::generate::{Choice, Generate, OutputKind, SamplingOptions},
};
use uuid::Uuid;

use super::{
    books::{follows, key},
    harness::{Group, Shape, digest, endpoint, hashing},
};

/// One request, and what befalls it.
#[derive(Clone, Debug)]
struct Arrival {
    /// Prompts of a family begin with the same tokens: this many of them, then own ones.
    family: u32,
    shared: u32,
    own: Vec<u32>,
    choices: u32,
    /// Output that its first choice has from an earlier attempt.
    moved: u32,
    max_tokens: u32,
    priority: i32,
    stop: Option<u32>,
    scored: bool,
    fate: Fate,
}

/// What befalls a request once it has so many tokens.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Lives,
    Aborted(usize),
    Finished(usize),
    Fails(usize),
}

/// How a run decides what happens next: a small generator of its own, for proptest's is not there
/// while a case runs.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    /// A number below `sides`: a Weyl sequence, mixed as in SplitMix64 (Steele et al., 2014).
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % sides as u64) as usize
    }
}

impl Arrival {
    fn generate(&self, number: u64, shape: Shape) -> Generate {
        let Shape { vocab_size, window, .. } = shape;
        let family = |at: u32| (at * 7 + self.family * 13 + at * at * self.family) % vocab_size;
        let mut prompt: Vec<u32> = (0..self.shared).map(family).collect();
        prompt.extend(self.own.iter().map(|token| token % vocab_size));
        let mut choices: Vec<_> =
            (0..self.choices).map(|index| Choice { index, output: Vec::new() }).collect();
        let mut all = prompt.clone();
        for _ in 0..self.moved.min(self.max_tokens.saturating_sub(1)) {
            all.push(follows(&all, vocab_size, window));
        }
        choices[0].output = all.split_off(prompt.len());
        // Half of the gateways hash.
        let chain = hashing(shape.block_size).chain(None, None);
        let (block_hashes, hash_block_size, hash_seed) = match number % 2 {
            0 => (Vec::new(), 0, 0),
            _ => (chain.hash(&prompt, shape.block_size as usize), shape.block_size, chain.seed()),
        };
        Generate {
            request: RequestId(Uuid::from_u128(number.into())),
            attempt: 0,
            alone: false,
            endpoint: endpoint(),
            tenant: String::new(),
            priority: self.priority,
            time_left_ms: 60_000,
            prompt,
            block_hashes,
            hash_block_size,
            hash_seed,
            adapter: None,
            cache_salt: None,
            output: OutputKind::Tokens,
            options: SamplingOptions {
                max_tokens: self.max_tokens,
                stop_token_ids: self.stop.into_iter().collect(),
                prompt_logprobs: self.scored.then_some(0),
                ..SamplingOptions::default()
            },
            seed: number,
            choices,
            kv_source: None,
            traceparent: None,
            model: digest(),
            tokenizer: digest(),
        }
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let speculation = prop_oneof![
        Just(None),
        (1u32..5, 1u32..3).prop_map(|(num_tokens, shortest)| {
            Some(NgramSettings { num_tokens, longest: 3, shortest })
        }),
    ];
    let policies = prop_oneof![Just(Policy::Fcfs), Just(Policy::Priority), Just(Policy::Lpm)];
    let sizes = (1u32..24, 1u32..7, 1u32..6, 6u32..20, prop_oneof![Just(0u32), 1u32..9]);
    let windows = prop_oneof![Just(None), (1u32..12).prop_map(Some)];
    let rules = (policies, any::<bool>(), speculation, 2u32..9, windows);
    (prop_oneof![Just(1u32), Just(2), Just(4)], sizes, rules).prop_map(|(stages, sizes, rules)| {
        let (budget, sequences, block_size, blocks, threshold) = sizes;
        let (policy, prefix_caching, speculation, vocab_size, window) = rules;
        Shape {
            stages,
            budget,
            sequences,
            block_size,
            blocks,
            threshold,
            policy,
            prefix_caching,
            speculation,
            vocab_size,
            window,
            kept: (0, 0),
            eviction: Eviction::Lru,
        }
    })
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let fate = prop_oneof![
        6 => Just(Fate::Lives),
        1 => (0usize..9).prop_map(Fate::Aborted),
        1 => (0usize..9).prop_map(Fate::Finished),
        1 => (0usize..9).prop_map(Fate::Fails),
    ];
    let prompt = (0u32..3, 0u32..30, vec(0u32..9, 1..6));
    let wants = (prop_oneof![4 => Just(1u32), 1 => 2u32..5], 0u32..3, 0u32..20, -1i32..2);
    let ends = (prop_oneof![3 => Just(None), 1 => (0u32..9).prop_map(Some)], any::<u8>(), fate);
    let arrival = (prompt, wants, ends).prop_map(|(prompt, wants, ends)| {
        let (family, shared, own) = prompt;
        let (choices, moved, max_tokens, priority) = wants;
        let (stop, scored, fate) = ends;
        // An earlier attempt did not get beyond a stop.
        let moved = if stop.is_some() { 0 } else { moved };
        let scored = scored < 16;
        Arrival { family, shared, own, choices, moved, max_tokens, priority, stop, scored, fate }
    });
    vec(arrival, 1..24)
}

/// Lets everything happen in a random order until nothing is left to happen.
fn run(shape: Shape, arrivals: &[Arrival], seed: u64) -> Group {
    let mut group = Group::new(shape);
    let mut dice = Dice(seed);
    let mut coming = (1..).zip(arrivals).peekable();
    let mut fates: Vec<(RequestKey, Fate)> = Vec::new();
    // Some runs are of a full queue, in some one request comes when the last is nearly done.
    let rarely = 1 + dice.roll(12);
    for _ in 0..MOST_EVENTS {
        fates.retain(|&(key, fate)| !befall(&mut group, key, fate));
        let steps = group.steps();
        if (steps.is_empty() || dice.roll(rarely) == 0) && coming.peek().is_some() {
            let (number, arrival) = coming.next().unwrap();
            let generate = arrival.generate(number, shape);
            fates.push((key(&generate), arrival.fate));
            group.submit(generate);
        } else if !steps.is_empty() {
            group.take(steps[dice.roll(steps.len())]);
        } else {
            group.check_the_end();
            return group;
        }
    }
    panic!("no end after {MOST_EVENTS} events");
}

/// Lets what is to befall a request befall it, if it is time; whether that is over.
fn befall(group: &mut Group, key: RequestKey, fate: Fate) -> bool {
    let produced = group.books.produced(key);
    match fate {
        Fate::Lives => return true,
        Fate::Aborted(after) if produced >= after => group.abort(key),
        Fate::Finished(after) if produced >= after => group.finish(key, 0),
        Fate::Fails(after) if produced >= after => group.fail(key),
        _ => return !group.books.is_open(key),
    }
    true
}

fn config() -> Config {
    Config {
        cases: CASES,
        rng_seed: RngSeed::Fixed(17),
        failure_persistence: None,
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_request_gets_what_it_would_get_alone(
        shape in shapes(),
        arrivals in arrivals(),
        seed in any::<u64>(),
    ) {
        run(shape, &arrivals, seed);
    }
}

/// Requests that all fit a step of their own, half of them with the same beginning.
fn crowd(choices: u32, max_tokens: u32) -> Vec<Arrival> {
    let arrival = |at: u32| Arrival {
        family: at % 2,
        shared: 12,
        own: vec![at / 4, at / 2],
        choices,
        moved: 0,
        max_tokens,
        priority: 0,
        stop: None,
        scored: false,
        fate: Fate::Lives,
    };
    (0..12).map(arrival).collect()
}

/// Room for all, one stage or more, nothing special.
fn roomy(stages: u32) -> Shape {
    Shape {
        stages,
        budget: 32,
        sequences: 8,
        block_size: 4,
        blocks: 200,
        threshold: 0,
        policy: Policy::Fcfs,
        prefix_caching: true,
        speculation: None,
        vocab_size: 50,
        window: None,
        kept: (0, 0),
        eviction: Eviction::Lru,
    }
}

/// What was counted over some runs with different delays.
fn counted(shape: Shape, arrivals: &[Arrival], count: impl Fn(&Group) -> u64) -> u64 {
    (0..SEEDS).map(|seed| count(&run(shape, arrivals, seed))).sum()
}

#[test]
fn blocks_that_run_out_mean_preemption_and_blocks_that_do_not_mean_none() {
    for stages in [1, 2, 4] {
        let preemptions = |shape| counted(shape, &crowd(1, 20), |g| g.counters().preemptions);
        let tight = Shape { blocks: 18, ..roomy(stages) };
        assert!(preemptions(tight) >= SEEDS, "{stages} stages");
        assert!(preemptions(Shape { prefix_caching: false, ..tight }) >= SEEDS);
        assert_eq!(preemptions(roomy(stages)), 0, "{stages} stages");
    }
}

#[test]
fn prompts_that_were_seen_are_found_and_choices_share_without_a_cache_too() {
    for stages in [1, 2, 4] {
        let hits = |shape, choices| {
            counted(shape, &crowd(choices, 5), |group| group.counters().prefix_hits)
        };
        let forgetful = Shape { prefix_caching: false, ..roomy(stages) };
        // Ten of twelve find the two full blocks at least that the first of their family wrote.
        assert!(hits(roomy(stages), 1) >= SEEDS * 10 * 8, "{stages} stages");
        assert_eq!(hits(forgetful, 1), 0, "{stages} stages");
        // Two more choices of each find its three full blocks and all but the last of two tokens.
        assert!(hits(forgetful, 3) >= SEEDS * 12 * 2 * 12, "{stages} stages");
    }
}

#[test]
fn drafts_are_accepted_where_text_repeats_itself() {
    let speculation = Some(NgramSettings { num_tokens: 4, longest: 3, shortest: 1 });
    for stages in [1, 2, 4] {
        let shape = Shape { speculation, vocab_size: 2, ..roomy(stages) };
        let accepted = counted(shape, &crowd(1, 20), |group| group.counters().accepted_tokens);
        assert!(accepted >= SEEDS, "{accepted} with {stages} stages");
    }
}

#[test]
fn a_window_bounds_what_a_long_answer_holds() {
    for stages in [1, 2, 4] {
        // A sequence holds the window's blocks, those that it begins, and those that steps in
        // flight may yet look at: far fewer than the forty that its answer fills.
        let shape = Shape { window: Some(8), blocks: 50, ..roomy(stages) };
        let long = Arrival { max_tokens: 160, ..crowd(1, 1).swap_remove(0) };
        let mut group = Group::new(shape);
        group.submit(long.generate(1, shape));
        let mut most_late = 0;
        while let Some(step) = group.steps().first().copied() {
            group.take(step);
            let load = group.load();
            if load.steps > 20 {
                most_late = most_late.max(load.blocks_used);
            }
        }
        assert!((1..=8).contains(&most_late), "{most_late} blocks with {stages} stages");
        group.check_the_end();
    }
}

#[test]
fn prompts_are_found_though_their_beginnings_left_the_window() {
    for stages in [1, 2, 4] {
        let shape = Shape { window: Some(6), ..roomy(stages) };
        let hits = counted(shape, &crowd(1, 20), |group| group.counters().prefix_hits);
        assert!(hits >= SEEDS * 8, "{hits} with {stages} stages");
    }
}

#[test]
fn equal_requests_come_to_hold_the_same_blocks() {
    for stages in [1, 2, 4] {
        let equal: Vec<_> = vec![crowd(1, 20)[0].clone(); 6];
        let merged = counted(roomy(stages), &equal, |group| group.counters().merged_blocks);
        assert!(merged >= SEEDS, "{merged} with {stages} stages");
    }
}

/// Random cases: a few seconds of them.
const CASES: u32 = 8000;
/// Runs of one fixed load, each with other delays.
const SEEDS: u64 = 20;
/// Two dozen requests of a hundred events each end long before.
const MOST_EVENTS: usize = 200_000;
