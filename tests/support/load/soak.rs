//! A mixed load for a long time, with something going wrong every few seconds, and every minute a
//! look at what the long-lived processes hold: memory, files or threads that only ever grow are a
//! mistake that no short test finds.
//!
//! Nothing happens to the first group, so that it is seen over the whole time too.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::time::{Duration, Instant};

use super::{
    exam::{Exam, Outcome, Question},
    fleet::{Fleet, Group},
    usage::Usage,
};
use crate::process::{freeze, kill};

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Soak {
    pub(crate) groups: usize,
    pub(crate) lasts: Duration,
    /// What is held before that does not count: caches fill and pools grow.
    pub(crate) warm_up: Duration,
    /// From one fault to the next.
    pub(crate) faults: Duration,
    /// From one look to the next.
    pub(crate) looks: Duration,
    /// What each client waits after an answer: how much load it is.
    pub(crate) rest: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) asked: usize,
    pub(crate) right: usize,
    /// Clients that went away on purpose.
    pub(crate) left: usize,
    pub(crate) failed: Vec<String>,
    pub(crate) faults: BTreeMap<&'static str, usize>,
    /// Of each process: when, and what it held.
    pub(crate) looks: BTreeMap<String, Vec<(Duration, Usage)>>,
    warm_up: Duration,
}

/// What a process may gain in an hour, after the warm-up.
pub(crate) const MOST_BYTES: f64 = (16 << 20) as f64;
pub(crate) const MOST_FILES: f64 = 12.0;
pub(crate) const MOST_THREADS: f64 = 4.0;

#[derive(Default)]
struct Counts {
    asked: AtomicUsize,
    right: AtomicUsize,
    left: AtomicUsize,
    failed: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Soak {
    /// Begins when all is there; every look is told to `say` too.
    pub(crate) fn run(&self, mut say: impl FnMut(&str)) -> Report {
        let engine = ["--stage-time-min-ms=4", "--max-num-seqs=32", "--kv-offloading-size=0.02"];
        let mut fleet = Fleet::start(self.groups, &engine, &[]);
        let exam = Exam::taken(fleet.address, questions(), 4);
        let counts = Counts::default();
        let mut report = Report { warm_up: self.warm_up, ..Report::default() };
        let steady = fleet.first_group();
        let address = fleet.address;
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (exam, counts) = (&exam, &counts);
                scope.spawn(move || {
                    for round in 0.. {
                        if counts.over.load(Ordering::Relaxed) {
                            break;
                        }
                        counts.ask(exam, address, client + round * CLIENTS);
                        pause_until(Instant::now() + self.rest);
                    }
                });
            }
            let began = Instant::now();
            let (mut fault, mut look) = (0, 0);
            loop {
                let next_fault = self.faults * (fault + 1);
                let next_look = self.looks * look;
                if next_fault.min(next_look) > self.lasts {
                    break;
                }
                pause_until(began + next_fault.min(next_look));
                if next_look <= next_fault {
                    look += 1;
                    report.look(began.elapsed(), &fleet, &steady);
                    say(&report.line(began.elapsed(), &counts));
                } else {
                    fault += 1;
                    let early = began.elapsed() < self.warm_up.max(self.lasts / 4);
                    if let Some(what) = fleet.suffer(fault as usize, early) {
                        *report.faults.entry(what).or_default() += 1;
                    }
                }
            }
            pause_until(began + self.lasts);
            counts.over.store(true, Ordering::Relaxed);
        });
        fleet.until_whole();
        let Counts { asked, right, left, failed, .. } = counts;
        (report.asked, report.right) = (asked.into_inner(), right.into_inner());
        report.left = left.into_inner();
        report.failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        report
    }
}

impl Counts {
    /// Asks something. Every fifth client goes away in the middle.
    fn ask(&self, exam: &Exam, address: std::net::SocketAddr, number: usize) {
        let leaves = number % 5 == 4;
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut events = 0;
        let asked = exam.ask(address, number, || {
            events += 1;
            !leaves || events < 8
        });
        let failed = match asked.outcome {
            Outcome::Right => {
                self.right.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Outcome::Lost(_) if leaves && events >= 8 => {
                self.left.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Outcome::Refused(answer) => format!("refused: {answer:?}"),
            Outcome::Wrong(what) => format!("wrong: {what}"),
            Outcome::Lost(why) => format!("lost: {why}"),
        };
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(failed);
    }
}

/// Short and long ones, a few prompts at once, schemas, and prompts of many tokens.
fn questions() -> Vec<Question> {
    let kinds = (0..40).map(|number| match number % 8 {
        0..=3 => Question::text(number, 16 + number * 7 % 48, 96),
        4 => Question::text(number, 40, 300),
        5 => Question::batch(number, 24),
        6 => Question::schema(number, 96),
        _ => Question::text(number, 1200, 8),
    });
    kinds.collect()
}

impl Fleet {
    /// The group that nothing happens to.
    fn first_group(&self) -> Vec<(String, u32)> {
        let groups = self.groups();
        let first = groups.iter().find(|group| group.name.ends_with("-0"));
        let members = self.members(first.expect("all groups serve"));
        let name = |index: usize| ["leader", "worker"][index.min(1)].to_owned();
        members.into_iter().enumerate().map(|(index, id)| (name(index), id)).collect()
    }

    /// Something goes wrong, each time something else, in each group but the first in turn. The
    /// controller is left alone after the beginning: what it holds is to be seen for long.
    fn suffer(&mut self, turn: usize, early: bool) -> Option<&'static str> {
        let groups = self.groups();
        let others: Vec<&Group> = groups.iter().filter(|g| !g.name.ends_with("-0")).collect();
        let group = *others.get(turn % others.len().max(1))?;
        let [leader, worker] = self.members(group)[..] else { return None };
        Some(match turn / others.len() % 7 {
            0 => (kill(leader), "leader killed").1,
            1 => (kill(worker), "worker killed").1,
            3 => (freeze(leader), "leader frozen").1,
            4 => (freeze(worker), "worker frozen").1,
            5 => (self.restart_host(group), "node killed").1,
            6 if early => (self.restart_control(), "controller killed").1,
            _ => ([leader, worker].into_iter().for_each(kill), "group killed").1,
        })
    }
}

impl Report {
    fn look(&mut self, at: Duration, fleet: &Fleet, steady: &[(String, u32)]) {
        for (name, id) in fleet.processes().iter().chain(steady) {
            // One that was started anew is another one.
            if let Some(usage) = Usage::of(*id) {
                self.looks.entry(format!("{name} {id}")).or_default().push((at, usage));
            }
        }
    }

    fn line(&self, at: Duration, counts: &Counts) -> String {
        let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let failed = counts.failed.lock().unwrap_or_else(PoisonError::into_inner).len();
        let faults: usize = self.faults.values().sum();
        let [asked, right, left] = [&counts.asked, &counts.right, &counts.left].map(count);
        let mut line = format!(
            "{:>5.0} s  asked {asked}, right {right}, left {left}, failed {failed}, \
             faults {faults};",
            at.as_secs_f64()
        );
        for (name, looks) in &self.looks {
            let last = looks.last().filter(|(then, _)| at - *then < Duration::from_secs(1));
            if let Some((_, usage)) = last {
                let Usage { resident, files, threads, .. } = usage;
                line += &format!(" {name}: {:.1} MiB {files} f {threads} t;", mib(*resident));
            }
        }
        line
    }

    /// What of each process grew, in an hour, by more than it may. The time after the warm-up has
    /// to be long enough for a line through it to mean something.
    pub(crate) fn grown(&self) -> Vec<String> {
        let mut grown = Vec::new();
        for (name, looks) in &self.looks {
            let looks: Vec<_> = looks.iter().filter(|(at, _)| *at >= self.warm_up).collect();
            if looks.len() < LEAST_LOOKS {
                continue;
            }
            let mut hold = |what: &str, most: f64, of: fn(&Usage) -> u64| {
                let points = looks.iter().map(|(at, usage)| (at.as_secs_f64() / 3600.0, of(usage)));
                let slope = slope(points.map(|(at, held)| (at, held as f64)));
                if slope > most {
                    grown
                        .push(format!("{name}: {what} grow by {slope:.0} an hour, over {most:.0}"));
                }
            };
            hold("bytes", MOST_BYTES, |usage| usage.resident);
            hold("files", MOST_FILES, |usage| usage.files);
            hold("threads", MOST_THREADS, |usage| usage.threads);
        }
        grown
    }
}

/// Of the line that fits best.
fn slope(points: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let count = points.clone().count() as f64;
    let mean = |of: fn((f64, f64)) -> f64| points.clone().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let shared: f64 = points.clone().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let own: f64 = points.map(|point| (point.0 - x).powi(2)).sum();
    if own > 0.0 { shared / own } else { 0.0 }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, right, left, failed, faults, .. } = self;
        writeln!(f, "asked {asked}, right {right}, left {left}, failed {}", failed.len())?;
        writeln!(f, "faults {}: {faults:?}", faults.values().sum::<usize>())?;
        for (name, looks) in &self.looks {
            let warm = looks.iter().find(|(at, _)| *at >= self.warm_up);
            let (Some((_, warm)), Some((_, last))) = (warm, looks.last()) else { continue };
            let pair = |of: fn(&Usage) -> u64| format!("{} to {}", of(warm), of(last));
            writeln!(
                f,
                "{name}: {:.1} to {:.1} MiB, at most {:.1}; files {}; threads {}",
                mib(warm.resident),
                mib(last.resident),
                mib(last.peak),
                pair(|usage| usage.files),
                pair(|usage| usage.threads)
            )?;
        }
        for what in failed.iter().take(10) {
            writeln!(f, "{what}")?;
        }
        for what in self.grown() {
            writeln!(f, "{what}")?;
        }
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "load and faults come at times, whatever happens")]
fn pause_until(then: Instant) {
    std::thread::sleep(then.saturating_duration_since(Instant::now()));
}

const CLIENTS: usize = 6;
/// Below that a line through them says nothing.
const LEAST_LOOKS: usize = 10;

#[test]
fn what_grows_is_found() {
    let held = |step: u64| {
        let look = |minute: u64| {
            let usage = Usage { resident: (100 << 20) + minute * step, ..Usage::default() };
            (Duration::from_secs(60 * minute), usage)
        };
        let looks = BTreeMap::from([("gateway 1".to_owned(), (0..30).map(look).collect())]);
        Report { looks, ..Report::default() }.grown().len()
    };
    assert_eq!((held(0), held(200 << 10), held(400 << 10)), (0, 0, 1));
}
