//! How many groups a service has when load decides, as Kubernetes' autoscaler and KEDA decide it.
//!
//! Every few seconds each target asks for a number of groups (`targets`) and the highest counts.
//! The number keeps within its bounds, is the most cautious of what was asked for in the
//! stabilisation window of its direction, and changes no faster than the rules allow (`rules`). A
//! service that may sleep is woken by the first request that waits and goes to sleep when nothing
//! was asked of it for a while. Where a group that serves does not tell its load, the number does
//! not go down: what is not known is not idle.
//!
//! What is ours: who takes over knows neither what was asked for before nor since when nothing is
//! asked of a service, so both windows begin anew, and nothing goes down too early.

mod rules;
mod targets;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use troupe_runtime::{
    id::Epoch,
    spec::service::Scaling,
    wire::{latency::Latencies, status::Load},
};

use self::{
    rules::{Change, History},
    targets::Asked,
};

/// The number of groups of one service, and what it follows from.
#[derive(Clone, Debug, Default)]
pub(super) struct Scaler {
    /// How many are wanted; none until somebody began.
    replicas: Option<u32>,
    /// What groups told last.
    loads: BTreeMap<u32, Told>,
    history: History,
    /// When something was last asked of the service.
    active_at: Duration,
    /// When it was last looked at.
    looked_at: Option<Duration>,
    /// How the last look went, for people.
    pub(super) outlook: Outlook,
}

/// What a group told of its load.
#[derive(Clone, Debug)]
struct Told {
    epoch: Epoch,
    load: Load,
    /// How long things took, as it was counted at earlier looks, the oldest first.
    before: VecDeque<(Duration, Latencies, Latencies)>,
}

/// What a look needs to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    pub(super) scaling: &'a Scaling,
    /// Groups that serve, each with its incarnation.
    pub(super) serving: &'a [(u32, Epoch)],
    /// Requests that wait at gateways.
    pub(super) held: u32,
}

/// What came of a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rescale {
    pub(super) from: u32,
    pub(super) to: u32,
    /// Why, for people.
    pub(super) why: String,
}

/// How things are with scaling, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outlook {
    /// A target, or a group, of which nothing is known.
    pub(super) unknown: Option<String>,
    /// What keeps the number from what load asks for.
    pub(super) limited: Option<Limit>,
}

/// What keeps the number of groups from what load asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    TooMany,
    TooFew,
    Up,
    Down,
}

// === impl Scaler ===

impl Scaler {
    /// How many are wanted; `there_are` if nobody has decided yet, within the bounds.
    pub(super) fn replicas(&mut self, now: Duration, scaling: &Scaling, there_are: u32) -> u32 {
        *self.replicas.get_or_insert_with(|| {
            self.active_at = now;
            let start = there_are.clamp(asleep(scaling), scaling.max_replicas);
            self.history.begin(now, start);
            start
        })
    }

    /// Another decides from now on.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// A group told its load.
    pub(super) fn told(&mut self, now: Duration, (group, epoch): (u32, Epoch), load: Load) {
        if self.load(group, epoch).is_none() {
            self.loads.insert(group, Told::new(now, epoch, load));
        }
        let Some(told) = self.loads.get_mut(&group) else { return };
        // Something may have come and gone since the last word.
        if std::mem::replace(&mut told.load, load).steps != load.steps {
            self.active_at = now;
        }
    }

    /// A group tells its load no longer.
    pub(super) fn silent(&mut self, group: u32, epoch: Epoch) {
        self.loads.retain(|index, told| *index != group || told.epoch != epoch);
    }

    /// When it is to be looked at next.
    pub(super) fn due(&self) -> Duration {
        self.looked_at.map_or(Duration::ZERO, |last| last + INTERVAL)
    }

    /// Decides, at most every few seconds; what waits at gateways may wake a service at once.
    pub(super) fn look(&mut self, now: Duration, look: &Look<'_>) -> Option<Rescale> {
        let from = self.replicas?;
        let loads = look.serving.iter().filter_map(|(index, epoch)| self.load(*index, *epoch));
        let works = loads.map(|told| told.load).any(|load| load.running + load.waiting > 0);
        if works || look.held > 0 {
            self.active_at = now;
        }
        let woken = from < awake(look.scaling) && look.held > 0;
        let out_of_bounds = from > look.scaling.max_replicas || from < asleep(look.scaling);
        if now < self.due() && !woken && !out_of_bounds {
            return None;
        }
        self.looked_at = Some(now);
        let change = self.decide(now, from, look);
        self.loads.values_mut().for_each(|told| told.remember(now));
        let rescale = change.filter(|(to, _)| *to != from);
        rescale.map(|(to, why)| {
            self.replicas = Some(to);
            self.history.changed(now, from, to);
            Rescale { from, to, why }
        })
    }

    fn decide(&mut self, now: Duration, from: u32, look: &Look<'_>) -> Option<(u32, String)> {
        let scaling = look.scaling;
        let (asleep, awake, most) = (asleep(scaling), awake(scaling), scaling.max_replicas);
        self.outlook = Outlook::default();
        if from > most {
            return Some((most, format!("no more than {most} groups may be")));
        }
        let silent = look.serving.iter().find(|(index, epoch)| self.load(*index, *epoch).is_none());
        if let Some((index, _)) = silent {
            self.outlook.unknown = Some(format!("group {index} does not tell its load"));
        }
        if from < awake {
            return Some(match look.held {
                0 => (from.max(asleep), format!("no fewer than {asleep} groups may be")),
                _ => (awake, "requests wait".to_owned()),
            });
        }
        let quiet = now.saturating_sub(self.active_at) >= scaling.cooldown;
        // Groups that are still coming were wanted by somebody.
        let comes = look.serving.is_empty() && from > 0;
        if asleep < awake && quiet && silent.is_none() && !comes {
            let seconds = scaling.cooldown.as_secs();
            return Some((asleep, format!("nothing was asked for {seconds} s")));
        }
        let asked = self.asked(from, look);
        let known = asked.iter().all(|asked| asked.groups.is_some());
        if self.outlook.unknown.is_none() {
            let unknown = asked.iter().find(|asked| asked.groups.is_none());
            self.outlook.unknown = unknown.map(|asked| format!("nothing is known of {}", asked.of));
        }
        let highest = asked.iter().filter(|asked| asked.groups.is_some());
        let highest = highest.max_by_key(|asked| asked.groups)?;
        let mut wanted = highest.groups?;
        if silent.is_some() || !known {
            wanted = wanted.max(from);
        }
        let bounded = wanted.clamp(awake, most);
        self.outlook.limited = match wanted {
            more if more > most => Some(Limit::TooMany),
            fewer if fewer < awake => Some(Limit::TooFew),
            _ => None,
        };
        let Change { to, limit } = self.history.next(now, (from, bounded), scaling);
        self.outlook.limited = self.outlook.limited.or(limit);
        let why = match to > from {
            true => format!("{} above target", highest.of),
            false => "all metrics below target".to_owned(),
        };
        Some((to, why))
    }

    /// What each target asks for.
    fn asked(&self, from: u32, look: &Look<'_>) -> Vec<Asked> {
        let known = look.serving.iter().filter_map(|(index, epoch)| self.load(*index, *epoch));
        let known: Vec<&Told> = known.collect();
        let groups = targets::Groups {
            wanted: from,
            serving: look.serving.len() as u32,
            held: look.held,
            loads: known.iter().map(|told| told.load).collect(),
            first_token: sum(known.iter().map(|told| told.recent(|(_, first, _)| first, FIRST))),
            next_token: sum(known.iter().map(|told| told.recent(|(_, _, next)| next, NEXT))),
        };
        look.scaling.targets.iter().map(|target| groups.ask(target)).collect()
    }

    fn load(&self, index: u32, epoch: Epoch) -> Option<&Told> {
        self.loads.get(&index).filter(|told| told.epoch == epoch)
    }
}

/// Groups of a service of which nothing is asked.
fn asleep(scaling: &Scaling) -> u32 {
    scaling.idle_replicas.unwrap_or(scaling.min_replicas).min(scaling.min_replicas)
}

/// The fewest groups of a service of which something is asked.
fn awake(scaling: &Scaling) -> u32 {
    scaling.min_replicas.max(1).min(scaling.max_replicas)
}

fn sum(latencies: impl Iterator<Item = Latencies>) -> Latencies {
    latencies.fold(Latencies::default(), |sum, more| sum.with(&more))
}

// === impl Told ===

type Moment = (Duration, Latencies, Latencies);
const FIRST: fn(&Load) -> Latencies = |load| load.first_token;
const NEXT: fn(&Load) -> Latencies = |load| load.next_token;

impl Told {
    /// What took how long before now is none of our business.
    fn new(now: Duration, epoch: Epoch, load: Load) -> Self {
        let before = [(now, load.first_token, load.next_token)].into();
        Self { epoch, load, before }
    }

    /// How long things took of late.
    fn recent(&self, of: impl Fn(&Moment) -> &Latencies, now: fn(&Load) -> Latencies) -> Latencies {
        let nothing = Latencies::default();
        now(&self.load).since(self.before.front().map_or(&nothing, of))
    }

    fn remember(&mut self, now: Duration) {
        self.before.push_back((now, self.load.first_token, self.load.next_token));
        // The oldest is as old as the window, or a little older.
        while self.before.get(1).is_some_and(|(at, ..)| now.saturating_sub(*at) >= LATE) {
            self.before.pop_front();
        }
    }
}

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(5);
/// How far back it is looked at how long things took.
const LATE: Duration = Duration::from_secs(60);
