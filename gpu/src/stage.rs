//! One rank of one stage, ready to run: the layers that a device holds, its KV and its activations.
//!
//! The same for every device and architecture. What a pass is: token ids become embeddings at the
//! first stage, hidden states come from elsewhere at every other; the layers run; logits leave at
//! the last stage, hidden states at every other. Hidden states travel in the type that the device
//! keeps activations in, so how many stages there are changes no bit.

use std::sync::Arc;

use troupe_runtime::id::{AdapterId, BlockId, Coordinate};

use crate::{
    backend::{Activations, Backend, KvSpan, StepRows},
    error::DeviceError,
    executor::{
        Executor, HiddenStates, KvTap, Logits, MemoryReport, SampleRequest, Sampled, StageInput,
        StageOutput, StepBatch,
    },
    layers::{
        context::{Context, Pass},
        embedding::VocabularyTable,
        head::Head,
        opening::Opening,
        pooler::Pooler,
        rotary::Rotary,
    },
    lora::Adapter,
    models::Decoder,
    sampling,
    shape::KvSpec,
};

/// A loaded rank.
pub struct RankExecutor<B: Backend> {
    pub(crate) coordinate: Coordinate,
    pub(crate) parts: StageParts<B>,
    pub(crate) context: Context<B>,
    pub(crate) meta: B::StepMeta,
    pub(crate) kv_specs: Vec<KvSpec>,
    /// Empty until [`Executor::allocate_kv`].
    pub(crate) kv: Vec<B::Kv>,
    pub(crate) memory: MemoryReport,
    pub(crate) vocab_size: usize,
    pub(crate) scratch: sampling::Scratch,
    /// Memory of the last step's logits, to be used again.
    pub(crate) spare: Vec<f32>,
    /// Set by the first error that leaves ranks in different states.
    pub(crate) failed: bool,
}

/// What a stage consists of.
pub(crate) struct StageParts<B: Backend> {
    /// At the first stage.
    pub(crate) embedding: Option<VocabularyTable<B>>,
    pub(crate) decoder: Box<dyn Decoder<B>>,
    pub(crate) rotary: Rotary<B>,
    /// Behind the embedding, where a model has something there.
    pub(crate) opening: Option<Opening<B>>,
    /// At the last stage.
    pub(crate) ending: Option<Ending<B>>,
}

/// What comes of the last layer's states.
pub(crate) enum Ending<B: Backend> {
    /// Logits.
    Head(Head<B>),
    /// Vectors for whole texts.
    Pooler(Pooler<B>),
}

impl<B: Backend> Executor for RankExecutor<B> {
    fn coordinate(&self) -> Coordinate {
        self.coordinate
    }

    fn memory(&self) -> MemoryReport {
        self.memory.clone()
    }

    fn allocate_kv(&mut self, blocks: &[u32]) -> Result<(), DeviceError> {
        if blocks.len() != self.kv_specs.len() || !self.kv.is_empty() {
            let groups = self.kv_specs.len();
            let why = format!("KV for {} groups, once for {groups} was expected", blocks.len());
            return Err(DeviceError::Contract(why));
        }
        let backend = &mut self.context.backend;
        let pools = self.kv_specs.iter().zip(blocks);
        let pools = pools.map(|(spec, &blocks)| backend.allocate_kv(spec, blocks));
        self.kv = pools.collect::<Result<_, _>>()?;
        self.memory.blocks = blocks.to_vec();
        Ok(())
    }

    fn settle(&mut self) -> bool {
        self.context.backend.settle()
    }

    fn add_adapter(&mut self, id: AdapterId, adapter: Arc<Adapter>) -> Result<(), DeviceError> {
        self.context.adapters.add(id, adapter)
    }

    fn remove_adapter(&mut self, id: AdapterId) {
        self.context.adapters.remove(id);
    }

    fn forward_tapped(
        &mut self,
        batch: &StepBatch,
        input: StageInput,
        tap: &mut dyn KvTap,
    ) -> Result<StageOutput, DeviceError> {
        if self.failed {
            return Err(DeviceError::Failed("an earlier step failed".to_owned()));
        }
        let output = self.run(batch, input, tap);
        if output.is_err() {
            self.failed = true;
            self.context.group.abandon();
        }
        output
    }

    fn sample(
        &mut self,
        mut logits: Logits,
        requests: &[SampleRequest<'_>],
    ) -> Result<Vec<Sampled>, DeviceError> {
        let columns = logits.columns;
        if logits.values.len() != logits.rows * columns {
            let why = format!("{} has no logits of step {}", self.coordinate, logits.step);
            return Err(DeviceError::Contract(why));
        }
        let mut sampled = Vec::with_capacity(requests.len());
        for request in requests {
            let (first, count) = request.rows;
            let rows = first.checked_add(count).filter(|&end| end <= logits.rows);
            let Some(end) = rows else {
                return Err(DeviceError::Contract(format!(
                    "sequence {} names rows {first}+{count} of {}",
                    request.sequence, logits.rows
                )));
            };
            let own = &mut logits.values[first * columns..end * columns];
            if let Some(Ending::Pooler(_)) = self.parts.ending {
                sampled.push(pooled(own));
                continue;
            }
            sampled.push(sampling::sample(request, own, &mut self.scratch));
        }
        self.spare = logits.values;
        Ok(sampled)
    }

    fn export_kv(
        &mut self,
        group: usize,
        span: &KvSpan<'_>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), DeviceError> {
        let pool = self.kv.get(group).ok_or_else(|| no_group(group))?;
        self.context.backend.export_kv(pool, span, bytes)
    }

    fn import_kv(
        &mut self,
        group: usize,
        span: &KvSpan<'_>,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        let pool = self.kv.get_mut(group).ok_or_else(|| no_group(group))?;
        self.context.backend.import_kv(pool, span, bytes)
    }

    fn save_block(
        &mut self,
        group: usize,
        block: BlockId,
        bytes: &mut Vec<u8>,
    ) -> Result<(), DeviceError> {
        let pool = self.kv.get(group).ok_or_else(|| no_group(group))?;
        self.context.backend.save_block(pool, block, bytes)
    }

    fn restore_block(
        &mut self,
        group: usize,
        block: BlockId,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        let pool = self.kv.get_mut(group).ok_or_else(|| no_group(group))?;
        self.context.backend.restore_block(pool, block, bytes)
    }
}

impl<B: Backend> RankExecutor<B> {
    fn run(
        &mut self,
        batch: &StepBatch,
        input: StageInput,
        tap: &mut dyn KvTap,
    ) -> Result<StageOutput, DeviceError> {
        let Self { parts, context, meta, kv, .. } = self;
        if kv.len() != self.kv_specs.len() {
            return Err(DeviceError::Contract("a step before KV was allocated".to_owned()));
        }
        context.group.begin_step(batch.step);
        context.backend.prepare_step(batch, kv, meta)?;
        context.adapters.begin_step(&mut context.backend, batch)?;
        for copy in &batch.copies {
            let Some(pool) = kv.get_mut(copy.group as usize) else {
                return Err(DeviceError::Contract(format!("KV group {} of a copy", copy.group)));
            };
            context.backend.copy_kv(pool, copy.from, copy.to)?;
        }
        match (&parts.embedding, input) {
            (Some(table), StageInput::Tokens) => {
                table.embed(context, meta)?;
                parts.opening.iter_mut().try_for_each(|opening| opening.apply(context, batch))?;
            }
            (None, StageInput::Hidden(hidden)) => take_in(context, meta.rows(), &hidden)?,
            (own, _) => {
                let wants = if own.is_some() { "tokens" } else { "hidden states" };
                let why = format!("{} wants {wants}", self.coordinate);
                return Err(DeviceError::Contract(why));
            }
        }
        // What ranks exchange goes through the host, and so does what somebody watches.
        let alike = !context.group.shard().is_divided() && !tap.watches();
        while !alike || context.backend.begin_layers(meta)? {
            let mut pass = Pass { meta, kv, rotary: &parts.rotary, tap };
            let done = parts.decoder.forward(context, &mut pass);
            let ended = if alike { context.backend.end_layers() } else { Ok(true) };
            done?;
            if ended? {
                break;
            }
        }
        let Some(ending) = &mut parts.ending else {
            return Ok(StageOutput::Hidden(give_out(context)?));
        };
        let mut values = std::mem::take(&mut self.spare);
        values.clear();
        let (rows, columns) = match ending {
            Ending::Head(head) => {
                head.forward(context, meta, parts.embedding.as_ref(), &mut values)?;
                (meta.logit_rows(), self.vocab_size)
            }
            Ending::Pooler(pooler) => {
                (pooler.forward(context, batch, &mut values)?, pooler.width())
            }
        };
        Ok(StageOutput::Logits(Logits::on_host(batch.step, rows, columns, values)))
    }
}

/// A text's vector, if it can be told.
fn pooled(vector: &[f32]) -> Sampled {
    match vector.iter().all(|value| value.is_finite()) {
        true => Sampled { embedding: Some(vector.to_vec()), ..Sampled::default() },
        false => {
            let why = "the embedding is not a number; the model's weights or its type are at fault";
            Sampled { failed: Some(why.to_owned()), ..Sampled::default() }
        }
    }
}

fn no_group(group: usize) -> DeviceError {
    DeviceError::Contract(format!("there is no KV group {group}"))
}

/// Hidden states of the previous stage become the residual stream.
fn take_in<B: Backend>(
    cx: &mut Context<B>,
    rows: usize,
    hidden: &HiddenStates,
) -> Result<(), DeviceError> {
    let residual = &mut cx.activations.residual;
    let (columns, dtype) = (residual.columns(), residual.dtype().wire());
    if (hidden.rows, hidden.columns, hidden.dtype) != (rows, columns, dtype) {
        return Err(DeviceError::Contract(format!(
            "hidden states of {} x {} {:?}, expected {rows} x {columns} {dtype:?}",
            hidden.rows, hidden.columns, hidden.dtype
        )));
    }
    cx.backend.upload(residual, rows, 0..columns, &hidden.bytes)
}

/// The residual stream becomes hidden states for the next stage.
fn give_out<B: Backend>(cx: &mut Context<B>) -> Result<HiddenStates, DeviceError> {
    let residual = &cx.activations.residual;
    let (rows, columns) = (residual.rows(), residual.columns());
    let dtype = residual.dtype();
    let mut bytes = Vec::with_capacity(rows * columns * dtype.size());
    cx.backend.download(residual, 0..columns, &mut bytes)?;
    Ok(HiddenStates { rows, columns, dtype: dtype.wire(), bytes: bytes.into() })
}
