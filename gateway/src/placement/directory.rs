//! The table of ready endpoints, which placement reads without waiting for anybody.
//!
//! The [`follower`](super::follower) says which endpoints there should be; each one's keeper
//! connects to it and enters it here while it is ready.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::{sync::watch, time::Instant};
use troupe_runtime::id::EndpointId;

use super::{Candidate, Placed, Query, endpoint::Endpoint, profile::Profile};
use crate::{error::ApiError, model::Served, rules::Scope};

/// Ready endpoints, in the order of their ids. Immutable: a change makes a new one.
pub(crate) type Table = Arc<BTreeMap<EndpointId, Arc<Endpoint>>>;

/// Why a name cannot be served now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unserved {
    /// None was given, and no model is ready.
    Nothing,
    /// Its endpoints are all away.
    NotReady(String),
    /// Nobody has it; these are the names that are known.
    Unknown(String, Vec<String>),
}

/// Shared by keepers, which write, and requests, which read.
#[derive(Debug)]
pub(crate) struct Directory {
    table: watch::Sender<Table>,
    /// Every name that an endpoint of the registry has, ready or not.
    known: watch::Sender<BTreeSet<String>>,
    profile: Profile,
}

// === impl Directory ===

impl Directory {
    pub(crate) fn new() -> Self {
        Self {
            table: watch::Sender::new(Table::default()),
            known: watch::Sender::new(BTreeSet::new()),
            profile: Profile::decode(),
        }
    }

    /// What is ready now.
    pub(crate) fn table(&self) -> Table {
        Arc::clone(&self.table.borrow())
    }

    /// Changes of the table.
    pub(crate) fn changes(&self) -> watch::Receiver<Table> {
        self.table.subscribe()
    }

    /// Changes the names that endpoints have, ready or not; `change` says whether it did.
    pub(crate) fn know(&self, change: impl FnOnce(&mut BTreeSet<String>) -> bool) {
        self.known.send_if_modified(change);
    }

    /// What a request's `model` means; without one, the first model that is served.
    ///
    /// # Errors
    /// Why it means nothing that is served now.
    pub(crate) fn resolve(
        &self,
        name: Option<&str>,
        scope: Option<&Scope>,
    ) -> Result<Served, Unserved> {
        let table = self.table();
        let within = |endpoint: &&Arc<Endpoint>| {
            scope.is_none_or(|scope| scope.has(&endpoint.info.endpoint.group))
        };
        let mut all = table.values().filter(within);
        let mut first = || all.find_map(|endpoint| endpoint.info.model_names.first());
        let name = name.filter(|name| !name.is_empty()).or_else(|| first().map(String::as_str));
        let Some(name) = name else { return Err(Unserved::Nothing) };
        let serves = |endpoint: &&Arc<Endpoint>| {
            within(endpoint) && endpoint.info.model_names.iter().any(|n| n == name)
        };
        let Some(endpoint) = table.values().find(serves) else {
            let known = self.known.borrow();
            if known.contains(name) {
                return Err(Unserved::NotReady(name.to_owned()));
            }
            return Err(Unserved::Unknown(name.to_owned(), known.iter().cloned().collect()));
        };
        // Whatever endpoint is picked later must have the room.
        let lengths = table.values().filter(serves).map(|endpoint| endpoint.info.max_model_len);
        Ok(Served {
            name: name.to_owned(),
            model: Arc::clone(&endpoint.model),
            max_model_len: lengths.min().unwrap_or(endpoint.info.max_model_len),
            priority: None,
        })
    }

    /// The endpoint for a request, if any will do.
    pub(crate) fn place(&self, query: &Query<'_>) -> Option<Placed> {
        let (table, now) = (self.table(), Instant::now());
        let endpoints: Vec<&Arc<Endpoint>> = table.values().collect();
        let matched = self.matched(query, &endpoints);
        let candidates: Vec<Candidate<'_>> = endpoints
            .iter()
            .zip(&matched)
            .map(|(endpoint, matched)| endpoint.candidate(now, *matched))
            .collect();
        let at = self.profile.place(query, &candidates)?;
        Some(Placed { endpoint: Arc::clone(endpoints[at]), prefill: None })
    }

    /// Tokens of the prompt's beginning that each one's cache holds.
    #[expect(clippy::unused_self, reason = "the index of prefixes will be here")]
    fn matched(&self, _: &Query<'_>, endpoints: &[&Arc<Endpoint>]) -> Vec<u32> {
        vec![0; endpoints.len()]
    }

    /// An endpoint became ready.
    pub(crate) fn enter(&self, endpoint: Arc<Endpoint>) {
        tracing::info!(endpoint = %endpoint.info.endpoint, "endpoint ready");
        self.table.send_modify(|table| {
            let id = endpoint.info.endpoint.clone();
            Arc::make_mut(table).insert(id, endpoint);
        });
    }

    /// An endpoint is no longer ready. A successor of the same name stays.
    pub(crate) fn leave(&self, endpoint: &Arc<Endpoint>) {
        let id = &endpoint.info.endpoint;
        tracing::info!(endpoint = %id, "endpoint gone");
        self.table.send_modify(|table| {
            if table.get(id).is_some_and(|known| Arc::ptr_eq(known, endpoint)) {
                Arc::make_mut(table).remove(id);
            }
        });
    }
}

// === impl Unserved ===

impl Unserved {
    /// The same, where these names are known besides, though nobody serves them now.
    pub(crate) fn among(self, declared: BTreeSet<String>) -> Self {
        match self {
            Self::Unknown(name, _) if declared.contains(&name) => Self::NotReady(name),
            Self::Unknown(name, known) => {
                let all: BTreeSet<String> = known.into_iter().chain(declared).collect();
                Self::Unknown(name, all.into_iter().collect())
            }
            other => other,
        }
    }
}

impl From<Unserved> for ApiError {
    fn from(unserved: Unserved) -> Self {
        match unserved {
            Unserved::Nothing => Self::unavailable("No model is ready."),
            // A gateway that knows of nothing cannot say that there is nothing.
            Unserved::Unknown(name, known) if !known.is_empty() => {
                Self::unknown_model(&name, &known)
            }
            Unserved::NotReady(name) | Unserved::Unknown(name, _) => {
                Self::unavailable(format!("No endpoint of the model `{name}` is ready."))
            }
        }
    }
}
