//! Connections that say nothing and are kept to hear when the other end is gone: of the controller
//! that is in office to the hosts, and of the others to it. A lease tells of a process that stands
//! still or is cut off only when it is over, and that is too late.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ractor::ActorRef;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::sleep,
};
use troupe_runtime::{
    id::NodeId,
    transport::{Class, Link, PeerAddr},
};

use super::{actor::ControllerMsg, plan::ControllerEvent};

/// Whom a controller watches over. Ends with it.
pub(super) struct Vigil {
    link: Option<Arc<dyn Link>>,
    controller: ActorRef<ControllerMsg>,
    office: Option<AbortHandle>,
    hosts: BTreeMap<NodeId, (String, AbortHandle)>,
    tasks: JoinSet<()>,
}

// === impl Vigil ===

impl Vigil {
    pub(super) fn new(link: Option<Arc<dyn Link>>, controller: ActorRef<ControllerMsg>) -> Self {
        let hosts = BTreeMap::new();
        Self { link, controller, office: None, hosts, tasks: JoinSet::new() }
    }

    /// Watches over this controller, by what stands under the election key and where it is reached,
    /// and over no other.
    pub(super) fn office(&mut self, whom: Option<(Vec<u8>, String)>) {
        if let Some(former) = self.office.take() {
            former.abort();
        }
        let Some((name, address)) = whom else { return };
        self.office = self.keep(address, move || ControllerMsg::Missed(name.clone()));
    }

    /// Watches over these hosts, and over no others.
    pub(super) fn hosts(&mut self, wanted: BTreeMap<NodeId, String>) {
        while self.tasks.try_join_next().is_some() {}
        self.hosts.retain(|node, (address, task)| {
            let stays = wanted.get(node) == Some(address);
            if !stays {
                task.abort();
            }
            stays
        });
        for (node, address) in wanted {
            if self.hosts.contains_key(&node) {
                continue;
            }
            let missed = move || ControllerMsg::Found(ControllerEvent::HostMissed(node));
            if let Some(task) = self.keep(address.clone(), missed) {
                self.hosts.insert(node, (address, task));
            }
        }
    }

    fn keep(
        &mut self,
        address: String,
        missed: impl Fn() -> ControllerMsg + Send + 'static,
    ) -> Option<AbortHandle> {
        let link = self.link.clone()?;
        let controller = self.controller.clone();
        let tell = move || controller.cast(missed()).is_ok();
        Some(self.tasks.spawn(keep(link, address, tell)))
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
