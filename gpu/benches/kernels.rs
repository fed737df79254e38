//! The CPU device's kernels at the shapes of a 125M model: hidden 768, 12 heads of 64, ffn 2048 and
//! a vocabulary of 50,257. Products of one row print bytes per second (they read every weight
//! once), the rest prints floating-point operations per second as `elem/s`.
//!
//! `cargo bench -p troupe-gpu`, or with a filter behind `--`. Threads: all that the machine has.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use troupe_gpu::{
    backend::{Backend, KvStep, LinearCall, PreparedLinear},
    cpu::{CpuDevice, CpuOptions, KernelPath, buffer::CpuBuffer, packed::CpuLinear},
    dtype::Dtype,
    executor::{BatchSequence, StepBatch},
    memory::Limits,
    shape::{AttentionMask, AttentionSpec, HeadShape, KvAt, KvKind, KvSpec},
    tensor::{DenseMatrix, DensePart, LinearSource, WeightSource},
};
use troupe_runtime::id::BlockId;

criterion_group!(kernels, one_row, many_rows, attention);
criterion_main!(kernels);

const HEADS: HeadShape = HeadShape { query_heads: 12, kv_heads: 12, head_dim: 64 };

fn device(path: Option<KernelPath>) -> CpuDevice {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    CpuDevice::new(CpuOptions { threads, path }).expect("a device on this machine")
}

fn weight(device: &mut CpuDevice, shape: (usize, usize), dtype: Dtype) -> CpuLinear {
    let (inputs, outputs) = shape;
    let mut bytes = Vec::new();
    (0..inputs * outputs).for_each(|at| dtype.write(&mut bytes, (at % 17) as f32 / 17.0 - 0.5));
    let weight = DenseMatrix::new(bytes, dtype, (outputs, inputs)).expect("a whole matrix");
    let weights = WeightSource::Dense(vec![DensePart { weight, bias: None }]);
    let source = LinearSource { in_features: inputs, weights, storage: dtype, quantize: None };
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
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for (name, inputs, outputs) in SHAPES {
            let mut device = device(None);
            let weight = weight(&mut device, (inputs, outputs), dtype);
            let x = buffer(&mut device, 1, inputs);
            let mut out = buffer(&mut device, 1, outputs);
            group.throughput(Throughput::Bytes(weight.bytes()));
            group.bench_function(BenchmarkId::new(name, dtype), |bencher| {
                bencher.iter(|| device.linear(&x, &weight, LinearCall::STORE, &mut out));
            });
        }
    }
    group.finish();
}

fn many_rows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("many_rows");
    group.sample_size(20);
    let paths = [KernelPath::Amx, KernelPath::Avx512Bf16, KernelPath::Avx512, KernelPath::Avx2];
    let cases = [(Dtype::F32, 8), (Dtype::F32, 512), (Dtype::Bf16, 8), (Dtype::Bf16, 512)];
    for path in paths.into_iter().filter(|path| path.available()) {
        for (dtype, rows) in cases {
            let (name, inputs, outputs) = SHAPES[1];
            let mut device = device(Some(path));
            let weight = weight(&mut device, (inputs, outputs), dtype);
            let x = buffer(&mut device, rows, inputs);
            let mut out = buffer(&mut device, rows, outputs);
            group.throughput(Throughput::Elements(2 * (rows * inputs * outputs) as u64));
            let id = BenchmarkId::new(format!("{name}/{}/{dtype}", path.name()), rows);
            group.bench_function(id, |bencher| {
                bencher.iter(|| device.linear(&x, &weight, LinearCall::STORE, &mut out));
            });
        }
    }
    group.finish();
}

fn attention(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention");
    group.sample_size(20);
    // (sequences, positions before the step, rows of each)
    for (sequences, computed, count) in [(1, 1023usize, 1), (8, 1023, 1), (1, 0, 1024)] {
        let mut device = device(None);
        let rows = sequences * count;
        let blocks = (computed + count).div_ceil(16);
        let kind = KvKind::Heads { kv_heads: HEADS.kv_heads, head_dim: HEADS.head_dim };
        let (dtype, mask) = (Dtype::F32, AttentionMask::Causal);
        let spec = KvSpec { layers: 1, kind, block_size: 16, dtype, mask };
        let mut kv = [device.allocate_kv(&spec, (sequences * blocks) as u32).expect("memory")];
        let limits = Limits {
            max_batched_tokens: rows,
            max_sequences: sequences,
            max_model_len: computed + count,
            vocab_size: 1,
            kv_groups: 1,
        };
        let mut meta = device.step_meta(&limits).expect("memory");
        let batch = batch(sequences, computed, count);
        device.prepare_step(&batch, &kv, &mut meta).expect("a whole batch");
        let mut qkv = buffer(&mut device, rows, HEADS.fused_columns());
        let mut out = buffer(&mut device, rows, HEADS.query_columns());
        let step = KvStep { meta: &meta, at: KvAt { group: 0, layer: 0 } };
        let name = format!("{sequences}x{count}_after_{computed}");
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(BenchmarkId::new("write", &name), |bencher| {
            bencher.iter(|| device.rope_write_kv(step, &mut qkv, HEADS, None, &mut kv[0]));
        });
        let seen: usize = (computed + 1..=computed + count).sum();
        let operations = 4 * sequences * seen * HEADS.query_columns();
        group.throughput(Throughput::Elements(operations as u64));
        let spec = AttentionSpec { heads: HEADS, scale: 0.125, mask, soft_cap: None };
        group.bench_function(BenchmarkId::new("attend", &name), |bencher| {
            bencher.iter(|| device.attention(step, &qkv, &spec, &kv[0], &mut out));
        });
    }
    group.finish();
}

fn batch(sequences: usize, computed: usize, count: usize) -> StepBatch {
    let blocks = (computed + count).div_ceil(16);
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
