//! A leader: the life of its group and its engine, and the lines of members and gateways to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use troupe_actors::{
    group::lifecycle::{Deadlines, Group, GroupEffect, GroupEvent, Over},
    leader::{
        describe::Endpoint,
        drain::{Drain, Stand},
        engine::{Engine, EngineEffect, EngineEvent},
        request::RequestKey,
        settings::{EngineSettings, steps_in_flight},
    },
};
use troupe_runtime::{
    discovery::directory::{GroupRecord, MemberState},
    error::{ErrorKind, PublicError},
    id::NodeId,
    wire::{
        generate::{Generate, GenerateDown, GenerateUp},
        group::{Hello, MemberDown, MemberUp, RankReport},
        member::{Blame, MemberToNode},
        status::{EndpointInfo, Load, StatusDown, StatusUp},
        step::StepPlan,
    },
};

use super::{
    faults::Sabotage,
    net::LineId,
    words::{Frame, Inside, Purpose, Word},
    world::{PIPE, Pid, World},
};

/// See the file.
pub(crate) struct Leader {
    origin: Duration,
    group: Group,
    settings: EngineSettings,
    endpoint: Endpoint,
    engine: Option<Engine>,
    members: BTreeMap<u64, Way>,
    /// Lines of those who said that they are of another incarnation.
    strangers: BTreeSet<LineId>,
    doors: BTreeMap<LineId, Door>,
    outboxes: BTreeMap<RequestKey, LineId>,
    info: Option<EndpointInfo>,
    drain: Option<Drain>,
    /// Blocks that sequences hold, for whoever has the engine give one away twice.
    last_table: Vec<troupe_runtime::id::BlockId>,
    /// Why it is over, once it is.
    pub(crate) over: Option<String>,
}

/// How a member is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It is the leader's own.
    Own,
    Line(LineId),
}

/// Who speaks on a line.
enum Door {
    /// A member, and whether it has said hello.
    Member(bool),
    Request(Option<RequestKey>),
    /// A gateway, and what it was told last and when.
    Status(Option<(Load, Duration)>),
}

// === impl Leader ===

impl Leader {
    pub(crate) fn new(
        now: Duration,
        hello: Hello,
        record: &GroupRecord,
        settings: EngineSettings,
        endpoint: Endpoint,
    ) -> Self {
        let expected = record.members.iter().map(|member| member.ranks.clone()).collect();
        Self {
            origin: now,
            group: Group::new(Duration::ZERO, hello, expected, Deadlines::default()),
            settings,
            endpoint,
            engine: None,
            members: BTreeMap::new(),
            strangers: BTreeSet::new(),
            doors: BTreeMap::new(),
            outboxes: BTreeMap::new(),
            info: None,
            drain: None,
            last_table: Vec::new(),
            over: None,
        }
    }

    pub(crate) fn engine(&self) -> Option<&Engine> {
        self.engine.as_ref()
    }

    pub(crate) fn opened(&mut self, line: LineId, purpose: &Purpose) {
        let door = match purpose {
            Purpose::Group => Door::Member(false),
            Purpose::Generate => Door::Request(None),
            _ => Door::Status(None),
        };
        self.doors.insert(line, door);
    }

    pub(crate) fn said(&mut self, world: &mut World, me: Pid, line: LineId, frame: Frame) {
        let before = self.over.is_some();
        self.hear(world, me, line, frame);
        self.look_at_stranger(world, line, before);
    }

    fn hear(&mut self, world: &mut World, me: Pid, line: LineId, frame: Frame) {
        match (self.doors.get_mut(&line), frame) {
            (Some(Door::Member(known)), Frame::Up(up)) => match (*known, up) {
                (false, MemberUp::Hello(hello)) => {
                    *known = true;
                    if hello.epoch != self.settings.endpoint.epoch {
                        self.strangers.insert(line);
                    }
                    self.join(world, me, line.0, hello, Way::Line(line));
                }
                (true, up) => self.up(world, me, line.0, up),
                (false, _) => {}
            },
            (Some(Door::Request(known)), Frame::Generate(up)) => match (*known, up) {
                (None, GenerateUp::Start(generate)) => {
                    let (request, attempt) = (generate.request, generate.attempt);
                    *known = Some(RequestKey { request, attempt });
                    self.submit(world, me, line, generate);
                }
                (Some(key), GenerateUp::Finish(finish)) => {
                    self.engine_event(world, me, EngineEvent::Finish(key, finish));
                }
                (None, _) | (Some(_), _) => {}
            },
            (Some(Door::Status(_)), Frame::Follow(StatusUp::Watch)) => {
                self.introduce(world, me, line);
            }
            _ => {}
        }
    }

    pub(crate) fn line_over(&mut self, world: &mut World, me: Pid, line: LineId, why: String) {
        let before = self.over.is_some();
        match self.doors.remove(&line) {
            Some(Door::Member(true)) => {
                self.group_event(world, me, GroupEvent::Lost(line.0, why));
                self.look_at_stranger(world, line, before);
            }
            Some(Door::Request(Some(key))) if self.outboxes.get(&key) == Some(&line) => {
                self.engine_event(world, me, EngineEvent::Abort(key));
            }
            _ => {}
        }
    }

    /// Nobody of another incarnation ends this one.
    fn look_at_stranger(&self, world: &mut World, line: LineId, before: bool) {
        if !before && self.over.is_some() && self.strangers.contains(&line) {
            world.check.epochs.ended_by_stranger();
        }
    }

    pub(crate) fn join(&mut self, world: &mut World, me: Pid, door: u64, hello: Hello, way: Way) {
        self.members.insert(door, way);
        self.group_event(world, me, GroupEvent::Hello(door, ANYWHERE, hello));
    }

    pub(crate) fn up(&mut self, world: &mut World, me: Pid, door: u64, up: MemberUp) {
        if self.group.member_at(door).is_none() {
            return;
        }
        match up {
            MemberUp::Hello(_) => {}
            MemberUp::Loaded(reports) => {
                self.group_event(world, me, GroupEvent::Loaded(door, reports));
            }
            MemberUp::Progress(progress) => {
                self.group_event(world, me, GroupEvent::Progress(progress));
            }
            MemberUp::Pulse(pulses) => self.group_event(world, me, GroupEvent::Pulse(pulses)),
            MemberUp::Failed(cause) => {
                self.group_event(world, me, GroupEvent::Lost(door, cause));
            }
            MemberUp::Drain(seconds) => {
                self.drain(world, me, Duration::from_secs(seconds.into()));
            }
            MemberUp::Result(result) => {
                self.group_event(world, me, GroupEvent::Done(result.step));
                self.engine_event(world, me, EngineEvent::Result(result));
            }
            MemberUp::Transfer(_) | MemberUp::Adapter(_) => {}
        }
    }

    pub(crate) fn tick(&mut self, world: &mut World, me: Pid) {
        self.engine_event(world, me, EngineEvent::Tick);
        self.group_event(world, me, GroupEvent::Tick);
        self.look_at_drain(world, me);
        self.tell_load(world, me);
    }

    pub(crate) fn stop(&mut self, world: &mut World, me: Pid) {
        self.broadcast(world, me, &MemberDown::Stop);
        self.fail(world, me, "its group is stopped, to be formed anew or for good".into());
    }

    pub(crate) fn drain(&mut self, world: &mut World, me: Pid, time: Duration) {
        let now = world.now - self.origin;
        if let Some(drain) = &mut self.drain {
            return drain.hasten(now, time);
        }
        self.drain = Some(Drain::new(now, time));
        self.broadcast(world, me, &MemberDown::Drain);
        self.engine_event(world, me, EngineEvent::Drain);
        tell_node(world, me, MemberToNode::Draining);
    }

    /// It has ended: whoever it spoke with hears that.
    pub(crate) fn close(&mut self, world: &mut World, me: Pid, why: &str) {
        for line in std::mem::take(&mut self.doors).into_keys() {
            world.hang_up(me, line, why);
        }
    }

    fn submit(&mut self, world: &mut World, me: Pid, line: LineId, generate: Box<Generate>) {
        let key = RequestKey { request: generate.request, attempt: generate.attempt };
        let refusal = match (&self.engine, self.outboxes.contains_key(&key)) {
            (None, _) => Some("the group does not serve yet"),
            (Some(_), true) => Some("this attempt is under way already"),
            (Some(_), false) => None,
        };
        if let Some(why) = refusal {
            let error = PublicError::new(ErrorKind::Unavailable, why);
            world.say(me, line, Frame::Generated(GenerateDown::Refused(error)));
            world.hang_up(me, line, "refused");
            self.doors.remove(&line);
            return;
        }
        let (meant, own) = (generate.endpoint.clone(), self.settings.endpoint.clone());
        self.outboxes.insert(key, line);
        let mut generate = generate;
        if world.sabotage == Sabotage::EpochUnchecked {
            generate.endpoint = own.clone();
        }
        self.engine_event(world, me, EngineEvent::Submit(generate));
        if self.outboxes.contains_key(&key) {
            world.check.epochs.accepted(&meant, &own);
        }
    }

    fn group_event(&mut self, world: &mut World, me: Pid, event: GroupEvent) {
        let now = world.now - self.origin;
        for effect in self.group.handle(now, event) {
            match effect {
                GroupEffect::Form(formation) => {
                    self.broadcast(world, me, &MemberDown::Form(formation));
                }
                GroupEffect::Start(blocks, reports) => {
                    self.broadcast(world, me, &MemberDown::Start(blocks.clone()));
                    self.serve(world, me, &blocks, &reports);
                }
                GroupEffect::Refuse(door, why) => {
                    if let Some(Way::Line(line)) = self.members.remove(&door) {
                        world.hang_up(me, line, &why);
                        self.doors.remove(&line);
                    }
                }
                GroupEffect::Over(Over { cause, blame }) => {
                    if let Some((member, fault)) = blame {
                        let blame = Blame { member, fault, why: cause.clone() };
                        tell_node(world, me, MemberToNode::Blames(blame));
                    }
                    self.fail(world, me, cause);
                }
            }
        }
    }

    fn serve(&mut self, world: &mut World, me: Pid, blocks: &[u32], reports: &[RankReport]) {
        self.engine = Some(Engine::new(self.settings.clone(), blocks));
        let info = self.endpoint.info(&self.settings, blocks, reports);
        self.info = Some(info.clone());
        tell_node(world, me, MemberToNode::Ready(self.endpoint.record(info)));
        let followers: Vec<LineId> = self.doors.keys().copied().collect();
        for line in followers {
            self.introduce(world, me, line);
        }
    }

    fn engine_event(&mut self, world: &mut World, me: Pid, event: EngineEvent) {
        let now = world.now - self.origin;
        let Some(engine) = &mut self.engine else { return };
        let effects = engine.handle(now, event);
        world.check.bounds.engine(engine, steps_in_flight(self.settings.stages));
        for effect in effects {
            match effect {
                EngineEffect::Plan(plan) => {
                    self.group_event(world, me, GroupEvent::Planned(plan.step, plan.tokens()));
                    let plan = self.forge(world, plan);
                    self.broadcast(world, me, &MemberDown::Step(plan));
                }
                EngineEffect::Send(key, down) => {
                    if let Some(line) = self.outboxes.get(&key) {
                        world.say(me, *line, Frame::Generated(down));
                    }
                }
                EngineEffect::Close(key) => {
                    if let Some(line) = self.outboxes.remove(&key) {
                        world.hang_up(me, line, "it is over");
                        self.doors.remove(&line);
                    }
                }
                EngineEffect::Broken(why) => {
                    world.check.bounds.broken(&why);
                    self.fail(world, me, why);
                }
                EngineEffect::Transfer(_)
                | EngineEffect::Adapt(_)
                | EngineEffect::Observe(_)
                | EngineEffect::Cached(_) => {}
            }
        }
    }

    /// A build whose engine frees blocks too early has the next sequence write where another reads.
    fn forge(&mut self, world: &mut World, mut plan: StepPlan) -> StepPlan {
        if world.sabotage != Sabotage::BlockFreedEarly {
            return plan;
        }
        for new in &mut plan.new {
            let Some(table) = new.block_tables.first_mut() else { continue };
            let last = self.last_table.last().copied();
            self.last_table = table.clone();
            if let (Some(own), Some(other)) = (table.last_mut(), last)
                && world.dice.chance(200)
            {
                *own = other;
            }
        }
        plan
    }

    fn broadcast(&self, world: &mut World, me: Pid, down: &MemberDown) {
        for way in self.members.values() {
            match way {
                Way::Own => {
                    world.enter(Duration::ZERO, me, Word::Inside(Inside::Down(down.clone())));
                }
                Way::Line(line) => world.say(me, *line, Frame::Down(down.clone())),
            }
        }
    }

    fn introduce(&mut self, world: &mut World, me: Pid, line: LineId) {
        let (Some(info), Some(engine)) = (&self.info, &self.engine) else { return };
        let Some(Door::Status(told)) = self.doors.get_mut(&line) else { return };
        let load = engine.load();
        *told = Some((load, world.now));
        world.say(me, line, Frame::Status(StatusDown::Info(Box::new(info.clone()))));
        world.say(me, line, Frame::Status(StatusDown::Load(load)));
    }

    fn tell_load(&mut self, world: &mut World, me: Pid) {
        let Some(load) = self.engine.as_ref().map(Engine::load) else { return };
        for (line, door) in &mut self.doors {
            let Door::Status(Some((told, at))) = door else { continue };
            if *told != load || world.now - *at >= LOAD_AT_LEAST {
                (*told, *at) = (load, world.now);
                world.say(me, *line, Frame::Status(StatusDown::Load(load)));
            }
        }
    }

    fn look_at_drain(&mut self, world: &mut World, me: Pid) {
        let requests = self.engine.as_ref().map_or(0, Engine::open_requests);
        let doors = self.doors.values().filter(|door| matches!(door, Door::Request(_))).count();
        let now = world.now - self.origin;
        let stand = self.drain.as_mut().map(|drain| drain.stand(now, requests, doors));
        match stand {
            None | Some(Stand::Goes) => return,
            Some(Stand::Moves) => return self.engine_event(world, me, EngineEvent::Move),
            Some(Stand::Done) => {}
            Some(Stand::Late) => {
                self.fail(world, me, "it was to drain, and its time is over".into());
            }
        }
        self.broadcast(world, me, &MemberDown::Stop);
        self.over = Some(MemberState::DRAINED.into());
    }

    fn fail(&mut self, world: &mut World, me: Pid, cause: String) {
        let message = format!("The endpoint is gone: {cause}");
        let error = PublicError::new(ErrorKind::Unavailable, message);
        self.engine_event(world, me, EngineEvent::Fail(error));
        self.engine = None;
        self.over = Some(cause);
    }
}

/// Tells the node something.
pub(crate) fn tell_node(world: &mut World, me: Pid, what: MemberToNode) {
    if let Some(node) = world.parent_of(me) {
        world.enter(PIPE, node, Word::FromMember(me, what));
    }
}

/// Through which a leader's own member comes.
pub(crate) const OWN_DOOR: u64 = 0;
/// Where members are is not looked at here: there are no certificates.
const ANYWHERE: NodeId = NodeId(uuid::Uuid::nil());
/// The most between two words on the load.
const LOAD_AT_LEAST: Duration = Duration::from_secs(1);
