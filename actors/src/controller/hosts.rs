//! The hosts as the controller knows them: which are there, what runs on each, what is planned on
//! each, and which of them may be planned on.
//!
//! What a host has free is counted from the groups that are planned on it, as they are planned and
//! given up, so asking costs nothing however many groups there are. A host that has lost its lease
//! is planned on by nobody, but what is planned on it stays until it is given up: that takes one
//! more lease time in which it cannot be reached either. If more than a third of all vanish
//! together it is the store or the network that is ill, and of those only hosts that were tried and
//! not reached are given up, however few of them are left.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use troupe_runtime::{
    discovery::directory::{
        CordonRecord, GroupRecord, MemberState, MemberStatus, NodeRecord, NodeStatus,
    },
    id::{GroupId, NodeId},
};

/// All hosts.
#[derive(Clone, Debug)]
pub(super) struct Hosts {
    /// The newest version of the wire that this controller's cluster speaks.
    wire: u32,
    hosts: BTreeMap<NodeId, Host>,
    statuses: BTreeMap<NodeId, NodeStatus>,
    cordons: BTreeMap<NodeId, CordonRecord>,
    /// Hosts without a lease.
    lost: BTreeMap<NodeId, Loss>,
    /// What is planned on hosts, known or not.
    planned: BTreeMap<NodeId, Planned>,
    /// Hosts by the devices that they have free.
    by_free: BTreeSet<(u32, NodeId)>,
    /// Zones of all hosts that there ever were.
    zones: BTreeSet<u32>,
    /// Domains (label and value) that a group wants for itself alone.
    claims: BTreeMap<(String, String), GroupId>,
    /// Numbers of zones and racks. As many as there ever were.
    places: BTreeMap<String, u32>,
    /// Grows whenever a group may fit that did not fit before.
    capacity: u64,
}

/// A host.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) record: NodeRecord,
    /// Why nothing may be planned on it.
    pub(super) closed: Option<Closed>,
    /// Devices that no group is planned on.
    pub(super) free: u32,
    /// Its zone; 0 if it says none. Equal for hosts of one zone.
    pub(super) zone: u32,
    /// Its rack in its zone, likewise.
    pub(super) rack: u32,
}

/// Why nothing may be planned on a host, whatever is to be planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Closed {
    /// It has no lease.
    Lost,
    /// A person said so.
    Cordoned,
    /// It ends when what runs there is done.
    Leaving,
    /// It could not speak with the others.
    Wire,
}

/// What became of what is planned on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostChange {
    /// Nothing that matters to anybody.
    None,
    /// It is there again, or was changed, or is there for the first time.
    Here,
    /// Its process is another one: what ran there is over.
    Restarted,
}

#[derive(Clone, Debug, Default)]
struct Planned {
    devices: u32,
    groups: BTreeSet<GroupId>,
}

#[derive(Clone, Copy, Debug)]
struct Loss {
    since: Duration,
    /// When it was last asked for, and whether it was reached after that.
    probed: Option<Duration>,
    reached: Option<bool>,
    /// It vanished together with many others: it is not given up before it was tried.
    together: bool,
}

// === impl Hosts ===

impl Hosts {
    pub(super) fn new(wire: u32) -> Self {
        Self {
            wire,
            hosts: BTreeMap::new(),
            statuses: BTreeMap::new(),
            cordons: BTreeMap::new(),
            lost: BTreeMap::new(),
            planned: BTreeMap::new(),
            by_free: BTreeSet::new(),
            zones: BTreeSet::new(),
            claims: BTreeMap::new(),
            places: BTreeMap::new(),
            capacity: 0,
        }
    }

    pub(super) fn host(&self, node: NodeId) -> Option<&Host> {
        self.hosts.get(&node)
    }

    /// In the order of their ids.
    pub(super) fn all(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    /// Those that have a lease and say where they are reached.
    pub(super) fn reachable(&self) -> impl Iterator<Item = (NodeId, String)> {
        let here = self.hosts.iter().filter(|(node, _)| !self.lost.contains_key(node));
        here.filter_map(|(node, host)| Some((*node, host.record.address.clone()?)))
    }

    /// Those with at least so many devices free, the fullest first and then in the order of their
    /// ids.
    pub(super) fn with_free(&self, devices: u32) -> impl Iterator<Item = &Host> {
        let enough = self.by_free.range((devices, NodeId::default())..);
        enough.filter_map(|(_, node)| self.hosts.get(node))
    }

    /// How many zones there are, or were.
    pub(super) fn zones(&self) -> usize {
        self.zones.len()
    }

    pub(super) fn len(&self) -> usize {
        self.hosts.len()
    }

    /// The name for people; its id if nothing else is known.
    pub(super) fn name(&self, node: NodeId) -> String {
        self.hosts.get(&node).map_or_else(|| node.to_string(), |host| host.record.name.clone())
    }

    /// Grows whenever a group may fit that did not fit before.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// A host is there.
    pub(super) fn put(&mut self, record: NodeRecord) -> HostChange {
        let id = record.id;
        let was_lost = self.lost.remove(&id).is_some();
        let change = match self.hosts.get(&id) {
            Some(host) if host.record.process != record.process => HostChange::Restarted,
            Some(host) if host.record == record && !was_lost => return HostChange::None,
            Some(_) | None => HostChange::Here,
        };
        let planned = self.planned.get(&id).map_or(0, |planned| planned.devices);
        let free = record.devices.saturating_sub(planned);
        let zone = record.labels.get(ZONE).cloned();
        let rack = record.labels.get(RACK).map(|rack| format!("{zone:?}/{rack}"));
        let (zone, rack) = (self.place(zone), self.place(rack));
        self.zones.insert(zone);
        self.by_free.insert((free, id));
        let host = Host { record, closed: None, free, zone, rack };
        if let Some(before) = self.hosts.insert(id, host).filter(|before| before.free != free) {
            self.by_free.remove(&(before.free, id));
        }
        self.decide_closed(id);
        self.capacity += 1;
        change
    }

    /// A host's lease is gone. Says whether that is new.
    pub(super) fn gone(&mut self, node: NodeId, now: Duration) -> bool {
        if !self.hosts.contains_key(&node) || self.lost.contains_key(&node) {
            return false;
        }
        let loss = Loss { since: now, probed: None, reached: None, together: false };
        self.lost.insert(node, loss);
        if self.many_are_lost() {
            self.lost.values_mut().for_each(|loss| loss.together = true);
        }
        self.decide_closed(node);
        true
    }

    /// Whether so many have vanished that it is the store or the network that is ill. Rounded up,
    /// so that one host of two or three may go.
    fn many_are_lost(&self) -> bool {
        self.lost.len() > self.hosts.len().div_ceil(3)
    }

    /// A host without a lease was tried.
    pub(super) fn probed(&mut self, node: NodeId, reachable: bool) {
        if let Some(loss) = self.lost.get_mut(&node) {
            loss.reached = Some(reachable);
        }
    }

    /// Which hosts without a lease to try now: each once in a lease time.
    pub(super) fn due_probes(&mut self, now: Duration, lease: Duration) -> Vec<(NodeId, String)> {
        let mut probes = Vec::new();
        for (node, loss) in &mut self.lost {
            let due = loss.probed.is_none_or(|last| now.saturating_sub(last) >= lease);
            let address = self.hosts.get(node).and_then(|host| host.record.address.clone());
            if let (true, Some(address)) = (due, address) {
                loss.probed = Some(now);
                probes.push((*node, address));
            }
        }
        probes
    }

    /// Gives up the hosts that have been gone for one more lease time and were not reached in it;
    /// what is planned on them is over.
    pub(super) fn give_up(&mut self, now: Duration, lease: Duration) -> Vec<NodeRecord> {
        let gone: Vec<_> = self
            .lost
            .iter()
            .filter(|(node, loss)| {
                let away = now.saturating_sub(loss.since);
                let can_be_tried =
                    self.hosts.get(node).is_some_and(|host| host.record.address.is_some());
                let over = match loss.reached {
                    Some(reached) => !reached,
                    // Nobody could try it, or the answer is overdue.
                    None => !loss.together && (!can_be_tried || away >= lease * PATIENCE),
                };
                away >= lease && over
            })
            .map(|(node, _)| *node)
            .collect();
        let records = gone.into_iter().filter_map(|node| {
            self.lost.remove(&node);
            self.statuses.remove(&node);
            let host = self.hosts.remove(&node)?;
            self.by_free.remove(&(host.free, node));
            Some(host.record)
        });
        records.collect()
    }

    /// A person's word about a host. Says whether it is new.
    pub(super) fn cordon(&mut self, cordon: CordonRecord) -> bool {
        let node = cordon.node;
        let new = self.cordons.insert(node, cordon.clone()) != Some(cordon);
        self.decide_closed(node);
        new
    }

    /// The word is taken back.
    pub(super) fn uncordon(&mut self, node: NodeId) -> bool {
        let was = self.cordons.remove(&node).is_some();
        self.decide_closed(node);
        self.capacity += 1;
        was
    }

    /// How many seconds groups on this host have to move away; none if they may stay.
    pub(super) fn drain(&self, node: NodeId) -> Option<u32> {
        self.cordons.get(&node)?.drain
    }

    /// Hosts that are to be empty.
    pub(super) fn draining(&self) -> impl Iterator<Item = NodeId> {
        self.cordons.values().filter(|cordon| cordon.drain.is_some()).map(|cordon| cordon.node)
    }

    /// Takes a host's report and gives back the one before.
    pub(super) fn report(&mut self, status: NodeStatus) -> Option<NodeStatus> {
        self.statuses.insert(status.node, status)
    }

    /// The reports of hosts whose process still is the one that reported.
    pub(super) fn reports(&self) -> impl Iterator<Item = &NodeStatus> {
        self.statuses.values().filter(|status| self.is_current(status))
    }

    /// Whether a report is of the process that the host has now.
    pub(super) fn is_current(&self, status: &NodeStatus) -> bool {
        let host = self.hosts.get(&status.node);
        host.is_some_and(|host| host.record.process == status.process)
    }

    /// What its host says of a member, if it says anything of this incarnation.
    pub(super) fn member(&self, record: &GroupRecord, index: usize) -> Option<&MemberStatus> {
        let node = record.members.get(index)?.node;
        let of = |member: &&MemberStatus| {
            member.member as usize == index
                && member.epoch == record.epoch
                && member.group == record.group
        };
        self.statuses.get(&node)?.members.iter().find(of)
    }

    /// How far a member is.
    pub(super) fn state(&self, record: &GroupRecord, index: usize) -> Option<&MemberState> {
        self.member(record, index).map(|member| &member.state)
    }

    /// Groups that are planned on a host.
    pub(super) fn groups_on(&self, node: NodeId) -> impl Iterator<Item = &GroupId> {
        self.planned.get(&node).into_iter().flat_map(|planned| &planned.groups)
    }

    /// A group is planned: its devices are its own. `alone` is the label whose domain it wants for
    /// itself.
    pub(super) fn reserve(&mut self, record: &GroupRecord, alone: Option<&str>) {
        for member in &record.members {
            let ranks = member.ranks.len() as u32;
            let planned = self.planned.entry(member.node).or_default();
            planned.devices += ranks;
            planned.groups.insert(record.group.clone());
            self.count_free(member.node);
            let label = alone.and_then(|label| self.domain(member.node, label));
            if let Some(domain) = label {
                self.claims.insert(domain, record.group.clone());
            }
        }
    }

    /// A group is no longer planned.
    pub(super) fn release(&mut self, record: &GroupRecord) {
        for member in &record.members {
            let ranks = member.ranks.len() as u32;
            let Some(planned) = self.planned.get_mut(&member.node) else { continue };
            planned.devices = planned.devices.saturating_sub(ranks);
            planned.groups.remove(&record.group);
            if planned.groups.is_empty() {
                self.planned.remove(&member.node);
            }
            self.count_free(member.node);
        }
        self.claims.retain(|_, group| *group != record.group);
        self.capacity += 1;
    }

    /// Nothing is planned: what is comes next.
    pub(super) fn release_all(&mut self) {
        self.planned.clear();
        self.claims.clear();
        for host in self.hosts.values_mut() {
            host.free = host.record.devices;
        }
        self.by_free = self.hosts.iter().map(|(node, host)| (host.free, *node)).collect();
        self.capacity += 1;
    }

    fn count_free(&mut self, node: NodeId) {
        let planned = self.planned.get(&node).map_or(0, |planned| planned.devices);
        if let Some(host) = self.hosts.get_mut(&node) {
            self.by_free.remove(&(host.free, node));
            host.free = host.record.devices.saturating_sub(planned);
            self.by_free.insert((host.free, node));
        }
    }

    /// Whether another group has one of the host's domains for itself.
    pub(super) fn is_claimed(&self, host: &Host, by_other_than: &GroupId) -> bool {
        let mut claims = self.claims.iter();
        claims.any(|((label, value), group)| {
            group != by_other_than && host.record.labels.get(label) == Some(value)
        })
    }

    /// Values of a label on whose hosts another group is planned.
    pub(super) fn occupied(&self, label: &str, by_other_than: &GroupId) -> BTreeSet<&str> {
        let others = |planned: &Planned| planned.groups.iter().any(|group| group != by_other_than);
        let taken = self.planned.iter().filter(|(_, planned)| others(planned));
        let hosts = taken.filter_map(|(node, _)| self.hosts.get(node));
        hosts.filter_map(|host| host.record.labels.get(label).map(String::as_str)).collect()
    }

    fn domain(&self, node: NodeId, label: &str) -> Option<(String, String)> {
        let value = self.hosts.get(&node)?.record.labels.get(label)?;
        Some((label.to_owned(), value.clone()))
    }

    fn decide_closed(&mut self, node: NodeId) {
        let lost = self.lost.contains_key(&node);
        let cordoned = self.cordons.contains_key(&node);
        let wire = self.wire;
        if let Some(host) = self.hosts.get_mut(&node) {
            host.closed = if lost {
                Some(Closed::Lost)
            } else if host.record.wire.abs_diff(wire) >= 2 {
                Some(Closed::Wire)
            } else if host.record.leaving {
                Some(Closed::Leaving)
            } else {
                cordoned.then_some(Closed::Cordoned)
            };
        }
    }

    /// The number of a zone or rack.
    fn place(&mut self, name: Option<String>) -> u32 {
        let next = self.places.len() as u32 + 1;
        name.map_or(0, |name| *self.places.entry(name).or_insert(next))
    }
}

/// A host's zone.
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";
/// A host's rack.
const RACK: &str = "troupe.dev/rack";

/// Lease times after which a host that was to be tried is given up without an answer.
const PATIENCE: u32 = 3;
