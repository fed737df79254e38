//! The table of ready endpoints: follows the registry, runs one [`Keeper`] per endpoint.
//!
//! The registry says which endpoints there should be; each keeper connects to one and enters it
//! into the table while it is ready. Placement reads the table without waiting for anybody. While
//! the registry is away the table stays as it is: an endpoint leaves when its own connection ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
};

use tokio::{sync::watch, task::JoinSet};
use troupe_runtime::{
    discovery::{
        Registry, WatchEvent,
        directory::{EndpointRecord, from_bytes},
        keys::Keys,
    },
    error::chain,
    id::EndpointId,
    transport::Link,
};

use super::{
    Candidate, Query,
    endpoint::Endpoint,
    fence::Fence,
    keeper::{Keeper, Retry},
    profile::Profile,
};
use crate::{
    error::ApiError,
    model::{Models, Served},
};

/// Ready endpoints, in the order of their ids. Immutable: a change makes a new one.
pub(crate) type Table = Arc<BTreeMap<EndpointId, Arc<Endpoint>>>;

/// Shared by keepers, which write, and requests, which read.
#[derive(Debug)]
pub(crate) struct Directory {
    table: watch::Sender<Table>,
    /// Every name that an endpoint of the registry has, ready or not.
    known: watch::Sender<BTreeSet<String>>,
    profile: Profile,
}

/// Follows the registry. Dropping it stops all keepers.
pub(crate) struct Follower {
    directory: Arc<Directory>,
    link: Arc<dyn Link>,
    models: Arc<Models>,
    keepers: BTreeMap<String, (EndpointRecord, tokio::task::AbortHandle)>,
    tasks: JoinSet<()>,
    fence: Fence,
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

    /// What a request's `model` means; without one, the first model that is served.
    ///
    /// # Errors
    /// 404 for a name that nobody has, 503 for one whose endpoints are all away.
    pub(crate) fn resolve(&self, name: Option<&str>) -> Result<Served, ApiError> {
        let table = self.table();
        let first = || table.values().find_map(|endpoint| endpoint.info.model_names.first());
        let name = name.filter(|name| !name.is_empty()).or_else(|| first().map(String::as_str));
        let Some(name) = name else {
            return Err(ApiError::unavailable("No model is ready."));
        };
        let serves =
            |endpoint: &&Arc<Endpoint>| endpoint.info.model_names.iter().any(|n| n == name);
        let Some(endpoint) = table.values().find(serves) else {
            let known = self.known.borrow();
            if known.contains(name) || known.is_empty() {
                let message = format!("No endpoint of the model `{name}` is ready.");
                return Err(ApiError::unavailable(message));
            }
            let known: Vec<String> = known.iter().cloned().collect();
            return Err(ApiError::unknown_model(name, &known));
        };
        // Whatever endpoint is picked later must have the room.
        let lengths = table.values().filter(serves).map(|endpoint| endpoint.info.max_model_len);
        Ok(Served {
            name: name.to_owned(),
            model: Arc::clone(&endpoint.model),
            max_model_len: lengths.min().unwrap_or(endpoint.info.max_model_len),
        })
    }

    /// The endpoint for a request, if any will do.
    pub(crate) fn place(&self, query: &Query<'_>) -> Option<Arc<Endpoint>> {
        let table = self.table();
        let endpoints: Vec<&Arc<Endpoint>> = table.values().collect();
        let candidates: Vec<Candidate<'_>> =
            endpoints.iter().map(|endpoint| endpoint.candidate()).collect();
        let at = self.profile.place(query, &candidates)?;
        Some(Arc::clone(endpoints[at]))
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

// === impl Follower ===

impl Follower {
    pub(crate) fn new(directory: Arc<Directory>, link: Arc<dyn Link>, models: Arc<Models>) -> Self {
        let (keepers, tasks, fence) = (BTreeMap::new(), JoinSet::new(), Fence::default());
        Self { directory, link, models, keepers, tasks, fence }
    }

    /// Follows for ever. A registry that is shut down is asked again, as one that is away.
    pub(crate) async fn run(mut self, registry: Arc<dyn Registry>, keys: Keys) -> Infallible {
        let mut retry = Retry::default();
        loop {
            match registry.watch(&keys.endpoints()).await {
                Ok(mut watch) => {
                    while let Some(event) = watch.next().await {
                        self.apply(event);
                    }
                    tracing::warn!("watch of endpoints ended");
                }
                Err(error) => tracing::warn!(error = chain(&error), "watch endpoints"),
            }
            retry.wait().await;
        }
    }

    fn apply(&mut self, event: WatchEvent) {
        while self.tasks.try_join_next().is_some() {}
        match event {
            WatchEvent::Put(entry) => {
                match from_bytes::<EndpointRecord>(&entry.key, &entry.value) {
                    Ok(record) => self.put(entry.key, record),
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "read endpoint record");
                        self.remove(&entry.key);
                    }
                }
            }
            WatchEvent::Delete(key) => self.remove(&key),
            WatchEvent::Synced => {}
            WatchEvent::Disconnected(why) => tracing::warn!(why, "registry is away"),
        }
    }

    fn put(&mut self, key: String, record: EndpointRecord) {
        if self.keepers.get(&key).is_some_and(|(known, _)| *known == record) {
            return;
        }
        self.remove(&key);
        self.fence.enforce(&record.info.endpoint, &self.directory.table());
        let keeper = Keeper {
            record: record.clone(),
            directory: Arc::clone(&self.directory),
            link: Arc::clone(&self.link),
            models: Arc::clone(&self.models),
        };
        let task = self.tasks.spawn(keeper.run());
        self.keepers.insert(key, (record, task));
        self.tell_names();
    }

    fn remove(&mut self, key: &str) {
        if let Some((record, task)) = self.keepers.remove(key) {
            if let Some(endpoint) = self.directory.table().get(&record.info.endpoint) {
                self.fence.remember(endpoint);
            }
            task.abort();
            self.tell_names();
        }
    }

    fn tell_names(&self) {
        let records = self.keepers.values().map(|(record, _)| record);
        let names = records.flat_map(|record| record.info.model_names.iter().cloned()).collect();
        self.directory.known.send_replace(names);
    }
}
