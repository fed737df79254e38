//! What should run on this host, and what does.
//!
//! The node compares the groups' records with the members that it has and starts or ends members
//! until they agree. Fencing is here: it remembers the highest epoch that it has seen of each group
//! and refuses lower ones, and it starts a member only when its devices are free, which is when the
//! process that held them has been reaped.
//!
//! A group that is to drain, and every group of a host that is being stopped, takes nothing new:
//! the endpoint's record goes first, so that gateways stop asking, then the members are told.

use std::collections::BTreeMap;

use troupe_runtime::{
    discovery::directory::{
        Death, DeathsRecord, GroupRecord, MemberState, MemberStatus, NodeRecord, NodeStatus,
        StartupPolicy,
    },
    id::{Epoch, GroupId, NodeId, RequestId},
    wire::member::{Blame, MemberToNode, NodeToMember},
};

/// One member on this host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey {
    /// Its group.
    pub group: GroupId,
    /// Its incarnation.
    pub epoch: Epoch,
    /// Its index.
    pub member: u32,
}

/// What can happen to a node.
#[derive(Clone, Debug)]
pub enum NodeEvent {
    /// A group was planned or changed.
    GroupPut(GroupRecord),
    /// A group is no longer wanted.
    GroupGone(GroupId),
    /// Another host reported its members (or this one did: that is ignored).
    StatusPut(NodeStatus),
    /// A member speaks.
    Member(MemberKey, MemberToNode),
    /// A member has ended and was reaped; the requests that may be why, if it was its own fault.
    /// Comes before [`NodeEvent::Exited`].
    Died(MemberKey, Vec<RequestId>),
    /// A member has ended and was reaped.
    Exited(MemberKey, String),
    /// The host is being stopped: what runs here has so many seconds to finish.
    Leave(u32),
}

/// What a node wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeEffect {
    /// Start this member.
    Spawn(MemberKey, GroupRecord),
    /// Tell a member.
    Tell(MemberKey, NodeToMember),
    /// Ask it to stop, and kill it if it does not.
    End(MemberKey),
    /// Store what this host is.
    PutRecord(NodeRecord),
    /// Store the report.
    PutStatus(NodeStatus),
    /// Store how members died.
    PutDeaths(DeathsRecord),
    /// Store the endpoint's record.
    PutEndpoint(MemberKey, Vec<u8>),
    /// The endpoint is gone.
    DeleteEndpoint(MemberKey),
    /// Keep the highest epochs on disk, before anything of them is started.
    Persist(BTreeMap<String, u64>),
    /// The host is being stopped and nothing runs on it any more.
    Left,
}

/// A host's members and what is wanted of it.
#[derive(Clone, Debug)]
pub struct Node {
    record: NodeRecord,
    wanted: BTreeMap<GroupId, GroupRecord>,
    members: BTreeMap<MemberKey, Local>,
    /// Where leaders listen, as their hosts report.
    leaders: BTreeMap<(GroupId, Epoch), String>,
    epochs: BTreeMap<String, u64>,
    /// Of members that nobody had asked to end.
    deaths: DeathsRecord,
    /// The host is being stopped, and what runs has so many seconds.
    leaving: Option<u32>,
}

#[derive(Clone, Debug)]
struct Local {
    ranks: u32,
    state: MemberState,
    address: Option<String>,
    ending: bool,
    told_leader: bool,
    /// It was told to drain within so many seconds.
    drain: Option<u32>,
    /// Its endpoint stands in the store.
    endpoint: bool,
    /// What it said before it ended.
    cause: Option<String>,
    /// Who its group's end is due to, as it said.
    blames: Option<Blame>,
}

impl Node {
    /// A host without members that has seen these epochs.
    pub fn new(record: NodeRecord, epochs: BTreeMap<String, u64>) -> Self {
        let (wanted, members, leaders) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let deaths = DeathsRecord::default();
        Self { record, wanted, members, leaders, epochs, deaths, leaving: None }
    }

    /// What the store should say of this host.
    pub fn record(&self) -> &NodeRecord {
        &self.record
    }

    /// What the store should say of its members.
    pub fn status(&self) -> NodeStatus {
        let members = self
            .members
            .iter()
            .map(|(key, local)| MemberStatus {
                group: key.group.clone(),
                epoch: key.epoch,
                member: key.member,
                address: local.address.clone(),
                state: local.state.clone(),
                blames: local.blames.clone(),
            })
            .collect();
        NodeStatus {
            node: self.record.id,
            process: self.record.process,
            members,
            epochs: self.epochs.clone(),
            groups: self.living_groups(),
        }
    }

    /// The groups whose members live here, as they were planned.
    fn living_groups(&self) -> Vec<GroupRecord> {
        let lives = |record: &&GroupRecord| {
            self.members.iter().any(|(key, local)| {
                local.is_alive() && key.group == record.group && key.epoch == record.epoch
            })
        };
        self.wanted.values().filter(lives).cloned().collect()
    }

    /// Takes one event and says what to do about it.
    pub fn handle(&mut self, event: NodeEvent) -> Vec<NodeEffect> {
        let mut effects = Vec::new();
        match event {
            NodeEvent::GroupPut(record) => self.want(record, &mut effects),
            NodeEvent::GroupGone(group) => drop(self.wanted.remove(&group)),
            NodeEvent::StatusPut(status) => self.learn_leaders(&status),
            NodeEvent::Member(key, said) => self.hear(&key, said, &mut effects),
            NodeEvent::Died(key, suspects) => self.died(key, suspects, &mut effects),
            NodeEvent::Exited(key, how) => self.exited(&key, how, &mut effects),
            NodeEvent::Leave(seconds) => self.leave(seconds, &mut effects),
        }
        self.reconcile(&mut effects);
        effects
    }

    /// Fences: an epoch lower than one seen is of a controller or a store from the past.
    fn want(&mut self, record: GroupRecord, effects: &mut Vec<NodeEffect>) {
        let seen = self.epochs.entry(record.group.to_string()).or_insert(0);
        if record.epoch.number < *seen {
            return;
        }
        if record.epoch.number > *seen {
            *seen = record.epoch.number;
            effects.push(NodeEffect::Persist(self.epochs.clone()));
        }
        let group = record.group.clone();
        let before = self.wanted.insert(group.clone(), record);
        let here = self.members.keys().any(|key| key.group == group);
        if here && before.as_ref() != self.wanted.get(&group) {
            effects.push(NodeEffect::PutStatus(self.status()));
        }
    }

    fn leave(&mut self, seconds: u32, effects: &mut Vec<NodeEffect>) {
        self.leaving = Some(seconds);
        self.record.leaving = true;
        effects.push(NodeEffect::PutRecord(self.record.clone()));
    }

    fn learn_leaders(&mut self, status: &NodeStatus) {
        for member in &status.members {
            if let (0, Some(address)) = (member.member, &member.address) {
                let key = (member.group.clone(), member.epoch);
                self.leaders.insert(key, address.clone());
            }
        }
        let wanted = &self.wanted;
        self.leaders.retain(|(group, epoch), _| {
            wanted.get(group).is_none_or(|record| record.epoch.number <= epoch.number)
        });
    }

    fn hear(&mut self, key: &MemberKey, said: MemberToNode, effects: &mut Vec<NodeEffect>) {
        let Some(local) = self.members.get_mut(key) else { return };
        match said {
            MemberToNode::Listening(address) => {
                local.state = MemberState::Listening;
                local.address = Some(address.clone());
                if key.member == 0 {
                    self.leaders.insert((key.group.clone(), key.epoch), address);
                }
            }
            MemberToNode::Ready(record) => {
                local.state = MemberState::Ready;
                // One that is to drain is ready to end.
                if local.drain.is_none() {
                    local.endpoint = true;
                    effects.push(NodeEffect::PutEndpoint(key.clone(), record));
                }
            }
            MemberToNode::Draining => return local.withdraw(key, effects),
            MemberToNode::Failed(cause) => {
                local.cause = Some(cause);
                return;
            }
            MemberToNode::Blames(blame) => local.blames = Some(blame),
            // Whoever reads its words has noticed.
            MemberToNode::Alive => return,
        }
        effects.push(NodeEffect::PutStatus(self.status()));
    }

    fn died(&mut self, key: MemberKey, suspects: Vec<RequestId>, effects: &mut Vec<NodeEffect>) {
        let asked = |local: &Local| local.ending || local.drain.is_some();
        if self.members.get(&key).is_none_or(asked) {
            return;
        }
        let MemberKey { group, epoch, member } = key;
        let deaths = &mut self.deaths.deaths;
        deaths.push(Death { group, epoch, member, suspects });
        deaths.drain(..deaths.len().saturating_sub(MOST_DEATHS));
        effects.push(NodeEffect::PutDeaths(self.deaths.clone()));
    }

    fn exited(&mut self, key: &MemberKey, how: String, effects: &mut Vec<NodeEffect>) {
        let Some(local) = self.members.get_mut(key) else { return };
        local.withdraw(key, effects);
        local.state = MemberState::Exited(local.cause.take().unwrap_or(how));
        local.address = None;
        effects.push(NodeEffect::PutStatus(self.status()));
    }

    fn reconcile(&mut self, effects: &mut Vec<NodeEffect>) {
        self.end_unwanted(effects);
        self.drain(effects);
        self.forget_old(effects);
        self.start_wanted(effects);
        self.tell_leaders(effects);
        if self.leaving.is_some() && !self.members.values().any(Local::is_alive) {
            effects.push(NodeEffect::Left);
        }
    }

    fn is_wanted(&self, key: &MemberKey) -> bool {
        self.wanted.get(&key.group).is_some_and(|record| record.epoch == key.epoch)
    }

    fn end_unwanted(&mut self, effects: &mut Vec<NodeEffect>) {
        let unwanted: Vec<_> =
            self.members.keys().filter(|key| !self.is_wanted(key)).cloned().collect();
        for key in unwanted {
            let Some(local) = self.members.get_mut(&key) else { continue };
            if local.is_alive() && !local.ending {
                local.ending = true;
                effects.push(NodeEffect::End(key));
            }
        }
    }

    /// Tells members of how little time there is whenever it is less than they know.
    fn drain(&mut self, effects: &mut Vec<NodeEffect>) {
        for (key, local) in &mut self.members {
            let record = self.wanted.get(&key.group).filter(|record| record.epoch == key.epoch);
            let planned = record.and_then(|record| record.drain).map(|drain| drain.seconds);
            let Some(seconds) = planned.into_iter().chain(self.leaving).min() else { continue };
            let less = local.drain.is_none_or(|told| seconds < told);
            if less && local.is_alive() && !local.ending {
                local.drain = Some(seconds);
                local.withdraw(key, effects);
                effects.push(NodeEffect::Tell(key.clone(), NodeToMember::Drain(seconds)));
            }
        }
    }

    /// Members that have ended are reported until their incarnation is history.
    fn forget_old(&mut self, effects: &mut Vec<NodeEffect>) {
        let before = self.members.len();
        let wanted = &self.wanted;
        self.members.retain(|key, local| {
            local.is_alive() || wanted.get(&key.group).is_some_and(|r| r.epoch == key.epoch)
        });
        if self.members.len() < before {
            effects.push(NodeEffect::PutStatus(self.status()));
        }
    }

    fn start_wanted(&mut self, effects: &mut Vec<NodeEffect>) {
        let mut free = self.free_devices();
        let mut changed = false;
        for record in self.wanted.values() {
            for (index, member) in record.members.iter().enumerate() {
                let key = MemberKey {
                    group: record.group.clone(),
                    epoch: record.epoch,
                    member: index as u32,
                };
                let mine = member.node == self.record.id && member.process == self.record.process;
                let ranks = member.ranks.len() as u32;
                if !mine || self.members.contains_key(&key) || ranks > free {
                    continue;
                }
                let mut local = Local::starting(ranks);
                if record.drain.is_some() || self.leaving.is_some() {
                    // It has nothing to finish.
                    local.state = MemberState::Exited(MemberState::DRAINED.into());
                } else if self.may_start(record, &key) {
                    free -= ranks;
                    effects.push(NodeEffect::Spawn(key.clone(), record.clone()));
                } else {
                    continue;
                }
                changed = true;
                self.members.insert(key, local);
            }
        }
        if changed {
            effects.push(NodeEffect::PutStatus(self.status()));
        }
    }

    /// With `LeaderReady` a member has somebody to find before it is started.
    fn may_start(&self, record: &GroupRecord, key: &MemberKey) -> bool {
        record.startup == StartupPolicy::LeaderCreated
            || key.member == 0
            || self.leaders.contains_key(&(key.group.clone(), key.epoch))
    }

    fn tell_leaders(&mut self, effects: &mut Vec<NodeEffect>) {
        for (key, local) in &mut self.members {
            let leader = self.leaders.get(&(key.group.clone(), key.epoch));
            if let (Some(address), true, false) = (leader, local.is_alive(), local.told_leader) {
                local.told_leader = true;
                let tell = NodeToMember::Leader(address.clone());
                effects.push(NodeEffect::Tell(key.clone(), tell));
            }
        }
    }

    fn free_devices(&self) -> u32 {
        let used: u32 = self.members.values().filter(|l| l.is_alive()).map(|l| l.ranks).sum();
        self.record.devices.saturating_sub(used)
    }

    /// This host.
    pub fn id(&self) -> NodeId {
        self.record.id
    }
}

impl Local {
    fn starting(ranks: u32) -> Self {
        Self {
            ranks,
            state: MemberState::Starting,
            address: None,
            ending: false,
            told_leader: false,
            drain: None,
            endpoint: false,
            cause: None,
            blames: None,
        }
    }

    /// Takes its endpoint away, if it has one.
    fn withdraw(&mut self, key: &MemberKey, effects: &mut Vec<NodeEffect>) {
        if std::mem::take(&mut self.endpoint) {
            effects.push(NodeEffect::DeleteEndpoint(key.clone()));
        }
    }

    fn is_alive(&self) -> bool {
        !matches!(self.state, MemberState::Exited(_))
    }
}

/// Deaths that gateways can still read about: they look at once, and need each only for seconds.
const MOST_DEATHS: usize = 16;

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
