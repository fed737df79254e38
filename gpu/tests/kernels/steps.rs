//! A step with its KV, twice: on the CPU device, which is the judge, and as kernels want it.

use std::sync::Arc;

use troupe_gpu::{
    backend::{Backend, KvSpan, RopeSpec},
    cpu::{CpuDevice, ops::CpuRope},
    executor::{BatchSequence, StepBatch},
    kv::{KvDtype, KvPool},
    memory::Limits,
    shape::{AttentionMask, HeadShape, KvKind, KvSpec},
    step::HostStep,
};
use troupe_runtime::id::{BlockId, SequenceId};

use crate::{
    shim::{Fields, Memory},
    values::{self, reference, words},
};

/// What a step is of.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) heads: HeadShape,
    /// Elements of a latent row; 0 for heads.
    pub(crate) latent: usize,
    pub(crate) block_size: usize,
    /// How keys and values lie; `None` is fp8, which the CPU has not: there they are f32.
    pub(crate) dtype: Option<KvDtype>,
    pub(crate) mask: AttentionMask,
    /// Of each sequence the positions that have KV, and the rows of the step.
    pub(crate) sequences: Vec<(usize, usize)>,
}

/// The CPU's side of a scene.
pub(crate) struct Judge {
    pub(crate) device: CpuDevice,
    pub(crate) kv: Vec<KvPool>,
    pub(crate) rope: CpuRope,
    pub(crate) meta: HostStep,
}

/// The step's numbers as kernels read them, padded by one row that is of no sequence.
pub(crate) struct StepData {
    pub(crate) positions: Vec<u32>,
    pub(crate) sequence_of: Vec<u32>,
    pub(crate) tables: Vec<u32>,
    pub(crate) table_width: usize,
    pub(crate) ends: Vec<u32>,
}

/// One layer of KV as it lies on a device.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layer {
    pub(crate) data: Vec<u8>,
    pub(crate) scales: Vec<f32>,
}

/// Positions that there is room for.
pub(crate) const POSITIONS: usize = 1024;

/// Blocks beyond those that sequences have.
const SPARE: usize = 2;

impl Scene {
    pub(crate) fn rows(&self) -> usize {
        self.sequences.iter().map(|(_, count)| count).sum()
    }

    /// Blocks of the pool.
    pub(crate) fn blocks(&self) -> usize {
        let of = |(computed, count): &(usize, usize)| (computed + count).div_ceil(self.block_size);
        self.sequences.iter().map(of).sum::<usize>() + SPARE
    }

    /// A sequence's blocks, scattered; what has left every window is named absurdly.
    fn table(&self, sequence: usize) -> Vec<u32> {
        let size =
            |(computed, count): &(usize, usize)| (computed + count).div_ceil(self.block_size);
        let before: usize = self.sequences[..sequence].iter().map(size).sum();
        let (computed, count) = self.sequences[sequence];
        let (seen, _) = self.mask.visible(computed as u32, (computed + count) as u32);
        let last = self.blocks() - SPARE - 1;
        (0..size(&self.sequences[sequence]))
            .map(|block| match block < seen as usize / self.block_size {
                true => u32::MAX,
                false => (last - before - block) as u32,
            })
            .collect()
    }

    pub(crate) fn spec(&self) -> KvSpec {
        let HeadShape { kv_heads, head_dim, .. } = self.heads;
        KvSpec {
            layers: 1,
            kind: match self.latent {
                0 => KvKind::Heads { kv_heads, head_dim },
                width => KvKind::Latent { width },
            },
            block_size: self.block_size,
            dtype: self.dtype.unwrap_or(KvDtype::F32),
            mask: self.mask,
        }
    }

    /// The CPU's side, nothing in its KV yet, with tables of `pairs` rotated pairs.
    pub(crate) fn judge(&self, pairs: usize) -> Judge {
        let mut device = reference();
        let kv = vec![device.allocate_kv(&self.spec(), self.blocks() as u32).unwrap()];
        let frequencies: Vec<f32> =
            (0..pairs).map(|pair| 100f32.powf(-(pair as f32) / pairs as f32)).collect();
        let rope = RopeSpec {
            inverse_frequencies: &frequencies,
            attention_factor: 1.25,
            positions: POSITIONS,
        };
        let rope = device.prepare_rope(&rope).unwrap();
        let mut batch = StepBatch::default();
        for (number, &(computed, count)) in self.sequences.iter().enumerate() {
            let table = self.table(number).into_iter().map(BlockId).collect();
            batch.sequences.push(BatchSequence {
                sequence: SequenceId(number as u64),
                row: batch.tokens.len() as u32,
                count: count as u32,
                computed: computed as u32,
                block_tables: Arc::new(vec![table]),
                ..BatchSequence::default()
            });
            batch.tokens.extend(vec![0; count]);
            batch.positions.extend((computed..computed + count).map(|position| position as u32));
        }
        let limits = Limits {
            max_batched_tokens: 1000,
            max_sequences: 10,
            max_model_len: POSITIONS,
            vocab_size: 1,
            kv_groups: 1,
        };
        let mut meta = device.step_meta(&limits).unwrap();
        device.prepare_step(&batch, &kv, &mut meta).unwrap();
        Judge { device, kv, rope, meta }
    }

    pub(crate) fn data(&self) -> StepData {
        let tables: Vec<Vec<u32>> = (0..self.sequences.len()).map(|n| self.table(n)).collect();
        let table_width = tables.iter().map(Vec::len).max().unwrap_or(1) + 1;
        let mut data = StepData {
            positions: Vec::new(),
            sequence_of: Vec::new(),
            tables: Vec::new(),
            table_width,
            ends: Vec::new(),
        };
        for (number, (table, &(computed, count))) in tables.iter().zip(&self.sequences).enumerate()
        {
            data.positions.extend((computed..computed + count).map(|position| position as u32));
            data.sequence_of.extend(vec![number as u32; count]);
            data.tables.extend(table);
            data.tables.resize(data.tables.len().next_multiple_of(table_width), u32::MAX);
            data.ends.push((computed + count) as u32);
        }
        data.positions.push(u32::MAX);
        data.sequence_of.push(u32::MAX);
        data
    }

    /// Tiles of at most `rows` rows, and one that only fills up.
    pub(crate) fn tiles(&self, rows: usize) -> Vec<[u32; 4]> {
        let mut tiles = Vec::new();
        let mut first = 0;
        for (number, &(_, count)) in self.sequences.iter().enumerate() {
            for start in (0..count).step_by(rows) {
                let size = rows.min(count - start);
                tiles.push([number as u32, (first + start) as u32, size as u32, 0]);
            }
            first += count;
        }
        tiles.push([0, 0, 0, 0]);
        tiles
    }

    /// Elements of a key, a value or a latent row.
    pub(crate) fn width(&self) -> usize {
        if self.latent > 0 { self.latent } else { self.heads.head_dim }
    }

    /// Keys and values of a layer: so many rows of elements.
    pub(crate) fn kv_rows(&self) -> usize {
        let heads = if self.latent > 0 { 1 } else { 2 * self.heads.kv_heads };
        self.blocks() * heads * self.block_size
    }

    /// Bytes of an element.
    fn element(&self) -> usize {
        self.dtype.map_or(1, KvDtype::size)
    }

    fn is_scaled(&self) -> bool {
        self.dtype.is_none_or(KvDtype::is_scaled)
    }

    /// A layer in which nothing is yet.
    pub(crate) fn empty(&self) -> Layer {
        let rows = self.kv_rows();
        Layer {
            data: vec![0; rows * self.width() * self.element()],
            scales: vec![0.0; if self.is_scaled() { rows } else { 0 }],
        }
    }

    /// What a layer's elements stand for.
    pub(crate) fn numbers(&self, layer: &Layer) -> Vec<f32> {
        let of = |at: usize| {
            let code = layer.data[at * self.element()];
            let scale = layer.scales.get(at / self.width()).copied().unwrap_or(1.0);
            match self.dtype {
                None => f8(code) * scale,
                Some(KvDtype::Int8) => f32::from(code.cast_signed()) * scale,
                Some(KvDtype::Bf16) => troupe_gpu::dtype::Dtype::Bf16.read(&layer.data, at),
                Some(KvDtype::F16) => troupe_gpu::dtype::Dtype::F16.read(&layer.data, at),
                Some(KvDtype::F32) => troupe_gpu::dtype::Dtype::F32.read(&layer.data, at),
            }
        };
        (0..self.kv_rows() * self.width()).map(of).collect()
    }

    /// `KvLayer` of kv.cuh for a layer that is put into memory, and where it was put.
    pub(crate) fn put(&self, memory: &mut Memory, layer: &Layer) -> (Fields, u64, u64) {
        let data = memory.put(&layer.data);
        let bytes: Vec<u8> = layer.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let scales = if self.is_scaled() { memory.put(&bytes) } else { 0 };
        let code = match self.dtype {
            Some(KvDtype::Bf16) => 0,
            Some(KvDtype::F16) => 1,
            Some(KvDtype::F32) => 2,
            Some(KvDtype::Int8) => 3,
            None => 4,
        };
        let heads = if self.latent > 0 { 1 } else { self.heads.kv_heads } as u32;
        let fields = Fields::default().wide(data).wide(scales).words(&[
            code,
            heads,
            self.width() as u32,
            self.block_size as u32,
            u32::from(self.latent > 0),
            0,
        ]);
        (fields, data, scales)
    }

    /// The layer that is in memory now.
    pub(crate) fn layer_at(&self, memory: &Memory, data: u64, scales: u64) -> Layer {
        let scales = if self.is_scaled() { values_of(memory.at(scales)) } else { Vec::new() };
        Layer { data: memory.at(data).to_vec(), scales }
    }

    fn span_blocks(&self) -> Vec<BlockId> {
        (0..self.blocks() as u32).map(BlockId).collect()
    }

    fn span_heads(&self) -> usize {
        if self.latent > 0 { 1 } else { self.heads.kv_heads }
    }
}

impl Judge {
    /// The CPU's KV as it would lie on a device.
    pub(crate) fn layer(&mut self, scene: &Scene) -> Layer {
        let blocks = scene.span_blocks();
        let span = KvSpan { layer: 0, heads: 0..scene.span_heads(), blocks: &blocks };
        let mut bytes = Vec::new();
        self.device.export_kv(&self.kv[0], &span, &mut bytes).unwrap();
        let elements = scene.width() * scene.element();
        if !scene.is_scaled() {
            return Layer { data: bytes, scales: Vec::new() };
        }
        let mut layer = Layer { data: Vec::new(), scales: Vec::new() };
        for row in bytes.chunks_exact(elements + 4) {
            layer.data.extend_from_slice(&row[..elements]);
            layer.scales.extend(values_of(&row[elements..]));
        }
        layer
    }

    /// Gives the CPU a layer's numbers.
    pub(crate) fn take(&mut self, scene: &Scene, numbers: &[f32]) {
        let blocks = scene.span_blocks();
        let span = KvSpan { layer: 0, heads: 0..scene.span_heads(), blocks: &blocks };
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.device.import_kv(&mut self.kv[0], &span, &bytes).unwrap();
    }
}

impl StepData {
    pub(crate) fn put_positions(&self, memory: &mut Memory) -> u64 {
        memory.put(&words(&self.positions))
    }

    pub(crate) fn put_sequences(&self, memory: &mut Memory) -> u64 {
        memory.put(&words(&self.sequence_of))
    }

    pub(crate) fn put_tables(&self, memory: &mut Memory) -> u64 {
        memory.put(&words(&self.tables))
    }
}

/// The rotary tables as kernels read them, computed as the CPU does.
pub(crate) fn rope_table(pairs: usize) -> Vec<f32> {
    let mut table = Vec::new();
    for position in 0..POSITIONS {
        for pair in 0..pairs {
            let frequency = 100f32.powf(-(pair as f32) / pairs as f32);
            let angle = f64::from(position as f32 * frequency);
            table.push((angle.cos() * 1.25) as f32);
            table.push((angle.sin() * 1.25) as f32);
        }
    }
    table
}

/// An eight-bit float by its definition: e4m3, bias 7.
pub(crate) fn f8(code: u8) -> f32 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, rest) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    match exponent {
        0 => sign * rest * 2f32.powi(-9),
        _ => sign * (1.0 + rest / 8.0) * 2f32.powi(exponent - 7),
    }
}

pub(crate) fn values_of(bytes: &[u8]) -> Vec<f32> {
    values::values(troupe_gpu::dtype::Dtype::F32, bytes)
}
