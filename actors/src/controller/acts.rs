//! Effects as transactions: each names the controller that is in office and the life of the store
//! that everything was read in, so a controller that has lost either writes nothing.
//!
//! Many writes go together: etcd takes 128 operations at a time, and a plan for a whole cluster
//! should not take a round trip for each group. A transaction may not name a key twice, so one that
//! is written and then deleted begins a new one.

use std::collections::{BTreeMap, BTreeSet};

use troupe_runtime::{
    discovery::{Compare, Incarnation, Op, Txn, directory, keys::Keys},
    id::{EndpointId, NodeId},
};

use super::plan::ControllerEffect;

/// What is not a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Try to reach this host, here.
    Probe(NodeId, String),
    /// Find out about the model of this URI.
    Model(String),
    /// Follow the load of these endpoints, by where they are reached, and of no others.
    Follow(BTreeMap<EndpointId, String>),
    /// Watch over the controller that stands so under the election key and is reached here, and
    /// over no other; over none if not given.
    WatchOver(Option<(Vec<u8>, String)>),
    /// Keep a connection to these hosts, and to no others.
    Attend(BTreeMap<NodeId, String>),
}

/// What effects mean.
#[derive(Debug, Default)]
pub struct Acts {
    /// One after the other, up to the first that is not done.
    pub writes: Vec<Txn>,
    /// In any order.
    pub errands: Vec<Errand>,
}

impl Acts {
    /// What these effects mean, in transactions that hold in this life and while this is in office.
    pub(super) fn of(
        keys: &Keys,
        life: &Incarnation,
        office: Compare,
        effects: Vec<ControllerEffect>,
    ) -> Self {
        let compare = [life.compare(), office];
        let mut acts = Self::default();
        let mut ops = Vec::new();
        let (mut named, mut bytes) = (BTreeSet::new(), 0);
        for effect in effects {
            note(&effect);
            let op = match op(keys, life, effect) {
                Ok(op) => op,
                Err(errand) => {
                    acts.errands.push(errand);
                    continue;
                }
            };
            let (key, size) = match &op {
                Op::Put(key, value) => (key.clone(), value.len()),
                Op::Delete(key) => (key.clone(), 0),
            };
            let full = ops.len() + compare.len() >= MOST_OPERATIONS || bytes + size > MOST_BYTES;
            if !ops.is_empty() && (full || named.contains(&key)) {
                let then = std::mem::take(&mut ops);
                acts.writes.push(Txn { compare: compare.to_vec(), then });
                named.clear();
                bytes = 0;
            }
            named.insert(key);
            bytes += size;
            ops.push(op);
        }
        if !ops.is_empty() {
            acts.writes.push(Txn { compare: compare.to_vec(), then: ops });
        }
        acts
    }
}

fn op(keys: &Keys, life: &Incarnation, effect: ControllerEffect) -> Result<Op, Errand> {
    use ControllerEffect as E;
    Ok(match effect {
        E::PutGroup(record) => Op::Put(keys.group(&record.group), directory::to_bytes(record)),
        E::DeleteGroup(group) => Op::Delete(keys.group(&group)),
        E::PutServiceStatus(of, status) => {
            Op::Put(keys.service_status(&of.namespace, &of.name), directory::to_bytes(status))
        }
        E::DeleteServiceStatus(of) => Op::Delete(keys.service_status(&of.namespace, &of.name)),
        E::PutRevision(of, record) => {
            let key = keys.revision(&of.namespace, &of.name, record.number);
            Op::Put(key, directory::to_bytes(record))
        }
        E::DeleteRevision(of, number) => Op::Delete(keys.revision(&of.namespace, &of.name, number)),
        E::PutEvent(slot, record) => Op::Put(keys.event(slot), directory::to_bytes(record)),
        E::Settle => life.mark(keys.settled()),
        E::Probe(node, address) => return Err(Errand::Probe(node, address)),
        E::AskModel(uri) => return Err(Errand::Model(uri)),
        E::Follow(endpoints) => return Err(Errand::Follow(endpoints)),
        E::Attend(hosts) => return Err(Errand::Attend(hosts)),
    })
}

/// What an operator wants to see in the log.
fn note(effect: &ControllerEffect) {
    match effect {
        ControllerEffect::PutGroup(record) => {
            let (epoch, members) = (record.epoch, record.members.len());
            let drain = record.drain.is_some();
            tracing::info!(group = %record.group, %epoch, members, drain, "plan group");
        }
        ControllerEffect::DeleteGroup(group) => tracing::info!(%group, "end group"),
        ControllerEffect::PutServiceStatus(service, status) => {
            let (ready, replicas, message) = (status.ready, status.replicas, &status.message);
            tracing::info!(%service, ready, replicas, message, "service");
        }
        ControllerEffect::PutEvent(_, event) if event.object.kind == "Node" => {
            let (host, reason, what) = (&event.object.name, &event.reason, &event.message);
            tracing::info!(host, reason, what, "of a host");
        }
        _ => {}
    }
}

/// Operations and comparisons of one transaction; etcd takes 128 of each.
const MOST_OPERATIONS: usize = 100;
/// Bytes of one transaction; etcd takes 1.5 MiB.
const MOST_BYTES: usize = 512 << 10;

#[cfg(test)]
mod tests {
    use troupe_runtime::{discovery::Entry, id::GroupId};

    use super::*;

    fn delete(index: u32) -> ControllerEffect {
        let group = GroupId { namespace: "default".into(), service: "s".into(), index };
        ControllerEffect::DeleteGroup(group)
    }

    fn life() -> Incarnation {
        Incarnation::of(Entry { key: "incarnation".into(), value: b"this".to_vec(), version: 1 })
    }

    fn sizes(effects: Vec<ControllerEffect>) -> Vec<usize> {
        let (life, office) = (life(), Compare::Absent("y".into()));
        let compare = [life.compare(), office.clone()];
        let acts = Acts::of(&Keys::new("test"), &life, office, effects);
        assert!(acts.writes.iter().all(|txn| txn.compare == compare));
        acts.writes.iter().map(|txn| txn.then.len()).collect()
    }

    #[test]
    fn transactions_are_as_large_as_may_be_and_name_a_key_once() {
        assert_eq!(sizes(vec![]), [0; 0]);
        assert_eq!(sizes((0..250).map(delete).collect()), [98, 98, 54]);
        assert_eq!(sizes(vec![delete(0), delete(1), delete(0), delete(2)]), [2, 2]);
    }

    #[test]
    fn errands_are_no_writes() {
        let probe = ControllerEffect::Probe(NodeId::default(), "quic://h:1".into());
        let office = Compare::Absent("y".into());
        let acts = Acts::of(&Keys::new("test"), &life(), office, vec![probe, delete(0)]);
        assert_eq!((acts.writes.len(), acts.errands.len()), (1, 1));
    }
}
