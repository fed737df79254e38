//! KV blocks in the one layout that all devices agree on: `[block][key,
//! value][head][position][dim]`, little-endian in the pool's type, without padding; of a latent
//! pool `[block][position][element]`. Behind the elements of a key or value stands its scale, an
//! `f32`, where the type has scales. What is imported is checked, then copied.

use crate::{
    backend::KvSpan,
    cpu::pairs::without_tiny,
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
        let count = self.layout.head_dim;
        match &self.data {
            KvData::Bf16(data) | KvData::F16(data) => self.rows(span, |row| {
                let run = data[row.first..].iter().step_by(row.step).take(count);
                bytes.extend(run.flat_map(|element| element.to_le_bytes()));
            }),
            KvData::F32(data) => self.rows(span, |row| {
                let run = data[row.first..].iter().step_by(row.step).take(count);
                bytes.extend(run.flat_map(|element| element.to_le_bytes()));
            }),
            KvData::Int8(data) => self.rows(span, |row| {
                let run = data[row.first..].iter().step_by(row.step).take(count);
                bytes.extend(run.map(|element| element.cast_unsigned()));
                bytes.extend(self.scales[row.scale].to_le_bytes());
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
        let count = self.layout.head_dim;
        let mut rows = bytes.chunks_exact(self.spec().dtype.row_bytes(count));
        match &mut self.data {
            KvData::Bf16(data) if !places.layout.latent => places.rows(span, |row| {
                let from = rows.next().unwrap_or_default().as_chunks::<2>().0.iter();
                let run = data[row.first..].iter_mut().step_by(row.step).take(count);
                // As it would have been written here.
                run.zip(from).for_each(|(to, from)| *to = without_tiny(u16::from_le_bytes(*from)));
            }),
            KvData::Bf16(data) | KvData::F16(data) => places.rows(span, |row| {
                let from = rows.next().unwrap_or_default().as_chunks::<2>().0.iter();
                let run = data[row.first..].iter_mut().step_by(row.step).take(count);
                run.zip(from).for_each(|(to, from)| *to = u16::from_le_bytes(*from));
            }),
            KvData::F32(data) => places.rows(span, |row| {
                let from = rows.next().unwrap_or_default().as_chunks::<4>().0.iter();
                let run = data[row.first..].iter_mut().step_by(row.step).take(count);
                run.zip(from).for_each(|(to, from)| *to = f32::from_le_bytes(*from));
            }),
            KvData::Int8(data) => places.rows(span, |row| {
                let (from, scale) = rows.next().unwrap_or_default().split_at(count);
                let run = data[row.first..].iter_mut().step_by(row.step).take(count);
                run.zip(from).for_each(|(to, from)| *to = from.cast_signed());
                let scale = scale.as_chunks::<4>().0.iter();
                scale.for_each(|scale| self.scales[row.scale] = f32::from_le_bytes(*scale));
            }),
        }
        Ok(())
    }

    fn rows(&self, span: &KvSpan<'_>, visit: impl FnMut(Row)) {
        Places { layout: self.layout, block_size: self.spec().block_size }.rows(span, visit);
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
        let row = self.spec().dtype.row_bytes(self.layout.head_dim);
        let head = parts * self.spec().block_size * row;
        span.blocks.len() * span.heads.len() * head
    }
}

/// Where a pool's elements are.
struct Places {
    layout: KvLayout,
    block_size: usize,
}

impl Places {
    /// Calls `visit` for each key and value of the span, in canonical order.
    fn rows(&self, span: &KvSpan<'_>, mut visit: impl FnMut(Row)) {
        let (layout, layer) = (self.layout, span.layer);
        for block in span.blocks.iter().map(|block| block.0 as usize) {
            let parts: &[bool] = if layout.latent { &[true] } else { &[false, true] };
            for &is_value in parts {
                for head in span.heads.clone() {
                    for position in 0..self.block_size {
                        let slot = KvSlot { layer, block, head, position };
                        let (key, value) = layout.scales_of(slot);
                        visit(match is_value {
                            false => Row { first: layout.key(slot, 0), step: TILE, scale: key },
                            true => Row { first: layout.value(slot, 0), step: 1, scale: value },
                        });
                    }
                }
            }
        }
    }
}

/// One key or value: where its first element lies, how far apart they are, and where its scale is
/// if the type has scales.
struct Row {
    first: usize,
    step: usize,
    scale: usize,
}

#[cfg(test)]
mod tests {
    use troupe_runtime::{
        id::BlockId,
        wire::transfer::{KvForm, KvShare, Run},
    };

    use super::*;
    use crate::{
        kv::KvDtype,
        shape::{AttentionMask, KvKind, KvSpec},
    };

    #[test]
    fn latent_blocks_are_rows_and_nothing_else() {
        let spec = KvSpec {
            layers: 2,
            kind: KvKind::Latent { width: 5 },
            block_size: 8,
            dtype: KvDtype::F32,
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
        for dtype in [KvDtype::Bf16, KvDtype::F16, KvDtype::F32, KvDtype::Int8] {
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
            let slot = slot(6, 3);
            assert_eq!(half.scale(there), whole.scale(slot));
            for dim in 0..3 {
                assert_eq!(half.key(there, dim), whole.key(slot, dim));
                assert_eq!(half.value(there, dim), whole.value(slot, dim));
            }
            let key = half.key(there, 1) * half.scale(there).0;
            assert!((key - 3.0).abs() < 0.05, "{key}");
            assert!(half.value(there, 0) < 0.0);
            let share = KvShare {
                group: 0,
                layers: Run::new(0, 2),
                heads: Run::new(0, 4),
                form: KvForm::Heads(3),
                dtype: dtype.wire(),
                block_size: 8,
            };
            // Two blocks of two heads, as groups expect them of each other.
            assert_eq!(share.piece_bytes(), Some(bytes.len() / 4), "{dtype}");
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
