//! KV blocks on their way: to other devices in the canonical layout, and to the host as they lie
//! here. One launch gathers (or spreads) all runs between the pool and a buffer that is copied as a
//! whole, so that a transfer costs one copy and not one for each run.

use troupe_runtime::id::BlockId;

use super::{
    device::CudaDevice,
    driver::{Driver, Region},
    kv::{CudaKv, Sizes, block_bytes},
    launch::kv::{self, Way},
    memory::extent,
};
use crate::{backend::KvSpan, error::DeviceError, step::KvBlocks};

type Done = Result<(), DeviceError>;

/// Runs of equal length between a pool and a buffer, by where they begin.
#[derive(Debug, Default)]
struct Runs {
    in_pool: Vec<u64>,
    in_buffer: Vec<u64>,
    bytes: u64,
}

impl<D: Driver> CudaDevice<D> {
    /// [`crate::backend::Backend::export_kv`].
    pub(super) fn export(
        &mut self,
        kv: &CudaKv<D>,
        span: &KvSpan<'_>,
        bytes: &mut Vec<u8>,
    ) -> Done {
        kv.check_span(span)?;
        let total = span_bytes(kv, span)?;
        bytes.clear();
        bytes.resize(total as usize, 0);
        if total == 0 {
            return Ok(());
        }
        let packed = self.scratch.blocks[0].reserve(total)?;
        self.exchange(kv, span, packed, Way::Pack)?;
        self.driver.download(packed.address, bytes)?;
        Ok(())
    }

    /// [`crate::backend::Backend::import_kv`].
    pub(super) fn import(&mut self, kv: &mut CudaKv<D>, span: &KvSpan<'_>, bytes: &[u8]) -> Done {
        kv.check_span(span)?;
        let total = span_bytes(kv, span)?;
        if bytes.len() as u64 != total {
            let why = format!("{} bytes of KV where {total} were to come", bytes.len());
            return Err(DeviceError::Contract(why));
        }
        if total == 0 {
            return Ok(());
        }
        let packed = self.scratch.blocks[0].reserve(total)?;
        self.driver.upload(bytes, packed.address)?;
        self.exchange(kv, span, packed, Way::Unpack)
    }

    /// Between the pool and a buffer in the canonical layout.
    fn exchange(&mut self, kv: &CudaKv<D>, span: &KvSpan<'_>, packed: Region, way: Way) -> Done {
        let sizes = Sizes::of(kv.spec());
        let positions = kv.spec().block_size as u64;
        let heads = span.heads.len() as u64;
        // Of each block its keys, then its values; of latent rows there is one part.
        let (parts, heads_here) = if sizes.rows == 1 { (1, 1) } else { (2, sizes.rows / 2) };
        let first_rows = span.blocks.iter().flat_map(|block| {
            let block = u64::from(block.0) * sizes.rows;
            (0..parts)
                .map(move |part| (block + part * heads_here + span.heads.start as u64) * positions)
        });
        if kv.spec().dtype.is_scaled() {
            let rows: Vec<u64> =
                first_rows.flat_map(|first| first..first + heads * positions).collect();
            let places = self.place(1, &rows)?;
            let layer = kv.layer(span.layer)?;
            return self.run(kv::copy_scaled_rows(
                &layer,
                (places, rows.len() as u64),
                packed,
                way,
            ));
        }
        let layer = kv.block_at(span.layer, 0);
        let mut runs = Runs { bytes: heads * sizes.head, ..Runs::default() };
        for (number, first) in (0..).zip(first_rows) {
            runs.in_pool.push(layer + first * sizes.row);
            runs.in_buffer.push(number * runs.bytes);
        }
        self.copy_runs(kv.data().all(), &runs, packed, way)
    }

    /// [`crate::backend::Backend::save_block`].
    pub(super) fn save(&mut self, kv: &CudaKv<D>, block: BlockId, bytes: &mut Vec<u8>) -> Done {
        let block = kv.check_block(block.0)?;
        let total = block_bytes(kv.spec());
        bytes.clear();
        bytes.resize(total as usize, 0);
        if total == 0 {
            return Ok(());
        }
        let held = self.scratch.blocks[0].reserve(total)?;
        self.whole_block(kv, block, held, Way::Pack)?;
        self.driver.download(held.address, bytes)?;
        Ok(())
    }

    /// [`crate::backend::Backend::restore_block`].
    pub(super) fn restore(&mut self, kv: &mut CudaKv<D>, block: BlockId, bytes: &[u8]) -> Done {
        let block = kv.check_block(block.0)?;
        let total = block_bytes(kv.spec());
        if bytes.len() as u64 != total {
            let why = format!("{} bytes of a KV block where {total} were to come", bytes.len());
            return Err(DeviceError::Contract(why));
        }
        if total == 0 {
            return Ok(());
        }
        let held = self.scratch.blocks[0].reserve(total)?;
        self.driver.upload(bytes, held.address)?;
        self.whole_block(kv, block, held, Way::Unpack)
    }

    /// A block of every layer, then its scales.
    fn whole_block(&mut self, kv: &CudaKv<D>, block: usize, held: Region, way: Way) -> Done {
        let sizes = Sizes::of(kv.spec());
        let layers = kv.spec().layers;
        let elements = Runs {
            in_pool: (0..layers).map(|layer| kv.block_at(layer, block)).collect(),
            in_buffer: (0..layers as u64).map(|layer| layer * sizes.block).collect(),
            bytes: sizes.block,
        };
        self.copy_runs(kv.data().all(), &elements, held, way)?;
        if sizes.block_scales == 0 {
            return Ok(());
        }
        let first = layers as u64 * sizes.block;
        let scales = Runs {
            in_pool: (0..layers).map(|layer| kv.scales_at(layer, block)).collect(),
            in_buffer: (0..layers as u64).map(|layer| first + layer * sizes.block_scales).collect(),
            bytes: sizes.block_scales,
        };
        self.copy_runs(kv.scales().all(), &scales, held, way)
    }

    /// [`crate::backend::Backend::copy_kv`].
    pub(super) fn copy_block(&mut self, kv: &mut CudaKv<D>, from: BlockId, to: BlockId) -> Done {
        let (from, to) = (kv.check_block(from.0)?, kv.check_block(to.0)?);
        if from == to {
            return Ok(());
        }
        let sizes = Sizes::of(kv.spec());
        for layer in 0..kv.spec().layers {
            let of = |block| kv.data().part(kv.block_at(layer, block), sizes.block);
            self.driver.copy(of(from)?.address, of(to)?.address, sizes.block)?;
            if sizes.block_scales > 0 {
                let of = |block| kv.scales().part(kv.scales_at(layer, block), sizes.block_scales);
                self.driver.copy(of(from)?.address, of(to)?.address, sizes.block_scales)?;
            }
        }
        Ok(())
    }

    fn copy_runs(&mut self, pool: Region, runs: &Runs, buffer: Region, way: Way) -> Done {
        let in_pool = self.place(1, &runs.in_pool)?;
        let in_buffer = self.place(2, &runs.in_buffer)?;
        let (pool, buffer) = ((pool, in_pool), (buffer, in_buffer));
        let (from, to) = if way == Way::Pack { (pool, buffer) } else { (buffer, pool) };
        self.run(kv::copy_runs(from, to, (runs.in_pool.len() as u64, runs.bytes)))
    }

    /// Numbers in scratch memory.
    fn place(&mut self, scratch: usize, numbers: &[u64]) -> Result<Region, DeviceError> {
        let at = self.scratch.blocks[scratch].reserve(extent(&[numbers.len(), 8])?)?;
        if !numbers.is_empty() {
            self.driver.upload(bytemuck::cast_slice(numbers), at.address)?;
        }
        Ok(at)
    }
}

/// Bytes of a span in the canonical layout.
fn span_bytes<D: Driver>(kv: &CudaKv<D>, span: &KvSpan<'_>) -> Result<u64, DeviceError> {
    let sizes = Sizes::of(kv.spec());
    let parts = if sizes.rows == 1 { 1 } else { 2 };
    let row = kv.spec().dtype.row_bytes(sizes.dim as usize);
    extent(&[span.blocks.len(), parts, span.heads.len(), kv.spec().block_size, row])
}
