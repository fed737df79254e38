//! The controller: watches the store, carries events to the planner and writes what it says, while
//! it holds the office.
//!
//! Every write compares the election key, so that a controller that has lost the office without
//! noticing changes nothing, and the incarnation that its watch told of, so that what was planned
//! from one life of the store is not written into the next. A write that fails is not repeated: the
//! controller steps back, and when it has the office again it plans from what the store holds.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{task::JoinSet, time::Instant};
use troupe_runtime::discovery::{
    Compare, Lease, Op, Registry, Txn, WatchEvent, directory, keys::Keys,
};
use uuid::Uuid;

use super::{
    observed::{Observed, Seen},
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
    observed: Observed,
    in_office: bool,
    _tasks: JoinSet<()>,
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
            observed: Observed::new(args.keys.clone()),
            args,
            identity: identity.to_string().into_bytes(),
            origin: Instant::now(),
            in_office: false,
            _tasks: tasks,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ControllerMsg>,
        message: ControllerMsg,
        state: &mut ControllerState,
    ) -> Result<(), ActorProcessingErr> {
        let event = match message {
            ControllerMsg::Tick => Some(state.run_for_office().await),
            ControllerMsg::Store(event) => match state.observed.see(event) {
                Seen::Nothing => None,
                Seen::Event(event) => Some(event),
                Seen::OtherLife => {
                    // What the office was waiting for, if it is not held yet.
                    myself.cast(ControllerMsg::Tick)?;
                    state.begin_anew()
                }
            },
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
        // Claiming it makes the store's incarnation; the watch then tells it.
        let held = held && self.observed.life().is_some();
        let before = std::mem::replace(&mut self.in_office, held);
        match (before, held) {
            (false, true) => {
                tracing::info!("this controller takes office");
                ControllerEvent::Elected(self.observed.groups())
            }
            (true, false) => {
                tracing::warn!("this controller is no longer in office");
                ControllerEvent::Deposed
            }
            (true, true) | (false, false) => ControllerEvent::Tick,
        }
    }

    /// The store lives another life: what was planned is void, and so is the office.
    fn begin_anew(&mut self) -> Option<ControllerEvent> {
        let in_office = std::mem::take(&mut self.in_office);
        if in_office {
            tracing::warn!("the store lives anew: everything is planned from what it holds now");
        }
        in_office.then_some(ControllerEvent::Deposed)
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
            // Who is in office knows it; without it nothing can be compared, nor written.
            let Some(life) = self.observed.life() else { return };
            let office = Compare::Value(keys.election(), self.identity.clone());
            let txn = Txn { compare: vec![life.compare(), office], then: vec![op] };
            let failed = match self.args.registry.commit(txn).await {
                Ok(true) => continue,
                Ok(false) => "another controller is in office, or the store lives anew".to_owned(),
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
