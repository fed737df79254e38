//! What people declared of where requests go and how much they matter.
//!
//! `HTTPRoute`s, pools, objectives and models are objects in the store, as services are. They are
//! read once, when they change, into one immutable [`Rules`]; a request only looks things up.
//!
//! - [`objects`]: everything that is declared, and the rules that follow from it (pure)
//! - [`ranks`]: which priority a request may claim by name (pure)
//! - [`routes`]: which services a path leads to (pure)
//! - [`follower`]: keeps them as the store has them
//! - [`front`]: what a request goes through before its path is looked at

pub(crate) mod follower;
pub(crate) mod front;
pub(crate) mod objects;
pub(crate) mod ranks;
pub(crate) mod routes;

use std::{collections::BTreeSet, sync::Arc};

use troupe_runtime::{id::GroupId, spec::service::PREFILL_SIDE};

use self::{ranks::Ranks, routes::Routes};
use crate::holding::catalog::ServiceName;

/// All that is declared, ready to be looked up.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) ranks: Ranks,
    pub(crate) routes: Routes,
}

/// The services that may answer a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope(Arc<BTreeSet<ServiceName>>);

// === impl Scope ===

impl Scope {
    /// These.
    pub(crate) fn new(services: BTreeSet<ServiceName>) -> Self {
        Self(Arc::new(services))
    }

    /// Whether a group is of one of them.
    pub(crate) fn has(&self, group: &GroupId) -> bool {
        // The side of a service that prefills is the service's too.
        let service = group.service.strip_suffix(PREFILL_SIDE).unwrap_or(&group.service);
        let mut all = self.0.iter();
        all.any(|one| one.namespace == group.namespace && one.name == service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_its_two_sides_and_no_pool_of_its_name() {
        let name = |name: &str| ServiceName { namespace: "n".into(), name: name.into() };
        let group =
            |service: &str| GroupId { namespace: "n".into(), service: service.into(), index: 0 };
        let scope = Scope::new([name("s")].into());
        for (service, has) in [("s", true), ("s.prefill", true), ("s.0", false), ("t", false)] {
            assert_eq!(scope.has(&group(service)), has, "{service}");
        }
        assert!(Scope::new([name("s.0")].into()).has(&group("s.0")), "an endpoint of a pool");
    }
}
