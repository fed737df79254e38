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
    discovery::{Lease, Registry, WatchEvent, keys::Keys},
    model::source::ModelAccess,
    transport::Link,
};
use uuid::Uuid;

use super::{
    errands::{Clock, Errands},
    office::{Change, Office, OfficeEffects, OfficeEvent},
    plan::{ControllerEvent, Timing},
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
    /// The controller in office, which stands so under the election key, is heard no more.
    Missed(Vec<u8>),
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
    pub hub: ModelAccess,
}

/// A controller's state.
pub struct ControllerState {
    args: ControllerArgs,
    office: Office,
    clock: Clock,
    errands: Errands,
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
        let address = args.link.as_ref().map(|link| link.address().to_string());
        let (keys, name) = (args.keys.clone(), (identity.to_string(), address));
        Ok(ControllerState {
            office: Office::new(keys, name, args.timing, entropy(identity)),
            errands: Errands::new(args.link.clone(), args.hub.clone(), myself.clone()),
            clock: Clock::start(),
            args,
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
            ControllerMsg::Tick => OfficeEvent::Tick(state.holds_office().await),
            ControllerMsg::Found(event) => OfficeEvent::Found(event),
            ControllerMsg::Missed(who) => OfficeEvent::Missed(who),
            ControllerMsg::Store(event) => OfficeEvent::Store(event),
        };
        let effects = state.office.handle(state.clock.now(), event);
        if effects.tick {
            myself.cast(ControllerMsg::Tick)?;
        }
        state.act(effects).await;
        Ok(())
    }
}

impl ControllerState {
    /// Whether the office is this controller's, which takes it if it is free.
    async fn holds_office(&mut self) -> bool {
        let key = self.args.keys.election();
        let holds = self.args.lease.holds(&key);
        match self.office.candidacy(holds) {
            None => holds,
            Some(term) => self.args.lease.claim_term(&key, term).await.unwrap_or(false),
        }
    }

    async fn act(&mut self, effects: OfficeEffects) {
        self.note(effects.change);
        for errand in effects.acts.errands {
            self.errands.run(errand);
        }
        for txn in effects.acts.writes {
            let failed = match self.args.registry.commit(txn).await {
                Ok(true) => continue,
                Ok(false) => "another controller is in office, or the store lives anew".to_owned(),
                Err(error) => error.to_string(),
            };
            // Plan again from what is stored, as soon as the office is (still) ours.
            tracing::warn!(failed, "cannot write to the store");
            let lost = self.office.handle(self.clock.now(), OfficeEvent::Unwritten);
            return self.note(lost.change);
        }
    }

    fn note(&mut self, change: Option<Change>) {
        match change {
            Some(Change::Taken) => tracing::info!("this controller takes office"),
            Some(Change::Lost) => {
                tracing::warn!("this controller is no longer in office");
                self.errands.deposed();
            }
            None => {}
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
