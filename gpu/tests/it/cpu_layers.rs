//! Operations that are several in one, on the CPU device: a layer of experts, latent attention,
//! capped scores. Paths against the reference bit for bit, rows against themselves in another
//! batch, and both against what the definition says in double precision.

#![allow(clippy::unwrap_used, reason = "tests may stop at the first surprise")]

use troupe_gpu::{
    backend::{
        Backend, Epilogue, ExpertWeights, KvStep, LatentCall, LayerNorm, RopeSpec, StepRows,
    },
    cpu::{CpuDevice, KernelPath, packed::CpuLinear},
    dtype::Dtype,
    executor::{BatchSequence, StepBatch},
    kv::{KvDtype, KvPool},
    memory::Limits,
    shape::{AttentionMask, AttentionSpec, HeadShape, KvAt, KvKind, KvSpec, LatentShape},
    tensor::{DenseMatrix, DensePart, LinearSource, Quantize, WeightSource},
};
use troupe_runtime::{
    id::BlockId,
    model::config::{GroupScore, RouterScore, Routing},
};

use crate::cpu::{bits, buffer, bytes, device, devices, noise};

/// `[out, in]` numbers that follow from a seed.
fn numbers(seed: u64, (outputs, inputs): (usize, usize)) -> Vec<f32> {
    noise(seed, outputs * inputs)
}

fn linear(
    device: &mut CpuDevice,
    seed: u64,
    shape: (usize, usize),
    (storage, quantize): (Dtype, Option<Quantize>),
) -> CpuLinear {
    let weight = DenseMatrix::new(bytes(Dtype::F32, &numbers(seed, shape)), Dtype::F32, shape);
    let parts = vec![DensePart { weight: weight.unwrap(), bias: None }];
    let weights = WeightSource::Dense(parts);
    device
        .prepare_linear(&LinearSource { in_features: shape.1, weights, storage, quantize })
        .unwrap()
}

fn product(weights: &[f32], x: &[f64]) -> Vec<f64> {
    let row = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
    weights.chunks(x.len()).map(row).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

// === Experts ===

const HIDDEN: usize = 40;
const INNER: usize = 24;
const COUNT: usize = 6;

struct Experts {
    router: CpuLinear,
    gate_up: Vec<CpuLinear>,
    down: Vec<CpuLinear>,
}

impl Experts {
    fn new(device: &mut CpuDevice, format: (Dtype, Option<Quantize>)) -> Self {
        let mut of = |seed: u64, shape| {
            (0..COUNT as u64).map(|n| linear(device, seed + n, shape, format)).collect()
        };
        let (gate_up, down) = (of(100, (2 * INNER, HIDDEN)), of(200, (HIDDEN, INNER)));
        let router = linear(device, 1, (COUNT, HIDDEN), (Dtype::F32, None));
        Self { router, gate_up, down }
    }

    /// The experts of a range, as one that has only those.
    fn weights<'a>(
        &'a self,
        routing: &'a Routing,
        own: std::ops::Range<usize>,
    ) -> ExpertWeights<'a, CpuDevice> {
        ExpertWeights {
            router: &self.router,
            correction: None,
            routing,
            per_token: 2,
            first: own.start,
            gate_up: &self.gate_up[own.clone()],
            down: &self.down[own],
        }
    }

    fn run(&self, device: &mut CpuDevice, x: &[f32], own: std::ops::Range<usize>) -> Vec<f32> {
        let x = buffer(device, x, HIDDEN);
        let mut out = device.alloc(1200, HIDDEN, Dtype::F32).unwrap();
        device.moe(&x, &self.weights(&ROUTING, own), Epilogue::Store, &mut out).unwrap();
        out.values().to_vec()
    }
}

const ROUTING: Routing = Routing {
    score: RouterScore::Sigmoid,
    correction_bias: false,
    groups: 3,
    groups_kept: 2,
    group_score: GroupScore::BestTwo,
    normalize: true,
    scale: 1.5,
};

#[test]
fn experts_of_a_row_do_not_depend_on_path_or_batch() {
    // More rows than are computed at once; fewer weights than that are read for each of them.
    let x = noise(3, 1100 * HIDDEN);
    for format in [
        (Dtype::F32, None),
        (Dtype::F16, None),
        (Dtype::Bf16, None),
        (Dtype::Bf16, Some(Quantize::Int8)),
        (Dtype::Bf16, Some(Quantize::Int4)),
    ] {
        let mut reference = device(KernelPath::Reference, 1).unwrap();
        let few = Experts::new(&mut reference, format).run(&mut reference, &x[..20 * HIDDEN], ALL);
        for mut device in devices() {
            let what = format!("{} {format:?}", device.kernel_path());
            let experts = Experts::new(&mut device, format);
            let short = experts.run(&mut device, &x[..20 * HIDDEN], ALL);
            assert_eq!(bits(&short), bits(&few), "{what}");
            let alone = experts.run(&mut device, &x[7 * HIDDEN..8 * HIDDEN], ALL);
            assert_eq!(bits(&alone), bits(&few[7 * HIDDEN..8 * HIDDEN]), "{what}: alone");
            if device.kernel_path() != "cpu/reference" && device.kernel_path() != "cpu/portable" {
                let long = experts.run(&mut device, &x, ALL);
                assert_eq!(bits(&long[..20 * HIDDEN]), bits(&few), "{what}: among 1100");
                let last = &x[1099 * HIDDEN..];
                let alone = experts.run(&mut device, last, ALL);
                assert_eq!(bits(&long[1099 * HIDDEN..]), bits(&alone), "{what}: the last");
            }
        }
    }
}

const ALL: std::ops::Range<usize> = 0..COUNT;

#[test]
fn experts_are_what_their_definition_says() {
    let mut device = device(KernelPath::best(), 2).unwrap();
    let experts = Experts::new(&mut device, (Dtype::F32, None));
    let x = noise(9, 30 * HIDDEN);
    let out = experts.run(&mut device, &x, ALL);
    // Ranks that have some of them each add up to the same.
    let parts: Vec<_> =
        [0..1, 1..4, 4..6].into_iter().map(|own| experts.run(&mut device, &x, own)).collect();
    for (row, x) in x.chunks(HIDDEN).enumerate() {
        let x = wide(x);
        let logits = product(&numbers(1, (COUNT, HIDDEN)), &x);
        let scores: Vec<f64> = logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect();
        let worst = (0..3).min_by(|a, b| {
            let sum = |group: &usize| scores[2 * group] + scores[2 * group + 1];
            sum(a).total_cmp(&sum(b))
        });
        let mut open: Vec<usize> = (0..COUNT).filter(|expert| Some(expert / 2) != worst).collect();
        open.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        open.truncate(2);
        let sum: f64 = open.iter().map(|expert| scores[*expert]).sum();
        let mut truth = vec![0.0; HIDDEN];
        for expert in open {
            let gate_up = numbers(100 + expert as u64, (2 * INNER, HIDDEN));
            let gate_up = product(&gate_up, &x);
            let (gate, up) = gate_up.split_at(INNER);
            let silu = |x: f64| x / (1.0 + (-x).exp());
            let gated: Vec<f64> = gate.iter().zip(up).map(|(g, u)| silu(*g) * u).collect();
            let given = product(&numbers(200 + expert as u64, (HIDDEN, INNER)), &gated);
            let weight = 1.5 * scores[expert] / sum;
            truth.iter_mut().zip(given).for_each(|(out, given)| *out += weight * given);
        }
        for (at, truth) in truth.into_iter().enumerate() {
            let at = row * HIDDEN + at;
            assert!((f64::from(out[at]) - truth).abs() < 1e-4, "{row}: {} {truth}", out[at]);
            let sum: f32 = parts.iter().map(|part| part[at]).sum();
            assert!((sum - out[at]).abs() < 1e-5, "{row}: {sum} {}", out[at]);
        }
    }
}

#[test]
fn experts_that_do_not_fit_are_refused() {
    let mut device = device(KernelPath::best(), 1).unwrap();
    let experts = Experts::new(&mut device, (Dtype::F32, None));
    let x = buffer(&mut device, &[0.5; HIDDEN], HIDDEN);
    let mut out = device.alloc(1, HIDDEN, Dtype::F32).unwrap();
    let good = || experts.weights(&ROUTING, ALL);
    device.moe(&x, &good(), Epilogue::Store, &mut out).unwrap();
    let before = out.values().to_vec();
    device.moe(&x, &good(), Epilogue::AddTo, &mut out).unwrap();
    let twice: Vec<f32> = before.iter().map(|value| 2.0 * value).collect();
    assert!(out.values().iter().zip(twice).all(|(a, b)| (a - b).abs() < 1e-5));
    let corrected = Routing { correction_bias: true, ..ROUTING };
    let uneven = Routing { groups: 4, ..ROUTING };
    for weights in [
        ExpertWeights { per_token: 5, ..good() },
        ExpertWeights { per_token: 0, ..good() },
        ExpertWeights { first: 1, ..good() },
        ExpertWeights { down: &experts.down[1..], ..good() },
        ExpertWeights { down: &experts.gate_up, ..good() },
        ExpertWeights { routing: &corrected, ..good() },
        ExpertWeights { routing: &uneven, ..good() },
    ] {
        assert!(device.moe(&x, &weights, Epilogue::Store, &mut out).is_err());
    }
    let narrow = buffer(&mut device, &[0.5; 8], 8);
    assert!(device.moe(&narrow, &good(), Epilogue::Store, &mut out).is_err());
}

// === Latent attention ===

const SHAPE: LatentShape =
    LatentShape { heads: 5, rank: 40, nope_dim: 12, rope_dim: 6, value_dim: 10, interleaved: true };
const LENGTHS: [usize; 2] = [150, 70];
const BLOCK: usize = 8;

struct Latent {
    kv: Vec<KvPool>,
    rope: troupe_gpu::cpu::ops::CpuRope,
    absorb: Vec<CpuLinear>,
    expand: Vec<CpuLinear>,
}

fn limits() -> Limits {
    Limits {
        max_batched_tokens: 300,
        max_sequences: 4,
        max_model_len: 160,
        vocab_size: 1,
        kv_groups: 1,
    }
}

/// One step's batch over (sequence, computed, count), each with blocks of its own.
fn batch(parts: &[(usize, usize, usize)]) -> StepBatch {
    let mut batch = StepBatch::default();
    for &(sequence, computed, count) in parts {
        let table = (0..20).rev().map(|at| BlockId((at * 2 + sequence) as u32)).collect();
        batch.sequences.push(BatchSequence {
            row: batch.tokens.len() as u32,
            count: count as u32,
            computed: computed as u32,
            block_tables: vec![table].into(),
            ..BatchSequence::default()
        });
        batch.tokens.extend(vec![0; count]);
        batch.positions.extend(computed as u32..(computed + count) as u32);
    }
    batch
}

/// A position's query heads, then its row, before rotation.
fn latent_inputs(sequence: usize, position: usize) -> (Vec<f32>, Vec<f32>) {
    let seed = (sequence * 1000 + position) as u64 * 2;
    (noise(seed + 7, SHAPE.heads * SHAPE.query_dim()), noise(seed + 8, SHAPE.width()))
}

impl Latent {
    fn new(device: &mut CpuDevice, dtype: KvDtype, block_size: usize) -> Self {
        let kind = KvKind::Latent { width: SHAPE.width() };
        let mask = AttentionMask::Causal;
        let spec = KvSpec { layers: 2, kind, block_size, dtype, mask };
        let kv = vec![device.allocate_kv(&spec, 40).unwrap()];
        let spec = RopeSpec {
            inverse_frequencies: &[1.0, 0.1, 0.01],
            attention_factor: 1.0,
            positions: 160,
        };
        let rope = device.prepare_rope(&spec).unwrap();
        let mut of = |seed: u64, shape| {
            let format = (Dtype::F32, None);
            (0..SHAPE.heads as u64).map(|n| linear(device, seed + n, shape, format)).collect()
        };
        let absorb = of(300, (SHAPE.rank, SHAPE.nope_dim));
        let expand = of(400, (SHAPE.value_dim, SHAPE.rank));
        Self { kv, rope, absorb, expand }
    }

    fn step(&mut self, device: &mut CpuDevice, parts: &[(usize, usize, usize)]) -> Vec<Vec<u32>> {
        let (mut queries, mut rows) = (Vec::new(), Vec::new());
        for &(sequence, computed, count) in parts {
            for position in computed..computed + count {
                let (query, row) = latent_inputs(sequence, position);
                queries.extend(query);
                rows.extend(row);
            }
        }
        let mut meta = device.step_meta(&limits()).unwrap();
        device.prepare_step(&batch(parts), &self.kv, &mut meta).unwrap();
        let columns = SHAPE.heads * SHAPE.value_dim;
        let mut query = buffer(device, &queries, SHAPE.heads * SHAPE.query_dim());
        let mut rows = buffer(device, &rows, SHAPE.width());
        let mut out = device.alloc(meta.rows(), columns, Dtype::F32).unwrap();
        let step = KvStep { meta: &meta, at: KvAt { group: 0, layer: 1 } };
        let Self { kv, rope, absorb, expand } = self;
        let call = LatentCall { shape: SHAPE, scale: 0.3, rope, absorb, expand };
        device.write_latent(step, &mut query, &mut rows, call, &mut kv[0]).unwrap();
        device.latent_attention(step, &query, call, &kv[0], &mut out).unwrap();
        out.values().chunks(columns).map(bits).collect()
    }
}

#[test]
fn latent_rows_are_attended_to_alike_however_they_are_computed() {
    for (dtype, block_size) in [(KvDtype::F32, BLOCK), (KvDtype::Bf16, 16), (KvDtype::F16, 64)] {
        let mut truth = None;
        for mut device in devices() {
            let path = device.kernel_path();
            let both = [(0, 0, LENGTHS[0]), (1, 0, LENGTHS[1])];
            let together = Latent::new(&mut device, dtype, block_size).step(&mut device, &both);
            let truth = truth.get_or_insert_with(|| together.clone());
            assert!(&together == truth, "{path} {dtype}");
            let mut latent = Latent::new(&mut device, dtype, block_size);
            let mut alone = latent.step(&mut device, &[(1, 0, 33)]);
            alone.extend(latent.step(&mut device, &[(1, 33, 32)]));
            for position in 65..LENGTHS[1] {
                alone.extend(latent.step(&mut device, &[(1, position, 1)]));
            }
            assert!(alone == truth[LENGTHS[0]..], "{path} {dtype}: cut");
        }
    }
}

#[test]
fn latent_attention_is_softmax_over_expanded_keys_and_values() {
    let mut device = device(KernelPath::best(), 1).unwrap();
    let mut latent = Latent::new(&mut device, KvDtype::F32, BLOCK);
    let out = latent.step(&mut device, &[(0, 0, LENGTHS[0])]);
    let turned = |part: &[f32], position: usize| -> Vec<f64> {
        let turn = |(pair, x): (usize, &[f32])| {
            let (sin, cos) = (position as f64 * 0.1f64.powi(pair as i32)).sin_cos();
            let (a, b) = (f64::from(x[0]), f64::from(x[1]));
            [a * cos - b * sin, b * cos + a * sin]
        };
        part.chunks(2).enumerate().flat_map(turn).collect()
    };
    for (position, out) in out.iter().enumerate().filter(|(at, _)| [0, 1, 63, 64, 149].contains(at))
    {
        let (query, _) = latent_inputs(0, position);
        for (head, query) in query.chunks(SHAPE.query_dim()).enumerate() {
            // A key's part without position is the transpose of what absorbs it, times the row.
            let absorb = numbers(300 + head as u64, (SHAPE.rank, SHAPE.nope_dim));
            let (nope, rotated) = query.split_at(SHAPE.nope_dim);
            let (nope, rotated) = (product(&absorb, &wide(nope)), turned(rotated, position));
            let score = |at: usize| -> f64 {
                let (_, row) = latent_inputs(0, at);
                let (row, key) = row.split_at(SHAPE.rank);
                let first: f64 = nope.iter().zip(row).map(|(q, k)| q * f64::from(*k)).sum();
                let second: f64 = rotated.iter().zip(turned(key, at)).map(|(q, k)| q * k).sum();
                0.3 * (first + second)
            };
            let scores: Vec<f64> = (0..=position).map(score).collect();
            let peak = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - peak).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let mut mixed = vec![0.0; SHAPE.rank];
            for (at, weight) in weights.iter().enumerate() {
                let (_, row) = latent_inputs(0, at);
                mixed.iter_mut().zip(row).for_each(|(m, r)| *m += weight / sum * f64::from(r));
            }
            let expand = numbers(400 + head as u64, (SHAPE.value_dim, SHAPE.rank));
            let own = &out[head * SHAPE.value_dim..][..SHAPE.value_dim];
            for (found, truth) in own.iter().zip(product(&expand, &mixed)) {
                let found = f64::from(f32::from_bits(*found));
                assert!((found - truth).abs() < 1e-4, "{position} {head}: {found} {truth}");
            }
        }
    }
}

#[test]
fn latent_and_other_kv_are_not_taken_for_each_other() {
    let mut device = device(KernelPath::best(), 1).unwrap();
    let Latent { mut kv, rope, absorb, expand } = Latent::new(&mut device, KvDtype::F32, BLOCK);
    let mut meta = device.step_meta(&limits()).unwrap();
    device.prepare_step(&batch(&[(0, 0, 1)]), &kv, &mut meta).unwrap();
    let at = KvAt { group: 0, layer: 0 };
    let step = KvStep { meta: &meta, at };
    let call =
        LatentCall { shape: SHAPE, scale: 1.0, rope: &rope, absorb: &absorb, expand: &expand };
    let (query, row) = latent_inputs(0, 0);
    let mut query = buffer(&mut device, &query, SHAPE.heads * SHAPE.query_dim());
    let mut row = buffer(&mut device, &row, SHAPE.width());
    let mut out = device.alloc(1, SHAPE.heads * SHAPE.value_dim, Dtype::F32).unwrap();
    device.write_latent(step, &mut query, &mut row, call, &mut kv[0]).unwrap();
    let fewer = LatentCall { absorb: &absorb[1..], ..call };
    assert!(device.latent_attention(step, &query, fewer, &kv[0], &mut out).is_err());
    let wider = LatentCall { shape: LatentShape { rank: 41, ..SHAPE }, ..call };
    assert!(device.latent_attention(step, &query, wider, &kv[0], &mut out).is_err());
    let elsewhere = KvStep { at: KvAt { layer: 2, ..at }, ..step };
    assert!(device.latent_attention(elsewhere, &query, call, &kv[0], &mut out).is_err());
    let heads = HeadShape { query_heads: 1, kv_heads: 1, head_dim: SHAPE.width() };
    let mut qkv = buffer(&mut device, &vec![0.0; heads.fused_columns()], heads.fused_columns());
    assert!(device.rope_write_kv(step, &mut qkv, heads, None, &mut kv[0]).is_err());
    let spec = AttentionSpec { heads, scale: 1.0, mask: AttentionMask::Causal, soft_cap: None };
    let mut out = device.alloc(1, heads.query_columns(), Dtype::F32).unwrap();
    assert!(device.attention(step, &qkv, &spec, &kv[0], &mut out).is_err());
}

// === Caps and gates ===

#[test]
fn capped_scores_are_alike_on_all_paths_and_right() {
    let heads = HeadShape { query_heads: 2, kv_heads: 1, head_dim: 8 };
    let mask = AttentionMask::Window(70);
    let spec = AttentionSpec { heads, scale: 2.0, mask, soft_cap: Some(1.5) };
    let rows: Vec<f32> = noise(21, 100 * heads.fused_columns());
    let mut truth = None;
    for mut device in devices() {
        let kind = KvKind::Heads { kv_heads: 1, head_dim: 8 };
        let kv = KvSpec { layers: 1, kind, block_size: BLOCK, dtype: KvDtype::F32, mask };
        let mut kv = vec![device.allocate_kv(&kv, 40).unwrap()];
        let mut meta = device.step_meta(&limits()).unwrap();
        device.prepare_step(&batch(&[(0, 0, 100)]), &kv, &mut meta).unwrap();
        let mut qkv = buffer(&mut device, &rows, heads.fused_columns());
        let mut out = device.alloc(100, 16, Dtype::F32).unwrap();
        let step = KvStep { meta: &meta, at: KvAt { group: 0, layer: 0 } };
        device.rope_write_kv(step, &mut qkv, heads, None, &mut kv[0]).unwrap();
        device.attention(step, &qkv, &spec, &kv[0], &mut out).unwrap();
        let truth = truth.get_or_insert_with(|| out.values().to_vec());
        assert_eq!(bits(out.values()), bits(truth), "{}", device.kernel_path());
    }
    let part = |position: usize, first: usize| wide(&rows[position * 32 + first..][..8]);
    for position in [0, 50, 99] {
        let query = part(position, 8);
        let (from, to) = mask.visible(position as u32, 100);
        let score = |at: usize| -> f64 {
            let dot: f64 = query.iter().zip(part(at, 16)).map(|(q, k)| q * k).sum();
            1.5 * (2.0 * dot / 1.5).tanh()
        };
        let weights: Vec<f64> = (from as usize..to as usize).map(|at| score(at).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for dim in 0..8 {
            let values = (from as usize..).map(|at| part(at, 24)[dim]);
            let expected: f64 = weights.iter().zip(values).map(|(w, v)| w * v / sum).sum();
            let found = f64::from(truth.as_ref().unwrap()[position * 16 + 8 + dim]);
            assert!((found - expected).abs() < 1e-5, "{position}: {found} {expected}");
        }
    }
}

#[test]
fn gates_caps_and_scales_are_alike_on_all_paths() {
    let x: Vec<f32> = noise(5, 3 * 2 * 37).iter().map(|x| x * 9.0).collect();
    let mut truth = None;
    for mut device in devices() {
        let gate_up = buffer(&mut device, &x, 2 * 37);
        let mut out = device.alloc(3, 37, Dtype::F32).unwrap();
        device.gelu_mul(&gate_up, &mut out).unwrap();
        device.scale(&mut out, 3.0).unwrap();
        let gated = out.values().to_vec();
        device.soft_cap(&mut out, 4.0).unwrap();
        assert!(out.values().iter().all(|value| value.abs() <= 4.0));
        let found = (bits(&gated), bits(out.values()));
        assert_eq!(truth.get_or_insert_with(|| found.clone()), &found, "{}", device.kernel_path());
        for (row, gated) in gated.chunks(37).enumerate() {
            let (gate, up) = x[row * 74..][..74].split_at(37);
            for ((gate, up), gated) in gate.iter().zip(up).zip(gated) {
                let (gate, up) = (f64::from(*gate), f64::from(*up));
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044_715 * gate.powi(3));
                let expected = 3.0 * up * gate * (1.0 + inner.tanh()) / 2.0;
                assert!((f64::from(*gated) - expected).abs() < 1e-4, "{gated} {expected}");
            }
        }
        let mut narrow = device.alloc(3, 1, Dtype::F32).unwrap();
        assert!(device.gelu_mul(&gate_up, &mut narrow).is_err());
    }
}

// === What encoders have ===

#[test]
fn layer_norms_are_alike_on_all_paths_and_right() {
    const WIDTH: usize = 37;
    let x: Vec<f32> = noise(7, 70 * WIDTH).iter().map(|x| x * 3.0 + 5.0).collect();
    let (weight, bias) = (noise(8, WIDTH), noise(9, WIDTH));
    let mut truth = None;
    for mut device in devices() {
        let mut vector = |values: &[f32]| {
            let source = DenseMatrix::new(bytes(Dtype::F32, values), Dtype::F32, (1, WIDTH));
            device.prepare_vector(&source.unwrap()).unwrap()
        };
        let (weight, bias) = (vector(&weight), vector(&bias));
        let norm = LayerNorm { weight: &weight, bias: &bias, epsilon: 1e-3 };
        let rows = buffer(&mut device, &x, WIDTH);
        let mut out = device.alloc(70, WIDTH, Dtype::F32).unwrap();
        device.layer_norm(&rows, norm, &mut out).unwrap();
        let found = out.values().to_vec();
        assert_eq!(bits(truth.get_or_insert_with(|| found.clone())), bits(&found));
        let alone = buffer(&mut device, &x[3 * WIDTH..4 * WIDTH], WIDTH);
        device.layer_norm(&alone, norm, &mut out).unwrap();
        assert_eq!(bits(out.values()), bits(&found[3 * WIDTH..4 * WIDTH]), "a row by itself");
        let mut narrow = device.alloc(70, WIDTH - 1, Dtype::F32).unwrap();
        assert!(device.layer_norm(&rows, norm, &mut narrow).is_err());
    }
    for (row, found) in x.chunks(WIDTH).zip(truth.unwrap().chunks(WIDTH)) {
        let row = wide(row);
        let mean = row.iter().sum::<f64>() / WIDTH as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / WIDTH as f64;
        for (at, found) in found.iter().enumerate() {
            let scale = (variance + 1e-3).sqrt().recip();
            let expected = (row[at] - mean) * scale * f64::from(weight[at]) + f64::from(bias[at]);
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
        }
    }
}

#[test]
fn gelus_and_rows_of_tables_are_alike_on_all_paths() {
    let x: Vec<f32> = noise(11, 50 * 21).iter().map(|x| x * 14.0).collect();
    let table = numbers(12, (200, 21));
    let (mut gelus, mut rows) = (None, None);
    for mut device in devices() {
        let mut values = buffer(&mut device, &x, 21);
        device.gelu(&mut values).unwrap();
        let found = bits(values.values());
        assert_eq!(gelus.get_or_insert_with(|| found.clone()), &found, "{}", device.kernel_path());

        let own = linear(&mut device, 12, (200, 21), (Dtype::F32, None));
        let mut out = device.alloc(50, 21, Dtype::F32).unwrap();
        let wanted: Vec<u32> = (0..30).chain(180..200).collect();
        device.embed_rows(&wanted, &own, &mut out).unwrap();
        let found = out.values().to_vec();
        assert_eq!(rows.get_or_insert_with(|| found.clone()), &found);
        assert_eq!((&found[..30 * 21], &found[30 * 21..]), (&table[..30 * 21], &table[180 * 21..]));
        assert!(device.embed_rows(&[200], &own, &mut out).is_err(), "there is no such row");
    }
}
