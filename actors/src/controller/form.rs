//! A group finds its place: what it asks of the hosts, and the record that comes of it.

use std::collections::{BTreeMap, BTreeSet};

use troupe_runtime::discovery::directory::{EventKind, GroupMember, GroupRecord, Launch};

use super::{
    desired::Desired,
    hosts::Hosts,
    place::{Ask, Beside, place},
    restart::Health,
    service::Service,
    wishes::Wishes,
    world::World,
};

impl Service {
    /// Finds a place for a group that has none, and plans its next incarnation there.
    pub(super) fn form(&mut self, world: &mut World, index: u32) -> bool {
        let name = self.name.group(index);
        let Some(desired) = self.desired.clone() else { return false };
        let Some(placed) = self.ask(world, index, place) else { return false };
        let Some((launch, wishes)) = self.runs(index) else { return false };
        let (launch, alone) = (launch.clone(), wishes.exclusive_topology.clone());
        let Some(group) = self.groups.get_mut(&index) else { return false };
        match placed {
            Err(why) => {
                if group.pending.as_ref() != Some(&why) {
                    let about = (&name, EventKind::Warning);
                    world.tell_group(about, "FailedScheduling", why.clone());
                    group.pending = Some(why);
                }
                false
            }
            Ok(members) => {
                let on: BTreeSet<_> =
                    members.iter().map(|member| world.hosts.name(member.node)).collect();
                let on = on.into_iter().collect::<Vec<_>>().join(", ");
                let need = world.need(&launch);
                let revision = group.revision;
                let labels = labels(&desired, &world.hosts, &members);
                let record = GroupRecord {
                    epoch: world.epochs.next(&name),
                    group: name,
                    planned: world.now.as_secs(),
                    term: world.term,
                    revision,
                    launch,
                    members,
                    startup: desired.policy.startup,
                    restart: desired.policy.restart,
                    drain: None,
                    labels,
                };
                world.put_group(&record, alone.as_deref());
                let need = need.map_or_else(String::new, |need| format!("; {}", need.told()));
                let message = format!("planned on {on} as revision {revision}{need}");
                world.tell_group((&record.group, EventKind::Normal), "Scheduled", message);
                (group.pending, group.drains_since, group.backs_off) = (None, None, false);
                group.health = Some(Health::Starting);
                group.record = Some(record);
                true
            }
        }
    }

    /// What a group asks of the hosts, put to whoever answers.
    pub(super) fn ask<T>(
        &self,
        world: &World,
        index: u32,
        answer: impl FnOnce(&Hosts, &Ask<'_>) -> T,
    ) -> Option<T> {
        let (launch, wishes) = self.runs(index)?;
        let mut avoid = self.groups.get(&index)?.attempts.avoid();
        avoid.append(&mut world.quarantine.hosts());
        let ask = Ask {
            group: &self.name.group(index),
            division: wishes.division(launch),
            wishes,
            need: world.need(launch),
            beside: &self.beside(world, index),
            avoid: &avoid,
        };
        Some(answer(&world.hosts, &ask))
    }

    /// What a group is to run, and what it wants of its hosts.
    fn runs(&self, index: u32) -> Option<(&Launch, &Wishes)> {
        let desired = self.desired.as_ref()?;
        let revision = self.groups.get(&index)?.revision;
        Some(self.revisions.plan(revision).unwrap_or((&desired.launch, &desired.wishes)))
    }

    fn beside(&self, world: &World, but: u32) -> Beside {
        let mut beside = Beside::default();
        let others = self.groups.iter().filter(|(index, _)| **index != but);
        for record in others.filter_map(|(_, group)| group.record.as_ref()) {
            for member in &record.members {
                beside.add(&world.hosts, member.node);
            }
        }
        beside
    }
}

/// What placement may select the group by: where its leader is, and what its service is labelled
/// with.
fn labels(desired: &Desired, hosts: &Hosts, members: &[GroupMember]) -> BTreeMap<String, String> {
    let leader = members.first().and_then(|leader| hosts.host(leader.node));
    let mut labels = leader.map(|host| host.record.labels.clone()).unwrap_or_default();
    let service = desired.document["metadata"]["labels"].as_object().into_iter().flatten();
    labels.extend(service.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.into()))));
    labels
}
