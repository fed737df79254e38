//! What happened, for people: a ring of records in the store.
//!
//! The same thing of the same object is one record with a count. The first time it is written at
//! once; repetitions are gathered, so that something that happens all the time costs a write in ten
//! seconds. The ring has a thousand places and the oldest gives way: events never fill a store.

use std::{collections::BTreeMap, time::Duration};

use troupe_runtime::discovery::directory::{EventKind, EventRecord, ObjectRef};

/// The ring.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    size: u32,
    next: u32,
    places: BTreeMap<u32, Kept>,
    /// Where something is told already.
    known: BTreeMap<Told, u32>,
    /// Places whose count is ahead of what is written.
    behind: BTreeMap<u32, Duration>,
    fresh: Vec<u32>,
}

type Told = (ObjectRef, String, String);

#[derive(Clone, Debug)]
struct Kept {
    record: EventRecord,
    written: Duration,
}

/// What an event is about, before it has a time.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) object: ObjectRef,
    pub(super) kind: EventKind,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

// === impl Journal ===

impl Journal {
    /// An empty ring of so many places.
    pub(super) fn new(size: u32) -> Self {
        Self {
            size: size.max(1),
            next: 0,
            places: BTreeMap::new(),
            known: BTreeMap::new(),
            behind: BTreeMap::new(),
            fresh: Vec::new(),
        }
    }

    /// What stands in the store already, perhaps written by another controller.
    pub(super) fn recall(&mut self, slot: u32, record: EventRecord) {
        if slot >= self.size || self.places.get(&slot).is_some_and(|kept| kept.record == record) {
            return;
        }
        let newest = self.places.values().all(|kept| kept.record.last <= record.last);
        let written = Duration::from_secs(record.last);
        self.keep(slot, record, written);
        if newest {
            self.next = (slot + 1) % self.size;
        }
    }

    /// Something happened.
    pub(super) fn tell(&mut self, now: Duration, event: Event) {
        let told = (event.object.clone(), event.reason.to_owned(), event.message.clone());
        let seconds = now.as_secs();
        if let Some(slot) = self.known.get(&told)
            && let Some(kept) = self.places.get_mut(slot)
        {
            kept.record.count += 1;
            kept.record.last = seconds;
            self.behind.entry(*slot).or_insert(kept.written + GATHER);
            return;
        }
        let record = EventRecord {
            object: event.object,
            kind: event.kind,
            reason: event.reason.into(),
            message: event.message,
            count: 1,
            first: seconds,
            last: seconds,
        };
        let slot = self.next;
        self.next = (slot + 1) % self.size;
        self.keep(slot, record, now);
        self.fresh.push(slot);
    }

    /// What to write now.
    pub(super) fn due(&mut self, now: Duration) -> Vec<(u32, EventRecord)> {
        let mut slots = std::mem::take(&mut self.fresh);
        let due = self.behind.iter().filter(|(_, at)| **at <= now).map(|(slot, _)| *slot);
        slots.extend(due);
        slots.sort_unstable();
        slots.dedup();
        let write = slots.into_iter().filter_map(|slot| {
            self.behind.remove(&slot);
            let kept = self.places.get_mut(&slot)?;
            kept.written = now;
            Some((slot, kept.record.clone()))
        });
        write.collect()
    }

    fn keep(&mut self, slot: u32, record: EventRecord, written: Duration) {
        let told = |record: &EventRecord| {
            (record.object.clone(), record.reason.clone(), record.message.clone())
        };
        self.behind.remove(&slot);
        let key = told(&record);
        if let Some(old) = self.places.insert(slot, Kept { record, written }) {
            let old = told(&old.record);
            if self.known.get(&old) == Some(&slot) {
                self.known.remove(&old);
            }
        }
        self.known.insert(key, slot);
    }
}

/// How long repetitions are gathered.
const GATHER: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, message: &str) -> Event {
        let name = name.to_owned();
        let object = ObjectRef { kind: "Group".into(), namespace: "default".into(), name };
        Event { object, kind: EventKind::Normal, reason: "GroupReady", message: message.into() }
    }

    const NOW: Duration = Duration::from_secs(1000);

    #[test]
    fn the_same_thing_is_counted_and_written_seldom() {
        let mut journal = Journal::new(10);
        journal.tell(NOW, event("a", "x"));
        assert_eq!(journal.due(NOW).len(), 1);
        for second in 1..=5 {
            journal.tell(NOW + Duration::from_secs(second), event("a", "x"));
        }
        assert!(journal.due(NOW + Duration::from_secs(5)).is_empty());
        let [(0, record)] = &journal.due(NOW + GATHER)[..] else { panic!("one record at 0") };
        assert_eq!((record.count, record.first, record.last), (6, 1000, 1005));
        assert!(journal.due(NOW + GATHER * 2).is_empty());
    }

    #[test]
    fn the_oldest_gives_way() {
        let mut journal = Journal::new(3);
        for name in ["a", "b", "c", "d"] {
            journal.tell(NOW, event(name, "x"));
        }
        let written = journal.due(NOW);
        let names: Vec<_> = written.iter().map(|(slot, e)| (*slot, &e.object.name[..])).collect();
        assert_eq!(names, [(0, "d"), (1, "b"), (2, "c")]);
        journal.tell(NOW, event("a", "x"));
        assert_eq!(journal.due(NOW)[0].0, 1, "a was forgotten and is new");
    }

    #[test]
    fn another_controller_goes_on_behind_the_last() {
        let mut first = Journal::new(5);
        for (second, name) in (0..).zip(["a", "b"]) {
            first.tell(NOW + Duration::from_secs(second), event(name, "x"));
        }
        let mut second = Journal::new(5);
        for (slot, record) in first.due(NOW) {
            second.recall(slot, record);
        }
        second.tell(NOW, event("c", "x"));
        second.tell(NOW + GATHER * 2, event("a", "x"));
        let written = second.due(NOW + GATHER * 2);
        let told: Vec<_> = written.iter().map(|(slot, e)| (*slot, e.count)).collect();
        assert_eq!(told, [(0, 2), (2, 1)]);
    }
}
