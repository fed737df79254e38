//! What becomes of each group as it is: one that has drained, one whose incarnation is over, one
//! that waits for a place.

use std::time::Duration;

use troupe_runtime::discovery::directory::{AfterDrain, EventKind};

use super::{
    restart::{Health, Over, Verdict, health},
    service::{Goal, Service},
    world::World,
};

impl Service {
    /// Looks at every group once.
    pub(super) fn tend(&mut self, world: &mut World, goal: &Goal) {
        let indices: Vec<u32> = self.groups.keys().copied().collect();
        for index in indices {
            if self.groups.get(&index).is_some_and(|group| group.record.is_some()) {
                self.tend_formed(world, goal, index);
            }
            let waits = self.groups.get(&index).is_some_and(|group| {
                group.record.is_none() && !group.attempts.given_up && index < goal.replicas
            });
            if waits && !goal.waits {
                self.form(world, index);
            }
        }
    }

    fn tend_formed(&mut self, world: &mut World, goal: &Goal, index: u32) {
        let Some(group) = self.groups.get_mut(&index) else { return };
        let Some(record) = &group.record else { return };
        let mut health = health(&world.hosts, record);
        if world.epochs.reported(&record.group.to_string()) > record.epoch.number {
            // A store from the past: hosts refuse what is older than what they have seen.
            let why = "a later incarnation was seen".to_owned();
            health = Health::Over(Over { why, ended_on: None, fault: None, still_starting: false });
        }
        let served = group.health == Some(Health::Ready);
        group.health = Some(health.clone());
        if let Some(drain) = record.drain {
            let since = *group.drains_since.get_or_insert(world.now);
            let until = since + Duration::from_secs(drain.seconds.into()) + DRAIN_OVERTIME;
            if matches!(health, Health::Over(_)) || world.now >= until {
                self.drained(world, goal, (index, drain.then));
            } else {
                self.look_again(until);
            }
            return;
        }
        match health {
            Health::Starting => group.backs_off = false,
            Health::Ready => {
                if !served {
                    let about = (&record.group, EventKind::Normal);
                    let message = format!("serves as incarnation {}", record.epoch.number);
                    world.tell_group(about, "GroupReady", message);
                }
                if let Some(at) = group.attempts.serves(world.now) {
                    self.look_again(at);
                }
            }
            Health::Over(over) => self.over(world, index, &over),
        }
    }

    /// A group has finished what it had begun.
    fn drained(&mut self, world: &mut World, goal: &Goal, (index, then): (u32, AfterDrain)) {
        self.vacate(world, index);
        let Some(group) = self.groups.get_mut(&index) else { return };
        match then {
            AfterDrain::Leave => drop(self.groups.remove(&index)),
            AfterDrain::Update => {
                group.revision = goal.newest;
                group.attempts = Default::default();
            }
            AfterDrain::Move => {}
        }
    }

    /// A group's incarnation is over.
    fn over(&mut self, world: &mut World, index: u32, over: &Over) {
        let desired = self.desired.clone();
        let policy = desired.as_ref().map(|desired| desired.policy.clone()).unwrap_or_default();
        let Some(group) = self.groups.get_mut(&index) else { return };
        let Some(record) = &group.record else { return };
        let id = record.group.clone();
        let before = group.attempts.failed;
        let verdict = group.attempts.over(world.now, (record.epoch, over), &policy);
        if group.attempts.failed > before {
            world.tell_group((&id, EventKind::Warning), "MemberExited", over.why.clone());
            if let (Some(node), Some(fault)) = (over.ended_on, over.fault) {
                world.quarantine(node, fault, &id);
            }
        }
        match verdict {
            Verdict::Again => {
                self.vacate(world, index);
                self.form(world, index);
            }
            Verdict::Later => {}
            Verdict::Wait(until) => {
                if !std::mem::replace(&mut group.backs_off, true) {
                    let wait = until.saturating_sub(world.now).as_secs_f64();
                    let failed = group.attempts.failed;
                    let message = format!("failed {failed} times in a row, waits {wait:.0} s");
                    world.tell_group((&id, EventKind::Warning), "BackOff", message);
                }
                self.look_again(until);
            }
            Verdict::GiveUp(why) => {
                world.tell_group((&id, EventKind::Warning), "Failed", why);
                self.vacate(world, index);
            }
        }
    }
}

/// What a group may take beyond its time, to end its processes, before it is no longer waited for.
const DRAIN_OVERTIME: Duration = Duration::from_secs(10);
