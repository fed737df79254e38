//! The member: supervises its leader and its workers, carries events to the core and does what the
//! core says. Whatever ends below it ends the member, and with it the group's incarnation.

use std::{collections::BTreeMap, sync::Arc};

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use troupe_runtime::{
    actor::{Outbox, RemoteRef, remote_ref},
    discovery::directory::GroupRecord,
    id::{Coordinate, NodeId},
    transport::{Class, Link, PeerIdentity},
    wire::{
        group::{Hello, MemberUp},
        member::{MemberLaunch, MemberToNode, NodeToMember},
    },
};

use super::{
    acts::ALIVE,
    connections::Connections,
    core::{Member as Core, MemberEvent},
    front::{self, Directions},
    lines::{Inboxes, Lines},
    load::{Models, Prepared},
    wiring::{Desk, Wired},
};
use crate::{
    group::{
        layout::Parallel,
        lifecycle::{Deadlines, Group},
    },
    leader::actor::{Leader, LeaderArgs, LeaderMsg},
    worker::{actor::WorkerMsg, pulse::Pulse, recorder::Records, transfer},
};

/// The actor.
pub struct Member;

/// What a member is told.
pub enum MemberMsg {
    /// By its node.
    Node(NodeToMember),
    /// By its parts.
    Event(MemberEvent),
    /// It is time to say that all is well.
    Alive,
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
    /// Where its ranks write down what they are at.
    pub records: Records,
}

/// A member's state.
pub struct MemberState {
    pub(super) args: MemberArgs,
    pub(super) core: Core,
    pub(super) prepared: Arc<Prepared>,
    pub(super) parallel: Parallel,
    pub(super) directions: Directions,
    pub(super) workers: BTreeMap<Coordinate, ActorRef<WorkerMsg>>,
    /// Signs of life of their threads.
    pub(super) pulses: BTreeMap<Coordinate, Pulse>,
    pub(super) desk: Option<Desk>,
    pub(super) lines: Lines,
    pub(super) up: RemoteRef<MemberUp>,
    pub(super) up_queue: Option<Outbox<MemberUp>>,
    pub(super) tasks: JoinSet<()>,
    /// It is ending, for this reason, as soon as its leader has.
    pub(super) exiting: Option<Option<String>>,
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
        let inboxes = Inboxes::new(args.launch.epoch, transfer::ring(&launch.flags));
        let connections = Connections::new(args.link.clone(), Class::Kv);
        let lines_of_kv = Lines::new(connections, inboxes.clone());
        let directions = Directions { leader, desk, inboxes };
        let mut tasks = JoinSet::new();
        tasks.spawn(front::run(args.link.clone(), directions.clone()));
        let ranks = args.record.members.get(args.launch.member as usize);
        let ranks = ranks.map(|member| member.ranks.clone()).unwrap_or_default();
        let (up, up_queue) = remote_ref(UP_QUEUE);
        args.node.send(MemberToNode::Listening(address)).await?;
        myself.send_interval(ALIVE, || MemberMsg::Alive);
        Ok(MemberState {
            core: Core::new(hello, ranks),
            args,
            prepared,
            parallel,
            directions,
            workers: BTreeMap::new(),
            pulses: BTreeMap::new(),
            desk: Some(lines),
            lines: lines_of_kv,
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
            MemberMsg::Node(NodeToMember::Drain(seconds)) => MemberEvent::Drain(seconds),
            // It was launched before it was an actor, and whom its link turns away is the link's.
            MemberMsg::Node(NodeToMember::Launch(_) | NodeToMember::TurnAway(_)) => return Ok(()),
            MemberMsg::Alive => state.alive(),
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
    let hosts: Vec<NodeId> = args.record.members.iter().map(|member| member.node).collect();
    // Where all hosts show one certificate, as pods do, it does not say which of them it is.
    let knows_hosts = hosts.first() == Some(&args.identity.node);
    let group = if knows_hosts { group.on(hosts) } else { group };
    let args = LeaderArgs {
        group,
        settings: prepared.settings(&args.record),
        endpoint: prepared.endpoint(&args.record, &hello.address),
        adapters: prepared.first_adapters(),
        node: args.node.clone(),
        link: args.link.clone(),
        origin,
    };
    let (leader, _) = Actor::spawn_linked(None, Leader, args, myself.get_cell()).await?;
    Ok(leader)
}

/// More lines than any member of a real group receives; beyond it a peer is at fault.
const DESK: usize = 4096;
/// Reports of every rank for every step in flight, and a few words at the start and the end.
const UP_QUEUE: usize = 4096;
