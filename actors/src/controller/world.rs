//! What all services share while they are planned: the hosts, the epochs, the journal, and the
//! writes that come of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use troupe_runtime::{
    discovery::directory::{
        EventKind, GatewayRecord, GroupRecord, Launch, NodeRecord, NodeStatus, ObjectRef,
    },
    id::{EndpointId, Epoch, GroupId, NodeId},
    wire::member::Fault,
};

use super::{
    desired::{KIND, ServiceName},
    hosts::Hosts,
    journal::{Event, Journal},
    memory::Need,
    models::Models,
    plan::ControllerEffect,
    quarantine::Quarantine,
};

/// What all services share.
#[derive(Clone, Debug)]
pub(super) struct World {
    /// Since 1970, never going back.
    pub(super) now: Duration,
    /// Of the controller in office.
    pub(super) term: u64,
    /// Whether groups of no declared service may be ended: not before a store that was wiped can
    /// have its specifications back.
    pub(super) undeclared_may_go: bool,
    pub(super) hosts: Hosts,
    /// Hosts that are taken last for a while.
    pub(super) quarantine: Quarantine,
    pub(super) epochs: Epochs,
    pub(super) journal: Journal,
    pub(super) models: Models,
    pub(super) gateways: BTreeMap<NodeId, GatewayRecord>,
    /// Requests that gateways hold.
    pub(super) demand: BTreeMap<ServiceName, BTreeMap<NodeId, u32>>,
    /// Endpoints, by where they are reached.
    pub(super) endpoints: BTreeMap<EndpointId, String>,
    /// Which are to be followed may have changed.
    pub(super) follow_anew: bool,
    /// Which hosts are to be attended to may have changed.
    pub(super) attend_anew: bool,
    /// Those to which a connection is kept.
    pub(super) attended: BTreeMap<NodeId, String>,
    /// Those whose load is followed.
    pub(super) followed: BTreeMap<EndpointId, String>,
    /// The service whose groups may leave hosts that are to be empty.
    pub(super) moving: Option<ServiceName>,
    /// Incarnations that were ended: hosts may report them for a while.
    ended: BTreeMap<GroupId, Epoch>,
    effects: Vec<ControllerEffect>,
}

/// The highest epoch of each group that anybody has ever spoken of.
#[derive(Clone, Debug)]
pub(super) struct Epochs {
    highest: BTreeMap<String, u64>,
    /// Of those, the highest that a host has spoken of.
    reported: BTreeMap<String, u64>,
    entropy: u64,
}

// === impl World ===

impl World {
    pub(super) fn new(wire: u32, entropy: u64) -> Self {
        Self {
            now: Duration::ZERO,
            term: 0,
            undeclared_may_go: false,
            hosts: Hosts::new(wire),
            quarantine: Quarantine::default(),
            epochs: Epochs { highest: BTreeMap::new(), reported: BTreeMap::new(), entropy },
            journal: Journal::new(EVENTS),
            models: Models::default(),
            gateways: BTreeMap::new(),
            demand: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            attend_anew: false,
            attended: BTreeMap::new(),
            follow_anew: false,
            followed: BTreeMap::new(),
            moving: None,
            ended: BTreeMap::new(),
            effects: Vec::new(),
        }
    }

    /// What a rank of this launch needs, if its model is known.
    pub(super) fn need(&self, launch: &Launch) -> Option<Need> {
        self.models.facts(&launch.model_uri).map(|facts| Need::new(facts, launch))
    }

    /// How many requests gateways hold for a service.
    pub(super) fn held(&self, name: &ServiceName) -> u32 {
        self.demand.get(name).map_or(0, |gateways| gateways.values().sum())
    }

    /// Plans a group; `alone` is the label whose domain it wants for itself.
    pub(super) fn put_group(&mut self, record: &GroupRecord, alone: Option<&str>) {
        self.hosts.reserve(record, alone);
        self.epochs.see(&record.group.to_string(), record.epoch.number);
        self.write_group(record);
    }

    /// Writes a group whose members stay where they are.
    pub(super) fn write_group(&mut self, record: &GroupRecord) {
        // One write of a key says all; what was to be written before it need not be.
        self.effects.retain(|effect| match effect {
            ControllerEffect::PutGroup(before) => before.group != record.group,
            ControllerEffect::DeleteGroup(group) => *group != record.group,
            _ => true,
        });
        self.effects.push(ControllerEffect::PutGroup(record.clone()));
    }

    /// Ends a group.
    pub(super) fn delete_group(&mut self, record: &GroupRecord) {
        self.hosts.release(record);
        self.ended.insert(record.group.clone(), record.epoch);
        self.effects.push(ControllerEffect::DeleteGroup(record.group.clone()));
    }

    /// Ends what hosts report and nobody wants: they only end a group that they see go.
    pub(super) fn end_reported(&mut self, record: &GroupRecord) {
        self.ended.insert(record.group.clone(), record.epoch);
        self.effects.push(ControllerEffect::PutGroup(record.clone()));
        self.effects.push(ControllerEffect::DeleteGroup(record.group.clone()));
    }

    /// Whether this incarnation was ended, so that a report of it is old news.
    pub(super) fn was_ended(&self, record: &GroupRecord) -> bool {
        self.ended.get(&record.group).is_some_and(|epoch| record.epoch <= *epoch)
    }

    /// What else is to be written.
    pub(super) fn write(&mut self, effect: ControllerEffect) {
        self.effects.push(effect);
    }

    /// All of it, with the events that are due.
    pub(super) fn take_effects(&mut self) -> Vec<ControllerEffect> {
        let events = self.journal.due(self.now);
        self.effects.extend(events.into_iter().map(|(at, e)| ControllerEffect::PutEvent(at, e)));
        std::mem::take(&mut self.effects)
    }

    /// Something happened to a service.
    pub(super) fn tell_service(
        &mut self,
        (name, kind): (&ServiceName, EventKind),
        reason: &'static str,
        message: String,
    ) {
        let (namespace, name) = (name.namespace.clone(), name.name.clone());
        let object = ObjectRef { kind: KIND.into(), namespace, name };
        self.journal.tell(self.now, Event { object, kind, reason, message });
    }

    /// Something happened to a group.
    pub(super) fn tell_group(
        &mut self,
        (group, kind): (&GroupId, EventKind),
        reason: &'static str,
        message: String,
    ) {
        let name = format!("{}-{}", group.service, group.index);
        let object = ObjectRef { kind: "Group".into(), namespace: group.namespace.clone(), name };
        self.journal.tell(self.now, Event { object, kind, reason, message });
    }

    /// Something happened to a host.
    pub(super) fn tell_host(
        &mut self,
        (name, kind): (&str, EventKind),
        reason: &'static str,
        message: String,
    ) {
        let object =
            ObjectRef { kind: "Node".into(), namespace: String::new(), name: name.to_owned() };
        self.journal.tell(self.now, Event { object, kind, reason, message });
    }

    /// A member of this group was at fault on a host, in a way that is the host's own.
    pub(super) fn quarantine(&mut self, node: NodeId, fault: Fault, group: &GroupId) {
        let time = self.quarantine.begin(self.now, node).as_secs();
        let what = if fault == Fault::Slow { "became slow" } else { "hung" };
        let message = format!("{group} {what} there; taken last for {time} s");
        let name = self.hosts.name(node);
        self.tell_host((&name, EventKind::Warning), "Quarantined", message);
    }

    /// Tries hosts whose time in quarantine is over, and takes those back that were reached.
    pub(super) fn look_at_quarantine(&mut self, pause: Duration) {
        let hosts = &self.hosts;
        let address = |node| hosts.host(node).and_then(|host| host.record.address.clone());
        let returned = self.quarantine.returned(self.now, |node| address(node).is_some());
        let due = self.quarantine.due(self.now, pause).into_iter();
        let due: Vec<_> = due.filter_map(|node| Some((node, address(node)?))).collect();
        self.effects.extend(due.into_iter().map(|(node, at)| ControllerEffect::Probe(node, at)));
        for node in returned {
            let name = self.hosts.name(node);
            let message = "its time in quarantine is over, and it was reached".to_owned();
            self.tell_host((&name, EventKind::Normal), "Returned", message);
        }
    }

    /// A host that was given up, for people.
    pub(super) fn tell_lost(&mut self, record: &NodeRecord) {
        let message = "its lease is gone and it was not reached".to_owned();
        self.tell_host((&record.name, EventKind::Warning), "HostLost", message);
    }

    /// Learns from a host's report, and says which services have members whose state it changes.
    pub(super) fn report(&mut self, status: NodeStatus) -> BTreeSet<ServiceName> {
        let before = self.hosts.report(status.clone());
        let mut touched = BTreeSet::new();
        if before.as_ref().is_none_or(|before| before.epochs != status.epochs) {
            for (group, number) in &status.epochs {
                // A group whose record is older than what a host has seen cannot be what it says.
                if self.epochs.hear(group, *number) {
                    touched.extend(service_of(group));
                }
            }
        }
        let old = before.map(|before| before.members).unwrap_or_default();
        let new = status.members;
        let gone = old.iter().filter(|member| !new.contains(member));
        let came = new.iter().filter(|member| !old.contains(member));
        touched.extend(gone.chain(came).map(|member| ServiceName::of(&member.group)));
        touched
    }
}

// === impl Epochs ===

impl Epochs {
    /// Somebody spoke of this one.
    pub(super) fn see(&mut self, group: &str, number: u64) {
        match self.highest.get_mut(group) {
            Some(highest) => *highest = number.max(*highest),
            None => drop(self.highest.insert(group.to_owned(), number)),
        }
    }

    /// A host spoke of this one. Says whether none had spoken of it, or of a higher one.
    pub(super) fn hear(&mut self, group: &str, number: u64) -> bool {
        self.see(group, number);
        let reported = self.reported.entry(group.to_owned()).or_default();
        let news = *reported < number;
        *reported = number.max(*reported);
        news
    }

    /// The highest that a host has spoken of.
    pub(super) fn reported(&self, group: &str) -> u64 {
        self.reported.get(group).copied().unwrap_or(0)
    }

    /// The highest that anybody has spoken of.
    fn highest(&self, group: &str) -> u64 {
        self.highest.get(group).copied().unwrap_or(0)
    }

    /// One that nobody has ever spoken of.
    pub(super) fn next(&mut self, group: &GroupId) -> Epoch {
        let number = 1 + self.highest(&group.to_string());
        // Weyl sequence with a mixer: distinct for each call, and from controller to controller.
        self.entropy = self.entropy.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.entropy ^ (self.entropy >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Epoch { number, nonce: mixed ^ (mixed >> 29) }
    }
}

/// The service of a group by its full name, `<namespace>/<service>-<index>`.
fn service_of(group: &str) -> Option<ServiceName> {
    let (namespace, rest) = group.split_once('/')?;
    let (service, _) = rest.rsplit_once('-')?;
    Some(ServiceName::new(namespace, service))
}

/// Places of the journal's ring: some 400 bytes each.
const EVENTS: u32 = 1000;
