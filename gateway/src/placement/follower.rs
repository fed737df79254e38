//! Follows the store's word on endpoints, and runs one [`Keeper`] for each that is believed in.
//!
//! What is believed is the [`View`]'s to say. While the store is away nothing changes: an endpoint
//! leaves the table when its own connection ends. A gateway that starts meanwhile goes by what it
//! last knew.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    mem,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval},
};
use troupe_runtime::{
    discovery::{
        Registry, Watch, WatchEvent, Witness,
        directory::{EndpointRecord, from_bytes},
        keys::Keys,
    },
    error::chain,
    transport::Link,
};

use super::{
    directory::Directory,
    fence::Fence,
    keeper::{Keeper, Retry},
    view::{
        core::{Effect, Event, View},
        kept::{Kept, Known},
    },
};
use crate::{model::Models, suspects::watch::Deaths};

/// Follows the registry. Dropping it stops all keepers.
pub(crate) struct Follower {
    directory: Arc<Directory>,
    link: Arc<dyn Link>,
    models: Arc<Models>,
    deaths: Arc<Deaths>,
    view: View,
    /// What `now` counts from.
    origin: Instant,
    keepers: BTreeMap<String, (EndpointRecord, AbortHandle)>,
    /// Names of models, and how many of the records have each.
    names: BTreeMap<String, u32>,
    tasks: JoinSet<()>,
    fence: Fence,
    kept: Kept,
    /// In which life of the store what was recalled was known.
    recalled_life: Option<String>,
    /// Something has changed since it was kept.
    dirty: bool,
}

/// How often what has changed is kept, and doubts are looked at.
const TICK: Duration = Duration::from_secs(1);

// === impl Follower ===

impl Follower {
    /// One that knows what was kept in `dir`.
    pub(crate) fn new(
        directory: Arc<Directory>,
        link: Arc<dyn Link>,
        models: Arc<Models>,
        deaths: Arc<Deaths>,
        dir: Option<PathBuf>,
    ) -> Self {
        Self {
            directory,
            link,
            models,
            deaths,
            view: View::default(),
            origin: Instant::now(),
            keepers: BTreeMap::new(),
            names: BTreeMap::new(),
            tasks: JoinSet::new(),
            fence: Fence::default(),
            kept: Kept::new(dir, FILE),
            recalled_life: None,
            dirty: false,
        }
    }

    /// Follows for ever. A registry that is shut down is asked again, as one that is away.
    pub(crate) async fn run(mut self, registry: Arc<dyn Registry>, keys: Keys) -> Infallible {
        let known = self.kept.load();
        self.recalled_life = known.life;
        for (key, record) in known.entries {
            self.handle(Event::Recalled(key, record));
        }
        let mut retry = Retry::default();
        loop {
            match registry.watch(&keys.endpoints()).await {
                Ok(watch) => {
                    let witness = Witness::new(Arc::clone(&registry), keys.incarnation());
                    self.follow(watch, witness).await;
                    tracing::warn!("watch of endpoints ended");
                }
                Err(error) => tracing::warn!(error = chain(&error), "watch endpoints"),
            }
            retry.wait().await;
        }
    }

    async fn follow(&mut self, mut watch: Watch, mut witness: Witness) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deaths = self.deaths.news();
        deaths.mark_changed();
        loop {
            let event = tokio::select! {
                event = watch.next() => event,
                _ = tick.tick() => {
                    self.look_around(&witness).await;
                    continue;
                }
                Ok(()) = deaths.changed() => {
                    let over = |endpoint: &_| self.deaths.knows(endpoint);
                    self.fence.bury(&self.directory.table(), over);
                    continue;
                }
            };
            let mut next = event;
            let mut deleted = Vec::new();
            // As many as there are at once, so that the store is asked about all deletions of them
            // together.
            loop {
                match next {
                    None => return,
                    Some(WatchEvent::Put(entry)) => {
                        deleted.retain(|key| *key != entry.key);
                        self.put(&entry.key, &entry.value);
                    }
                    Some(WatchEvent::Delete(key)) => deleted.push(key),
                    Some(WatchEvent::Disconnected(why)) => {
                        tracing::warn!(why, "registry is away");
                    }
                    // After it the witness would answer for what came before it.
                    Some(event @ (WatchEvent::Synced | WatchEvent::Rewound)) => {
                        self.delete(mem::take(&mut deleted), &witness).await;
                        witness.see(&event).await;
                        self.synced(&event, &witness);
                    }
                }
                match watch.next().now_or_never() {
                    Some(more) => next = more,
                    None => break,
                }
            }
            self.delete(deleted, &witness).await;
        }
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        match from_bytes::<EndpointRecord>(key, value) {
            Ok(record) => self.handle(Event::Put(key.to_owned(), record)),
            Err(error) => {
                tracing::warn!(error = chain(&error), "read endpoint record");
                self.handle(Event::Deleted(key.to_owned()));
            }
        }
    }

    async fn delete(&mut self, keys: Vec<String>, witness: &Witness) {
        if keys.is_empty() {
            return;
        }
        let meant = witness.was_meant().await;
        for key in keys {
            self.handle(if meant { Event::Deleted(key) } else { Event::Lost(key) });
        }
    }

    fn synced(&mut self, event: &WatchEvent, witness: &Witness) {
        let life = witness.life();
        if *event == WatchEvent::Synced && life.is_some() && life == self.recalled_life {
            self.handle(Event::Known);
        }
    }

    async fn look_around(&mut self, witness: &Witness) {
        let ready = self.directory.table().keys().cloned().collect();
        self.handle(Event::Tick(ready));
        if mem::take(&mut self.dirty) {
            let entries = self.view.records().map(|(key, record)| (key.clone(), record.clone()));
            let known = Known { life: witness.life(), entries: entries.collect() };
            self.kept.save(known).await;
        }
    }

    fn handle(&mut self, event: Event) {
        while self.tasks.try_join_next().is_some() {}
        let effects = self.view.handle(self.origin.elapsed(), event);
        self.dirty |= !effects.is_empty();
        for effect in effects {
            match effect {
                Effect::Keep(key, record) => self.keep(key, record),
                Effect::Drop(key) => self.drop_keeper(&key),
            }
        }
    }

    fn keep(&mut self, key: String, record: EndpointRecord) {
        self.fence.enforce(&record.info.endpoint, &self.directory.table());
        let keeper = Keeper {
            record: record.clone(),
            directory: Arc::clone(&self.directory),
            link: Arc::clone(&self.link),
            models: Arc::clone(&self.models),
            deaths: Arc::clone(&self.deaths),
        };
        let task = self.tasks.spawn(keeper.run());
        for name in &record.info.model_names {
            *self.names.entry(name.clone()).or_insert(0) += 1;
        }
        self.keepers.insert(key, (record, task));
        self.tell_names();
    }

    fn drop_keeper(&mut self, key: &str) {
        if let Some((record, task)) = self.keepers.remove(key) {
            if let Some(endpoint) = self.directory.table().get(&record.info.endpoint) {
                self.fence.remember(endpoint);
            }
            task.abort();
            for name in &record.info.model_names {
                let left = self.names.get_mut(name).map(|count| {
                    *count -= 1;
                    *count
                });
                if left == Some(0) {
                    self.names.remove(name);
                }
            }
            self.tell_names();
        }
    }

    fn tell_names(&self) {
        self.directory.know(|known| {
            let same = known.iter().eq(self.names.keys());
            if !same {
                *known = self.names.keys().cloned().collect();
            }
            !same
        });
    }
}

/// Whether a gateway with this data directory has seen a cluster, so that it can start while the
/// store is away.
pub fn knows_a_cluster(data_dir: &Path) -> bool {
    data_dir.join(FILE).exists()
}

/// In the gateway's data directory.
const FILE: &str = "endpoints.json";
