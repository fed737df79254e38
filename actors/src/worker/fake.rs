//! An executor without tensors: its token is a hash of what a model would have seen.
//!
//! It holds the contract of [`Executor`] (batches in order, KV written before it is read) and
//! nothing else, so that groups, leaders and whole clusters can be run and simulated at no cost.
//! The token of a position depends on every token before it, as a model's does, so a lost, repeated
//! or reordered token shows.

use std::collections::BTreeMap;

use troupe_gpu::{
    collective::Collective,
    error::DeviceError,
    executor::{
        Executor, HiddenStates, Logits, MemoryReport, SampleRequest, Sampled, StageInput,
        StageOutput, StepBatch,
    },
};
use troupe_runtime::{
    id::{Coordinate, SequenceId},
    wire::kv::WireDtype,
};

/// The executor.
pub struct FakeExecutor {
    coordinate: Coordinate,
    model: FakeModel,
    /// Ranks of a stage meet in every step, as real ones do: none can run ahead.
    collective: Box<dyn Collective>,
    computed: BTreeMap<SequenceId, u32>,
}

/// What all ranks of a tensor-free model agree on.
#[derive(Clone, Copy, Debug)]
pub struct FakeModel {
    /// Stages.
    pub stages: u32,
    /// Tokens of its vocabulary.
    pub vocab_size: u32,
    /// KV blocks that every rank has room for.
    pub blocks: u32,
}

impl FakeExecutor {
    /// One rank of a model.
    pub fn new(coordinate: Coordinate, model: FakeModel, collective: Box<dyn Collective>) -> Self {
        Self { coordinate, model, collective, computed: BTreeMap::new() }
    }

    /// The token that follows these.
    pub fn next_token(tokens: &[u32], vocab_size: u32) -> u32 {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for token in tokens {
            state = (state ^ u64::from(*token)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            state ^= state >> 29;
        }
        (state % u64::from(vocab_size)) as u32
    }
}

impl Executor for FakeExecutor {
    fn coordinate(&self) -> Coordinate {
        self.coordinate
    }

    fn memory(&self) -> MemoryReport {
        MemoryReport {
            block_bytes: vec![0],
            blocks: vec![self.model.blocks],
            kernel_path: "fake".into(),
            ..MemoryReport::default()
        }
    }

    fn allocate_kv(&mut self, blocks: &[u32]) -> Result<(), DeviceError> {
        if blocks.iter().any(|count| *count > self.model.blocks) {
            return Err(DeviceError::OutOfMemory(format!(
                "{blocks:?} of {} blocks",
                self.model.blocks
            )));
        }
        Ok(())
    }

    fn forward(
        &mut self,
        batch: &StepBatch,
        input: StageInput,
    ) -> Result<StageOutput, DeviceError> {
        let first = self.coordinate.stage == 0;
        if first != matches!(input, StageInput::Tokens) {
            return Err(DeviceError::Contract("only the first stage takes tokens".into()));
        }
        for entry in &batch.sequences {
            let computed = self.computed.entry(entry.sequence).or_insert(0);
            if entry.computed > *computed {
                return Err(DeviceError::Contract(format!(
                    "sequence {} starts at {}, only {computed} positions are computed",
                    entry.sequence, entry.computed
                )));
            }
            *computed = entry.computed + entry.count;
        }
        self.collective.begin_step(batch.step);
        self.collective.barrier()?;
        if self.coordinate.stage + 1 == self.model.stages {
            let (rows, columns) = (batch.sequences.len(), self.model.vocab_size as usize);
            return Ok(StageOutput::Logits(Logits::on_host(batch.step, rows, columns, Vec::new())));
        }
        let rows = batch.tokens.len();
        let bytes = vec![0_u8; rows * 4].into();
        Ok(StageOutput::Hidden(HiddenStates { rows, columns: 1, dtype: WireDtype::F32, bytes }))
    }

    fn sample(
        &mut self,
        _logits: Logits,
        requests: &[SampleRequest<'_>],
    ) -> Result<Vec<Sampled>, DeviceError> {
        let sampled = requests.iter().map(|request| {
            let token =
                request.sample.then(|| Self::next_token(request.tokens, self.model.vocab_size));
            Sampled { token, ..Sampled::default() }
        });
        Ok(sampled.collect())
    }
}
