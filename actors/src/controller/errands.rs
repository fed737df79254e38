//! What the controller has others find out: whether a host that has lost its lease still answers,
//! how large a model is, how busy endpoints are (`loads`), who is heard no more (`vigil`). Each
//! errand is a task with a deadline that ends in an event, but for the last two, which are followed
//! until they matter no longer; all end with the controller.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ractor::ActorRef;
use tokio::{task::JoinSet, time::Instant};
use troupe_runtime::{
    model::source::ModelAccess,
    transport::{Class, Link, PeerAddr},
};

use super::{
    actor::ControllerMsg, acts::Errand, facts, loads::Loads, plan::ControllerEvent, vigil::Vigil,
};

/// Runs errands.
pub(super) struct Errands {
    link: Option<Arc<dyn Link>>,
    hub: ModelAccess,
    controller: ActorRef<ControllerMsg>,
    loads: Loads,
    tasks: JoinSet<()>,
    vigil: Vigil,
}

impl Errands {
    pub(super) fn new(
        link: Option<Arc<dyn Link>>,
        hub: ModelAccess,
        controller: ActorRef<ControllerMsg>,
    ) -> Self {
        let loads = Loads::new(link.clone(), controller.clone());
        let vigil = Vigil::new(link.clone(), controller.clone());
        Self { link, hub, controller, loads, tasks: JoinSet::new(), vigil }
    }

    /// The office is lost: nobody's load matters here any more, and no host.
    pub(super) fn deposed(&mut self) {
        self.loads.follow(BTreeMap::new());
        self.vigil.hosts(BTreeMap::new());
    }

    /// Starts one. There are at most as many as hosts without a lease and models; each ends within
    /// its deadline.
    pub(super) fn run(&mut self, errand: Errand) {
        while self.tasks.try_join_next().is_some() {}
        let controller = self.controller.clone();
        match errand {
            Errand::Probe(node, address) => {
                let Some(link) = self.link.clone() else { return };
                self.tasks.spawn(async move {
                    let reachable = answers(&*link, &address).await;
                    tracing::info!(%node, address, reachable, "tried a host without a lease");
                    let found = ControllerEvent::HostProbed { node, reachable };
                    let _ = controller.cast(ControllerMsg::Found(found));
                });
            }
            Errand::Follow(endpoints) => self.loads.follow(endpoints),
            Errand::WatchOver(whom) => self.vigil.office(whom),
            Errand::Attend(hosts) => self.vigil.hosts(hosts),
            Errand::Model(uri) => {
                let hub = self.hub.clone();
                self.tasks.spawn_blocking(move || {
                    let facts = facts::of(&uri, &hub);
                    let found = ControllerEvent::ModelKnown(uri, facts);
                    let _ = controller.cast(ControllerMsg::Found(found));
                });
            }
        }
    }
}

/// Whether a host shakes hands; nothing is said.
async fn answers(link: &dyn Link, address: &str) -> bool {
    let Ok(peer) = address.parse::<PeerAddr>() else { return false };
    link.connect(&peer, Class::Control, PROBE).await.is_ok()
}

/// The time since 1970, which never goes back: read once, and counted on from there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    at_start: Duration,
    start: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        let at_start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { at_start, start: Instant::now() }
    }

    pub(super) fn now(&self) -> Duration {
        self.at_start + self.start.elapsed()
    }
}

/// Within this a host that is alive shakes hands.
const PROBE: Duration = Duration::from_secs(2);
