//! A cluster around the planner, as far as the planner can tell: a store that keeps what it writes
//! and tells it of that, and hosts that start, keep and end members as the real ones do. What
//! members do (serve, end, finish) is for the test to say.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use troupe_runtime::{
    discovery::{
        directory::{
            CordonRecord, EventRecord, GatewayRecord, GroupRecord, MemberState, MemberStatus,
            NodeRecord, NodeStatus, RevisionRecord, ServiceStatus, to_bytes,
        },
        keys::Keys,
    },
    id::{EndpointId, Epoch, GroupId, NodeId},
};
use uuid::Uuid;

use crate::controller::{
    desired::{Desired, ServiceName},
    memory::ModelFacts,
    plan::{Controller, ControllerEffect, ControllerEvent, Timing},
};

/// The cluster.
pub(crate) struct Sim {
    pub(crate) controller: Controller,
    pub(crate) timing: Timing,
    pub(crate) now: Duration,
    pub(crate) hosts: BTreeMap<String, Host>,
    pub(crate) store: Store,
    /// Effects since they were last taken.
    pub(crate) done: Vec<ControllerEffect>,
    /// Facts that the controller is told when it asks.
    pub(crate) models: BTreeMap<String, ModelFacts>,
    /// Endpoints whose load it follows.
    pub(crate) followed: BTreeMap<EndpointId, String>,
    /// Nobody answers what the controller asks about models.
    pub(crate) silent: bool,
    /// The highest epoch that was ever written of each group.
    highest: BTreeMap<GroupId, Epoch>,
    controllers: u64,
    processes: u128,
}

/// What the store holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    pub(crate) groups: BTreeMap<GroupId, GroupRecord>,
    pub(crate) statuses: BTreeMap<ServiceName, ServiceStatus>,
    pub(crate) revisions: BTreeMap<(ServiceName, u64), RevisionRecord>,
    pub(crate) events: BTreeMap<u32, EventRecord>,
    pub(crate) services: BTreeMap<ServiceName, Desired>,
    pub(crate) cordons: BTreeMap<NodeId, CordonRecord>,
    pub(crate) gateways: Vec<GatewayRecord>,
    pub(crate) endpoints: BTreeMap<EndpointId, String>,
    pub(crate) demand: BTreeMap<ServiceName, u32>,
}

/// A host.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) record: NodeRecord,
    /// It has its lease and sees the store.
    pub(crate) connected: bool,
    groups: BTreeMap<GroupId, GroupRecord>,
    members: BTreeMap<(GroupId, u32), (Epoch, MemberState)>,
    epochs: BTreeMap<String, u64>,
}

// === impl Sim ===

impl Sim {
    pub(crate) fn new(timing: Timing) -> Self {
        let mut sim = Self {
            controller: Controller::new(timing, 1),
            timing,
            now: Duration::from_secs(1_000_000),
            hosts: BTreeMap::new(),
            store: Store::default(),
            done: Vec::new(),
            models: BTreeMap::new(),
            followed: BTreeMap::new(),
            silent: false,
            highest: BTreeMap::new(),
            controllers: 1,
            processes: 0,
        };
        sim.feed(ControllerEvent::Synced);
        sim.feed(ControllerEvent::Elected(vec![]));
        sim
    }

    /// Something happens, and all that follows from it at once.
    pub(crate) fn feed(&mut self, event: ControllerEvent) {
        let mut events = VecDeque::from([event]);
        let mut rounds = 0;
        while let Some(event) = events.pop_front() {
            rounds += 1;
            assert!(rounds < 100_000, "it never comes to rest");
            let effects = self.controller.handle(self.now, event);
            for effect in effects {
                self.done.push(effect.clone());
                self.write(effect, &mut events);
            }
        }
        self.check();
    }

    fn write(&mut self, effect: ControllerEffect, events: &mut VecDeque<ControllerEvent>) {
        match effect {
            ControllerEffect::PutGroup(record) => {
                let id = record.group.clone();
                let highest = self.highest.entry(id.clone()).or_insert(record.epoch);
                assert!(*highest <= record.epoch, "{id}: {} after {highest}", record.epoch);
                *highest = record.epoch;
                self.store.groups.insert(id, record.clone());
                for host in self.hosts.values_mut().filter(|host| host.connected) {
                    if host.sees(&record) {
                        events.push_back(ControllerEvent::StatusPut(host.status()));
                    }
                }
                events.push_back(ControllerEvent::GroupPut(record));
            }
            ControllerEffect::DeleteGroup(group) => {
                self.store.groups.remove(&group);
                for host in self.hosts.values_mut().filter(|host| host.connected) {
                    if host.sees_gone(&group) {
                        events.push_back(ControllerEvent::StatusPut(host.status()));
                    }
                }
                let of = |endpoint: &EndpointId| endpoint.group == group;
                let gone = self.store.endpoints.extract_if(.., |endpoint, _| of(endpoint));
                events.extend(gone.map(|(gone, _)| ControllerEvent::EndpointGone(gone)));
                events.push_back(ControllerEvent::GroupGone(group));
            }
            ControllerEffect::PutServiceStatus(name, status) => {
                self.store.statuses.insert(name, status);
            }
            ControllerEffect::DeleteServiceStatus(name) => drop(self.store.statuses.remove(&name)),
            ControllerEffect::PutRevision(name, record) => {
                self.store.revisions.insert((name, record.number), record);
            }
            ControllerEffect::DeleteRevision(name, number) => {
                self.store.revisions.remove(&(name, number));
            }
            ControllerEffect::PutEvent(slot, record) => {
                drop(self.store.events.insert(slot, record))
            }
            ControllerEffect::AskModel(uri) => {
                if !self.silent {
                    let facts = self.models.get(&uri).copied();
                    events.push_back(ControllerEvent::ModelKnown(uri, facts));
                }
            }
            ControllerEffect::Follow(endpoints) => self.followed = endpoints,
            ControllerEffect::Attend(_) | ControllerEffect::Settle => {}
            ControllerEffect::Probe(..) => {}
        }
    }

    /// A host comes, or comes back.
    pub(crate) fn host(&mut self, name: &str, change: impl FnOnce(&mut NodeRecord)) {
        let number = self.hosts.len() as u128 + 1;
        let host = self.hosts.entry(name.to_owned()).or_insert_with(|| Host::new(name, number));
        change(&mut host.record);
        host.connected = true;
        self.processes += 1;
        self.told(name);
    }

    /// What a host that sees the store again tells and is told.
    fn told(&mut self, name: &str) {
        let groups: Vec<_> = self.store.groups.values().cloned().collect();
        let host = self.hosts.get_mut(name).expect("a host of that name");
        let record = host.record.clone();
        for group in groups {
            host.sees(&group);
        }
        let status = host.status();
        self.feed(ControllerEvent::NodePut(record));
        self.feed(ControllerEvent::StatusPut(status));
    }

    /// A host's process is a new one: its members are gone.
    pub(crate) fn restart(&mut self, name: &str) {
        self.processes += 1;
        let process = Uuid::from_u128(1000 + self.processes);
        let host = self.hosts.get_mut(name).expect("a host of that name");
        (host.members, host.groups) = (BTreeMap::new(), BTreeMap::new());
        host.record.process = process;
        host.connected = true;
        self.told(name);
    }

    /// A host loses its lease; its members live on where it does.
    pub(crate) fn cut(&mut self, name: &str) {
        let host = self.hosts.get_mut(name).expect("a host of that name");
        host.connected = false;
        let id = host.record.id;
        self.feed(ControllerEvent::NodeGone(id));
    }

    /// A host that was cut off sees the store again.
    pub(crate) fn join(&mut self, name: &str) {
        let groups = self.store.groups.clone();
        let host = self.hosts.get_mut(name).expect("a host of that name");
        host.connected = true;
        let known: Vec<_> = host.groups.keys().cloned().collect();
        for group in known.iter().filter(|group| !groups.contains_key(group)) {
            host.sees_gone(group);
        }
        self.told(name);
    }

    /// All members of a group's newest incarnation are like this now.
    pub(crate) fn members(&mut self, group: &GroupId, state: &MemberState) {
        let Some(record) = self.store.groups.get(group).cloned() else { return };
        for index in 0..record.members.len() as u32 {
            self.set(group, index, state);
        }
        self.report(&record);
    }

    /// One member of a group's newest incarnation is like this now.
    pub(crate) fn member(&mut self, group: &GroupId, index: u32, state: &MemberState) {
        let Some(record) = self.store.groups.get(group).cloned() else { return };
        self.set(group, index, state);
        self.report(&record);
    }

    fn set(&mut self, group: &GroupId, index: u32, state: &MemberState) {
        for host in self.hosts.values_mut() {
            if let Some(member) = host.members.get_mut(&(group.clone(), index)) {
                member.1 = state.clone();
            }
        }
    }

    fn report(&mut self, record: &GroupRecord) {
        let on = |host: &&Host| record.members.iter().any(|m| m.node == host.record.id);
        let names: Vec<String> =
            self.hosts.values().filter(on).map(|host| host.record.name.clone()).collect();
        for name in names {
            // What came of the reports before may have changed what this host has to report.
            let host = &self.hosts[&name];
            if host.connected {
                let status = host.status();
                self.feed(ControllerEvent::StatusPut(status));
            }
        }
    }

    pub(crate) fn declare(&mut self, desired: Desired) {
        self.store.services.insert(desired.name.clone(), desired.clone());
        self.feed(ControllerEvent::Declared(desired));
    }

    pub(crate) fn undeclare(&mut self, name: &ServiceName) {
        self.store.services.remove(name);
        self.feed(ControllerEvent::Undeclared(name.clone()));
    }

    pub(crate) fn cordon(&mut self, name: &str, drain: Option<u32>) {
        let node = self.hosts[name].record.id;
        let record = CordonRecord { node, drain, since: 0 };
        self.store.cordons.insert(node, record.clone());
        self.feed(ControllerEvent::CordonPut(record));
    }

    pub(crate) fn uncordon(&mut self, name: &str) {
        let node = self.hosts[name].record.id;
        self.store.cordons.remove(&node);
        self.feed(ControllerEvent::CordonGone(node));
    }

    /// Time passes, a tick at a time.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = (self.now + TICK).min(end);
            self.feed(ControllerEvent::Tick);
        }
    }

    /// Another controller takes office: it knows what the store holds.
    pub(crate) fn fail_over(&mut self) {
        self.controllers += 1;
        self.controller = Controller::new(self.timing, self.controllers);
        let store = self.store.clone();
        let mut events = Vec::new();
        for (slot, record) in store.events {
            events.push(ControllerEvent::EventStored(slot, record));
        }
        for host in self.hosts.values().filter(|host| host.connected) {
            events.push(ControllerEvent::NodePut(host.record.clone()));
            events.push(ControllerEvent::StatusPut(host.status()));
        }
        events.extend(store.services.into_values().map(ControllerEvent::Declared));
        events.extend(store.gateways.into_iter().map(ControllerEvent::GatewayPut));
        events.extend(store.cordons.into_values().map(ControllerEvent::CordonPut));
        for (endpoint, address) in store.endpoints {
            events.push(ControllerEvent::EndpointPut(endpoint, address));
        }
        for (name, held) in store.demand {
            events.push(ControllerEvent::DemandPut(name, NodeId::default(), held));
        }
        for ((name, _), record) in store.revisions {
            events.push(ControllerEvent::RevisionPut(name, record));
        }
        for (name, status) in store.statuses {
            events.push(ControllerEvent::StatusStored(name, status));
        }
        events.push(ControllerEvent::Synced);
        events.push(ControllerEvent::Elected(self.store.groups.values().cloned().collect()));
        events.into_iter().for_each(|event| self.feed(event));
        self.pass(self.timing.settle);
    }

    /// The store loses all but what its users put back: hosts, gateways and specifications.
    pub(crate) fn wipe(&mut self) {
        let services = self.store.services.clone();
        let gateways = std::mem::take(&mut self.store.gateways);
        self.store = Store { services, gateways, ..Store::default() };
        self.fail_over();
    }

    /// The store as bytes, but for what is declared and what happened.
    pub(crate) fn entries(&self, keys: &Keys) -> Vec<(String, Vec<u8>)> {
        let mut entries = Vec::new();
        for host in self.hosts.values().filter(|host| host.connected) {
            let id = host.record.id;
            entries.push((keys.node(id), to_bytes(host.record.clone())));
            entries.push((keys.node_status(id), to_bytes(host.status())));
        }
        for (group, record) in &self.store.groups {
            entries.push((keys.group(group), to_bytes(record.clone())));
        }
        for (of, status) in &self.store.statuses {
            let key = keys.service_status(&of.namespace, &of.name);
            entries.push((key, to_bytes(status.clone())));
        }
        for ((of, number), record) in &self.store.revisions {
            let key = keys.revision(&of.namespace, &of.name, *number);
            entries.push((key, to_bytes(record.clone())));
        }
        for (node, cordon) in &self.store.cordons {
            entries.push((keys.cordon(*node), to_bytes(cordon.clone())));
        }
        entries
    }

    /// What holds at all times.
    fn check(&self) {
        let mut planned: BTreeMap<NodeId, u32> = BTreeMap::new();
        for record in self.store.groups.values() {
            for member in &record.members {
                *planned.entry(member.node).or_default() += member.ranks.len() as u32;
            }
        }
        for host in self.hosts.values() {
            let planned = planned.get(&host.record.id).copied().unwrap_or(0);
            let (name, devices) = (&host.record.name, host.record.devices);
            assert!(planned <= devices, "{name}: {planned} ranks on {devices} devices");
        }
    }
}

// === impl Host ===

impl Host {
    fn new(name: &str, number: u128) -> Self {
        let record = NodeRecord {
            id: NodeId(Uuid::from_u128(number)),
            name: name.to_owned(),
            process: Uuid::from_u128(1000),
            devices: 1,
            device_kind: "cpu".into(),
            version: "0".into(),
            wire: troupe_runtime::wire::VERSION,
            labels: BTreeMap::new(),
            device_memory: 0,
            address: None,
            leaving: false,
        };
        Self {
            record,
            connected: true,
            groups: BTreeMap::new(),
            members: BTreeMap::new(),
            epochs: BTreeMap::new(),
        }
    }

    /// A group is planned. Says whether that changes anything here.
    fn sees(&mut self, record: &GroupRecord) -> bool {
        let id = &record.group;
        let mine = |node, process| node == self.record.id && process == self.record.process;
        let seen = self.epochs.get(&id.to_string()).copied().unwrap_or(0);
        let on_me = record.members.iter().any(|member| mine(member.node, member.process));
        if record.epoch.number < seen {
            return false;
        }
        let before = self.members.len();
        self.members.retain(|(group, _), (epoch, _)| group != id || *epoch == record.epoch);
        let mut changed = self.members.len() != before;
        if !on_me {
            changed |= self.groups.remove(id).is_some();
            return changed;
        }
        self.epochs.insert(id.to_string(), record.epoch.number);
        for (index, member) in record.members.iter().enumerate() {
            let key = (id.clone(), index as u32);
            if mine(member.node, member.process) && !self.members.contains_key(&key) {
                self.members.insert(key, (record.epoch, MemberState::Starting));
                changed = true;
            }
        }
        self.groups.insert(id.clone(), record.clone());
        changed
    }

    fn sees_gone(&mut self, group: &GroupId) -> bool {
        let before = self.members.len();
        self.members.retain(|(own, _), _| own != group);
        self.groups.remove(group).is_some() || self.members.len() != before
    }

    fn status(&self) -> NodeStatus {
        let members = self.members.iter().map(|((group, member), (epoch, state))| MemberStatus {
            group: group.clone(),
            epoch: *epoch,
            member: *member,
            address: None,
            state: state.clone(),
            blames: None,
        });
        let lives = |group: &&GroupRecord| {
            self.members.iter().any(|((own, _), (_, state))| {
                *own == group.group && !matches!(state, MemberState::Exited(_))
            })
        };
        NodeStatus {
            node: self.record.id,
            process: self.record.process,
            members: members.collect(),
            epochs: self.epochs.clone(),
            groups: self.groups.values().filter(lives).cloned().collect(),
        }
    }
}

/// How often the controller looks around.
const TICK: Duration = Duration::from_millis(200);
