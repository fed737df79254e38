//! A member's process: its core, its ranks with the lines between them, and on member 0 the leader.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use troupe_actors::{
    group::layout::Parallel,
    member::{
        core::{Member as Core, MemberEffect, MemberEvent},
        load::{FakeModels, Models, Prepared},
        wiring::Plan,
    },
    node::core::MemberKey,
};
use troupe_gpu::collective::Alone;
use troupe_runtime::{
    discovery::directory::GroupRecord,
    id::Coordinate,
    wire::{
        group::{Formation, Hello, MemberUp},
        kv::{BulkChannel, BulkOpen},
        member::{MemberToNode, NodeToMember},
        step::StepPlan,
    },
};

use super::{
    device::{Device, Ran, Tensor},
    leader::{Leader, OWN_DOOR, Way, tell_node},
    net::LineId,
    scenario::{BLOCKS, MODEL_LEN, VOCABULARY},
    words::{Frame, Inside, Purpose, Timer, Word},
    world::{HostId, Pid, World},
};

/// A member's process.
pub(crate) struct Member {
    key: MemberKey,
    record: GroupRecord,
    host: HostId,
    core: Core,
    prepared: Option<Arc<Prepared>>,
    leader: Option<Leader>,
    /// To the leader.
    up: Option<Way>,
    bulk: Bulk,
    devices: BTreeMap<Coordinate, Device>,
    /// It is ending, for this reason, as soon as its leader has.
    exiting: Option<Option<String>>,
}

/// Lines of tensors.
#[derive(Default)]
struct Bulk {
    outgoing: BTreeMap<BulkOpen, LineId>,
    incoming: BTreeMap<LineId, BulkOpen>,
    /// Those that are waited for; none before the formation is known.
    wanted: Option<BTreeSet<BulkOpen>>,
    /// All of them were there.
    wired: bool,
    /// Ranks that will hear, or be heard, no more.
    broken: BTreeSet<BulkOpen>,
}

// === impl Member ===

impl Member {
    pub(crate) fn new(key: MemberKey, record: GroupRecord, host: HostId) -> Self {
        let ranks = record.members.get(key.member as usize).map(|member| member.ranks.clone());
        let hello = Hello {
            group: key.group.clone(),
            epoch: key.epoch,
            member: key.member,
            address: String::new(),
        };
        Self {
            core: Core::new(hello, ranks.unwrap_or_default()),
            key,
            record,
            host,
            prepared: None,
            leader: None,
            up: None,
            bulk: Bulk::default(),
            devices: BTreeMap::new(),
            exiting: None,
        }
    }

    pub(crate) fn key(&self) -> &MemberKey {
        &self.key
    }

    pub(crate) fn leader(&self) -> Option<&Leader> {
        self.leader.as_ref()
    }

    pub(crate) fn handle(&mut self, world: &mut World, me: Pid, word: Word) {
        match word {
            Word::Begin => self.begin(world, me),
            Word::FromNode(NodeToMember::Leader(address)) => {
                self.act(world, me, MemberEvent::LeaderAt(address));
            }
            Word::FromNode(NodeToMember::Stop) => self.act(world, me, MemberEvent::Stop),
            Word::FromNode(NodeToMember::Drain(seconds)) => {
                self.act(world, me, MemberEvent::Drain(seconds));
            }
            // A member never outlives its node.
            Word::Orphaned => return world.kill(me, "its node is gone"),
            Word::Opened(line, Purpose::Bulk(open)) => {
                self.bulk.incoming.insert(line, open);
                self.look_at_lines(world, me);
            }
            Word::Opened(line, purpose) => match &mut self.leader {
                Some(leader) => leader.opened(line, &purpose),
                None => world.hang_up(me, line, "nobody is here for that"),
            },
            Word::Said(line, frame) => self.said(world, me, line, frame),
            Word::Over(line, why) => self.line_over(world, me, line, why),
            Word::Inside(inside) => self.inside(world, me, inside),
            Word::Timer(timer) => self.timer(world, me, timer),
            _ => {}
        }
        self.look_at_leader(world, me);
        self.drive(world, me);
    }

    fn begin(&mut self, world: &mut World, me: Pid) {
        let models = FakeModels { vocab_size: VOCABULARY, model_len: MODEL_LEN, blocks: BLOCKS };
        let address = format!("quic://sim:{me}");
        let prepared = match models.prepare(&self.record.launch) {
            Ok(prepared) => Arc::new(prepared),
            Err(cause) => {
                tell_node(world, me, MemberToNode::Failed(cause.clone()));
                return world.exit(me, &cause);
            }
        };
        let hello = Hello {
            group: self.key.group.clone(),
            epoch: self.key.epoch,
            member: self.key.member,
            address: address.clone(),
        };
        let ranks = self.record.members.get(self.key.member as usize);
        let ranks = ranks.map(|member| member.ranks.clone()).unwrap_or_default();
        self.core = Core::new(hello.clone(), ranks);
        if self.key.member == 0 {
            let (settings, endpoint) =
                (prepared.settings(&self.record), prepared.endpoint(&self.record, &address));
            let leader = Leader::new(world.now, hello, &self.record, settings, endpoint);
            self.leader = Some(leader);
            world.timer(me, LEADER_TICK, Timer::Tick);
        }
        self.prepared = Some(prepared);
        tell_node(world, me, MemberToNode::Listening(address));
    }

    fn timer(&mut self, world: &mut World, me: Pid, timer: Timer) {
        match timer {
            Timer::Tick => {
                if let Some(leader) = &mut self.leader {
                    leader.tick(world, me);
                    world.timer(me, LEADER_TICK, Timer::Tick);
                }
            }
            Timer::Lingered => self.act(world, me, MemberEvent::Lingered),
            Timer::Wired if !self.bulk.wired => {
                let cause = "lines: nobody opened them".to_owned();
                self.act(world, me, MemberEvent::Broken(cause));
            }
            Timer::Loaded(rank) => {
                if let Some(report) = self.devices.get(&rank).map(Device::report) {
                    self.act(world, me, MemberEvent::Loaded(report));
                }
            }
            Timer::Step(rank) => self.ran(world, me, rank),
            _ => {}
        }
    }

    fn said(&mut self, world: &mut World, me: Pid, line: LineId, frame: Frame) {
        match frame {
            Frame::Down(down) if self.up == Some(Way::Line(line)) => {
                self.act(world, me, MemberEvent::Down(down));
            }
            Frame::Tensor(header, bytes) => {
                let Some(open) = self.bulk.incoming.get(&line).copied() else { return };
                self.take(world, me, open, (header, bytes));
            }
            frame => {
                if let Some(leader) = &mut self.leader {
                    leader.said(world, me, line, frame);
                }
            }
        }
    }

    fn line_over(&mut self, world: &mut World, me: Pid, line: LineId, why: String) {
        if self.up == Some(Way::Line(line)) {
            self.up = None;
            return self.act(world, me, MemberEvent::LeaderLost(why));
        }
        let outgoing = self.bulk.outgoing.iter().find(|(_, own)| **own == line);
        let open = outgoing.map(|(open, _)| *open).or(self.bulk.incoming.remove(&line));
        if let Some(open) = open {
            self.bulk.broken.insert(open);
            if !self.bulk.wired && self.bulk.outgoing.contains_key(&open) {
                self.act(world, me, MemberEvent::Broken(format!("line {}: {why}", open.from)));
            }
        } else if let Some(leader) = &mut self.leader {
            leader.line_over(world, me, line, why);
        }
    }

    fn inside(&mut self, world: &mut World, me: Pid, inside: Inside) {
        match inside {
            Inside::Down(down) => self.act(world, me, MemberEvent::Down(down)),
            Inside::Tensor(open, header, bytes) => self.take(world, me, open, (header, bytes)),
            Inside::Up(up) => {
                let Some(leader) = &mut self.leader else { return };
                match up {
                    MemberUp::Hello(hello) => leader.join(world, me, OWN_DOOR, hello, Way::Own),
                    up => leader.up(world, me, OWN_DOOR, up),
                }
            }
            Inside::LeaderEnded(cause) => self.act(world, me, MemberEvent::Broken(cause)),
        }
    }

    fn act(&mut self, world: &mut World, me: Pid, event: MemberEvent) {
        for effect in self.core.handle(event) {
            match effect {
                MemberEffect::Dial(address, hello) => self.dial(world, me, &address, hello),
                MemberEffect::Wire(formation) => self.wire(world, me, &formation),
                MemberEffect::Up(up) => self.say(world, me, up),
                MemberEffect::Start(blocks) => {
                    for device in self.devices.values_mut() {
                        if let Err(why) = device.allocate(&blocks) {
                            world.check.bounds.broken(&why);
                        }
                    }
                }
                MemberEffect::Run(plan) => self.plan(Arc::new(plan)),
                MemberEffect::Drain(seconds) => {
                    if let Some(leader) = &mut self.leader {
                        leader.drain(world, me, Duration::from_secs(seconds.into()));
                    }
                }
                MemberEffect::Linger => world.timer(me, LINGER, Timer::Lingered),
                MemberEffect::Exit(cause) => drop(self.exiting.get_or_insert(cause)),
                MemberEffect::Transfer(_) | MemberEffect::Read(_) | MemberEffect::Adapt(..) => {}
            }
        }
        let Some(cause) = self.exiting.clone() else { return };
        match &mut self.leader {
            Some(leader) if leader.over.is_none() => leader.stop(world, me),
            Some(_) => {}
            None => {
                if let Some(cause) = &cause {
                    tell_node(world, me, MemberToNode::Failed(cause.clone()));
                }
                world.exit(me, &cause.unwrap_or_else(|| "it ended".into()));
            }
        }
    }

    /// A leader that is over ends, and its member with it.
    fn look_at_leader(&mut self, world: &mut World, me: Pid) {
        let over = self.leader.as_ref().and_then(|leader| leader.over.clone());
        if let Some(cause) = over
            && let Some(mut leader) = self.leader.take()
        {
            leader.close(world, me, &cause);
            world.enter(Duration::ZERO, me, Word::Inside(Inside::LeaderEnded(cause)));
        }
    }

    fn dial(&mut self, world: &mut World, me: Pid, address: &str, hello: Hello) {
        let hello = MemberUp::Hello(hello);
        if self.leader.is_some() {
            self.up = Some(Way::Own);
            return world.enter(Duration::ZERO, me, Word::Inside(Inside::Up(hello)));
        }
        let Some(leader) = pid_at(address) else { return };
        let line = world.dial(me, leader, Purpose::Group, DIAL_DEADLINE);
        world.say(me, line, Frame::Up(hello));
        self.up = Some(Way::Line(line));
    }

    fn say(&self, world: &mut World, me: Pid, up: MemberUp) {
        match self.up {
            Some(Way::Own) => world.enter(Duration::ZERO, me, Word::Inside(Inside::Up(up))),
            Some(Way::Line(line)) => world.say(me, line, Frame::Up(up)),
            None => {}
        }
    }

    fn wire(&mut self, world: &mut World, me: Pid, formation: &Formation) {
        let launch = &self.record.launch;
        let parallel =
            Parallel { tensor: launch.tensor_parallel, pipeline: launch.pipeline_parallel };
        let plan = Plan::new(formation, self.key.member, parallel);
        for (open, to) in plan.outgoing() {
            let home = formation.members.get(*to as usize);
            let Some(peer) = home.and_then(|member| pid_at(&member.address)) else { continue };
            let line = world.dial(me, peer, Purpose::Bulk(*open), WIRE_DEADLINE);
            self.bulk.outgoing.insert(*open, line);
        }
        self.bulk.wanted = Some(plan.incoming().clone());
        world.timer(me, WIRE_DEADLINE, Timer::Wired);
        self.look_at_lines(world, me);
    }

    /// Once all lines are there, weights are loaded.
    fn look_at_lines(&mut self, world: &mut World, me: Pid) {
        let Some(wanted) = self.bulk.wanted.clone().filter(|_| !self.bulk.wired) else { return };
        let strange: Vec<LineId> = self
            .bulk
            .incoming
            .iter()
            .filter(|(_, o)| !wanted.contains(o))
            .map(|(l, _)| *l)
            .collect();
        for line in strange {
            self.bulk.incoming.remove(&line);
            world.hang_up(me, line, "not of this incarnation");
        }
        let there: BTreeSet<BulkOpen> = self.bulk.incoming.values().copied().collect();
        if there != wanted {
            return;
        }
        self.bulk.wired = true;
        let Some(prepared) = self.prepared.clone() else { return };
        let models = FakeModels { vocab_size: VOCABULARY, model_len: MODEL_LEN, blocks: BLOCKS };
        let stages = self.record.launch.pipeline_parallel;
        let ranks = self.record.members.get(self.key.member as usize);
        for rank in ranks.map(|member| member.ranks.clone()).unwrap_or_default() {
            let load = models.loader(prepared.clone(), rank, Box::new(Alone), 1);
            match load() {
                Ok(executor) => {
                    let (at, limits) = ((rank, stages), prepared.limits);
                    let device = Device::new(at, self.key.epoch, limits, executor);
                    self.devices.insert(rank, device);
                    let after = world.dice.time(LOAD.0, LOAD.1) * world.slow_factor(self.host);
                    world.timer(me, after, Timer::Loaded(rank));
                }
                Err(error) => self.act(world, me, MemberEvent::Broken(error.to_string())),
            }
        }
    }

    fn plan(&mut self, plan: Arc<StepPlan>) {
        self.devices.values_mut().for_each(|device| device.plan(plan.clone()));
    }

    fn take(&mut self, world: &mut World, me: Pid, open: BulkOpen, tensor: Tensor) {
        let Some(device) = self.devices.get_mut(&open.to) else { return };
        if let Err(why) = device.take(tensor) {
            self.act(world, me, MemberEvent::Broken(why));
        }
    }

    /// Lets every rank begin its next step that can.
    fn drive(&mut self, world: &mut World, me: Pid) {
        let mut gone = None;
        for (rank, device) in &mut self.devices {
            if device.busy {
                continue;
            }
            if device.is_ready() {
                device.busy = true;
                let cost = device.cost() * world.slow_factor(self.host);
                world.timer(me, cost, Timer::Step(*rank));
            } else if device.waits() && self.bulk.broken.iter().any(|open| open.to == *rank) {
                gone = Some(format!("rank {rank}: its neighbor is gone"));
            }
        }
        if let Some(why) = gone {
            self.act(world, me, MemberEvent::Broken(why));
        }
    }

    fn ran(&mut self, world: &mut World, me: Pid, rank: Coordinate) {
        let Some(device) = self.devices.get_mut(&rank) else { return };
        device.busy = false;
        let ran = match device.run() {
            Ok(ran) => ran,
            Err(why) => {
                world.check.bounds.device(&why);
                return self.act(world, me, MemberEvent::Broken(why));
            }
        };
        let Ran { hidden, tokens, result, progress } = ran;
        let next = Coordinate { stage: rank.stage + 1, ..rank };
        let first = Coordinate { stage: 0, ..rank };
        let sent = [
            hidden.map(|tensor| (next, BulkChannel::Activation, tensor)),
            tokens.map(|tensor| (first, BulkChannel::Tokens, tensor)),
        ];
        for (to, channel, tensor) in sent.into_iter().flatten() {
            let open = BulkOpen { epoch: self.key.epoch, from: rank, to, channel };
            if let Err(why) = self.pass(world, me, open, tensor) {
                return self.act(world, me, MemberEvent::Broken(why));
            }
        }
        if let Some(result) = result {
            self.act(world, me, MemberEvent::Result(result));
        }
        if let Some(progress) = progress {
            self.act(world, me, MemberEvent::Progress(progress));
        }
    }

    fn pass(
        &self,
        world: &mut World,
        me: Pid,
        open: BulkOpen,
        (header, bytes): Tensor,
    ) -> Result<(), String> {
        match self.bulk.outgoing.get(&open) {
            Some(_) if self.bulk.broken.contains(&open) => {
                return Err(format!("rank {}: {} is gone", open.from, open.to));
            }
            Some(line) => world.say(me, *line, Frame::Tensor(header, bytes)),
            None => {
                let inside = Inside::Tensor(open, header, bytes);
                world.enter(Duration::ZERO, me, Word::Inside(inside));
            }
        }
        Ok(())
    }
}

/// The process that listens at an address.
pub(crate) fn pid_at(address: &str) -> Option<Pid> {
    address.rsplit(':').next()?.parse().ok()
}

/// How often a leader looks at its deadlines.
const LEADER_TICK: Duration = Duration::from_millis(100);
/// How long a member that broke waits for its leader to hear why.
const LINGER: Duration = Duration::from_millis(200);
/// The leader's node has reported that it listens.
const DIAL_DEADLINE: Duration = Duration::from_secs(20);
/// Within this all lines of a group stand, or forming has failed.
const WIRE_DEADLINE: Duration = Duration::from_secs(30);
/// What loading a rank's weights takes.
const LOAD: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
