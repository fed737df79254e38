//! What the prefix index costs a gateway: `cargo bench -p troupe-gateway --bench prefix`
//!
//! - `hash`: the names of a prompt's blocks, once for each request
//! - `apply`: one batch of a leader that stores and removes in a full cache (`elem/s` are blocks)
//! - `look_up`: how much of a prompt each endpoint holds, as one placement asks it. All endpoints
//!   hold the first twentieth, as a system prompt is held; each tenth one a part of the rest of its
//!   own length, and one all of it. Beside it each has 1,000 blocks of other prompts.
//! - `look_up/while told`: the same, while another thread does nothing but apply batches
//! - `mixed`: one look-up for 640 blocks that are told, which is what a conversation of 10,000
//!   tokens makes (`elem/s` are operations: blocks applied and blocks looked up)
//! - `sent`: what a prompt costs that is entered because it was just sent somewhere
//!
//! It also prints the bytes that a block takes, for 1,000 endpoints with 31,250 blocks each.

use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use troupe_gateway::PrefixIndex;
use troupe_runtime::{
    id::Digest,
    prefix::{self, Parameters},
    wire::cache::CacheBatch,
};

criterion_group!(prefix_index, hash, apply, look_up, mixed, sent, memory);
criterion_main!(prefix_index);

const BLOCK_SIZE: usize = 16;
/// Blocks of other prompts that each endpoint holds.
const OTHERS: u128 = 1_000;
/// Lengths of prompts, in tokens.
const PROMPTS: [usize; 3] = [200, 10_000, 100_000];

/// A number with all its bits mixed, as a hash has them: two rounds of SplitMix64 (Steele et al.).
fn spread(number: u128) -> u128 {
    let mix = |number: u64| {
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    };
    let low = mix(number as u64 ^ mix((number >> 64) as u64));
    u128::from(mix(low ^ 1)) << 64 | u128::from(low)
}

/// The blocks of one prompt.
fn chain(number: u128, len: u128) -> Vec<u128> {
    (0..len).map(|at| spread(number << 64 | at)).collect()
}

fn stored(blocks: &[u128]) -> CacheBatch {
    CacheBatch { stored: blocks.to_vec(), ..CacheBatch::default() }
}

/// Endpoints that hold a prompt in part, as above, and others.
fn index(endpoints: usize, prompt: &[u128]) -> PrefixIndex {
    let index = PrefixIndex::new(endpoints);
    let shared = prompt.len().div_ceil(20);
    for endpoint in 0..endpoints {
        index.tell(endpoint, &stored(&chain(1_000 + endpoint as u128, OTHERS)));
        let own = match endpoint {
            0 => prompt.len(),
            _ if endpoint % 10 == 0 => shared + prompt.len() * endpoint / endpoints / 2,
            _ => shared,
        };
        index.tell(endpoint, &stored(&prompt[..own.min(prompt.len())]));
    }
    index
}

fn hash(criterion: &mut Criterion) {
    let model = Digest::of(b"model");
    let parameters = Parameters {
        key: prefix::key_of(model),
        model,
        kv_dtype: "bfloat16".into(),
        block_size: BLOCK_SIZE as u32,
    };
    let mut group = criterion.benchmark_group("hash");
    for len in PROMPTS {
        let tokens: Vec<u32> = (0..len as u32).map(|at| at.wrapping_mul(7919) % 128_000).collect();
        group.throughput(Throughput::Elements(len as u64));
        group.bench_with_input(BenchmarkId::from_parameter(len), &tokens, |bencher, tokens| {
            bencher.iter(|| parameters.chain(None, None).hash(black_box(tokens), BLOCK_SIZE));
        });
    }
    group.finish();
}

/// Batches of an endpoint that is full: each stores a prompt of 64 blocks and removes the one that
/// was stored longest ago.
fn churn(endpoint: u128) -> impl Iterator<Item = CacheBatch> {
    let prompt = move |number: u128| chain(endpoint << 32 | 1 << 60 | number, 64);
    (0_u128..).map(move |number| {
        let removed = number.checked_sub(488).map(prompt).unwrap_or_default();
        CacheBatch { removed, stored: prompt(number), ..CacheBatch::default() }
    })
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    for endpoints in [10, 1_000] {
        let index = index(endpoints, &[]);
        let batches: Vec<CacheBatch> = churn(1).take(4_000).collect();
        let (full, batches) = batches.split_at(488);
        full.iter().for_each(|batch| index.tell(0, batch));
        // What is removed first is what is stored last: the batches can go round.
        let mut next = batches.iter().cycle();
        group.throughput(Throughput::Elements(128));
        group.bench_function(BenchmarkId::new("endpoints", endpoints), |bencher| {
            bencher.iter(|| index.tell(0, next.next().expect("it goes round")));
        });
    }
    group.finish();
}

fn look_up(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("look_up");
    for endpoints in [10, 100, 1_000] {
        for len in PROMPTS {
            let prompt = chain(0, (len / BLOCK_SIZE) as u128);
            let index = index(endpoints, &prompt);
            let id = BenchmarkId::new(format!("{endpoints} endpoints"), len);
            group.bench_with_input(id, &prompt, |bencher, prompt| {
                bencher.iter(|| index.look_up(black_box(prompt)).sum::<u32>());
            });
        }
    }
    let prompt = chain(0, (10_000 / BLOCK_SIZE) as u128);
    let index = index(1_000, &prompt);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for batch in churn(1) {
                index.tell(1, &batch);
                if done.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        group.bench_function("while told/1000 endpoints/10000", |bencher| {
            bencher.iter(|| index.look_up(black_box(&prompt)).sum::<u32>());
        });
        done.store(true, Ordering::Relaxed);
    });
    group.finish();
}

fn mixed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mixed");
    let prompt = chain(0, 640);
    let index = index(100, &prompt);
    let batches: Vec<CacheBatch> = churn(1).take(4_000).collect();
    let (full, batches) = batches.split_at(488);
    full.iter().for_each(|batch| index.tell(0, batch));
    let mut next = batches.iter().cycle();
    // Five batches of 128, and the prompt's own blocks.
    group.throughput(Throughput::Elements(640 + 640));
    group.bench_function("a conversation's turn", |bencher| {
        bencher.iter(|| {
            next.by_ref().take(5).for_each(|batch| index.tell(0, batch));
            index.look_up(black_box(&prompt)).sum::<u32>()
        });
    });
    group.finish();
}

fn sent(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sent");
    for len in PROMPTS {
        let index = PrefixIndex::new(10);
        let mut number = 0;
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            bencher.iter_batched(
                || {
                    number += 1;
                    chain(number, (len / BLOCK_SIZE) as u128)
                },
                |prompt| index.sent(Duration::ZERO, 0, &prompt),
                criterion::BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn memory(_: &mut Criterion) {
    let shared = chain(0, 1_250);
    let index = PrefixIndex::new(1_000);
    for endpoint in 0..1_000 {
        index.tell(endpoint, &stored(&shared));
        index.tell(endpoint, &stored(&chain(1 + endpoint as u128, 30_000)));
    }
    let (blocks, bytes) = (index.blocks(), index.bytes());
    let each = bytes as f64 / blocks as f64;
    eprintln!("memory: {bytes} bytes for {blocks} different blocks: {each:.1} bytes each");
}
