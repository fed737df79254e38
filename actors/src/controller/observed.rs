//! From what the store's watch tells to what the planner observes.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use troupe_runtime::{
    discovery::{
        Incarnation, WatchEvent,
        declared::Declared,
        directory::{
            self, CordonRecord, DemandRecord, EndpointRecord, GatewayRecord, GroupRecord,
            NodeLabelsRecord, NodeRecord, NodeStatus,
        },
        keys::Keys,
    },
    id::{EndpointId, NodeId},
    spec::Kind,
};

use super::{
    declared::{Declarations, KINDS},
    desired::ServiceName,
    plan::ControllerEvent,
};

/// What the store said.
pub(super) struct Observed {
    keys: Keys,
    /// Under each key, to know what a deletion means.
    known: BTreeMap<String, Known>,
    /// What is declared.
    declarations: Declarations,
    /// The life of the store that all this was read in; none while the store has none.
    life: Option<Incarnation>,
    /// Of which life hosts are known to have reported.
    settled: Vec<u8>,
    /// What stands under the election key.
    elected: Option<Vec<u8>>,
}

#[derive(Debug)]
enum Known {
    Node(NodeRecord),
    Labels(NodeLabelsRecord),
    Group(GroupRecord),
    Declared(Kind, ServiceName),
    Cordon(NodeId),
    Gateway(NodeId),
    Revision(ServiceName, u64),
    Endpoint(EndpointId),
    Demand(ServiceName, NodeId),
}

/// What became of one event of the watch.
#[derive(Debug)]
pub(super) enum Seen {
    /// The planner is to know this; nothing if it is none of its business.
    Events(Vec<ControllerEvent>),
    /// The store has another incarnation than before, or has lost it.
    OtherLife,
}

// === impl Observed ===

impl Observed {
    pub(super) fn new(keys: Keys) -> Self {
        let declarations = Declarations::default();
        let (known, life, settled, elected) = (BTreeMap::new(), None, Vec::new(), None);
        Self { keys, known, declarations, life, settled, elected }
    }

    /// The life of the store that everything was read in.
    pub(super) fn life(&self) -> Option<&Incarnation> {
        self.life.as_ref()
    }

    /// Whether hosts have reported in this life of the store.
    pub(super) fn is_settled(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.marked(&self.settled))
    }

    /// Whether this one was elected, and the store has told everything that was written before.
    pub(super) fn knows_election_of(&self, identity: &[u8]) -> bool {
        self.elected.as_deref() == Some(identity)
    }

    /// Who was elected, as was told last.
    pub(super) fn elected(&self) -> Option<&[u8]> {
        self.elected.as_deref()
    }

    /// Whether nobody stands under the election key.
    pub(super) fn is_vacant(&self) -> bool {
        self.elected.is_none()
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
            WatchEvent::Put(entry) if entry.key == self.keys.settled() => {
                self.settled = entry.value;
                Seen::Events(Vec::new())
            }
            WatchEvent::Put(entry) if entry.key == self.keys.election() => {
                self.elected = Some(entry.value);
                Seen::Events(Vec::new())
            }
            WatchEvent::Delete(key) if key == self.keys.election() => {
                self.elected = None;
                Seen::Events(Vec::new())
            }
            WatchEvent::Put(entry) => {
                let events = self.put(&entry.key, &entry.value);
                Seen::Events(events.unwrap_or_else(|error| left_out(&entry.key, &error)))
            }
            WatchEvent::Delete(key) => Seen::Events(self.forget(&key)),
            WatchEvent::Synced => {
                let mut events = self.declarations.complete();
                events.push(ControllerEvent::Synced);
                Seen::Events(events)
            }
            // Its incarnation, which is watched too, says what to make of it.
            WatchEvent::Rewound => Seen::Events(Vec::new()),
            WatchEvent::Disconnected(why) => {
                tracing::warn!(why, "the store does not answer: nothing is changed meanwhile");
                Seen::Events(Vec::new())
            }
        }
    }

    fn enter(&mut self, life: Option<Incarnation>) -> Seen {
        if self.life == life {
            return Seen::Events(Vec::new());
        }
        self.life = life;
        Seen::OtherLife
    }

    fn forget(&mut self, key: &str) -> Vec<ControllerEvent> {
        let Some(known) = self.known.remove(key) else { return Vec::new() };
        vec![match known {
            Known::Node(record) => ControllerEvent::NodeGone(record.id),
            Known::Labels(labels) => return self.host(labels.node),
            Known::Group(record) => ControllerEvent::GroupGone(record.group),
            Known::Declared(kind, name) => return self.declarations.gone(kind, &name),
            Known::Cordon(node) => ControllerEvent::CordonGone(node),
            Known::Gateway(gateway) => ControllerEvent::GatewayGone(gateway),
            Known::Revision(name, number) => ControllerEvent::RevisionGone(name, number),
            Known::Endpoint(endpoint) => ControllerEvent::EndpointGone(endpoint),
            Known::Demand(name, gateway) => ControllerEvent::DemandGone(name, gateway),
        }]
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<Vec<ControllerEvent>, String> {
        let keys = &self.keys;
        let kind = KINDS.into_iter().find(|kind| key.starts_with(&keys.specs(kind.name())));
        if let Some(kind) = kind {
            return self.declared(kind, key, value);
        }
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
        } else if under(keys.cordons()).is_some() {
            let record: CordonRecord = read(key, value)?;
            (Some(Known::Cordon(record.node)), ControllerEvent::CordonPut(record))
        } else if under(keys.gateways()).is_some() {
            let record: GatewayRecord = read(key, value)?;
            (Some(Known::Gateway(record.id)), ControllerEvent::GatewayPut(record))
        } else if under(keys.endpoints()).is_some() {
            let record: EndpointRecord = read(key, value)?;
            let endpoint = record.info.endpoint;
            let event = ControllerEvent::EndpointPut(endpoint.clone(), record.address);
            (Some(Known::Endpoint(endpoint)), event)
        } else if let Some(rest) = under(keys.all_demand()) {
            let (name, gateway) = service_of(rest)?;
            let gateway = NodeId(gateway.parse().map_err(|_| format!("{gateway} is no gateway"))?);
            let DemandRecord { held } = read(key, value)?;
            let known = Known::Demand(name.clone(), gateway);
            (Some(known), ControllerEvent::DemandPut(name, gateway, held))
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
            return Ok(Vec::new());
        };
        if let Some(known) = known {
            self.known.insert(key.into(), known);
        }
        Ok(vec![event])
    }

    /// An object that somebody declared, or that it was deleted.
    fn declared(
        &mut self,
        kind: Kind,
        key: &str,
        value: &[u8],
    ) -> Result<Vec<ControllerEvent>, String> {
        if Declared::of(value).is_some_and(|declared| declared.deleted) {
            return Ok(self.forget(key));
        }
        let rest = key.strip_prefix(&self.keys.specs(kind.name())).unwrap_or_default();
        let (name, _) = service_of(rest)?;
        self.known.insert(key.into(), Known::Declared(kind, name.clone()));
        let (events, wrong) = self.declarations.put(kind, &name, value);
        if let Some(error) = wrong {
            left_out(key, &error);
        }
        Ok(events)
    }

    /// A host with the labels that people gave it; nothing if it is not there.
    fn host(&self, id: NodeId) -> Vec<ControllerEvent> {
        let Some(Known::Node(record)) = self.known.get(&self.keys.node(id)) else {
            return Vec::new();
        };
        let changed = match self.known.get(&self.keys.node_labels(id)) {
            Some(Known::Labels(labels)) => Some(labels),
            _ => None,
        };
        let labels = record.labels_with(changed);
        vec![ControllerEvent::NodePut(NodeRecord { labels, ..record.clone() })]
    }
}

fn left_out(key: &str, error: &str) -> Vec<ControllerEvent> {
    tracing::error!(key, error, "a record is left out");
    Vec::new()
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

#[cfg(test)]
mod tests {
    use troupe_runtime::discovery::{Entry, declared};

    use super::*;
    use crate::controller::desired;

    fn put(key: String, value: Vec<u8>) -> WatchEvent {
        WatchEvent::Put(Entry { key, value, version: 1 })
    }

    #[test]
    fn another_incarnation_is_told_once_and_so_is_none() {
        let keys = Keys::new("test");
        let mut observed = Observed::new(keys.clone());
        let life = |value: &str| put(keys.incarnation(), value.into());
        assert!(matches!(observed.see(life("one")), Seen::OtherLife));
        assert!(matches!(observed.see(life("one")), Seen::Events(none) if none.is_empty()));
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
            Seen::Events(events) => match &events[..] {
                [ControllerEvent::NodePut(record)] => {
                    record.labels.keys().cloned().collect::<Vec<_>>()
                }
                other => panic!("{other:?}"),
            },
            Seen::OtherLife => panic!("the same life"),
        };
        // In whichever order the store tells them.
        let words = put(keys.node_labels(id), directory::to_bytes(given));
        assert!(matches!(observed.see(words.clone()), Seen::Events(none) if none.is_empty()));
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
        assert!(matches!(observed.see(tombstone()), Seen::Events(none) if none.is_empty()));
        let launch = desired::launch("file:///m".into(), "m".into(), Default::default());
        let document = desired::declare("s", 1, &launch).to_string().into_bytes();
        observed.see(WatchEvent::Synced);
        let told = |seen: Seen| match seen {
            Seen::Events(events) => events.into_iter().next(),
            Seen::OtherLife => None,
        };
        let seen = told(observed.see(put(key.clone(), document)));
        assert!(matches!(seen, Some(ControllerEvent::Declared(_))), "{seen:?}");
        let seen = told(observed.see(tombstone()));
        assert!(matches!(seen, Some(ControllerEvent::Undeclared(..))), "{seen:?}");
    }
}
