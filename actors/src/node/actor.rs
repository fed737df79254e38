//! The node: watches the store, carries events to the core and does what the core says.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{sync::mpsc, task::JoinSet};
use troupe_runtime::{
    discovery::{
        Lease, Registry, WatchEvent,
        directory::{self, GroupRecord, NodeRecord, NodeStatus},
        keys::Keys,
    },
    wire::member::{MemberToNode, NodeToMember},
};

use super::{
    core::{MemberKey, Node as Core, NodeEffect, NodeEvent},
    epochs,
};

/// The actor.
pub struct Node;

/// What a node is told.
#[derive(Debug)]
pub enum NodeMsg {
    /// By the store's watches, or by its members.
    Event(NodeEvent),
}

/// A write to the store, under the node's lease.
#[derive(Clone, Debug)]
enum Write {
    /// Set a key.
    Put(String, Vec<u8>),
    /// Remove a key.
    Delete(String),
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
    /// Where the highest epochs are kept; none for a node that lives as long as its store.
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
        tasks.spawn(write(args.lease.clone(), queue));
        tasks.spawn(watch_groups(args.registry.clone(), args.keys.clone(), myself.clone()));
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
            tracing::info!(group = %key.group, epoch = %key.epoch, member = key.member, how, "member ended");
            state.members.remove(key);
        }
        for effect in state.core.handle(event) {
            state.act(&myself, effect).await?;
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
            NodeEffect::PutStatus(status) => {
                let key = keys.node_status(self.args.record.id);
                self.write(Write::Put(key, directory::to_bytes(status)))?;
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

/// Writes to the store in order, each until it is done: the store may be away for a while. Of
/// several values waiting for one key only the last matters, so waiting costs no memory.
async fn write(lease: Arc<dyn Lease>, mut queue: mpsc::Receiver<Write>) {
    let mut waiting: BTreeMap<String, Write> = BTreeMap::new();
    loop {
        let Some(first) = queue.recv().await else { return };
        waiting.insert(first.key().to_owned(), first);
        while let Some(next) = waiting.keys().next().cloned() {
            while let Ok(more) = queue.try_recv() {
                waiting.insert(more.key().to_owned(), more);
            }
            let Some(write) = waiting.get(&next) else { continue };
            let done = match write {
                Write::Put(key, value) => lease.put(key, value.clone()).await,
                Write::Delete(key) => lease.delete(key).await,
            };
            match done {
                Ok(()) => drop(waiting.remove(&next)),
                Err(error) => {
                    tracing::warn!(key = next, %error, "cannot write to the store, try again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

impl Write {
    fn key(&self) -> &str {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

async fn watch_groups(registry: Arc<dyn Registry>, keys: Keys, node: ActorRef<NodeMsg>) {
    let Ok(mut watch) = registry.watch(&keys.groups()).await else {
        return node.stop(Some("cannot watch the groups".into()));
    };
    let mut known: BTreeMap<String, GroupRecord> = BTreeMap::new();
    while let Some(event) = watch.next().await {
        let event = match event {
            WatchEvent::Put(entry) => {
                match directory::from_bytes::<GroupRecord>(&entry.key, &entry.value) {
                    Ok(record) => {
                        known.insert(entry.key, record.clone());
                        NodeEvent::GroupPut(record)
                    }
                    Err(error) => {
                        tracing::error!(%error, "a record is left out");
                        continue;
                    }
                }
            }
            WatchEvent::Delete(key) => match known.remove(&key) {
                Some(record) => NodeEvent::GroupGone(record.group),
                None => continue,
            },
            WatchEvent::Synced | WatchEvent::Disconnected(_) => continue,
        };
        if node.cast(NodeMsg::Event(event)).is_err() {
            return;
        }
    }
}

async fn watch_statuses(registry: Arc<dyn Registry>, keys: Keys, node: ActorRef<NodeMsg>) {
    let Ok(mut watch) = registry.watch(&keys.node_statuses()).await else {
        return node.stop(Some("cannot watch the nodes' statuses".into()));
    };
    while let Some(event) = watch.next().await {
        let WatchEvent::Put(entry) = event else { continue };
        match directory::from_bytes::<NodeStatus>(&entry.key, &entry.value) {
            Ok(status) => {
                if node.cast(NodeMsg::Event(NodeEvent::StatusPut(status))).is_err() {
                    return;
                }
            }
            Err(error) => tracing::error!(%error, "a record is left out"),
        }
    }
}

/// A member's event for its node.
pub(super) fn said(key: &MemberKey, what: MemberToNode) -> NodeMsg {
    NodeMsg::Event(NodeEvent::Member(key.clone(), what))
}

/// A status, and an endpoint's coming and going, for each of a host's members.
const WRITES: usize = 4096;
/// Between attempts to write.
const RETRY: Duration = Duration::from_millis(500);
