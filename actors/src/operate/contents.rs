//! What the store holds of what was asked for, read into records.
//!
//! A record that cannot be read is left out, as everywhere; whoever writes it is told elsewhere.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use troupe_runtime::discovery::{Entry, WatchEvent, directory, keys::Keys};

/// Entries of the store, by key.
#[derive(Clone, Debug)]
pub(super) struct Contents {
    pub(super) keys: Keys,
    entries: BTreeMap<String, Entry>,
}

/// A record and the version of its key.
#[derive(Clone, Debug)]
pub(super) struct Found<T> {
    pub(super) key: String,
    pub(super) record: T,
    pub(super) version: i64,
}

// === impl Contents ===

impl Contents {
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys, entries: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, entries: impl IntoIterator<Item = Entry>) {
        self.entries.extend(entries.into_iter().map(|entry| (entry.key.clone(), entry)));
    }

    /// Takes what a watch told, and says whether that changed anything.
    pub(super) fn see(&mut self, event: WatchEvent) -> bool {
        match event {
            WatchEvent::Put(entry) => {
                let before = self.entries.insert(entry.key.clone(), entry.clone());
                before.is_none_or(|before| before.value != entry.value)
            }
            WatchEvent::Delete(key) => self.entries.remove(&key).is_some(),
            WatchEvent::Synced | WatchEvent::Disconnected(_) | WatchEvent::Rewound => false,
        }
    }

    /// Everything under a prefix, in key order.
    pub(super) fn under(&self, prefix: &str) -> impl Iterator<Item = &Entry> {
        let from = self.entries.range(prefix.to_owned()..);
        let prefix = prefix.to_owned();
        from.take_while(move |(key, _)| key.starts_with(&prefix)).map(|(_, entry)| entry)
    }

    /// The records under a prefix.
    pub(super) fn records<T: DeserializeOwned>(&self, prefix: &str) -> Vec<Found<T>> {
        self.under(prefix).filter_map(read).collect()
    }

    /// The record under a key.
    pub(super) fn record<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.entries.get(key).and_then(read).map(|found| found.record)
    }
}

fn read<T: DeserializeOwned>(entry: &Entry) -> Option<Found<T>> {
    let record = directory::from_bytes(&entry.key, &entry.value)
        .inspect_err(|error| tracing::debug!(key = entry.key, %error, "a record is left out"))
        .ok()?;
    Some(Found { key: entry.key.clone(), record, version: entry.version })
}
