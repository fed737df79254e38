//! A group of which every rank is there, tensor ranks too, with the desks that send and take KV:
//! one side of a transfer.
//!
//! What a rank does with a command is what `worker/device.rs` does. Ranks take orders and look at
//! their lines when whoever drives this lets them; a step runs on all ranks at once, because how
//! stages lag behind each other is not what is tested here ([`super::harness`] does that).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;
use troupe_actors::{
    kv::{findable::Change, pool::BlockKey},
    leader::{
        engine::{Engine, EngineEffect, EngineEvent, Observation},
        settings::{Offload, steps_in_flight},
        transfers::{TransferEffect, TransferEvent, TransferSetup},
    },
    worker::{
        fake::{FakeExecutor, FakeModel},
        mirror::Mirror,
        tier::{disk::Disk, shelf::Shelf},
        transfer::{Incoming, LINE_FRAMES, RankOrder, Sealed, desk::Desk},
    },
};
use troupe_gpu::{
    collective::Collective,
    error::DeviceError,
    executor::{Executor, HiddenStates, StageInput, StageOutput},
};
use troupe_runtime::{
    id::{Coordinate, EndpointId, Epoch, StepId, TransferId},
    wire::{
        step::{StepPlan, StepResult},
        transfer::{Prefill, PrefillDown, RankPlace, TransferOrder, TransferReport},
    },
};

use super::{
    books::Books,
    harness::{Shape, endpoint, settings},
    properties::Dice,
};

/// One rank of several that never waits for the others: they are called one after the other.
#[derive(Clone, Copy)]
struct OneOf(usize, usize);

impl Collective for OneOf {
    fn rank(&self) -> usize {
        self.0
    }

    fn ranks(&self) -> usize {
        self.1
    }

    fn begin_step(&mut self, _step: StepId) {}

    fn all_reduce(&mut self, _values: &mut [f32]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn gather(&mut self, _values: &[f32], _into: &mut Vec<f32>) -> Result<(), DeviceError> {
        Ok(())
    }

    fn broadcast(&mut self, _bytes: &mut Vec<u8>) -> Result<(), DeviceError> {
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// What leaves a side.
#[derive(Debug)]
pub(super) enum Said {
    Ask(Box<Prefill>),
    Leave(TransferId),
    Answer(TransferId, PrefillDown),
    Hang(TransferId),
}

enum Command {
    Step(Arc<StepPlan>),
    Order(RankOrder),
}

struct Rank {
    at: Coordinate,
    mirror: Mirror,
    executor: FakeExecutor,
    desk: Desk,
    commands: VecDeque<Command>,
}

/// The group.
pub(super) struct Side {
    pub(super) shape: Shape,
    pub(super) books: Books,
    pub(super) engine: Engine,
    ranks: Vec<Rank>,
    results: VecDeque<StepResult>,
    reports: VecDeque<TransferReport>,
    /// Queues that device threads send into, and what is to come out of them where.
    pub(super) lines: Vec<(TransferId, Coordinate, mpsc::Receiver<Sealed>)>,
    pub(super) inboxes: BTreeMap<(TransferId, Coordinate), mpsc::Sender<Incoming>>,
    pub(super) said: VecDeque<Said>,
    /// Tokens that came from elsewhere, and those that were asked for.
    pub(super) fetched: (u64, u64),
    pub(super) fetches: u64,
    /// Tokens that came from its tiers, and those that were to come.
    pub(super) loaded: (u64, u64),
    /// In how many of a hundred cases a rank does not keep what it is to keep.
    pub(super) forgetful: usize,
    dice: Dice,
    /// Blocks that the engine has said can be found.
    cached: BTreeSet<BlockKey>,
}

/// Something that can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// All ranks run the next step.
    Step,
    /// This rank takes its next order.
    Order(usize),
    /// This rank looks at its lines.
    Poll(usize),
    /// The oldest result reaches the engine.
    Result,
    /// The oldest report of a rank does.
    Report,
}

pub(super) fn endpoint_of(number: u64) -> EndpointId {
    EndpointId { epoch: Epoch { number, nonce: 9 }, ..endpoint() }
}

/// Layers and heads of the model that both sides run.
const LAYERS: u32 = 5;
const HEADS: u32 = 4;

impl Side {
    /// The group whose epoch has this number, of so many tensor ranks in each of the shape's
    /// stages.
    pub(super) fn new(shape: Shape, tensor: u32, number: u64) -> Self {
        let own = endpoint_of(number);
        let mut block_bytes = 0;
        let mut rank = |stage: u32, tp: u32| {
            let model = FakeModel {
                stages: shape.stages,
                vocab_size: shape.vocab_size,
                blocks: shape.blocks,
                block_size: shape.block_size,
                window: shape.window,
                layers: LAYERS,
                heads: HEADS,
            };
            let at = Coordinate { dp: 0, stage, tp };
            let others = Box::new(OneOf(tp as usize, tensor as usize));
            let mut executor = FakeExecutor::new(at, model, others);
            executor.allocate_kv(&[shape.blocks]).unwrap();
            let memory = executor.memory();
            block_bytes += memory.block_bytes[0];
            let disk = (shape.kept.1 > 0).then(|| {
                // The file has no name any more when the folder goes.
                let folder = tempfile::tempdir().unwrap();
                Disk::open_here(folder.path(), at, memory.block_bytes).unwrap()
            });
            let desk = Desk::new(at, own.epoch, memory.kv, Shelf::new(disk));
            let mirror = Mirror::new(own.epoch, shape.block_size);
            Rank { at, mirror, executor, desk, commands: VecDeque::new() }
        };
        let ranks: Vec<_> = (0..shape.stages)
            .flat_map(|stage| (0..tensor).map(move |tp| (stage, tp)))
            .map(|(stage, tp)| rank(stage, tp))
            .collect();
        let place = |rank: &Rank| RankPlace {
            rank: rank.at,
            address: number.to_string(),
            shares: rank.executor.memory().kv,
        };
        let setup = TransferSetup {
            secret: [number as u8; 32],
            ranks: ranks.iter().map(place).collect(),
            block_bytes,
        };
        let mut settings = settings(shape);
        settings.endpoint = own;
        let (host, disk) = shape.kept;
        settings.limits.offload = Offload {
            host_bytes: block_bytes * u64::from(host),
            disk_bytes: block_bytes * u64::from(disk),
            eviction: shape.eviction,
        };
        Self {
            shape,
            books: Books::new(shape.vocab_size, shape.window),
            engine: Engine::new(settings, &[shape.blocks]).with_transfers(setup),
            ranks,
            results: VecDeque::new(),
            reports: VecDeque::new(),
            lines: Vec::new(),
            inboxes: BTreeMap::new(),
            said: VecDeque::new(),
            fetched: (0, 0),
            fetches: 0,
            loaded: (0, 0),
            forgetful: 0,
            dice: Dice(number),
            cached: BTreeSet::new(),
        }
    }

    pub(super) fn transfer(&mut self, now: Duration, event: TransferEvent) {
        self.event(now, EngineEvent::Transfer(event));
    }

    pub(super) fn event(&mut self, now: Duration, event: EngineEvent) {
        for effect in self.engine.handle(now, event) {
            match effect {
                EngineEffect::Plan(plan) => {
                    assert!(plan.tokens() <= self.shape.budget, "{plan:?}");
                    let plan = Arc::new(plan);
                    let all = self.ranks.iter_mut();
                    all.for_each(|rank| rank.commands.push_back(Command::Step(plan.clone())));
                }
                EngineEffect::Send(key, down) => drop(self.books.told(key, &down)),
                EngineEffect::Close(key) => self.books.closed(key),
                EngineEffect::Transfer(effect) => self.act(effect),
                EngineEffect::Adapt(effect) => panic!("no adapters here: {effect:?}"),
                EngineEffect::Observe(observation) => self.observe(&observation),
                EngineEffect::Cached(changes) => self.changed(changes),
                EngineEffect::Broken(why) => panic!("{why}"),
            }
        }
        if self.shape.prefix_caching {
            let cached = self.engine.cached_blocks().into_iter().collect();
            assert_eq!(self.cached, cached, "what was told is what is there");
        }
        self.engine.check_integrity().unwrap();
        let most = steps_in_flight(self.shape.stages) as usize;
        assert!(self.engine.steps_in_flight() <= most);
    }

    fn changed(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Stored { key, .. } => self.cached.insert(key),
                Change::Removed(key) => self.cached.remove(&key),
            };
        }
    }

    fn observe(&mut self, observation: &Observation) {
        if let Observation::Fetched { from_tiers, tokens, of, .. } = observation {
            let sum = if *from_tiers { &mut self.loaded } else { &mut self.fetched };
            sum.0 += u64::from(*tokens);
            sum.1 += u64::from(*of);
            self.fetches += u64::from(!from_tiers);
        }
    }

    fn act(&mut self, effect: TransferEffect) {
        match effect {
            TransferEffect::Order(order) => self.order(&order),
            TransferEffect::Ask(_, prefill) => self.said.push_back(Said::Ask(prefill)),
            TransferEffect::Leave(transfer) => self.said.push_back(Said::Leave(transfer)),
            TransferEffect::Answer(transfer, down) => {
                self.said.push_back(Said::Answer(transfer, down));
            }
            TransferEffect::Hang(transfer) => self.said.push_back(Said::Hang(transfer)),
        }
    }

    /// As a member lays and ends the lines.
    fn order(&mut self, order: &TransferOrder) {
        for rank in &mut self.ranks {
            let order = match order {
                TransferOrder::Export(order) => {
                    let own = order.routes.iter().filter(|route| route.from == rank.at);
                    let to: BTreeSet<_> = own.map(|route| route.to).collect();
                    let lines = to.into_iter().map(|to| {
                        let (sender, queue) = mpsc::channel(LINE_FRAMES);
                        self.lines.push((order.transfer, to, queue));
                        (to, sender)
                    });
                    RankOrder::Export(order.clone(), lines.collect())
                }
                TransferOrder::Import(order) => {
                    let (sender, inbox) = mpsc::channel(LINE_FRAMES);
                    self.inboxes.insert((order.transfer, rank.at), sender);
                    RankOrder::Import(order.clone(), inbox)
                }
                TransferOrder::Load(order) => RankOrder::Load(order.clone()),
                TransferOrder::Move(moves) => {
                    let mut moves = moves.clone();
                    moves.retain(|_| self.dice.roll(100) >= self.forgetful);
                    RankOrder::Move(moves)
                }
                TransferOrder::Close(transfer) => RankOrder::Close(*transfer),
            };
            rank.commands.push_back(Command::Order(order));
        }
        if let TransferOrder::Close(transfer) = order {
            self.inboxes.retain(|(open, _), _| open != transfer);
            self.lines.retain(|(open, _, _)| open != transfer);
        }
    }

    /// What can happen next, and would change something.
    pub(super) fn turns(&self) -> Vec<Turn> {
        let mut turns = Vec::new();
        let runs = |rank: &Rank| matches!(rank.commands.front(), Some(Command::Step(_)));
        if self.ranks.iter().all(runs) {
            turns.push(Turn::Step);
        }
        for (at, rank) in self.ranks.iter().enumerate() {
            if matches!(rank.commands.front(), Some(Command::Order(_))) {
                turns.push(Turn::Order(at));
            }
            if rank.desk.is_busy() {
                turns.push(Turn::Poll(at));
            }
        }
        turns.extend((!self.results.is_empty()).then_some(Turn::Result));
        turns.extend((!self.reports.is_empty()).then_some(Turn::Report));
        turns
    }

    pub(super) fn take(&mut self, now: Duration, turn: Turn) {
        match turn {
            Turn::Step => self.step(),
            Turn::Order(at) => {
                let rank = &mut self.ranks[at];
                let Some(Command::Order(order)) = rank.commands.pop_front() else {
                    panic!("an order was next")
                };
                self.reports.extend(rank.desk.order(order, &mut rank.executor));
            }
            Turn::Poll(at) => self.poll(at),
            Turn::Result => {
                let result = self.results.pop_front().unwrap();
                self.event(now, EngineEvent::Result(result));
            }
            Turn::Report => {
                let report = self.reports.pop_front().unwrap();
                self.transfer(now, TransferEvent::Report(report));
            }
        }
    }

    /// When all have ended: nothing is held, nothing runs, and the engine agrees.
    pub(super) fn check_the_end(&mut self, now: Duration) {
        self.books.check_all_ended();
        let load = self.engine.load();
        assert_eq!((load.running, load.waiting, load.blocks_used), (0, 0, 0), "{load:?}");
        assert_eq!(self.engine.steps_in_flight(), 0);
        assert!(self.ranks.iter().all(|rank| !rank.desk.is_busy()), "a transfer is left");
        self.event(now, EngineEvent::Tick);
    }

    fn poll(&mut self, at: usize) {
        let rank = &mut self.ranks[at];
        self.reports.extend(rank.desk.poll(&mut rank.executor));
    }

    fn step(&mut self) {
        let mut hidden: Option<HiddenStates> = None;
        let (mut plan, mut told) = (None, Vec::new());
        let last = self.shape.stages - 1;
        for stage in 0..self.shape.stages {
            let mut given = None;
            for rank in self.ranks.iter_mut().filter(|rank| rank.at.stage == stage) {
                let Some(Command::Step(next)) = rank.commands.pop_front() else {
                    panic!("a step was next")
                };
                let batch = rank.mirror.apply(&next).expect("the plan fits the mirror");
                let input = hidden.clone().map_or(StageInput::Tokens, StageInput::Hidden);
                rank.desk.begin(&next, &batch);
                let output = rank.executor.forward_tapped(&batch, input, &mut rank.desk).unwrap();
                rank.desk.end();
                match output {
                    StageOutput::Hidden(hidden) => given = Some(hidden),
                    StageOutput::Logits(logits) if rank.at.tp == 0 => {
                        let requests = rank.mirror.requests(&next, &batch);
                        let sampled = rank.executor.sample(logits, &requests).unwrap();
                        let (outcomes, sampled) = Mirror::outcomes(&requests, sampled);
                        told = sampled;
                        let (epoch, step) = (next.epoch, next.step);
                        self.results.push_back(StepResult { epoch, step, outcomes, compute_us: 1 });
                    }
                    StageOutput::Logits(_) => assert_eq!(stage, last),
                }
                plan = Some(next);
            }
            hidden = given;
        }
        let plan = plan.expect("there is a rank");
        for at in 0..self.ranks.len() {
            let rank = &mut self.ranks[at];
            rank.mirror.drop_drafts(&plan);
            rank.mirror.learn(&told);
            self.poll(at);
        }
    }
}
