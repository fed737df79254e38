//! One KV group's blocks on the CPU, laid out for the attention kernel.
//!
//! The order is `[layer][block][head]`, then the keys of the block in tiles of 16 positions, each
//! `[dim][16]`, then the values as `[position][dim]`. Sixteen positions fill a vector, so scores
//! need no sum across lanes. Tiles and value rows are padded to 16 with zeros that nothing writes.
//! A latent pool has one head, and of that rows `[position][element]`, which are keys and values.
//! Scales, where the type has them, are apart: `[layer][block][head]`, then one for each key and
//! one for each value of the block.

use half::{bf16, f16};

use crate::{
    cpu::{aligned::Aligned, pairs::narrow},
    error::DeviceError,
    kv::dtype::{KvDtype, quantize},
    shape::{KvKind, KvSpec},
};

/// Positions of a key tile, and what value rows are padded to.
pub(crate) const TILE: usize = 16;

/// One group's pool.
#[derive(Debug)]
pub struct KvPool {
    spec: KvSpec,
    pub(crate) layout: KvLayout,
    pub(crate) data: KvData,
    /// None for types without.
    pub(crate) scales: Aligned<f32>,
}

/// Where things are, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvLayout {
    pub(crate) blocks: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    /// Elements of a value row.
    pub(crate) value_stride: usize,
    /// Where a head's values begin.
    pub(crate) values: usize,
    /// Elements of one head of one block.
    pub(crate) head_stride: usize,
    /// Whether keys are rows that lie like values, and there are no others.
    pub(crate) latent: bool,
    /// Scales of its keys, and as many of its values; 0 for types without.
    pub(crate) scale_stride: usize,
}

/// Elements by how they lie in memory.
#[derive(Debug)]
pub(crate) enum KvData {
    /// Brain floats, as bits.
    Bf16(Aligned<u16>),
    /// IEEE halves, as bits.
    F16(Aligned<u16>),
    /// Singles.
    F32(Aligned<f32>),
    /// Scaled bytes.
    Int8(Aligned<i8>),
}

/// One position of one head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvSlot {
    /// Layer within the group on this rank.
    pub layer: usize,
    /// Block id.
    pub block: usize,
    /// Head of this rank.
    pub head: usize,
    /// Position within the block.
    pub position: usize,
}

impl KvLayout {
    fn new(spec: &KvSpec, blocks: usize) -> Result<Self, DeviceError> {
        let (heads, head_dim, latent) = match spec.kind {
            KvKind::Heads { kv_heads, head_dim } => (kv_heads, head_dim, false),
            KvKind::Latent { width } => (1, width, true),
        };
        // Powers of two divide the attention kernel's fixed chunk or are divided by it.
        if !spec.block_size.is_power_of_two() || spec.block_size > 4096 {
            return Err(DeviceError::Unsupported(format!(
                "blocks of {} positions: powers of two up to 4096 are possible",
                spec.block_size
            )));
        }
        if heads == 0 || head_dim == 0 || heads > 1 << 16 || head_dim > 1 << 16 {
            return Err(DeviceError::Contract(format!("impossible KV heads: {spec:?}")));
        }
        if latent && spec.dtype.is_scaled() {
            return Err(DeviceError::Unsupported(format!(
                "a compressed KV cache in {}: bfloat16, float16 and float32 are possible",
                spec.dtype
            )));
        }
        let value_stride = head_dim.next_multiple_of(TILE);
        let keys = spec.block_size.next_multiple_of(TILE) * head_dim;
        let values = if latent { 0 } else { keys };
        let head_stride = values + spec.block_size * value_stride;
        let scale_stride = match spec.dtype.is_scaled() {
            true => spec.block_size.next_multiple_of(TILE),
            false => 0,
        };
        Ok(Self {
            blocks,
            heads,
            head_dim,
            value_stride,
            values,
            head_stride,
            latent,
            scale_stride,
        })
    }

    /// Where the scales of a head's keys begin; those of its values are behind them.
    pub(crate) fn scales(&self, layer: usize, block: usize, head: usize) -> usize {
        ((layer * self.blocks + block) * self.heads + head) * 2 * self.scale_stride
    }

    /// Where the scales of a slot's key and value are.
    pub(crate) fn scales_of(&self, slot: KvSlot) -> (usize, usize) {
        let key = self.scales(slot.layer, slot.block, slot.head) + slot.position;
        (key, key + self.scale_stride)
    }

    /// Bytes of one block of one layer: elements and scales.
    fn layer_bytes(&self, dtype: KvDtype) -> usize {
        self.heads * (self.head_stride * dtype.size() + 2 * self.scale_stride * size_of::<f32>())
    }

    /// Where a head's keys begin.
    pub(crate) fn head(&self, layer: usize, block: usize, head: usize) -> usize {
        ((layer * self.blocks + block) * self.heads + head) * self.head_stride
    }

    pub(crate) fn key(&self, slot: KvSlot, dim: usize) -> usize {
        if self.latent {
            return self.value(slot, dim);
        }
        let tile = slot.position / TILE * TILE * self.head_dim;
        let at = tile + dim * TILE + slot.position % TILE;
        self.head(slot.layer, slot.block, slot.head) + at
    }

    pub(crate) fn value(&self, slot: KvSlot, dim: usize) -> usize {
        let at = self.values + slot.position * self.value_stride + dim;
        self.head(slot.layer, slot.block, slot.head) + at
    }
}

impl KvPool {
    /// A pool of `blocks` zeroed blocks.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] on a size that cannot be, [`DeviceError::Unsupported`].
    pub fn new(spec: &KvSpec, blocks: u32) -> Result<Self, DeviceError> {
        let blocks = blocks as usize;
        let layout = KvLayout::new(spec, blocks)?;
        let times = |each: usize| {
            let mut sizes = [spec.layers, blocks, layout.heads, each].into_iter();
            sizes
                .try_fold(1usize, usize::checked_mul)
                .ok_or_else(|| DeviceError::OutOfMemory(format!("{blocks} KV blocks of {spec:?}")))
        };
        let len = times(layout.head_stride)?;
        let data = match spec.dtype {
            KvDtype::Bf16 => KvData::Bf16(Aligned::zeroed(len)?),
            KvDtype::F16 => KvData::F16(Aligned::zeroed(len)?),
            KvDtype::F32 => KvData::F32(Aligned::zeroed(len)?),
            KvDtype::Int8 => KvData::Int8(Aligned::zeroed(len)?),
        };
        let scales = Aligned::zeroed(times(2 * layout.scale_stride)?)?;
        Ok(Self { spec: *spec, layout, data, scales })
    }

    /// Bytes of one block over the spec's layers, padding and scales included; 0 for a spec that
    /// [`KvPool::new`] refuses.
    pub fn block_bytes(spec: &KvSpec) -> u64 {
        KvLayout::new(spec, 1)
            .map_or(0, |layout| (spec.layers * layout.layer_bytes(spec.dtype)) as u64)
    }

    /// What it stores.
    pub fn spec(&self) -> &KvSpec {
        &self.spec
    }

    /// Blocks in the pool.
    pub fn blocks(&self) -> usize {
        self.layout.blocks
    }

    /// Fails unless the slot exists.
    ///
    /// # Errors
    /// [`DeviceError::Contract`].
    pub fn check(&self, slot: KvSlot) -> Result<(), DeviceError> {
        let inside = slot.layer < self.spec.layers
            && slot.block < self.layout.blocks
            && slot.head < self.layout.heads
            && slot.position < self.spec.block_size;
        if inside {
            return Ok(());
        }
        Err(DeviceError::Contract(format!(
            "no {slot:?} among {} layers and {} blocks of {} heads",
            self.spec.layers, self.layout.blocks, self.layout.heads
        )))
    }

    /// Stores one head's key and value, rounded to the pool's type.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if the slot does not exist or the lengths are no head.
    pub fn write(&mut self, slot: KvSlot, key: &[f32], value: &[f32]) -> Result<(), DeviceError> {
        self.check(slot)?;
        let dim = self.layout.head_dim;
        if self.layout.latent || key.len() != dim || value.len() != dim {
            return Err(DeviceError::Contract(format!(
                "a key of {} and a value of {} elements for heads of {}",
                key.len(),
                value.len(),
                self.layout.head_dim
            )));
        }
        let (first_key, first_value) = (self.layout.key(slot, 0), self.layout.value(slot, 0));
        match &mut self.data {
            KvData::Bf16(data) => {
                put(data, (first_key, first_value), (key, value), narrow);
            }
            KvData::F16(data) => {
                put(data, (first_key, first_value), (key, value), |x| f16::from_f32(x).to_bits());
            }
            KvData::F32(data) => put(data, (first_key, first_value), (key, value), |x| x),
            KvData::Int8(data) => {
                let ((key_scale, of_key), (value_scale, of_value)) =
                    (quantize(key), quantize(value));
                put(data, (first_key, first_value), (key, &[]), of_key);
                put(data, (first_key, first_value), (&[], value), of_value);
                let (key, value) = self.layout.scales_of(slot);
                (self.scales[key], self.scales[value]) = (key_scale, value_scale);
            }
        }
        Ok(())
    }

    /// Stores a latent row, rounded to the pool's type.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if the slot does not exist, the length is no row's or the pool is
    /// not latent.
    pub fn write_row(&mut self, slot: KvSlot, row: &[f32]) -> Result<(), DeviceError> {
        self.check(slot)?;
        if !self.layout.latent || row.len() != self.layout.head_dim {
            let (elements, kind) = (row.len(), self.spec.kind);
            return Err(DeviceError::Contract(format!(
                "a row of {elements} elements for {kind:?}"
            )));
        }
        let first = self.layout.value(slot, 0);
        match &mut self.data {
            KvData::Bf16(data) => put_row(data, first, row, |x| bf16::from_f32(x).to_bits()),
            KvData::F16(data) => put_row(data, first, row, |x| f16::from_f32(x).to_bits()),
            KvData::F32(data) => put_row(data, first, row, |x| x),
            // No latent pool is made of them.
            KvData::Int8(_) => {}
        }
        Ok(())
    }

    /// Makes block `to` hold what block `from` holds, in every layer.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if one of them does not exist.
    pub fn copy_block(&mut self, from: usize, to: usize) -> Result<(), DeviceError> {
        let blocks = self.layout.blocks;
        if from >= blocks || to >= blocks {
            return Err(DeviceError::Contract(format!("copy block {from} to {to} of {blocks}")));
        }
        let size = self.layout.heads * self.layout.head_stride;
        for layer in 0..self.spec.layers {
            let (from, to) = (self.layout.head(layer, from, 0), self.layout.head(layer, to, 0));
            match &mut self.data {
                KvData::Bf16(data) | KvData::F16(data) => data.copy_within(from..from + size, to),
                KvData::F32(data) => data.copy_within(from..from + size, to),
                KvData::Int8(data) => data.copy_within(from..from + size, to),
            }
        }
        let size = self.layout.heads * 2 * self.layout.scale_stride;
        for layer in 0..self.spec.layers {
            let (from, to) = (self.layout.scales(layer, from, 0), self.layout.scales(layer, to, 0));
            self.scales.copy_within(from..from + size, to);
        }
        Ok(())
    }

    /// One element of a stored key, before its scale.
    ///
    /// # Panics
    /// If the slot is outside the pool.
    pub fn key(&self, slot: KvSlot, dim: usize) -> f32 {
        self.get(self.layout.key(slot, dim))
    }

    /// One element of a stored value, before its scale.
    ///
    /// # Panics
    /// If the slot is outside the pool.
    pub fn value(&self, slot: KvSlot, dim: usize) -> f32 {
        self.get(self.layout.value(slot, dim))
    }

    /// What a slot's key and value are to be multiplied by: 1 for types without scales.
    ///
    /// # Panics
    /// If the slot is outside the pool.
    pub fn scale(&self, slot: KvSlot) -> (f32, f32) {
        if !self.spec.dtype.is_scaled() {
            return (1.0, 1.0);
        }
        let (key, value) = self.layout.scales_of(slot);
        (self.scales[key], self.scales[value])
    }

    fn get(&self, at: usize) -> f32 {
        match &self.data {
            KvData::Bf16(data) => bf16::from_bits(data[at]).to_f32(),
            KvData::F16(data) => f16::from_bits(data[at]).to_f32(),
            KvData::F32(data) => data[at],
            KvData::Int8(data) => f32::from(data[at]),
        }
    }
}

fn put<T>(
    data: &mut [T],
    (first_key, first_value): (usize, usize),
    (key, value): (&[f32], &[f32]),
    narrow: impl Fn(f32) -> T,
) {
    for (to, from) in data[first_key..].iter_mut().step_by(TILE).zip(key) {
        *to = narrow(*from);
    }
    put_row(data, first_value, value, narrow);
}

fn put_row<T>(data: &mut [T], first: usize, row: &[f32], narrow: impl Fn(f32) -> T) {
    for (to, from) in data[first..].iter_mut().zip(row) {
        *to = narrow(*from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::AttentionMask;

    fn spec(block_size: usize, dtype: KvDtype) -> KvSpec {
        let kind = KvKind::Heads { kv_heads: 2, head_dim: 5 };
        KvSpec { layers: 2, kind, block_size, dtype, mask: AttentionMask::Causal }
    }

    #[test]
    fn every_slot_is_its_own() {
        for block_size in [1, 4, 16, 32] {
            let mut pool = KvPool::new(&spec(block_size, KvDtype::F32), 3).unwrap();
            let slots: Vec<KvSlot> = (0..2 * 3 * 2 * block_size)
                .map(|n| KvSlot {
                    position: n % block_size,
                    head: n / block_size % 2,
                    block: n / block_size / 2 % 3,
                    layer: n / block_size / 6,
                })
                .collect();
            for (n, slot) in slots.iter().enumerate() {
                let key: Vec<f32> = (0..5).map(|dim| (n * 10 + dim) as f32).collect();
                let value: Vec<f32> = key.iter().map(|x| -x - 1.0).collect();
                pool.write(*slot, &key, &value).unwrap();
            }
            for (n, slot) in slots.iter().enumerate() {
                assert_eq!(pool.scale(*slot), (1.0, 1.0));
                for dim in 0..5 {
                    assert_eq!(pool.key(*slot, dim), (n * 10 + dim) as f32);
                    assert_eq!(pool.value(*slot, dim), -((n * 10 + dim) as f32) - 1.0);
                }
            }
        }
    }

    #[test]
    fn what_does_not_exist_is_an_error() {
        let mut pool = KvPool::new(&spec(16, KvDtype::Bf16), 3).unwrap();
        let slot = KvSlot { layer: 0, block: 0, head: 0, position: 0 };
        assert!(pool.write(slot, &[1.0; 5], &[1.0; 5]).is_ok());
        assert!(pool.write(slot, &[1.0; 4], &[1.0; 5]).is_err());
        for bad in [
            KvSlot { block: 3, ..slot },
            KvSlot { block: u32::MAX as usize, ..slot },
            KvSlot { layer: 2, ..slot },
            KvSlot { head: 2, ..slot },
            KvSlot { position: 16, ..slot },
        ] {
            assert!(pool.write(bad, &[1.0; 5], &[1.0; 5]).is_err(), "{bad:?}");
        }
        assert!(KvPool::new(&spec(12, KvDtype::F32), 1).is_err());
        assert!(KvPool::new(&spec(4096, KvDtype::F32), u32::MAX).is_err());
    }

    #[test]
    fn bytes_have_a_scale_for_each_key_and_value() {
        let mut pool = KvPool::new(&spec(4, KvDtype::Int8), 2).unwrap();
        let slot = |position| KvSlot { layer: 1, block: 0, head: 1, position };
        for position in 0..4 {
            let size = 10f32.powi(position as i32);
            pool.write(slot(position), &[size; 5], &[0.0, -size, size / 2.0, 0.0, 0.0]).unwrap();
        }
        pool.copy_block(0, 1).unwrap();
        for slot in (0..4).map(|position| KvSlot { block: 1, ..slot(position) }) {
            let size = 10f32.powi(slot.position as i32);
            let (key, value) = pool.scale(slot);
            assert_eq!((pool.key(slot, 4), pool.value(slot, 1)), (127.0, -127.0));
            assert!((pool.key(slot, 0) * key - size).abs() < 1e-4 * size);
            assert!((pool.value(slot, 2) * value - size / 2.0).abs() < 0.005 * size);
        }
        // Elements with padding, and scales for a padded tile.
        let bytes = 2 * 2 * (16 * 5 + 4 * 16 + 2 * 16 * 4);
        assert_eq!(KvPool::block_bytes(pool.spec()), bytes);
    }
}
