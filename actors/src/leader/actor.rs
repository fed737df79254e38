//! The leader: carries events to the group's and the engine's cores and does what they say.
//!
//! It accepts members and gateways through [`super::doors`], and holds no decision of its own: every
//! message becomes an event of one of two cores, every effect one call.

use std::{collections::BTreeMap, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use troupe_runtime::{
    error::{ErrorKind, PublicError},
    transport::{Conversation, Stream},
    wire::{
        generate::{Finish, Generate, GenerateDown},
        group::{Hello, MemberDown, MemberUp, RankReport},
        member::MemberToNode,
        status::{EndpointInfo, Load},
    },
};

use super::{
    describe::Endpoint,
    doors,
    engine::{Engine, EngineEffect, EngineEvent},
    observe::Observer,
    request::RequestKey,
    settings::EngineSettings,
};
use crate::group::lifecycle::{Group, GroupEffect, GroupEvent};

/// The actor.
pub struct Leader;

/// What a leader is told.
#[derive(Debug)]
pub enum LeaderMsg {
    /// A peer opened a conversation.
    Door(Conversation, Stream),
    /// A member introduced itself; what it is told goes here.
    Joined(Hello, mpsc::Sender<MemberDown>),
    /// A member speaks.
    Up(u32, MemberUp),
    /// A member's conversation is over.
    Gone(u32, String),
    /// A gateway asks; what it is told goes here.
    Submit(Box<Generate>, mpsc::Sender<GenerateDown>),
    /// A gateway found the end of a choice.
    Finish(RequestKey, Finish),
    /// A gateway is gone.
    Abort(RequestKey),
    /// Time has passed.
    Tick,
    /// End in order.
    Stop,
}

/// What a leader is made of.
pub struct LeaderArgs {
    /// The group's core, gathering.
    pub group: Group,
    /// The engine's settings; the engine starts when the group does.
    pub settings: EngineSettings,
    /// What the world is told once the group serves.
    pub endpoint: Endpoint,
    /// To the node.
    pub node: mpsc::Sender<MemberToNode>,
    /// Counts what happens.
    pub observer: Observer,
    /// What `now` counts from.
    pub origin: Instant,
}

/// A leader's state.
pub struct LeaderState {
    args: LeaderArgs,
    engine: Option<Engine>,
    members: BTreeMap<u32, mpsc::Sender<MemberDown>>,
    outboxes: BTreeMap<RequestKey, mpsc::Sender<GenerateDown>>,
    info: watch::Sender<Option<EndpointInfo>>,
    load: watch::Sender<Load>,
    doors: JoinSet<()>,
    /// Why it is over, once it is.
    over: Option<String>,
}

impl Actor for Leader {
    type Msg = LeaderMsg;
    type State = LeaderState;
    type Arguments = LeaderArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<LeaderMsg>,
        args: LeaderArgs,
    ) -> Result<LeaderState, ActorProcessingErr> {
        myself.send_interval(TICK, || LeaderMsg::Tick);
        Ok(LeaderState {
            args,
            engine: None,
            members: BTreeMap::new(),
            outboxes: BTreeMap::new(),
            info: watch::channel(None).0,
            load: watch::channel(Load::default()).0,
            doors: JoinSet::new(),
            over: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<LeaderMsg>,
        message: LeaderMsg,
        state: &mut LeaderState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LeaderMsg::Door(what, stream) => state.open(&myself, what, stream),
            LeaderMsg::Joined(hello, down) => state.join(hello, down),
            LeaderMsg::Up(member, up) => state.up(member, up),
            LeaderMsg::Gone(member, why) => state.group(GroupEvent::Lost(member, why)),
            LeaderMsg::Submit(generate, outbox) => state.submit(generate, outbox),
            LeaderMsg::Finish(key, finish) => state.engine(EngineEvent::Finish(key, finish)),
            LeaderMsg::Abort(key) => state.engine(EngineEvent::Abort(key)),
            LeaderMsg::Tick => {
                state.engine(EngineEvent::Tick);
                state.group(GroupEvent::Tick);
            }
            LeaderMsg::Stop => {
                state.broadcast(&MemberDown::Stop);
                state.fail("the group is stopping".into());
            }
        }
        if state.over.is_some() {
            myself.stop(state.over.clone());
        }
        Ok(())
    }

    /// Lets the doors deliver what was said last: an error must arrive rather than silence.
    async fn post_stop(
        &self,
        _myself: ActorRef<LeaderMsg>,
        state: &mut LeaderState,
    ) -> Result<(), ActorProcessingErr> {
        state.outboxes.clear();
        state.members.clear();
        let flushed = async { while state.doors.join_next().await.is_some() {} };
        if tokio::time::timeout(FLUSH, flushed).await.is_err() {
            tracing::debug!("some peers did not take their last message in time");
        }
        Ok(())
    }
}

impl LeaderState {
    fn open(&mut self, myself: &ActorRef<LeaderMsg>, what: Conversation, stream: Stream) {
        while self.doors.try_join_next().is_some() {}
        match what {
            Conversation::Group => self.doors.spawn(doors::group(myself.clone(), stream)),
            Conversation::Generate => self.doors.spawn(doors::generate(myself.clone(), stream)),
            Conversation::Status => {
                let (info, load) = (self.info.subscribe(), self.load.subscribe());
                self.doors.spawn(doors::status(info, load, stream))
            }
            // Tensors go to the ranks; the member's front door has taken them out.
            Conversation::Bulk(_) => return,
        };
    }

    fn join(&mut self, hello: Hello, down: mpsc::Sender<MemberDown>) {
        self.members.entry(hello.member).or_insert(down);
        self.group(GroupEvent::Hello(hello))
    }

    fn up(&mut self, member: u32, up: MemberUp) {
        match up {
            MemberUp::Hello(hello) => self.group(GroupEvent::Hello(hello)),
            MemberUp::Loaded(reports) => self.group(GroupEvent::Loaded(member, reports)),
            MemberUp::Progress(progress) => self.group(GroupEvent::Progress(progress)),
            MemberUp::Failed(cause) => self.group(GroupEvent::Lost(member, cause)),
            MemberUp::Result(result) => {
                self.group(GroupEvent::Done(result.step));
                self.engine(EngineEvent::Result(result))
            }
        }
    }

    fn submit(&mut self, generate: Box<Generate>, outbox: mpsc::Sender<GenerateDown>) {
        let key = RequestKey { request: generate.request, attempt: generate.attempt };
        let refusal = match (&self.engine, self.outboxes.contains_key(&key)) {
            (None, _) => Some("the group does not serve yet"),
            (Some(_), true) => Some("this attempt is under way already"),
            (Some(_), false) => None,
        };
        if let Some(why) = refusal {
            let error = PublicError::new(ErrorKind::Unavailable, why);
            // The outbox is new and empty: there is room.
            let _ = outbox.try_send(GenerateDown::Refused(error));
            return;
        }
        self.outboxes.insert(key, outbox);
        self.engine(EngineEvent::Submit(generate))
    }

    fn group(&mut self, event: GroupEvent) {
        let now = self.now();
        for effect in self.args.group.handle(now, event) {
            match effect {
                GroupEffect::Form(formation) => self.broadcast(&MemberDown::Form(formation)),
                GroupEffect::Start(blocks, reports) => {
                    self.broadcast(&MemberDown::Start(blocks.clone()));
                    self.serve(&blocks, &reports);
                }
                GroupEffect::Refuse(member, why) => {
                    tracing::warn!(member, why, "turn a member away");
                }
                GroupEffect::Over(cause) => self.fail(cause),
            }
        }
    }

    fn serve(&mut self, blocks: &[u32], reports: &[RankReport]) {
        for report in reports {
            tracing::info!(
                rank = %report.rank,
                weight_bytes_sharded = report.weight_bytes_sharded,
                weight_bytes_replicated = report.weight_bytes_replicated,
                replicated = ?report.replicated,
                "rank loaded"
            );
        }
        self.engine = Some(Engine::new(self.args.settings.clone(), blocks));
        let info = self.args.endpoint.info(&self.args.settings, blocks, reports);
        let record = self.args.endpoint.record(info.clone());
        self.info.send_replace(Some(info));
        // The node's queue has room for the few messages that a member ever sends.
        let _ = self.args.node.try_send(MemberToNode::Ready(record));
    }

    fn engine(&mut self, event: EngineEvent) {
        let now = self.now();
        let Some(engine) = &mut self.engine else { return };
        let effects = engine.handle(now, event);
        let load = engine.load();
        self.args.observer.load(&load, engine.preemptions());
        self.load.send_if_modified(|told| std::mem::replace(told, load) != load);
        for effect in effects {
            match effect {
                EngineEffect::Plan(plan) => {
                    self.group(GroupEvent::Planned(plan.step));
                    self.broadcast(&MemberDown::Step(plan));
                }
                EngineEffect::Send(key, down) => self.send(key, down),
                EngineEffect::Close(key) => drop(self.outboxes.remove(&key)),
                EngineEffect::Observe(observation) => self.args.observer.observe(&observation),
            }
        }
    }

    fn send(&mut self, key: RequestKey, down: GenerateDown) {
        let Some(outbox) = self.outboxes.get(&key) else { return };
        if outbox.try_send(down).is_ok() {
            return;
        }
        // Full or closed: its gateway does not read.
        self.outboxes.remove(&key);
        self.engine(EngineEvent::Abort(key))
    }

    fn broadcast(&mut self, down: &MemberDown) {
        for (member, outbox) in &self.members {
            if outbox.try_send(down.clone()).is_err() {
                tracing::debug!(member, "a member does not read; its door will say so");
            }
        }
    }

    /// Tells every request and ends: whoever supervises this actor takes it from here.
    fn fail(&mut self, cause: String) {
        let message = format!("The endpoint is gone: {cause}");
        self.engine(EngineEvent::Fail(PublicError::new(ErrorKind::Unavailable, message)));
        self.engine = None;
        self.over = Some(cause);
    }

    fn now(&self) -> Duration {
        self.args.origin.elapsed()
    }
}

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Longest wait for peers to take their last message.
const FLUSH: Duration = Duration::from_secs(1);
