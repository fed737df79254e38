//! The cut between the actors and a device: a [`StepBatch`] goes in, hidden states or sampled
//! tokens come out, in two calls.
//!
//! [`Executor::forward`] only enqueues; [`Executor::sample`] is where a step's one download
//! happens. Between the two the host makes what sampling needs for this step (masks), so that it
//! overlaps with the device. A worker owns one executor and calls it from its one device thread, so
//! nothing here is shared and nothing is async. Block *ids* come in from `actors`; block *bytes*
//! stay here.

use std::sync::Arc;

use troupe_runtime::{
    id::{AdapterId, BlockId, Coordinate, SequenceId, StepId},
    wire::{
        generate::{SamplingOptions, TokenLogprobs},
        kv::WireDtype,
        step::BlockCopy,
        transfer::KvShare,
    },
};

use crate::{backend::KvSpan, error::DeviceError, lora::Adapter, shape::KvAt};

/// One rank of one model, loaded onto one device.
pub trait Executor: Send {
    /// Where it stands in its group.
    fn coordinate(&self) -> Coordinate;

    /// What it holds, for the memory plan and the member's report.
    fn memory(&self) -> MemoryReport;

    /// Allocates the KV pools, once, before the first step: blocks per KV group.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] if they do not fit.
    fn allocate_kv(&mut self, blocks: &[u32]) -> Result<(), DeviceError>;

    /// Makes an adapter known: rows of later steps may use it by this id. Its weights come onto the
    /// device when rows first do.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if the id is known already; [`DeviceError::Unsupported`] if the
    /// rank was loaded without adapters. Nothing is changed then.
    fn add_adapter(&mut self, id: AdapterId, adapter: Arc<Adapter>) -> Result<(), DeviceError>;

    /// Forgets an adapter, if it is known: no row of a later step uses it.
    fn remove_adapter(&mut self, id: AdapterId);

    /// Enqueues the layers of this stage. Takes token ids at the first stage and hidden states at
    /// every other; gives hidden states to pass on, or the logits' handle at the last stage.
    ///
    /// Every tensor rank of a stage must be given the same batch in the same order, because ranks
    /// meet in collectives.
    ///
    /// # Errors
    /// [`DeviceError`]: the rank is unusable afterwards and its member must fail.
    fn forward(
        &mut self,
        batch: &StepBatch,
        input: StageInput,
    ) -> Result<StageOutput, DeviceError> {
        self.forward_tapped(batch, input, &mut NoTap)
    }

    /// Does some milliseconds of what loading put off; says whether there may be more. For when
    /// there is time; results are the same before and after.
    fn settle(&mut self) -> bool {
        false
    }

    /// The same as [`Executor::forward`], where `tap` is called after each layer: KV can leave for
    /// another group while later layers compute.
    ///
    /// # Errors
    /// As [`Executor::forward`].
    fn forward_tapped(
        &mut self,
        batch: &StepBatch,
        input: StageInput,
        tap: &mut dyn KvTap,
    ) -> Result<StageOutput, DeviceError>;

    /// Chooses one token for each request, in order; a model that is run for embeddings gives each
    /// its vector instead. Only at tensor rank 0 of the last stage, where
    /// the logits of the whole vocabulary are; other ranks of the last stage drop their handle.
    ///
    /// # Errors
    /// [`DeviceError`] if the device failed. A sequence whose logits are unusable fails alone, in
    /// its own entry.
    fn sample(
        &mut self,
        logits: Logits,
        requests: &[SampleRequest<'_>],
    ) -> Result<Vec<Sampled>, DeviceError>;

    /// Puts blocks of one layer into `bytes`, cleared first, in the canonical layout
    /// ([`crate::backend::Backend::export_kv`]).
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if there is no such group, layer, head or block.
    fn export_kv(
        &mut self,
        group: usize,
        span: &KvSpan<'_>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), DeviceError>;

    /// Stores what another rank exported; the bytes are not trusted.
    ///
    /// # Errors
    /// [`DeviceError::Contract`], as for an export, or if the size is wrong: nothing is changed.
    fn import_kv(
        &mut self,
        group: usize,
        span: &KvSpan<'_>,
        bytes: &[u8],
    ) -> Result<(), DeviceError>;

    /// Puts all that this rank holds of one block into `bytes`, cleared first, as it lies there:
    /// [`MemoryReport::block_bytes`] of them, for [`Executor::restore_block`] of this rank alone.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if there is no such group or block.
    fn save_block(
        &mut self,
        group: usize,
        block: BlockId,
        bytes: &mut Vec<u8>,
    ) -> Result<(), DeviceError>;

    /// Fills one block with what this rank saved of any.
    ///
    /// # Errors
    /// [`DeviceError::Contract`], as for saving, or if the size is wrong: nothing is changed.
    fn restore_block(
        &mut self,
        group: usize,
        block: BlockId,
        bytes: &[u8],
    ) -> Result<(), DeviceError>;
}

/// Watches a step layer by layer.
pub trait KvTap {
    /// The KV of this layer is written for all positions of the step; earlier layers are too.
    fn layer(&mut self, at: KvAt, kv: &mut dyn KvReader);

    /// Whether it wants to be called for this step's layers. A device that may skip the calls is
    /// faster.
    fn watches(&self) -> bool {
        true
    }
}

/// The KV of one layer's group, while a step is under way.
pub trait KvReader {
    /// As [`Executor::export_kv`].
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if there is no such layer, head or block.
    fn export(&mut self, span: &KvSpan<'_>, bytes: &mut Vec<u8>) -> Result<(), DeviceError>;
}

/// Watches nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoTap;

impl KvTap for NoTap {
    fn layer(&mut self, _at: KvAt, _kv: &mut dyn KvReader) {}

    fn watches(&self) -> bool {
        false
    }
}

/// What one step asks of a rank, flattened over sequences: `tokens` total rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepBatch {
    /// The step, for tensor headers and logs.
    pub step: StepId,
    /// Input ids, one per row. Meaningful at the first stage only, but every stage has them.
    pub tokens: Vec<u32>,
    /// Absolute position of each row in its sequence.
    pub positions: Vec<u32>,
    /// The sequences whose rows these are, in row order.
    pub sequences: Vec<BatchSequence>,
    /// KV blocks to copy before anything is computed, in order.
    pub copies: Vec<BlockCopy>,
}

/// One sequence's rows in a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BatchSequence {
    /// Which.
    pub sequence: SequenceId,
    /// Its first row.
    pub row: u32,
    /// How many rows.
    pub count: u32,
    /// Positions whose KV exists before this step; the rows are `computed..computed + count`.
    pub computed: u32,
    /// One block table per KV group, covering `computed + count` positions.
    /// Shared with whoever keeps the tables, so that a step copies none of them.
    pub block_tables: Arc<Vec<Vec<BlockId>>>,
    /// The adapter that its rows use.
    pub adapter: Option<AdapterId>,
    /// For which rows logits are needed.
    pub logits: LogitRows,
}

/// For which of a sequence's rows the last stage computes logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogitRows {
    /// None: the chunk ends inside the prompt.
    #[default]
    None,
    /// The last row, to sample from.
    Last,
    /// The last so many rows: drafts are verified by sampling at each of their positions.
    Tail(u32),
    /// All rows, for prompt log-probabilities; the last one is sampled from if the plan says so.
    All,
}

/// What a stage is fed.
#[derive(Debug)]
pub enum StageInput {
    /// The first stage embeds the batch's token ids.
    Tokens,
    /// Hidden states from the previous stage.
    Hidden(HiddenStates),
}

/// What a stage gives.
#[derive(Debug)]
pub enum StageOutput {
    /// Hidden states for the next stage.
    Hidden(HiddenStates),
    /// The last stage's logits, still on the device.
    Logits(Logits),
}

/// Rows of hidden states as they travel from stage to stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HiddenStates {
    /// Rows (the batch's tokens).
    pub rows: usize,
    /// Elements per row (the model's hidden size).
    pub columns: usize,
    /// Element type.
    pub dtype: WireDtype,
    /// Row-major, little-endian.
    pub bytes: bytes::Bytes,
}

/// A handle to logits on the device: rows in batch order, for the sequences that asked. Where a
/// model is run for embeddings, each of those has one row, its vector.
#[derive(Debug)]
pub struct Logits {
    /// The step that made them; sampling from another step's logits is refused.
    pub step: StepId,
    /// How many rows: the sum over the batch of what [`LogitRows`] asks for.
    pub rows: usize,
    /// Elements per row: the whole vocabulary, without padding; of vectors, the model's width.
    pub columns: usize,
    /// Row-major on the host (CPU device), empty on ranks that do not sample. A device with its own
    /// memory adds its own way of holding them here.
    pub(crate) values: Vec<f32>,
}

impl Logits {
    /// Logits that are on the host already; `values` may be empty where nothing is sampled.
    pub fn on_host(step: StepId, rows: usize, columns: usize, values: Vec<f32>) -> Self {
        Self { step, rows, columns, values }
    }

    /// The values row by row, if they are on the host and at this rank; else empty.
    pub fn host_values(&self) -> &[f32] {
        &self.values
    }
}

/// What sampling one sequence needs beside its logits: the mirror's view of it.
#[derive(Clone, Copy, Debug)]
pub struct SampleRequest<'a> {
    /// Which.
    pub sequence: SequenceId,
    /// First row of [`Logits`] that is its own, and how many: 1, or a whole chunk's.
    pub rows: (usize, usize),
    /// Whether to choose a token from the last of them.
    pub sample: bool,
    /// Prompt, then output so far.
    pub tokens: &'a [u32],
    /// How many of `tokens` are prompt.
    pub prompt_len: usize,
    /// Positions computed before this step (the rows' first position).
    pub computed: usize,
    /// How to choose.
    pub options: &'a SamplingOptions,
    /// Keys random numbers, with the choice and the output position.
    pub seed: u64,
    /// The client's choice index.
    pub choice: u32,
    /// Bit per token that a grammar allows; `None` allows all.
    pub mask: Option<&'a [u32]>,
}

/// What sampling one sequence gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampled {
    /// The token, unless none was asked for or the sequence failed.
    pub token: Option<u32>,
    /// The text's vector, where the model is run for embeddings.
    pub embedding: Option<Vec<f32>>,
    /// Its log-probability and rivals, if asked for.
    pub logprobs: Option<TokenLogprobs>,
    /// Those of the prompt tokens whose predecessor is in this chunk, if asked for.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// Why this sequence alone cannot go on.
    pub failed: Option<String>,
}

/// What a rank holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Weight bytes that are this rank's share of something divided over ranks or stages.
    pub weight_bytes_sharded: u64,
    /// Weight bytes that other ranks of the stage hold too.
    pub weight_bytes_replicated: u64,
    /// The names of those.
    pub replicated: Vec<String>,
    /// Bytes of one KV block in each KV group, over this rank's layers.
    pub block_bytes: Vec<u64>,
    /// KV blocks that there is room for, per KV group.
    pub blocks: Vec<u32>,
    /// Backend and kernel path, such as `cpu/avx512`.
    pub kernel_path: String,
    /// What of the model's KV it holds, one for each KV group that has layers here.
    pub kv: Vec<KvShare>,
}

/// Called while weights load, with the share done from 0 to 1.
pub type LoadProgress = Arc<dyn Fn(f32) + Send + Sync>;
