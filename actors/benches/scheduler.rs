//! What a step costs at the leader and at a worker, beside the model: `cargo bench -p troupe-actors
//! --bench scheduler`
//!
//! 256 sequences of 1000 tokens decode. `decode/engine` is one result taken, the next step planned
//! and what came of it dropped; `decode/mirror` is that plan taken by a worker. Both are per step
//! (`elem/s` are steps), 64 steps in a row, so that new blocks and their hashes are in the mean. A
//! device that takes 10 ms for such a step must not wait for either: 50 microseconds are the goal.
//! `engine that tells nothing` has no prefix cache, and so nothing to tell gateways of its blocks:
//! what it takes less is what the cache and telling of it cost. `tell` is telling alone, with
//! 32,768 blocks held and 16 that come and 16 that go in a step: `noted` is the engine's part,
//! `noted and cut` that and the part of whoever reads for gateways, once in 5 milliseconds at most.
//! `admit` is a prompt of 32,768 tokens from its arrival to its first step: almost all of it is
//! hashing its blocks.

use std::{collections::VecDeque, hint::black_box, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use troupe_actors::{
    kv::findable::Change,
    leader::{
        engine::{Engine, EngineEffect, EngineEvent},
        ledger::{Ledger, Reading},
        settings::{EngineLimits, EngineSettings, Offload},
    },
    scheduler::Policy,
    worker::{mirror::Mirror, tokens::SampledAt},
};
use troupe_runtime::{
    id::{Digest, EndpointId, Epoch, GroupId, RequestId},
    wire::{
        generate::{Choice, Generate, OutputKind, SamplingOptions},
        step::{Outcome, SampledTokens, SequenceResult, StepPlan, StepResult},
    },
};
use uuid::Uuid;

criterion_group!(scheduler, decode, tell, admit);
criterion_main!(scheduler);

const NOW: Duration = Duration::from_secs(10);
const SEQUENCES: u32 = 256;
const CONTEXT: u32 = 1000;
const BLOCK_SIZE: u32 = 16;
const LONG: u32 = 32_768;
const STEPS: u64 = 64;

fn endpoint() -> EndpointId {
    let group = GroupId { namespace: "default".into(), service: "s".into(), index: 0 };
    EndpointId { group, revision: 1, epoch: Epoch { number: 1, nonce: 9 }, dp: 0 }
}

fn engine(prefix_caching: bool) -> Engine {
    let settings = EngineSettings {
        endpoint: endpoint(),
        model: Digest::of(b"model"),
        tokenizer: Digest::of(b"tokenizer"),
        vocab_size: 1 << 17,
        limits: EngineLimits {
            max_model_len: 2 * LONG,
            block_size: BLOCK_SIZE,
            max_num_batched_tokens: 2048,
            max_num_seqs: SEQUENCES,
            max_num_queued: 8 * SEQUENCES,
            num_blocks: None,
            long_prefill_token_threshold: 0,
            policy: Policy::Fcfs,
            prefix_caching,
            kv_transfer_timeout: Duration::from_secs(2),
            offload: Offload::default(),
            speculation: None,
            lora: None,
            whole_prompts: false,
        },
        stages: 1,
        windows: vec![None],
        embeds: None,
        kv_dtype: "bfloat16".into(),
        prefix_key: [7; 32],
    };
    Engine::new(settings, &[SEQUENCES * 2 * CONTEXT / BLOCK_SIZE])
}

fn generate(number: u32, prompt_len: u32) -> Box<Generate> {
    Box::new(Generate {
        request: RequestId(Uuid::from_u128(number.into())),
        attempt: 0,
        alone: false,
        endpoint: endpoint(),
        tenant: String::new(),
        priority: 0,
        time_left_ms: 60_000,
        prompt: (0..prompt_len).map(|at| (at * 31 + number * 7919) % (1 << 17)).collect(),
        block_hashes: vec![],
        hash_block_size: 0,
        hash_seed: 0,
        adapter: None,
        cache_salt: None,
        output: OutputKind::Tokens,
        options: SamplingOptions { max_tokens: 4096, ..SamplingOptions::default() },
        seed: number.into(),
        choices: vec![Choice::default()],
        kv_source: None,
        traceparent: None,
        model: Digest::of(b"model"),
        tokenizer: Digest::of(b"tokenizer"),
    })
}

/// An engine, the plans that it has in flight, and what a worker knows that has run all others.
#[derive(Clone)]
struct Group {
    engine: Engine,
    plans: VecDeque<StepPlan>,
    mirror: Mirror,
}

impl Group {
    /// All sequences are through their prompts.
    fn decoding(prefix_caching: bool) -> Self {
        let mirror = Mirror::new(endpoint().epoch, BLOCK_SIZE);
        let mut group = Self { engine: engine(prefix_caching), plans: VecDeque::new(), mirror };
        for number in 0..SEQUENCES {
            let event = EngineEvent::Submit(generate(number, CONTEXT));
            group.plans.extend(plans(group.engine.handle(NOW, event)));
        }
        while !group.plans.iter().all(|plan| plan.running.len() == SEQUENCES as usize) {
            group.step();
        }
        // Once more, so that only decodes are in flight and all are as far.
        (0..4).for_each(|_| _ = group.step());
        assert!(group.plans.iter().all(|plan| plan.tokens() == SEQUENCES));
        group
    }

    /// Runs the oldest plan and returns it with its result.
    fn step(&mut self) -> (StepPlan, StepResult) {
        let plan = self.plans.pop_front().expect("there is work");
        let result = result(&plan);
        self.mirror.apply(&plan).expect("it fits");
        self.mirror.learn(&sampled(&plan));
        let effects = self.engine.handle(NOW, EngineEvent::Result(result.clone()));
        self.plans.extend(plans(effects));
        (plan, result)
    }
}

fn plans(effects: Vec<EngineEffect>) -> impl Iterator<Item = StepPlan> {
    effects.into_iter().filter_map(|effect| match effect {
        EngineEffect::Plan(plan) => Some(plan),
        _ => None,
    })
}

/// What the step samples: every sequence another token, so that no blocks are equal.
fn sampled(plan: &StepPlan) -> Vec<SampledAt> {
    let sampling = plan.spans().filter(|(_, span)| span.sample);
    sampling
        .map(|(sequence, span)| {
            let position = span.computed + span.count;
            let token = (sequence.0 as u32).wrapping_mul(7919).wrapping_add(position);
            SampledAt { sequence, position, token: token % (1 << 17) }
        })
        .collect()
}

fn result(plan: &StepPlan) -> StepResult {
    let outcomes = sampled(plan).into_iter().map(|SampledAt { sequence, token, .. }| {
        let tokens =
            SampledTokens { tokens: [token].as_slice().into(), ..SampledTokens::default() };
        SequenceResult { sequence, outcome: Outcome::Tokens(tokens) }
    });
    let outcomes = outcomes.collect();
    StepResult { epoch: plan.epoch, step: plan.step, outcomes, compute_us: 1 }
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(STEPS));
    let start = Group::decoding(true);
    let mut ahead = start.clone();
    let (plans, results): (Vec<_>, Vec<_>) = (0..STEPS).map(|_| ahead.step()).unzip();
    group.bench_function("engine", |bencher| {
        bencher.iter_batched(
            || (start.engine.clone(), results.clone()),
            |(mut engine, results)| {
                for result in results {
                    black_box(engine.handle(NOW, EngineEvent::Result(result)));
                }
                engine
            },
            BatchSize::LargeInput,
        );
    });
    let silent = Group::decoding(false);
    group.bench_function("engine that tells nothing", |bencher| {
        bencher.iter_batched(
            || (silent.engine.clone(), results.clone()),
            |(mut engine, results)| {
                for result in results {
                    black_box(engine.handle(NOW, EngineEvent::Result(result)));
                }
                engine
            },
            BatchSize::LargeInput,
        );
    });
    let told: Vec<_> = plans.iter().map(sampled).collect();
    group.bench_function("mirror", |bencher| {
        bencher.iter_batched(
            || start.mirror.clone(),
            |mut mirror| {
                for (plan, sampled) in plans.iter().zip(&told) {
                    black_box(mirror.apply(plan).expect("it fits"));
                    mirror.learn(sampled);
                }
                mirror
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn tell(criterion: &mut Criterion) {
    const CHAINS: u128 = 512;
    const BLOCKS: u128 = 64;
    let key = |chain: u128, at: u128| (chain + 1) << 64 | at;
    let stored = |chain: u128, at: u128| Change::Stored {
        key: key(chain, at),
        parent: at.checked_sub(1).map(|before| key(chain, before)),
    };
    let mut start = Ledger::new(endpoint().epoch);
    let held = (0..CHAINS).flat_map(|chain| (0..BLOCKS).map(move |at| stored(chain, at)));
    start.note(NOW, held.collect());
    let (each, steps) = (u128::from(SEQUENCES / BLOCK_SIZE), u128::from(STEPS));
    let leave = (0..each * steps).map(|block| stored(CHAINS + block, 0));
    start.note(NOW, leave.collect());
    let Reading::Snapshot { seq, .. } = start.read(NOW, None) else { panic!("it is the first") };
    // In each step some chains grow by one, and as many blocks go that stand alone.
    let change = |block: u128| {
        let grows = stored(block % CHAINS, BLOCKS + block / CHAINS);
        [grows, Change::Removed(key(CHAINS + block, 0))]
    };
    let step =
        |step: u128| -> Vec<Change> { (step * each..(step + 1) * each).flat_map(change).collect() };
    let changes: Vec<Vec<Change>> = (0..steps).map(step).collect();
    let mut group = criterion.benchmark_group("tell");
    group.throughput(Throughput::Elements(STEPS));
    let fresh = || (start.clone(), changes.clone());
    group.bench_function("noted", |bencher| {
        let note = |(mut ledger, changes): (Ledger, Vec<_>)| {
            changes.into_iter().for_each(|changes| ledger.note(NOW, changes));
            ledger
        };
        bencher.iter_batched(fresh, note, BatchSize::LargeInput);
    });
    group.bench_function("noted and cut", |bencher| {
        let note = |(mut ledger, changes): (Ledger, Vec<_>)| {
            let (mut now, mut since) = (NOW, seq);
            for changes in changes {
                ledger.note(now, changes);
                now += Duration::from_millis(10);
                match black_box(ledger.read(now, Some(since))) {
                    Reading::Batches(batches) => since += batches.len() as u64,
                    other => panic!("no batch: {other:?}"),
                }
            }
            ledger
        };
        bencher.iter_batched(fresh, note, BatchSize::LargeInput);
    });
    group.finish();
}

fn admit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("admit");
    group.throughput(Throughput::Elements(LONG.into()));
    group.bench_function("32k tokens", |bencher| {
        bencher.iter_batched(
            || (engine(true), generate(0, LONG)),
            |(mut engine, generate)| {
                let effects = engine.handle(NOW, EngineEvent::Submit(generate));
                (engine, black_box(effects))
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}
