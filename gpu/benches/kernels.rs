//! The CPU device's kernels: products at the shapes of a 125M model (hidden 768, 12 heads of 64,
//! ffn 2048 and a vocabulary of 50,257), attention with 8 query heads for each key head. Products
//! and attention of one row print bytes per second (they read every weight or key once), the rest
//! prints operations per second as `elem/s`. First come the limits, probed in this run: what all
//! threads read, and what they multiply by each kind of instruction (`troupe bench device` has more
//! of them).
//!
//! `cargo bench -p troupe-gpu`, or with a filter behind `--`. Threads: all that the machine has.

#![expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

use std::time::Instant;

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use troupe_gpu::{
    backend::{Backend, KvStep, LinearCall, PreparedLinear},
    cpu::{
        CpuDevice, CpuOptions, KernelPath,
        buffer::CpuBuffer,
        packed::CpuLinear,
        probe::{self, Probe},
    },
    dtype::Dtype,
    executor::{BatchSequence, StepBatch},
    kv::KvDtype,
    memory::Limits,
    shape::{AttentionMask, AttentionSpec, HeadShape, KvAt, KvKind, KvSpec},
    tensor::{DenseMatrix, DensePart, LinearSource, Quantize, WeightSource},
};
use troupe_runtime::id::BlockId;

criterion_group!(kernels, limits, one_row, many_rows, attention);
criterion_main!(kernels);

/// The heads of a model of 1.1 billion parameters.
const HEADS: HeadShape = HeadShape { query_heads: 32, kv_heads: 4, head_dim: 64 };

fn device(path: Option<KernelPath>) -> CpuDevice {
    CpuDevice::new(CpuOptions { threads: threads(), path }).expect("a device on this machine")
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What the machine can do at most, the best of some tries.
#[expect(clippy::disallowed_methods, reason = "no test pauses this clock")]
fn limits(_: &mut Criterion) {
    let mut probe = Probe::new(threads(), 1 << 30).expect("memory");
    let mut best = |work: &mut dyn FnMut(&mut Probe) -> usize| {
        let tries = (0..5).map(|_| {
            let begun = Instant::now();
            let done = work(&mut probe);
            done as f64 / begun.elapsed().as_secs_f64() / 1e9
        });
        tries.fold(0.0, f64::max)
    };
    println!("limit: memory is read at {:.1} GB/s", best(&mut |probe| probe.read()));
    for (path, of) in probe::kinds() {
        let rate = best(&mut |probe| probe.multiply(path, of));
        println!("limit: {} multiplies {of:?} at {rate:.0} GOP/s", path.name());
    }
}

/// How weights are stored: a type, and integers that they are turned into.
type Format = (&'static str, Dtype, Option<Quantize>);

const FORMATS: [Format; 5] = [
    ("float32", Dtype::F32, None),
    ("bfloat16", Dtype::Bf16, None),
    ("float16", Dtype::F16, None),
    ("int8", Dtype::Bf16, Some(Quantize::Int8)),
    ("int4", Dtype::Bf16, Some(Quantize::Int4)),
];

fn weight(
    device: &mut CpuDevice,
    shape: (usize, usize),
    (_, dtype, quantize): Format,
) -> CpuLinear {
    let (inputs, outputs) = shape;
    let mut bytes = Vec::new();
    (0..inputs * outputs).for_each(|at| dtype.write(&mut bytes, (at % 17) as f32 / 17.0 - 0.5));
    let weight = DenseMatrix::new(bytes, dtype, (outputs, inputs)).expect("a whole matrix");
    let weights = WeightSource::Dense(vec![DensePart { weight, bias: None }]);
    let source = LinearSource { in_features: inputs, weights, storage: dtype, quantize };
    device.prepare_linear(&source).expect("dense weights")
}

fn buffer(device: &mut CpuDevice, rows: usize, columns: usize) -> CpuBuffer {
    let mut buffer = device.alloc(rows, columns, Dtype::F32).expect("memory");
    device.zero(&mut buffer, rows).expect("rows within the capacity");
    for (at, value) in buffer.values_mut().iter_mut().enumerate() {
        *value = (at % 13) as f32 / 13.0 - 0.5;
    }
    buffer
}

/// The products of a layer and the head.
const SHAPES: [(&str, usize, usize); 4] =
    [("qkv", 768, 2304), ("gate_up", 768, 4096), ("down", 2048, 768), ("head", 768, 50_257)];

fn one_row(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one_row");
    for format in FORMATS {
        for (name, inputs, outputs) in SHAPES {
            let mut device = device(None);
            let weight = weight(&mut device, (inputs, outputs), format);
            let x = buffer(&mut device, 1, inputs);
            let mut out = buffer(&mut device, 1, outputs);
            group.throughput(Throughput::Bytes(weight.bytes()));
            group.bench_function(BenchmarkId::new(name, format.0), |bencher| {
                bencher.iter(|| device.linear(&x, &weight, LinearCall::STORE, &mut out));
            });
        }
    }
    group.finish();
}

fn many_rows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("many_rows");
    group.sample_size(20);
    let paths = [
        KernelPath::Amx,
        KernelPath::Avx512Bf16,
        KernelPath::Avx512Vnni,
        KernelPath::Avx512,
        KernelPath::Avx2,
    ];
    let formats = FORMATS.into_iter().filter(|(name, ..)| *name != "float16");
    let cases: Vec<_> = formats.flat_map(|format| [(format, 8), (format, 512)]).collect();
    for path in paths.into_iter().filter(|path| path.available()) {
        for &(format, rows) in &cases {
            let (name, inputs, outputs) = SHAPES[1];
            let mut device = device(Some(path));
            let weight = weight(&mut device, (inputs, outputs), format);
            let x = buffer(&mut device, rows, inputs);
            let mut out = buffer(&mut device, rows, outputs);
            group.throughput(Throughput::Elements(2 * (rows * inputs * outputs) as u64));
            let id = BenchmarkId::new(format!("{name}/{}/{}", path.name(), format.0), rows);
            group.bench_function(id, |bencher| {
                bencher.iter(|| device.linear(&x, &weight, LinearCall::STORE, &mut out));
            });
        }
    }
    group.finish();
}

fn attention(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention");
    group.sample_size(10);
    // (sequences, positions before the step, rows of each)
    let decode = [(1, 255, 1), (1, 2047, 1), (1, 16_383, 1), (16, 255, 1), (16, 2047, 1)];
    let prefill = [(1, 0, 512), (1, 0, 4096)];
    for dtype in [KvDtype::F32, KvDtype::Bf16, KvDtype::Int8] {
        for (sequences, computed, count) in decode.into_iter().chain(prefill) {
            attention_of(&mut group, dtype, (sequences, computed, count));
        }
    }
    group.finish();
}

/// One layer's attention of grouped queries. Steps of one row print bytes of KV per second, others
/// operations.
fn attention_of(
    group: &mut BenchmarkGroup<'_, WallTime>,
    dtype: KvDtype,
    (sequences, computed, count): (usize, usize, usize),
) {
    let mut device = device(None);
    let rows = sequences * count;
    let blocks = (computed + count).div_ceil(16);
    let kind = KvKind::Heads { kv_heads: HEADS.kv_heads, head_dim: HEADS.head_dim };
    let mask = AttentionMask::Causal;
    let spec = KvSpec { layers: 1, kind, block_size: 16, dtype, mask };
    let mut kv = [device.allocate_kv(&spec, (sequences * blocks) as u32).expect("memory")];
    let limits = Limits {
        max_batched_tokens: rows.max(1024),
        max_sequences: sequences,
        max_model_len: computed + count,
        vocab_size: 1,
        kv_groups: 1,
    };
    let mut meta = device.step_meta(&limits).expect("memory");
    let at = KvAt { group: 0, layer: 0 };
    let mut qkv = buffer(&mut device, rows.max(sequences * 64), HEADS.fused_columns());
    // Keys and values that differ, as those of a real sequence do.
    for first in (0..computed).step_by(64) {
        let chunk = batch(sequences, (first, blocks), 64.min(computed - first));
        device.prepare_step(&chunk, &kv, &mut meta).expect("a whole batch");
        device.zero(&mut qkv, chunk.tokens.len()).expect("rows within the capacity");
        fill(&mut qkv, first);
        let step = KvStep { meta: &meta, at };
        device.rope_write_kv(step, &mut qkv, HEADS, None, &mut kv[0]).expect("a whole step");
    }
    let batch = batch(sequences, (computed, blocks), count);
    device.prepare_step(&batch, &kv, &mut meta).expect("a whole batch");
    device.zero(&mut qkv, rows).expect("rows within the capacity");
    fill(&mut qkv, computed);
    let mut out = buffer(&mut device, rows, HEADS.query_columns());
    let step = KvStep { meta: &meta, at };
    let name = format!("{dtype}/{sequences}x{count}_after_{computed}");
    if count > 1 {
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(BenchmarkId::new("write", &name), |bencher| {
            bencher.iter(|| device.rope_write_kv(step, &mut qkv, HEADS, None, &mut kv[0]));
        });
    } else {
        device.rope_write_kv(step, &mut qkv, HEADS, None, &mut kv[0]).expect("a whole step");
    }
    let seen: usize = (computed + 1..=computed + count).sum();
    group.throughput(match count {
        1 => Throughput::Bytes(sequences as u64 * blocks as u64 * device.kv_block_bytes(&spec)),
        _ => Throughput::Elements((4 * sequences * seen * HEADS.query_columns()) as u64),
    });
    let spec = AttentionSpec { heads: HEADS, scale: 0.125, mask, soft_cap: None };
    group.bench_function(BenchmarkId::new("attend", &name), |bencher| {
        bencher.iter(|| device.attention(step, &qkv, &spec, &kv[0], &mut out));
    });
}

fn fill(buffer: &mut CpuBuffer, seed: usize) {
    for (at, value) in buffer.values_mut().iter_mut().enumerate() {
        *value = ((at + seed * 31) * 7919 % 1009) as f32 / 1009.0 - 0.5;
    }
}

/// `count` rows of each sequence, which has `blocks` blocks of its own.
fn batch(sequences: usize, (computed, blocks): (usize, usize), count: usize) -> StepBatch {
    let sequence = |number: usize| BatchSequence {
        row: (number * count) as u32,
        count: count as u32,
        computed: computed as u32,
        block_tables: vec![(0..blocks).map(|at| BlockId((number * blocks + at) as u32)).collect()]
            .into(),
        ..BatchSequence::default()
    };
    let positions = (0..sequences).flat_map(|_| computed..computed + count);
    StepBatch {
        tokens: vec![0; sequences * count],
        positions: positions.map(|position| position as u32).collect(),
        sequences: (0..sequences).map(sequence).collect(),
        ..StepBatch::default()
    }
}
