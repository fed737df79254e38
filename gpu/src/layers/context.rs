//! What the layers of one rank work with: the device, the activations of the step under way, and
//! the other ranks of the stage.
//!
//! Activations are allocated once, for the largest step, and every layer uses the same ones; their
//! names say what is in them. Layers read and write them through disjoint fields, so nothing here
//! is behind a lock or a reference count.

use troupe_runtime::id::StepId;

use crate::{
    backend::{Activations, Backend, KvSpan},
    collective::{Alone, Collective},
    dtype::Dtype,
    error::DeviceError,
    executor::{KvReader, KvTap},
    layers::{norm::RmsNorm, rotary::Rotary},
    lora::Bank,
    shape::KvAt,
    weights::Shard,
};

/// One rank's device with its working memory.
pub struct Context<B: Backend> {
    /// The device.
    pub backend: B,
    /// The other ranks.
    pub group: TensorGroup<B>,
    /// Activations of the step.
    pub activations: StepActivations<B>,
    /// Adapters, and which rows of the step use them.
    pub adapters: Bank<B>,
}

/// Activations that layers hand to each other.
#[derive(Debug)]
pub struct StepActivations<B: Backend> {
    /// The residual stream, `[rows, hidden]`: what enters and leaves every layer.
    pub residual: B::Buffer,
    /// The normed residual stream, input of the products.
    pub normed: B::Buffer,
    /// This rank's fused query, key and value heads.
    pub qkv: B::Buffer,
    /// This rank's attention output.
    pub attended: B::Buffer,
    /// This rank's feed-forward layer, outside of experts.
    pub gated: Gated<B>,
    /// The same of the part of a layer of experts that all tokens use.
    pub shared: Gated<B>,
    /// What half a layer gives before it is normed and added to the residual stream, `[rows,
    /// hidden]`.
    pub branch: B::Buffer,
    /// What a feed-forward layer without a gate has between its products.
    pub inner: B::Buffer,
    /// Compressed queries of latent attention.
    pub compressed: B::Buffer,
    /// Rows of latent attention.
    pub latent: B::Buffer,
}

/// Activations of a gated feed-forward layer.
#[derive(Debug)]
pub struct Gated<B: Backend> {
    /// This rank's fused gate and up products.
    pub gate_up: B::Buffer,
    /// What comes of them, half as wide.
    pub gated: B::Buffer,
}

/// How wide a rank's activations are; 0 is an activation that the model has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Widths {
    /// The residual stream.
    pub hidden: usize,
    /// Fused query, key and value heads of this rank; with latent attention, query heads.
    pub qkv: usize,
    /// What this rank's heads give.
    pub attended: usize,
    /// Feed-forward width of this rank, outside of experts.
    pub gated: usize,
    /// That of the part of a layer of experts that all tokens use.
    pub shared: usize,
    /// The residual stream's, if halves of a layer are normed before they are added.
    pub branch: usize,
    /// Feed-forward width of this rank, if there is no gate.
    pub inner: usize,
    /// Compressed queries.
    pub compressed: usize,
    /// A latent row.
    pub latent: usize,
}

/// What one pass through the layers of a stage is given beside the context.
pub struct Pass<'a, B: Backend> {
    /// The prepared step.
    pub meta: &'a B::StepMeta,
    /// One pool per KV group.
    pub kv: &'a mut [B::Kv],
    /// Rotary tables.
    pub rotary: &'a Rotary<B>,
    /// Told of each layer whose KV is written.
    pub tap: &'a mut dyn KvTap,
}

/// One group's KV, as a tap reads it.
struct Reader<'a, B: Backend> {
    backend: &'a mut B,
    kv: &'a B::Kv,
}

/// This rank among the tensor-parallel ranks of its stage.
pub struct TensorGroup<B: Backend> {
    collective: Box<dyn Collective>,
    shard: Shard,
    /// Only where there are other ranks.
    sums: Option<Sums<B>>,
    /// Values on the host, on their way from or to other ranks.
    values: Vec<f32>,
    bytes: Vec<u8>,
}

/// Products before and after they are summed over ranks, `[rows, hidden]`.
struct Sums<B: Backend> {
    /// In `f32`, so that what is added up has not been rounded.
    partial: B::Buffer,
    reduced: B::Buffer,
}

// === impl Context ===

impl<B: Backend> Context<B> {
    /// `normed = norm(residual)`.
    ///
    /// # Errors
    /// The backend's.
    pub fn norm_residual(&mut self, norm: &RmsNorm<B>) -> Result<(), DeviceError> {
        let StepActivations { residual, normed, .. } = &mut self.activations;
        self.backend.rms_norm(residual, norm.call(), normed)
    }

    /// `residual += norm(branch)`.
    ///
    /// # Errors
    /// The backend's.
    pub fn add_normed_branch(&mut self, norm: &RmsNorm<B>) -> Result<(), DeviceError> {
        let StepActivations { residual, normed, branch, .. } = &mut self.activations;
        self.backend.rms_norm(branch, norm.call(), normed)?;
        self.backend.add(normed, residual)
    }
}

// === impl Pass ===

impl<B: Backend> Pass<'_, B> {
    /// A layer is through: whoever watches may read its KV.
    pub fn layer_done(&mut self, at: KvAt, backend: &mut B) {
        if let Some(kv) = self.kv.get(at.group) {
            self.tap.layer(at, &mut Reader { backend, kv });
        }
    }
}

impl<B: Backend> KvReader for Reader<'_, B> {
    fn export(&mut self, span: &KvSpan<'_>, bytes: &mut Vec<u8>) -> Result<(), DeviceError> {
        self.backend.export_kv(self.kv, span, bytes)
    }
}

// === impl StepActivations ===

impl<B: Backend> StepActivations<B> {
    /// Room for steps of `rows` rows.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    pub fn new(backend: &mut B, rows: usize, widths: Widths) -> Result<Self, DeviceError> {
        let (rows, dtype) = (backend.pad_rows(rows), backend.activation_dtype());
        // A device has no buffers without columns, and one of a column costs next to nothing.
        let mut alloc = |columns: usize| backend.alloc(rows, columns.max(1), dtype);
        Ok(Self {
            residual: alloc(widths.hidden)?,
            normed: alloc(widths.hidden)?,
            qkv: alloc(widths.qkv)?,
            attended: alloc(widths.attended)?,
            gated: Gated { gate_up: alloc(2 * widths.gated)?, gated: alloc(widths.gated)? },
            shared: Gated { gate_up: alloc(2 * widths.shared)?, gated: alloc(widths.shared)? },
            branch: alloc(widths.branch)?,
            inner: alloc(widths.inner)?,
            compressed: alloc(widths.compressed)?,
            latent: alloc(widths.latent)?,
        })
    }
}

// === impl TensorGroup ===

impl<B: Backend> TensorGroup<B> {
    /// The ranks that `collective` connects, with room to sum `rows` rows of `hidden` columns.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    pub fn new(
        backend: &mut B,
        collective: Box<dyn Collective>,
        (rows, hidden): (usize, usize),
    ) -> Result<Self, DeviceError> {
        let shard = Shard::new(collective.rank(), collective.ranks())?;
        let rows = backend.pad_rows(rows);
        let sums = if shard.is_divided() {
            let partial = backend.alloc(rows, hidden, Dtype::F32)?;
            let reduced = backend.alloc(rows, hidden, backend.activation_dtype())?;
            Some(Sums { partial, reduced })
        } else {
            None
        };
        Ok(Self { collective, shard, sums, values: Vec::new(), bytes: Vec::new() })
    }

    /// Which rank this is.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// Names the step that follows, so that ranks in different steps notice.
    pub fn begin_step(&mut self, step: StepId) {
        self.collective.begin_step(step);
    }

    /// Drops this rank's end, so that the others fail at once instead of waiting for it. To be
    /// called when a step failed here; nothing may be summed afterwards.
    pub fn abandon(&mut self) {
        self.collective = Box::new(Alone);
    }

    /// `residual += sum over ranks of product`, where `product` writes this rank's part of it into
    /// the `f32` buffer that it is given. Only where there are other ranks.
    ///
    /// # Errors
    /// Those of `product`; [`DeviceError::Collective`].
    pub fn add_sum(
        &mut self,
        backend: &mut B,
        residual: &mut B::Buffer,
        product: impl FnOnce(&mut B, &mut B::Buffer) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let Some(mut sums) = self.sums.take() else {
            return Err(DeviceError::Contract("a sum over one rank".to_owned()));
        };
        let reduced = self.sum(backend, &mut sums.partial, &mut sums.reduced, product);
        let added = reduced.and_then(|()| backend.add(&sums.reduced, residual));
        self.sums = Some(sums);
        added
    }

    /// `out = sum over ranks of product`, as [`Self::add_sum`]; here one rank alone is fine too.
    ///
    /// # Errors
    /// Those of `product`; [`DeviceError::Collective`].
    pub fn store_sum(
        &mut self,
        backend: &mut B,
        out: &mut B::Buffer,
        product: impl FnOnce(&mut B, &mut B::Buffer) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let Some(mut sums) = self.sums.take() else {
            return product(backend, out);
        };
        let stored = self.sum(backend, &mut sums.partial, out, product);
        self.sums = Some(sums);
        stored
    }

    fn sum(
        &mut self,
        backend: &mut B,
        partial: &mut B::Buffer,
        out: &mut B::Buffer,
        product: impl FnOnce(&mut B, &mut B::Buffer) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        product(backend, partial)?;
        backend.download_f32(partial, &mut self.values)?;
        self.collective.all_reduce(&mut self.values)?;
        encode(out.dtype(), &self.values, &mut self.bytes);
        backend.upload(out, partial.rows(), 0..partial.columns(), &self.bytes)
    }

    /// The magnitudes by which `weight` rounds its input, of which this rank has `x`: the largest
    /// of all ranks. None where nothing is rounded by such.
    ///
    /// # Errors
    /// The backend's; [`DeviceError::Collective`].
    pub fn input_peaks(
        &mut self,
        backend: &mut B,
        x: &B::Buffer,
        weight: &B::Linear,
    ) -> Result<Option<Vec<f32>>, DeviceError> {
        let mut peaks = Vec::new();
        backend.input_peaks(x, weight, &mut peaks)?;
        if peaks.is_empty() || !self.shard.is_divided() {
            return Ok(None);
        }
        // Each rank adds its own to zeros, so that every rank has all of them.
        let (size, ranks) = (peaks.len(), self.shard.ranks());
        self.values.clear();
        self.values.resize(size * ranks, 0.0);
        self.values[self.shard.rank() * size..][..size].copy_from_slice(&peaks);
        self.collective.all_reduce(&mut self.values)?;
        for theirs in self.values.chunks_exact(size) {
            for (peak, other) in peaks.iter_mut().zip(theirs) {
                // One that is no number makes the row none on every rank.
                *peak = if *other > *peak || other.is_nan() { *other } else { *peak };
            }
        }
        Ok(Some(peaks))
    }

    /// Replaces `buffer` by its sum over all ranks; nothing to do where there are no others.
    ///
    /// # Errors
    /// [`DeviceError::Collective`].
    pub fn all_reduce(
        &mut self,
        backend: &mut B,
        buffer: &mut B::Buffer,
    ) -> Result<(), DeviceError> {
        if !self.shard.is_divided() {
            return Ok(());
        }
        let (dtype, columns) = (buffer.dtype(), 0..buffer.columns());
        backend.download(buffer, columns.clone(), &mut self.bytes)?;
        decode(dtype, &self.bytes, &mut self.values);
        self.collective.all_reduce(&mut self.values)?;
        encode(dtype, &self.values, &mut self.bytes);
        backend.upload(buffer, buffer.rows(), columns, &self.bytes)
    }

    /// Appends the rows of all ranks to `rows` at rank 0, those of one row side by side in rank
    /// order: rank `r` has `widths[r]` columns. Other ranks append nothing.
    ///
    /// # Errors
    /// [`DeviceError::Collective`].
    pub fn gather_columns(
        &mut self,
        own: &[f32],
        widths: &[usize],
        rows: &mut Vec<f32>,
    ) -> Result<(), DeviceError> {
        if !self.shard.is_divided() {
            rows.extend_from_slice(own);
            return Ok(());
        }
        self.collective.gather(own, &mut self.values)?;
        if !self.shard.is_first() {
            return Ok(());
        }
        let width: usize = widths.iter().sum();
        let count = self.values.len() / width;
        if self.values.len() != count * width || own.len() != count * widths[0] {
            let why = format!("{} values are no rows of {width}", self.values.len());
            return Err(DeviceError::Collective(why));
        }
        rows.reserve(self.values.len());
        for row in 0..count {
            let mut before = 0;
            for columns in widths {
                let start = before * count + row * columns;
                rows.extend_from_slice(&self.values[start..start + columns]);
                before += columns;
            }
        }
        Ok(())
    }
}

fn encode(dtype: Dtype, values: &[f32], bytes: &mut Vec<u8>) {
    bytes.clear();
    if dtype == Dtype::F32 {
        bytes.resize(values.len() * 4, 0);
        let (chunks, _) = bytes.as_chunks_mut::<4>();
        chunks.iter_mut().zip(values).for_each(|(chunk, value)| *chunk = value.to_le_bytes());
        return;
    }
    bytes.reserve(values.len() * dtype.size());
    values.iter().for_each(|&value| dtype.write(bytes, value));
}

fn decode(dtype: Dtype, bytes: &[u8], values: &mut Vec<f32>) {
    values.clear();
    values.extend((0..bytes.len() / dtype.size()).map(|index| dtype.read(bytes, index)));
}
