//! KV blocks in the one layout that all devices agree on: `[block][key,
//! value][head][position][dim]`, little-endian in the pool's type, without padding; of a latent
//! pool `[block][position][element]`. What is imported is checked, then copied.

use crate::{
    backend::KvSpan,
    error::DeviceError,
    kv::pool::{KvData, KvLayout, KvPool, KvSlot, TILE},
};

impl KvPool {
    /// Puts the span into `bytes`, cleared first.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if there is no such layer, head or block.
    pub fn export(&self, span: &KvSpan<'_>, bytes: &mut Vec<u8>) -> Result<(), DeviceError> {
        self.check_span(span)?;
        bytes.clear();
        bytes.reserve(self.span_bytes(span));
        match &self.data {
            KvData::Bf16(data) | KvData::F16(data) => {
                self.runs(span, |first, count, step| {
                    let run = data[first..].iter().step_by(step).take(count);
                    bytes.extend(run.flat_map(|element| element.to_le_bytes()));
                });
            }
            KvData::F32(data) => self.runs(span, |first, count, step| {
                let run = data[first..].iter().step_by(step).take(count);
                bytes.extend(run.flat_map(|element| element.to_le_bytes()));
            }),
        }
        Ok(())
    }

    /// Stores what [`KvPool::export`] gave, to the bit.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if there is no such layer, head or block, or the size is wrong;
    /// nothing is changed then.
    pub fn import(&mut self, span: &KvSpan<'_>, bytes: &[u8]) -> Result<(), DeviceError> {
        self.check_span(span)?;
        if bytes.len() != self.span_bytes(span) {
            return Err(DeviceError::Contract(format!(
                "{} bytes of KV where {} were to come",
                bytes.len(),
                self.span_bytes(span)
            )));
        }
        let places = Places { layout: self.layout, block_size: self.spec().block_size };
        match &mut self.data {
            KvData::Bf16(data) | KvData::F16(data) => {
                let mut elements = bytes.as_chunks::<2>().0.iter();
                places.runs(span, |first, count, step| {
                    let run = data[first..].iter_mut().step_by(step).take(count);
                    for (to, from) in run.zip(&mut elements) {
                        *to = u16::from_le_bytes(*from);
                    }
                });
            }
            KvData::F32(data) => {
                let mut elements = bytes.as_chunks::<4>().0.iter();
                places.runs(span, |first, count, step| {
                    let run = data[first..].iter_mut().step_by(step).take(count);
                    for (to, from) in run.zip(&mut elements) {
                        *to = f32::from_le_bytes(*from);
                    }
                });
            }
        }
        Ok(())
    }

    fn runs(&self, span: &KvSpan<'_>, visit: impl FnMut(usize, usize, usize)) {
        Places { layout: self.layout, block_size: self.spec().block_size }.runs(span, visit);
    }

    fn check_span(&self, span: &KvSpan<'_>) -> Result<(), DeviceError> {
        if span.heads.is_empty() || span.layer >= self.spec().layers {
            return Err(DeviceError::Contract(format!("no KV span {span:?}")));
        }
        for block in span.blocks {
            let (layer, block) = (span.layer, block.0 as usize);
            self.check(KvSlot { layer, block, head: span.heads.end - 1, position: 0 })?;
        }
        Ok(())
    }

    fn span_bytes(&self, span: &KvSpan<'_>) -> usize {
        let parts = if self.layout.latent { 1 } else { 2 };
        let head = parts * self.spec().block_size * self.layout.head_dim * self.spec().dtype.size();
        span.blocks.len() * span.heads.len() * head
    }
}

/// Where a pool's elements are.
struct Places {
    layout: KvLayout,
    block_size: usize,
}

impl Places {
    /// Calls `visit` for each key and value of the span, in canonical order, with where its first
    /// element lies, how many there are, and how far apart they are.
    fn runs(&self, span: &KvSpan<'_>, mut visit: impl FnMut(usize, usize, usize)) {
        let (layout, layer) = (self.layout, span.layer);
        for block in span.blocks.iter().map(|block| block.0 as usize) {
            let parts: &[bool] = if layout.latent { &[true] } else { &[false, true] };
            for &is_value in parts {
                for head in span.heads.clone() {
                    for position in 0..self.block_size {
                        let slot = KvSlot { layer, block, head, position };
                        match is_value {
                            false => visit(layout.key(slot, 0), layout.head_dim, TILE),
                            true => visit(layout.value(slot, 0), layout.head_dim, 1),
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use troupe_runtime::id::BlockId;

    use super::*;
    use crate::{
        dtype::Dtype,
        shape::{AttentionMask, KvKind, KvSpec},
    };

    #[test]
    fn latent_blocks_are_rows_and_nothing_else() {
        let spec = KvSpec {
            layers: 2,
            kind: KvKind::Latent { width: 5 },
            block_size: 8,
            dtype: Dtype::F32,
            mask: AttentionMask::Causal,
        };
        let mut pool = KvPool::new(&spec, 3).unwrap();
        let slot = |position| KvSlot { layer: 1, block: 2, head: 0, position };
        let row = |position: usize| [0, 1, 2, 3, 4].map(|at| (position * 10 + at) as f32);
        (0..8).for_each(|position| pool.write_row(slot(position), &row(position)).unwrap());
        let span = KvSpan { layer: 1, heads: 0..1, blocks: &[BlockId(2)] };
        let mut bytes = Vec::new();
        pool.export(&span, &mut bytes).unwrap();
        assert_eq!(bytes.len(), 8 * 5 * 4);
        let elements = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        assert!(elements.eq((0..8).flat_map(row)));
        let to = KvSpan { layer: 0, heads: 0..1, blocks: &[BlockId(0)] };
        pool.import(&to, &bytes).unwrap();
        let there = KvSlot { layer: 0, block: 0, head: 0, position: 7 };
        assert_eq!((pool.key(there, 4), pool.value(there, 4)), (74.0, 74.0));
        assert!(pool.import(&to, &bytes[4..]).is_err());
        let mut saved = Vec::new();
        pool.save(BlockId(2), &mut saved).unwrap();
        pool.restore(BlockId(1), &saved).unwrap();
        assert_eq!(pool.key(KvSlot { block: 1, ..slot(3) }, 2), 32.0);
        assert!(pool.write(slot(0), &[0.0; 5], &[0.0; 5]).is_err(), "it has no heads");
        assert!(pool.write_row(slot(0), &[0.0; 4]).is_err());
    }

    #[test]
    fn blocks_survive_the_journey_between_shardings() {
        for dtype in [Dtype::Bf16, Dtype::F16, Dtype::F32] {
            let spec = |kv_heads, block_size| KvSpec {
                layers: 2,
                kind: KvKind::Heads { kv_heads, head_dim: 3 },
                block_size,
                dtype,
                mask: AttentionMask::Causal,
            };
            let mut whole = KvPool::new(&spec(4, 8), 5).unwrap();
            let slot = |position, head| KvSlot { layer: 1, block: 3, head, position };
            for position in 0..8 {
                for head in 0..4 {
                    let key = [position as f32, head as f32, 0.5];
                    whole.write(slot(position, head), &key, &key.map(|x| -x)).unwrap();
                }
            }
            let mut half = KvPool::new(&spec(2, 8), 2).unwrap();
            let mut bytes = Vec::new();
            let from = KvSpan { layer: 1, heads: 2..4, blocks: &[BlockId(3), BlockId(0)] };
            whole.export(&from, &mut bytes).unwrap();
            let to = KvSpan { layer: 0, heads: 0..2, blocks: &[BlockId(1), BlockId(0)] };
            half.import(&to, &bytes).unwrap();
            let there = KvSlot { layer: 0, block: 1, head: 1, position: 6 };
            assert_eq!([0, 1, 2].map(|dim| half.key(there, dim)), [6.0, 3.0, 0.5]);
            assert_eq!([0, 1, 2].map(|dim| half.value(there, dim)), [-6.0, -3.0, -0.5]);
            let mut again = Vec::new();
            half.export(&to, &mut again).unwrap();
            assert_eq!(bytes, again);
            assert!(half.import(&to, &bytes[1..]).is_err());
            let blocks = [BlockId(2)];
            assert!(half.export(&KvSpan { blocks: &blocks, ..to.clone() }, &mut again).is_err());
            assert!(half.export(&KvSpan { heads: 0..3, ..to.clone() }, &mut again).is_err());
            assert!(half.export(&KvSpan { layer: 2, ..to }, &mut again).is_err());
        }
    }
}
