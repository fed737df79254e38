//! Tells what somebody deleted from what the store has lost.
//!
//! To a watch both look alike: a key is gone. But a group that somebody deleted is to end, and one
//! that an emptied store has forgotten is to go on. Two things tell them apart: the watch says when
//! the store went back in time, and the store's incarnation is another one when it was made anew.

use std::{sync::Arc, time::Duration};

use super::{Incarnation, Registry, RegistryError, WatchEvent};

/// Watches the store's life beside one watch: shown every event of it, in order.
#[derive(Debug)]
pub struct Witness {
    registry: Arc<dyn Registry>,
    /// Of the store's incarnation.
    key: String,
    seen: Testimony,
}

/// What a witness has seen: its core.
#[derive(Clone, Debug, Default)]
pub struct Testimony {
    /// In which life everything that was told so far was written.
    life: Option<Incarnation>,
    /// What is told now is what a loss has made of the store.
    rewound: bool,
}

/// Between two questions to a store that does not answer.
const RETRY: Duration = Duration::from_millis(500);

// === impl Testimony ===

impl Testimony {
    /// Sees an event that says nothing of a key. Whether the store's incarnation has to be asked
    /// for now, for [`Testimony::lives`].
    #[must_use]
    pub fn see(&mut self, event: &WatchEvent) -> bool {
        match event {
            WatchEvent::Rewound => self.rewound = true,
            WatchEvent::Synced => {
                self.rewound = false;
                return true;
            }
            WatchEvent::Put(_) | WatchEvent::Delete(_) | WatchEvent::Disconnected(_) => {}
        }
        false
    }

    /// All that was told by now is of this life.
    pub fn lives(&mut self, life: Incarnation) {
        self.life = Some(life);
    }

    /// In which life of the store what was told is; none before the first `Synced`.
    pub fn life(&self) -> Option<String> {
        self.life.as_ref().map(|life| life.id().into_owned())
    }

    /// Whether nobody meant the deletions that are told now, whatever the store says.
    pub fn is_loss(&self) -> bool {
        self.rewound
    }

    /// Whether somebody meant the deletions that were told, in a store that has this incarnation.
    /// Without one it was emptied a moment ago, and nobody has made one yet.
    pub fn was_meant(&self, now: Option<Incarnation>) -> bool {
        !self.rewound && now.is_some() && now == self.life
    }
}

// === impl Witness ===

impl Witness {
    /// For a watch that begins now. `key` is that of the store's incarnation.
    pub fn new(registry: Arc<dyn Registry>, key: String) -> Self {
        Self { registry, key, seen: Testimony::default() }
    }

    /// Sees an event that says nothing of a key. Waits until the store answers.
    pub async fn see(&mut self, event: &WatchEvent) {
        if self.seen.see(event) {
            let (registry, key) = (&self.registry, &self.key);
            self.seen.lives(until_answered(|| registry.incarnation(key)).await);
        }
    }

    /// In which life of the store what was told is; none before the first `Synced`.
    pub fn life(&self) -> Option<String> {
        self.seen.life()
    }

    /// Whether somebody meant the deletions that were told since it was last asked. Waits until the
    /// store answers: what it deleted is no hurry while nobody can write.
    pub async fn was_meant(&self) -> bool {
        if self.seen.is_loss() {
            return false;
        }
        let (registry, key) = (&self.registry, &self.key);
        let now = until_answered(|| registry.get(key)).await.map(Incarnation::of);
        self.seen.was_meant(now)
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
                tracing::warn!(%error, "cannot ask for the store's incarnation, try again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::{Op, Txn, Watch, embedded::EmbeddedRegistry};

    const LIFE: &str = "life";

    async fn write(registry: &EmbeddedRegistry, then: Vec<Op>) {
        let done = registry.commit(Txn { compare: vec![], then }).await.expect("it answers");
        assert!(done);
    }

    /// The next deletion, and whether it was meant.
    async fn deletion(watch: &mut Watch, witness: &mut Witness) -> bool {
        loop {
            match watch.next().await.expect("the store is there") {
                WatchEvent::Delete(_) => return witness.was_meant().await,
                event => witness.see(&event).await,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn deletions_of_a_person_are_told_from_those_of_a_wipe() {
        let registry = Arc::new(EmbeddedRegistry::new());
        let put = || Op::Put("k".into(), b"1".to_vec());
        let delete = || Op::Delete("k".into());
        let mut witness = Witness::new(registry.clone(), LIFE.into());
        write(&registry, vec![put()]).await;
        let mut watch = registry.watch("k").await.expect("it can be watched");
        loop {
            let event = watch.next().await.expect("the store is there");
            witness.see(&event).await;
            if event == WatchEvent::Synced {
                break;
            }
        }
        write(&registry, vec![delete()]).await;
        assert!(deletion(&mut watch, &mut witness).await);

        write(&registry, vec![put()]).await;
        assert!(matches!(watch.next().await, Some(WatchEvent::Put(_))));
        registry.wipe();
        assert!(!deletion(&mut watch, &mut witness).await, "the store went back");

        // In the new life a deletion is meant again.
        write(&registry, vec![put()]).await;
        write(&registry, vec![delete()]).await;
        assert!(deletion(&mut watch, &mut witness).await);

        // Emptied by hand, the incarnation too: the store did not go back, but its life is over.
        write(&registry, vec![put()]).await;
        write(&registry, vec![delete(), Op::Delete(LIFE.into())]).await;
        assert!(!deletion(&mut watch, &mut witness).await);
        registry.incarnation(LIFE).await.expect("somebody makes it anew");
        assert!(!witness.was_meant().await, "it is another one");
    }
}
