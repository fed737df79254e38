//! Ends conversations with incarnations that are over.
//!
//! An endpoint that leaves the registry may only be out of its reach, so its requests go on. Once a
//! higher epoch of its group serves, the old one is over for sure: its connection is closed, and
//! requests that still wait there learn it at once instead of when the connection goes silent. So
//! it is once a host has reaped one of its members: a group is all or nothing, and who was killed
//! could not say so itself.

use std::sync::{Arc, Weak};

use troupe_runtime::id::EndpointId;

use super::{directory::Table, endpoint::Endpoint};

/// Endpoints that have left the registry and may still run requests.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    left: Vec<Weak<Endpoint>>,
}

impl Fence {
    /// Remembers an endpoint that left, for as long as somebody uses it.
    pub(crate) fn remember(&mut self, endpoint: &Arc<Endpoint>) {
        self.left.retain(|left| left.strong_count() > 0);
        self.left.push(Arc::downgrade(endpoint));
    }

    /// Members were reaped: closes the connections to incarnations that are over by that.
    pub(crate) fn bury(&self, table: &Table, is_over: impl Fn(&EndpointId) -> bool) {
        let left = self.left.iter().filter_map(Weak::upgrade);
        for endpoint in left.chain(table.values().cloned()) {
            if is_over(&endpoint.info.endpoint) {
                tracing::info!(endpoint = %endpoint.info.endpoint, "endpoint lost a member");
                endpoint.connection.close("a member of its group has died");
            }
        }
    }

    /// A new incarnation is there: closes the connections to lower ones of its group.
    pub(crate) fn enforce(&mut self, successor: &EndpointId, table: &Table) {
        let left = self.left.iter().filter_map(Weak::upgrade);
        for endpoint in left.chain(table.values().cloned()) {
            let old = &endpoint.info.endpoint;
            let same = old.group == successor.group && old.dp == successor.dp;
            if same && old.epoch.number < successor.epoch.number {
                tracing::info!(endpoint = %old, by = %successor, "endpoint superseded");
                endpoint.connection.close("a higher epoch of its group serves");
            }
        }
    }
}
