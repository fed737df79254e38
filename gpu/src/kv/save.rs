//! Whole KV blocks as they lie in a pool: what a block becomes when it leaves the device for the
//! host, to come back to the same pool. For each layer one run of memory, padding included, and one
//! of scales where the type has them.

use std::ops::Range;

use troupe_runtime::id::BlockId;

use crate::{
    error::DeviceError,
    kv::pool::{KvData, KvPool},
};

impl KvPool {
    /// Puts all of a block into `bytes`, cleared first: [`KvPool::block_bytes`] of them.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if there is no such block.
    pub fn save(&self, block: BlockId, bytes: &mut Vec<u8>) -> Result<(), DeviceError> {
        self.check_block(block)?;
        let size = Self::block_bytes(self.spec()) as usize;
        // What is there is overwritten: only what is new need be cleared.
        bytes.resize(size, 0);
        let layers = bytes.chunks_exact_mut((size / self.spec().layers.max(1)).max(1));
        for (layer, bytes) in layers.enumerate() {
            let own = self.layer(layer, block);
            let (bytes, scales) = bytes.split_at_mut(own.len() * self.spec().dtype.size());
            let own_scales = &self.scales[self.layer_scales(layer, block)];
            let to = scales.as_chunks_mut::<4>().0.iter_mut();
            to.zip(own_scales).for_each(|(to, from)| *to = from.to_le_bytes());
            match &self.data {
                KvData::Bf16(data) | KvData::F16(data) => {
                    let to = bytes.as_chunks_mut::<2>().0.iter_mut();
                    to.zip(&data[own]).for_each(|(to, from)| *to = from.to_le_bytes());
                }
                KvData::F32(data) => {
                    let to = bytes.as_chunks_mut::<4>().0.iter_mut();
                    to.zip(&data[own]).for_each(|(to, from)| *to = from.to_le_bytes());
                }
                KvData::Int8(data) => {
                    let to = bytes.iter_mut();
                    to.zip(&data[own]).for_each(|(to, from)| *to = from.cast_unsigned());
                }
            }
        }
        Ok(())
    }

    /// Fills a block with what [`KvPool::save`] gave, to the bit.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if there is no such block or the size is wrong; nothing is changed
    /// then.
    pub fn restore(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), DeviceError> {
        self.check_block(block)?;
        let size = Self::block_bytes(self.spec()) as usize;
        if bytes.len() != size {
            let found = bytes.len();
            let why = format!("{found} bytes of a KV block where {size} were to come");
            return Err(DeviceError::Contract(why));
        }
        let layers = bytes.chunks_exact((size / self.spec().layers.max(1)).max(1));
        for (layer, bytes) in layers.enumerate() {
            let own = self.layer(layer, block);
            let (bytes, scales) = bytes.split_at(own.len() * self.spec().dtype.size());
            let own_scales = self.layer_scales(layer, block);
            let from = scales.as_chunks::<4>().0.iter();
            self.scales[own_scales].iter_mut().zip(from).for_each(|(to, from)| {
                *to = f32::from_le_bytes(*from);
            });
            match &mut self.data {
                KvData::Bf16(data) | KvData::F16(data) => {
                    let from = bytes.as_chunks::<2>().0.iter();
                    data[own].iter_mut().zip(from).for_each(|(to, from)| {
                        *to = u16::from_le_bytes(*from);
                    });
                }
                KvData::F32(data) => {
                    let from = bytes.as_chunks::<4>().0.iter();
                    data[own].iter_mut().zip(from).for_each(|(to, from)| {
                        *to = f32::from_le_bytes(*from);
                    });
                }
                KvData::Int8(data) => {
                    data[own].iter_mut().zip(bytes).for_each(|(to, from)| {
                        *to = from.cast_signed();
                    });
                }
            }
        }
        Ok(())
    }

    fn check_block(&self, block: BlockId) -> Result<(), DeviceError> {
        match (block.0 as usize) < self.blocks() {
            true => Ok(()),
            false => {
                let why = format!("no KV block {block} among {}", self.blocks());
                Err(DeviceError::Contract(why))
            }
        }
    }

    /// Where one layer of a block is, in elements.
    fn layer(&self, layer: usize, block: BlockId) -> Range<usize> {
        let first = self.layout.head(layer, block.0 as usize, 0);
        first..first + self.layout.heads * self.layout.head_stride
    }

    /// Where its scales are: nowhere for types without.
    fn layer_scales(&self, layer: usize, block: BlockId) -> Range<usize> {
        let first = self.layout.scales(layer, block.0 as usize, 0);
        first..first + self.layout.heads * 2 * self.layout.scale_stride
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kv::{KvDtype, pool::KvSlot},
        shape::{AttentionMask, KvKind, KvSpec},
    };

    #[test]
    fn a_block_comes_back_to_the_bit_wherever_it_is_put() {
        for dtype in [KvDtype::Bf16, KvDtype::F16, KvDtype::F32, KvDtype::Int8] {
            let spec = KvSpec {
                layers: 3,
                kind: KvKind::Heads { kv_heads: 2, head_dim: 5 },
                block_size: 8,
                dtype,
                mask: AttentionMask::Causal,
            };
            let mut pool = KvPool::new(&spec, 4).unwrap();
            let slot =
                |block, n: usize| KvSlot { layer: n % 3, block, head: n / 3 % 2, position: n / 6 };
            for n in 0..48 {
                let key = [n as f32, 0.5, -1.0, 2.0, 3.0];
                pool.write(slot(1, n), &key, &key.map(|x| -x)).unwrap();
            }
            let mut bytes = vec![7; 3];
            pool.save(BlockId(1), &mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, KvPool::block_bytes(&spec));
            pool.restore(BlockId(3), &bytes).unwrap();
            for n in 0..48 {
                let (back, was) = (slot(3, n), slot(1, n));
                assert_eq!(pool.scale(back), pool.scale(was));
                assert_eq!(pool.key(back, 0), pool.key(was, 0));
                assert_eq!(pool.value(back, 4), pool.value(was, 4));
                let value = pool.value(back, 4) * pool.scale(back).1;
                assert!((value + 3.0).abs() < 0.2, "{value}");
                assert_eq!(pool.key(slot(2, n), 1), 0.0, "its neighbor is as it was");
            }
            let mut again = Vec::new();
            pool.save(BlockId(3), &mut again).unwrap();
            assert_eq!(bytes, again);
            assert!(pool.restore(BlockId(3), &bytes[1..]).is_err());
            assert!(pool.restore(BlockId(4), &bytes).is_err());
            assert!(pool.save(BlockId(4), &mut again).is_err());
        }
    }
}
