//! Attention on the CPU device: paths against the reference, a sequence against itself however its
//! steps are cut and whoever shares them, and plain softmax in double precision against both.

#![allow(clippy::unwrap_used, reason = "tests may stop at the first surprise")]

use std::sync::Arc;

use proptest::prelude::*;
use troupe_gpu::{
    backend::{Backend, KvSpan, KvStep, RopeSpec},
    cpu::{CpuDevice, CpuOptions, KernelPath, ops::CpuRope},
    dtype::Dtype,
    executor::{BatchSequence, StepBatch},
    kv::{KvDtype, KvPool},
    memory::Limits,
    shape::{AttentionMask, AttentionSpec, HeadShape, KvAt, KvKind, KvSpec},
};
use troupe_runtime::id::{BlockId, SequenceId};

use crate::cpu::{bits, buffer, devices, noise};

#[derive(Clone, Debug)]
struct Case {
    heads: HeadShape,
    block_size: usize,
    dtype: KvDtype,
    mask: AttentionMask,
    seed: u64,
    /// Length of each sequence.
    lengths: Vec<usize>,
}

fn cases() -> impl Strategy<Value = Case> {
    let dtype = prop_oneof![
        Just(KvDtype::Bf16),
        Just(KvDtype::F16),
        Just(KvDtype::F32),
        Just(KvDtype::Int8)
    ];
    let mask =
        prop_oneof![Just(AttentionMask::Causal), (1u32..100).prop_map(AttentionMask::Window),];
    let heads = (1usize..4, 1usize..6, prop_oneof![Just(8), Just(64), 2usize..40]).prop_map(
        |(kv_heads, group, dim)| HeadShape {
            query_heads: kv_heads * group,
            kv_heads,
            head_dim: dim / 2 * 2,
        },
    );
    let block_size = (0u32..8).prop_map(|power| 1usize << power);
    let lengths = proptest::collection::vec(1usize..150, 1..4);
    (heads, block_size, dtype, mask, any::<u64>(), lengths).prop_map(
        |(heads, block_size, dtype, mask, seed, lengths)| Case {
            heads,
            block_size,
            dtype,
            mask,
            seed,
            lengths,
        },
    )
}

/// Positions that there is room for.
const POSITIONS: usize = 1024;

/// A device with one layer pair of KV, fed step by step.
struct Bench<'a> {
    case: &'a Case,
    device: &'a mut CpuDevice,
    kv: Vec<KvPool>,
    rope: CpuRope,
}

impl<'a> Bench<'a> {
    fn new(case: &'a Case, device: &'a mut CpuDevice) -> Self {
        let HeadShape { kv_heads, head_dim, .. } = case.heads;
        let spec = KvSpec {
            layers: 2,
            kind: KvKind::Heads { kv_heads, head_dim },
            block_size: case.block_size,
            dtype: case.dtype,
            mask: case.mask,
        };
        let blocks: usize = case.lengths.iter().map(|len| len.div_ceil(case.block_size)).sum();
        let kv = vec![device.allocate_kv(&spec, blocks as u32).unwrap()];
        let frequencies: Vec<f32> =
            (0..head_dim / 2).map(|pair| 100f32.powf(-(pair as f32) / head_dim as f32)).collect();
        let rope = device
            .prepare_rope(&RopeSpec {
                inverse_frequencies: &frequencies,
                attention_factor: 1.25,
                positions: POSITIONS,
            })
            .unwrap();
        Self { case, device, kv, rope }
    }

    /// Blocks in an order that scatters a sequence over the pool; what has left every window of a
    /// row from `computed` on is named absurdly.
    fn table(&self, sequence: usize, computed: usize) -> Vec<BlockId> {
        let size = self.case.block_size;
        let before: usize = self.case.lengths[..sequence].iter().map(|n| n.div_ceil(size)).sum();
        let total: usize = self.case.lengths.iter().map(|n| n.div_ceil(size)).sum();
        let (seen, _) = self.case.mask.visible(computed as u32, 0);
        (0..self.case.lengths[sequence].div_ceil(size))
            .map(|block| match block < seen as usize / size {
                true => BlockId(u32::MAX),
                false => BlockId((total - 1 - before - block) as u32),
            })
            .collect()
    }

    /// One step over (sequence, computed, count); gives each row's result.
    fn step(&mut self, parts: &[(usize, usize, usize)]) -> Vec<Vec<u32>> {
        let heads = self.case.heads;
        let mut batch = StepBatch::default();
        let mut rows = Vec::new();
        for &(sequence, computed, count) in parts {
            batch.sequences.push(BatchSequence {
                sequence: SequenceId(sequence as u64),
                row: batch.tokens.len() as u32,
                count: count as u32,
                computed: computed as u32,
                block_tables: vec![self.table(sequence, computed)].into(),
                ..BatchSequence::default()
            });
            for position in computed..computed + count {
                batch.tokens.push(0);
                batch.positions.push(position as u32);
                rows.extend(self.case.row(sequence, position));
            }
        }
        let limits = Limits {
            max_batched_tokens: 1000,
            max_sequences: 10,
            max_model_len: POSITIONS,
            vocab_size: 1,
            kv_groups: 1,
        };
        let mut meta = self.device.step_meta(&limits).unwrap();
        self.device.prepare_step(&batch, &self.kv, &mut meta).unwrap();
        let mut qkv = buffer(self.device, &rows, heads.fused_columns());
        let columns = heads.query_columns();
        let mut out = self.device.alloc(1000, columns, Dtype::F32).unwrap();
        let step = KvStep { meta: &meta, at: KvAt { group: 0, layer: 1 } };
        let kv = &mut self.kv[0];
        self.device.rope_write_kv(step, &mut qkv, heads, Some(&self.rope), kv).unwrap();
        self.device.attention(step, &qkv, &self.case.spec(), kv, &mut out).unwrap();
        out.values().chunks(columns).map(bits).collect()
    }
}

impl Case {
    fn spec(&self) -> AttentionSpec {
        AttentionSpec { heads: self.heads, scale: 0.7, mask: self.mask, soft_cap: None }
    }

    /// A row of a sequence, before rotation.
    fn row(&self, sequence: usize, position: usize) -> Vec<f32> {
        let seed = self.seed.wrapping_add((sequence * 1000 + position) as u64);
        noise(seed, self.heads.fused_columns()).iter().map(|x| x * 3.0).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_row_is_the_same_however_it_is_computed(case in cases(), cut in 1usize..149) {
        let all: Vec<_> = case.lengths.iter().enumerate().map(|(n, &len)| (n, 0, len)).collect();
        let mut truth = None;
        for mut device in devices() {
            let path = device.kernel_path();
            // All sequences in one step.
            let together = Bench::new(&case, &mut device).step(&all);
            let truth = truth.get_or_insert_with(|| together.clone());
            prop_assert!(&together == truth, "{path}: another path or thread count");

            // The last sequence alone: a chunk, another chunk, then token by token.
            let last = case.lengths.len() - 1;
            let len = case.lengths[last];
            let mut bench = Bench::new(&case, &mut device);
            let mut alone = Vec::new();
            let mut computed = 0;
            while computed < len {
                let count = if alone.len() < 2 * cut { cut.min(len - computed) } else { 1 };
                alone.extend(bench.step(&[(last, computed, count)]));
                computed += count;
            }
            prop_assert!(alone == truth[truth.len() - len..], "{path}: cut at {cut}");
        }
    }
}

/// Spans of one sequence that threads share are merged as one thread merges them.
#[test]
fn a_long_sequence_is_the_same_whoever_takes_which_part() {
    for (dtype, mask) in [
        (KvDtype::F32, AttentionMask::Causal),
        (KvDtype::Int8, AttentionMask::Causal),
        (KvDtype::Bf16, AttentionMask::Window(600)),
    ] {
        let heads = HeadShape { query_heads: 2, kv_heads: 1, head_dim: 4 };
        let case = Case { heads, block_size: 16, dtype, mask, seed: 3, lengths: vec![1024, 40] };
        let mut truth = None;
        for mut device in devices() {
            let path = device.kernel_path();
            let mut bench = Bench::new(&case, &mut device);
            let mut rows = bench.step(&[(0, 0, 700)]);
            rows.extend(bench.step(&[(0, 700, 300)]));
            // One long sequence beside a short one, then alone.
            rows.extend(bench.step(&[(0, 1000, 1), (1, 0, 40)]));
            rows.extend(bench.step(&[(0, 1001, 1)]));
            rows.extend(bench.step(&[(0, 1002, 22)]));
            let truth = truth.get_or_insert_with(|| rows.clone());
            assert!(&rows == truth, "{path}: {dtype}, {mask:?}");
        }
    }
}

#[test]
fn attention_is_softmax() {
    let masks = [AttentionMask::Causal, AttentionMask::Window(70), AttentionMask::Bidirectional];
    // Keys and values of eight bits are within half a step of what was written.
    let exact = masks.map(|mask| (mask, KvDtype::F32, 2e-4));
    for (mask, dtype, off) in exact.into_iter().chain([(masks[0], KvDtype::Int8, 0.5)]) {
        let heads = HeadShape { query_heads: 4, kv_heads: 2, head_dim: 24 };
        let case = Case { heads, block_size: 16, dtype, mask, seed: 11, lengths: vec![140] };
        let mut device = CpuDevice::new(CpuOptions { threads: 2, path: None }).unwrap();
        let out = Bench::new(&case, &mut device).step(&[(0, 0, 140)]);
        let rotated = |position: usize, head: usize| -> Vec<f64> {
            let row = case.row(0, position);
            let x: Vec<f64> = row[head * 24..][..24].iter().map(|x| f64::from(*x)).collect();
            let angle = |pair: usize| position as f64 * 100f64.powf(-(pair as f64) / 24.0);
            let turn = |at: usize| {
                let (sin, cos) = angle(at % 12).sin_cos();
                let other = if at < 12 { -x[at + 12] } else { x[at - 12] };
                1.25 * (x[at] * cos + other * sin)
            };
            (0..24).map(turn).collect()
        };
        for position in [0, 1, 63, 64, 100, 139] {
            for head in 0..4 {
                let query = rotated(position, head);
                let (from, to) = mask.visible(position as u32, 140);
                let score = |at| -> f64 {
                    let key = rotated(at, 4 + head / 2);
                    0.7 * query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>()
                };
                let scores: Vec<f64> = (from as usize..to as usize).map(score).collect();
                let peak = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - peak).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for dim in 0..24 {
                    let column = (6 + head / 2) * 24 + dim;
                    let values = (from as usize..).map(|at| f64::from(case.row(0, at)[column]));
                    let truth = weights.iter().zip(values).map(|(w, v)| w * v / sum).sum::<f64>();
                    let got = f64::from(f32::from_bits(out[position][head * 24 + dim]));
                    assert!((got - truth).abs() < off, "{mask:?} {position}: {got} {truth}");
                }
            }
        }
    }
}

#[test]
fn broken_batches_are_refused() {
    let heads = HeadShape { query_heads: 2, kv_heads: 1, head_dim: 4 };
    let mask = AttentionMask::Causal;
    let case = Case { heads, block_size: 4, dtype: KvDtype::F32, mask, seed: 1, lengths: vec![10] };
    let mut device = CpuDevice::new(CpuOptions { threads: 1, path: None }).unwrap();
    let Bench { kv, .. } = Bench::new(&case, &mut device);
    let limits = Limits {
        max_batched_tokens: 10,
        max_sequences: 1,
        max_model_len: 12,
        vocab_size: 10,
        kv_groups: 1,
    };
    let mut meta = device.step_meta(&limits).unwrap();
    let good = StepBatch {
        tokens: vec![1, 2, 3],
        positions: vec![5, 6, 7],
        sequences: vec![BatchSequence {
            count: 3,
            computed: 5,
            block_tables: vec![vec![BlockId(2), BlockId(0)]].into(),
            ..BatchSequence::default()
        }],
        ..StepBatch::default()
    };
    device.prepare_step(&good, &kv, &mut meta).unwrap();
    type Breaking = fn(&mut StepBatch);
    fn tables(batch: &mut StepBatch) -> &mut Vec<Vec<BlockId>> {
        Arc::make_mut(&mut batch.sequences[0].block_tables)
    }
    let broken: [(&str, Breaking); 9] = [
        ("an absurd block", |b| tables(b)[0][0] = BlockId(u32::MAX)),
        ("one block too far", |b| tables(b)[0][1] = BlockId(3)),
        ("a short table", |b| tables(b)[0].truncate(1)),
        ("no table", |b| tables(b).clear()),
        ("a gap", |b| b.positions[1] = 7),
        ("no rows", |b| b.sequences[0].count = 0),
        ("too many rows", |b| b.sequences[0].count = 4),
        ("rows that are nobody's", |b| b.tokens.push(0)),
        ("rows elsewhere", |b| b.sequences[0].row = 1),
    ];
    for (what, breaking) in broken {
        let mut batch = good.clone();
        breaking(&mut batch);
        assert!(device.prepare_step(&batch, &kv, &mut meta).is_err(), "{what}");
    }
    let mut long = good.clone();
    long.positions = vec![10, 11, 12];
    long.sequences[0].computed = 10;
    long.sequences[0].block_tables = vec![vec![BlockId(0); 4]].into();
    assert!(device.prepare_step(&long, &kv, &mut meta).is_err(), "longer than the model");

    // A pool that is smaller than the one that ids were checked against is never touched.
    device.prepare_step(&good, &kv, &mut meta).unwrap();
    let mut small = KvPool::new(kv[0].spec(), 1).unwrap();
    let mut qkv = buffer(&mut device, &[0.0; 3 * 16], 16);
    let at = KvAt { group: 0, layer: 0 };
    let step = KvStep { meta: &meta, at };
    assert!(device.rope_write_kv(step, &mut qkv, heads, None, &mut small).is_err());
    let mut out = device.alloc(3, 8, Dtype::F32).unwrap();
    let spec = case.spec();
    assert!(device.attention(step, &qkv, &spec, &small, &mut out).is_err());
    let wide = AttentionSpec { mask: AttentionMask::Bidirectional, ..spec };
    assert!(device.attention(step, &qkv, &wide, &kv[0], &mut out).is_err());
    let step = KvStep { at: KvAt { layer: 2, ..at }, ..step };
    assert!(device.attention(step, &qkv, &spec, &kv[0], &mut out).is_err());
}

#[test]
fn a_sequence_goes_on_where_its_kv_went() {
    let heads = HeadShape { query_heads: 4, kv_heads: 2, head_dim: 8 };
    let mask = AttentionMask::Causal;
    let case =
        Case { heads, block_size: 8, dtype: KvDtype::Bf16, mask, seed: 5, lengths: vec![41] };
    let options = |path| CpuOptions { threads: 1, path };
    let mut here = CpuDevice::new(options(None)).unwrap();
    let mut there = CpuDevice::new(options(Some(KernelPath::Reference))).unwrap();
    let mut source = Bench::new(&case, &mut here);
    source.step(&[(0, 0, 40)]);
    let table = source.table(0, 0);
    let span = KvSpan { layer: 1, heads: 0..2, blocks: &table };
    let mut bytes = Vec::new();
    source.device.export_kv(&source.kv[0], &span, &mut bytes).unwrap();
    let mut target = Bench::new(&case, &mut there);
    target.device.import_kv(&mut target.kv[0], &span, &bytes).unwrap();
    assert_eq!(source.step(&[(0, 40, 1)]), target.step(&[(0, 40, 1)]));
}
