//! Every host keeps all specs on disk, and gives them back to a store that lost them.
//!
//! The [`core`] decides; this reads the store's incarnation after each change (a wipe's deletions
//! look like anybody's, only the incarnation tells) and carries out what the core wants. Specs
//! change when people write them, so this costs the store next to nothing.

mod core;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ractor::ActorRef;
use troupe_runtime::{
    discovery::{
        Incarnation, Op, Registry, RegistryError, Txn, WatchEvent,
        directory::{from_bytes, to_bytes},
        keys::Keys,
    },
    disk,
    error::chain,
};

use self::core::{Book, Effect, Event, Specs};
use super::{actor::NodeMsg, store::RETRY};

/// Where the specs are kept, and what was kept there.
pub(super) struct Keeper {
    data_dir: PathBuf,
    specs: Specs,
}

// === impl Keeper ===

impl Keeper {
    /// Reads what was kept; nothing if nothing was.
    ///
    /// # Errors
    /// A file that cannot be read, or that is not what was written.
    pub(super) fn load(data_dir: &Path) -> std::io::Result<Self> {
        let book = match disk::read(data_dir, FILE)? {
            None => Book::default(),
            Some(bytes) => {
                let file = data_dir.join(FILE).display().to_string();
                from_bytes(&file, &bytes).map_err(|error| disk::invalid(chain(&error)))?
            }
        };
        Ok(Self { data_dir: data_dir.to_owned(), specs: Specs::new(book) })
    }

    /// Follows the store for as long as it is there.
    pub(super) async fn run(
        mut self,
        registry: Arc<dyn Registry>,
        keys: Keys,
        node: ActorRef<NodeMsg>,
    ) {
        let Ok(mut watch) = registry.watch(&keys.all_specs()).await else {
            return node.stop(Some("cannot watch the specs".into()));
        };
        while let Some(event) = watch.next().await {
            let event = match event {
                WatchEvent::Put(entry) => Event::Put(entry),
                WatchEvent::Delete(key) => Event::Deleted(key),
                WatchEvent::Synced => Event::Synced,
                WatchEvent::Disconnected(_) | WatchEvent::Rewound => continue,
            };
            let key = keys.incarnation();
            let life = until_answered(|| registry.incarnation(&key)).await;
            for effect in self.specs.handle(event, &life.id()) {
                self.carry_out(effect, &registry, &life).await;
            }
        }
    }

    async fn carry_out(&self, effect: Effect, registry: &Arc<dyn Registry>, life: &Incarnation) {
        match effect {
            Effect::Persist => {
                let bytes = to_bytes(&self.specs.book);
                if let Err(error) = disk::write(&self.data_dir, FILE, &bytes) {
                    tracing::error!(%error, "a store that loses its specs will not get them back");
                }
            }
            Effect::Offer { key, value, seen } => {
                let put = || Txn {
                    compare: vec![life.compare(), seen.clone()],
                    then: vec![Op::Put(key.clone(), value.clone())],
                };
                if until_answered(|| registry.commit(put())).await {
                    tracing::info!(key, "give a spec back to the store");
                }
                // Another was faster, or the store was wiped again: the watch tells which.
            }
            Effect::Full(key) => {
                tracing::warn!(
                    key,
                    "no room on disk for this spec; a store that loses it has no copy"
                );
            }
        }
    }
}

/// Asks until the store answers: it may be away for a while.
async fn until_answered<T, F>(ask: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, RegistryError>>,
{
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                tracing::warn!(%error, "cannot compare the specs with the store, try again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

const FILE: &str = "specs.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_loaded_and_a_broken_file_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let keeper = Keeper::load(dir.path()).expect("nothing yet");
        assert_eq!(keeper.specs.book, Book::default());
        let mut specs = Specs::default();
        specs.handle(Event::Synced, "one");
        disk::write(dir.path(), FILE, &to_bytes(&specs.book)).expect("written");
        let keeper = Keeper::load(dir.path()).expect("it is there");
        assert_eq!(keeper.specs.book, specs.book);
        std::fs::write(dir.path().join(FILE), "nonsense").expect("written");
        let error = Keeper::load(dir.path()).err().expect("broken");
        assert!(error.to_string().contains(FILE), "{error}");
    }
}
