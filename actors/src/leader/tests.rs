//! The engine alone, driven by hand: what it refuses, when choices end, what is left behind.

use std::{collections::VecDeque, time::Duration};

use troupe_runtime::{
    error::ErrorKind,
    id::{Digest, EndpointId, Epoch, GroupId, RequestId},
    wire::{
        adapter::AdapterRef,
        generate::{
            Choice, Chunk, Finish, FinishReason, Generate, GenerateDown, OutputKind,
            SamplingOptions,
        },
        status::Embeds,
        step::{Outcome, SampledTokens, SequenceResult, StepPlan, StepResult},
    },
};
use uuid::Uuid;

use super::{
    engine::{Engine, EngineEffect, EngineEvent},
    request::RequestKey,
    settings::{EngineLimits, EngineSettings, Offload},
};
use crate::{kv::findable::Change, scheduler::Policy};

mod embeddings;

const NOW: Duration = Duration::from_secs(10);
const EOS: u32 = 2;

pub(super) fn endpoint() -> EndpointId {
    let group = GroupId { namespace: "default".into(), service: "s".into(), index: 0 };
    EndpointId { group, revision: 1, epoch: Epoch { number: 1, nonce: 9 }, dp: 0 }
}

pub(super) fn settings() -> EngineSettings {
    EngineSettings {
        endpoint: endpoint(),
        model: Digest::of(b"model"),
        tokenizer: Digest::of(b"tokenizer"),
        vocab_size: 100,
        limits: EngineLimits {
            max_model_len: 64,
            block_size: 4,
            max_num_batched_tokens: 64,
            max_num_seqs: 4,
            max_num_queued: 4,
            num_blocks: None,
            long_prefill_token_threshold: 0,
            policy: Policy::Fcfs,
            prefix_caching: true,
            kv_transfer_timeout: Duration::from_secs(2),
            offload: Offload::default(),
            speculation: None,
            lora: None,
            whole_prompts: false,
        },
        stages: 1,
        windows: vec![None],
        embeds: None,
        kv_dtype: "float32".into(),
        prefix_key: [0; 32],
    }
}

fn engine(blocks: u32) -> Engine {
    Engine::new(settings(), &[blocks])
}

fn generate(number: u128, options: SamplingOptions) -> Generate {
    Generate {
        request: RequestId(Uuid::from_u128(number)),
        attempt: 0,
        alone: false,
        endpoint: endpoint(),
        tenant: String::new(),
        priority: 0,
        time_left_ms: 60_000,
        prompt: vec![5, 6, 7],
        block_hashes: vec![],
        hash_block_size: 0,
        hash_seed: 0,
        adapter: None,
        cache_salt: None,
        output: OutputKind::Tokens,
        options: SamplingOptions { eos_token_ids: vec![EOS], ..options },
        seed: 1,
        choices: vec![Choice::default()],
        kv_source: None,
        traceparent: None,
        model: Digest::of(b"model"),
        tokenizer: Digest::of(b"tokenizer"),
    }
}

fn most(max_tokens: u32) -> SamplingOptions {
    SamplingOptions { max_tokens, ..SamplingOptions::default() }
}

/// Submits and runs with these tokens until nothing is left to run; returns the chunks.
fn run(engine: &mut Engine, generate: Generate, tokens: &[u32]) -> Vec<Chunk> {
    let mut effects = engine.handle(NOW, EngineEvent::Submit(Box::new(generate)));
    let mut chunks = Vec::new();
    let mut plans = VecDeque::new();
    let mut tokens = tokens.iter().copied();
    loop {
        for effect in effects.drain(..) {
            match effect {
                EngineEffect::Plan(plan) => plans.push_back(plan),
                EngineEffect::Send(_, GenerateDown::Chunk(chunk)) => chunks.push(chunk),
                EngineEffect::Send(_, other) => panic!("{other:?}"),
                EngineEffect::Close(_)
                | EngineEffect::Observe(_)
                | EngineEffect::Cached(_)
                | EngineEffect::Transfer(_)
                | EngineEffect::Adapt(_) => {}
                EngineEffect::Broken(why) => panic!("{why}"),
            }
        }
        engine.check_integrity().expect("the books add up");
        let Some(plan) = plans.pop_front() else { return chunks };
        // A step that was planned ahead of the end samples something that nobody wants.
        let token = tokens.next().unwrap_or(99);
        effects = engine.handle(NOW, EngineEvent::Result(result(&plan, token)));
    }
}

fn result(plan: &StepPlan, token: u32) -> StepResult {
    let outcomes = plan
        .spans()
        .filter(|(_, span)| span.sample)
        .map(|(sequence, _)| SequenceResult {
            sequence,
            outcome: Outcome::Tokens(SampledTokens {
                tokens: [token].as_slice().into(),
                ..SampledTokens::default()
            }),
        })
        .collect();
    StepResult { epoch: plan.epoch, step: plan.step, outcomes, compute_us: 1 }
}

fn plans(effects: &[EngineEffect]) -> Vec<StepPlan> {
    let plan = |effect: &EngineEffect| match effect {
        EngineEffect::Plan(plan) => Some(plan.clone()),
        _ => None,
    };
    effects.iter().filter_map(plan).collect()
}

fn tokens(chunks: &[Chunk]) -> Vec<u32> {
    chunks.iter().flat_map(|chunk| chunk.tokens.clone()).collect()
}

fn finish(chunks: &[Chunk]) -> (FinishReason, Option<u32>, u32) {
    let finished = chunks.last().and_then(|chunk| chunk.finish.clone()).expect("it ended");
    (finished.reason, finished.stop_token, finished.usage.completion_tokens)
}

fn refusal(engine: &mut Engine, generate: Generate) -> ErrorKind {
    let effects = engine.handle(NOW, EngineEvent::Submit(Box::new(generate)));
    let [EngineEffect::Send(_, GenerateDown::Refused(error)), EngineEffect::Close(_), ..] =
        effects.as_slice()
    else {
        panic!("{effects:?}")
    };
    error.kind
}

#[test]
fn the_models_own_end_ends_it_and_counts() {
    let chunks = run(&mut engine(16), generate(1, most(10)), &[8, 9, EOS]);
    assert_eq!(tokens(&chunks), [8, 9, EOS]);
    assert_eq!(finish(&chunks), (FinishReason::Stop, None, 3));
    assert_eq!(chunks.iter().map(|chunk| chunk.position).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn ends_are_ignored_before_min_tokens_and_when_asked() {
    let options = SamplingOptions { min_tokens: 3, ..most(5) };
    let chunks = run(&mut engine(16), generate(1, options), &[EOS, EOS, EOS]);
    assert_eq!(finish(&chunks), (FinishReason::Stop, None, 3));
    let options = SamplingOptions { ignore_eos: true, ..most(2) };
    let chunks = run(&mut engine(16), generate(1, options), &[EOS, EOS]);
    assert_eq!(finish(&chunks), (FinishReason::Length, None, 2));
}

#[test]
fn a_stop_token_is_named_and_the_context_is_a_length() {
    let options = SamplingOptions { stop_token_ids: vec![50], ..most(5) };
    let chunks = run(&mut engine(16), generate(1, options), &[8, 50]);
    assert_eq!(finish(&chunks), (FinishReason::Stop, Some(50), 2));
    // 64 positions, of which the prompt takes three.
    let chunks = run(&mut engine(16), generate(1, most(1000)), &[8; 61]);
    assert_eq!(finish(&chunks), (FinishReason::Length, None, 61));
}

#[test]
fn a_moved_choice_goes_on_from_its_position() {
    let mut moved = generate(1, most(4));
    moved.choices = vec![Choice { index: 0, output: vec![8, 9] }];
    let chunks = run(&mut engine(16), moved, &[10, 11]);
    assert_eq!(chunks[0].position, 2);
    assert_eq!(finish(&chunks), (FinishReason::Length, None, 4));
}

#[test]
fn every_choice_of_a_request_has_its_own_sequence() {
    let mut two = generate(1, most(2));
    two.choices = vec![Choice::default(), Choice { index: 1, output: vec![] }];
    let chunks = run(&mut engine(16), two, &[8, 9]);
    assert_eq!(chunks.len(), 4);
    assert_eq!(chunks.iter().filter(|chunk| chunk.finish.is_some()).count(), 2);
}

#[test]
fn what_cannot_be_served_is_refused_before_it_costs_anything() {
    let mut engine = engine(16);
    let old = Generate {
        endpoint: EndpointId { epoch: Epoch::default(), ..endpoint() },
        ..generate(1, most(1))
    };
    assert_eq!(refusal(&mut engine, old), ErrorKind::Unavailable);
    let other = Generate { model: Digest::of(b"other"), ..generate(1, most(1)) };
    assert_eq!(refusal(&mut engine, other), ErrorKind::Unavailable);
    let long = Generate { prompt: vec![1; 64], ..generate(1, most(1)) };
    assert_eq!(refusal(&mut engine, long), ErrorKind::BadRequest);
    let foreign = Generate { prompt: vec![100], ..generate(1, most(1)) };
    assert_eq!(refusal(&mut engine, foreign), ErrorKind::BadRequest);
    let adapter = Some(AdapterRef { name: "a".into(), digest: Digest::default() });
    let adapted = Generate { adapter, ..generate(1, most(1)) };
    assert_eq!(refusal(&mut engine, adapted), ErrorKind::NotFound);
    assert_eq!(engine.load().waiting, 0);
}

#[test]
fn a_full_queue_refuses_and_an_attempt_is_executed_once() {
    let mut engine = engine(16);
    engine.handle(NOW, EngineEvent::Submit(Box::new(generate(1, most(9)))));
    assert_eq!(refusal(&mut engine, generate(1, most(9))), ErrorKind::BadRequest);
    // The first is in a step; four more may wait.
    for number in 2..6 {
        engine.handle(NOW, EngineEvent::Submit(Box::new(generate(number, most(9)))));
    }
    assert_eq!(refusal(&mut engine, generate(6, most(9))), ErrorKind::Overloaded);
}

#[test]
fn an_abort_in_flight_frees_the_blocks_with_the_step() {
    let mut engine = engine(16);
    let effects = engine.handle(NOW, EngineEvent::Submit(Box::new(generate(1, most(9)))));
    let plans = plans(&effects);
    let key = RequestKey { request: RequestId(Uuid::from_u128(1)), attempt: 0 };
    engine.handle(NOW, EngineEvent::Abort(key));
    assert_eq!(engine.load().blocks_used, 1);
    for plan in &plans {
        let effects = engine.handle(NOW, EngineEvent::Result(result(plan, 8)));
        assert!(!effects.iter().any(|effect| matches!(effect, EngineEffect::Send(..))));
    }
    assert_eq!((plans.len(), engine.load().blocks_used), (2, 0));
}

#[test]
fn a_gateways_finish_counts_what_it_kept() {
    let mut engine = engine(16);
    engine.handle(NOW, EngineEvent::Submit(Box::new(generate(1, most(9)))));
    let key = RequestKey { request: RequestId(Uuid::from_u128(1)), attempt: 0 };
    let stop = Finish { choice: 0, reason: FinishReason::Stop, tokens_kept: 0 };
    let effects = engine.handle(NOW, EngineEvent::Finish(key, stop));
    assert!(effects.iter().any(|effect| matches!(effect, EngineEffect::Close(_))));
}

#[test]
fn a_deadline_that_passes_is_told() {
    let mut engine = engine(16);
    engine.handle(NOW, EngineEvent::Submit(Box::new(generate(1, most(9)))));
    assert!(engine.handle(NOW + Duration::from_secs(59), EngineEvent::Tick).is_empty());
    let effects = engine.handle(NOW + Duration::from_secs(60), EngineEvent::Tick);
    let [EngineEffect::Send(_, GenerateDown::Failed(error)), ..] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!(error.kind, ErrorKind::DeadlineExceeded);
}

#[test]
fn a_prompt_that_is_only_scored_ends_without_a_token() {
    let options = SamplingOptions { prompt_logprobs: Some(0), ..most(0) };
    let chunks = run(&mut engine(16), generate(1, options), &[0]);
    assert_eq!(finish(&chunks), (FinishReason::Length, None, 0));
    assert!(tokens(&chunks).is_empty());
}

#[test]
fn one_sequence_that_fails_takes_no_other_along() {
    let mut engine = engine(16);
    let mut two = generate(1, most(9));
    two.choices = vec![Choice::default(), Choice { index: 1, output: vec![] }];
    let effects = engine.handle(NOW, EngineEvent::Submit(Box::new(generate(2, most(9)))));
    let plan = plans(&effects).remove(0);
    let failed = StepResult {
        outcomes: vec![SequenceResult {
            sequence: plan.new[0].sequence,
            outcome: Outcome::Failed("its logits are not finite".into()),
        }],
        ..result(&plan, 0)
    };
    engine.handle(NOW, EngineEvent::Submit(Box::new(two)));
    let effects = engine.handle(NOW, EngineEvent::Result(failed));
    assert!(effects.iter().any(|effect| matches!(
        effect,
        EngineEffect::Send(key, GenerateDown::Failed(_)) if key.request.0 == Uuid::from_u128(2)
    )));
    let load = engine.load();
    assert_eq!(load.running + load.waiting, 2, "the other request's choices go on");
    engine.check_integrity().expect("the books add up");
}

#[test]
fn an_engine_that_drains_refuses_with_words_that_send_elsewhere_and_ends_what_it_has() {
    let mut engine = engine(16);
    let first = engine.handle(NOW, EngineEvent::Submit(Box::new(generate(1, most(1)))));
    let plan = first.into_iter().find_map(|effect| match effect {
        EngineEffect::Plan(plan) => Some(plan),
        _ => None,
    });
    engine.handle(NOW, EngineEvent::Drain);
    let refused = engine.handle(NOW, EngineEvent::Submit(Box::new(generate(2, most(1)))));
    let kind = refused.iter().find_map(|effect| match effect {
        EngineEffect::Send(_, GenerateDown::Refused(error)) => Some(error.kind),
        _ => None,
    });
    assert_eq!(kind, Some(ErrorKind::Unavailable));
    assert_eq!(engine.open_requests(), 1);
    engine.handle(NOW, EngineEvent::Result(result(&plan.expect("a plan"), 7)));
    assert_eq!(engine.open_requests(), 0);
}

/// A prompt of two full blocks and a half, as a gateway hands it over that has hashed it.
fn hashed(number: u128) -> Generate {
    let prompt: Vec<u32> = (5..15).collect();
    let chain = settings().hashing().chain(None, None);
    let (block_hashes, hash_seed) = (chain.hash(&prompt, 4), chain.seed());
    let generate = generate(number, most(1));
    Generate { prompt, block_hashes, hash_block_size: 4, hash_seed, ..generate }
}

#[test]
fn what_is_computed_is_told_once_its_step_is_done() {
    let mut engine = engine(16);
    let hashes = hashed(1).block_hashes;
    let effects = engine.handle(NOW, EngineEvent::Submit(Box::new(hashed(1))));
    let plan = plans(&effects).remove(0);
    let told = |effects: &[EngineEffect]| -> Vec<Change> {
        let changes = |effect: &EngineEffect| match effect {
            EngineEffect::Cached(changes) => changes.clone(),
            _ => vec![],
        };
        effects.iter().flat_map(changes).collect()
    };
    assert_eq!(told(&effects), [], "it is planned and not yet there");
    let effects = engine.handle(NOW, EngineEvent::Result(result(&plan, 9)));
    let stored = [
        Change::Stored { key: hashes[0], parent: None },
        Change::Stored { key: hashes[1], parent: Some(hashes[0]) },
    ];
    assert_eq!(told(&effects), stored);
}

#[test]
fn hashes_of_a_gateway_that_hashes_otherwise_are_made_anew() {
    for change in [
        |generate: &mut Generate| generate.hash_seed += 1,
        |generate: &mut Generate| generate.cache_salt = Some("another".into()),
        |generate: &mut Generate| {
            generate.hash_block_size = 2;
            generate.block_hashes = vec![1, 2, 3, 4, 5];
        },
    ] {
        let mut engine = engine(16);
        let mut generate = hashed(1);
        change(&mut generate);
        let salt = generate.cache_salt.clone();
        assert_eq!(run(&mut engine, generate, &[9]).len(), 1);
        let mut own = settings().hashing().chain(None, salt.as_deref()).hash(&hashed(1).prompt, 4);
        let mut cached = engine.cached_blocks();
        own.sort_unstable();
        cached.sort_unstable();
        assert_eq!(cached, own);
    }
}

#[test]
fn hashes_that_cannot_be_the_prompts_are_refused() {
    let refusal = |change: fn(&mut Generate)| {
        let mut generate = hashed(1);
        change(&mut generate);
        let effects = engine(16).handle(NOW, EngineEvent::Submit(Box::new(generate)));
        let [EngineEffect::Send(_, GenerateDown::Refused(error)), ..] = effects.as_slice() else {
            panic!("{effects:?}")
        };
        assert_eq!(
            (error.kind, error.param.as_deref()),
            (ErrorKind::BadRequest, Some("block_hashes"))
        );
        error.message.clone()
    };
    let message = refusal(|generate| generate.block_hashes.truncate(1));
    assert_eq!(
        message,
        "1 hashes of blocks of 4 tokens came with the prompt; its 10 tokens fill 2"
    );
    refusal(|generate| generate.hash_block_size = 0);
    let message = refusal(|generate| generate.block_hashes[0] += 1);
    assert!(message.contains("another prompt"), "{message}");
    refusal(|generate| generate.block_hashes[1] += 1);
}
