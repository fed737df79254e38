//! What the store's words on endpoints mean.
//!
//! What the store says is believed. What it no longer says is believed too, as long as nobody meant
//! its silence: a store that was emptied, or is away since before this gateway was started, says
//! nothing of endpoints that serve as well as ever. Such an endpoint is in doubt. It is kept until
//! a later incarnation of its group is there, or it has not been ready for a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use troupe_runtime::{discovery::directory::EndpointRecord, id::EndpointId};

/// What happens to what is believed.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// This was known when the gateway ended, in the store's life of that time.
    Recalled(String, EndpointRecord),
    /// The store says so.
    Put(String, EndpointRecord),
    /// Somebody deleted it.
    Deleted(String),
    /// The store has lost it.
    Lost(String),
    /// The store has told everything that it has, and lives the life that what was recalled is of.
    Known,
    /// Time has passed, and these are ready.
    Tick(BTreeSet<EndpointId>),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Try to have this endpoint ready, from now on.
    Keep(String, EndpointRecord),
    /// Do so no longer.
    Drop(String),
}

/// All endpoints that are believed in, by their keys in the store.
#[derive(Debug, Default)]
pub(crate) struct View {
    endpoints: BTreeMap<String, Believed>,
}

#[derive(Debug)]
struct Believed {
    record: EndpointRecord,
    doubt: Option<Doubt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Doubt {
    /// When it was last ready, or came into doubt.
    since: Duration,
    /// It was recalled, and the store has not said anything yet.
    recalled: bool,
}

/// How long an endpoint in doubt may be away: longer than a host takes to come back to a store, and
/// not so long that its keeper asks nobody for ever.
const PATIENCE: Duration = Duration::from_secs(60);

// === impl View ===

impl View {
    /// What is believed.
    pub(crate) fn records(&self) -> impl Iterator<Item = (&String, &EndpointRecord)> {
        self.endpoints.iter().map(|(key, believed)| (key, &believed.record))
    }

    /// Takes one event and says what to do about it.
    pub(crate) fn handle(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        match event {
            Event::Recalled(key, record) => {
                self.believe(key, record, Some(Doubt { since: now, recalled: true }))
            }
            Event::Put(key, record) => {
                let mut effects = self.drop_predecessors(&record.info.endpoint);
                effects.extend(self.believe(key, record, None));
                effects
            }
            Event::Deleted(key) => self.forget([key]),
            Event::Lost(key) => {
                if let Some(believed) = self.endpoints.get_mut(&key) {
                    believed.doubt = Some(Doubt { since: now, recalled: false });
                }
                Vec::new()
            }
            Event::Known => {
                let recalled = |doubt: &Doubt| doubt.recalled;
                self.forget(self.in_doubt(recalled))
            }
            Event::Tick(ready) => self.tick(now, &ready),
        }
    }

    fn tick(&mut self, now: Duration, ready: &BTreeSet<EndpointId>) -> Vec<Effect> {
        for believed in self.endpoints.values_mut() {
            let is_ready = ready.contains(&believed.record.info.endpoint);
            if let (Some(doubt), true) = (&mut believed.doubt, is_ready) {
                doubt.since = now;
            }
        }
        let away = |doubt: &Doubt| now.saturating_sub(doubt.since) > PATIENCE;
        self.forget(self.in_doubt(away))
    }

    fn believe(
        &mut self,
        key: String,
        record: EndpointRecord,
        doubt: Option<Doubt>,
    ) -> Vec<Effect> {
        let new = Believed { record: record.clone(), doubt };
        let before = self.endpoints.insert(key.clone(), new);
        if before.as_ref().is_some_and(|before| before.record == record) {
            return Vec::new();
        }
        let dropped = before.map(|_| Effect::Drop(key.clone()));
        dropped.into_iter().chain([Effect::Keep(key, record)]).collect()
    }

    /// Earlier incarnations that are in doubt are over once a later one is there. Those that the
    /// store has are its own business: whoever put them takes them away.
    fn drop_predecessors(&mut self, successor: &EndpointId) -> Vec<Effect> {
        let over = self.endpoints.iter().filter(|(_, believed)| {
            let old = &believed.record.info.endpoint;
            let same = old.group == successor.group && old.dp == successor.dp;
            same && believed.doubt.is_some() && old.epoch.number < successor.epoch.number
        });
        let over: Vec<String> = over.map(|(key, _)| key.clone()).collect();
        self.forget(over)
    }

    fn in_doubt(&self, which: impl Fn(&Doubt) -> bool) -> Vec<String> {
        let doubted = |(key, believed): (&String, &Believed)| {
            believed.doubt.as_ref().is_some_and(&which).then(|| key.clone())
        };
        self.endpoints.iter().filter_map(doubted).collect()
    }

    fn forget(&mut self, keys: impl IntoIterator<Item = String>) -> Vec<Effect> {
        let known = |key: String| self.endpoints.remove(&key).map(|_| Effect::Drop(key));
        keys.into_iter().filter_map(known).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::endpoint::tests::info;

    const NOW: Duration = Duration::from_secs(1000);

    fn record(index: u32, epoch: u64) -> EndpointRecord {
        let mut info = info("m", index);
        info.endpoint.epoch.number = epoch;
        EndpointRecord {
            info,
            address: format!("{index}@{epoch}"),
            model_uri: "m".into(),
            labels: BTreeMap::new(),
        }
    }

    fn key(index: u32, epoch: u64) -> String {
        format!("{index}/{epoch}")
    }

    fn put(index: u32, epoch: u64) -> Event {
        Event::Put(key(index, epoch), record(index, epoch))
    }

    fn kept(index: u32, epoch: u64) -> Effect {
        Effect::Keep(key(index, epoch), record(index, epoch))
    }

    fn dropped(index: u32, epoch: u64) -> Effect {
        Effect::Drop(key(index, epoch))
    }

    #[test]
    fn what_the_store_says_is_believed() {
        let mut view = View::default();
        assert_eq!(view.handle(NOW, put(0, 1)), [kept(0, 1)]);
        assert_eq!(view.handle(NOW, put(0, 1)), [], "the same once more");
        let mut moved = record(0, 1);
        moved.address = "elsewhere".into();
        let effects = view.handle(NOW, Event::Put(key(0, 1), moved.clone()));
        assert_eq!(effects, [dropped(0, 1), Effect::Keep(key(0, 1), moved)]);
        assert_eq!(view.handle(NOW, Event::Deleted(key(0, 1))), [dropped(0, 1)]);
        assert_eq!(view.handle(NOW, Event::Deleted(key(0, 1))), []);
    }

    #[test]
    fn what_the_store_lost_is_kept_until_a_later_incarnation_is_there_or_it_is_away() {
        let mut view = View::default();
        view.handle(NOW, put(0, 1));
        view.handle(NOW, put(1, 1));
        view.handle(NOW, put(2, 1));
        for index in 0..3 {
            assert_eq!(view.handle(NOW, Event::Lost(key(index, 1))), []);
        }
        assert_eq!(view.handle(NOW, Event::Known), [], "it said nothing of what it lost");
        assert_eq!(view.handle(NOW, put(0, 2)), [dropped(0, 1), kept(0, 2)]);
        // Its host came back to the store.
        assert_eq!(view.handle(NOW, put(1, 1)), []);
        let ready = BTreeSet::from([record(2, 1).info.endpoint]);
        let mut later = NOW;
        for _ in 0..10 {
            later += PATIENCE;
            assert_eq!(view.handle(later, Event::Tick(ready.clone())), [], "it serves");
        }
        later += PATIENCE + Duration::from_secs(1);
        assert_eq!(view.handle(later, Event::Tick(BTreeSet::new())), [dropped(2, 1)]);
        assert_eq!(view.records().count(), 2);
    }

    #[test]
    fn what_was_recalled_is_believed_until_the_store_has_spoken() {
        let mut view = View::default();
        for index in 0..2 {
            let recalled = Event::Recalled(key(index, 1), record(index, 1));
            assert_eq!(view.handle(NOW, recalled), [kept(index, 1)]);
        }
        assert_eq!(view.handle(NOW, put(0, 1)), [], "it is there, and kept already");
        assert_eq!(view.handle(NOW, Event::Known), [dropped(1, 1)]);
    }

    #[test]
    fn a_rolling_update_has_both_incarnations() {
        let mut view = View::default();
        view.handle(NOW, put(0, 1));
        assert_eq!(view.handle(NOW, put(0, 2)), [kept(0, 2)], "the old one is deleted by its host");
    }
}
