//! The node's side of the store: its writes in order, its watches as events.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ractor::ActorRef;
use tokio::sync::mpsc;
use troupe_runtime::{
    discovery::{
        Lease, Registry, WatchEvent, Witness,
        directory::{self, GroupRecord, NodeStatus},
        keys::Keys,
    },
    id::NodeId,
};

use super::{actor::NodeMsg, core::NodeEvent};

/// A write to the store, under the node's lease.
#[derive(Clone, Debug)]
pub(super) enum Write {
    /// Set a key.
    Put(String, Vec<u8>),
    /// Remove a key.
    Delete(String),
}

/// Writes to the store in order, each until it is done: the store may be away for a while. Of
/// several values waiting for one key only the last matters, so waiting costs no memory.
pub(super) async fn write(lease: Arc<dyn Lease>, mut queue: mpsc::Receiver<Write>) {
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

/// Tells the node what is planned. A group that only the store has lost goes on: its members are
/// reported, and whoever plans next takes it up again, or deletes it and means it.
pub(super) async fn watch_groups(
    registry: Arc<dyn Registry>,
    keys: Keys,
    me: NodeId,
    node: ActorRef<NodeMsg>,
) {
    let Ok(mut watch) = registry.watch(&keys.groups()).await else {
        return node.stop(Some("cannot watch the groups".into()));
    };
    let mut witness = Witness::new(registry, keys.incarnation());
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
            WatchEvent::Delete(key) => {
                let Some(record) = known.remove(&key) else { continue };
                // Asked of the store only where it matters: most groups have no member here.
                let mine = record.members.iter().any(|member| member.node == me);
                if mine && !witness.was_meant().await {
                    tracing::warn!(group = %record.group, "the store lost a group: it goes on");
                    continue;
                }
                NodeEvent::GroupGone(record.group)
            }
            event => {
                witness.see(&event).await;
                continue;
            }
        };
        if node.cast(NodeMsg::Event(event)).is_err() {
            return;
        }
    }
}

pub(super) async fn watch_statuses(
    registry: Arc<dyn Registry>,
    keys: Keys,
    node: ActorRef<NodeMsg>,
) {
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

/// A status, and an endpoint's coming and going, for each of a host's members.
pub(super) const WRITES: usize = 4096;
/// Between attempts to write.
pub(super) const RETRY: Duration = Duration::from_millis(500);
