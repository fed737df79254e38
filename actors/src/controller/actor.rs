//! The controller: watches the store, carries events to the planner and writes what it says, while
//! it holds the office.
//!
//! Every write compares the election key, so that a controller that has lost the office without
//! noticing changes nothing, and the incarnation that its watch told of, so that what was planned
//! from one life of the store is not written into the next. A write that fails is not repeated: the
//! controller steps back, and when it has the office again it plans from what the store holds.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::JoinSet;
use troupe_runtime::{
    discovery::{Compare, Lease, Registry, WatchEvent, keys::Keys},
    model::source::HubCache,
    transport::Link,
};
use uuid::Uuid;

use super::{
    acts::Acts,
    errands::{Clock, Errands},
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
    /// By an errand.
    Found(ControllerEvent),
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
    /// Its way to hosts and endpoints; without one no host is tried before it is given up, and no
    /// load is known.
    pub link: Option<Arc<dyn Link>>,
    /// Where models may be that this host has too, to know how large they are.
    pub hub: HubCache,
}

/// A controller's state.
pub struct ControllerState {
    args: ControllerArgs,
    core: Core,
    identity: Vec<u8>,
    clock: Clock,
    errands: Errands,
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
            errands: Errands::new(args.link.clone(), args.hub.clone(), myself.clone()),
            clock: Clock::start(),
            observed: Observed::new(args.keys.clone()),
            args,
            identity: identity.to_string().into_bytes(),
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
        let events = match message {
            ControllerMsg::Tick => state.run_for_office().await,
            ControllerMsg::Found(event) => vec![event],
            ControllerMsg::Store(event) => match state.observed.see(event) {
                Seen::Events(events) => events,
                Seen::OtherLife => {
                    // What the office was waiting for, if it is not held yet.
                    myself.cast(ControllerMsg::Tick)?;
                    state.begin_anew().into_iter().collect()
                }
            },
        };
        for event in events {
            let effects = state.core.handle(state.clock.now(), event);
            state.act(effects).await;
        }
        Ok(())
    }
}

impl ControllerState {
    /// Takes the office if it is free, and notices when it is lost.
    async fn run_for_office(&mut self) -> Vec<ControllerEvent> {
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
                let mut events = vec![ControllerEvent::Elected(self.observed.groups())];
                events.extend(self.observed.is_settled().then_some(ControllerEvent::Settled));
                events
            }
            (true, false) => {
                tracing::warn!("this controller is no longer in office");
                self.errands.deposed();
                vec![ControllerEvent::Deposed]
            }
            (true, true) | (false, false) => vec![ControllerEvent::Tick],
        }
    }

    /// The store lives another life: what was planned is void, and so is the office.
    fn begin_anew(&mut self) -> Option<ControllerEvent> {
        let in_office = std::mem::take(&mut self.in_office);
        if in_office {
            tracing::warn!("the store lives anew: everything is planned from what it holds now");
            self.errands.deposed();
        }
        in_office.then_some(ControllerEvent::Deposed)
    }

    async fn act(&mut self, effects: Vec<ControllerEffect>) {
        // Who is in office knows it; without it nothing can be compared, nor written.
        let Some(life) = self.observed.life() else { return };
        let office = Compare::Value(self.args.keys.election(), self.identity.clone());
        let acts = Acts::of(&self.args.keys, life, office, effects);
        for errand in acts.errands {
            self.errands.run(errand);
        }
        for txn in acts.writes {
            let failed = match self.args.registry.commit(txn).await {
                Ok(true) => continue,
                Ok(false) => "another controller is in office, or the store lives anew".to_owned(),
                Err(error) => error.to_string(),
            };
            // Plan again from what is stored, as soon as the office is (still) ours.
            tracing::warn!(failed, "cannot write to the store");
            self.in_office = false;
            self.errands.deposed();
            let now = self.clock.now();
            self.core.handle(now, ControllerEvent::Deposed);
            return;
        }
    }
}

/// Differs from controller to controller, and from one start to the next.
fn entropy(identity: Uuid) -> u64 {
    let (high, low) = identity.as_u64_pair();
    high ^ low.rotate_left(17)
}

/// How often the office and the hosts' leases are looked at.
const TICK: Duration = Duration::from_millis(200);
