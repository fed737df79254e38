//! Connections that say nothing and are kept to hear when the other end is gone: of the controller
//! that is in office to the hosts, and of the others to it. A lease tells of a process that stands
//! still or is cut off only when it is over, and that is too late.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ractor::ActorRef;
use tokio::{task::JoinSet, time::sleep};
use troupe_runtime::{
    id::NodeId,
    transport::{Class, Link, PeerAddr},
};

use super::{actor::ControllerMsg, plan::ControllerEvent, posts::Posts};

/// Whom a controller watches over. Ends with it.
pub(super) struct Vigil {
    link: Option<Arc<dyn Link>>,
    controller: ActorRef<ControllerMsg>,
    /// Of the controller in office, at most one.
    office: JoinSet<()>,
    hosts: Posts<NodeId>,
}

// === impl Vigil ===

impl Vigil {
    pub(super) fn new(link: Option<Arc<dyn Link>>, controller: ActorRef<ControllerMsg>) -> Self {
        Self { link, controller, office: JoinSet::new(), hosts: Posts::new() }
    }

    /// Watches over this controller, by what stands under the election key and where it is reached,
    /// and over no other.
    pub(super) fn office(&mut self, whom: Option<(Vec<u8>, String)>) {
        self.office = JoinSet::new();
        if let (Some((name, address)), Some(link)) = (whom, &self.link) {
            let controller = self.controller.clone();
            let missed = move || controller.cast(ControllerMsg::Missed(name.clone())).is_ok();
            self.office.spawn(keep(Arc::clone(link), address, missed));
        }
    }

    /// Watches over these hosts, and over no others.
    pub(super) fn hosts(&mut self, wanted: BTreeMap<NodeId, String>) {
        let Some(link) = &self.link else { return };
        self.hosts.keep(wanted, |node, address| {
            let controller = self.controller.clone();
            let told = move || ControllerMsg::Found(ControllerEvent::HostMissed(node));
            keep(Arc::clone(link), address, move || controller.cast(told()).is_ok())
        });
    }
}

/// Keeps a connection, and says each time that it breaks and cannot be made anew at once, as it can
/// if this process was the one that stood still. One that was never heard is not missed. Ends when
/// nobody wants to be told.
async fn keep(link: Arc<dyn Link>, address: String, missed: impl Fn() -> bool) {
    let Ok(peer) = address.parse::<PeerAddr>() else { return };
    loop {
        let mut reached = link.connect(&peer, Class::Control, HANDSHAKE).await;
        while let Ok(connection) = reached {
            let why = connection.closed().await;
            reached = link.connect(&peer, Class::Control, AT_ONCE).await;
            if reached.is_err() {
                tracing::info!(address, why = %why, "heard no more");
                if !missed() {
                    return;
                }
            }
        }
        sleep(AGAIN).await;
    }
}

/// Within this a process that is alive shakes hands.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// What that takes at the most where all is well, and a little.
const AT_ONCE: Duration = Duration::from_millis(150);
/// Between two tries to reach one that is not there.
const AGAIN: Duration = Duration::from_secs(1);
