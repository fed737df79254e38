//! The controller: watches the store, carries events to the planner and writes what it says, while
//! it holds the office.
//!
//! Every write compares the election key, so that a controller that has lost the office without
//! noticing changes nothing. A write that fails is not repeated: the controller steps back, and
//! when it has the office again it plans from what the store holds.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{task::JoinSet, time::Instant};
use troupe_runtime::{
    discovery::{
        Compare, Lease, Op, Registry, Txn, WatchEvent,
        directory::{self, GroupRecord, NodeRecord, NodeStatus},
        keys::Keys,
    },
    id::NodeId,
};
use uuid::Uuid;

use super::{
    desired::{self, Desired},
    plan::{Controller as Core, ControllerEffect, ControllerEvent, Timing},
};

/// The actor.
pub struct Controller;

/// What a controller is told.
#[derive(Debug)]
pub enum ControllerMsg {
    /// By the store's watch.
    Store(WatchEvent),
    /// Time has passed.
    Tick,
}

/// What a controller is made of.
pub struct ControllerArgs {
    /// The store.
    pub registry: Arc<dyn Registry>,
    /// The cluster's keys.
    pub keys: Keys,
    /// Under which it holds the office.
    pub lease: Arc<dyn Lease>,
    /// How long it waits for what.
    pub timing: Timing,
}

/// A controller's state.
pub struct ControllerState {
    args: ControllerArgs,
    core: Core,
    identity: Vec<u8>,
    origin: Instant,
    /// What the store said under each key, to know what a deletion means.
    known: BTreeMap<String, Known>,
    in_office: bool,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
enum Known {
    Node(NodeId),
    Group(GroupRecord),
    Service(String, String),
}

impl Actor for Controller {
    type Msg = ControllerMsg;
    type State = ControllerState;
    type Arguments = ControllerArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<ControllerMsg>,
        args: ControllerArgs,
    ) -> Result<ControllerState, ActorProcessingErr> {
        let identity = Uuid::now_v7();
        let mut tasks = JoinSet::new();
        let mut watch = args.registry.watch(args.keys.root()).await?;
        let to = myself.clone();
        tasks.spawn(async move {
            while let Some(event) = watch.next().await {
                if to.cast(ControllerMsg::Store(event)).is_err() {
                    return;
                }
            }
        });
        // At once, and then regularly.
        myself.cast(ControllerMsg::Tick)?;
        myself.send_interval(TICK, || ControllerMsg::Tick);
        Ok(ControllerState {
            core: Core::new(args.timing, entropy(identity)),
            args,
            identity: identity.to_string().into_bytes(),
            origin: Instant::now(),
            known: BTreeMap::new(),
            in_office: false,
            _tasks: tasks,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<ControllerMsg>,
        message: ControllerMsg,
        state: &mut ControllerState,
    ) -> Result<(), ActorProcessingErr> {
        let event = match message {
            ControllerMsg::Tick => Some(state.run_for_office().await),
            ControllerMsg::Store(event) => state.translate(event),
        };
        let Some(event) = event else { return Ok(()) };
        let effects = state.core.handle(state.origin.elapsed(), event);
        state.act(effects).await;
        Ok(())
    }
}

impl ControllerState {
    /// Takes the office if it is free, and notices when it is lost.
    async fn run_for_office(&mut self) -> ControllerEvent {
        let key = self.args.keys.election();
        let held = match self.in_office {
            true => self.args.lease.holds(&key),
            false => self.args.lease.claim(&key, self.identity.clone()).await.unwrap_or(false),
        };
        let before = std::mem::replace(&mut self.in_office, held);
        match (before, held) {
            (false, true) => {
                tracing::info!("this controller takes office");
                ControllerEvent::Elected(self.stored_groups())
            }
            (true, false) => {
                tracing::warn!("this controller is no longer in office");
                ControllerEvent::Deposed
            }
            (true, true) | (false, false) => ControllerEvent::Tick,
        }
    }

    fn stored_groups(&self) -> Vec<GroupRecord> {
        let records = self.known.values().filter_map(|known| match known {
            Known::Group(record) => Some(record.clone()),
            Known::Node(_) | Known::Service(..) => None,
        });
        records.collect()
    }

    fn translate(&mut self, event: WatchEvent) -> Option<ControllerEvent> {
        match event {
            WatchEvent::Put(entry) => match self.put(&entry.key, &entry.value) {
                Ok(event) => event,
                Err(error) => {
                    tracing::error!(key = entry.key, error, "a record is left out");
                    None
                }
            },
            WatchEvent::Delete(key) => Some(match self.known.remove(&key)? {
                Known::Node(node) => ControllerEvent::NodeGone(node),
                Known::Group(record) => ControllerEvent::GroupGone(record.group),
                Known::Service(namespace, name) => ControllerEvent::Undeclared(namespace, name),
            }),
            WatchEvent::Synced => Some(ControllerEvent::Synced),
            WatchEvent::Disconnected(why) => {
                tracing::warn!(why, "the store does not answer: nothing is changed meanwhile");
                None
            }
        }
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<Option<ControllerEvent>, String> {
        let keys = &self.args.keys;
        let text = |error: directory::RecordError| troupe_runtime::error::chain(&error);
        let event = if key.starts_with(&keys.nodes()) {
            let record: NodeRecord = directory::from_bytes(key, value).map_err(text)?;
            self.known.insert(key.into(), Known::Node(record.id));
            ControllerEvent::NodePut(record)
        } else if key.starts_with(&keys.node_statuses()) {
            let status: NodeStatus = directory::from_bytes(key, value).map_err(text)?;
            ControllerEvent::StatusPut(status)
        } else if key.starts_with(&keys.groups()) {
            let record: GroupRecord = directory::from_bytes(key, value).map_err(text)?;
            self.known.insert(key.into(), Known::Group(record.clone()));
            ControllerEvent::GroupPut(record)
        } else if key.starts_with(&keys.specs(desired::KIND)) {
            let declared: Desired = desired::from_stored(value)?;
            let name = (declared.namespace.clone(), declared.name.clone());
            self.known.insert(key.into(), Known::Service(name.0, name.1));
            ControllerEvent::Declared(declared)
        } else {
            return Ok(None);
        };
        Ok(Some(event))
    }

    async fn act(&mut self, effects: Vec<ControllerEffect>) {
        for effect in effects {
            let keys = &self.args.keys;
            let op = match effect {
                ControllerEffect::PutGroup(record) => {
                    let (epoch, members) = (record.epoch, record.members.len());
                    tracing::info!(group = %record.group, %epoch, members, "plan group");
                    Op::Put(keys.group(&record.group), directory::to_bytes(record))
                }
                ControllerEffect::DeleteGroup(group) => Op::Delete(keys.group(&group)),
                ControllerEffect::PutServiceStatus(namespace, name, status) => {
                    let (ready, replicas) = (status.ready, status.replicas);
                    tracing::info!(
                        namespace,
                        name,
                        ready,
                        replicas,
                        message = status.message,
                        "service"
                    );
                    Op::Put(keys.service_status(&namespace, &name), directory::to_bytes(status))
                }
            };
            let office = Compare::Value(keys.election(), self.identity.clone());
            let txn = Txn { compare: vec![office], then: vec![op] };
            let failed = match self.args.registry.commit(txn).await {
                Ok(true) => continue,
                Ok(false) => "another controller is in office".to_owned(),
                Err(error) => error.to_string(),
            };
            // Plan again from what is stored, as soon as the office is (still) ours.
            tracing::warn!(failed, "cannot write to the store");
            self.in_office = false;
            self.core.handle(self.origin.elapsed(), ControllerEvent::Deposed);
            return;
        }
    }
}

/// Differs from controller to controller, and from one start to the next.
fn entropy(identity: Uuid) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (high, low) = identity.as_u64_pair();
    high ^ low.rotate_left(17) ^ u64::from(now.subsec_nanos())
}

/// How often the office and the hosts' leases are looked at.
const TICK: Duration = Duration::from_millis(200);
