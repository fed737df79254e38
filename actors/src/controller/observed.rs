//! From what the store's watch tells to what the planner observes.

use std::collections::BTreeMap;

use troupe_runtime::{
    discovery::{
        Incarnation, WatchEvent,
        declared::Declared,
        directory::{self, GroupRecord, NodeRecord, NodeStatus},
        keys::Keys,
    },
    id::NodeId,
};

use super::{
    desired::{self, Desired},
    plan::ControllerEvent,
};

/// What the store said.
pub(super) struct Observed {
    keys: Keys,
    /// Under each key, to know what a deletion means.
    known: BTreeMap<String, Known>,
    /// The life of the store that all this was read in; none while the store has none.
    life: Option<Incarnation>,
}

#[derive(Debug)]
enum Known {
    Node(NodeId),
    Group(GroupRecord),
    Service(String, String),
}

/// What became of one event of the watch.
#[derive(Debug)]
pub(super) enum Seen {
    /// It is none of the controller's business.
    Nothing,
    /// The planner is to know.
    Event(ControllerEvent),
    /// The store has another incarnation than before, or has lost it.
    OtherLife,
}

// === impl Observed ===

impl Observed {
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys, known: BTreeMap::new(), life: None }
    }

    /// The life of the store that everything was read in.
    pub(super) fn life(&self) -> Option<&Incarnation> {
        self.life.as_ref()
    }

    /// The groups that the store holds.
    pub(super) fn groups(&self) -> Vec<GroupRecord> {
        let records = self.known.values().filter_map(|known| match known {
            Known::Group(record) => Some(record.clone()),
            Known::Node(_) | Known::Service(..) => None,
        });
        records.collect()
    }

    pub(super) fn see(&mut self, event: WatchEvent) -> Seen {
        let incarnation = self.keys.incarnation();
        match event {
            WatchEvent::Put(entry) if entry.key == incarnation => {
                self.enter(Some(Incarnation::of(entry)))
            }
            WatchEvent::Delete(key) if key == incarnation => self.enter(None),
            WatchEvent::Put(entry) => match self.put(&entry.key, &entry.value) {
                Ok(event) => event.map_or(Seen::Nothing, Seen::Event),
                Err(error) => {
                    tracing::error!(key = entry.key, error, "a record is left out");
                    Seen::Nothing
                }
            },
            WatchEvent::Delete(key) => self.forget(&key).map_or(Seen::Nothing, Seen::Event),
            WatchEvent::Synced => Seen::Event(ControllerEvent::Synced),
            // Its incarnation, which is watched too, says what to make of it.
            WatchEvent::Rewound => Seen::Nothing,
            WatchEvent::Disconnected(why) => {
                tracing::warn!(why, "the store does not answer: nothing is changed meanwhile");
                Seen::Nothing
            }
        }
    }

    fn enter(&mut self, life: Option<Incarnation>) -> Seen {
        if self.life == life {
            return Seen::Nothing;
        }
        self.life = life;
        Seen::OtherLife
    }

    fn forget(&mut self, key: &str) -> Option<ControllerEvent> {
        Some(match self.known.remove(key)? {
            Known::Node(node) => ControllerEvent::NodeGone(node),
            Known::Group(record) => ControllerEvent::GroupGone(record.group),
            Known::Service(namespace, name) => ControllerEvent::Undeclared(namespace, name),
        })
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<Option<ControllerEvent>, String> {
        let keys = &self.keys;
        let text = |error: directory::RecordError| troupe_runtime::error::chain(&error);
        let event = if key.starts_with(&keys.nodes()) {
            let record: NodeRecord = directory::from_bytes(key, value).map_err(text)?;
            self.known.insert(key.into(), Known::Node(record.id));
            ControllerEvent::NodePut(record)
        } else if key.starts_with(&keys.node_statuses()) {
            let status: NodeStatus = directory::from_bytes(key, value).map_err(text)?;
            ControllerEvent::StatusPut(status)
        } else if key.starts_with(&keys.groups()) {
            let record: GroupRecord = directory::from_bytes(key, value).map_err(text)?;
            self.known.insert(key.into(), Known::Group(record.clone()));
            ControllerEvent::GroupPut(record)
        } else if key.starts_with(&keys.specs(desired::KIND)) {
            if Declared::of(value).is_some_and(|declared| declared.deleted) {
                return Ok(self.forget(key));
            }
            let declared: Desired = desired::from_stored(value)?;
            let name = (declared.namespace.clone(), declared.name.clone());
            self.known.insert(key.into(), Known::Service(name.0, name.1));
            ControllerEvent::Declared(declared)
        } else {
            return Ok(None);
        };
        Ok(Some(event))
    }
}

#[cfg(test)]
mod tests {
    use troupe_runtime::discovery::{Entry, declared};

    use super::*;

    fn put(key: String, value: Vec<u8>) -> WatchEvent {
        WatchEvent::Put(Entry { key, value, version: 1 })
    }

    #[test]
    fn another_incarnation_is_told_once_and_so_is_none() {
        let keys = Keys::new("test");
        let mut observed = Observed::new(keys.clone());
        let life = |value: &str| put(keys.incarnation(), value.into());
        assert!(matches!(observed.see(life("one")), Seen::OtherLife));
        assert!(matches!(observed.see(life("one")), Seen::Nothing));
        assert_eq!(observed.life().map(|life| life.id().into_owned()), Some("one".into()));
        assert!(matches!(observed.see(life("two")), Seen::OtherLife));
        assert!(matches!(observed.see(WatchEvent::Delete(keys.incarnation())), Seen::OtherLife));
        assert_eq!(observed.life(), None);
    }

    #[test]
    fn a_service_that_became_a_tombstone_is_no_longer_declared() {
        let keys = Keys::new("test");
        let mut observed = Observed::new(keys.clone());
        let key = keys.spec(desired::KIND, "default", "s");
        let tombstone = || put(key.clone(), declared::tombstone(2));
        assert!(matches!(observed.see(tombstone()), Seen::Nothing));
        let launch = desired::launch("file:///m".into(), "m".into(), Default::default());
        let document = desired::declare("s", 1, &launch).to_string().into_bytes();
        let seen = observed.see(put(key.clone(), document));
        assert!(matches!(seen, Seen::Event(ControllerEvent::Declared(_))), "{seen:?}");
        let seen = observed.see(tombstone());
        assert!(matches!(seen, Seen::Event(ControllerEvent::Undeclared(..))), "{seen:?}");
    }
}
