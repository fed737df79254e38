//! Whole steps of a tiny model through the executor: what a token costs beside its arithmetic.
//! Models of this size compute for a few microseconds, so anything wasted per operation or per step
//! shows.
//!
//! Prints tokens per second as `elem/s`. `TROUPE_GOLDEN_DIR` names the full golden set, which has
//! stories260k; without it a model of the committed selection is taken.

use std::{path::PathBuf, thread, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use troupe_gpu::{
    DeviceRequest, LoadRequest, ParallelSizes, StepLimits,
    collective::{Alone, Collective, LocalCollective},
    cpu::CpuOptions,
    executor::{
        BatchSequence, Executor, LogitRows, SampleRequest, StageInput, StageOutput, StepBatch,
    },
};
use troupe_runtime::{
    id::{BlockId, Coordinate, SequenceId, StepId},
    model::config::ModelConfig,
    wire::generate::SamplingOptions,
};

#[allow(dead_code)]
#[path = "../../tests/support/golden.rs"]
mod golden;

criterion_group!(steps, decode, prefill, decode_on_two_ranks);
criterion_main!(steps);

const BLOCK_SIZE: usize = 16;
const CONTEXT: usize = 256;
const SEQUENCES: usize = 16;

fn folder() -> PathBuf {
    let named = ["stories260k", "tiny-llama-tied"];
    named.into_iter().find_map(golden::model).expect("a golden model")
}

fn load(threads: usize, collective: Box<dyn Collective>) -> Box<dyn Executor> {
    let folder = folder();
    let config = ModelConfig::load(&folder.join("config.json")).expect("a golden config");
    let (tensor, tp) = (collective.ranks(), collective.rank() as u32);
    let mut executor = troupe_gpu::load(LoadRequest {
        folder,
        config,
        coordinate: Coordinate { dp: 0, stage: 0, tp },
        parallel: ParallelSizes { tensor, pipeline: 1, experts: false },
        dtype: None,
        kv_dtype: None,
        quantize: None,
        pooling: None,
        separator: None,
        limits: StepLimits {
            max_num_batched_tokens: CONTEXT,
            max_num_seqs: SEQUENCES,
            max_model_len: CONTEXT,
            block_size: BLOCK_SIZE,
        },
        kv_bytes: 1 << 30,
        device: DeviceRequest::cpu(CpuOptions { threads, path: None }),
        collective,
        lora: None,
        progress: None,
    })
    .expect("a golden model");
    executor.allocate_kv(&[(SEQUENCES * CONTEXT / BLOCK_SIZE) as u32]).expect("memory");
    executor
}

/// `count` rows of each of `sequences` sequences, after `computed` positions.
fn batch(sequences: usize, computed: usize, count: usize) -> StepBatch {
    let mut batch = StepBatch { step: StepId(1), ..StepBatch::default() };
    for index in 0..sequences {
        let blocks = CONTEXT / BLOCK_SIZE;
        batch.sequences.push(BatchSequence {
            sequence: SequenceId(index as u64 + 1),
            row: batch.tokens.len() as u32,
            count: count as u32,
            computed: computed as u32,
            block_tables: vec![
                (0..blocks).map(|at| BlockId((index * blocks + at) as u32)).collect(),
            ]
            .into(),
            adapter: None,
            logits: LogitRows::Last,
        });
        batch.tokens.extend((0..count).map(|at| (at % 200 + 5) as u32));
        batch.positions.extend(computed as u32..(computed + count) as u32);
    }
    batch
}

fn step(executor: &mut dyn Executor, batch: &StepBatch) {
    let output = executor.forward(batch, StageInput::Tokens).expect("a step");
    let StageOutput::Logits(logits) = output else { panic!("one stage only") };
    let options = SamplingOptions { temperature: 0.0, ..SamplingOptions::default() };
    let requests: Vec<_> = batch
        .sequences
        .iter()
        .enumerate()
        .map(|(row, sequence)| SampleRequest {
            sequence: sequence.sequence,
            rows: (row, 1),
            sample: true,
            tokens: &batch.tokens,
            prompt_len: batch.tokens.len(),
            computed: sequence.computed as usize,
            options: &options,
            seed: 0,
            choice: 0,
            mask: None,
        })
        .collect();
    executor.sample(logits, &requests).expect("a sampling rank");
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for threads in [1, 2] {
        let mut executor = load(threads, Box::new(Alone));
        for sequences in [1, SEQUENCES] {
            let batch = batch(sequences, 100, 1);
            group.throughput(Throughput::Elements(sequences as u64));
            let id = BenchmarkId::new(format!("{threads} threads"), sequences);
            group.bench_function(id, |bencher| bencher.iter(|| step(executor.as_mut(), &batch)));
        }
    }
}

fn prefill(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("prefill");
    let batch = batch(1, 0, CONTEXT);
    group.throughput(Throughput::Elements(CONTEXT as u64));
    for threads in [1, 2] {
        let mut executor = load(threads, Box::new(Alone));
        let id = BenchmarkId::new("threads", threads);
        group.bench_function(id, |bencher| bencher.iter(|| step(executor.as_mut(), &batch)));
    }
}

/// Adds what two meetings per layer cost. The other rank runs steps for as long as there is one.
fn decode_on_two_ranks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode_on_two_ranks");
    group.throughput(Throughput::Elements(1));
    let batch = batch(1, 100, 1);
    let ranks = LocalCollective::group(2, Duration::from_secs(60));
    let mut ranks = ranks.into_iter().map(|rank| load(1, Box::new(rank)));
    let (first, second) = (ranks.next(), ranks.next());
    let (mut first, mut second) = first.zip(second).expect("two ranks");
    thread::scope(|scope| {
        let other = scope.spawn(|| while second.forward(&batch, StageInput::Tokens).is_ok() {});
        group.bench_function("1", |bencher| bencher.iter(|| step(first.as_mut(), &batch)));
        drop(first);
        other.join().expect("the other rank ends with an error");
    });
}
