//! Latent attention: its kernels one after the other, plain and by tensor cores, whole and split.

use troupe_gpu::{
    backend::{Backend, KvStep, LatentCall},
    cpu::packed::CpuLinear,
    dtype::Dtype,
    kv::KvDtype,
    shape::{AttentionMask, HeadShape, KvAt, LatentShape},
};

use crate::{
    experts::linear,
    shim::{self, Arg, Fields, Launch, Memory},
    steps::{Layer, Scene},
    values::{self, bytes, code, near, noise, same, typed_noise, words},
};

/// Positions of a span, by which rows are split.
const SPAN: usize = 256;
const SCALE: f32 = 0.3;

/// Queries and a layer full of rows, with what the CPU makes of them.
struct Stage {
    shape: LatentShape,
    scene: Scene,
    dtype: Dtype,
    queries: Vec<u8>,
    layer: Layer,
    expected: Vec<f32>,
}

impl Stage {
    fn new((heads, rank, rope_dim): (usize, usize, usize), dtype: Dtype) -> Self {
        // Absorbed queries and values are the identity: what is between them is all there is.
        let shape = LatentShape {
            heads,
            rank,
            nope_dim: rank,
            rope_dim,
            value_dim: rank,
            interleaved: true,
        };
        let width = shape.width();
        let scene = Scene {
            heads: HeadShape { query_heads: heads, kv_heads: 1, head_dim: width },
            latent: width,
            block_size: 8,
            dtype: Some(KvDtype::from(dtype)),
            mask: AttentionMask::Causal,
            sequences: vec![(280, 1), (0, 3), (60, 2)],
        };
        let (rows, columns) = (scene.rows(), heads * shape.query_dim());
        let (query, queries) = typed_noise(dtype, 131, (rows + 1) * columns);
        let mut layer = scene.empty();
        layer.data = bytes(dtype, &noise(132, scene.kv_rows() * width));

        let wide = Scene { dtype: Some(KvDtype::F32), ..scene.clone() };
        let mut judge = wide.judge(rope_dim / 2);
        judge.take(&wide, &scene.numbers(&layer));
        let identity: Vec<f32> =
            (0..rank * rank).map(|at| f32::from(u8::from(at / rank == at % rank))).collect();
        let each: Vec<CpuLinear> =
            (0..heads).map(|_| linear(&mut judge.device, &identity, (rank, rank))).collect();
        let call =
            LatentCall { shape, scale: SCALE, rope: &judge.rope, absorb: &each, expand: &each };
        let on_cpu = values::rows(&mut judge.device, &query[..rows * columns], columns);
        let mut out = values::room(&mut judge.device, rows, heads * rank);
        let step = KvStep { meta: &judge.meta, at: KvAt { group: 0, layer: 0 } };
        judge.device.latent_attention(step, &on_cpu, call, &judge.kv[0], &mut out).unwrap();
        let expected = out.values().to_vec();
        Self { shape, scene, dtype, queries, layer, expected }
    }

    /// What the kernels give: attention by that of a file, with its entries and shared memory.
    fn run(
        &self,
        (file, kernel, entries, shared): Kernel<'_>,
        tile: usize,
        split: bool,
    ) -> Vec<f32> {
        let Self { shape, scene, dtype, .. } = self;
        let (heads, rank, padded) = (shape.heads, shape.rank, scene.rows() + 1);
        let name = if *dtype == Dtype::F32 { "f32" } else { "bf16" };
        let (data, tiles) = (scene.data(), scene.tiles(tile));
        let spans = data.ends.iter().copied().max().unwrap_or(0) as usize / SPAN + 2;
        let mut memory = Memory::default();
        let (kv, _, _) = scene.put(&mut memory, &self.layer);
        let query = memory.put(&self.queries);
        let size = padded * heads * rank * dtype.size();
        let (absorbed, attended, merged) =
            (memory.room(size), memory.room(size), memory.room(size));
        let partial = memory.room(padded * heads * spans * (rank + 2) * 4);
        let args = [
            Arg::Wide(query),
            Arg::Word(shape.query_dim() as u32),
            Arg::Word(rank as u32),
            Arg::Wide(absorbed),
        ];
        let split_heads = format!("split_heads_{name}");
        memory.launch(how(&split_heads, [padded, heads, 1]), &args);

        let tiles_at = memory.put(&words(&tiles.concat()));
        let positions = data.put_positions(&mut memory);
        let ends = memory.put(&words(&data.ends));
        let tables = data.put_tables(&mut memory);
        let fields = [absorbed, query, attended, partial, tiles_at, positions, ends, tables]
            .into_iter()
            .fold(Fields::default(), Fields::wide)
            .of(&kv)
            .words(&[
                data.table_width as u32,
                shape.query_dim() as u32,
                heads as u32,
                rank as u32,
                0,
                u32::from(split),
                spans as u32,
            ])
            .float(SCALE)
            .float(0.0)
            .words(&[code(*dtype), padded as u32, 0]);
        let passes = (tile * heads).div_ceil(entries);
        let grid = [tiles.len(), passes, if split { spans } else { 1 }];
        let args = [Arg::Struct(fields.clone())];
        memory.launch(Launch { file, shared, ..how(kernel, grid) }, &args);
        if split {
            let sequences = data.put_sequences(&mut memory);
            let args = [Arg::Struct(fields), Arg::Wide(sequences)];
            let combine = how("attention_combine", [padded, heads, 1]);
            memory.launch(Launch { file: "attention", ..combine }, &args);
        }
        let args = [Arg::Wide(attended), Arg::Word(rank as u32), Arg::Wide(merged)];
        let merge_heads = format!("merge_heads_{name}");
        memory.launch(how(&merge_heads, [padded, heads, 1]), &args);
        let found = values::values(*dtype, memory.at(merged));
        found[..scene.rows() * heads * rank].to_vec()
    }
}

fn how(kernel: &str, grid: [usize; 3]) -> Launch<'_> {
    Launch { file: "latent", kernel, grid, threads: 128, shared: 0 }
}

/// File, name, entries of a block, shared bytes.
type Kernel<'a> = (&'a str, &'a str, usize, usize);

fn plain(width: usize) -> Kernel<'static> {
    ("latent", "latent_attention", 8, (8 * width + 32 * (width + 1) + 8 * 64) * 4)
}

#[test]
fn plain_latent_attention_is_that_of_the_cpu() {
    if shim::is_missing() {
        return;
    }
    for (shape, dtype) in [((3, 40, 6), Dtype::F32), ((9, 512, 64), Dtype::Bf16)] {
        let stage = Stage::new(shape, dtype);
        let kernel = plain(stage.shape.width());
        let whole = stage.run(kernel, 2, false);
        near("latent_attention", dtype, &whole, &stage.expected, 3e-6);
        same("split", &stage.run(kernel, 1, true), &whole);
    }
}

#[test]
fn latent_attention_by_tensor_cores_is_near_that_of_the_cpu() {
    if shim::is_missing() {
        return;
    }
    let stage = Stage::new((9, 512, 64), Dtype::Bf16);
    let kernel = ("latent_mma", "latent_attention_bf16", 16, 97_792);
    let whole = stage.run(kernel, 1, false);
    near("latent_attention_bf16", Dtype::Bf16, &whole, &stage.expected, 4e-3);
    same("tiles", &stage.run(kernel, 3, false), &whole);
    same("split", &stage.run(kernel, 2, true), &whole);
}
