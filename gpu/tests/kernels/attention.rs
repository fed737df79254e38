//! Attention: plain and by tensor cores, whole and split, prompts and single tokens.

use troupe_gpu::{
    backend::{Backend, KvStep},
    dtype::Dtype,
    kv::KvDtype,
    shape::{AttentionMask, AttentionSpec, HeadShape, KvAt},
};

use crate::{
    shim::{self, Arg, Fields, Launch, Memory},
    steps::{Layer, Scene},
    values::{self, code, near, noise, same, typed_noise, words},
};

/// Positions of a span, by which rows are split.
const SPAN: usize = 256;

/// A kernel and how it is launched.
#[derive(Clone, Debug)]
struct Kernel {
    file: &'static str,
    name: String,
    threads: u32,
    /// Entries of a block.
    entries: usize,
    shared: usize,
}

fn plain(head_dim: usize) -> Kernel {
    let shared = (8 * head_dim + 64 * (head_dim + 1) + 8 * 64) * 4;
    Kernel { file: "attention", name: "attention_any".to_owned(), threads: 128, entries: 8, shared }
}

/// By tensor cores: `use` is prefill or decode.
fn tensor(what: &str, dtype: Dtype, kv: Option<KvDtype>, head_dim: usize) -> Kernel {
    let dim = [64, 128, 256].into_iter().find(|dim| head_dim <= *dim).unwrap();
    let (threads, entries) = if what == "prefill" { (128, 64) } else { (32, 16) };
    let copies = if dim == 256 { 1 } else { 2 };
    let totals = if dim == 256 { 16384 } else { 0 };
    let shared = (entries + copies * 128) * (dim + 8) * 2 + copies * 512 + totals;
    let name = if dtype == Dtype::Bf16 { "bf16" } else { "f16" };
    let kv = match kv {
        None => "fp8",
        Some(KvDtype::Int8) => "int8",
        Some(_) => "same",
    };
    let name = format!("attention_{what}_{name}_{kv}_{dim}");
    Kernel { file: "attention_mma", name, threads, entries, shared }
}

/// A scene with its queries and a layer full of KV.
struct Stage {
    scene: Scene,
    spec: AttentionSpec,
    dtype: Dtype,
    queries: Vec<u8>,
    layer: Layer,
    expected: Vec<f32>,
}

impl Stage {
    fn new(scene: Scene, dtype: Dtype, soft_cap: Option<f32>) -> Self {
        let (rows, columns) = (scene.rows(), scene.heads.fused_columns());
        let (x, queries) = typed_noise(dtype, 41, (rows + 1) * columns);
        let spec = AttentionSpec { heads: scene.heads, scale: 0.6, mask: scene.mask, soft_cap };
        let layer = layer(&scene);
        // The CPU attends over the same numbers, in f32 whatever they lie in.
        let wide = Scene { dtype: Some(KvDtype::F32), ..scene.clone() };
        let mut judge = wide.judge(1);
        judge.take(&wide, &scene.numbers(&layer));
        let qkv = values::rows(&mut judge.device, &x[..rows * columns], columns);
        let mut out = values::room(&mut judge.device, rows, scene.heads.query_columns());
        let step = KvStep { meta: &judge.meta, at: KvAt { group: 0, layer: 0 } };
        judge.device.attention(step, &qkv, &spec, &judge.kv[0], &mut out).unwrap();
        let expected = out.values().to_vec();
        Self { scene, spec, dtype, queries, layer, expected }
    }

    /// What the kernel gives, in tiles of at most `tile` rows.
    fn run(&self, kernel: &Kernel, tile: usize, split: bool) -> Vec<f32> {
        let Self { scene, spec, .. } = self;
        let HeadShape { query_heads, kv_heads, head_dim } = spec.heads;
        let (rows, columns) = (scene.rows(), spec.heads.query_columns());
        let data = scene.data();
        let tiles = scene.tiles(tile);
        let longest = data.ends.iter().copied().max().unwrap_or(0) as usize;
        let spans = longest.div_ceil(SPAN) + 1;
        let mut memory = Memory::default();
        let (kv, _, _) = scene.put(&mut memory, &self.layer);
        let query = memory.put(&self.queries);
        let out = memory.room((rows + 1) * columns * self.dtype.size());
        let partial = memory.room((rows + 1) * query_heads * spans * (head_dim + 2) * 4);
        let tiles_at = memory.put(&words(&tiles.concat()));
        let positions = data.put_positions(&mut memory);
        let ends = memory.put(&words(&data.ends));
        let tables = data.put_tables(&mut memory);
        let window = match spec.mask {
            AttentionMask::Bidirectional => u32::MAX,
            AttentionMask::Causal => 0,
            AttentionMask::Window(width) => width,
        };
        let fields = [query, 0, out, partial, tiles_at, positions, ends, tables]
            .into_iter()
            .fold(Fields::default(), Fields::wide)
            .of(&kv)
            .words(&[
                data.table_width as u32,
                spec.heads.fused_columns() as u32,
                query_heads as u32,
                head_dim as u32,
                window,
                u32::from(split),
                spans as u32,
            ])
            .float(spec.scale)
            .float(spec.soft_cap.unwrap_or(0.0))
            .words(&[code(self.dtype), rows as u32 + 1, 0]);
        let passes = (tile * query_heads / kv_heads).div_ceil(kernel.entries);
        let launch = Launch {
            file: kernel.file,
            kernel: &kernel.name,
            grid: [tiles.len(), kv_heads * passes, if split { spans } else { 1 }],
            threads: kernel.threads,
            shared: kernel.shared,
        };
        memory.launch(launch, &[Arg::Struct(fields.clone())]);
        if split {
            let sequences = data.put_sequences(&mut memory);
            let combine = Launch {
                file: "attention",
                kernel: "attention_combine",
                grid: [rows + 1, query_heads, 1],
                threads: 128,
                shared: 0,
            };
            memory.launch(combine, &[Arg::Struct(fields), Arg::Wide(sequences)]);
        }
        values::values(self.dtype, memory.at(out))[..rows * columns].to_vec()
    }
}

/// A layer full of numbers of the scene's type.
fn layer(scene: &Scene) -> Layer {
    let empty = scene.empty();
    let count = scene.kv_rows() * scene.width();
    let scales = noise(52, empty.scales.len()).iter().map(|x| (x.abs() + 0.1) / 100.0).collect();
    let data = match scene.dtype {
        Some(KvDtype::Bf16) => typed_noise(Dtype::Bf16, 51, count).1,
        Some(KvDtype::F16) => typed_noise(Dtype::F16, 51, count).1,
        Some(KvDtype::F32) => typed_noise(Dtype::F32, 51, count).1,
        Some(KvDtype::Int8) => {
            noise(51, count).iter().map(|x| ((x * 127.0) as i8).cast_unsigned()).collect()
        }
        // Up to 120 or so, either sign.
        None => noise(51, count)
            .iter()
            .map(|x| (x.abs() * 104.0) as u8 | if *x < 0.0 { 0x80 } else { 0 })
            .collect(),
    };
    Layer { data, scales }
}

fn scene(heads: (usize, usize, usize), dtype: Option<KvDtype>, mask: AttentionMask) -> Scene {
    let (query_heads, kv_heads, head_dim) = heads;
    Scene {
        heads: HeadShape { query_heads, kv_heads, head_dim },
        latent: 0,
        block_size: 16,
        dtype,
        mask,
        sequences: vec![(0, 9), (300, 1), (70, 13), (511, 2)],
    }
}

#[test]
fn plain_attention_is_that_of_the_cpu_in_all_types() {
    if shim::is_missing() {
        return;
    }
    for (heads, dtype, kv, mask, cap) in [
        ((4, 2, 10), Dtype::F32, Some(KvDtype::F32), AttentionMask::Causal, None),
        ((3, 3, 64), Dtype::F32, Some(KvDtype::Bf16), AttentionMask::Window(70), None),
        ((10, 1, 6), Dtype::F32, Some(KvDtype::Int8), AttentionMask::Causal, Some(2.0)),
        ((2, 1, 130), Dtype::Bf16, Some(KvDtype::F16), AttentionMask::Bidirectional, None),
        ((2, 2, 256), Dtype::F16, None, AttentionMask::Causal, None),
    ] {
        let stage = Stage::new(scene(heads, kv, mask), dtype, cap);
        let kernel = plain(heads.2);
        let whole = stage.run(&kernel, 3, false);
        near(&format!("{heads:?} {kv:?}"), dtype, &whole, &stage.expected, 3e-6);
        // However rows are shared out, and split or not, the bits are the same.
        same("one row at a time", &stage.run(&kernel, 1, false), &whole);
        same("split", &stage.run(&kernel, 1, true), &whole);
        same("tiles that are split", &stage.run(&kernel, 5, true), &whole);
    }
}

#[test]
fn attention_by_tensor_cores_is_near_that_of_the_cpu() {
    if shim::is_missing() {
        return;
    }
    let int8 = Some(KvDtype::Int8);
    for (heads, dtype, kv, mask, cap) in [
        ((4, 2, 64), Dtype::Bf16, Some(KvDtype::Bf16), AttentionMask::Causal, None),
        ((5, 1, 128), Dtype::F16, Some(KvDtype::F16), AttentionMask::Window(70), None),
        ((2, 2, 80), Dtype::Bf16, int8, AttentionMask::Causal, Some(2.0)),
        ((20, 1, 16), Dtype::Bf16, None, AttentionMask::Bidirectional, None),
        ((2, 1, 256), Dtype::Bf16, Some(KvDtype::Bf16), AttentionMask::Causal, None),
        ((1, 1, 200), Dtype::Bf16, None, AttentionMask::Window(300), None),
    ] {
        let stage = Stage::new(scene(heads, kv, mask), dtype, cap);
        let decode = tensor("decode", dtype, kv, heads.2);
        let alone = stage.run(&decode, 1, false);
        // Weights are rounded to the type before they multiply values.
        let allowed = if dtype == Dtype::Bf16 { 4e-3 } else { 5e-4 };
        near(&decode.name, dtype, &alone, &stage.expected, allowed);
        same("split", &stage.run(&decode, 1, true), &alone);
        if heads.2 <= 128 {
            let prefill = tensor("prefill", dtype, kv, heads.2);
            same(&prefill.name, &stage.run(&prefill, 7, false), &alone);
            same("a split prompt", &stage.run(&prefill, 20, true), &alone);
        }
    }
}
