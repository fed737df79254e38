//! The first pod of a group: takes the others in, and serves HTTP.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{task::JoinSet, time::Instant};
use troupe_actors::{
    controller::desired,
    guest::{admission::Admission, host::Host},
    host::door::{self, Desks},
};
use troupe_runtime::{
    discovery::directory::{self, NodeStatus},
    id::{GroupId, NodeId},
    shutdown::shutdown,
};
use uuid::Uuid;

use super::Part;
use crate::{
    cli::{
        Failure,
        args::HttpArgs,
        say,
        serve::{announce, local},
    },
    stack::{
        asked_to_end, declare,
        membership::Membership,
        roles::{self, GatewayPlace},
    },
};

impl Part {
    /// Serves until the process is asked to end, or a part of it ends.
    pub(super) async fn lead(self, http: &HttpArgs) -> Result<(), Failure> {
        let began = Instant::now();
        let address = tokio::select! {
            found = self.find_leader() => found?,
            () = asked_to_end() => return Ok(()),
        };
        let (link, _threads) = roles::quic(&self.credentials.identity, address, &[])?;
        let membership = Membership::embedded().await?;
        self.count_on_from_the_clock(&membership).await?;
        let (registry, keys) = (&membership.registry, &membership.keys);
        let host = Arc::new(Host {
            registry: registry.clone(),
            keys: keys.clone(),
            admission: Mutex::new(Admission::new(self.pod.size, self.launch.clone())),
        });
        let mut guests = JoinSet::new();
        let desks = Desks { guest: Some(host.clone()), ..Desks::default() };
        guests.spawn(door::keep(link.clone(), desks));

        let (owner, listener) = shutdown();
        let mut config = http.config()?;
        config.seed = self.launch.flags.seed;
        let here = GatewayPlace { id: self.pod.node(), host: address.ip() };
        let mut gateway = roles::gateway(&membership, config, here, link, listener).await?;
        let mut node = self.node(&membership, address.ip()).await?;
        let mut controller = roles::controller(&membership, membership.lease.clone(), None).await?;
        let document = desired::declare(SERVICE, 1, &self.launch);
        declare::declare(registry, keys, document).await?;
        say(&format!("waiting for {} more pods at {address}", self.pod.size - 1));
        let url = format!("http://{}", local(http, gateway.address().port()));
        let served = async {
            self.until_served(&host, &membership).await?;
            let flags = &self.launch.flags;
            let name = flags.served_model_name.first().unwrap_or(&self.launch.model_name);
            announce(name, &url, !http.api_key.is_empty(), began);
            // Served until something ends it.
            std::future::pending().await
        };
        tokio::select! {
            ended = served => return ended,
            () = node.ended() => return Err(Failure::run("the node has ended")),
            () = controller.ended() => return Err(Failure::run("the controller has ended")),
            () = gateway.wait() => return Err(Failure::run("the gateway has ended")),
            () = asked_to_end() => say("stopping: requests in flight are finished first"),
        }
        owner.begin();
        tokio::select! {
            () = gateway.wait() => {}
            () = asked_to_end() => say("stopping at once"),
        }
        Ok(())
    }

    /// Waits for all pods for as long as they are waited for, then until their group serves.
    async fn until_served(&self, host: &Host, membership: &Membership) -> Result<(), Failure> {
        let (registry, keys) = (&membership.registry, &membership.keys);
        let (size, patience) = (self.pod.size, self.patience);
        let gathered = declare::until_hosts(registry, keys, size as usize);
        match tokio::time::timeout(patience, gathered).await {
            Ok(gathered) => gathered?,
            Err(_) => {
                return Err(Failure::run(format!(
                    "pods {:?} of {size} have not come within {patience:?} (--group-timeout)",
                    host.missing()
                )));
            }
        }
        declare::until_serves(registry, keys, NAMESPACE, SERVICE).await
    }

    /// Nobody remembers which epochs there were if all pods were restarted, so the clock stands in
    /// for a host that does: no epoch is at or below the milliseconds since 1970. A guest that
    /// remembers a higher one wins.
    async fn count_on_from_the_clock(&self, membership: &Membership) -> Result<(), Failure> {
        let group =
            GroupId { namespace: NAMESPACE.into(), service: SERVICE.into(), index: 0 }.to_string();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (node, process) = (NodeId(Uuid::nil()), Uuid::nil());
        let epochs = BTreeMap::from([(group, since.as_millis() as u64)]);
        let status = NodeStatus { node, process, members: Vec::new(), epochs, groups: Vec::new() };
        let key = membership.keys.node_status(node);
        let put = membership.lease.put(&key, directory::to_bytes(status)).await;
        put.map_err(|error| Failure::run(error.to_string()))
    }
}

/// The one service of such a group.
const NAMESPACE: &str = "default";
const SERVICE: &str = "model";
