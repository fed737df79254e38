//! Observe, then plan: which groups there should be, of which members, in which incarnation.
//!
//! The front of the planner: events come in here, what they change is noted, and the services that
//! it matters to are planned (`service`). A service that nothing has happened to costs nothing,
//! however often hosts report. Nothing is planned before everything that the store holds was told,
//! this controller is in office, and hosts had the time to report what the store may have lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use troupe_runtime::{
    discovery::directory::{
        CordonRecord, EventKind, EventRecord, GatewayRecord, GroupRecord, NodeRecord, NodeStatus,
        RevisionRecord, ServiceStatus,
    },
    id::{EndpointId, GroupId, NodeId},
    wire::{self, status::Load},
};

use super::{
    desired::{Desired, ServiceName},
    hosts::HostChange,
    memory::ModelFacts,
    service::{Problem, Service},
    world::World,
};

/// What can be observed.
#[derive(Clone, Debug)]
pub enum ControllerEvent {
    /// A host is there.
    NodePut(NodeRecord),
    /// A host's lease is gone.
    NodeGone(NodeId),
    /// A host without a lease was tried.
    HostProbed {
        /// Which.
        node: NodeId,
        /// Whether it answered.
        reachable: bool,
    },
    /// A host reported its members.
    StatusPut(NodeStatus),
    /// A person wants nothing new on a host, or nothing at all.
    CordonPut(CordonRecord),
    /// No longer.
    CordonGone(NodeId),
    /// A service is declared.
    Declared(Desired),
    /// A service is declared in a way that makes no sense.
    Senseless(ServiceName, Problem),
    /// A service is no longer declared.
    Undeclared(ServiceName),
    /// A group is in the store.
    GroupPut(GroupRecord),
    /// A group is no longer in the store.
    GroupGone(GroupId),
    /// A revision of a service is in the store.
    RevisionPut(ServiceName, RevisionRecord),
    /// It no longer is.
    RevisionGone(ServiceName, u64),
    /// What the store says of a service.
    StatusStored(ServiceName, ServiceStatus),
    /// What the store says happened.
    EventStored(u32, EventRecord),
    /// A host was heard, and is not any more.
    HostMissed(NodeId),
    /// A gateway is there.
    GatewayPut(GatewayRecord),
    /// A gateway is gone.
    GatewayGone(NodeId),
    /// An endpoint is there, and where it is reached.
    EndpointPut(EndpointId, String),
    /// It is gone.
    EndpointGone(EndpointId),
    /// An endpoint told its load.
    LoadTold(EndpointId, Box<Load>),
    /// It tells it no longer.
    LoadLost(EndpointId),
    /// A gateway holds so many requests for a service.
    DemandPut(ServiceName, NodeId, u32),
    /// It holds none any more.
    DemandGone(ServiceName, NodeId),
    /// What is known of the model of this URI; nothing if it is not here.
    ModelKnown(String, Option<ModelFacts>),
    /// Everything that the store holds has been told.
    Synced,
    /// This controller took office; the store holds these groups.
    Elected(Vec<GroupRecord>),
    /// Hosts have reported already in this life of the store, to a controller in office before:
    /// what the store holds is what there is.
    Settled,
    /// It lost the office, or a write failed: what it planned may not be what is stored.
    Deposed,
    /// Time has passed.
    Tick,
}

/// What should be done.
#[derive(Clone, Debug, PartialEq)]
pub enum ControllerEffect {
    /// This group, like this.
    PutGroup(GroupRecord),
    /// Not this group.
    DeleteGroup(GroupId),
    /// What people are told of a service.
    PutServiceStatus(ServiceName, ServiceStatus),
    /// Nothing is told of a service any more.
    DeleteServiceStatus(ServiceName),
    /// A revision of a service.
    PutRevision(ServiceName, RevisionRecord),
    /// Not this one.
    DeleteRevision(ServiceName, u64),
    /// This happened; in this place of the ring.
    PutEvent(u32, EventRecord),
    /// Try to reach this host, here.
    Probe(NodeId, String),
    /// Hosts have had the time to report.
    Settle,
    /// Find out about the model of this URI.
    AskModel(String),
    /// Follow the load of these endpoints, by where they are reached, and of no others.
    Follow(BTreeMap<EndpointId, String>),
    /// Keep a connection to these hosts, by where they are reached, and to no others.
    Attend(BTreeMap<NodeId, String>),
}

/// How long the controller waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long hosts' leases are, and how long one is missed before its host is given up.
    pub lease: Duration,
    /// From taking office to the first plan: hosts that the store forgot report themselves, and
    /// with them the epochs that they have seen. Zero where the store lives in this process.
    pub settle: Duration,
}

/// What the controller knows.
#[derive(Clone, Debug)]
pub struct Controller {
    timing: Timing,
    synced: bool,
    /// In office, and since when.
    elected: Option<Duration>,
    /// It need not wait for hosts to report.
    settled: bool,
    /// It has planned in this office.
    began: bool,
    pub(super) world: World,
    pub(super) services: BTreeMap<ServiceName, Service>,
    /// Services to be planned.
    pub(super) dirty: BTreeSet<ServiceName>,
    /// Groups as the store has them, where that is not as they were planned, and since when.
    differs: BTreeMap<GroupId, (Duration, Option<GroupRecord>)>,
    /// Hosts that are to be empty and are not yet known to be.
    leaving: BTreeSet<NodeId>,
}

impl Controller {
    /// A controller that knows nothing yet; `entropy` feeds the nonces of epochs and must differ
    /// from controller to controller.
    pub fn new(timing: Timing, entropy: u64) -> Self {
        Self {
            timing,
            synced: false,
            elected: None,
            settled: false,
            began: false,
            world: World::new(wire::VERSION, entropy),
            services: BTreeMap::new(),
            dirty: BTreeSet::new(),
            differs: BTreeMap::new(),
            leaving: BTreeSet::new(),
        }
    }

    /// Takes one event and says what to do. `now` is the time since 1970; it never goes back.
    pub fn handle(&mut self, now: Duration, event: ControllerEvent) -> Vec<ControllerEffect> {
        self.world.now = now;
        let ticks = matches!(event, ControllerEvent::Tick);
        // These come often, and are looked at when their time has come.
        let later = matches!(event, ControllerEvent::LoadTold(..) | ControllerEvent::LoadLost(_));
        self.observe(event);
        let settled =
            |since: Duration| self.settled || now.saturating_sub(since) >= self.timing.settle;
        if later || !self.synced || !self.elected.is_some_and(settled) {
            return Vec::new();
        }
        if !std::mem::replace(&mut self.began, true) {
            self.begin();
        }
        if ticks {
            self.look_around();
        }
        self.plan();
        self.follow_loads();
        self.attend();
        self.world.take_effects()
    }

    fn observe(&mut self, event: ControllerEvent) {
        match event {
            ControllerEvent::NodePut(record) => self.host_put(record),
            ControllerEvent::NodeGone(node) => {
                self.world.attend_anew = true;
                if self.world.hosts.gone(node, self.world.now) {
                    self.tell_silent(node, "its lease is over");
                }
            }
            ControllerEvent::HostProbed { node, reachable } => {
                self.world.hosts.probed(node, reachable);
                self.world.quarantine.probed(node, reachable);
            }
            ControllerEvent::StatusPut(status) => self.reported(status),
            ControllerEvent::CordonPut(cordon) => self.cordoned(cordon),
            ControllerEvent::CordonGone(node) => drop(self.world.hosts.uncordon(node)),
            ControllerEvent::Declared(desired) => {
                self.world.follow_anew = true;
                let service = self.service(&desired.name.clone());
                service.problem = None;
                service.desired = Some(Arc::new(desired));
            }
            ControllerEvent::Senseless(name, problem) => {
                let about = (&name, EventKind::Warning);
                self.world.tell_service(about, problem.reason, problem.message.clone());
                self.service(&name).problem = Some(problem);
            }
            ControllerEvent::Undeclared(name) => {
                self.world.follow_anew = true;
                let service = self.service(&name);
                (service.desired, service.problem) = (None, None);
            }
            ControllerEvent::GroupPut(record) => {
                self.group_stored(record.group.clone(), Some(record));
            }
            ControllerEvent::GroupGone(group) => self.group_stored(group, None),
            ControllerEvent::RevisionPut(name, record) => {
                self.service(&name).revisions.recall(record);
            }
            ControllerEvent::RevisionGone(name, number) => {
                self.service(&name).revisions.forget(number);
            }
            ControllerEvent::StatusStored(name, status) => {
                if self.elected.is_none() {
                    self.service(&name).told = Some(status);
                }
            }
            ControllerEvent::EventStored(slot, record) => {
                if self.elected.is_none() {
                    self.world.journal.recall(slot, record);
                }
            }
            ControllerEvent::HostMissed(node) => self.tell_silent(node, "it is heard no more"),
            ControllerEvent::GatewayPut(record) => {
                let known = self.world.gateways.insert(record.id, record.clone());
                if known != Some(record) {
                    self.all_dirty();
                }
            }
            ControllerEvent::GatewayGone(gateway) => {
                if self.world.gateways.remove(&gateway).is_some() {
                    self.all_dirty();
                }
            }
            ControllerEvent::EndpointPut(endpoint, address) => {
                self.world.endpoints.insert(endpoint, address);
                self.world.follow_anew = true;
            }
            ControllerEvent::EndpointGone(endpoint) => {
                self.world.endpoints.remove(&endpoint);
                self.world.follow_anew = true;
                self.load_lost(&endpoint);
            }
            ControllerEvent::LoadTold(endpoint, load) => self.load_told(&endpoint, *load),
            ControllerEvent::LoadLost(endpoint) => self.load_lost(&endpoint),
            ControllerEvent::DemandPut(name, gateway, held) => {
                self.world.demand.entry(name.clone()).or_default().insert(gateway, held);
                self.dirty.insert(name);
            }
            ControllerEvent::DemandGone(name, gateway) => {
                if let Some(gateways) = self.world.demand.get_mut(&name) {
                    gateways.remove(&gateway);
                }
                self.world.demand.retain(|_, gateways| !gateways.is_empty());
            }
            ControllerEvent::ModelKnown(uri, facts) => {
                self.world.models.answer(uri, facts);
                self.all_dirty();
            }
            ControllerEvent::Synced => self.synced = true,
            ControllerEvent::Elected(groups) => self.elected(groups),
            ControllerEvent::Settled => self.settled = true,
            ControllerEvent::Deposed => {
                (self.elected, self.began) = (None, false);
                self.world.followed.clear();
                self.world.attended.clear();
                self.world.take_effects();
            }
            ControllerEvent::Tick => {}
        }
    }

    /// Tells that a host is silent, unless it has said that it leaves.
    fn tell_silent(&mut self, node: NodeId, how: &str) {
        let hosts = &self.world.hosts;
        if hosts.host(node).is_some_and(|host| !host.record.leaving) {
            let name = hosts.name(node);
            self.world.tell_host((&name, EventKind::Warning), "HostSilent", how.to_owned());
        }
    }

    /// Sees to it that a connection is kept to each host that has a lease; to no more than so many,
    /// for each costs some packets a second.
    fn attend(&mut self) {
        if !std::mem::take(&mut self.world.attend_anew) {
            return;
        }
        let wanted = self.world.hosts.reachable().take(MOST_ATTENDED).collect();
        if wanted != self.world.attended {
            self.world.attended.clone_from(&wanted);
            self.world.write(ControllerEffect::Attend(wanted));
        }
    }

    /// A service by name, to be planned.
    pub(super) fn service(&mut self, name: &ServiceName) -> &mut Service {
        self.dirty.insert(name.clone());
        self.services.entry(name.clone()).or_insert_with(|| Service::new(name.clone()))
    }

    fn all_dirty(&mut self) {
        self.dirty.extend(self.services.keys().cloned());
    }

    /// The services of the groups on a host are to be planned.
    fn touch_host(&mut self, node: NodeId) {
        let services: Vec<_> = self.world.hosts.groups_on(node).map(ServiceName::of).collect();
        self.dirty.extend(services);
    }

    fn host_put(&mut self, record: NodeRecord) {
        let (id, name) = (record.id, record.name.clone());
        self.world.attend_anew = true;
        match self.world.hosts.put(record) {
            HostChange::None => return,
            HostChange::Here => {}
            HostChange::Restarted => {
                let message = "its process is another one: its groups are formed anew".to_owned();
                self.world.tell_host((&name, EventKind::Warning), "HostRestarted", message);
            }
        }
        self.touch_host(id);
    }

    fn cordoned(&mut self, cordon: CordonRecord) {
        let (node, drain) = (cordon.node, cordon.drain);
        if !self.world.hosts.cordon(cordon) {
            return;
        }
        if drain.is_some() {
            self.leaving.insert(node);
        }
        self.touch_host(node);
    }

    fn reported(&mut self, status: NodeStatus) {
        let (node, groups) = (status.node, status.groups.clone());
        let touched = self.world.report(status);
        self.dirty.extend(touched);
        if self.began {
            self.adopt(node, groups);
        }
    }

    /// What the store says of a group. In office this controller writes them, and hears of its own
    /// writes late: only a difference that stays was made by somebody else.
    fn group_stored(&mut self, id: GroupId, stored: Option<GroupRecord>) {
        if self.elected.is_none() {
            return;
        }
        let name = ServiceName::of(&id);
        let planned = self.services.get(&name).and_then(|service| service.groups.get(&id.index));
        let planned = planned.and_then(|group| group.record.as_ref());
        if planned == stored.as_ref() {
            self.differs.remove(&id);
        } else {
            self.differs.insert(id, (self.world.now, stored));
        }
    }

    fn take_the_stores_word(&mut self) {
        let now = self.world.now;
        let old = |since: Duration| now.saturating_sub(since) >= ECHO;
        let stale: Vec<_> = self
            .differs
            .iter()
            .filter(|(_, (since, _))| old(*since))
            .map(|(id, _)| id.clone())
            .collect();
        let mut forgotten = false;
        for id in stale {
            let Some((_, stored)) = self.differs.remove(&id) else { continue };
            forgotten |= stored.is_none();
            let message = "was changed in the store by somebody else".to_owned();
            self.world.tell_group((&id, EventKind::Warning), "Changed", message);
            let service = self.services.entry(ServiceName::of(&id));
            let service = service.or_insert_with_key(|name| Service::new(name.clone()));
            service.replace(&mut self.world, &id, stored);
            self.dirty.insert(ServiceName::of(&id));
        }
        // A store that was put back to an older state has lost it, and whoever runs it has not; it
        // will not be reported again unless something happens to it.
        if forgotten {
            self.end_again();
            self.adopt_reported();
        }
    }

    /// Takes up whatever hosts run that is not planned.
    fn adopt_reported(&mut self) {
        let reports = self.world.hosts.reports();
        let all: Vec<_> = reports.map(|s| (s.node, s.groups.clone())).collect();
        for (node, groups) in all {
            self.adopt(node, groups);
        }
    }

    /// What only time brings: hosts are given up, waits end.
    fn look_around(&mut self) {
        let (now, lease) = (self.world.now, self.timing.lease);
        for (node, address) in self.world.hosts.due_probes(now, lease) {
            self.world.write(ControllerEffect::Probe(node, address));
        }
        self.world.look_at_quarantine(lease);
        for record in self.world.hosts.give_up(now, lease) {
            self.world.tell_lost(&record);
            self.touch_host(record.id);
        }
        self.take_the_stores_word();
        let since = self.elected.unwrap_or(now);
        self.world.undeclared_may_go =
            now.saturating_sub(since) >= self.timing.settle * SPECS_RETURN;
        if self.world.moving.is_none() {
            let draining: Vec<_> = self.world.hosts.draining().collect();
            draining.into_iter().for_each(|node| self.touch_host(node));
        }
        self.tell_drained();
    }

    fn tell_drained(&mut self) {
        let hosts = &self.world.hosts;
        let empty = |node: &&NodeId| hosts.groups_on(**node).next().is_none();
        let empty: Vec<NodeId> = self.leaving.iter().filter(empty).copied().collect();
        for node in empty {
            self.leaving.remove(&node);
            let name = self.world.hosts.name(node);
            let message = "no group is left on it".to_owned();
            self.world.tell_host((&name, EventKind::Normal), "Drained", message);
        }
    }

    fn plan(&mut self) {
        let (now, mut capacity) = (self.world.now, self.world.hosts.capacity());
        let due = self.services.iter().filter(|(_, service)| service.is_due(now, capacity));
        self.dirty.extend(due.map(|(name, _)| name.clone()));
        // What one service gives back another may have been waiting for.
        for _ in 0..ROUNDS {
            for name in std::mem::take(&mut self.dirty) {
                self.plan_service(&name);
            }
            if capacity == self.world.hosts.capacity() {
                break;
            }
            capacity = self.world.hosts.capacity();
            let waits = |service: &Service| service.waits.is_some_and(|seen| seen != capacity);
            let waiting = self.services.iter().filter(|(_, service)| waits(service));
            self.dirty.extend(waiting.map(|(name, _)| name.clone()));
        }
    }

    fn plan_service(&mut self, name: &ServiceName) {
        let Some(service) = self.services.get_mut(name) else { return };
        if let Some(desired) = &service.desired
            && self.world.models.ask(&desired.launch.model_uri, self.world.now)
        {
            self.world.write(ControllerEffect::AskModel(desired.launch.model_uri.clone()));
        }
        service.plan(&mut self.world);
        if service.is_over() {
            self.services.remove(name);
        }
    }

    fn elected(&mut self, groups: Vec<GroupRecord>) {
        (self.elected, self.settled, self.began) = (Some(self.world.now), false, false);
        self.world.moving = None;
        self.world.attend_anew = true;
        self.world.follow_anew = true;
        self.world.undeclared_may_go = self.timing.settle.is_zero();
        self.world.hosts.release_all();
        self.differs.clear();
        self.world.models.ask_again();
        let mut stored: BTreeMap<ServiceName, Vec<GroupRecord>> = BTreeMap::new();
        for record in groups {
            stored.entry(ServiceName::of(&record.group)).or_default().push(record);
        }
        for name in stored.keys() {
            self.service(name);
        }
        for (name, service) in &mut self.services {
            service.recall(&mut self.world, stored.remove(name).unwrap_or_default());
        }
    }

    /// The first plan of this office.
    fn begin(&mut self) {
        if !self.settled && !self.timing.settle.is_zero() {
            self.world.write(ControllerEffect::Settle);
        }
        let reports = || self.world.hosts.reports();
        let reported = reports().flat_map(|status| &status.groups).map(|record| record.term);
        let stored = self.services.values().flat_map(Service::records).map(|record| record.term);
        self.world.term = 1 + reported.chain(stored).max().unwrap_or(0);
        self.adopt_reported();
        let (hosts, known) = (&self.world.hosts, self.leaving.clone());
        let full = hosts.draining().filter(|node| hosts.groups_on(*node).next().is_some());
        self.leaving = full.chain(known).collect();
        self.all_dirty();
    }
}

/// How long after a write of its own a controller may hear of it.
const ECHO: Duration = Duration::from_secs(2);
/// Settling times after which hosts have given a wiped store its specifications back.
const SPECS_RETURN: u32 = 5;
/// Rounds of services waiting for what others gave back; the next tick goes on.
const ROUNDS: usize = 4;
/// Hosts to which a connection is kept; of others the lease tells.
const MOST_ATTENDED: usize = 256;
