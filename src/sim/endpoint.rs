//! One endpoint: the real engine, and a device that takes as long as it costs.
//!
//! The device runs one step at a time, and the engine has the next one ready, as a group of one
//! stage does. What a leader does beside is done too: it tells how busy it is and what it has
//! cached, when its own rules say so.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use troupe_actors::{
    leader::{
        engine::{Engine, EngineEffect, EngineEvent},
        ledger::{Ledger, Reading},
        request::RequestKey,
        settings::EngineSettings,
    },
    scheduler::Counters,
};
use troupe_runtime::{
    id::SequenceId,
    wire::{
        cache::CacheBatch,
        generate::GenerateDown,
        status::Load,
        step::{Outcome, SampledTokens, SequenceResult, StepPlan, StepResult},
    },
};

use super::{cost::CostModel, load::token};

/// See the file.
#[derive(Debug)]
pub(super) struct Endpoint {
    engine: Engine,
    cost: CostModel,
    /// What each sequence's tokens are made of.
    seeds: BTreeMap<SequenceId, u64>,
    /// The first of them runs.
    plans: VecDeque<StepPlan>,
    /// When the device has computed.
    busy: Duration,
    ledger: Ledger,
    /// The last batch of it that was told.
    since: Option<u64>,
    /// It will be read.
    reading: bool,
    told: Load,
    told_at: Duration,
    /// When the load is told next, if nothing changes that.
    next_tell: Duration,
}

/// What happens to an endpoint by itself when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// The step that runs is done.
    Step,
    /// Somebody reads what is told of the cache.
    Ledger,
    /// The load is told.
    Load,
}

/// What came of an event.
#[derive(Debug, Default)]
pub(super) struct Came {
    /// To gateways, in order.
    pub(super) down: Vec<(RequestKey, GenerateDown)>,
    /// What will happen, and when.
    pub(super) timers: Vec<(Duration, Timer)>,
}

/// What is told of a cache.
#[derive(Debug)]
pub(super) enum Told {
    Batches(Vec<Arc<CacheBatch>>),
    All(Vec<u128>),
}

/// A leader tells its load at most so often,
const LOAD_INTERVAL: Duration = Duration::from_millis(50);
/// and at least so often, from the end of that interval on.
const LOAD_AT_LEAST: Duration = Duration::from_secs(1);

// === impl Endpoint ===

impl Endpoint {
    /// One that has so many KV blocks and nothing to do.
    pub(super) fn new(settings: EngineSettings, blocks: u32, cost: CostModel) -> Self {
        let ledger = Ledger::new(settings.endpoint.epoch);
        Self {
            engine: Engine::new(settings, &[blocks]),
            cost,
            seeds: BTreeMap::new(),
            plans: VecDeque::new(),
            busy: Duration::ZERO,
            ledger,
            since: Some(0),
            reading: false,
            told: Load::default(),
            told_at: Duration::ZERO,
            next_tell: Duration::ZERO,
        }
    }

    /// Something happens to its engine.
    ///
    /// # Errors
    /// The engine's books do not add up.
    pub(super) fn handle(
        &mut self,
        now: Duration,
        event: EngineEvent,
        came: &mut Came,
    ) -> Result<(), String> {
        for effect in self.engine.handle(now, event) {
            match effect {
                EngineEffect::Plan(plan) => {
                    self.plans.push_back(plan);
                    if self.plans.len() == 1 {
                        self.begin(now, came);
                    }
                }
                EngineEffect::Send(key, down) => came.down.push((key, down)),
                EngineEffect::Cached(changes) => {
                    self.ledger.note(now, changes);
                    if !std::mem::replace(&mut self.reading, true) {
                        came.timers.push((now, Timer::Ledger));
                    }
                }
                EngineEffect::Broken(why) => return Err(why),
                EngineEffect::Close(_)
                | EngineEffect::Observe(_)
                | EngineEffect::Transfer(_)
                | EngineEffect::Adapt(_) => {}
            }
        }
        if self.engine.load() != self.told {
            self.tell_by(now.max(self.told_at + LOAD_INTERVAL), came);
        }
        Ok(())
    }

    /// The device begins with the first plan.
    fn begin(&mut self, now: Duration, came: &mut Came) {
        let Some(plan) = self.plans.front() else { return };
        let time = self.cost.of(plan);
        self.busy += time;
        came.timers.push((now + time, Timer::Step));
    }

    /// The step that runs is done.
    ///
    /// # Errors
    /// The engine's books do not add up.
    pub(super) fn step_done(&mut self, now: Duration, came: &mut Came) -> Result<(), String> {
        let Some(plan) = self.plans.pop_front() else { return Ok(()) };
        // The device does not wait for the engine if that has planned ahead.
        self.begin(now, came);
        let result = self.result(&plan);
        self.handle(now, EngineEvent::Result(result), came)
    }

    /// What a step yields: the tokens that its sequences' seeds stand for.
    fn result(&mut self, plan: &StepPlan) -> StepResult {
        for finished in &plan.finished {
            self.seeds.remove(finished);
        }
        self.seeds.extend(plan.new.iter().map(|new| (new.sequence, new.seed)));
        let sampling = plan.spans().filter(|(_, span)| span.sample);
        let outcomes = sampling.map(|(sequence, span)| {
            let seed = self.seeds.get(&sequence).copied().unwrap_or_default();
            let tokens = [token(seed, span.computed + span.count)].as_slice().into();
            let sampled = SampledTokens { tokens, ..SampledTokens::default() };
            SequenceResult { sequence, outcome: Outcome::Tokens(sampled) }
        });
        let outcomes = outcomes.collect();
        StepResult { epoch: plan.epoch, step: plan.step, outcomes, compute_us: 0 }
    }

    /// What is to be told of its cache now, if anything.
    pub(super) fn read_ledger(&mut self, now: Duration, came: &mut Came) -> Option<Told> {
        let told = match self.ledger.read(now, self.since) {
            Reading::Batches(batches) => {
                self.since = batches.last().map_or(self.since, |last| Some(last.seq));
                Some(Told::Batches(batches))
            }
            Reading::Snapshot { seq, held } => {
                self.since = Some(seq);
                Some(Told::All(held))
            }
            Reading::Nothing(due) => {
                self.reading = due.is_some();
                came.timers.extend(due.map(|due| (due, Timer::Ledger)));
                return None;
            }
        };
        // There may be more.
        came.timers.push((now, Timer::Ledger));
        told
    }

    /// What is to be told of its load now; nothing if that was not the time for it.
    pub(super) fn tell_load(&mut self, now: Duration, came: &mut Came) -> Option<Load> {
        if now != self.next_tell {
            return None;
        }
        (self.told, self.told_at) = (self.engine.load(), now);
        self.next_tell = now + LOAD_INTERVAL + LOAD_AT_LEAST;
        came.timers.push((self.next_tell, Timer::Load));
        Some(self.told)
    }

    fn tell_by(&mut self, at: Duration, came: &mut Came) {
        if at < self.next_tell {
            self.next_tell = at;
            came.timers.push((at, Timer::Load));
        }
    }

    /// Whether a step runs.
    pub(super) fn is_running(&self) -> bool {
        !self.plans.is_empty()
    }

    /// When the device has computed.
    pub(super) fn busy(&self) -> Duration {
        self.busy
    }

    /// What its engine has counted.
    pub(super) fn counters(&self) -> &Counters {
        self.engine.counters()
    }

    /// When all has been answered: nothing is held, and the engine agrees.
    ///
    /// # Errors
    /// What does not add up.
    pub(super) fn check_the_end(&self) -> Result<(), String> {
        let load = self.engine.load();
        if (load.running, load.waiting, load.blocks_used) != (0, 0, 0) {
            return Err(format!("something is held when all has been answered: {load:?}"));
        }
        self.engine.check_integrity()
    }
}
