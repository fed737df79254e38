//! The leader: carries events to the group's and the engine's cores and does what they say.
//!
//! It accepts members and gateways through [`super::doors`], and holds no decision of its own:
//! every message becomes an event of one of two cores, every effect one call.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use troupe_runtime::{
    actor::RemoteRef,
    id::{NodeId, TransferId},
    transport::{Class, Conversation, Link, Stream},
    wire::{
        adapter::{AdaptDown, AdaptUp, AdapterStatus},
        generate::{Finish, Generate, GenerateDown},
        group::{Formation, Hello, MemberDown, MemberUp},
        member::MemberToNode,
        status::{EndpointInfo, Load},
        transfer::{Prefill, PrefillDown},
    },
};

use super::{
    adapters::{Asker, FirstAdapter},
    cache::Cache,
    describe::Endpoint,
    drain::Drain,
    engine::{Engine, EngineEvent},
    observe::Observer,
    request::RequestKey,
    settings::EngineSettings,
    transfers::TransferEvent,
};
use crate::{
    group::lifecycle::{Door, Group, GroupEvent},
    member::connections::Connections,
};

/// The actor.
pub struct Leader;

/// What a leader is told.
#[derive(Debug)]
pub enum LeaderMsg {
    /// A peer on this host opened a conversation.
    Door(Conversation, Stream, NodeId),
    /// Somebody on a host introduced itself through this door; what it is told goes here.
    Joined(Door, NodeId, Hello, RemoteRef<MemberDown>),
    /// It speaks.
    Up(Door, MemberUp),
    /// Its conversation is over.
    Gone(Door, String),
    /// A gateway asks, through this door; what it is told goes here.
    Submit(Box<Generate>, u64, RemoteRef<GenerateDown>),
    /// A gateway found the end of a choice.
    Finish(RequestKey, Finish),
    /// The door through which it was asked is closed.
    Abort(RequestKey, u64),
    /// A gateway wants an adapter to come or go, and listens here.
    Adapt(AdaptUp, oneshot::Sender<AdaptDown>),
    /// Another group's leader asks for KV, through this door; what it is told goes here.
    Asked(Box<Prefill>, u64, RemoteRef<PrefillDown>),
    /// The door through which it asked is closed.
    AskerGone(TransferId, u64),
    /// Another group's leader answers, or does not.
    Transfer(TransferEvent),
    /// Time has passed.
    Tick,
    /// Take nothing new, finish what was begun within this time, and end.
    Drain(Duration),
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
    /// Adapters that are there from the start.
    pub adapters: Vec<FirstAdapter>,
    /// To the node.
    pub node: mpsc::Sender<MemberToNode>,
    /// Its end of the network, to leaders of other groups.
    pub link: Arc<dyn Link>,
    /// What `now` counts from.
    pub origin: Instant,
}

/// A leader's state.
pub struct LeaderState {
    pub(super) args: LeaderArgs,
    pub(super) myself: ActorRef<LeaderMsg>,
    pub(super) engine: Option<Engine>,
    pub(super) observer: Observer,
    /// Members, by the doors through which they came.
    pub(super) members: BTreeMap<Door, RemoteRef<MemberDown>>,
    pub(super) outboxes: BTreeMap<RequestKey, (u64, RemoteRef<GenerateDown>)>,
    /// Who is where, once the group is formed.
    pub(super) formation: Option<Formation>,
    /// To leaders of other groups.
    pub(super) connections: Connections,
    /// Leaders of other groups that asked for KV.
    pub(super) askers: BTreeMap<TransferId, (u64, RemoteRef<PrefillDown>)>,
    /// Those that this one has asked.
    pub(super) asking: BTreeMap<TransferId, AbortHandle>,
    /// Numbers doors, so that a request that was asked twice is aborted by its own door only.
    pub(super) last_door: u64,
    pub(super) info: watch::Sender<Option<EndpointInfo>>,
    pub(super) load: watch::Sender<Load>,
    pub(super) adapters: watch::Sender<AdapterStatus>,
    /// Who waits for an adapter to come or go.
    pub(super) adapting: BTreeMap<Asker, oneshot::Sender<AdaptDown>>,
    pub(super) cache: Cache,
    /// Doors of members and of gateways that follow the status.
    pub(super) doors: JoinSet<()>,
    /// Doors of requests: what is said there last has to arrive.
    pub(super) requests: JoinSet<()>,
    /// Nothing new is taken.
    pub(super) drain: Option<Drain>,
    /// Why it is over, once it is.
    pub(super) over: Option<String>,
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
        let model_name = args.endpoint.model_names.first().map_or("", String::as_str);
        let observer = Observer::new(model_name, &args.settings.endpoint.group);
        let connections = Connections::new(args.link.clone(), Class::Control);
        let cache = Cache::new(args.settings.endpoint.epoch, args.origin);
        Ok(LeaderState {
            args,
            myself,
            cache,
            engine: None,
            observer,
            members: BTreeMap::new(),
            outboxes: BTreeMap::new(),
            formation: None,
            connections,
            askers: BTreeMap::new(),
            asking: BTreeMap::new(),
            last_door: 0,
            info: watch::channel(None).0,
            load: watch::channel(Load::default()).0,
            adapters: watch::channel(AdapterStatus::default()).0,
            adapting: BTreeMap::new(),
            doors: JoinSet::new(),
            requests: JoinSet::new(),
            drain: None,
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
            LeaderMsg::Door(what, stream, from) => state.open(&myself, what, stream, from),
            LeaderMsg::Joined(door, from, hello, down) => state.join(door, from, hello, down),
            LeaderMsg::Up(door, up) => state.up(door, up),
            LeaderMsg::Gone(door, why) => state.group(GroupEvent::Lost(door, why)),
            LeaderMsg::Submit(generate, door, outbox) => state.submit(generate, door, outbox),
            LeaderMsg::Finish(key, finish) => state.engine(EngineEvent::Finish(key, finish)),
            LeaderMsg::Abort(key, door) => state.abort(key, door),
            LeaderMsg::Asked(prefill, door, outbox) => state.asked(prefill, door, outbox),
            LeaderMsg::AskerGone(transfer, door) => state.asker_gone(transfer, door),
            LeaderMsg::Adapt(up, answer) => state.adapt(up, answer),
            LeaderMsg::Transfer(event) => state.engine(EngineEvent::Transfer(event)),
            LeaderMsg::Tick => {
                state.engine(EngineEvent::Tick);
                state.group(GroupEvent::Tick);
                state.look_at_drain();
            }
            LeaderMsg::Drain(time) => state.drain(time),
            LeaderMsg::Stop => {
                state.broadcast(&MemberDown::Stop);
                state.fail("its group is stopped, to be formed anew or for good".into());
            }
        }
        if state.over.is_some() {
            myself.stop(state.over.clone());
        }
        Ok(())
    }

    /// Lets requests hear what was said last: an error must arrive rather than silence. Members see
    /// the conversation end, which says enough; one that is dead would only be waited for.
    async fn post_stop(
        &self,
        _myself: ActorRef<LeaderMsg>,
        state: &mut LeaderState,
    ) -> Result<(), ActorProcessingErr> {
        state.outboxes.clear();
        let flushed = async { while state.requests.join_next().await.is_some() {} };
        if tokio::time::timeout(FLUSH, flushed).await.is_err() {
            tracing::debug!("some peers did not take their last message in time");
        }
        Ok(())
    }
}

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Longest wait for peers to take their last message.
const FLUSH: Duration = Duration::from_secs(1);
