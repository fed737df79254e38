//! What people are told of a service: KServe's conditions, LeaderWorkerSet's, and each group.
//!
//! `Ready` is `PresetsCombined` (the declaration makes sense), `WorkloadsReady` (all groups that
//! are wanted serve) and `RouterReady` (a gateway is there). A condition keeps the time of its last
//! change, and nothing is written that says the same as what was written before.

use troupe_runtime::discovery::directory::{
    Condition, ConditionStatus, EventKind, GroupPhase, GroupStatus, MemberPlace, MemberState,
    ServiceStatus,
};

use super::{
    plan::ControllerEffect,
    service::{Goal, Group, Service},
    world::World,
};

/// Whether something holds, why in a word, and why for people.
pub(super) type Finding = (bool, &'static str, String);

impl Service {
    /// Tells people how it is, if that is new.
    pub(super) fn say(&mut self, world: &mut World, goal: &Goal) {
        let status = self.status(world, goal);
        if self.told.as_ref() == Some(&status) {
            return;
        }
        let before = self.told.as_ref().map(|told| told.replicas);
        if let Some(before) = before.filter(|before| *before != status.replicas) {
            let message = format!("from {before} to {} groups", status.replicas);
            let about = (&self.name, EventKind::Normal);
            world.tell_service(about, "ScalingReplicaGroup", message);
        }
        self.told = Some(status.clone());
        world.write(ControllerEffect::PutServiceStatus(self.name.clone(), status));
    }

    fn status(&self, world: &World, goal: &Goal) -> ServiceStatus {
        let wanted = self.groups.range(..goal.replicas);
        let updated = wanted
            .filter(|(_, group)| group.record.is_some() && group.runs() == goal.newest)
            .count() as u32;
        // A group behind the others serves in the place of one that is being updated.
        let serve = self.groups.values().filter(|group| group.is_ready()).count() as u32;
        let ready = serve.min(goal.replicas);
        let addresses: Vec<String> = world
            .gateways
            .values()
            .map(|gateway| {
                let (address, name) = (&gateway.address, &self.name);
                format!("http://{address}/{}/{}", name.namespace, name.name)
            })
            .collect();
        let generation = self.desired.as_ref().map_or(0, |desired| desired.generation);
        let problem = self.problem.as_ref();
        let made = self.desired.as_ref().filter(|_| problem.is_none());
        let applied = made.map(|desired| desired.applied.clone());
        ServiceStatus {
            ready,
            replicas: goal.replicas,
            message: self.message(),
            observed_generation: problem.map_or(generation, |problem| problem.generation),
            updated,
            revision: goal.newest,
            conditions: self.conditions(world, goal, (ready, updated)),
            url: addresses.first().cloned(),
            addresses,
            groups: self.groups.iter().map(|(index, g)| group_status(world, *index, g)).collect(),
            applied_config_refs: applied.unwrap_or_default(),
        }
    }

    /// Why it is not as wanted; empty if it is.
    fn message(&self) -> String {
        let mut told: Vec<String> = Vec::new();
        if let Some(problem) = &self.problem {
            told.push(problem.message.clone());
        }
        for (index, group) in &self.groups {
            let why = group.why();
            if !why.is_empty() && told.len() < MOST_TOLD {
                told.push(format!("{}: {why}", self.name.group(*index)));
            }
        }
        told.extend(self.stays.clone());
        told.join("; ")
    }

    fn conditions(
        &self,
        world: &World,
        goal: &Goal,
        (ready, updated): (u32, u32),
    ) -> Vec<Condition> {
        let all = ready == goal.replicas;
        let counts = format!("{ready} of {} groups serve", goal.replicas);
        let presets: Finding = match &self.problem {
            None => (true, "Resolved", String::new()),
            Some(problem) => (false, "", problem.message.clone()),
        };
        let stopped = goal.replicas == 0;
        let sleeps = self.desired.as_ref().is_some_and(|desired| desired.scaling.is_some());
        let main: Finding = match (stopped, all) {
            (true, _) if sleeps => {
                (true, "ScaledToZero", "it sleeps until something is asked of it".into())
            }
            (true, _) => (true, "Stopped", "no group is wanted".into()),
            (_, true) => (true, "AllGroupsReady", counts.clone()),
            (_, false) => (false, self.why_not_ready(), counts.clone()),
        };
        let gateways: Finding = match world.gateways.len() {
            0 => (false, "NoGateway", "no gateway is there".into()),
            1 => (true, "GatewayReady", "1 gateway is there".into()),
            more => (true, "GatewayReady", format!("{more} gateways are there")),
        };
        let failed = self.groups.values().filter(|group| group.attempts.given_up).count();
        let gave_up: Finding = match failed {
            0 => (false, "NoGroupGivenUp", String::new()),
            _ => (true, "RestartBudgetExhausted", self.message()),
        };
        let slots = self.slots(goal);
        let updating: Finding = match goal.strategy.is_under_way(&slots) {
            true => {
                (true, "RollingUpdate", format!("{updated} of {} groups updated", goal.replicas))
            }
            false => (false, "UpToDate", String::new()),
        };
        let is_ready = presets.0 && main.0 && gateways.0;
        let overall: Finding = match [&presets, &main, &gateways].into_iter().find(|f| !f.0) {
            None => (true, "Ready", String::new()),
            Some((_, reason, message)) => (is_ready, *reason, message.clone()),
        };
        let progressing: Finding = match (all, failed) {
            (true, _) => (false, "AllGroupsReady", String::new()),
            (false, 0) => (true, "GroupsProgressing", counts.clone()),
            (false, _) => (false, "RestartBudgetExhausted", counts.clone()),
        };
        let available: Finding = match all {
            true => (true, "AllGroupsReady", counts),
            false => (false, main.1, counts),
        };
        let workers = self.members_beside_leader().then(|| ("WorkerWorkloadReady", main.clone()));
        let mut found = vec![
            ("Ready", overall),
            ("PresetsCombined", presets),
            ("WorkloadsReady", main.clone()),
            ("MainWorkloadReady", main),
        ];
        found.extend(workers);
        found.extend(self.scaling_findings(goal.replicas));
        found.extend([
            ("RouterReady", gateways.clone()),
            ("GatewaysReady", gateways),
            ("Available", available),
            ("Progressing", progressing),
            ("UpdateInProgress", updating),
            ("Failed", gave_up),
        ]);
        let now = world.now.as_secs();
        found.into_iter().map(|(kind, finding)| self.condition(now, kind, finding)).collect()
    }

    fn condition(&self, now: u64, kind: &str, (holds, reason, message): Finding) -> Condition {
        let status = if holds { ConditionStatus::True } else { ConditionStatus::False };
        let told = self.told.as_ref().map(|told| told.conditions.as_slice()).unwrap_or_default();
        let before = told.iter().find(|c| c.kind == kind && c.status == status);
        let reason = match (reason, &self.problem) {
            ("", Some(problem)) => problem.reason,
            _ => reason,
        };
        Condition {
            kind: kind.into(),
            status,
            reason: reason.to_owned(),
            message,
            last_transition: before.map_or(now, |before| before.last_transition),
        }
    }

    fn why_not_ready(&self) -> &'static str {
        let phases: Vec<GroupPhase> = self.groups.values().map(Group::phase).collect();
        let of = |phase| phases.contains(&phase);
        if of(GroupPhase::Failed) {
            "RestartBudgetExhausted"
        } else if of(GroupPhase::Pending) {
            "Unschedulable"
        } else if of(GroupPhase::BackOff) {
            "BackOff"
        } else {
            "GroupsNotReady"
        }
    }

    fn members_beside_leader(&self) -> bool {
        self.groups
            .values()
            .filter_map(|group| group.record.as_ref())
            .any(|record| record.members.len() > 1)
    }
}

impl Group {
    /// The revision that its members run.
    fn runs(&self) -> u64 {
        self.record.as_ref().map_or(self.revision, |record| record.revision)
    }

    /// Why it is not ready.
    fn why(&self) -> &str {
        match &self.pending {
            Some(pending) => pending,
            None if self.is_ready() => "",
            None => &self.attempts.reason,
        }
    }
}

fn group_status(world: &World, index: u32, group: &Group) -> GroupStatus {
    let record = group.record.as_ref();
    let members = record.map(|record| {
        let members = record.members.iter().enumerate().map(|(member, place)| MemberPlace {
            node: place.node,
            node_name: world.hosts.name(place.node),
            ranks: place.ranks.clone(),
            state: match world.hosts.state(record, member) {
                None => "Unknown",
                Some(MemberState::Starting) => "Starting",
                Some(MemberState::Listening) => "Listening",
                Some(MemberState::Ready) => "Ready",
                Some(MemberState::Exited(_)) => "Exited",
            }
            .into(),
        });
        members.collect()
    });
    GroupStatus {
        index,
        epoch: record.map(|record| record.epoch),
        revision: group.runs(),
        phase: group.phase(),
        restarts: group.attempts.failed,
        members: members.unwrap_or_default(),
        message: group.why().to_owned(),
    }
}

/// Groups whose troubles are told one by one.
const MOST_TOLD: usize = 8;
