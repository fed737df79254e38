//! The node: watches the store, carries events to the core and does what the core says.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{sync::mpsc, task::JoinSet};
use troupe_runtime::{
    discovery::{
        Lease, Registry,
        directory::{self, GroupRecord, NodeRecord},
        keys::Keys,
    },
    wire::member::{MemberToNode, NodeToMember},
};

use super::{
    core::{MemberKey, Node as Core, NodeEffect, NodeEvent},
    epochs, specs,
    store::{WRITES, Write, watch_groups, watch_statuses, write},
};

/// The actor.
pub struct Node;

/// What a node is told.
#[derive(Debug)]
pub enum NodeMsg {
    /// By the store's watches, or by its members.
    Event(NodeEvent),
}

/// Starts members; each way of running them implements it.
#[async_trait]
pub trait Spawn: Send + Sync {
    /// Starts a member. Everything that it says and its end come back as events.
    ///
    /// # Errors
    /// Why it could not be started.
    async fn spawn(
        &self,
        key: MemberKey,
        record: GroupRecord,
        node: ActorRef<NodeMsg>,
    ) -> Result<Running, String>;
}

/// A member that runs. Dropping it ends the member, at once.
pub struct Running {
    /// What it is told.
    pub tell: mpsc::Sender<NodeToMember>,
    /// The tasks that carry what is said; they end with it.
    pub tasks: JoinSet<()>,
}

/// What a node is made of.
pub struct NodeArgs {
    /// This host.
    pub record: NodeRecord,
    /// The store, and its keys.
    pub registry: Arc<dyn Registry>,
    /// The cluster's keys.
    pub keys: Keys,
    /// Under which its records stand.
    pub lease: Arc<dyn Lease>,
    /// How members are started.
    pub spawn: Arc<dyn Spawn>,
    /// Where the highest epochs and all specs are kept; none for a node that lives as long as its
    /// store.
    pub data_dir: Option<PathBuf>,
}

/// A node's state.
pub struct NodeState {
    core: Core,
    args: NodeArgs,
    members: BTreeMap<MemberKey, Running>,
    writes: mpsc::Sender<Write>,
    _tasks: JoinSet<()>,
}

impl Actor for Node {
    type Msg = NodeMsg;
    type State = NodeState;
    type Arguments = NodeArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<NodeMsg>,
        args: NodeArgs,
    ) -> Result<NodeState, ActorProcessingErr> {
        let seen = match &args.data_dir {
            Some(dir) => epochs::load(dir)?,
            None => BTreeMap::new(),
        };
        let core = Core::new(args.record.clone(), seen);
        let key = args.keys.node(args.record.id);
        args.lease.put(&key, directory::to_bytes(core.record())).await?;
        let key = args.keys.node_status(args.record.id);
        args.lease.put(&key, directory::to_bytes(core.status())).await?;
        let (writes, queue) = mpsc::channel(WRITES);
        let mut tasks = JoinSet::new();
        if let Some(dir) = &args.data_dir {
            let keeper = specs::Keeper::load(dir)?;
            tasks.spawn(keeper.run(args.registry.clone(), args.keys.clone(), myself.clone()));
        }
        tasks.spawn(write(args.lease.clone(), queue));
        let (registry, keys) = (args.registry.clone(), args.keys.clone());
        tasks.spawn(watch_groups(registry, keys, args.record.id, myself.clone()));
        tasks.spawn(watch_statuses(args.registry.clone(), args.keys.clone(), myself));
        Ok(NodeState { core, args, members: BTreeMap::new(), writes, _tasks: tasks })
    }

    async fn handle(
        &self,
        myself: ActorRef<NodeMsg>,
        message: NodeMsg,
        state: &mut NodeState,
    ) -> Result<(), ActorProcessingErr> {
        let NodeMsg::Event(event) = message;
        if let NodeEvent::Exited(key, how) = &event {
            let MemberKey { group, epoch, member } = key;
            tracing::info!(%group, %epoch, member, how, "member ended");
            state.members.remove(key);
        }
        for effect in state.core.handle(event) {
            // Its supervisor only learns that it ended; why stands in the log.
            let done = state.act(&myself, effect).await;
            done.inspect_err(|error| tracing::error!(%error, "the node cannot go on"))?;
        }
        Ok(())
    }
}

impl NodeState {
    async fn act(
        &mut self,
        myself: &ActorRef<NodeMsg>,
        effect: NodeEffect,
    ) -> Result<(), ActorProcessingErr> {
        let keys = &self.args.keys;
        match effect {
            NodeEffect::Spawn(key, record) => self.spawn(myself, key, record).await,
            NodeEffect::Tell(key, what) => self.tell(&key, what),
            NodeEffect::End(key) => self.tell(&key, NodeToMember::Stop),
            NodeEffect::PutRecord(record) => {
                let key = keys.node(record.id);
                self.write(Write::Put(key, directory::to_bytes(record)))?;
            }
            NodeEffect::Left => myself.stop(Some("nothing runs here any more".into())),
            NodeEffect::PutStatus(status) => {
                let key = keys.node_status(self.args.record.id);
                self.write(Write::Put(key, directory::to_bytes(status)))?;
            }
            NodeEffect::PutDeaths(deaths) => {
                let key = keys.deaths(self.args.record.id);
                self.write(Write::Put(key, directory::to_bytes(deaths)))?;
            }
            NodeEffect::PutEndpoint(key, record) => {
                let key = keys.endpoint(&key.group, key.epoch);
                self.write(Write::Put(key, record))?;
            }
            NodeEffect::DeleteEndpoint(key) => {
                let key = keys.endpoint(&key.group, key.epoch);
                self.write(Write::Delete(key))?;
            }
            NodeEffect::Persist(epochs) => {
                if let Some(dir) = &self.args.data_dir {
                    epochs::save(dir, &epochs)?;
                }
            }
        }
        Ok(())
    }

    async fn spawn(&mut self, myself: &ActorRef<NodeMsg>, key: MemberKey, record: GroupRecord) {
        tracing::info!(group = %key.group, epoch = %key.epoch, member = key.member, "start member");
        match self.args.spawn.spawn(key.clone(), record, myself.clone()).await {
            Ok(running) => drop(self.members.insert(key, running)),
            Err(why) => drop(myself.cast(NodeMsg::Event(NodeEvent::Exited(key, why)))),
        }
    }

    fn tell(&mut self, key: &MemberKey, what: NodeToMember) {
        let Some(running) = self.members.get(key) else { return };
        if running.tell.try_send(what).is_err() {
            // It hears nothing: end it, and its exit will be reported.
            tracing::warn!(group = %key.group, member = key.member, "a member does not listen");
            self.members.remove(key);
        }
    }

    fn write(&self, write: Write) -> Result<(), ActorProcessingErr> {
        self.writes.try_send(write).map_err(|error| format!("store writes: {error}").into())
    }
}

/// A member's event for its node.
pub(super) fn said(key: &MemberKey, what: MemberToNode) -> NodeMsg {
    NodeMsg::Event(NodeEvent::Member(key.clone(), what))
}
