//! What would become of services if objects were stored: the planner, over everything that the
//! store holds now, with hosts that do at once what is planned on them.
//!
//! Nothing is written and nobody is asked but whoever knows models. What drains ends, and whatever
//! is started serves, so a rollout is played to its end: where each group would be in the end, or
//! why there is no place for it, host by host. Whether members would really start is not foreseen.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use troupe_runtime::{
    discovery::{
        Entry, WatchEvent,
        directory::{GroupRecord, MemberState, MemberStatus, NodeStatus},
        keys::Keys,
    },
    id::{GroupId, NodeId},
};
use uuid::Uuid;

use super::{
    desired::ServiceName,
    memory::ModelFacts,
    observed::{Observed, Seen},
    plan::{Controller, ControllerEffect, ControllerEvent, Timing},
    service::Service,
};

/// Who knows what a model of a URI needs; nothing if nobody does.
pub type Facts<'a> = dyn Fn(&str) -> Option<ModelFacts> + 'a;

/// A cluster that is only thought of.
pub struct Forecast<'a> {
    now: Duration,
    facts: &'a Facts<'a>,
    observed: Observed,
    planner: Controller,
    /// Groups as they are planned here.
    groups: BTreeMap<GroupId, GroupRecord>,
    /// The process of each host.
    processes: BTreeMap<NodeId, Uuid>,
}

// === impl Forecast ===

impl<'a> Forecast<'a> {
    /// The cluster as the store has it, and as it would be if all that is planned were done. `now`
    /// is the time since 1970.
    pub fn new(keys: Keys, now: Duration, stored: Vec<Entry>, facts: &'a Facts<'a>) -> Self {
        let timing = Timing { lease: Duration::ZERO, settle: Duration::ZERO };
        let mut forecast = Self {
            now,
            facts,
            observed: Observed::new(keys),
            planner: Controller::new(timing, 0),
            groups: BTreeMap::new(),
            processes: BTreeMap::new(),
        };
        for entry in stored {
            forecast.see(WatchEvent::Put(entry));
        }
        forecast.see(WatchEvent::Synced);
        let groups = forecast.observed.groups();
        forecast.groups = groups.iter().map(|group| (group.group.clone(), group.clone())).collect();
        forecast.feed(ControllerEvent::Elected(groups));
        let all: BTreeSet<NodeId> = forecast.processes.keys().copied().collect();
        for node in all {
            forecast.report(node);
        }
        forecast
    }

    /// Objects are stored as well, all of them at once as far as anybody can see.
    pub fn store(&mut self, objects: Vec<Entry>) {
        for object in objects {
            self.see(WatchEvent::Put(object));
        }
    }

    /// What has become of each service, for people.
    pub fn all(&self) -> BTreeMap<ServiceName, Vec<String>> {
        let services = self.planner.services.iter();
        services.map(|(name, service)| (name.clone(), self.tell(service))).collect()
    }

    fn tell(&self, service: &Service) -> Vec<String> {
        let name = &service.name;
        let mut lines = Vec::new();
        if let Some(problem) = &service.problem {
            lines.push(format!("{name}: {}: {}", problem.reason, problem.message));
        }
        let Some(desired) = &service.desired else { return lines };
        let world = &self.planner.world;
        let newest = service.revisions.newest().unwrap_or(0);
        let needs = match world.need(&desired.launch) {
            Some(need) => need.told(),
            None => "how much memory its model needs is not known here".to_owned(),
        };
        lines.push(format!("{name}: revision {newest}; {needs}"));
        if service.groups.is_empty() {
            lines.push("  no group, until something is asked of it".to_owned());
        }
        let mut explained = false;
        for (index, group) in &service.groups {
            let id = format!("{}-{index}", name.name);
            if let Some(record) = &group.record {
                let members = record.members.iter().map(|member| {
                    let ranks: Vec<String> = member.ranks.iter().map(ToString::to_string).collect();
                    format!("{} ({})", world.hosts.name(member.node), ranks.join(", "))
                });
                let members = members.collect::<Vec<_>>().join(", ");
                lines.push(match record.revision == newest {
                    true => format!("  {id} on {members}"),
                    false => format!("  {id} on {members}, still as revision {}", record.revision),
                });
                continue;
            }
            let why = group.pending.as_ref().unwrap_or(&group.attempts.reason);
            lines.push(format!("  {id} has no place: {why}"));
            // Others of the service have the same reasons.
            if !std::mem::replace(&mut explained, true) {
                let hosts = service.ask(world, *index, super::place::by_host).unwrap_or_default();
                let more = hosts.len().saturating_sub(MOST_HOSTS);
                let told = hosts.into_iter().take(MOST_HOSTS);
                lines.extend(told.map(|(host, why)| format!("    {host} {why}")));
                if more > 0 {
                    lines.push(format!("    and {more} more hosts"));
                }
            }
        }
        lines
    }

    fn see(&mut self, event: WatchEvent) {
        let Seen::Events(events) = self.observed.see(event) else { return };
        events.into_iter().for_each(|event| self.feed(event));
    }

    /// Something happens, and all that follows from it.
    fn feed(&mut self, event: ControllerEvent) {
        if let ControllerEvent::NodePut(record) = &event {
            self.processes.insert(record.id, record.process);
        }
        let mut events = VecDeque::from([event]);
        for _ in 0..MOST_EVENTS {
            let Some(event) = events.pop_front() else { return };
            let mut touched = BTreeSet::new();
            for effect in self.planner.handle(self.now, event) {
                match effect {
                    ControllerEffect::PutGroup(record) => {
                        touched.extend(record.members.iter().map(|member| member.node));
                        let before = self.groups.insert(record.group.clone(), record);
                        touched.extend(nodes(before.as_ref()));
                    }
                    ControllerEffect::DeleteGroup(group) => {
                        touched.extend(nodes(self.groups.remove(&group).as_ref()));
                    }
                    ControllerEffect::AskModel(uri) => {
                        let facts = (self.facts)(&uri);
                        events.push_back(ControllerEvent::ModelKnown(uri, facts));
                    }
                    _ => {}
                }
            }
            events.extend(touched.into_iter().filter_map(|node| self.status(node)));
        }
    }

    fn report(&mut self, node: NodeId) {
        if let Some(status) = self.status(node) {
            self.feed(status);
        }
    }

    /// What a host would report: what drains has ended, everything else serves.
    fn status(&self, node: NodeId) -> Option<ControllerEvent> {
        let process = *self.processes.get(&node)?;
        let mut members = Vec::new();
        for record in self.groups.values() {
            let state = match record.drain {
                Some(_) => MemberState::Exited("it has drained".into()),
                None => MemberState::Ready,
            };
            for (member, place) in (0..).zip(&record.members) {
                if (place.node, place.process) == (node, process) {
                    members.push(MemberStatus {
                        group: record.group.clone(),
                        epoch: record.epoch,
                        member,
                        address: None,
                        state: state.clone(),
                        blames: None,
                    });
                }
            }
        }
        let (epochs, groups) = (BTreeMap::new(), Vec::new());
        Some(ControllerEvent::StatusPut(NodeStatus { node, process, members, epochs, groups }))
    }
}

fn nodes(record: Option<&GroupRecord>) -> Vec<NodeId> {
    record.into_iter().flat_map(|record| &record.members).map(|member| member.node).collect()
}

/// Hosts whose reasons are told one by one.
const MOST_HOSTS: usize = 20;
/// More than follow from one event, whatever it is: rollouts of all services, each of whose groups
/// takes a few.
const MOST_EVENTS: usize = 1_000_000;
