//! The life of one incarnation of a group, seen from its leader.
//!
//! ```text
//! Gathering --all hello--> Loading --all loaded--> Serving
//!     \________________________\______________________\____--> Over(cause)
//! ```
//! All or nothing: whatever ends one member ends the incarnation, at once and with a cause, because
//! a stage without its neighbour can only wait. Forming has a deadline; once serving, liveness is
//! progress: a step that does not go on ([`super::pace`]) ends the incarnation too, and so does a
//! rank that has become slow ([`super::straggler`]). Each end names the member that it is due to,
//! if one is, so that whoever forms the group anew knows which host to leave out.

use std::{collections::BTreeMap, time::Duration};

use troupe_runtime::{
    id::{Coordinate, NodeId, StepId},
    wire::{
        group::{Formation, FormationMember, Hello, Progress, RankPulse, RankReport},
        member::Fault,
    },
};

use super::{
    pace::{Pace, StepLimits, Stuck},
    straggler::{Straggler, Stragglers},
};

/// A conversation with a member, or with somebody who says that it is one. Who was turned away once
/// is nobody: whatever else comes from there says nothing of the group.
pub type Door = u64;

/// What can happen to a group.
#[derive(Clone, Debug)]
pub enum GroupEvent {
    /// Somebody introduced itself.
    Hello(Door, NodeId, Hello),
    /// A member holds its weights.
    Loaded(Door, Vec<RankReport>),
    /// A step of so many tokens was sent to all.
    Planned(StepId, u32),
    /// A rank is through a step.
    Progress(Progress),
    /// How far ranks are.
    Pulse(Vec<RankPulse>),
    /// A step is done.
    Done(StepId),
    /// A member said that it cannot go on, or its conversation broke.
    Lost(Door, String),
    /// Time has passed.
    Tick,
}

/// What a group wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupEffect {
    /// Tell every member who is where.
    Form(Formation),
    /// Tell every member to allocate its KV blocks, and start the engine over them.
    Start(Vec<u32>, Vec<RankReport>),
    /// Turn away who came through this door: it is not of this incarnation, or comes twice.
    Refuse(Door, String),
    /// It is over.
    Over(Over),
}

/// The end of an incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    /// For people.
    pub cause: String,
    /// The member that it is due to, if one is, and what is wrong with it.
    pub blame: Option<(u32, Fault)>,
}

/// How far a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for members.
    Gathering,
    /// Weights are being loaded.
    Loading,
    /// Steps run.
    Serving,
    /// Ended.
    Over,
}

/// One incarnation of a group.
#[derive(Clone, Debug)]
pub struct Group {
    expected: Vec<Vec<Coordinate>>,
    hello: Hello,
    /// Where each member is; anywhere if nothing is said.
    hosts: Vec<NodeId>,
    deadlines: Deadlines,
    phase: Phase,
    since: Duration,
    addresses: BTreeMap<u32, String>,
    /// Through which door each member came.
    doors: BTreeMap<Door, u32>,
    reports: BTreeMap<u32, Vec<RankReport>>,
    pace: Pace,
    stragglers: Stragglers,
}

/// How long a group may take for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// From the start until every member has said hello.
    pub gather: Duration,
    /// From then until every rank is loaded.
    pub load: Duration,
    /// A step, once it serves.
    pub step: StepLimits,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            gather: Duration::from_secs(60),
            load: Duration::from_secs(1800),
            step: StepLimits::default(),
        }
    }
}

impl Group {
    /// A group whose member `i` hosts `expected[i]`, gathering from `now` on. `hello` is the
    /// leader's own: what the others' must agree with.
    pub fn new(
        now: Duration,
        hello: Hello,
        expected: Vec<Vec<Coordinate>>,
        deadlines: Deadlines,
    ) -> Self {
        Self {
            expected,
            hello,
            hosts: Vec::new(),
            deadlines,
            phase: Phase::Gathering,
            since: now,
            addresses: BTreeMap::new(),
            doors: BTreeMap::new(),
            reports: BTreeMap::new(),
            pace: Pace::new(deadlines.step),
            stragglers: Stragglers::default(),
        }
    }

    /// The same, whose members are on these hosts: nobody else can be one of them, whatever it
    /// knows of the group.
    pub fn on(self, hosts: Vec<NodeId>) -> Self {
        Self { hosts, ..self }
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Which member speaks through a door, if one does.
    pub fn member_at(&self, door: Door) -> Option<u32> {
        self.doors.get(&door).copied()
    }

    /// Takes one event and says what to do about it.
    pub fn handle(&mut self, now: Duration, event: GroupEvent) -> Vec<GroupEffect> {
        if self.phase == Phase::Over {
            return Vec::new();
        }
        match event {
            GroupEvent::Hello(door, from, hello) => self.hello(now, door, from, hello),
            GroupEvent::Loaded(door, reports) => match self.member_at(door) {
                Some(member) => self.loaded(now, member, reports),
                None => Vec::new(),
            },
            GroupEvent::Planned(step, tokens) => {
                self.pace.planned(now, step, tokens);
                Vec::new()
            }
            GroupEvent::Progress(progress) => self.progress(now, &progress),
            GroupEvent::Pulse(pulses) => {
                pulses.iter().for_each(|pulse| self.pace.pulse(now, pulse));
                Vec::new()
            }
            GroupEvent::Done(step) => {
                self.pace.done(now, step);
                Vec::new()
            }
            GroupEvent::Lost(door, why) => match self.member_at(door) {
                Some(member) => {
                    let cause = format!("member {member} is lost: {why}");
                    self.ends(cause, Some((member, Fault::Ended)))
                }
                None => Vec::new(),
            },
            GroupEvent::Tick => self.tick(now),
        }
    }

    fn hello(&mut self, now: Duration, door: Door, from: NodeId, hello: Hello) -> Vec<GroupEffect> {
        let member = hello.member;
        if let Err(why) = self.check_hello(from, &hello) {
            return vec![GroupEffect::Refuse(door, why)];
        }
        self.doors.insert(door, member);
        self.addresses.insert(member, hello.address);
        if self.addresses.len() < self.expected.len() {
            return Vec::new();
        }
        self.phase = Phase::Loading;
        self.since = now;
        let members = self
            .addresses
            .values()
            .zip(&self.expected)
            .map(|(address, ranks)| FormationMember {
                address: address.clone(),
                ranks: ranks.clone(),
            })
            .collect();
        vec![GroupEffect::Form(Formation { epoch: self.hello.epoch, members })]
    }

    fn check_hello(&self, from: NodeId, hello: &Hello) -> Result<(), String> {
        if hello.group != self.hello.group {
            return Err(format!("this is {}, not {}", self.hello.group, hello.group));
        }
        if hello.epoch != self.hello.epoch {
            return Err(format!("this is epoch {}, not {}", self.hello.epoch, hello.epoch));
        }
        if hello.member as usize >= self.expected.len() {
            return Err(format!("there are {} members", self.expected.len()));
        }
        if self.hosts.get(hello.member as usize).is_some_and(|host| *host != from) {
            return Err(format!("member {} is not on host {from}", hello.member));
        }
        if self.phase != Phase::Gathering || self.addresses.contains_key(&hello.member) {
            return Err(format!("member {} is here already", hello.member));
        }
        Ok(())
    }

    fn loaded(&mut self, now: Duration, member: u32, reports: Vec<RankReport>) -> Vec<GroupEffect> {
        let ranks: Vec<_> = reports.iter().map(|report| report.rank).collect();
        if self.phase != Phase::Loading || self.expected.get(member as usize) != Some(&ranks) {
            return self.over(format!("member {member} reports ranks that are not its own"));
        }
        self.reports.insert(member, reports);
        if self.reports.len() < self.expected.len() {
            return Vec::new();
        }
        let reports: Vec<_> = self.reports.values().flatten().cloned().collect();
        let Some(blocks) = common_blocks(&reports) else {
            return self.over("the ranks disagree on the model's KV groups".into());
        };
        if blocks.contains(&0) {
            return self.over("no room for a single KV block on at least one rank".into());
        }
        self.phase = Phase::Serving;
        self.since = now;
        vec![GroupEffect::Start(blocks, reports)]
    }

    fn progress(&mut self, now: Duration, progress: &Progress) -> Vec<GroupEffect> {
        self.pace.progress(now, progress);
        let ranks = self.expected.iter().flatten().count();
        let found = self.stragglers.progress(now, progress, ranks);
        let Some(Straggler { rank, times, took }) = found else { return Vec::new() };
        let cause = format!(
            "rank {rank} has become slow: {took:?} a step, {times:.0} times what it took compared \
             with the others"
        );
        self.ends(cause, self.blame(rank, Fault::Slow))
    }

    fn tick(&mut self, now: Duration) -> Vec<GroupEffect> {
        let waited = now.saturating_sub(self.since);
        match self.phase {
            Phase::Gathering if waited > self.deadlines.gather => {
                let missing = self.missing(|member| self.addresses.contains_key(&member));
                self.over(format!("no hello from members {missing:?} within {waited:?}"))
            }
            Phase::Loading if waited > self.deadlines.load => {
                let missing = self.missing(|member| self.reports.contains_key(&member));
                self.over(format!("members {missing:?} have not loaded within {waited:?}"))
            }
            Phase::Serving => self.tick_steps(now),
            Phase::Gathering | Phase::Loading | Phase::Over => Vec::new(),
        }
    }

    fn tick_steps(&mut self, now: Duration) -> Vec<GroupEffect> {
        let stuck = self.pace.stuck(now, self.expected.iter().flatten());
        let Some(Stuck { cause, rank }) = stuck else { return Vec::new() };
        let blame = rank.and_then(|rank| self.blame(rank, Fault::Hung));
        self.ends(cause, blame)
    }

    /// Blames the member that hosts a rank.
    fn blame(&self, rank: Coordinate, fault: Fault) -> Option<(u32, Fault)> {
        let hosts = |ranks: &Vec<Coordinate>| ranks.contains(&rank);
        let member = self.expected.iter().position(hosts)?;
        Some((member as u32, fault))
    }

    fn missing(&self, here: impl Fn(u32) -> bool) -> Vec<u32> {
        (0..self.expected.len() as u32).filter(|member| !here(*member)).collect()
    }

    /// It ends, and no member in particular is to blame.
    fn over(&mut self, cause: String) -> Vec<GroupEffect> {
        self.ends(cause, None)
    }

    fn ends(&mut self, cause: String, blame: Option<(u32, Fault)>) -> Vec<GroupEffect> {
        self.phase = Phase::Over;
        vec![GroupEffect::Over(Over { cause, blame })]
    }
}

/// The least number of blocks per KV group that every rank has room for.
fn common_blocks(reports: &[RankReport]) -> Option<Vec<u32>> {
    let mut common = reports.first()?.blocks.clone();
    for report in reports {
        if report.blocks.len() != common.len() {
            return None;
        }
        for (least, blocks) in common.iter_mut().zip(&report.blocks) {
            *least = (*least).min(*blocks);
        }
    }
    Some(common)
}

#[cfg(test)]
mod tests;
