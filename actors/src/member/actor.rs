//! The member: supervises its leader and its workers, carries events to the core and does what the
//! core says. Whatever ends below it ends the member, and with it the group's incarnation.

use std::{collections::BTreeMap, sync::Arc};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use troupe_runtime::{
    discovery::directory::GroupRecord,
    id::Coordinate,
    transport::{Link, LocalNetwork, PeerIdentity},
    wire::{
        group::{Formation, Hello, MemberUp},
        member::{MemberLaunch, MemberToNode, NodeToMember},
    },
};

use super::{
    core::{Member as Core, MemberEffect, MemberEvent},
    front::{self, Directions},
    line,
    load::{Models, Prepared},
    wiring::{self, Desk, Wired},
};
use crate::{
    group::{
        layout::Parallel,
        lifecycle::{Deadlines, Group},
    },
    leader::{
        actor::{Leader, LeaderArgs, LeaderMsg},
        observe::Observer,
    },
    worker::{
        actor::{Worker, WorkerArgs, WorkerMsg},
        device::{Device, DeviceEvent},
    },
};

/// The actor.
pub struct Member;

/// What a member is told.
pub enum MemberMsg {
    /// By its node.
    Node(NodeToMember),
    /// By its parts.
    Event(MemberEvent),
    /// The ranks are connected.
    Wired(Result<Vec<Wired>, String>),
}

/// What a member is made of.
pub struct MemberArgs {
    /// Who it is.
    pub launch: MemberLaunch,
    /// What its group is to run.
    pub record: GroupRecord,
    /// Its end of the network.
    pub link: Arc<dyn Link>,
    /// As peers in this process see it.
    pub identity: PeerIdentity,
    /// To the node.
    pub node: mpsc::Sender<MemberToNode>,
    /// Where models come from.
    pub models: Arc<dyn Models>,
    /// Counts what the leader does.
    pub observer: Observer,
}

/// A member's state.
pub struct MemberState {
    args: MemberArgs,
    core: Core,
    prepared: Arc<Prepared>,
    parallel: Parallel,
    directions: Directions,
    workers: BTreeMap<Coordinate, ActorRef<WorkerMsg>>,
    desk: Option<Desk>,
    up: mpsc::Sender<MemberUp>,
    up_queue: Option<mpsc::Receiver<MemberUp>>,
    tasks: JoinSet<()>,
    /// It is ending, for this reason, as soon as its leader has.
    exiting: Option<Option<String>>,
}

impl Actor for Member {
    type Msg = MemberMsg;
    type State = MemberState;
    type Arguments = MemberArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<MemberMsg>,
        args: MemberArgs,
    ) -> Result<MemberState, ActorProcessingErr> {
        let prepared = match prepare(&args).await {
            Ok(prepared) => Arc::new(prepared),
            Err(cause) => {
                let _ = args.node.send(MemberToNode::Failed(cause.clone())).await;
                return Err(cause.into());
            }
        };
        let launch = &args.record.launch;
        let parallel =
            Parallel { tensor: launch.tensor_parallel, pipeline: launch.pipeline_parallel };
        let address = args.link.address().to_string();
        let hello = Hello {
            group: args.launch.group.clone(),
            epoch: args.launch.epoch,
            member: args.launch.member,
            address: address.clone(),
        };
        let leader = match args.launch.member {
            0 => Some(start_leader(&myself, &args, &prepared, &hello).await?),
            _ => None,
        };
        // Lines of at most two members' worth of ranks, each to each.
        let (desk, lines) = mpsc::channel(DESK);
        let directions = Directions { leader, desk };
        let mut tasks = JoinSet::new();
        tasks.spawn(front::run(args.link.clone(), directions.clone()));
        let ranks = args.record.members.get(args.launch.member as usize);
        let ranks = ranks.map(|member| member.ranks.clone()).unwrap_or_default();
        let (up, up_queue) = mpsc::channel(UP_QUEUE);
        args.node.send(MemberToNode::Listening(address)).await?;
        Ok(MemberState {
            core: Core::new(hello, ranks),
            args,
            prepared,
            parallel,
            directions,
            workers: BTreeMap::new(),
            desk: Some(lines),
            up,
            up_queue: Some(up_queue),
            tasks,
            exiting: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<MemberMsg>,
        message: MemberMsg,
        state: &mut MemberState,
    ) -> Result<(), ActorProcessingErr> {
        let event = match message {
            MemberMsg::Node(NodeToMember::Leader(address)) => MemberEvent::LeaderAt(address),
            MemberMsg::Node(NodeToMember::Stop) => MemberEvent::Stop,
            // It was launched before it was an actor.
            MemberMsg::Node(NodeToMember::Launch(_)) => return Ok(()),
            MemberMsg::Event(event) => event,
            MemberMsg::Wired(Ok(wired)) => return state.start_workers(&myself, wired).await,
            MemberMsg::Wired(Err(cause)) => MemberEvent::Broken(cause),
        };
        state.act(&myself, event);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<MemberMsg>,
        event: SupervisionEvent,
        state: &mut MemberState,
    ) -> Result<(), ActorProcessingErr> {
        let (who, cause) = match event {
            SupervisionEvent::ActorFailed(who, error) => (who, error.to_string()),
            SupervisionEvent::ActorTerminated(who, _, reason) => {
                (who, reason.unwrap_or_else(|| "it ended".into()))
            }
            _ => return Ok(()),
        };
        if state.is_leader(&who) {
            state.directions.leader = None;
        }
        state.act(&myself, MemberEvent::Broken(cause));
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<MemberMsg>,
        state: &mut MemberState,
    ) -> Result<(), ActorProcessingErr> {
        state.args.link.close("the member is ending").await;
        Ok(())
    }
}

impl MemberState {
    fn act(&mut self, myself: &ActorRef<MemberMsg>, event: MemberEvent) {
        for effect in self.core.handle(event) {
            match effect {
                MemberEffect::Dial(address, hello) => self.dial(myself, address, hello),
                MemberEffect::Wire(formation) => self.wire(myself.clone(), formation),
                MemberEffect::Up(up) => self.say(up),
                MemberEffect::Start(blocks) => self.each(|| WorkerMsg::Start(blocks.clone())),
                MemberEffect::Run(plan) => {
                    let plan = Arc::new(plan);
                    self.each(|| WorkerMsg::Step(plan.clone()));
                }
                MemberEffect::Exit(cause) => drop(self.exiting.get_or_insert(cause)),
            }
        }
        self.exit_when_leader_has(myself);
    }

    /// The leader tells its gateways why before the member goes.
    fn exit_when_leader_has(&mut self, myself: &ActorRef<MemberMsg>) {
        let Some(cause) = &self.exiting else { return };
        match &self.directions.leader {
            Some(leader) => drop(leader.cast(LeaderMsg::Stop)),
            None => {
                if let Some(cause) = cause {
                    let _ = self.args.node.try_send(MemberToNode::Failed(cause.clone()));
                }
                myself.stop(cause.clone());
            }
        }
    }

    fn dial(&mut self, myself: &ActorRef<MemberMsg>, address: String, hello: Hello) {
        let Some(up) = self.up_queue.take() else { return };
        let (link, address) = self.way_to_leader(address);
        let myself = myself.clone();
        let tell = move |event| drop(myself.cast(MemberMsg::Event(event)));
        self.tasks.spawn(line::run(link, address, hello, up, tell));
    }

    /// The leader's own member needs no network to speak with it.
    fn way_to_leader(&mut self, address: String) -> (Arc<dyn Link>, String) {
        if self.directions.leader.is_none() {
            return (self.args.link.clone(), address);
        }
        let network = LocalNetwork::new();
        let inside = network.link(self.args.identity.clone());
        let address = inside.address().to_string();
        self.tasks.spawn(front::run(inside, self.directions.clone()));
        (network.link(self.args.identity.clone()), address)
    }

    fn wire(&mut self, myself: ActorRef<MemberMsg>, formation: Formation) {
        let Some(mut desk) = self.desk.take() else { return };
        let (link, parallel) = (self.args.link.clone(), self.parallel);
        let member = self.args.launch.member;
        self.tasks.spawn(async move {
            let wired = wiring::wire(link, &formation, member, parallel, &mut desk).await;
            let _ = myself.cast(MemberMsg::Wired(wired));
        });
    }

    async fn start_workers(
        &mut self,
        myself: &ActorRef<MemberMsg>,
        wired: Vec<Wired>,
    ) -> Result<(), ActorProcessingErr> {
        let count = wired.len() as u32;
        for Wired { rank, pipes, collective } in wired {
            let loader =
                self.args.models.loader(self.prepared.clone(), rank, collective, count);
            let device = Device {
                rank,
                epoch: self.args.launch.epoch,
                block_size: self.prepared.limits.block_size,
                loader,
                pipes,
                stage_time_min: self.prepared.stage_time_min,
            };
            let to = myself.clone();
            let tell = Box::new(move |event| drop(to.cast(MemberMsg::Event(translate(event)))));
            let steps_in_flight = self.parallel.pipeline;
            let args = WorkerArgs { device, tell, steps_in_flight };
            let (worker, _) = Actor::spawn_linked(None, Worker, args, myself.get_cell()).await?;
            self.workers.insert(rank, worker);
        }
        Ok(())
    }

    fn say(&self, up: MemberUp) {
        if self.up.try_send(up).is_err() {
            tracing::debug!("the leader does not listen; the conversation will say so");
        }
    }

    fn each(&self, message: impl Fn() -> WorkerMsg) {
        for worker in self.workers.values() {
            // One that is gone is reported by its supervision event.
            let _ = worker.cast(message());
        }
    }

    fn is_leader(&self, who: &ActorCell) -> bool {
        self.directions.leader.as_ref().is_some_and(|leader| leader.get_id() == who.get_id())
    }
}

async fn prepare(args: &MemberArgs) -> Result<Prepared, String> {
    let (models, launch) = (args.models.clone(), args.record.launch.clone());
    tokio::task::spawn_blocking(move || models.prepare(&launch))
        .await
        .map_err(|error| format!("reading the model's files: {error}"))?
}

async fn start_leader(
    myself: &ActorRef<MemberMsg>,
    args: &MemberArgs,
    prepared: &Prepared,
    hello: &Hello,
) -> Result<ActorRef<LeaderMsg>, ActorProcessingErr> {
    let origin = Instant::now();
    let expected = args.record.members.iter().map(|member| member.ranks.clone()).collect();
    let group = Group::new(origin.elapsed(), hello.clone(), expected, Deadlines::default());
    let args = LeaderArgs {
        group,
        settings: prepared.settings(&args.record),
        endpoint: prepared.endpoint(&args.record, &hello.address),
        node: args.node.clone(),
        observer: args.observer.clone(),
        origin,
    };
    let (leader, _) = Actor::spawn_linked(None, Leader, args, myself.get_cell()).await?;
    Ok(leader)
}

fn translate(event: DeviceEvent) -> MemberEvent {
    match event {
        DeviceEvent::Loaded(report) => MemberEvent::Loaded(report),
        DeviceEvent::Progress(progress) => MemberEvent::Progress(progress),
        DeviceEvent::Result(result) => MemberEvent::Result(result),
    }
}

/// More lines than any member of a real group receives; beyond it a peer is at fault.
const DESK: usize = 4096;
/// Reports of every rank for every step in flight, and a few words at the start and the end.
const UP_QUEUE: usize = 4096;
