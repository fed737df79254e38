//! The device thread: everything that happens on one device happens here, in order.
//!
//! Load, then for each plan: mirror it, take hidden states from the previous stage (the first stage
//! has the token ids), run this stage's layers, and either pass hidden states on or sample. Hidden
//! states never pass through a mailbox. Waiting for the previous stage has a deadline; a neighbour
//! that is gone fails the wait at once.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use tokio::time::Instant;
use tracing::Span;
use troupe_gpu::{
    error::DeviceError,
    executor::{Executor, HiddenStates, Logits, StageInput, StageOutput, StepBatch},
    lora::Adapter,
};
use troupe_runtime::{
    error::chain,
    id::{AdapterId, Coordinate, Epoch, StepId},
    telemetry,
    wire::{
        group::{Progress, RankReport},
        kv::TensorHeader,
        step::{StepKind, StepPlan, StepResult},
        transfer::TransferReport,
    },
};

use super::{
    grammar::{self, GrammarSource, Grammars},
    mirror::Mirror,
    pipes::Pipes,
    pulse::{Beating, Pulse},
    recorder::Recorder,
    tier::{disk::Disk, shelf::Shelf},
    tokens::{self, SampledAt, TokenFeed},
    transfer::{RankOrder, desk::Desk},
};
use crate::leader::settings::{EngineLimits, steps_in_flight};

/// Makes the executor; runs on the device thread, because loading takes long and what it allocates
/// belongs to that thread.
pub type Loader = Box<dyn FnOnce() -> Result<Box<dyn Executor>, DeviceError> + Send>;

/// What the thread is told.
#[derive(Debug)]
pub enum Command {
    /// Allocate the KV pools.
    Start(Vec<u32>),
    /// Run this step.
    Step(Arc<StepPlan>),
    /// Begin or end a transfer of KV blocks.
    Transfer(RankOrder),
    /// Make an adapter known, or forget it.
    Adapter(AdapterId, Option<Arc<Adapter>>),
}

/// What the thread tells.
#[derive(Debug)]
pub enum DeviceEvent {
    /// The weights are there.
    Loaded(RankReport),
    /// This rank is through a step.
    Progress(Progress),
    /// A step's result.
    Result(StepResult),
    /// How a transfer stands.
    Transfer(TransferReport),
    /// An adapter is known, or forgotten.
    Adapter(AdapterId),
}

/// What a device thread is made of.
pub struct Device {
    /// Where its rank stands.
    pub rank: Coordinate,
    /// The group's incarnation.
    pub epoch: Epoch,
    /// Tokens per KV block, and how many blocks are worth having.
    pub limits: EngineLimits,
    /// Makes the executor.
    pub loader: Loader,
    /// Adapters that are there from the start.
    pub adapters: Vec<(AdapterId, Arc<Adapter>)>,
    /// Makes what grammars are compiled with, where tokens are sampled.
    pub grammars: Option<GrammarSource>,
    /// The folder for KV blocks on this host's disk, if some are to be there.
    pub disk: Option<PathBuf>,
    /// To the other ranks.
    pub pipes: Pipes,
    /// Its signs of life; the collective beats with it too.
    pub pulse: Pulse,
    /// Where it writes down what it is at.
    pub recorder: Recorder,
    /// Pipeline stages of its group.
    pub stages: u32,
    /// The least time that this stage takes for a step: a slow device for tests and measurements
    /// of pipelining, zero otherwise.
    pub stage_time_min: Duration,
}

impl Device {
    /// Runs until the commands end. Returns why it ended early.
    ///
    /// # Errors
    /// The cause, for people: what failed, or the panic's message.
    pub fn run(
        mut self,
        commands: &mpsc::Receiver<Command>,
        tell: &dyn Fn(DeviceEvent),
    ) -> Result<(), String> {
        let rank = self.rank;
        // Executor and mirror are dropped with it: of what is left only the recorder is looked at.
        let ended = catch_unwind(AssertUnwindSafe(|| self.run_inner(commands, tell)));
        match ended {
            // Others are gone, or sent something that does not fit.
            Ok(Ok(()) | Err(DeviceError::Collective(_) | DeviceError::Contract(_))) => {
                self.recorder.end();
            }
            Ok(Err(_)) | Err(_) => self.recorder.fail(),
        }
        match ended {
            Ok(result) => result.map_err(|error| format!("rank {rank}: {}", chain(&error))),
            Err(panic) => Err(format!("rank {rank} panicked: {}", panic_text(panic.as_ref()))),
        }
    }

    fn run_inner(
        &mut self,
        commands: &mpsc::Receiver<Command>,
        tell: &dyn Fn(DeviceEvent),
    ) -> Result<(), DeviceError> {
        let samples = self.rank.stage + 1 == self.stages && self.rank.tp == 0;
        // First, because it sorts the vocabulary on a thread of its own while weights load.
        let mut grammars = Grammars::new(self.grammars.take().filter(|_| samples));
        let loader = std::mem::replace(&mut self.loader, Box::new(no_loader));
        let mut executor = loader()?;
        for (id, adapter) in &self.adapters {
            executor.add_adapter(*id, Arc::clone(adapter))?;
        }
        tell(DeviceEvent::Loaded(self.report(executor.as_ref())));
        let mut mirror = Mirror::new(self.epoch, self.limits.block_size);
        let depth = steps_in_flight(self.stages);
        let mut feed = self.pipes.tokens_in.take().map(|line| TokenFeed::new(line, depth));
        let mut idle_since = Instant::now();
        let memory = executor.memory();
        let shelf = self.shelf(memory.block_bytes);
        let mut desk = Desk::new(self.rank, self.epoch, memory.kv, shelf);
        let mut loading = Putting { off: true, begun: false };
        // The channel ends when the owner is gone: then so is this thread.
        loop {
            let command = match next(commands, &desk, (executor.as_mut(), &mut loading)) {
                Ok(command) => command,
                Err(RecvTimeoutError::Timeout) => {
                    tell_transfers(desk.poll(executor.as_mut()), tell);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            match command {
                Command::Start(blocks) => executor.allocate_kv(&blocks)?,
                Command::Transfer(order) => {
                    tell_transfers(desk.order(order, executor.as_mut()), tell);
                }
                Command::Adapter(id, adapter) => {
                    match adapter {
                        Some(adapter) => executor.add_adapter(id, adapter)?,
                        None => executor.remove_adapter(id),
                    }
                    tell(DeviceEvent::Adapter(id));
                }
                Command::Step(plan) => {
                    if let Some(feed) = &mut feed {
                        mirror.learn(&feed.take(&plan, NEIGHBOUR_DEADLINE)?);
                    }
                    let began_waiting = std::mem::replace(&mut idle_since, Instant::now());
                    if samples {
                        grammars.begin(&plan);
                    }
                    let state = (&mut mirror, &mut grammars, &mut desk);
                    let mut progress = self.step(&plan, executor.as_mut(), state, tell)?;
                    progress.idle_us += micros(idle_since - began_waiting);
                    idle_since = Instant::now();
                    tell(DeviceEvent::Progress(progress));
                    tell_transfers(desk.poll(executor.as_mut()), tell);
                    loading.begun = true;
                    loading.off = loading.off && executor.settle();
                }
            }
        }
    }

    fn step(
        &mut self,
        plan: &StepPlan,
        executor: &mut dyn Executor,
        (mirror, grammars, desk): (&mut Mirror, &mut Grammars, &mut Desk),
        tell: &dyn Fn(DeviceEvent),
    ) -> Result<Progress, DeviceError> {
        let _in = self.trace(plan).entered();
        let applied = Instant::now();
        let batch = mirror.apply(plan).map_err(DeviceError::Contract)?;
        self.recorder.begin(plan.spans().map(|(id, _)| id), |id| mirror.request_of(id));
        let input = self.take_input(plan.step)?;
        let began = Instant::now();
        let pulse = self.pulse.clone();
        pulse.begin();
        if plan.kind == StepKind::Run {
            desk.begin(plan, &batch);
            let mut tap = Beating { pulse: &pulse, tap: desk };
            let output = executor.forward_tapped(&batch, input, &mut tap)?;
            desk.end();
            pulse.beat();
            match output {
                StageOutput::Hidden(hidden) => {
                    self.take_at_least(began);
                    self.pass_on(plan.step, hidden)?;
                    mirror.drop_drafts(plan);
                }
                StageOutput::Logits(logits) if self.rank.tp == 0 => {
                    let (result, sampled) =
                        sample(plan, &batch, executor, (mirror, grammars), logits)?;
                    self.take_at_least(began);
                    mirror.drop_drafts(plan);
                    mirror.learn(&sampled);
                    if plan.spans().any(|(_, span)| span.sample) {
                        tokens::tell(&mut self.pipes.tokens_out, plan.step, &sampled)?;
                    }
                    let compute_us = micros(began.elapsed());
                    tell(DeviceEvent::Result(StepResult { compute_us, ..result }));
                }
                StageOutput::Logits(_) => mirror.drop_drafts(plan),
            }
        }
        pulse.beat();
        Ok(Progress {
            rank: self.rank,
            step: plan.step,
            compute_us: micros(began.elapsed()),
            idle_us: micros(began - applied),
            waited_us: micros(pulse.waited()),
            silence_us: micros(pulse.silence()),
        })
    }

    /// The step as a part of the trace of the first request that it starts; later steps of a
    /// request would only repeat it.
    fn trace(&self, plan: &StepPlan) -> Span {
        let Some(parent) = plan.new.iter().find_map(|new| new.traceparent.as_deref()) else {
            return Span::none();
        };
        let span = tracing::info_span!("stage", step = %plan.step, rank = %self.rank);
        telemetry::set_parent(&span, parent);
        span
    }

    fn take_input(&mut self, step: StepId) -> Result<StageInput, DeviceError> {
        let Some(upstream) = &mut self.pipes.upstream else { return Ok(StageInput::Tokens) };
        let (header, bytes) = upstream
            .receive(step, 0, NEIGHBOUR_DEADLINE)
            .map_err(|error| DeviceError::Collective(format!("previous stage: {error}")))?;
        Ok(StageInput::Hidden(HiddenStates {
            rows: header.rows as usize,
            columns: header.columns as usize,
            dtype: header.dtype,
            bytes,
        }))
    }

    fn pass_on(&mut self, step: StepId, hidden: HiddenStates) -> Result<(), DeviceError> {
        let Some(downstream) = &mut self.pipes.downstream else {
            return Err(DeviceError::Contract("hidden states without a next stage".into()));
        };
        // Rows are bounded by the token budget and columns by the model: both are u32 on the wire.
        let header = TensorHeader {
            step,
            index: 0,
            rows: hidden.rows as u32,
            columns: hidden.columns as u32,
            dtype: hidden.dtype,
        };
        downstream
            .send(header, hidden.bytes)
            .map_err(|error| DeviceError::Collective(format!("next stage: {error}")))
    }

    /// Where blocks go that the device gives up; `sizes` are the bytes of one in each KV group.
    fn shelf(&self, sizes: Vec<u64>) -> Shelf {
        let Some(folder) = &self.disk else { return Shelf::default() };
        let disk = Disk::open(folder, self.rank, sizes).inspect_err(|error| {
            let folder = folder.display();
            tracing::warn!(%error, %folder, "no KV blocks are kept on this disk");
        });
        Shelf::new(disk.ok())
    }

    fn report(&self, executor: &dyn Executor) -> RankReport {
        let memory = executor.memory();
        RankReport {
            rank: self.rank,
            weight_bytes_sharded: memory.weight_bytes_sharded,
            weight_bytes_replicated: memory.weight_bytes_replicated,
            replicated: memory.replicated,
            blocks: memory.blocks.into_iter().map(|room| self.limits.blocks(room)).collect(),
            block_bytes: memory.block_bytes,
            kernel_path: memory.kernel_path,
            kv: memory.kv,
            adapters: self.adapters.iter().map(|(_, adapter)| adapter.digest()).collect(),
        }
    }

    /// Holds a result back until the stage has taken its least time.
    #[expect(clippy::disallowed_methods, reason = "a device thread, and asked for by a flag")]
    fn take_at_least(&self, began: Instant) {
        let left = self.stage_time_min.saturating_sub(began.elapsed());
        if !left.is_zero() {
            std::thread::sleep(left);
        }
    }
}

fn sample(
    plan: &StepPlan,
    batch: &StepBatch,
    executor: &mut dyn Executor,
    (mirror, grammars): (&Mirror, &mut Grammars),
    logits: Logits,
) -> Result<(StepResult, Vec<SampledAt>), DeviceError> {
    let mut requests = mirror.requests(plan, batch);
    // Made on the host while the device still computes the logits.
    let allowed = grammars.masks(&requests);
    for (request, allowed) in requests.iter_mut().zip(&allowed) {
        request.mask = allowed.mask();
    }
    let mut sampled = executor.sample(logits, &requests)?;
    grammar::fail(&allowed, &mut sampled);
    let (outcomes, told) = Mirror::outcomes(&requests, sampled);
    Ok((StepResult { epoch: plan.epoch, step: plan.step, outcomes, compute_us: 0 }, told))
}

/// What of loading was put off until there is time.
struct Putting {
    /// Whether anything still is.
    off: bool,
    /// Whether steps have come. Before, a request may be on its way that nothing should delay.
    begun: bool,
}

/// The next command; while there are transfers it is waited for only so long that what comes or has
/// room again is not left lying. Waiting is time to load what was put off.
fn next(
    commands: &mpsc::Receiver<Command>,
    desk: &Desk,
    (executor, loading): (&mut dyn Executor, &mut Putting),
) -> Result<Command, RecvTimeoutError> {
    while loading.off && !desk.is_busy() {
        let wait = if loading.begun { Duration::ZERO } else { FIRST_REQUEST };
        match commands.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => loading.off = executor.settle(),
            other => return other,
        }
        loading.begun = true;
    }
    match desk.is_busy() {
        true => commands.recv_timeout(LOOK_AT_LINES),
        false => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}

/// How long after loading the first request may take to come before what was put off is done.
const FIRST_REQUEST: Duration = Duration::from_secs(2);

fn tell_transfers(reports: impl IntoIterator<Item = TransferReport>, tell: &dyn Fn(DeviceEvent)) {
    reports.into_iter().map(DeviceEvent::Transfer).for_each(tell);
}

fn no_loader() -> Result<Box<dyn Executor>, DeviceError> {
    Err(DeviceError::Contract("a device loads once".into()))
}

fn micros(duration: Duration) -> u64 {
    // Half a million years fit.
    duration.as_micros() as u64
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// How often an idle thread looks at its lines of KV: a share of what any transfer takes.
const LOOK_AT_LINES: Duration = Duration::from_micros(200);
/// Longest wait for a neighbour. The leader's step deadline ends the group long before; this only
/// makes sure that a thread whose leader is gone as well does not stay for ever.
const NEIGHBOUR_DEADLINE: Duration = Duration::from_secs(600);
