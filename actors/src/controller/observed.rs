//! From what the store's watch tells to what the planner observes.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use troupe_runtime::{
    discovery::{
        Incarnation, WatchEvent,
        declared::Declared,
        directory::{
            self, CordonRecord, GatewayRecord, GroupRecord, NodeLabelsRecord, NodeRecord,
            NodeStatus,
        },
        keys::Keys,
    },
    id::NodeId,
};

use super::{
    desired::{self, ServiceName},
    plan::ControllerEvent,
    service::Problem,
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
    Node(NodeRecord),
    Labels(NodeLabelsRecord),
    Group(GroupRecord),
    Service(ServiceName),
    Cordon(NodeId),
    Gateway(NodeId),
    Revision(ServiceName, u64),
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
            _ => None,
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
            Known::Node(record) => ControllerEvent::NodeGone(record.id),
            Known::Labels(labels) => return self.host(labels.node),
            Known::Group(record) => ControllerEvent::GroupGone(record.group),
            Known::Service(name) => ControllerEvent::Undeclared(name),
            Known::Cordon(node) => ControllerEvent::CordonGone(node),
            Known::Gateway(gateway) => ControllerEvent::GatewayGone(gateway),
            Known::Revision(name, number) => ControllerEvent::RevisionGone(name, number),
        })
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<Option<ControllerEvent>, String> {
        let keys = &self.keys;
        let under = |prefix: String| key.strip_prefix(&prefix);
        let (known, event) = if under(keys.nodes()).is_some() {
            let record: NodeRecord = read(key, value)?;
            let id = record.id;
            self.known.insert(key.into(), Known::Node(record));
            return Ok(self.host(id));
        } else if under(keys.all_node_labels()).is_some() {
            let labels: NodeLabelsRecord = read(key, value)?;
            let id = labels.node;
            self.known.insert(key.into(), Known::Labels(labels));
            return Ok(self.host(id));
        } else if under(keys.node_statuses()).is_some() {
            let status: NodeStatus = read(key, value)?;
            (None, ControllerEvent::StatusPut(status))
        } else if under(keys.groups()).is_some() {
            let record: GroupRecord = read(key, value)?;
            (Some(Known::Group(record.clone())), ControllerEvent::GroupPut(record))
        } else if let Some(name) = under(keys.specs(desired::KIND)) {
            if Declared::of(value).is_some_and(|declared| declared.deleted) {
                return Ok(self.forget(key));
            }
            let (name, _) = service_of(name)?;
            (Some(Known::Service(name.clone())), declared(name, value))
        } else if under(keys.cordons()).is_some() {
            let record: CordonRecord = read(key, value)?;
            (Some(Known::Cordon(record.node)), ControllerEvent::CordonPut(record))
        } else if under(keys.gateways()).is_some() {
            let record: GatewayRecord = read(key, value)?;
            (Some(Known::Gateway(record.id)), ControllerEvent::GatewayPut(record))
        } else if let Some(rest) = under(keys.all_revisions()) {
            let (name, number) = service_of(rest)?;
            let number = number.parse().map_err(|_| format!("{number} is no revision"))?;
            let known = Known::Revision(name.clone(), number);
            (Some(known), ControllerEvent::RevisionPut(name, read(key, value)?))
        } else if let Some(rest) = under(keys.service_statuses()) {
            let (name, _) = service_of(rest)?;
            (None, ControllerEvent::StatusStored(name, read(key, value)?))
        } else if let Some(slot) = under(keys.events()) {
            let slot = slot.parse().map_err(|_| format!("{slot} is no place in the ring"))?;
            (None, ControllerEvent::EventStored(slot, read(key, value)?))
        } else {
            return Ok(None);
        };
        if let Some(known) = known {
            self.known.insert(key.into(), known);
        }
        Ok(Some(event))
    }

    /// A host with the labels that people gave it; none if it is not there.
    fn host(&self, id: NodeId) -> Option<ControllerEvent> {
        let Some(Known::Node(record)) = self.known.get(&self.keys.node(id)) else { return None };
        let changed = match self.known.get(&self.keys.node_labels(id)) {
            Some(Known::Labels(labels)) => Some(labels),
            _ => None,
        };
        let labels = record.labels_with(changed);
        Some(ControllerEvent::NodePut(NodeRecord { labels, ..record.clone() }))
    }
}

fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, String> {
    directory::from_bytes(key, value).map_err(|error| troupe_runtime::error::chain(&error))
}

/// `<namespace>/<name>` at the end of a key, and what is behind it.
fn service_of(rest: &str) -> Result<(ServiceName, &str), String> {
    let (namespace, rest) =
        rest.split_once('/').ok_or_else(|| format!("{rest} names no service"))?;
    let (name, rest) = rest.split_once('/').unwrap_or((rest, ""));
    Ok((ServiceName { namespace: namespace.into(), name: name.into() }, rest))
}

/// A service, or what is wrong with its declaration.
fn declared(name: ServiceName, value: &[u8]) -> ControllerEvent {
    match desired::from_stored(value) {
        Ok(desired) if desired.name == name => ControllerEvent::Declared(desired),
        Ok(desired) => {
            let message = format!("it is stored as {name} and says that it is {}", desired.name);
            senseless(name, value, message)
        }
        Err(message) => senseless(name, value, message),
    }
}

fn senseless(name: ServiceName, value: &[u8], message: String) -> ControllerEvent {
    let generation = Declared::of(value).map_or(0, |declared| declared.generation);
    let reason = "InvalidSpec".to_owned();
    ControllerEvent::Senseless(name, Problem { generation, reason, message })
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
    fn a_host_has_the_labels_that_people_gave_it() {
        let keys = Keys::new("test");
        let mut observed = Observed::new(keys.clone());
        let id = NodeId(uuid::Uuid::from_u128(1));
        let host = NodeRecord {
            id,
            name: "n1".into(),
            process: uuid::Uuid::nil(),
            devices: 1,
            device_kind: "cpu".into(),
            version: "0.1.0".into(),
            wire: 1,
            labels: BTreeMap::from([("zone".into(), "a".into())]),
            device_memory: 0,
            address: None,
            leaving: false,
        };
        let given = NodeLabelsRecord {
            node: id,
            set: BTreeMap::from([("team".into(), "x".into())]),
            removed: ["zone".to_owned()].into(),
        };
        let labels = |seen: Seen| match seen {
            Seen::Event(ControllerEvent::NodePut(record)) => {
                record.labels.into_keys().collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        };
        // In whichever order the store tells them.
        let words = put(keys.node_labels(id), directory::to_bytes(given));
        assert!(matches!(observed.see(words.clone()), Seen::Nothing));
        let seen = observed.see(put(keys.node(id), directory::to_bytes(host)));
        assert_eq!(labels(seen), ["team"]);
        let seen = observed.see(WatchEvent::Delete(keys.node_labels(id)));
        assert_eq!(labels(seen), ["zone"]);
        assert_eq!(labels(observed.see(words)), ["team"]);
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
