//! Attention: which kernel, and how its work is divided: `attention.cu`, `attention_mma.cu`,
//! `latent.cu`, whose common words are in `attention.cuh`.
//!
//! Positions form spans of 256 that are merged in order, so that it changes no bit whether one
//! block walks over all of a row's spans or each span has a block of its own. A step of few rows is
//! split, because a device has more multiprocessors than such a step has heads; one of many rows is
//! not, because it would only write more.

use super::{NONE, Rows, code, geometry, kv::KvLayer};
use crate::{
    cuda::{
        driver::{Arg, Region},
        kernels::Call,
        step::Tiles,
    },
    dtype::Dtype,
    error::DeviceError,
    kv::KvDtype,
    shape::AttentionMask,
};

/// What all launches of an attention share.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) struct Attention {
    /// The rows whose first columns are query heads; of latent attention, absorbed queries.
    pub(in crate::cuda) query: Rows,
    /// Elements from one row of queries to the next; of latent attention, those of a query head.
    pub(in crate::cuda) query_stride: u32,
    /// Query heads.
    pub(in crate::cuda) heads: u32,
    /// Where it goes.
    pub(in crate::cuda) out: Rows,
    /// The layer.
    pub(in crate::cuda) kv: KvLayer,
    /// Position of each row.
    pub(in crate::cuda) positions: Region,
    /// For each sequence the positions that have KV.
    pub(in crate::cuda) ends: Region,
    /// Block tables.
    pub(in crate::cuda) tables: Region,
    /// Blocks of a table.
    pub(in crate::cuda) width: u32,
    /// What scores are multiplied by.
    pub(in crate::cuda) scale: f32,
    /// What is seen.
    pub(in crate::cuda) mask: AttentionMask,
    /// How scores are bounded.
    pub(in crate::cuda) soft_cap: Option<f32>,
}

/// Which kernel, and what follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cuda) struct Kernel {
    name: &'static str,
    /// Pairs of a row and a query head that a block works on.
    entries: u32,
    threads: u32,
    shared: u64,
}

/// Whether tiles are of single rows, which read the KV for little work, or of prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cuda) enum Phase {
    /// One row of each sequence.
    Decode,
    /// Runs of rows.
    Prefill,
}

impl Attention {
    /// The kernel for one phase on a device whose blocks have so much shared memory: tensor cores
    /// where types and sizes suit them, else plain arithmetic.
    pub(in crate::cuda) fn kernel(
        &self,
        phase: Phase,
        shared_memory: u32,
    ) -> Result<Kernel, DeviceError> {
        let dim = u64::from(self.kv.head_dim);
        if let Some(kernel) = mma(self.query.dtype, self.kv.dtype, phase, dim)
            && kernel.shared <= shared_memory.into()
        {
            return Ok(kernel);
        }
        if dim > 256 {
            return Err(DeviceError::Unsupported(format!(
                "attention heads of {dim} elements on CUDA: at most 256 are possible"
            )));
        }
        let shared = (8 * dim + 64 * (dim + 1) + 8 * 64) * 4;
        Ok(Kernel { name: "attention_any", entries: 8, threads: 128, shared })
    }

    /// How many spans of positions a row may see at most.
    pub(in crate::cuda) fn spans(&self) -> u32 {
        let positions = u64::from(self.width) * u64::from(self.kv.block_size);
        let seen = match self.mask {
            AttentionMask::Window(width) => positions.min(width.into()),
            AttentionMask::Bidirectional | AttentionMask::Causal => positions,
        };
        // One more, because what a row sees may begin within a span.
        seen.div_ceil(SPAN).saturating_add(1).min(positions.div_ceil(SPAN)) as u32
    }

    /// Bytes for the parts of `rows` rows that are split by spans.
    pub(in crate::cuda) fn partial_bytes(&self, rows: u32) -> u64 {
        let each = u64::from(self.spans()) * (u64::from(self.kv.head_dim) + 2) * 4;
        u64::from(rows) * u64::from(self.heads) * each
    }

    /// Whether to divide `rows` single rows by spans, on a device of so many multiprocessors.
    pub(in crate::cuda) fn is_split(&self, rows: u32, units: u32) -> bool {
        let blocks = u64::from(rows) * u64::from(self.kv.heads);
        self.spans() > 1
            && blocks < 2 * u64::from(units)
            && self.partial_bytes(rows) <= PARTIAL_BYTES
    }

    /// Attends for some tiles; `partial` is there if they are split.
    pub(in crate::cuda) fn run(
        &self,
        kernel: Kernel,
        tiles: Tiles,
        partial: Option<Region>,
    ) -> Result<Call, DeviceError> {
        let group = u64::from(self.heads) / u64::from(self.kv.heads.max(1));
        let passes = (u64::from(tiles.most_rows) * group).div_ceil(kernel.entries.into());
        let spans = if partial.is_some() { self.spans() } else { 1 };
        let grid = [tiles.count.into(), u64::from(self.kv.heads) * passes, spans.into()];
        Ok(Call {
            name: kernel.name,
            geometry: geometry(grid, kernel.threads, kernel.shared)?,
            args: vec![self.arg(tiles.at, (partial, tiles.count), None)],
        })
    }

    /// Merges what split tiles left for `rows` rows.
    pub(in crate::cuda) fn combine(
        &self,
        (tiles, rows): (Tiles, u32),
        partial: Region,
        sequence_of: Region,
    ) -> Result<Call, DeviceError> {
        Ok(Call {
            name: "attention_combine",
            geometry: geometry([rows.into(), self.heads.into(), 1], 128, 0)?,
            args: vec![self.arg(tiles.at, (Some(partial), rows), None), Arg::In(sequence_of)],
        })
    }

    /// The structure that all kernels take; `rows` have parts, or are those of latent attention.
    fn arg(
        &self,
        tiles: Region,
        (partial, rows): (Option<Region>, u32),
        query_end: Option<Region>,
    ) -> Arg {
        let window = match self.mask {
            AttentionMask::Bidirectional => NONE,
            AttentionMask::Causal => 0,
            AttentionMask::Window(width) => width,
        };
        let split = partial.is_some();
        Arg::Struct(vec![
            Arg::In(self.query.at),
            query_end.map_or(Arg::Null, Arg::In),
            Arg::Out(self.out.at),
            partial.map_or(Arg::Null, Arg::Out),
            Arg::In(tiles),
            Arg::In(self.positions),
            Arg::In(self.ends),
            Arg::In(self.tables),
            self.kv.arg(),
            Arg::U32(self.width),
            Arg::U32(self.query_stride),
            Arg::U32(self.heads),
            Arg::U32(self.value_dim()),
            Arg::U32(window),
            Arg::U32(split.into()),
            Arg::U32(if split { self.spans() } else { 0 }),
            Arg::F32(self.scale),
            Arg::F32(self.soft_cap.unwrap_or(0.0)),
            Arg::U32(code(self.query.dtype)),
            Arg::U32(rows),
            Arg::U32(0),
        ])
    }

    fn value_dim(&self) -> u32 {
        // Of heads side by side in a row of the output, or of one head of latent attention.
        if self.kv.latent { self.out.columns } else { self.kv.head_dim }
    }

    /// The kernel of latent attention, as [`Self::kernel`].
    pub(in crate::cuda) fn latent_kernel(&self, shared_memory: u32) -> Result<Kernel, DeviceError> {
        let (dim, rank) = (u64::from(self.kv.head_dim), self.out.columns);
        let name = match (self.query.dtype, self.kv.dtype) {
            (Dtype::Bf16, KvDtype::Bf16) => Some("latent_attention_bf16"),
            (Dtype::F16, KvDtype::F16) => Some("latent_attention_f16"),
            _ => None,
        };
        if let Some(name) = name
            && (rank, dim) == (512, 576)
            && self.query_stride.is_multiple_of(8)
            && LATENT_SHARED <= shared_memory.into()
        {
            return Ok(Kernel { name, entries: 16, threads: 128, shared: LATENT_SHARED });
        }
        if rank > 512 || dim > 640 {
            return Err(DeviceError::Unsupported(format!(
                "latent rows of {dim} elements, {rank} of them compressed, on CUDA: at most 640 \
                 and 512 are possible"
            )));
        }
        let shared = (8 * dim + 32 * (dim + 1) + 8 * 64) * 4;
        Ok(Kernel { name: "latent_attention", entries: 8, threads: 128, shared })
    }

    /// Latent attention of absorbed queries `[head][row][rank]`, whose rotated parts are still in
    /// the fused rows `query_end`.
    pub(in crate::cuda) fn latent(
        &self,
        kernel: Kernel,
        tiles: Tiles,
        query_end: Rows,
    ) -> Result<Call, DeviceError> {
        let passes = u64::from(tiles.most_rows) * u64::from(self.heads);
        let grid = [tiles.count.into(), passes.div_ceil(kernel.entries.into()), 1];
        Ok(Call {
            name: kernel.name,
            geometry: geometry(grid, kernel.threads, kernel.shared)?,
            args: vec![self.arg(tiles.at, (None, query_end.rows), Some(query_end.at))],
        })
    }
}

/// The kernel by tensor cores, if there is one.
fn mma(query: Dtype, kv: KvDtype, phase: Phase, dim: u64) -> Option<Kernel> {
    let (width, at) = match dim {
        8..=64 => (64, 0),
        65..=128 => (128, 1),
        129..=256 => (256, 2),
        _ => return None,
    };
    let names = match (query, kv, phase) {
        _ if !dim.is_multiple_of(8) => return None,
        (Dtype::Bf16, KvDtype::Bf16, Phase::Decode) => [
            "attention_decode_bf16_same_64",
            "attention_decode_bf16_same_128",
            "attention_decode_bf16_same_256",
        ],
        (Dtype::Bf16, KvDtype::Bf16, Phase::Prefill) => [
            "attention_prefill_bf16_same_64",
            "attention_prefill_bf16_same_128",
            "attention_decode_bf16_same_256",
        ],
        (Dtype::Bf16, KvDtype::Int8, Phase::Decode) => [
            "attention_decode_bf16_int8_64",
            "attention_decode_bf16_int8_128",
            "attention_decode_bf16_int8_256",
        ],
        (Dtype::Bf16, KvDtype::Int8, Phase::Prefill) => [
            "attention_prefill_bf16_int8_64",
            "attention_prefill_bf16_int8_128",
            "attention_decode_bf16_int8_256",
        ],
        (Dtype::F16, KvDtype::F16, Phase::Decode) => [
            "attention_decode_f16_same_64",
            "attention_decode_f16_same_128",
            "attention_decode_f16_same_256",
        ],
        (Dtype::F16, KvDtype::F16, Phase::Prefill) => [
            "attention_prefill_f16_same_64",
            "attention_prefill_f16_same_128",
            "attention_decode_f16_same_256",
        ],
        _ => return None,
    };
    // Two copies of keys and values, so that the next are loaded while these are used; of the
    // widest heads there is room for one, and their sums go through shared memory too.
    let (entries, threads) = match phase {
        Phase::Prefill if width < 256 => (64, 128),
        Phase::Decode | Phase::Prefill => (16, 32),
    };
    let (copies, sums) = if width == 256 { (1, 16_384) } else { (2, 0) };
    let shared = (u64::from(entries) + copies * 128) * (width + 8) * 2 + copies * 512 + sums;
    Some(Kernel { name: names[at], entries, threads, shared })
}

/// Shared memory of latent attention by tensor cores, in bytes.
const LATENT_SHARED: u64 = 97_792;
/// Positions of a span.
const SPAN: u64 = 256;
/// Parts of split rows take so much memory at most.
pub(in crate::cuda) const PARTIAL_BYTES: u64 = 128 << 20;
