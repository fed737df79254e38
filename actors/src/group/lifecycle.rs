//! The life of one incarnation of a group, seen from its leader.
//!
//! ```text
//! Gathering --all hello--> Loading --all loaded--> Serving
//!     \________________________\______________________\____--> Over(cause)
//! ```
//! All or nothing: whatever ends one member ends the incarnation, at once and with a cause, because
//! a stage without its neighbour can only wait. Forming has a deadline; once serving, liveness is
//! progress: a step that is not done within a limit that follows the measured step times ends the
//! incarnation too, naming the ranks that were still at it.

use std::{collections::BTreeMap, time::Duration};

use troupe_runtime::{
    id::{Coordinate, StepId},
    wire::group::{Formation, FormationMember, Hello, Progress, RankReport},
};

/// A conversation with a member, or with somebody who says that it is one. Who was turned away once
/// is nobody: whatever else comes from there says nothing of the group.
pub type Door = u64;

/// What can happen to a group.
#[derive(Clone, Debug)]
pub enum GroupEvent {
    /// Somebody introduced itself.
    Hello(Door, Hello),
    /// A member holds its weights.
    Loaded(Door, Vec<RankReport>),
    /// A step of so many tokens was sent to all.
    Planned(StepId, u32),
    /// A rank is through a step.
    Progress(Progress),
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
    Over(String),
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
    deadlines: Deadlines,
    phase: Phase,
    since: Duration,
    addresses: BTreeMap<u32, String>,
    /// Through which door each member came.
    doors: BTreeMap<Door, u32>,
    reports: BTreeMap<u32, Vec<RankReport>>,
    steps: BTreeMap<StepId, InFlight>,
    /// Longest step of late, decaying.
    longest: Duration,
    /// Least time per token of any step.
    per_token: Option<Duration>,
}

/// A step that is not done.
#[derive(Clone, Debug)]
struct InFlight {
    sent: Duration,
    tokens: u32,
    through: Vec<Coordinate>,
}

/// How long a group may take for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// From the start until every member has said hello.
    pub gather: Duration,
    /// From then until every rank is loaded.
    pub load: Duration,
    /// A step may always take this long, however fast others were.
    pub step_min: Duration,
    /// Beyond it, this many times the longest step of late, or what its tokens take at the best
    /// speed that was measured, whichever is more: a long prompt is no hang.
    pub step_factor: u32,
    /// What a token may take before anything was measured.
    pub token_unmeasured: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            gather: Duration::from_secs(60),
            load: Duration::from_secs(1800),
            step_min: Duration::from_secs(30),
            step_factor: 20,
            token_unmeasured: Duration::from_millis(500),
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
            deadlines,
            phase: Phase::Gathering,
            since: now,
            addresses: BTreeMap::new(),
            doors: BTreeMap::new(),
            reports: BTreeMap::new(),
            steps: BTreeMap::new(),
            longest: Duration::ZERO,
            per_token: None,
        }
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
            GroupEvent::Hello(door, hello) => self.hello(now, door, hello),
            GroupEvent::Loaded(door, reports) => match self.member_at(door) {
                Some(member) => self.loaded(now, member, reports),
                None => Vec::new(),
            },
            GroupEvent::Planned(step, tokens) => {
                self.steps.insert(step, InFlight { sent: now, tokens, through: Vec::new() });
                Vec::new()
            }
            GroupEvent::Progress(progress) => {
                if let Some(step) = self.steps.get_mut(&progress.step) {
                    step.through.push(progress.rank);
                }
                Vec::new()
            }
            GroupEvent::Done(step) => {
                self.done(now, step);
                Vec::new()
            }
            GroupEvent::Lost(door, why) => match self.member_at(door) {
                Some(member) => self.over(format!("member {member} is lost: {why}")),
                None => Vec::new(),
            },
            GroupEvent::Tick => self.tick(now),
        }
    }

    fn hello(&mut self, now: Duration, door: Door, hello: Hello) -> Vec<GroupEffect> {
        let member = hello.member;
        if let Err(why) = self.check_hello(&hello) {
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

    fn check_hello(&self, hello: &Hello) -> Result<(), String> {
        if hello.group != self.hello.group {
            return Err(format!("this is {}, not {}", self.hello.group, hello.group));
        }
        if hello.epoch != self.hello.epoch {
            return Err(format!("this is epoch {}, not {}", self.hello.epoch, hello.epoch));
        }
        if hello.member as usize >= self.expected.len() {
            return Err(format!("there are {} members", self.expected.len()));
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

    fn done(&mut self, now: Duration, step: StepId) {
        let Some(step) = self.steps.remove(&step) else { return };
        let took = now.saturating_sub(step.sent);
        let per_token = took / step.tokens.max(1);
        self.per_token = Some(self.per_token.map_or(per_token, |least| least.min(per_token)));
        // Forgets a slow step by half within some forty faster ones.
        self.longest = took.max(self.longest - self.longest / 64);
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
        let mut steps = self.steps.iter();
        let late = steps.find(|(_, step)| now.saturating_sub(step.sent) > self.limit(step.tokens));
        let Some((step, InFlight { through, tokens, .. })) = late else { return Vec::new() };
        let limit = self.limit(*tokens);
        let stuck: Vec<_> = self
            .expected
            .iter()
            .flatten()
            .filter(|rank| !through.contains(rank))
            .map(Coordinate::to_string)
            .collect();
        let cause = format!("step {step} is not done within {limit:?}, still at it: {stuck:?}");
        self.over(cause)
    }

    /// How long a step of so many tokens may take.
    fn limit(&self, tokens: u32) -> Duration {
        let Deadlines { step_min, step_factor, token_unmeasured, .. } = self.deadlines;
        let by_tokens = match self.per_token {
            Some(per_token) => per_token * tokens * step_factor,
            None => token_unmeasured * tokens,
        };
        step_min.max(self.longest * step_factor).max(by_tokens)
    }

    fn missing(&self, here: impl Fn(u32) -> bool) -> Vec<u32> {
        (0..self.expected.len() as u32).filter(|member| !here(*member)).collect()
    }

    fn over(&mut self, cause: String) -> Vec<GroupEffect> {
        self.phase = Phase::Over;
        vec![GroupEffect::Over(cause)]
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
