//! Attention on the device: rotation and KV, heads, and latent rows.

use super::{
    buffer::CudaBuffer,
    device::CudaDevice,
    driver::Driver,
    kv::CudaKv,
    launch::{
        Rows,
        attention::{Attention, Phase},
        kv::{self, Angles},
        latent, number,
    },
    memory::{Allocation, extent},
    step::CudaStep,
};
use crate::{
    backend::{Activations, KvStep, LatentCall, PreparedLinear, RopeSpec, StepRows},
    error::DeviceError,
    shape::{AttentionMask, AttentionSpec, HeadShape, KvKind, LatentShape},
    step::KvBlocks,
};

type Done = Result<(), DeviceError>;

/// Rotary tables on the device.
#[derive(Debug)]
pub struct CudaRope<D: Driver> {
    table: Allocation<D>,
    pairs: usize,
    positions: usize,
}

impl<D: Driver> CudaRope<D> {
    /// `[position][pair]` of (cosine, sine).
    pub(super) fn new(device: &CudaDevice<D>, spec: &RopeSpec<'_>) -> Result<Self, DeviceError> {
        let factor = f64::from(spec.attention_factor);
        let table: Vec<f32> = (0..spec.positions)
            .flat_map(|position| {
                spec.inverse_frequencies.iter().flat_map(move |frequency| {
                    let angle = f64::from(position as f32 * frequency);
                    [(angle.cos() * factor) as f32, (angle.sin() * factor) as f32]
                })
            })
            .collect();
        let driver = device.shared_driver();
        Ok(Self {
            table: Allocation::holding(&driver, bytemuck::cast_slice(&table))?,
            pairs: spec.inverse_frequencies.len(),
            positions: spec.positions,
        })
    }

    /// The table, if its pairs fit `dim` elements and it has `positions`.
    fn angles(&self, dim: usize, positions: usize) -> Result<Angles, DeviceError> {
        if self.pairs * 2 > dim || self.positions < positions {
            return Err(DeviceError::Contract(format!(
                "{} rotated pairs and {} positions for heads of {dim} and {positions} positions",
                self.pairs, self.positions
            )));
        }
        Ok(Angles { at: self.table.all(), pairs: number(self.pairs)? })
    }
}

impl<D: Driver> CudaDevice<D> {
    /// [`crate::backend::Backend::rope_write_kv`].
    pub(super) fn rotate_and_store(
        &mut self,
        step: KvStep<'_, Self>,
        qkv: &mut CudaBuffer<D>,
        heads: HeadShape,
        rope: Option<&CudaRope<D>>,
        kv: &mut CudaKv<D>,
    ) -> Done {
        expect_heads(&step, qkv, heads, kv)?;
        let positions = step.meta.host().limits().max_model_len;
        let angles = rope.map(|rope| rope.angles(heads.head_dim, positions)).transpose()?;
        let (rows, layer) = (self.view(qkv)?, kv.layer(step.at.layer)?);
        let places = step.meta.places(step.at.group)?;
        self.run(kv::rope_write_kv(rows, number(heads.query_heads)?, angles, places, &layer))
    }

    /// [`crate::backend::Backend::attention`].
    pub(super) fn attend(
        &mut self,
        step: KvStep<'_, Self>,
        qkv: &CudaBuffer<D>,
        spec: &AttentionSpec,
        kv: &CudaKv<D>,
        out: &mut CudaBuffer<D>,
    ) -> Done {
        expect_heads(&step, qkv, spec.heads, kv)?;
        if !spec.mask.within(kv.spec().mask) {
            let why = format!("{:?} in a group of {:?}", spec.mask, kv.spec().mask);
            return Err(DeviceError::Contract(why));
        }
        out.expect_columns(spec.heads.query_columns())?;
        out.expect_dtype(qkv.dtype())?;
        let (query, out) = self.pair(qkv, out)?;
        let places = step.meta.places(step.at.group)?;
        let attention = Attention {
            query,
            query_stride: query.columns,
            heads: number(spec.heads.query_heads)?,
            out,
            kv: kv.layer(step.at.layer)?,
            positions: places.positions,
            ends: step.meta.ends()?,
            tables: places.tables,
            width: places.width,
            scale: spec.scale,
            mask: spec.mask,
            soft_cap: spec.soft_cap,
        };
        self.decode_tiles(&attention, step.meta)?;
        let Some(tiles) = step.meta.prefill_tiles()? else { return Ok(()) };
        let kernel = attention.kernel(Phase::Prefill, self.driver.facts().shared_memory)?;
        self.run(attention.run(kernel, tiles, None))
    }

    /// The sequences of one row each, which come first: divided by spans if they are few. What that
    /// leaves in rows behind them, the tiles of those rows write over.
    fn decode_tiles(&mut self, attention: &Attention, meta: &CudaStep<D>) -> Done {
        let Some(tiles) = meta.decode_tiles()? else { return Ok(()) };
        let kernel = attention.kernel(Phase::Decode, self.driver.facts().shared_memory)?;
        let rows = number(meta.decode_rows())?;
        if !attention.is_split(rows, self.units()) {
            return self.run(attention.run(kernel, tiles, None));
        }
        let partial = self.scratch.partial.reserve(attention.partial_bytes(rows))?;
        self.run(attention.run(kernel, tiles, Some(partial)))?;
        self.run(attention.combine((tiles, rows), partial, meta.sequence_of()?))
    }

    /// [`crate::backend::Backend::write_latent`].
    pub(super) fn store_latent(
        &mut self,
        step: KvStep<'_, Self>,
        query: &mut CudaBuffer<D>,
        latent: &mut CudaBuffer<D>,
        call: LatentCall<'_, Self>,
        kv: &mut CudaKv<D>,
    ) -> Done {
        let shape = call.shape;
        expect_call(&call)?;
        expect_latent(&step, query, shape, kv)?;
        latent.expect_columns(shape.width())?;
        latent.expect_dtype(query.dtype())?;
        if latent.rows() != query.rows() {
            let why = format!("{} latent rows for {} queries", latent.rows(), query.rows());
            return Err(DeviceError::Contract(why));
        }
        let positions = step.meta.host().limits().max_model_len;
        let angles = call.rope.angles(shape.rope_dim, positions)?;
        if angles.pairs as usize * 2 != shape.rope_dim {
            let why = format!("{} rotated pairs of {} elements", angles.pairs, shape.rope_dim);
            return Err(DeviceError::Contract(why));
        }
        let (queries, rows) = (self.view(query)?, self.view(latent)?);
        let heads = (number(shape.heads)?, number(shape.query_dim())?);
        let (places, layer) = (step.meta.places(step.at.group)?, kv.layer(step.at.layer)?);
        let angles = (angles, shape.interleaved);
        self.run(kv::write_latent((queries, rows), heads, angles, places, &layer))
    }

    /// [`crate::backend::Backend::latent_attention`]: queries go into the space of the rows, attend
    /// there, and each head's values are made of what comes out.
    pub(super) fn attend_latent(
        &mut self,
        step: KvStep<'_, Self>,
        query: &CudaBuffer<D>,
        call: LatentCall<'_, Self>,
        kv: &CudaKv<D>,
        out: &mut CudaBuffer<D>,
    ) -> Done {
        let shape = call.shape;
        expect_call(&call)?;
        expect_latent(&step, query, shape, kv)?;
        out.expect_columns(shape.heads * shape.value_dim)?;
        out.expect_dtype(query.dtype())?;
        let (query, out) = self.pair(query, out)?;
        if query.rows == 0 {
            return Ok(());
        }
        let heads = number(shape.heads)?;
        let rows = query.rows.checked_mul(heads);
        let rows = rows.ok_or_else(|| DeviceError::Contract("too many latent rows".into()))?;
        let mut room = |place: usize, columns: usize| {
            let bytes = extent(&[rows as usize, columns, query.dtype.size()])?;
            let at = self.scratch.latent[place].reserve(bytes)?;
            Ok::<_, DeviceError>(Rows { at, rows, columns: number(columns)?, dtype: query.dtype })
        };
        let (nope, absorbed) = (room(0, shape.nope_dim)?, room(1, shape.rank)?);
        let (attended, values) = (room(2, shape.rank)?, room(3, shape.value_dim)?);
        self.run(latent::split_heads((query, heads), number(shape.query_dim())?, nope))?;
        self.by_heads(nope, (call.absorb, query.rows), absorbed)?;
        let places = step.meta.places(step.at.group)?;
        let attention = Attention {
            query: absorbed,
            query_stride: number(shape.query_dim())?,
            heads,
            out: attended,
            kv: kv.layer(step.at.layer)?,
            positions: places.positions,
            ends: step.meta.ends()?,
            tables: places.tables,
            width: places.width,
            scale: call.scale,
            mask: AttentionMask::Causal,
            soft_cap: None,
        };
        let kernel = attention.latent_kernel(self.driver.facts().shared_memory)?;
        let tiles = [step.meta.decode_tiles()?, step.meta.prefill_tiles()?];
        for tiles in tiles.into_iter().flatten() {
            self.run(attention.latent(kernel, tiles, query))?;
        }
        self.by_heads(attended, (call.expand, query.rows), values)?;
        self.run(latent::merge_heads(values, (out, heads)))
    }

    /// A product of its own for each head's `each` rows.
    fn by_heads(
        &mut self,
        x: Rows,
        (weights, each): (&[super::weights::CudaLinear<D>], u32),
        out: Rows,
    ) -> Done {
        let ends = self.even_ends(each, number(weights.len())?)?;
        self.grouped(x, (weights, ends, each), out)
    }
}

/// Fails unless rows, heads, tables and KV belong together.
fn expect_heads<D: Driver>(
    step: &KvStep<'_, CudaDevice<D>>,
    qkv: &CudaBuffer<D>,
    heads: HeadShape,
    kv: &CudaKv<D>,
) -> Done {
    heads.check()?;
    qkv.expect_columns(heads.fused_columns())?;
    let kind = KvKind::Heads { kv_heads: heads.kv_heads, head_dim: heads.head_dim };
    expect_kv(step, qkv, kind, kv)
}

/// Fails unless rows, heads, tables and a latent KV belong together.
fn expect_latent<D: Driver>(
    step: &KvStep<'_, CudaDevice<D>>,
    query: &CudaBuffer<D>,
    shape: LatentShape,
    kv: &CudaKv<D>,
) -> Done {
    query.expect_columns(shape.heads * shape.query_dim())?;
    expect_kv(step, query, KvKind::Latent { width: shape.width() }, kv)
}

fn expect_kv<D: Driver>(
    step: &KvStep<'_, CudaDevice<D>>,
    rows: &CudaBuffer<D>,
    kind: KvKind,
    kv: &CudaKv<D>,
) -> Done {
    if kv.spec().kind != kind {
        return Err(DeviceError::Contract(format!("{kind:?} with KV of {:?}", kv.spec().kind)));
    }
    let meta = step.meta.host();
    let fits = meta.groups.get(step.at.group).is_some_and(|tables| tables.fits(kv));
    match fits && step.at.layer < kv.spec().layers && rows.rows() == meta.rows() {
        true => Ok(()),
        false => {
            let why = format!("{:?}, {} rows of {}", step.at, rows.rows(), meta.rows());
            Err(DeviceError::Contract(why))
        }
    }
}

/// Fails unless there are products for each head, of the right sizes.
fn expect_call<D: Driver>(call: &LatentCall<'_, CudaDevice<D>>) -> Done {
    let shape = call.shape;
    shape.check()?;
    let fits = |all: &[super::weights::CudaLinear<D>], inputs, outputs| {
        all.len() == shape.heads
            && all.iter().all(|one| (one.in_features(), one.out_features()) == (inputs, outputs))
    };
    let right = fits(call.absorb, shape.nope_dim, shape.rank)
        && fits(call.expand, shape.rank, shape.value_dim);
    match right {
        true => Ok(()),
        false => Err(DeviceError::Contract(format!("products that are not those of {shape:?}"))),
    }
}
