//! The ready endpoints by the names that they serve, so that a decision looks at nobody else; and
//! what places the requests for each name.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use super::{defaults, directory::Table, endpoint::Endpoint, handler::Placer};

/// Read for every request, written when an endpoint comes or goes.
#[derive(Debug)]
pub(crate) struct Pools {
    by_name: RwLock<BTreeMap<String, Pool>>,
    placers: RwLock<Placers>,
}

/// Those that serve one name.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    /// In the order of their ids.
    pub(crate) members: Arc<[Arc<Endpoint>]>,
    pub(crate) placer: Arc<Placer>,
}

/// What places requests.
#[derive(Debug)]
struct Placers {
    /// Where a service does not say.
    otherwise: Arc<Placer>,
    /// As services say, by namespace and name.
    services: BTreeMap<(String, String), Arc<Placer>>,
}

// === impl Pools ===

impl Pools {
    /// Of nobody, placed so where a service does not say how; by default as llm-d does.
    pub(crate) fn new(otherwise: Option<Arc<Placer>>) -> Self {
        let otherwise = otherwise.unwrap_or_else(|| Arc::new(defaults::placer()));
        let placers = Placers { otherwise, services: BTreeMap::new() };
        Self { by_name: RwLock::default(), placers: RwLock::new(placers) }
    }

    /// What places requests where no service says how.
    pub(crate) fn otherwise(&self) -> Arc<Placer> {
        let placers = self.placers.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&placers.otherwise)
    }

    /// Who serves a name.
    pub(crate) fn of(&self, name: &str) -> Option<Pool> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Takes over who is ready.
    pub(crate) fn follow(&self, table: &Table) {
        let mut members: BTreeMap<&String, Vec<Arc<Endpoint>>> = BTreeMap::new();
        for endpoint in table.values() {
            for name in &endpoint.info.model_names {
                members.entry(name).or_default().push(Arc::clone(endpoint));
            }
        }
        let placers = self.placers.read().unwrap_or_else(PoisonError::into_inner);
        let pools = members.into_iter().map(|(name, members)| {
            let placer = placers.of(&members);
            (name.clone(), Pool { members: members.into(), placer })
        });
        *self.by_name.write().unwrap_or_else(PoisonError::into_inner) = pools.collect();
    }

    /// How services say that their requests are placed, by namespace and name.
    pub(crate) fn configure(&self, services: BTreeMap<(String, String), Arc<Placer>>) {
        self.placers.write().unwrap_or_else(PoisonError::into_inner).services = services;
    }
}

impl Placers {
    /// A name that several services serve is placed as the first of them says that says it.
    fn of(&self, members: &[Arc<Endpoint>]) -> Arc<Placer> {
        if self.services.is_empty() {
            return Arc::clone(&self.otherwise);
        }
        let said = members.iter().find_map(|endpoint| {
            let group = &endpoint.info.endpoint.group;
            self.services.get(&(group.namespace.clone(), group.service.clone()))
        });
        Arc::clone(said.unwrap_or(&self.otherwise))
    }
}
