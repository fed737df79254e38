//! Which specs this host keeps, and which it gives back to a store that lost them.
//!
//! Within one life of the store the store is right, whatever it says: it is what people wrote. A
//! host only learns. In another life (the store was wiped, or restored from another's backup) every
//! host offers what it has, and per object the highest generation wins. Deletions count as
//! generations, so a host that was away when an object was deleted revives nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use troupe_runtime::discovery::{
    Compare, Entry,
    declared::{Declared, tombstone},
};

/// Everything that is kept, as it is on disk.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Book {
    /// The life of the store that it was last compared with.
    life: Option<String>,
    /// By key.
    objects: BTreeMap<String, Kept>,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
struct Kept {
    generation: u64,
    /// The object as it was declared; none if it was deleted.
    document: Option<String>,
}

/// What happens to the specs; each with the life of the store right after it.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// One was written, or is there.
    Put(Entry),
    /// One is gone.
    Deleted(String),
    /// All of them have been told.
    Synced,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Write the book to disk.
    Persist,
    /// Put this, in this life of the store, if the key is as it was seen.
    Offer { key: String, value: Vec<u8>, seen: Compare },
    /// Say that this object is not kept: there is no room for it.
    Full(String),
}

/// What is kept, what the store has, and what it is to have.
#[derive(Debug, Default)]
pub(super) struct Specs {
    pub(super) book: Book,
    stored: BTreeMap<String, Entry>,
    /// Offered, and not yet seen in the store.
    offering: BTreeSet<String>,
}

/// Objects on disk. A cluster has tens; this only bounds what a runaway client can do.
const MOST_OBJECTS: usize = 4096;
/// Bytes of them together.
const MOST_BYTES: usize = 64 << 20;

// === impl Specs ===

impl Specs {
    pub(super) fn new(book: Book) -> Self {
        Self { book, ..Self::default() }
    }

    pub(super) fn handle(&mut self, event: Event, life: &str) -> Vec<Effect> {
        let before = self.book.clone();
        let known_life = self.book.life.as_deref() == Some(life);
        let mut effects = Vec::new();
        match event {
            Event::Put(entry) => {
                let key = entry.key.clone();
                self.stored.insert(key.clone(), entry);
                if known_life {
                    self.compare(&key, &mut effects);
                }
            }
            Event::Deleted(key) => {
                self.stored.remove(&key);
                if known_life {
                    self.compare(&key, &mut effects);
                }
            }
            Event::Synced => {
                if !known_life {
                    self.book.life = Some(life.to_owned());
                    self.offering = self.book.objects.keys().cloned().collect();
                }
                let keys: BTreeSet<String> =
                    self.stored.keys().chain(self.book.objects.keys()).cloned().collect();
                keys.iter().for_each(|key| self.compare(key, &mut effects));
            }
        }
        if self.book != before {
            // On disk before anything of it is offered.
            effects.insert(0, Effect::Persist);
        }
        effects
    }

    /// Takes one object from the store, or offers it.
    fn compare(&mut self, key: &str, effects: &mut Vec<Effect>) {
        let stored = self.stored.get(key);
        let kept = self.book.objects.get_mut(key);
        match (stored, kept) {
            (Some(stored), kept) => {
                // What cannot be read was written by a newer version, or by hand: it stays.
                let Some(found) = Declared::of(&stored.value) else { return };
                let newer = kept.is_some_and(|kept| kept.generation > found.generation);
                if newer && self.offering.contains(key) {
                    self.offer(key, effects);
                } else {
                    let value = stored.value.clone();
                    self.take(key, found, &value, effects);
                }
            }
            (None, Some(_)) if self.offering.contains(key) => self.offer(key, effects),
            (None, Some(kept)) => {
                if kept.document.take().is_some() {
                    kept.generation += 1;
                    self.offering.insert(key.to_owned());
                    self.offer(key, effects);
                } else {
                    // Whoever removes tombstones may.
                    self.book.objects.remove(key);
                }
            }
            (None, None) => {}
        }
    }

    fn offer(&self, key: &str, effects: &mut Vec<Effect>) {
        let Some(kept) = self.book.objects.get(key) else { return };
        let value = match &kept.document {
            Some(document) => document.clone().into_bytes(),
            None => tombstone(kept.generation),
        };
        let seen = match self.stored.get(key) {
            Some(entry) => Compare::Version(key.to_owned(), entry.version),
            None => Compare::Absent(key.to_owned()),
        };
        effects.push(Effect::Offer { key: key.to_owned(), value, seen });
    }

    fn take(&mut self, key: &str, found: Declared, value: &[u8], effects: &mut Vec<Effect>) {
        self.offering.remove(key);
        self.book.objects.remove(key);
        let document = (!found.deleted).then(|| String::from_utf8_lossy(value).into_owned());
        if !self.make_room(document.as_ref().map_or(0, String::len)) {
            return effects.push(Effect::Full(key.to_owned()));
        }
        let kept = Kept { generation: found.generation, document };
        self.book.objects.insert(key.to_owned(), kept);
    }

    /// Drops a tombstone where that makes room for one object more.
    fn make_room(&mut self, bytes: usize) -> bool {
        let objects = &mut self.book.objects;
        let taken = objects.values().filter_map(|kept| kept.document.as_ref()).map(String::len);
        if taken.sum::<usize>() + bytes > MOST_BYTES {
            return false;
        }
        if objects.len() < MOST_OBJECTS {
            return true;
        }
        let tombstone = objects.iter().find(|(_, kept)| kept.document.is_none());
        let Some(tombstone) = tombstone.map(|(key, _)| key.clone()) else { return false };
        objects.remove(&tombstone);
        true
    }
}

#[cfg(test)]
mod tests;
