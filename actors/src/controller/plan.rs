//! Observe, then plan: which groups there should be, of which members, in which incarnation.
//!
//! A group is planned all or nothing: every rank has a device, or nothing is written. A group with
//! a member that ended, whose host is gone, or whose host's process was restarted gets a new
//! incarnation: epoch = 1 + the highest that the store or any node reports. A group that keeps
//! failing before it ever served waits longer each time. A host is given up only when its lease has
//! been gone for one more lease time, and never while more than a third of all vanished together:
//! then it is the store or the network that is ill, not the hosts.

use std::{collections::BTreeMap, time::Duration};

use troupe_runtime::{
    discovery::directory::{
        GroupMember, GroupRecord, MemberState, NodeRecord, NodeStatus, RestartPolicy,
        ServiceStatus, StartupPolicy,
    },
    id::{Epoch, GroupId, NodeId},
};

use super::desired::Desired;
use crate::group::layout::{Parallel, deal};

/// What can be observed.
#[derive(Clone, Debug)]
pub enum ControllerEvent {
    /// A host is there.
    NodePut(NodeRecord),
    /// A host's lease is gone.
    NodeGone(NodeId),
    /// A host reported its members.
    StatusPut(NodeStatus),
    /// A service is declared.
    Declared(Desired),
    /// A service is no longer declared.
    Undeclared(String, String),
    /// A group is in the store.
    GroupPut(GroupRecord),
    /// A group is no longer in the store.
    GroupGone(GroupId),
    /// Everything that the store holds has been told.
    Synced,
    /// This controller took office; the store holds these groups.
    Elected(Vec<GroupRecord>),
    /// It lost the office, or a write failed: what it planned may not be what is stored.
    Deposed,
    /// Time has passed.
    Tick,
}

/// What should be written.
#[derive(Clone, Debug, PartialEq)]
pub enum ControllerEffect {
    /// This group, like this.
    PutGroup(GroupRecord),
    /// Not this group.
    DeleteGroup(GroupId),
    /// What people are told of a service: namespace, name.
    PutServiceStatus(String, String, ServiceStatus),
}

/// What the controller knows.
#[derive(Clone, Debug)]
pub struct Controller {
    timing: Timing,
    entropy: u64,
    synced: bool,
    /// In office, and since when.
    elected: Option<Duration>,
    nodes: BTreeMap<NodeId, NodeRecord>,
    /// Hosts without a lease, and since when.
    lost: BTreeMap<NodeId, Duration>,
    statuses: BTreeMap<NodeId, NodeStatus>,
    services: BTreeMap<(String, String), Desired>,
    groups: BTreeMap<GroupId, GroupRecord>,
    attempts: BTreeMap<GroupId, Attempts>,
    told: BTreeMap<(String, String), ServiceStatus>,
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

/// How often a group has failed in a row without ever serving.
#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    failed: u32,
    not_before: Duration,
    /// The incarnation whose end has been counted.
    counted: Epoch,
}

impl Controller {
    /// A controller that knows nothing yet; `entropy` feeds the nonces of epochs and must differ
    /// from controller to controller.
    pub fn new(timing: Timing, entropy: u64) -> Self {
        Self {
            timing,
            entropy,
            synced: false,
            elected: None,
            nodes: BTreeMap::new(),
            lost: BTreeMap::new(),
            statuses: BTreeMap::new(),
            services: BTreeMap::new(),
            groups: BTreeMap::new(),
            attempts: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// Takes one event and says what to write.
    pub fn handle(&mut self, now: Duration, event: ControllerEvent) -> Vec<ControllerEffect> {
        match event {
            ControllerEvent::NodePut(node) => {
                self.lost.remove(&node.id);
                self.nodes.insert(node.id, node);
            }
            ControllerEvent::NodeGone(node) => drop(self.lost.entry(node).or_insert(now)),
            ControllerEvent::StatusPut(status) => drop(self.statuses.insert(status.node, status)),
            ControllerEvent::Declared(desired) => {
                let key = (desired.namespace.clone(), desired.name.clone());
                self.services.insert(key, desired);
            }
            ControllerEvent::Undeclared(namespace, name) => {
                self.services.remove(&(namespace, name));
            }
            ControllerEvent::GroupPut(group) => {
                drop(self.groups.insert(group.group.clone(), group));
            }
            ControllerEvent::GroupGone(group) => drop(self.groups.remove(&group)),
            ControllerEvent::Synced => self.synced = true,
            ControllerEvent::Elected(groups) => {
                self.elected = Some(now);
                self.told.clear();
                self.groups = groups.into_iter().map(|g| (g.group.clone(), g)).collect();
            }
            ControllerEvent::Deposed => self.elected = None,
            ControllerEvent::Tick => {}
        }
        let settled = |since: Duration| now.saturating_sub(since) >= self.timing.settle;
        if self.synced && self.elected.is_some_and(settled) { self.plan(now) } else { Vec::new() }
    }

    fn plan(&mut self, now: Duration) -> Vec<ControllerEffect> {
        let mut effects = Vec::new();
        self.give_up_hosts(now);
        self.delete_unwanted(&mut effects);
        for (key, desired) in self.services.clone() {
            let mut problems = Vec::new();
            for index in 0..desired.replicas {
                let group = desired.group(index);
                if let Err(problem) = self.plan_group(now, &desired, &group, &mut effects) {
                    problems.push(format!("{group}: {problem}"));
                }
            }
            self.tell(key, &desired, problems.join("; "), &mut effects);
        }
        effects
    }

    fn give_up_hosts(&mut self, now: Duration) {
        // Rounded up, so that one host of two or three may go.
        let together = self.nodes.len().div_ceil(3);
        if self.lost.len() > together {
            return;
        }
        let lease = self.timing.lease;
        let gone: Vec<_> = self
            .lost
            .iter()
            .filter(|(_, since)| now.saturating_sub(**since) >= lease)
            .map(|(node, _)| *node)
            .collect();
        for node in gone {
            self.nodes.remove(&node);
            self.statuses.remove(&node);
            self.lost.remove(&node);
        }
    }

    fn delete_unwanted(&mut self, effects: &mut Vec<ControllerEffect>) {
        let services = &self.services;
        let unwanted: Vec<_> = self
            .groups
            .keys()
            .filter(|group| {
                let key = (group.namespace.clone(), group.service.clone());
                services.get(&key).is_none_or(|desired| group.index >= desired.replicas)
            })
            .cloned()
            .collect();
        for group in unwanted {
            self.groups.remove(&group);
            self.attempts.remove(&group);
            effects.push(ControllerEffect::DeleteGroup(group));
        }
    }

    /// Leaves a group alone if it is as it should be, else plans a new incarnation.
    fn plan_group(
        &mut self,
        now: Duration,
        desired: &Desired,
        group: &GroupId,
        effects: &mut Vec<ControllerEffect>,
    ) -> Result<(), String> {
        let broken = match self.groups.get(group) {
            None => None,
            Some(record) => match self.broken(record, desired) {
                None => return Ok(()),
                Some(why) => Some((record.epoch, why)),
            },
        };
        if let Some((epoch, why)) = &broken {
            let attempts = self.count_failure(now, group, *epoch);
            if now < attempts.not_before {
                return Err(format!("{why} (failed {} times, waits)", attempts.failed));
            }
        }
        let members = self.place(desired, group)?;
        let epoch = self.next_epoch(group);
        let record = GroupRecord {
            group: group.clone(),
            epoch,
            term: 0,
            revision: desired.revision,
            launch: desired.launch.clone(),
            members,
            startup: StartupPolicy::default(),
            restart: RestartPolicy::default(),
            drain: None,
        };
        self.groups.insert(group.clone(), record.clone());
        effects.push(ControllerEffect::PutGroup(record));
        match broken {
            Some((_, why)) => Err(why),
            None => Ok(()),
        }
    }

    /// Why this incarnation cannot go on, if it cannot.
    fn broken(&self, record: &GroupRecord, desired: &Desired) -> Option<String> {
        if record.launch != desired.launch {
            return Some("its service has changed".into());
        }
        for (index, member) in record.members.iter().enumerate() {
            let Some(node) = self.nodes.get(&member.node) else {
                return Some(format!("the host of member {index} is gone"));
            };
            if node.process != member.process {
                return Some(format!("host {} of member {index} was restarted", node.name));
            }
            if let Some(MemberState::Exited(cause)) = self.state(record, index as u32) {
                return Some(format!("member {index} on {} ended: {cause}", node.name));
            }
        }
        None
    }

    fn state(&self, record: &GroupRecord, index: u32) -> Option<&MemberState> {
        let node = record.members.get(index as usize)?.node;
        self.statuses
            .get(&node)?
            .members
            .iter()
            .find(|m| m.group == record.group && m.epoch == record.epoch && m.member == index)
            .map(|member| &member.state)
    }

    /// Counts each incarnation's end once; one that had served starts the count anew.
    fn count_failure(&mut self, now: Duration, group: &GroupId, epoch: Epoch) -> Attempts {
        let attempts = self.attempts.entry(group.clone()).or_default();
        if attempts.counted != epoch {
            attempts.counted = epoch;
            attempts.failed += 1;
            let doublings = attempts.failed.saturating_sub(FREE_RETRIES);
            let wait = match doublings {
                0 => Duration::ZERO,
                doublings => RETRY_FIRST * 2_u32.saturating_pow(doublings - 1),
            };
            attempts.not_before = now + wait.min(RETRY_MOST);
        }
        *attempts
    }

    fn place(&self, desired: &Desired, group: &GroupId) -> Result<Vec<GroupMember>, String> {
        let launch = &desired.launch;
        let parallel =
            Parallel { tensor: launch.tensor_parallel, pipeline: launch.pipeline_parallel };
        let mut hosts: Vec<_> = self
            .nodes
            .values()
            .filter(|node| !self.lost.contains_key(&node.id))
            .map(|node| (node, self.free_devices(node, group)))
            .filter(|(_, free)| *free > 0)
            .collect();
        // Fewest hosts first: a host that can take all, then the freest; ties in id order.
        hosts.sort_by_key(|(node, free)| (std::cmp::Reverse(*free), node.id));
        let free: Vec<_> = hosts.iter().map(|(_, free)| *free).collect();
        let places = deal(parallel, launch.member_per, &free).ok_or_else(|| {
            format!(
                "needs {} devices ({} stages of {} ranks), {} are free on {} hosts",
                parallel.devices(),
                parallel.pipeline,
                parallel.tensor,
                free.iter().sum::<u32>(),
                hosts.len()
            )
        })?;
        let members = places.into_iter().filter_map(|(host, ranks)| {
            let (node, _) = hosts.get(host)?;
            Some(GroupMember { node: node.id, process: node.process, ranks })
        });
        Ok(members.collect())
    }

    /// Devices of a host that no other group is planned on.
    fn free_devices(&self, node: &NodeRecord, group: &GroupId) -> u32 {
        let planned: usize = self
            .groups
            .values()
            .filter(|record| record.group != *group)
            .flat_map(|record| &record.members)
            .filter(|member| member.node == node.id)
            .map(|member| member.ranks.len())
            .sum();
        node.devices.saturating_sub(planned as u32)
    }

    fn next_epoch(&mut self, group: &GroupId) -> Epoch {
        let name = group.to_string();
        let stored = self.groups.get(group).map_or(0, |record| record.epoch.number);
        let reported = self.statuses.values().filter_map(|status| status.epochs.get(&name)).max();
        let number = 1 + stored.max(reported.copied().unwrap_or(0));
        // Weyl sequence with a mixer: distinct for each call, and from controller to controller.
        self.entropy = self.entropy.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.entropy ^ (self.entropy >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Epoch { number, nonce: mixed ^ (mixed >> 29) }
    }

    fn tell(
        &mut self,
        key: (String, String),
        desired: &Desired,
        message: String,
        effects: &mut Vec<ControllerEffect>,
    ) {
        let ready: Vec<_> = (0..desired.replicas)
            .map(|index| desired.group(index))
            .filter(|group| {
                self.groups
                    .get(group)
                    .and_then(|record| self.state(record, 0))
                    .is_some_and(|state| *state == MemberState::Ready)
            })
            .collect();
        for group in &ready {
            self.attempts.remove(group);
        }
        let (ready, replicas) = (ready.len() as u32, desired.replicas);
        // While a group forms again the reason that it had to stays readable.
        let kept = self.told.get(&key).map(|told| told.message.clone()).unwrap_or_default();
        let message = if message.is_empty() && ready < replicas { kept } else { message };
        let status = ServiceStatus {
            ready,
            replicas,
            message,
            observed_generation: desired.revision,
            ..ServiceStatus::default()
        };
        if self.told.get(&key) != Some(&status) {
            self.told.insert(key.clone(), status.clone());
            effects.push(ControllerEffect::PutServiceStatus(key.0, key.1, status));
        }
    }
}

/// Failures in a row after which a group is formed again at once.
const FREE_RETRIES: u32 = 2;
/// The first wait after that; it doubles.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest.
const RETRY_MOST: Duration = Duration::from_secs(60);
