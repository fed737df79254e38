//! Follows what nodes tell of members that died, and lets requests and the keepers of endpoints
//! wait for it.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use troupe_runtime::{
    discovery::{
        Registry, WatchEvent,
        directory::{DeathsRecord, from_bytes},
        keys::Keys,
    },
    error::chain,
    id::{EndpointId, RequestId},
};

use super::core::{Suspects, Verdict};
use crate::placement::keeper::Retry;

/// What this gateway knows of deaths.
#[derive(Debug, Default)]
pub(crate) struct Deaths {
    // A std mutex: held for a look, never across an await.
    known: Mutex<Suspects>,
    more: watch::Sender<()>,
}

// === impl Deaths ===

impl Deaths {
    /// What is to become of a request that went to some endpoints alone.
    pub(crate) fn verdict(&self, request: RequestId, alone_at: &[EndpointId]) -> Verdict {
        self.known().verdict(request, alone_at)
    }

    /// Whether a member of an endpoint's incarnation has died: then it is over.
    pub(crate) fn knows(&self, endpoint: &EndpointId) -> bool {
        self.known().knows(endpoint)
    }

    /// Changes whenever there is more to know.
    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.more.subscribe()
    }

    /// Waits until it is told how an endpoint ended; not for long, because it may have ended in a
    /// way that nobody can tell, with its host.
    pub(crate) async fn word_of(&self, endpoint: &EndpointId) {
        let word = async {
            let mut more = self.more.subscribe();
            while !self.knows(endpoint) && more.changed().await.is_ok() {}
        };
        let _ = timeout(PATIENCE, word).await;
    }

    /// Follows the nodes' records for ever.
    pub(crate) async fn run(
        self: Arc<Self>,
        registry: Arc<dyn Registry>,
        keys: Keys,
    ) -> Infallible {
        let mut retry = Retry::default();
        loop {
            match registry.watch(&keys.all_deaths()).await {
                Ok(mut watch) => {
                    while let Some(event) = watch.next().await {
                        let WatchEvent::Put(entry) = event else { continue };
                        match from_bytes::<DeathsRecord>(&entry.key, &entry.value) {
                            Ok(record) => self.note(record),
                            Err(error) => {
                                tracing::warn!(error = chain(&error), "read a record of deaths");
                            }
                        }
                    }
                }
                Err(error) => tracing::warn!(error = chain(&error), "watch deaths"),
            }
            retry.wait().await;
        }
    }

    pub(crate) fn note(&self, record: DeathsRecord) {
        self.known().note(record);
        self.more.send_replace(());
    }

    fn known(&self) -> MutexGuard<'_, Suspects> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node reaps its members at once, and the store takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use troupe_runtime::{
        discovery::directory::Death,
        id::{Epoch, GroupId},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn word_is_waited_for_but_not_for_ever() {
        let deaths = Deaths::default();
        let group = GroupId { namespace: "n".into(), service: "s".into(), index: 0 };
        let epoch = Epoch::default();
        let endpoint = EndpointId { group: group.clone(), revision: 1, epoch, dp: 0 };
        let began = tokio::time::Instant::now();
        deaths.word_of(&endpoint).await;
        assert_eq!(began.elapsed(), PATIENCE);
        let tell = async {
            tokio::time::sleep(PATIENCE / 4).await;
            let death = Death { group, epoch, member: 0, suspects: vec![] };
            deaths.note(DeathsRecord { deaths: vec![death] });
        };
        tokio::join!(deaths.word_of(&endpoint), tell);
        assert_eq!(began.elapsed(), PATIENCE + PATIENCE / 4);
    }
}
