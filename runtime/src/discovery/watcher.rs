//! A watch that never ends and never lies: any store's streams of changes, joined without a gap.
//!
//! The core keeps what it has told. When a stream breaks, whatever the cause (a restart,
//! compaction, a wipe, a slow reader), the store is listed again and the difference told: one way
//! back for every trap, which is why none of them is special.

use std::{collections::BTreeMap, time::Duration};

use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Entry, RegistryError, Watch, WatchEvent,
    store::{BACKOFF, Broken, Change, Changes, Stand, Store},
};

/// Events that wait for their reader. It is small because it is only slack: a full one stops this
/// watch's own reading, and the store holds the rest or makes us list again.
const CAPACITY: usize = 256;

/// Starts a watch; its task ends when the watch is dropped or `tasks` is.
pub(super) async fn start<S: Store>(
    store: S,
    prefix: &str,
    tasks: &std::sync::Mutex<JoinSet<()>>,
) -> Result<Watch, RegistryError> {
    let opened = store.open(prefix).await?;
    let (sender, events) = mpsc::channel(CAPACITY);
    let prefix = prefix.to_owned();
    let mut tasks = tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    while tasks.try_join_next().is_some() {}
    tasks.spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = run(&store, &prefix, &sender, opened) => {}
        }
    });
    Ok(Watch::new(events))
}

/// Translates between the store and the core until nobody listens.
async fn run<S: Store>(
    store: &S,
    prefix: &str,
    sender: &mpsc::Sender<WatchEvent>,
    (entries, mut changes): (Vec<Entry>, S::Changes),
) {
    let mut core = Watcher::new(rand::random());
    let mut effects = core.handle(Event::Opened(entries, changes.stand()));
    loop {
        for event in effects.tell {
            if sender.send(event).await.is_err() {
                return;
            }
        }
        effects = match effects.next {
            Next::Read => match changes.next().await {
                Ok(batch) => core.handle(Event::Changed(batch, changes.stand())),
                Err(broken) => core.handle(Event::Broke(broken)),
            },
            Next::Open { after } => {
                tokio::time::sleep(after).await;
                match store.open(prefix).await {
                    Ok((entries, opened)) => {
                        changes = opened;
                        core.handle(Event::Opened(entries, changes.stand()))
                    }
                    Err(error) => core.handle(Event::Broke(Broken::Away(error.to_string()))),
                }
            }
        };
    }
}

/// What has been told, and how it stands with the store.
#[derive(Debug)]
pub(super) struct Watcher {
    /// For the jitter of waits.
    seed: u64,
    told: BTreeMap<String, Entry>,
    /// How far the store was when it was last heard of.
    stand: Option<Stand>,
    /// Breaks since the last change that was read.
    breaks: u32,
    away: bool,
}

/// What happens to a watcher.
#[derive(Debug)]
pub(super) enum Event {
    /// The store was listed and a stream stands that goes on from there.
    Opened(Vec<Entry>, Stand),
    /// The stream brought changes.
    Changed(Vec<Change>, Stand),
    /// The stream ended, or could not be opened.
    Broke(Broken),
}

/// What a watcher wants done: first tell, then go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Effects {
    pub(super) tell: Vec<WatchEvent>,
    pub(super) next: Next,
}

/// How to go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Read,
    Open { after: Duration },
}

// === impl Watcher ===

impl Watcher {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, told: BTreeMap::new(), stand: None, breaks: 0, away: false }
    }

    pub(super) fn handle(&mut self, event: Event) -> Effects {
        match event {
            Event::Opened(entries, stand) => {
                self.away = false;
                let before = self.stand.replace(stand);
                let rewound = before.is_some_and(|before| stand.went_back_from(before));
                let mut tell = Vec::from_iter(rewound.then_some(WatchEvent::Rewound));
                tell.extend(self.difference(entries));
                tell.push(WatchEvent::Synced);
                Effects { tell, next: Next::Read }
            }
            Event::Changed(changes, stand) => {
                self.breaks = 0;
                self.stand = Some(stand);
                let tell = changes.into_iter().filter_map(|change| self.apply(change)).collect();
                Effects { tell, next: Next::Read }
            }
            Event::Broke(broken) => {
                let mut tell = Vec::new();
                if let Broken::Away(why) = broken
                    && !std::mem::replace(&mut self.away, true)
                {
                    tell.push(WatchEvent::Disconnected(why));
                }
                self.breaks = self.breaks.saturating_add(1);
                // The first look is immediate: most breaks are over at once.
                let after = match self.breaks {
                    1 => Duration::ZERO,
                    more => BACKOFF.wait(self.seed, more - 2),
                };
                Effects { tell, next: Next::Open { after } }
            }
        }
    }

    fn apply(&mut self, change: Change) -> Option<WatchEvent> {
        match change {
            Change::Put(entry) => {
                self.told.insert(entry.key.clone(), entry.clone());
                Some(WatchEvent::Put(entry))
            }
            Change::Delete(key) => self.told.remove(&key).map(|_| WatchEvent::Delete(key)),
        }
    }

    /// What turns that which was told into `entries`: deletions first, both in key order.
    fn difference(&mut self, entries: Vec<Entry>) -> Vec<WatchEvent> {
        let now: BTreeMap<String, Entry> =
            entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        let gone = self.told.keys().filter(|key| !now.contains_key(*key)).cloned();
        let written = now.values().filter(|entry| self.told.get(&entry.key) != Some(*entry));
        let tell = gone.map(WatchEvent::Delete).chain(written.cloned().map(WatchEvent::Put));
        let tell = tell.collect();
        self.told = now;
        tell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &str, version: i64) -> Entry {
        Entry { key: key.into(), value: value.into(), version }
    }

    fn at(revision: u64) -> Stand {
        Stand { store: 1, revision }
    }

    #[test]
    fn a_store_that_lost_something_says_so_before_the_difference() {
        for lost in [at(4), Stand { store: 2, revision: 99 }] {
            let mut watcher = Watcher::new(1);
            watcher.handle(Event::Opened(vec![entry("a", "1", 1)], at(3)));
            watcher.handle(Event::Changed(vec![Change::Put(entry("b", "1", 1))], at(5)));
            let again = watcher.handle(Event::Opened(vec![entry("a", "1", 1)], lost));
            let gone = WatchEvent::Delete("b".into());
            assert_eq!(again.tell, [WatchEvent::Rewound, gone, WatchEvent::Synced]);
        }
    }

    #[test]
    fn a_new_list_tells_the_difference_only() {
        let mut watcher = Watcher::new(1);
        let first =
            watcher.handle(Event::Opened(vec![entry("a", "1", 1), entry("b", "1", 1)], at(5)));
        assert_eq!(first.tell.len(), 3);
        let broke = watcher.handle(Event::Broke(Broken::Behind));
        assert_eq!(broke.tell, [], "a list that is needed is no outage");
        let again = watcher.handle(Event::Opened(
            vec![entry("b", "1", 1), entry("c", "1", 1), entry("d", "1", 1)],
            at(9),
        ));
        assert_eq!(
            again.tell,
            [
                WatchEvent::Delete("a".into()),
                WatchEvent::Put(entry("c", "1", 1)),
                WatchEvent::Put(entry("d", "1", 1)),
                WatchEvent::Synced,
            ]
        );
    }

    #[test]
    fn an_outage_is_told_once_and_tried_ever_more_seldom() {
        let mut watcher = Watcher::new(1);
        watcher.handle(Event::Opened(vec![], at(9)));
        let away = || Event::Broke(Broken::Away("gone".into()));
        let first = watcher.handle(away());
        assert_eq!(first.tell, [WatchEvent::Disconnected("gone".into())]);
        assert_eq!(first.next, Next::Open { after: Duration::ZERO });
        for attempt in 0..20 {
            let Effects { tell, next: Next::Open { after } } = watcher.handle(away()) else {
                panic!("an outage is answered with another try");
            };
            assert_eq!(tell, []);
            let full = Duration::from_millis(100 << attempt).min(Duration::from_secs(3));
            assert!(after >= full / 2 && after <= full, "{attempt}: {after:?}");
        }
        assert_eq!(watcher.handle(Event::Opened(vec![], at(9))).tell, [WatchEvent::Synced]);
        assert_eq!(watcher.handle(away()).tell, [WatchEvent::Disconnected("gone".into())]);
    }

    #[test]
    fn a_key_that_was_never_told_is_not_deleted() {
        let mut watcher = Watcher::new(1);
        watcher.handle(Event::Opened(vec![], at(9)));
        assert_eq!(
            watcher.handle(Event::Changed(vec![Change::Delete("a".into())], at(10))).tell,
            []
        );
    }
}
