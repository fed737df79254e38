//! One service: its groups, and how they become what is wanted.
//!
//! A pass looks at every group once (`tend`), then lets the rollout say what is to be created,
//! updated and removed until it has nothing more to say, then moves groups away from hosts that are
//! to be empty (`moves`), and last says how things are (`status`). Each writes at most one record
//! per group.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use troupe_runtime::{
    discovery::directory::{AfterDrain, Drain, EventKind, GroupPhase, GroupRecord, ServiceStatus},
    spec::policy::GroupPolicy,
};

use super::{
    desired::{Desired, ServiceName},
    plan::ControllerEffect,
    restart::{Attempts, Health},
    revisions::Revisions,
    rollout::{Slot, Step, Strategy},
    scale::Scaler,
    world::World,
};

/// A service.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) name: ServiceName,
    /// As it was last declared and made sense; none once it is no longer declared.
    pub(super) desired: Option<Arc<Desired>>,
    /// What is wrong with what is declared now.
    pub(super) problem: Option<Problem>,
    pub(super) groups: BTreeMap<u32, Group>,
    pub(super) revisions: Revisions,
    /// What people are told of it.
    pub(super) told: Option<ServiceStatus>,
    /// When it is to be looked at again, whatever happens.
    pub(super) due: Option<Duration>,
    /// Something found no place when the hosts' capacity was this.
    pub(super) waits: Option<u64>,
    /// No group could be added behind the others when the hosts' capacity was this.
    pub(super) crowded: Option<u64>,
    /// Why a host cannot be left, for people.
    pub(super) stays: Option<String>,
    /// A revision is replacing another.
    pub(super) rolling: bool,
    /// How many groups its load asks for, where load decides.
    pub(super) scaler: Scaler,
}

/// What is wrong with a declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Of which generation.
    pub generation: u64,
    /// In a word, for programs.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// A group that there is or should be.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    /// As it is planned; none while it has no place or was given up.
    pub(super) record: Option<GroupRecord>,
    /// What it runs, or is to run.
    pub(super) revision: u64,
    pub(super) attempts: Attempts,
    /// Why it has no place.
    pub(super) pending: Option<String>,
    /// Since when it drains, as far as this controller knows.
    pub(super) drains_since: Option<Duration>,
    /// How its incarnation was when it was last looked at.
    pub(super) health: Option<Health>,
    /// It waits before it is formed anew.
    pub(super) backs_off: bool,
}

/// What is wanted of a service now.
#[derive(Clone, Debug)]
pub(super) struct Goal {
    /// Groups.
    pub(super) replicas: u32,
    /// The revision that they are to have.
    pub(super) newest: u64,
    /// What may happen at a time.
    pub(super) strategy: Strategy,
    /// Nothing new is formed yet: how much memory the model needs is being found out.
    pub(super) waits: bool,
}

// === impl Service ===

impl Service {
    pub(super) fn new(name: ServiceName) -> Self {
        Self {
            name,
            desired: None,
            problem: None,
            groups: BTreeMap::new(),
            revisions: Revisions::default(),
            told: None,
            due: None,
            waits: None,
            crowded: None,
            stays: None,
            rolling: false,
            scaler: Scaler::default(),
        }
    }

    /// Nothing of it is declared and nothing of it is there.
    pub(super) fn is_over(&self) -> bool {
        self.desired.is_none() && self.problem.is_none() && self.groups.is_empty()
    }

    /// Whether somebody has to look at it now although nothing was heard of it.
    pub(super) fn is_due(&self, now: Duration, capacity: u64) -> bool {
        self.due.is_some_and(|due| due <= now) || self.waits.is_some_and(|seen| seen != capacity)
    }

    /// Makes its groups what they should be.
    pub(super) fn plan(&mut self, world: &mut World) {
        (self.due, self.waits, self.stays) = (None, None, None);
        if self.desired.is_none() && self.problem.is_none() && !world.undeclared_may_go {
            self.look_again(world.now + PATIENCE);
            return;
        }
        let uri = self.desired.as_ref().map(|desired| desired.launch.model_uri.as_str());
        let known_at = uri.and_then(|uri| world.models.due(uri, world.now));
        if let Some(known_at) = known_at {
            self.look_again(known_at);
            if self.groups.is_empty() {
                return;
            }
        }
        let goal = Goal { waits: known_at.is_some(), ..self.goal(world) };
        self.tend(world, &goal);
        if !goal.waits {
            self.roll(world, goal.clone());
        }
        self.move_away(world, &goal);
        if self.groups.values().any(|group| group.pending.is_some()) || self.crowded.is_some() {
            self.waits = Some(world.hosts.capacity());
        }
        if self.is_over() {
            self.end(world);
        } else {
            self.say(world, &goal);
        }
    }

    /// Looks at it again at this time at the latest.
    pub(super) fn look_again(&mut self, at: Duration) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    fn goal(&mut self, world: &mut World) -> Goal {
        if self.desired.is_none() && self.problem.is_some() {
            self.desired = self.recalled();
        }
        let Some(desired) = self.desired.clone() else {
            return Goal {
                replicas: 0,
                newest: self.revisions.newest().unwrap_or(0),
                strategy: Strategy::default(),
                waits: false,
            };
        };
        let newest = self.settle_revision(world, &desired);
        let replicas = match &desired.scaling {
            Some(scaling) => self.by_load(world, scaling),
            None => {
                self.scaler.forget();
                desired.replicas
            }
        };
        let rollout = desired.policy.rollout;
        let (max_unavailable, max_surge) = rollout.bounds(replicas);
        let partition = rollout.partition;
        let (hold, whole) = (0, false);
        let strategy = Strategy { replicas, partition, max_unavailable, max_surge, hold, whole };
        Goal { replicas, newest, strategy, waits: false }
    }

    /// What its groups run although what is declared now makes no sense: its newest revision.
    fn recalled(&self) -> Option<Arc<Desired>> {
        let newest = self.revisions.of(self.revisions.newest()?)?;
        let counted = self.groups.len() as u32;
        Some(Arc::new(Desired {
            name: self.name.clone(),
            generation: self.told.as_ref().map_or(0, |told| told.observed_generation),
            replicas: self.told.as_ref().map_or(counted, |told| told.replicas),
            scaling: None,
            launch: newest.record.launch.clone(),
            wishes: newest.wishes.clone(),
            policy: GroupPolicy::default(),
            grace: None,
            cause: newest.record.cause.clone(),
            document: newest.record.document.clone(),
            applied: Vec::new(),
        }))
    }

    fn settle_revision(&mut self, world: &mut World, desired: &Desired) -> u64 {
        let records = self.groups.values().filter_map(|group| group.record.as_ref());
        let change = self.revisions.settle(world.now.as_secs(), desired, records);
        let newest = self.revisions.newest().unwrap_or(0);
        if let Some((was, number)) = change.renumbered {
            for group in self.groups.values_mut().filter(|group| group.revision == was) {
                group.revision = number;
                if let Some(record) = &mut group.record {
                    record.revision = number;
                    world.write_group(record);
                }
            }
        }
        for number in change.delete {
            world.write(ControllerEffect::DeleteRevision(self.name.clone(), number));
        }
        if let Some(record) = change.put {
            world.write(ControllerEffect::PutRevision(self.name.clone(), record));
        }
        newest
    }

    /// Lets the rollout say what is next until it has nothing more to say.
    fn roll(&mut self, world: &mut World, mut goal: Goal) {
        if self.crowded.is_some_and(|seen| seen != world.hosts.capacity()) {
            self.crowded = None;
        }
        // Each round creates, updates or removes something; a rollout has three kinds of step.
        for _ in 0..ROUNDS {
            let slots = self.slots(&goal);
            let moves = self.has_moves(world);
            goal.strategy.whole =
                moves.is_some() && self.groups.values().all(|group| group.pending.is_none());
            let behind = slots.range(goal.replicas..).count() as u32;
            goal.strategy.hold = match moves {
                Some(true) if !goal.strategy.is_under_way(&slots) => 1,
                _ => 0,
            };
            if self.crowded.is_some() {
                goal.strategy.max_surge = goal.strategy.max_surge.min(behind);
                goal.strategy.hold = goal.strategy.hold.min(behind);
            }
            let step = goal.strategy.step(&slots);
            self.announce(world, &goal, goal.strategy.is_under_way(&slots));
            if step.create.is_empty() && step.update.is_empty() && step.remove.is_empty() {
                break;
            }
            self.take(world, &goal, &step);
        }
    }

    fn take(&mut self, world: &mut World, goal: &Goal, step: &Step) {
        for index in &step.remove {
            self.remove(world, *index);
        }
        for index in &step.update {
            self.update(world, goal, *index);
        }
        for index in &step.create {
            let revision = self.revision_of_new(goal, step.partition, *index);
            self.groups.insert(*index, Group { revision, ..Group::default() });
            let formed = self.form(world, *index);
            if !formed && *index >= goal.replicas {
                // It goes without.
                self.groups.remove(index);
                self.crowded = Some(world.hosts.capacity());
                break;
            }
        }
    }

    /// What a group that there was not is to run: the newest, but below the partition what the
    /// others there run, and behind the others what the group runs whose place it is to take.
    fn revision_of_new(&self, goal: &Goal, partition: u32, index: u32) -> u64 {
        let older = || {
            let others = self.groups.range(..partition).map(|(_, group)| group.revision);
            others.filter(|revision| *revision != goal.newest).max()
        };
        let instead = || {
            let slots = self.slots(goal);
            let moves = index >= goal.replicas && !goal.strategy.is_under_way(&slots);
            moves.then(|| self.groups.range(..goal.replicas).next_back().map(|(_, g)| g.revision))
        };
        if index < partition {
            older().unwrap_or(goal.newest)
        } else {
            instead().flatten().unwrap_or(goal.newest)
        }
    }

    pub(super) fn slots(&self, goal: &Goal) -> BTreeMap<u32, Slot> {
        let mut slots = BTreeMap::new();
        for (index, group) in &self.groups {
            let then = group.drain().map(|drain| drain.then);
            if then == Some(AfterDrain::Leave) && *index >= goal.replicas {
                continue;
            }
            // One that leaves and is wanted again is formed anew as the newest.
            let follows = matches!(then, Some(AfterDrain::Leave | AfterDrain::Update));
            let updated = group.revision == goal.newest || follows;
            let slot = Slot { updated, ready: group.is_ready(), failed: group.attempts.given_up };
            slots.insert(*index, slot);
        }
        slots
    }

    /// A group that should not be: it finishes what it has begun, if it has begun anything.
    fn remove(&mut self, world: &mut World, index: u32) {
        if self.drain(world, index, AfterDrain::Leave, None) {
            return;
        }
        self.vacate(world, index);
        self.groups.remove(&index);
    }

    /// A group that is to become the newest revision.
    fn update(&mut self, world: &mut World, goal: &Goal, index: u32) {
        if self.drain(world, index, AfterDrain::Update, None) {
            return;
        }
        self.vacate(world, index);
        let revision = goal.newest;
        self.groups.insert(index, Group { revision, ..Group::default() });
        self.form(world, index);
    }

    /// Lets a group finish what it has begun; false if that would be nothing.
    pub(super) fn drain(
        &mut self,
        world: &mut World,
        index: u32,
        then: AfterDrain,
        seconds: Option<u32>,
    ) -> bool {
        let grace = self.desired.as_ref().and_then(|desired| desired.grace);
        let seconds = seconds.or(grace).unwrap_or(GRACE);
        let Some(group) = self.groups.get_mut(&index) else { return false };
        let (ready, draining) = (group.is_ready(), group.drain().is_some());
        let Some(record) = group.record.as_mut().filter(|_| draining || (ready && seconds > 0))
        else {
            return false;
        };
        match &mut record.drain {
            Some(drain) => drain.then = then,
            none => {
                *none = Some(Drain { seconds, then });
                group.drains_since = Some(world.now);
                let message = format!("finishes what it has begun, within {seconds} s");
                world.tell_group((&record.group, EventKind::Normal), "Draining", message);
            }
        }
        world.write_group(record);
        true
    }

    /// Ends a group's incarnation: its devices are free.
    pub(super) fn vacate(&mut self, world: &mut World, index: u32) {
        let Some(group) = self.groups.get_mut(&index) else { return };
        (group.drains_since, group.health, group.backs_off) = (None, None, false);
        if let Some(record) = group.record.take() {
            world.delete_group(&record);
        }
    }

    fn announce(&mut self, world: &mut World, goal: &Goal, under_way: bool) {
        if under_way == self.rolling {
            return;
        }
        self.rolling = under_way;
        let (reason, message) = match under_way {
            true => ("RolloutStarted", format!("revision {} is rolled out", goal.newest)),
            false => ("RolloutCompleted", format!("revision {} is rolled out to all", goal.newest)),
        };
        let about = (&self.name, EventKind::Normal);
        world.tell_service(about, reason, message);
    }

    /// Nothing is left but what people were told.
    fn end(&mut self, world: &mut World) {
        for number in self.revisions.numbers() {
            world.write(ControllerEffect::DeleteRevision(self.name.clone(), number));
        }
        if self.told.take().is_some() {
            world.write(ControllerEffect::DeleteServiceStatus(self.name.clone()));
        }
        self.revisions = Revisions::default();
    }
}

// === impl Group ===

impl Group {
    /// It serves and is to go on.
    pub(super) fn is_ready(&self) -> bool {
        self.health == Some(Health::Ready) && self.drain().is_none()
    }

    /// How it drains, if it does.
    pub(super) fn drain(&self) -> Option<Drain> {
        self.record.as_ref()?.drain
    }

    /// How far it is, for people.
    pub(super) fn phase(&self) -> GroupPhase {
        if self.attempts.given_up {
            GroupPhase::Failed
        } else if self.record.is_none() {
            GroupPhase::Pending
        } else if self.drain().is_some() {
            GroupPhase::Draining
        } else if self.backs_off {
            GroupPhase::BackOff
        } else if self.is_ready() {
            GroupPhase::Ready
        } else {
            GroupPhase::Starting
        }
    }
}

/// Seconds that a group has for what it has begun, if nobody says.
const GRACE: u32 = 30;
/// How often a service that is not declared is looked at until it may be ended.
const PATIENCE: Duration = Duration::from_secs(1);
/// More than a rollout has kinds of steps.
const ROUNDS: usize = 8;
