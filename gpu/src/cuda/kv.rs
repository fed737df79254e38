//! One KV group's blocks on the device. A layer is `[block][key, value][head][position][dim]`, of
//! latent rows `[block][position][element]`: the layout that blocks travel in, so that export and
//! import are copies. Types with scales have them beside, `[block][key, value][head][position]`.

use std::sync::Arc;

use super::{
    driver::Driver,
    launch::{kv::KvLayer, number},
    memory::{Allocation, extent},
};
use crate::{
    backend::KvSpan,
    error::DeviceError,
    shape::{KvKind, KvSpec},
    step::KvBlocks,
};

/// A pool.
#[derive(Debug)]
pub struct CudaKv<D: Driver> {
    spec: KvSpec,
    blocks: usize,
    data: Allocation<D>,
    /// Empty unless the type has scales.
    scales: Allocation<D>,
}

/// How many bytes everything takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Keys and values of one position: 2 for each head, 1 for latent rows.
    pub(super) rows: u64,
    /// Elements of one.
    pub(super) dim: u64,
    /// Bytes of one, without its scale.
    pub(super) row: u64,
    /// Bytes of one head's positions of a block.
    pub(super) head: u64,
    /// Bytes of a block of one layer.
    pub(super) block: u64,
    /// Bytes of the scales of a block of one layer.
    pub(super) block_scales: u64,
}

impl Sizes {
    /// Of a spec.
    pub(super) fn of(spec: &KvSpec) -> Self {
        let (rows, dim) = match spec.kind {
            KvKind::Heads { kv_heads, head_dim } => (2 * kv_heads as u64, head_dim as u64),
            KvKind::Latent { width } => (1, width as u64),
        };
        let row = dim * spec.dtype.size() as u64;
        let positions = spec.block_size as u64;
        let scales = if spec.dtype.is_scaled() { rows * positions * 4 } else { 0 };
        Self {
            rows,
            dim,
            row,
            head: row * positions,
            block: rows * row * positions,
            block_scales: scales,
        }
    }
}

impl<D: Driver> CudaKv<D> {
    /// A pool of zeros.
    pub(super) fn new(driver: &Arc<D>, spec: &KvSpec, blocks: u32) -> Result<Self, DeviceError> {
        if !spec.block_size.is_power_of_two() {
            return Err(DeviceError::Unsupported(format!(
                "KV blocks of {} positions: a power of two is needed",
                spec.block_size
            )));
        }
        let (sizes, blocks) = (Sizes::of(spec), blocks as usize);
        let whole = |block: u64| extent(&[spec.layers, blocks, block as usize]);
        Ok(Self {
            spec: *spec,
            blocks,
            data: Allocation::zeroed(driver, whole(sizes.block)?)?,
            scales: Allocation::zeroed(driver, whole(sizes.block_scales)?)?,
        })
    }

    /// Elements of all layers.
    pub(super) fn data(&self) -> &Allocation<D> {
        &self.data
    }

    /// Scales of all layers.
    pub(super) fn scales(&self) -> &Allocation<D> {
        &self.scales
    }

    /// Where a block of a layer is among the elements, in bytes.
    pub(super) fn block_at(&self, layer: usize, block: usize) -> u64 {
        (layer * self.blocks + block) as u64 * Sizes::of(&self.spec).block
    }

    /// The same among the scales.
    pub(super) fn scales_at(&self, layer: usize, block: usize) -> u64 {
        (layer * self.blocks + block) as u64 * Sizes::of(&self.spec).block_scales
    }

    /// One layer, as kernels see it.
    pub(super) fn layer(&self, layer: usize) -> Result<KvLayer, DeviceError> {
        let sizes = Sizes::of(&self.spec);
        let blocks = self.blocks as u64;
        let (heads, latent) = match self.spec.kind {
            KvKind::Heads { kv_heads, .. } => (kv_heads, false),
            KvKind::Latent { .. } => (1, true),
        };
        let scales = match self.spec.dtype.is_scaled() {
            true => Some(self.scales.part(self.scales_at(layer, 0), blocks * sizes.block_scales)?),
            false => None,
        };
        Ok(KvLayer {
            data: self.data.part(self.block_at(layer, 0), blocks * sizes.block)?,
            scales,
            dtype: self.spec.dtype,
            heads: number(heads)?,
            head_dim: number(sizes.dim as usize)?,
            block_size: number(self.spec.block_size)?,
            latent,
        })
    }

    /// Fails unless a block exists.
    pub(super) fn check_block(&self, block: u32) -> Result<usize, DeviceError> {
        match (block as usize) < self.blocks {
            true => Ok(block as usize),
            false => {
                Err(DeviceError::Contract(format!("no KV block {block} among {}", self.blocks)))
            }
        }
    }

    /// Fails unless layer, heads and blocks exist.
    pub(super) fn check_span(&self, span: &KvSpan<'_>) -> Result<(), DeviceError> {
        let heads = match self.spec.kind {
            KvKind::Heads { kv_heads, .. } => kv_heads,
            KvKind::Latent { .. } => 1,
        };
        if span.heads.is_empty() || span.heads.end > heads || span.layer >= self.spec.layers {
            return Err(DeviceError::Contract(format!("no KV span {span:?}")));
        }
        span.blocks.iter().try_for_each(|block| self.check_block(block.0).map(|_| ()))
    }
}

/// Bytes of a block over all layers.
pub fn block_bytes(spec: &KvSpec) -> u64 {
    let sizes = Sizes::of(spec);
    spec.layers as u64 * (sizes.block + sizes.block_scales)
}

impl<D: Driver> KvBlocks for CudaKv<D> {
    fn blocks(&self) -> usize {
        self.blocks
    }

    fn spec(&self) -> &KvSpec {
        &self.spec
    }
}
