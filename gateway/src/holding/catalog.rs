//! Which names requests may use, and which declared services they belong to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use troupe_runtime::spec::service::PREFILL_SIDE;

/// A service by name.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServiceName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// What is declared of a service that matters while nobody serves it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Declared {
    /// The names that requests use for its model.
    pub(crate) names: Vec<String>,
    /// Whether it is to have a group, or has one when somebody asks.
    pub(crate) comes_up: bool,
    /// Whether it may be without one until somebody asks.
    pub(crate) on_demand: bool,
    /// Whether the side of it that computes prompts may be without one, likewise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) prefill_on_demand: bool,
    /// How its requests are placed, if it says so: an `EndpointPickerConfig`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) placement: Option<Value>,
    /// Why it will not come up by itself, as the controller says.
    pub(crate) failed: Option<String>,
}

/// All services.
pub(crate) type Services = Arc<BTreeMap<ServiceName, Declared>>;

/// What is declared, as far as this gateway knows.
#[derive(Debug)]
pub(crate) struct Catalog {
    services: watch::Sender<Services>,
}

// === impl Catalog ===

impl Catalog {
    /// Nothing is known.
    pub(crate) fn new() -> Self {
        Self { services: watch::Sender::new(Services::default()) }
    }

    /// This is declared now.
    pub(crate) fn set(&self, services: BTreeMap<ServiceName, Declared>) {
        self.services.send_if_modified(|known| {
            let changed = **known != services;
            if changed {
                *known = Arc::new(services);
            }
            changed
        });
    }

    /// Changes of what is declared.
    pub(crate) fn changes(&self) -> watch::Receiver<Services> {
        self.services.subscribe()
    }

    /// The service that a name belongs to; without a name the only one that there is. Of several
    /// that have the name, one that can come up.
    pub(crate) fn find(&self, model: Option<&str>) -> Option<(ServiceName, Declared)> {
        let services = self.services.borrow();
        let has = |declared: &Declared| match model {
            Some(model) => declared.names.iter().any(|name| name == model),
            None => services.len() == 1,
        };
        let found = services.iter().filter(|(_, declared)| has(declared));
        let best =
            found.min_by_key(|(_, declared)| (!declared.comes_up, declared.failed.is_some()));
        best.map(|(name, declared)| (name.clone(), declared.clone()))
    }

    /// The side of a service that computes its prompts, if that has a group when somebody asks.
    pub(crate) fn prefill_on_demand(&self, namespace: &str, name: &str) -> Option<ServiceName> {
        let service = ServiceName { namespace: namespace.to_owned(), name: name.to_owned() };
        let services = self.services.borrow();
        let on_demand = services.get(&service).is_some_and(|known| known.prefill_on_demand);
        on_demand.then(|| ServiceName { name: format!("{name}{PREFILL_SIDE}"), ..service })
    }

    /// Every name that requests may use.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let services = self.services.borrow();
        services.values().flat_map(|declared| declared.names.iter().cloned()).collect()
    }

    /// Whether something is declared that has a group when somebody asks, and until then none.
    pub(crate) fn serves_on_demand(&self) -> bool {
        let can = |declared: &Declared| declared.on_demand && declared.failed.is_none();
        self.services.borrow().values().any(can)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_finds_a_service_that_can_come_up() {
        let catalog = Catalog::new();
        assert_eq!(catalog.find(Some("m")), None);
        let service = |name: &str, comes_up, failed: Option<&str>| {
            let name = ServiceName { namespace: "n".into(), name: name.into() };
            let failed = failed.map(str::to_owned);
            let names = vec!["m".into(), "x".into()];
            let on_demand = comes_up;
            let (prefill_on_demand, placement) = (false, None);
            let declared =
                Declared { names, comes_up, on_demand, prefill_on_demand, placement, failed };
            (name, declared)
        };
        let found = |catalog: &Catalog, model| catalog.find(model).map(|(name, _)| name.name);
        catalog.set([service("a", false, None)].into());
        assert_eq!(found(&catalog, Some("m")).as_deref(), Some("a"));
        assert_eq!(found(&catalog, None).as_deref(), Some("a"), "there is no other");
        assert!(!catalog.serves_on_demand());
        let all =
            [service("a", false, None), service("b", true, Some("no")), service("c", true, None)];
        catalog.set(all.into());
        assert_eq!(found(&catalog, Some("x")).as_deref(), Some("c"));
        assert_eq!(found(&catalog, None), None, "which is meant is not said");
        assert_eq!(catalog.names().len(), 2);
        assert!(catalog.serves_on_demand());
    }
}
