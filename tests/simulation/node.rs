//! A node: its core, with members as processes of its host, and its records in the store.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use troupe_actors::node::core::{MemberKey, Node as Core, NodeEffect, NodeEvent};
use troupe_runtime::{
    discovery::{
        WatchEvent,
        directory::{self, GroupRecord, NodeRecord, NodeStatus},
        rehearsal::Command,
    },
    wire::{self, member::NodeToMember},
};

use super::{
    faults::Sabotage,
    lease::Lease,
    member::Member,
    watch::{Watch, Witness, Witnessed},
    words::{Timer, Word},
    world::{HostId, PIPE, Pid, Role, World, away},
};

/// A node's process.
pub(crate) struct Node {
    host: HostId,
    core: Core,
    lease: Lease,
    groups: Witnessed,
    statuses: Watch,
    known: BTreeMap<String, GroupRecord>,
    children: BTreeMap<Pid, MemberKey>,
    writes: Writes,
    begun: bool,
}

/// Writes to the store in order, each until it is done; of several for one key only the last.
#[derive(Default)]
struct Writes {
    queue: VecDeque<Command>,
    waiting: BTreeMap<String, Command>,
    /// Under way.
    at: Option<String>,
    /// The last one was not done: a while is waited.
    pauses: bool,
}

// === impl Node ===

impl Node {
    pub(crate) fn new(world: &mut World, host: HostId) -> Self {
        let process = world.dice.id();
        let own = &world.hosts[host];
        let record = NodeRecord {
            id: own.node.unwrap_or_default(),
            name: own.name.clone(),
            process,
            devices: own.devices,
            device_kind: "cpu".into(),
            version: "0".into(),
            wire: wire::VERSION,
            labels: BTreeMap::new(),
            device_memory: 0,
            address: Some(format!("quic://sim:{host}")),
            leaving: false,
        };
        let core = Core::new(record, own.epochs.clone());
        let (groups, statuses) = (world.keys.groups(), world.keys.node_statuses());
        Self {
            host,
            core,
            lease: Lease::new(world, HOST_MILLIS),
            groups: Witnessed::new(world, 0, groups),
            statuses: Watch::new(world, 1, statuses),
            known: BTreeMap::new(),
            children: BTreeMap::new(),
            writes: Writes::default(),
            begun: false,
        }
    }

    pub(crate) fn handle(&mut self, world: &mut World, me: Pid, word: Word) {
        if self.groups.hear(world, me, &word) {
            return self.groups_told(world, me);
        }
        if let Some(events) = self.statuses.hear(world, me, &word) {
            return self.statuses_told(world, me, events);
        }
        match word {
            Word::Begin => self.begin(world, me),
            Word::Timer(Timer::Lease(timer)) => self.lease.timer(world, me, timer),
            Word::Timer(Timer::Late(number)) => {
                self.answered(world, me, number, Err(away("late")));
            }
            Word::Answered(number, answer) => self.answered(world, me, number, answer),
            Word::Timer(Timer::Write) => self.writes.pauses = false,
            Word::Timer(Timer::Reap(child)) if world.lives(child) => {
                world.kill(child, "killed: it did not stop in time");
            }
            Word::FromMember(child, said) => {
                if let Some(key) = self.children.get(&child).cloned() {
                    self.event(world, me, NodeEvent::Member(key, said));
                }
            }
            Word::Ended(child, how) => {
                if let Some(key) = self.children.remove(&child) {
                    self.event(world, me, NodeEvent::Exited(key, how));
                }
            }
            Word::Leave(seconds) => self.event(world, me, NodeEvent::Leave(seconds)),
            _ => {}
        }
        self.write(world, me);
    }

    fn begin(&mut self, world: &mut World, me: Pid) {
        self.lease.begin(world, me);
        let key = world.keys.node(self.core.id());
        let record = directory::to_bytes(self.core.record());
        self.lease.command(world, me, Command::Put(key, record));
        let key = world.keys.node_status(self.core.id());
        let status = directory::to_bytes(self.core.status());
        self.lease.command(world, me, Command::Put(key, status));
    }

    fn answered(
        &mut self,
        world: &mut World,
        me: Pid,
        number: u64,
        answer: Result<
            troupe_runtime::discovery::rehearsal::Answer,
            troupe_runtime::discovery::RegistryError,
        >,
    ) {
        let mut answer = Some(answer);
        if self.lease.answered(world, me, number, &mut answer) {
            return;
        }
        if self.groups.answered(world, me, number, &mut answer) {
            self.groups_told(world, me);
        }
    }

    fn groups_told(&mut self, world: &mut World, me: Pid) {
        while let Some(told) = self.groups.next() {
            let event = match told {
                Witness::Event(WatchEvent::Put(entry)) => {
                    let read = directory::from_bytes::<GroupRecord>(&entry.key, &entry.value);
                    let Ok(record) = read else { continue };
                    self.known.insert(entry.key, record.clone());
                    NodeEvent::GroupPut(record)
                }
                Witness::Gone(key, meant) => {
                    let Some(record) = self.known.remove(&key) else { continue };
                    let id = self.core.id();
                    if !meant && record.members.iter().any(|member| member.node == id) {
                        continue;
                    }
                    NodeEvent::GroupGone(record.group)
                }
                Witness::Event(_) => continue,
            };
            self.event(world, me, event);
        }
        self.write(world, me);
    }

    fn statuses_told(&mut self, world: &mut World, me: Pid, events: Vec<WatchEvent>) {
        for event in events {
            let WatchEvent::Put(entry) = event else { continue };
            if let Ok(status) = directory::from_bytes::<NodeStatus>(&entry.key, &entry.value) {
                self.event(world, me, NodeEvent::StatusPut(status));
            }
        }
        self.write(world, me);
    }

    fn event(&mut self, world: &mut World, me: Pid, event: NodeEvent) {
        if let NodeEvent::GroupPut(record) = &event {
            world.check.epochs.seen(self.host, &record.group, record.epoch);
        }
        if world.sabotage == Sabotage::FenceForgotten {
            self.forget_fence(&event);
        }
        for effect in self.core.handle(event) {
            self.act(world, me, effect);
        }
        world.check.epochs.settled(self.host, &self.core.status());
    }

    /// A host that forgets what it has seen takes any incarnation.
    fn forget_fence(&mut self, event: &NodeEvent) {
        if matches!(event, NodeEvent::GroupPut(_)) && self.children.is_empty() {
            self.core = Core::new(self.core.record().clone(), BTreeMap::new());
        }
    }

    fn act(&mut self, world: &mut World, me: Pid, effect: NodeEffect) {
        let keys = &world.keys;
        match effect {
            NodeEffect::Spawn(key, record) => {
                world.check.epochs.started(self.host, &key);
                let after = world.dice.time(START.0, START.1) * world.slow_factor(self.host);
                let member = Member::new(key.clone(), record, self.host);
                let child = world.spawn(self.host, Some(me), after, Role::Member(Box::new(member)));
                self.children.insert(child, key);
            }
            NodeEffect::Tell(key, what) => self.tell(world, me, &key, what),
            NodeEffect::End(key) => {
                world.check.epochs.ended(self.host, &key);
                self.tell(world, me, &key, NodeToMember::Stop);
            }
            NodeEffect::PutRecord(record) => {
                let key = keys.node(record.id);
                self.writes.queue.push_back(Command::Put(key, directory::to_bytes(record)));
            }
            NodeEffect::PutStatus(status) => {
                let key = keys.node_status(self.core.id());
                self.writes.queue.push_back(Command::Put(key, directory::to_bytes(status)));
            }
            NodeEffect::PutDeaths(deaths) => {
                let key = keys.deaths(self.core.id());
                self.writes.queue.push_back(Command::Put(key, directory::to_bytes(deaths)));
            }
            NodeEffect::PutEndpoint(key, record) => {
                let key = keys.endpoint(&key.group, key.epoch);
                self.writes.queue.push_back(Command::Put(key, record));
            }
            NodeEffect::DeleteEndpoint(key) => {
                let key = keys.endpoint(&key.group, key.epoch);
                self.writes.queue.push_back(Command::Delete(key));
            }
            NodeEffect::Persist(epochs) => world.hosts[self.host].epochs = epochs,
            NodeEffect::Left => {
                self.lease.command(world, me, Command::Revoke);
                world.exit(me, "nothing runs here any more");
            }
        }
    }

    fn tell(&self, world: &mut World, me: Pid, key: &MemberKey, what: NodeToMember) {
        let Some((child, _)) = self.children.iter().find(|(_, own)| *own == key) else { return };
        let stops = what == NodeToMember::Stop;
        world.enter(PIPE, *child, Word::FromNode(what));
        if stops {
            world.timer(me, REAP, Timer::Reap(*child));
        }
    }

    /// Goes on with what is to be written, and watches once its records were asked for.
    fn write(&mut self, world: &mut World, me: Pid) {
        while let Some(through) = self.lease.through() {
            let Some(Command::Put(key, _) | Command::Delete(key)) = &through.command else {
                continue;
            };
            if self.begun {
                if self.writes.done(key, through.outcome.is_ok()) {
                    world.timer(me, RETRY, Timer::Write);
                }
            } else if *key == world.keys.node_status(self.core.id()) {
                self.begun = true;
                self.groups.open(world, me);
                self.statuses.open(world, me);
            }
        }
        if self.begun
            && let Some(command) = self.writes.next()
        {
            self.lease.command(world, me, command);
        }
    }
}

// === impl Writes ===

impl Writes {
    fn next(&mut self) -> Option<Command> {
        if self.at.is_some() || self.pauses {
            return None;
        }
        for command in self.queue.drain(..) {
            if let Command::Put(key, _) | Command::Delete(key) = &command {
                self.waiting.insert(key.clone(), command);
            }
        }
        let (key, command) = self.waiting.first_key_value()?;
        self.at = Some(key.clone());
        Some(command.clone())
    }

    /// One is through; whether a while is to be waited.
    fn done(&mut self, key: &String, done: bool) -> bool {
        if self.at.take_if(|at| at == key).is_none() {
            return false;
        }
        if done {
            self.waiting.remove(key);
        } else {
            self.pauses = true;
        }
        !done
    }
}

/// How long a host's lease is.
const HOST_MILLIS: u64 = 3000;
/// What starting a process takes.
const START: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(60));
/// A member that was asked to stop does so within this, or is killed.
const REAP: Duration = Duration::from_secs(6);
/// Between attempts to write.
const RETRY: Duration = Duration::from_millis(500);
