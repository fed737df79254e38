//! One rank's device: the mirror of the leader's sequences and the executor without tensors, whose
//! next token depends on what its KV blocks hold. What it does with a plan is what the device
//! thread does; that it waits for tensors and tokens is told by [`Device::is_ready`].

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use troupe_actors::{
    leader::settings::{EngineLimits, steps_in_flight},
    worker::{
        mirror::Mirror,
        tokens::{self, TokenFeed},
    },
};
use troupe_gpu::executor::{Executor, HiddenStates, Logits, StageInput, StageOutput, StepBatch};
use troupe_runtime::{
    id::{Coordinate, Epoch, StepId},
    transport::bulk::{BulkReceiver, BulkSender, bulk_pair},
    wire::{
        group::{Progress, RankReport},
        kv::TensorHeader,
        step::{StepPlan, StepResult},
    },
};

/// See the file.
pub(crate) struct Device {
    pub(crate) rank: Coordinate,
    stages: u32,
    limits: EngineLimits,
    mirror: Mirror,
    executor: Box<dyn Executor>,
    plans: VecDeque<Arc<StepPlan>>,
    hidden: VecDeque<(StepId, HiddenStates)>,
    feed: Option<Feed>,
    told: (BulkSender, BulkReceiver),
    /// It is at its next plan.
    pub(crate) busy: bool,
}

/// Sampled tokens on their way to the first stage.
struct Feed {
    feed: TokenFeed,
    sender: BulkSender,
    /// The last step whose tokens have arrived.
    arrived: StepId,
}

/// What came of a step.
#[derive(Default)]
pub(crate) struct Ran {
    /// To the next stage.
    pub(crate) hidden: Option<Tensor>,
    /// To the first stage.
    pub(crate) tokens: Option<Tensor>,
    /// To the leader.
    pub(crate) result: Option<StepResult>,
    /// To the leader, after that.
    pub(crate) progress: Option<Progress>,
}

/// What goes from rank to rank.
pub(crate) type Tensor = (TensorHeader, Bytes);

// === impl Device ===

impl Device {
    pub(crate) fn new(
        (rank, stages): (Coordinate, u32),
        epoch: Epoch,
        limits: EngineLimits,
        executor: Box<dyn Executor>,
    ) -> Self {
        let depth = steps_in_flight(stages);
        let feed = (rank.stage == 0 && stages > 1).then(|| {
            let (sender, receiver) = bulk_pair(depth as usize + 1);
            Feed { feed: TokenFeed::new(receiver, depth), sender, arrived: StepId(0) }
        });
        Self {
            rank,
            stages,
            limits,
            mirror: Mirror::new(epoch, limits.block_size),
            executor,
            plans: VecDeque::new(),
            hidden: VecDeque::new(),
            feed,
            told: bulk_pair(1),
            busy: false,
        }
    }

    pub(crate) fn report(&self) -> RankReport {
        let memory = self.executor.memory();
        RankReport {
            rank: self.rank,
            weight_bytes_sharded: memory.weight_bytes_sharded,
            weight_bytes_replicated: memory.weight_bytes_replicated,
            replicated: memory.replicated,
            blocks: memory.blocks.into_iter().map(|room| self.limits.blocks(room)).collect(),
            block_bytes: memory.block_bytes,
            kernel_path: memory.kernel_path,
            kv: memory.kv,
            adapters: Vec::new(),
        }
    }

    pub(crate) fn allocate(&mut self, blocks: &[u32]) -> Result<(), String> {
        self.executor.allocate_kv(blocks).map_err(|error| error.to_string())
    }

    pub(crate) fn plan(&mut self, plan: Arc<StepPlan>) {
        self.plans.push_back(plan);
    }

    /// Something came from another rank: tokens to the first stage, hidden states to others.
    pub(crate) fn take(&mut self, (header, bytes): Tensor) -> Result<(), String> {
        if let Some(feed) = &mut self.feed {
            feed.arrived = header.step;
            return feed.sender.send(header, bytes).map_err(|error| error.to_string());
        }
        let hidden = HiddenStates {
            rows: header.rows as usize,
            columns: header.columns as usize,
            dtype: header.dtype,
            bytes,
        };
        self.hidden.push_back((header.step, hidden));
        Ok(())
    }

    /// The plan that it is to run next, if it has all that it needs for it.
    pub(crate) fn is_ready(&self) -> bool {
        !self.plans.is_empty() && !self.waits()
    }

    /// Whether its next plan needs something that is to come from another rank.
    pub(crate) fn waits(&self) -> bool {
        let Some(plan) = self.plans.front() else { return false };
        if self.rank.stage > 0 {
            return self.hidden.is_empty();
        }
        let late = |feed: &Feed| feed.feed.needs(plan).is_some_and(|step| step > feed.arrived);
        self.feed.as_ref().is_some_and(late)
    }

    /// How long its next plan takes.
    pub(crate) fn cost(&self) -> Duration {
        let tokens = self.plans.front().map_or(0, |plan| plan.tokens());
        STEP + TOKEN * tokens
    }

    /// Runs its next plan.
    pub(crate) fn run(&mut self) -> Result<Ran, String> {
        let Some(plan) = self.plans.pop_front() else { return Ok(Ran::default()) };
        let told = |error: troupe_gpu::error::DeviceError| format!("rank {}: {error}", self.rank);
        if let Some(feed) = &mut self.feed {
            let sampled = feed.feed.take(&plan, Duration::ZERO).map_err(told)?;
            self.mirror.learn(&sampled);
        }
        let batch = self.mirror.apply(&plan).map_err(|why| format!("rank {}: {why}", self.rank))?;
        let input = match self.hidden.pop_front() {
            Some((step, hidden)) if step == plan.step => StageInput::Hidden(hidden),
            Some((step, _)) => return Err(format!("rank {}: {step} for {}", self.rank, plan.step)),
            None => StageInput::Tokens,
        };
        let mut ran = Ran::default();
        match self.executor.forward(&batch, input).map_err(told)? {
            StageOutput::Hidden(hidden) => {
                self.mirror.drop_drafts(&plan);
                let header = TensorHeader {
                    step: plan.step,
                    index: 0,
                    rows: hidden.rows as u32,
                    columns: hidden.columns as u32,
                    dtype: hidden.dtype,
                };
                ran.hidden = Some((header, hidden.bytes));
            }
            StageOutput::Logits(logits) => self.sample(&plan, &batch, logits, &mut ran)?,
        }
        let compute_us = STEP.as_micros() as u64;
        ran.progress = Some(Progress {
            rank: self.rank,
            step: plan.step,
            compute_us,
            idle_us: 0,
            waited_us: 0,
            silence_us: compute_us,
        });
        Ok(ran)
    }

    fn sample(
        &mut self,
        plan: &StepPlan,
        batch: &StepBatch,
        logits: Logits,
        ran: &mut Ran,
    ) -> Result<(), String> {
        let requests = self.mirror.requests(plan, batch);
        let sampled = self.executor.sample(logits, &requests).map_err(|error| error.to_string())?;
        let (outcomes, told) = Mirror::outcomes(&requests, sampled);
        self.mirror.drop_drafts(plan);
        self.mirror.learn(&told);
        if self.stages > 1 && plan.spans().any(|(_, span)| span.sample) {
            let (sender, receiver) = &mut self.told;
            let failed = |error: String| format!("tokens of {}: {error}", self.rank);
            tokens::tell(std::slice::from_mut(sender), plan.step, &told)
                .map_err(|error| failed(error.to_string()))?;
            let tensor = receiver.receive(plan.step, 0, Duration::ZERO);
            ran.tokens = Some(tensor.map_err(|error| failed(error.to_string()))?);
        }
        let (epoch, step) = (plan.epoch, plan.step);
        ran.result = Some(StepResult { epoch, step, outcomes, compute_us: 1 });
        Ok(())
    }
}

/// What any step takes.
const STEP: Duration = Duration::from_millis(12);
/// And each of its tokens.
const TOKEN: Duration = Duration::from_micros(200);
