//! Nobody goes back: what has seen an incarnation of a group has nothing to do with older ones.
//!
//! A host starts no member of an epoch below the highest that its node has seen, and ends those
//! that it has as soon as it sees a higher one. A leader executes only what is meant for its own
//! incarnation. A gateway sends nothing to an incarnation when it has believed in a later one. And
//! the store never holds an older one after a newer, but when it has lost its memory.

use std::collections::{BTreeMap, BTreeSet};

use troupe_actors::node::core::MemberKey;
use troupe_runtime::{
    discovery::{
        WatchEvent,
        directory::{self, GroupRecord, MemberState, NodeStatus},
        keys::Keys,
    },
    id::{EndpointId, Epoch, GroupId},
};

use super::Complaints;
use crate::simulation::world::{HostId, Pid};

/// See the file.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    /// The highest that each host has seen.
    hosts: BTreeMap<(HostId, GroupId), u64>,
    /// Members that were told to end.
    ended: BTreeSet<(HostId, MemberKey)>,
    /// The highest that each gateway has believed in.
    gateways: BTreeMap<(Pid, GroupId), u64>,
    /// The newest that the store has held.
    store: BTreeMap<GroupId, Epoch>,
    /// How many were planned.
    pub(crate) planned: u64,
    pub(super) complaints: Complaints,
}

// === impl Epochs ===

impl Epochs {
    /// A host's node sees this incarnation.
    pub(crate) fn seen(&mut self, host: HostId, group: &GroupId, epoch: Epoch) {
        let highest = self.hosts.entry((host, group.clone())).or_default();
        *highest = epoch.number.max(*highest);
    }

    /// It starts a member.
    pub(crate) fn started(&mut self, host: HostId, key: &MemberKey) {
        let highest = self.hosts.get(&(host, key.group.clone())).copied().unwrap_or_default();
        if key.epoch.number < highest {
            let epoch = key.epoch.number;
            self.complaints.note(format!("epoch {epoch} is started, {highest} was seen there"));
        }
    }

    /// It tells a member to end.
    pub(crate) fn ended(&mut self, host: HostId, key: &MemberKey) {
        self.ended.insert((host, key.clone()));
    }

    /// It is through with an event, and has these members.
    pub(crate) fn settled(&mut self, host: HostId, status: &NodeStatus) {
        for member in &status.members {
            let (group, epoch) = (member.group.clone(), member.epoch);
            let alive = !matches!(member.state, MemberState::Exited(_));
            let highest = self.hosts.get(&(host, group.clone())).copied().unwrap_or_default();
            let key = MemberKey { group, epoch, member: member.member };
            if alive && epoch.number < highest && !self.ended.contains(&(host, key)) {
                let old = epoch.number;
                self.complaints.note(format!("epoch {old} goes on where {highest} was seen"));
            }
        }
    }

    /// A leader has taken a request that was meant for this endpoint.
    pub(crate) fn accepted(&mut self, meant: &EndpointId, own: &EndpointId) {
        if meant != own {
            self.complaints.note("a leader takes what is meant for another incarnation".into());
        }
    }

    /// Somebody of another incarnation has ended one.
    pub(crate) fn ended_by_stranger(&mut self) {
        self.complaints.note("an incarnation is ended by a member of another one".into());
    }

    /// A gateway believes in an endpoint.
    pub(crate) fn believed(&mut self, gateway: Pid, endpoint: &EndpointId) {
        let highest = self.gateways.entry((gateway, endpoint.group.clone())).or_default();
        *highest = endpoint.epoch.number.max(*highest);
    }

    /// It sends a request to one.
    pub(crate) fn sent(&mut self, gateway: Pid, endpoint: &EndpointId) {
        let known = self.gateways.get(&(gateway, endpoint.group.clone()));
        let highest = known.copied().unwrap_or_default();
        if endpoint.epoch.number < highest {
            let epoch = endpoint.epoch.number;
            self.complaints.note(format!("a gateway sends to epoch {epoch}, it knows {highest}"));
        }
    }

    /// The store has changed.
    pub(crate) fn stored(&mut self, keys: &Keys, event: &WatchEvent) {
        let WatchEvent::Put(entry) = event else { return };
        if !entry.key.starts_with(&keys.groups()) {
            return;
        }
        let read = directory::from_bytes::<GroupRecord>(&entry.key, &entry.value);
        let Ok(GroupRecord { group, epoch, .. }) = read else {
            return self.complaints.note(format!("{} cannot be read", entry.key));
        };
        let before = self.store.insert(group, epoch);
        self.planned += u64::from(before != Some(epoch));
        let back = before.is_some_and(|before| {
            epoch.number < before.number
                || (epoch.number == before.number && epoch.nonce != before.nonce)
        });
        if back {
            self.complaints.note(format!("the store goes from {before:?} back to {epoch:?}"));
        }
    }

    /// The store has lost its memory.
    pub(crate) fn store_rewound(&mut self) {
        self.store.clear();
    }
}
