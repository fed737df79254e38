//! The CPU device's operations without KV: every kernel path and thread count against the
//! reference, bit for bit, and each row against itself in another batch.

#![allow(clippy::unwrap_used, reason = "tests may stop at the first surprise")]

use proptest::prelude::*;
use troupe_gpu::{
    backend::{Activations, Backend, Epilogue, LinearCall, Norm, PreparedLinear, RopeSpec},
    cpu::{CpuDevice, CpuOptions, KernelPath, buffer::CpuBuffer, packed::CpuLinear},
    dtype::Dtype,
    executor::{BatchSequence, LogitRows, StepBatch},
    kv::{KvDtype, KvPool},
    memory::Limits,
    shape::{AttentionMask, KvKind, KvSpec},
    tensor::{DenseMatrix, DensePart, LinearSource, Quantize, WeightSource},
};

/// A device on a path, if this machine has it.
pub(crate) fn device(path: KernelPath, threads: usize) -> Option<CpuDevice> {
    let options = CpuOptions { threads, path: Some(path) };
    path.available().then(|| CpuDevice::new(options).unwrap())
}

/// Every path that there is, with one thread and with three.
pub(crate) fn devices() -> Vec<CpuDevice> {
    let all = KernelPath::ALL.into_iter().flat_map(|path| [device(path, 1), device(path, 3)]);
    all.flatten().collect()
}

/// Numbers between -1 and 1 that follow from a seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

pub(crate) fn bytes(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    values.iter().for_each(|value| dtype.write(&mut bytes, *value));
    bytes
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

pub(crate) fn buffer(device: &mut CpuDevice, rows: &[f32], columns: usize) -> CpuBuffer {
    let count = rows.len() / columns;
    let mut buffer = device.alloc(count, columns, Dtype::F32).unwrap();
    device.upload(&mut buffer, count, 0..columns, &bytes(Dtype::F32, rows)).unwrap();
    buffer
}

fn matrix(dtype: Dtype, seed: u64, (rows, columns): (usize, usize)) -> DenseMatrix<'static> {
    let values = noise(seed, rows * columns);
    DenseMatrix::new(bytes(dtype, &values), dtype, (rows, columns)).unwrap()
}

#[derive(Clone, Debug)]
struct Case {
    rows: usize,
    inputs: usize,
    /// Outputs of each stacked part.
    parts: Vec<usize>,
    bias: bool,
    add: bool,
    dtype: Dtype,
    quantize: Option<Quantize>,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let dtype = prop_oneof![Just(Dtype::Bf16), Just(Dtype::F16), Just(Dtype::F32)];
    let inputs = prop_oneof![1usize..70, Just(256), 250usize..270, 500usize..600];
    let parts = proptest::collection::vec(1usize..90, 1..4);
    let rows = prop_oneof![1usize..14, 90usize..110];
    let quantize = prop_oneof![Just(None), Just(Some(Quantize::Int8)), Just(Some(Quantize::Int4))];
    let form = (dtype, quantize, any::<u64>());
    (rows, inputs, parts, any::<bool>(), any::<bool>(), form).prop_map(
        |(rows, inputs, parts, bias, add, (dtype, quantize, seed))| Case {
            rows,
            inputs,
            parts,
            bias,
            add,
            dtype,
            quantize,
            seed,
        },
    )
}

impl Case {
    fn outputs(&self) -> usize {
        self.parts.iter().sum()
    }

    fn weight(&self, device: &mut CpuDevice) -> CpuLinear {
        let part = |(number, &rows): (usize, &usize)| DensePart {
            weight: matrix(self.dtype, self.seed + number as u64, (rows, self.inputs)),
            // Only some parts have one: the others count as zeros.
            bias: (self.bias && number % 2 == 0).then(|| matrix(self.dtype, self.seed, (1, rows))),
        };
        let parts = self.parts.iter().enumerate().map(part).collect();
        let weights = WeightSource::Dense(parts);
        let source = LinearSource {
            in_features: self.inputs,
            weights,
            storage: self.dtype,
            quantize: self.quantize,
        };
        device.prepare_linear(&source).unwrap()
    }

    fn run(&self, device: &mut CpuDevice, x: &[f32]) -> Vec<f32> {
        let weight = self.weight(device);
        assert_eq!(weight.out_features(), self.outputs());
        let rows = x.len() / self.inputs;
        let x = buffer(device, x, self.inputs);
        let mut out = buffer(device, &vec![0.25; rows * self.outputs()], self.outputs());
        let epilogue = if self.add { Epilogue::AddTo } else { Epilogue::Store };
        let call = LinearCall { epilogue, ..LinearCall::STORE };
        device.linear(&x, &weight, call, &mut out).unwrap();
        out.values().to_vec()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn products_are_the_references(case in cases()) {
        let x = noise(case.seed ^ 1, case.rows * case.inputs);
        let truth = case.run(&mut device(KernelPath::Reference, 1).unwrap(), &x);
        for mut device in devices() {
            let whole = case.run(&mut device, &x);
            prop_assert_eq!(bits(&whole), bits(&truth), "{}", device.kernel_path());
            // The last row alone, and the first two.
            let alone = case.run(&mut device, &x[(case.rows - 1) * case.inputs..]);
            prop_assert_eq!(bits(&alone), bits(&truth[(case.rows - 1) * case.outputs()..]));
            let two = case.rows.min(2);
            let first = case.run(&mut device, &x[..two * case.inputs]);
            prop_assert_eq!(bits(&first), bits(&truth[..two * case.outputs()]));
        }
    }

    #[test]
    fn rows_are_the_references(rows in 1usize..9, columns in 1usize..130, seed in any::<u64>()) {
        let x = noise(seed, rows * columns * 2).iter().map(|x| x * 30.0).collect::<Vec<_>>();
        let mut truth = None;
        for mut device in devices() {
            let results = row_operations(&mut device, &x, columns);
            let truth = truth.get_or_insert_with(|| results.clone());
            prop_assert_eq!(&results, truth, "{}", device.kernel_path());
        }
    }
}

/// Norms and the gate over `[rows, 2 * columns]`.
fn row_operations(device: &mut CpuDevice, x: &[f32], columns: usize) -> Vec<Vec<u32>> {
    let rows = x.len() / columns / 2;
    let wide = buffer(device, x, 2 * columns);
    let long = device.prepare_vector(&matrix(Dtype::Bf16, 5, (1, 2 * columns))).unwrap();
    let short = device.prepare_vector(&matrix(Dtype::F32, 6, (1, columns))).unwrap();
    let mut gated = device.alloc(rows, columns, Dtype::F32).unwrap();
    device.silu_mul(&wide, &mut gated).unwrap();
    let mut normal = device.alloc(rows, 2 * columns, Dtype::F32).unwrap();
    let norm = Norm { weight: &long, epsilon: 1e-6 };
    device.rms_norm(&wide, norm, &mut normal).unwrap();
    let mut residual = buffer(device, &noise(9, x.len()), 2 * columns);
    let mut again = device.alloc(rows, 2 * columns, Dtype::F32).unwrap();
    device.add_rms_norm(&wide, &mut residual, norm, &mut again).unwrap();
    let mut heads = buffer(device, x, 2 * columns);
    let norm = Norm { weight: &short, epsilon: 1e-5 };
    device.head_rms_norm(&mut heads, columns..2 * columns, norm).unwrap();
    [gated, normal, residual, again, heads].iter().map(|buffer| bits(buffer.values())).collect()
}

#[test]
fn results_are_near_the_truth() {
    let case = Case {
        rows: 3,
        inputs: 700,
        parts: vec![40, 30],
        bias: true,
        add: false,
        quantize: None,
        dtype: Dtype::F32,
        seed: 3,
    };
    let x = noise(8, case.rows * case.inputs);
    let mut device = CpuDevice::new(CpuOptions { threads: 2, path: None }).unwrap();
    let out = case.run(&mut device, &x);
    let weights: Vec<f32> = [noise(3, 40 * 700), noise(4, 30 * 700)].concat();
    let bias: Vec<f32> = [noise(3, 40), vec![0.0; 30]].concat();
    for (row, out) in out.chunks(70).enumerate() {
        for (n, out) in out.iter().enumerate() {
            let products =
                (0..700).map(|k| f64::from(x[row * 700 + k]) * f64::from(weights[n * 700 + k]));
            let truth = products.sum::<f64>() + f64::from(bias[n]);
            assert!((f64::from(*out) - truth).abs() < 1e-4, "{out} {truth}");
        }
    }
    let gate = buffer(&mut device, &[-100.0, -1.0, 0.0, 2.0, 1.0, 2.0, 3.0, 4.0], 8);
    let mut out = device.alloc(1, 4, Dtype::F32).unwrap();
    device.silu_mul(&gate, &mut out).unwrap();
    for (out, truth) in out.values().iter().zip([0.0, -0.537_882_8, 0.0, 7.046_377]) {
        assert!((out - truth).abs() < 1e-5, "{out} {truth}");
    }
    let x = buffer(&mut device, &[3.0, 4.0], 2);
    let weight = device
        .prepare_vector(
            &DenseMatrix::new(bytes(Dtype::F32, &[1.0, 2.0]), Dtype::F32, (1, 2)).unwrap(),
        )
        .unwrap();
    let mut out = device.alloc(1, 2, Dtype::F32).unwrap();
    device.rms_norm(&x, Norm { weight: &weight, epsilon: 0.0 }, &mut out).unwrap();
    let scale = 12.5f32.sqrt();
    for (out, truth) in out.values().iter().zip([3.0 / scale, 8.0 / scale]) {
        assert!((out - truth).abs() < 1e-6);
    }
}

/// A batch of one sequence without KV groups' tables beyond one block each.
pub(crate) fn one_sequence(tokens: &[u32], logits: LogitRows, pools: usize) -> StepBatch {
    let count = tokens.len() as u32;
    let sequence = BatchSequence {
        count,
        block_tables: vec![vec![Default::default(); tokens.len()]; pools].into(),
        adapter: None,
        logits,
        ..Default::default()
    };
    StepBatch {
        tokens: tokens.to_vec(),
        positions: (0..count).collect(),
        sequences: vec![sequence],
        ..Default::default()
    }
}

#[test]
fn embeddings_come_out_of_the_head() {
    let limits = Limits {
        max_batched_tokens: 8,
        max_sequences: 2,
        max_model_len: 16,
        vocab_size: 100,
        kv_groups: 1,
    };
    let kind = KvKind::Heads { kv_heads: 1, head_dim: 1 };
    let mask = AttentionMask::Causal;
    let spec = KvSpec { layers: 1, kind, block_size: 1, dtype: KvDtype::F32, mask };
    for mut device in devices() {
        let kv: Vec<KvPool> = vec![device.allocate_kv(&spec, 1).unwrap()];
        let mut meta = device.step_meta(&limits).unwrap();
        let batch = one_sequence(&[20, 95, 19, 94, 0], LogitRows::All, 1);
        device.prepare_step(&batch, &kv, &mut meta).unwrap();
        // This rank has tokens 20..95.
        let values = noise(7, 75 * 33);
        let weight = DenseMatrix::new(bytes(Dtype::F32, &values), Dtype::F32, (75, 33)).unwrap();
        let parts = vec![DensePart { weight, bias: None }];
        let weights = WeightSource::Dense(parts);
        let source = LinearSource { in_features: 33, weights, storage: Dtype::F32, quantize: None };
        let table = device.prepare_linear(&source).unwrap();
        let mut out = device.alloc(8, 33, Dtype::F32).unwrap();
        device.embed(&meta, &table, 20, &mut out).unwrap();
        let rows: Vec<&[f32]> = out.values().chunks(33).collect();
        assert_eq!(rows[0], &values[..33]);
        assert_eq!(rows[3], &values[74 * 33..]);
        assert!([1, 2, 4].iter().all(|&row| rows[row].iter().all(|&x| x == 0.0)));

        let batch = one_sequence(&[20, 100], LogitRows::Last, 1);
        device.prepare_step(&batch, &kv, &mut meta).unwrap();
        assert!(device.embed(&meta, &table, 20, &mut out).is_err());

        let x = buffer(&mut device, &[1.0, 2.0, 3.0, 4.0], 2);
        let mut gathered = device.alloc(2, 2, Dtype::F32).unwrap();
        device.gather_logit_rows(&meta, &x, &mut gathered).unwrap();
        assert_eq!(gathered.values(), [3.0, 4.0]);
    }
}

#[test]
fn values_move_as_they_are() {
    let mut device = device(KernelPath::Reference, 1).unwrap();
    let mut x = buffer(&mut device, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3);
    device.upload(&mut x, 2, 1..3, &bytes(Dtype::F32, &[7.0, 8.0, 9.0, 10.0])).unwrap();
    assert_eq!(x.values(), [1.0, 7.0, 8.0, 4.0, 9.0, 10.0]);
    let mut raw = Vec::new();
    device.download(&x, 0..2, &mut raw).unwrap();
    assert_eq!(raw, bytes(Dtype::F32, &[1.0, 7.0, 4.0, 9.0]));
    let mut out = device.alloc(2, 3, Dtype::F32).unwrap();
    device.copy(&x, &mut out).unwrap();
    device.add(&x, &mut out).unwrap();
    assert_eq!(out.values(), [2.0, 14.0, 16.0, 8.0, 18.0, 20.0]);
    device.zero(&mut out, 1).unwrap();
    assert_eq!((out.rows(), out.values()), (1, &[0.0; 3][..]));
    assert!(device.add(&x, &mut out).is_err(), "other rows");
    assert!(device.zero(&mut out, 3).is_err(), "beyond the capacity");
    assert!(device.upload(&mut x, 2, 1..4, &[0; 24]).is_err(), "no such column");
    assert!(device.upload(&mut x, 2, 0..3, &[0; 23]).is_err(), "cut short");
    assert!(device.download(&x, 2..2, &mut raw).is_err(), "no columns");
}

#[test]
fn column_slices_of_a_matrix_pack_like_copies() {
    let mut device = device(KernelPath::Reference, 1).unwrap();
    let values = noise(2, 6 * 10);
    let whole = DenseMatrix::new(bytes(Dtype::F32, &values), Dtype::F32, (6, 10)).unwrap();
    let slice = whole.slice_columns(7, 3).unwrap();
    let slice = slice.slice_rows(2, 4).unwrap();
    assert!(whole.slice_columns(8, 3).is_err() && whole.slice_rows(usize::MAX, 2).is_err());
    let weights = WeightSource::Dense(vec![DensePart { weight: slice, bias: None }]);
    let source = LinearSource { in_features: 3, weights, storage: Dtype::F32, quantize: None };
    let weight = device.prepare_linear(&source).unwrap();
    let x = buffer(&mut device, &[0.0, 1.0, 0.0], 3);
    let mut out = device.alloc(1, 4, Dtype::F32).unwrap();
    device.linear(&x, &weight, LinearCall::STORE, &mut out).unwrap();
    assert_eq!(out.values(), [2, 3, 4, 5].map(|row| values[row * 10 + 8]));
}

#[test]
fn impossible_tables_are_refused() {
    let mut device = device(KernelPath::Reference, 1).unwrap();
    let spec = RopeSpec { inverse_frequencies: &[1.0], attention_factor: 1.0, positions: 4 };
    assert!(device.prepare_rope(&spec).is_ok());
    assert!(device.alloc(usize::MAX, 2, Dtype::F32).is_err());
    assert!(device.alloc(2, 2, Dtype::Bf16).is_err());
}
