//! `Backend`: what a device can do. Models are generic over it and are monomorphised, so that one
//! model file serves every device.
//!
//! # Contract of every operation
//! - **Enqueue only.** An operation may return before it has happened; operations of one backend
//!   happen in the order of the calls. Nothing in a forward pass reads a value back; only
//!   [`Backend::download`] and [`Backend::export_kv`] wait. On the CPU everything happens at once.
//! - **Rows.** A buffer has a capacity of rows, fixed when it was made, and a number of live rows.
//!   An operation works on the live rows of its input and makes as many rows of its output live;
//!   an output whose capacity or width does not fit is [`DeviceError::Contract`]. Dead rows hold
//!   anything.
//! - **Aliasing.** What is written is `&mut`, so no output overlaps an input.
//! - **Types.** Activations are in [`Backend::activation_dtype`], sums are in `f32`. A buffer of
//!   [`Dtype::F32`] is always allowed as the output of [`Backend::linear`] (logits).
//! - **Errors.** A contract error changes nothing. After any other the rank is unusable.
//!
//! # Batch invariance
//! A row's result is the same to the bit whatever other rows, sequences, chunks, threads or kernel
//! path it was computed with: each operation has one reduction order, a function of shape constants
//! only. The CPU's orders are stated in [`crate::cpu`]. A stream that moves to another group, or a
//! preempted one that recomputes by prefill what it had by decode, rests on this.

mod calls;

use std::{fmt::Debug, ops::Range};

use troupe_runtime::{id::BlockId, model::config::Routing};

use crate::{
    dtype::Dtype,
    error::DeviceError,
    executor::StepBatch,
    lora::weights::LoraRows,
    memory::Limits,
    shape::{AttentionSpec, HeadShape, KvSpec},
    tensor::{DenseMatrix, LinearSource},
};

pub use self::calls::{KvStep, LatentCall, LayerNorm, Norm};

type Done = Result<(), DeviceError>;

/// One device. Owned by one thread; see the module for what holds for all operations.
pub trait Backend: Send + 'static {
    /// Row-major activations `[capacity, columns]` on the device.
    type Buffer: Activations;
    /// Prepared weights of a linear layer.
    type Linear: PreparedLinear;
    /// A short `f32` vector on the device: norm weights.
    type Vector: Send + Debug;
    /// Rotary tables.
    type Rope: Send + Debug;
    /// The KV of one group for this rank's layers.
    type Kv: Send + Debug;
    /// A step's metadata on the device, reused from step to step.
    type StepMeta: StepRows;

    // --- The device -----------------------------------------------------------------------------

    /// Backend and kernel path, such as `cpu/avx512`: part of the execution fingerprint.
    fn kernel_path(&self) -> &'static str;

    /// Element type of activations between operations, and of hidden states between stages.
    fn activation_dtype(&self) -> Dtype;

    /// The rows that a step of `rows` rows is computed with: `rows` rounded up the backend's size
    /// ladder. Buffers of `pad_rows(max_batched_tokens)` rows are large enough for every step.
    fn pad_rows(&self, rows: usize) -> usize;

    /// Waits until everything enqueued has happened.
    ///
    /// # Errors
    /// [`DeviceError::Failed`] if an operation did.
    fn synchronize(&mut self) -> Done;

    // --- Memory and weights: at load time -------------------------------------------------------

    /// A buffer of zeros with no live rows.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    fn alloc(
        &mut self,
        capacity: usize,
        columns: usize,
        dtype: Dtype,
    ) -> Result<Self::Buffer, DeviceError>;

    /// Takes weights over, in whatever layout the kernels want; the source is not needed after.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] on parts whose widths differ; [`DeviceError::Unsupported`] on a
    /// format that this backend has not.
    fn prepare_linear(&mut self, source: &LinearSource<'_>) -> Result<Self::Linear, DeviceError>;

    /// Does some milliseconds of what preparing put off; says whether there may be more. It changes
    /// what later operations cost and nothing else.
    fn settle(&mut self) -> bool {
        false
    }

    /// Takes a `[1, n]` vector over, widened to `f32`.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if there is more than one row.
    fn prepare_vector(&mut self, source: &DenseMatrix<'_>) -> Result<Self::Vector, DeviceError>;

    /// Tables of `cos(p * f) * attention_factor` and the same with sine for every position `p`
    /// below `positions` and every `f` of `inverse_frequencies`. The product `p * f` is rounded to
    /// `f32`.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    fn prepare_rope(&mut self, spec: &RopeSpec<'_>) -> Result<Self::Rope, DeviceError>;

    /// Allocates one KV group's pool of `blocks` blocks, zeroed. Called once per group.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`], [`DeviceError::Unsupported`] for a kind that it has not.
    fn allocate_kv(&mut self, spec: &KvSpec, blocks: u32) -> Result<Self::Kv, DeviceError>;

    /// Bytes of one block as this backend lays it out, over all of the spec's layers.
    fn kv_block_bytes(&self, spec: &KvSpec) -> u64;

    /// An empty step of the given limits. One for every step that may be in flight.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] on impossible limits, [`DeviceError::OutOfMemory`].
    fn step_meta(&mut self, limits: &Limits) -> Result<Self::StepMeta, DeviceError>;

    // --- Moving values --------------------------------------------------------------------------

    /// Makes `rows` rows of `buffer` live and fills `columns` of them with row-major little-endian
    /// elements of the buffer's own type. Other columns keep what they held.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if sizes do not fit.
    fn upload(
        &mut self,
        buffer: &mut Self::Buffer,
        rows: usize,
        columns: Range<usize>,
        bytes: &[u8],
    ) -> Done;

    /// Waits, then puts the live rows' `columns` into `bytes` (cleared first), row-major and
    /// little-endian in the buffer's own type. The one download that ends a step.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if there are no such columns, [`DeviceError::Failed`].
    fn download(
        &mut self,
        buffer: &Self::Buffer,
        columns: Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> Done;

    /// As [`Backend::download`] for a whole [`Dtype::F32`] buffer.
    ///
    /// # Errors
    /// As [`Backend::download`].
    fn download_f32(&mut self, buffer: &Self::Buffer, values: &mut Vec<f32>) -> Done;

    /// `out = x`, of one type and width.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if shapes differ.
    fn copy(&mut self, x: &Self::Buffer, out: &mut Self::Buffer) -> Done;

    /// Makes `rows` rows live and zero.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if they are more than the capacity.
    fn zero(&mut self, out: &mut Self::Buffer, rows: usize) -> Done;

    // --- A step ---------------------------------------------------------------------------------

    /// Checks a batch and turns it into device input that all layers of the step reuse. `kv` has
    /// one pool per group, in group order. Every block id is checked here, so that no kernel has
    /// to.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if the batch breaks a limit, its rows are not consecutive, a block
    /// table is too short, or a block that would be read or written does not exist. A group whose
    /// [`KvSpec::mask`] is a window may name any id for blocks that have left every row's window.
    fn prepare_step(
        &mut self,
        batch: &StepBatch,
        kv: &[Self::Kv],
        meta: &mut Self::StepMeta,
    ) -> Done;

    /// Begins a step's layers. `false` says that they were enqueued as for an earlier step alike,
    /// and are not to be called. Until [`Backend::end_layers`] nothing goes to or comes from the
    /// host, and buffers and KV are those of every other step.
    ///
    /// # Errors
    /// The device's.
    fn begin_layers(&mut self, _meta: &Self::StepMeta) -> Result<bool, DeviceError> {
        Ok(true)
    }

    /// Ends what [`Backend::begin_layers`] began, also if an operation in between failed. `false`
    /// says that nothing was enqueued, and all is to begin once more.
    ///
    /// # Errors
    /// The device's.
    fn end_layers(&mut self) -> Result<bool, DeviceError> {
        Ok(true)
    }

    /// `out[r] = table[tokens[r] - first_token]`: a row of the prepared weights, so that a tied
    /// embedding and head are one copy. Tokens outside `first_token..first_token + out_features`
    /// (another rank's) give zeros. Makes the step's rows live.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if widths differ.
    fn embed(
        &mut self,
        meta: &Self::StepMeta,
        table: &Self::Linear,
        first_token: u32,
        out: &mut Self::Buffer,
    ) -> Done;

    /// `out[r] = table[rows[r]]`: rows of the prepared weights by their numbers, such as those of
    /// where tokens stand. Makes as many rows live.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if widths differ or the table has no such row;
    /// [`DeviceError::Unsupported`] on a device that does not run such models.
    fn embed_rows(&mut self, rows: &[u32], table: &Self::Linear, out: &mut Self::Buffer) -> Done {
        let _ = (rows, table, out);
        Err(DeviceError::Unsupported(format!("rows of tables on {}", self.kernel_path())))
    }

    /// `out = x * weight^T (+ bias)`, then the epilogue, then what adapters add to their rows. With
    /// [`Epilogue::AddTo`], `out` must have the live rows of `x`. `out` is of the activations' type
    /// or [`Dtype::F32`]. A row without an adapter is the same to the bit with and without others'.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if widths differ, or peaks are not as many as they should be, or
    /// an adapter's rows or parts do not fit; [`DeviceError::Unsupported`] if the backend has no
    /// adapters.
    fn linear(
        &mut self,
        x: &Self::Buffer,
        weight: &Self::Linear,
        call: LinearCall<'_, Self>,
        out: &mut Self::Buffer,
    ) -> Done;

    /// Waits, then puts the magnitudes into `peaks` (cleared first) that `weight` makes scales of
    /// when it rounds its input: for each row those of its groups, a group of which this rank has
    /// nothing having 0. Nothing if it rounds by no such scale. What ranks that share an input find
    /// is to be compared, and the largest given to [`Backend::linear`].
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if widths differ.
    fn input_peaks(
        &mut self,
        x: &Self::Buffer,
        weight: &Self::Linear,
        peaks: &mut Vec<f32>,
    ) -> Done;

    /// `out = x / sqrt(mean(x^2) + epsilon) * weight`, per row.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if widths differ.
    fn rms_norm(&mut self, x: &Self::Buffer, norm: Norm<'_, Self>, out: &mut Self::Buffer) -> Done;

    /// `residual += x`, then `out = rms_norm(residual)`.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if widths or live rows differ.
    fn add_rms_norm(
        &mut self,
        x: &Self::Buffer,
        residual: &mut Self::Buffer,
        norm: Norm<'_, Self>,
        out: &mut Self::Buffer,
    ) -> Done;

    /// `out = (x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias`, per row; the variance
    /// is the mean square of what is left of `x` without its mean. For models that read texts whole
    /// (encoders), as are [`Backend::gelu`] and [`Backend::embed_rows`].
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if widths differ; [`DeviceError::Unsupported`] on a device that
    /// does not run such models.
    fn layer_norm(
        &mut self,
        x: &Self::Buffer,
        norm: LayerNorm<'_, Self>,
        out: &mut Self::Buffer,
    ) -> Done {
        let _ = (x, norm, out);
        Err(DeviceError::Unsupported(format!("layer norms on {}", self.kernel_path())))
    }

    /// RMS norm in place over each run of `weight.len()` elements in `columns` of every row: the
    /// query or key heads of a fused row.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if the columns are no whole number of heads.
    fn head_rms_norm(
        &mut self,
        x: &mut Self::Buffer,
        columns: Range<usize>,
        norm: Norm<'_, Self>,
    ) -> Done;

    /// Rotates the query and key heads of the fused rows `[q | k | v]` in place at the step's
    /// positions (no rotation if `rope` is `None`) and writes keys and values to the KV.
    /// Rotation pairs element `i` with `i + n/2` over the first `n = 2 * frequencies` elements of a
    /// head: `(a, b)` becomes `(a cos - b sin, b cos + a sin)`.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if the heads do not fit the rows, the KV or the table.
    fn rope_write_kv(
        &mut self,
        step: KvStep<'_, Self>,
        qkv: &mut Self::Buffer,
        heads: HeadShape,
        rope: Option<&Self::Rope>,
        kv: &mut Self::Kv,
    ) -> Done;

    /// Attends from the query part (the first columns) of the fused rows over the KV, this step's
    /// included: `out[r] = softmax(scale * q k^T) v` for each head, `[rows, query columns]`.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if shapes do not fit or the mask sees more than the group's own;
    /// [`DeviceError::Unsupported`].
    fn attention(
        &mut self,
        step: KvStep<'_, Self>,
        qkv: &Self::Buffer,
        spec: &AttentionSpec,
        kv: &Self::Kv,
        out: &mut Self::Buffer,
    ) -> Done;

    /// Latent attention's counterpart of [`Backend::rope_write_kv`]: rotates the last `rope_dim`
    /// elements of every query head and of every row of `latent` in place at the step's positions,
    /// and writes the rows to the KV.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if the shape does not fit the rows, the KV or the table.
    fn write_latent(
        &mut self,
        step: KvStep<'_, Self>,
        query: &mut Self::Buffer,
        latent: &mut Self::Buffer,
        call: LatentCall<'_, Self>,
        kv: &mut Self::Kv,
    ) -> Done;

    /// Attends from query heads `[nope | rotated]` over the rows of a latent KV, this step's
    /// included: head `h`'s first part becomes `absorb[h] * nope`, its scores are products with
    /// whole rows, and `out[h] = expand[h] * (softmax(scale * scores) * compressed parts)`, heads
    /// side by side. A row sees all positions up to its own.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if shapes do not fit.
    fn latent_attention(
        &mut self,
        step: KvStep<'_, Self>,
        query: &Self::Buffer,
        call: LatentCall<'_, Self>,
        kv: &Self::Kv,
        out: &mut Self::Buffer,
    ) -> Done;

    /// A feed-forward layer of experts: routes every row, computes `down(silu(gate) * up)` of the
    /// experts that it chose and of `weights` has, and adds them up by their weights, in the order
    /// of experts; then the epilogue. Rows of experts that are not in `weights` count as zero, so
    /// that ranks which divide the experts add up to the layer.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if widths do not fit.
    fn moe(
        &mut self,
        x: &Self::Buffer,
        weights: &ExpertWeights<'_, Self>,
        epilogue: Epilogue,
        out: &mut Self::Buffer,
    ) -> Done;

    /// `out = silu(gate) * up` of fused rows `[gate | up]`, half as wide.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if widths do not fit.
    fn silu_mul(&mut self, gate_up: &Self::Buffer, out: &mut Self::Buffer) -> Done;

    /// As [`Backend::silu_mul`] with the Gaussian error linear unit, by its approximation
    /// `x / (1 + e^-2u)` for `u = sqrt(2 / pi) * (x + 0.044715 x^3)`.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if widths do not fit.
    fn gelu_mul(&mut self, gate_up: &Self::Buffer, out: &mut Self::Buffer) -> Done;

    /// The Gaussian error linear unit itself, in place: `x = x * P(X <= x)` for a normally
    /// distributed `X`.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] on a device that does not run such models.
    fn gelu(&mut self, x: &mut Self::Buffer) -> Done {
        let _ = x;
        Err(DeviceError::Unsupported(format!("gelu on {}", self.kernel_path())))
    }

    /// `x *= factor`.
    ///
    /// # Errors
    /// The device's.
    fn scale(&mut self, x: &mut Self::Buffer, factor: f32) -> Done;

    /// `x = cap * tanh(x / cap)`.
    ///
    /// # Errors
    /// The device's.
    fn soft_cap(&mut self, x: &mut Self::Buffer, cap: f32) -> Done;

    /// Gathers the rows for which the batch asks for logits, in batch order.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if `x` has other rows than the step, or widths differ.
    fn gather_logit_rows(
        &mut self,
        meta: &Self::StepMeta,
        x: &Self::Buffer,
        out: &mut Self::Buffer,
    ) -> Done;

    /// `out += x`, of one type and shape: how a collective adds in rank order.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if shapes or live rows differ.
    fn add(&mut self, x: &Self::Buffer, out: &mut Self::Buffer) -> Done;

    /// Copies one block over all layers of a group, before the step's first write: a sequence that
    /// shares the beginning of a block gets one of its own before it writes there.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if there is no such block.
    fn copy_kv(&mut self, kv: &mut Self::Kv, from: BlockId, to: BlockId) -> Done;

    // --- KV between devices ---------------------------------------------------------------------

    /// Waits, then puts blocks of some heads of one layer into `bytes` (cleared first) in the
    /// canonical layout `[block][key, value][head][position][dim]`, little-endian in the KV's type.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if there is no such layer, head or block.
    fn export_kv(&mut self, kv: &Self::Kv, span: &KvSpan<'_>, bytes: &mut Vec<u8>) -> Done;

    /// The reverse of [`Backend::export_kv`], from untrusted bytes: sizes are checked first.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if there is no such layer, head or block, or sizes do not fit.
    fn import_kv(&mut self, kv: &mut Self::Kv, span: &KvSpan<'_>, bytes: &[u8]) -> Done;

    /// Waits, then puts all of one block into `bytes` (cleared first) as it lies on this device:
    /// [`Backend::kv_block_bytes`] of them.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if there is no such block.
    fn save_block(&mut self, kv: &Self::Kv, block: BlockId, bytes: &mut Vec<u8>) -> Done;

    /// The reverse of [`Backend::save_block`].
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if there is no such block or the size does not fit.
    fn restore_block(&mut self, kv: &mut Self::Kv, block: BlockId, bytes: &[u8]) -> Done;
}

/// What the host knows of a buffer without asking the device.
pub trait Activations: Send + Debug {
    /// Live rows.
    fn rows(&self) -> usize;
    /// Elements per row.
    fn columns(&self) -> usize;
    /// Rows that there is room for.
    fn capacity(&self) -> usize;
    /// Element type.
    fn dtype(&self) -> Dtype;
}

/// What the host knows of prepared weights.
pub trait PreparedLinear: Send + Debug {
    /// Elements of an input row.
    fn in_features(&self) -> usize;
    /// Elements of an output row.
    fn out_features(&self) -> usize;
    /// Bytes on the device, padding included.
    fn bytes(&self) -> u64;
}

/// What the host knows of a prepared step.
pub trait StepRows: Send + Debug {
    /// Rows of the step, unpadded.
    fn rows(&self) -> usize;
    /// Rows for which logits are asked.
    fn logit_rows(&self) -> usize;
}

/// How [`Backend::linear`] ends, beside weights and bias.
#[derive(Debug)]
pub struct LinearCall<'a, B: Backend + ?Sized> {
    /// What is done with the product.
    pub epilogue: Epilogue,
    /// Adapters of the batch's rows. A row is in one of them at most.
    pub lora: &'a [LoraRows<'a, B>],
    /// What [`Backend::input_peaks`] is over all ranks that have a part of the input. Without it
    /// this rank's part decides.
    pub peaks: Option<&'a [f32]>,
}

/// What is done with a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Epilogue {
    /// `out += product`: the residual stream.
    AddTo,
    /// `out = product`.
    #[default]
    Store,
}

/// A feed-forward layer's experts, or this rank's share of them.
#[derive(Debug)]
pub struct ExpertWeights<'a, B: Backend + ?Sized> {
    /// Gives each row a logit for every expert of the layer.
    pub router: &'a B::Linear,
    /// One number for each expert of the layer, if [`Routing::correction_bias`] says so.
    pub correction: Option<&'a B::Vector>,
    /// How rows choose.
    pub routing: &'a Routing,
    /// How many experts each row chooses.
    pub per_token: usize,
    /// The layer's expert that `gate_up` and `down` begin with.
    pub first: usize,
    /// Fused gate and up products.
    pub gate_up: &'a [B::Linear],
    /// The products behind them.
    pub down: &'a [B::Linear],
}

/// Rotary tables as a model describes them.
#[derive(Clone, Copy, Debug)]
pub struct RopeSpec<'a> {
    /// Radians per position for each rotated pair; at most half of a head.
    pub inverse_frequencies: &'a [f32],
    /// Factor on sine and cosine (1 unless the scaling scheme says otherwise).
    pub attention_factor: f32,
    /// Positions that there must be rows for: the longest sequence.
    pub positions: usize,
}

/// Some blocks of some heads of one layer.
#[derive(Clone, Debug)]
pub struct KvSpan<'a> {
    /// Index of the layer within the group on this rank.
    pub layer: usize,
    /// This rank's heads, from 0.
    pub heads: Range<usize>,
    /// The blocks, in the order of the bytes.
    pub blocks: &'a [BlockId],
}

impl<B: Backend + ?Sized> LinearCall<'_, B> {
    /// `out = product`.
    pub const STORE: Self = Self { epilogue: Epilogue::Store, lora: &[], peaks: None };
    /// `out += product`.
    pub const ADD_TO: Self = Self { epilogue: Epilogue::AddTo, lora: &[], peaks: None };
}

// A derive would ask `B: Copy`, though only references are held.
impl<B: Backend + ?Sized> Clone for LinearCall<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend + ?Sized> Copy for LinearCall<'_, B> {}
