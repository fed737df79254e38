//! What is there already is taken up: groups that the store holds when a controller takes office,
//! and groups that hosts report although the store has lost them.
//!
//! A store that was wiped, or put back to an older state, knows less than the hosts. A group that
//! runs is written as it was planned, incarnation and all, so that nobody who is served notices;
//! from then on it is a group like any other, to be kept, updated or drained. One that was ended
//! while its host was away is shown to the host once more and deleted, since a host only ends what
//! it sees go.

use troupe_runtime::{
    discovery::directory::{EventKind, GroupPhase, GroupRecord, NodeStatus, ServiceStatus},
    id::{GroupId, NodeId},
};

use super::{
    desired::ServiceName, plan::Controller, restart::Attempts, service::Service, world::World,
};

impl Controller {
    /// Takes up what a host reports.
    pub(super) fn adopt(&mut self, node: NodeId, reported: Vec<GroupRecord>) {
        for record in reported {
            let name = ServiceName::of(&record.group);
            let known = self.services.get(&name).and_then(|s| s.groups.get(&record.group.index));
            let planned = known.and_then(|group| group.record.as_ref());
            let newer = planned.is_none_or(|planned| planned.epoch < record.epoch);
            // A host that was away tells of what was over before it was ended.
            let latest = self.world.epochs.reported(&record.group.to_string());
            if !newer || record.epoch.number < latest {
                continue;
            }
            if self.world.was_ended(&record) || !self.world.runs(node, &record) {
                continue;
            }
            if !self.world.has_room(planned, &record) {
                self.world.end_reported(&record);
                continue;
            }
            let message = format!("taken up as it runs, incarnation {}", record.epoch.number);
            self.world.tell_group((&record.group, EventKind::Normal), "Adopted", message);
            let service = self.services.entry(name.clone());
            let service = service.or_insert_with_key(|name| Service::new(name.clone()));
            let id = record.group.clone();
            service.replace(&mut self.world, &id, Some(record.clone()));
            self.world.write_group(&record);
            self.dirty.insert(name);
        }
    }

    /// Ends what was ended and hosts run all the same: their store has forgotten that, too. Where
    /// the group is planned anew its hosts see that, and an older plan must not stand in its place.
    pub(super) fn end_again(&mut self) {
        let (world, services) = (&self.world, &self.services);
        let planned = |group: &GroupId| {
            let service = services.get(&ServiceName::of(group));
            let known = service.and_then(|service| service.groups.get(&group.index));
            known.is_some_and(|group| group.record.is_some())
        };
        let runs = |status: &NodeStatus, record: &GroupRecord| {
            let ended = world.was_ended(record) && !planned(&record.group);
            ended && world.runs(status.node, record)
        };
        let reports = world.hosts.reports();
        let ended = reports
            .flat_map(|status| status.groups.iter().filter(move |record| runs(status, record)));
        let ended: Vec<GroupRecord> = ended.cloned().collect();
        ended.iter().for_each(|record| self.world.end_reported(record));
    }
}

impl Service {
    /// Its groups as they are planned.
    pub(super) fn records(&self) -> impl Iterator<Item = &GroupRecord> {
        self.groups.values().filter_map(|group| group.record.as_ref())
    }

    /// A group is not as it was planned, but like this.
    pub(super) fn replace(&mut self, world: &mut World, id: &GroupId, record: Option<GroupRecord>) {
        let group = self.groups.entry(id.index).or_default();
        if let Some(before) = group.record.take() {
            world.hosts.release(&before);
        }
        let Some(record) = record else {
            self.groups.remove(&id.index);
            return;
        };
        self.enter(world, record);
    }

    /// A controller takes office and the store holds these groups.
    pub(super) fn recall(&mut self, world: &mut World, stored: Vec<GroupRecord>) {
        self.scaler.forget();
        for group in self.groups.values_mut() {
            (group.record, group.health, group.drains_since) = (None, None, None);
            group.backs_off = false;
        }
        for record in stored {
            self.enter(world, record);
        }
        // Groups without a record are remembered only for what the record would not say.
        self.groups.retain(|_, g| g.record.is_some() || g.attempts.given_up || g.pending.is_some());
        for group in self.groups.values_mut().filter(|group| group.record.is_none()) {
            group.pending = None;
        }
        if let Some(told) = self.told.clone() {
            self.recall_troubles(&told);
        }
    }

    /// What another controller has said of groups: how often they failed, what they are to run.
    fn recall_troubles(&mut self, told: &ServiceStatus) {
        for status in &told.groups {
            let lost = matches!(status.phase, GroupPhase::Failed | GroupPhase::Pending);
            let known = self.groups.contains_key(&status.index);
            if !known && !lost {
                continue;
            }
            let group = self.groups.entry(status.index).or_default();
            if !known {
                group.revision = status.revision;
            }
            let given_up = status.phase == GroupPhase::Failed && group.record.is_none();
            // While a group forms again the reason that it had to stays readable.
            let same = group.record.as_ref().is_some_and(|now| Some(now.epoch) == status.epoch);
            if same && group.attempts.reason.is_empty() {
                group.attempts.reason.clone_from(&status.message);
            }
            if group.attempts.failed == 0 && (status.restarts > 0 || given_up) {
                let reason = status.message.clone();
                group.attempts = Attempts::recalled(status.restarts, given_up, reason);
            }
        }
    }

    fn enter(&mut self, world: &mut World, record: GroupRecord) {
        let wishes = self.revisions.plan(record.revision).map(|(_, wishes)| wishes);
        let wishes = wishes.or(self.desired.as_ref().map(|desired| &desired.wishes));
        let alone = wishes.and_then(|wishes| wishes.exclusive_topology.clone());
        world.hosts.reserve(&record, alone.as_deref());
        world.epochs.see(&record.group.to_string(), record.epoch.number);
        let group = self.groups.entry(record.group.index).or_default();
        group.revision = record.revision;
        group.attempts.given_up = false;
        (group.pending, group.health, group.drains_since) = (None, None, None);
        group.record = Some(record);
    }
}

impl World {
    /// Whether a host that reports a group is one that the group was planned on, as it is now.
    fn runs(&self, node: NodeId, record: &GroupRecord) -> bool {
        let process = self.hosts.host(node).map(|host| host.record.process);
        let mut mine = record.members.iter().filter(|member| member.node == node);
        mine.any(|member| Some(member.process) == process)
    }

    /// Whether its devices are not planned for others.
    fn has_room(&self, instead_of: Option<&GroupRecord>, record: &GroupRecord) -> bool {
        let on = |record: &GroupRecord, node: NodeId| -> u32 {
            let members = record.members.iter().filter(|member| member.node == node);
            members.map(|member| member.ranks.len() as u32).sum()
        };
        record.members.iter().all(|member| {
            let given_back = instead_of.map_or(0, |before| on(before, member.node));
            // A host that is not there now has room: the group is formed anew soon anyway.
            let free = self.hosts.host(member.node).map_or(u32::MAX, |host| host.free);
            on(record, member.node) <= free.saturating_add(given_back)
        })
    }
}
