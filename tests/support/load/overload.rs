//! More than a service can do: requests of three priorities come when they come, whoever is
//! answered or not, and what those see that are let in is held against what they see when there is
//! room.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use serde_json::json;
use tokio::time::{Duration, Instant};

use super::{
    exam::{Asked, Exam, Outcome, Question},
    fleet::Fleet,
};
use crate::random::Random;

/// The service and the load.
#[derive(Clone, Debug)]
pub(crate) struct Overload {
    pub(crate) groups: usize,
    /// Sequences that a group runs at a time.
    pub(crate) sequences: usize,
    /// What a stage takes for a step, so that the service is the limit and not this machine.
    pub(crate) stage_ms: u32,
    pub(crate) prompt: usize,
    pub(crate) tokens: usize,
    /// How long each load lasts.
    pub(crate) lasts: Duration,
    /// Of what the service can do.
    pub(crate) loads: Vec<f64>,
    /// Of the gateway.
    pub(crate) flags: Vec<String>,
}

/// A share of the requests, and what they say of their importance. vLLM's `priority`: lower first.
struct Class {
    name: &'static str,
    share: f64,
    priority: i32,
}

const CLASSES: [Class; 3] = [
    Class { name: "critical", share: 0.1, priority: -1 },
    Class { name: "standard", share: 0.3, priority: 0 },
    Class { name: "sheddable", share: 0.6, priority: 1 },
];

/// What came of one load.
#[derive(Debug)]
pub(crate) struct Report {
    load: f64,
    per_second: f64,
    classes: Vec<Seen>,
    /// What may not be: answers lost or wrong, refusals without their header or body.
    pub(crate) failed: Vec<String>,
}

/// What one class saw.
#[derive(Clone, Debug, Default)]
struct Seen {
    asked: usize,
    answered: usize,
    refused: usize,
    late: usize,
    first_ms: Vec<f64>,
    token_ms: Vec<f64>,
}

impl Overload {
    /// Finds out what the service can do, and lays each load on it.
    pub(crate) fn run(&self, mut say: impl FnMut(&str)) -> Vec<Report> {
        let most = format!("--max-num-seqs={}", self.sequences);
        let stage = format!("--stage-time-min-ms={}", self.stage_ms);
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let fleet = Fleet::start(self.groups, &[&most, &stage], &flags);
        let questions = (0..64).map(|number| Question::text(number, self.prompt, self.tokens));
        let exam = Exam::taken(fleet.address, questions.collect(), 2);
        let capacity = self.capacity(&fleet, &exam);
        say(&format!("it answers {capacity:.1} requests a second"));
        self.loads.iter().map(|load| self.lay(&fleet, &exam, *load, capacity)).collect()
    }

    /// Requests a second with as many clients as sequences, each with one request after another.
    fn capacity(&self, fleet: &Fleet, exam: &Exam) -> f64 {
        let (over, ended) = (AtomicBool::new(false), AtomicUsize::new(0));
        let clients = self.groups * self.sequences;
        std::thread::scope(|scope| {
            for client in 0..clients {
                let (over, ended) = (&over, &ended);
                scope.spawn(move || {
                    for round in 0.. {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        let asked = exam.ask(fleet.address, client + round * clients, || true);
                        // One that is turned away tries again at once: it is no answer.
                        if matches!(asked.outcome, Outcome::Right) {
                            ended.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            // All are under way by then.
            pause(self.lasts / 4);
            let (began, before) = (Instant::now(), ended.load(Ordering::Relaxed));
            pause(self.lasts / 2);
            let count = ended.load(Ordering::Relaxed) - before;
            let rate = count as f64 / began.elapsed().as_secs_f64();
            over.store(true, Ordering::Relaxed);
            rate
        })
    }

    fn lay(&self, fleet: &Fleet, exam: &Exam, load: f64, capacity: f64) -> Report {
        let per_second = load * capacity;
        let mut random = Random::new(17);
        let seen = Mutex::new((vec![Seen::default(); CLASSES.len()], Vec::new()));
        std::thread::scope(|scope| {
            let began = Instant::now();
            let mut then = began;
            for number in 0.. {
                // A Poisson process.
                then += Duration::from_secs_f64(random.gamma(1.0) / per_second);
                if then > began + self.lasts {
                    break;
                }
                pause(then.saturating_duration_since(Instant::now()));
                let mut drawn = random.below(1000) as f64 / 1000.0;
                let class = CLASSES.iter().position(|class| {
                    drawn -= class.share;
                    drawn < 0.0
                });
                let class = class.unwrap_or(CLASSES.len() - 1);
                let seen = &seen;
                scope.spawn(move || {
                    let more = json!({"priority": CLASSES[class].priority});
                    let asked = exam.ask_with(fleet.address, number, &more, || true);
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    let (classes, failed) = &mut *seen;
                    failed.extend(classes[class].see(asked, self.tokens));
                });
            }
        });
        let (mut classes, failed) = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        for seen in &mut classes {
            seen.first_ms.sort_by(f64::total_cmp);
            seen.token_ms.sort_by(f64::total_cmp);
        }
        Report { load, per_second, classes, failed }
    }
}

impl Seen {
    /// Counts an answer, or says what is wrong with it.
    fn see(&mut self, asked: Asked, tokens: usize) -> Option<String> {
        self.asked += 1;
        match asked.outcome {
            Outcome::Right => {
                self.answered += 1;
                self.first_ms.push(asked.first.as_secs_f64() * 1e3);
                let rest = asked.took.saturating_sub(asked.first).as_secs_f64() * 1e3;
                self.token_ms.push(rest / (tokens - 1) as f64);
                None
            }
            Outcome::Refused(answer) => {
                match answer.status {
                    429 => self.refused += 1,
                    _ => self.late += 1,
                }
                refusal_is_whole(&answer).err()
            }
            Outcome::Wrong(what) => Some(what),
            Outcome::Lost(why) => Some(why),
        }
    }
}

/// Whether somebody who is turned away is told why, and when to come back.
pub(crate) fn refusal_is_whole(answer: &crate::http::Answer) -> Result<(), String> {
    let after = answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0);
    let why = !answer.header("x-llm-d-request-dropped-reason").is_empty();
    let body = serde_json::from_str::<serde_json::Value>(&answer.text).unwrap_or_default();
    let said = body["error"]["code"] == answer.status && body["error"]["message"].is_string();
    let status = [429, 503].contains(&answer.status);
    if after && why && said && status { Ok(()) } else { Err(format!("{answer:?}")) }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |sorted: &[f64], share: f64| {
            let at = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
            sorted.get(at).map_or("-".to_owned(), |value| format!("{value:.0}"))
        };
        for (class, seen) in CLASSES.iter().zip(&self.classes) {
            let Seen { asked, answered, refused, late, first_ms, token_ms } = seen;
            writeln!(
                f,
                "| {:.1} ({:.0}/s) | {} | {asked} | {answered} | {refused} | {late} | {} / {} | \
                 {} / {} |",
                self.load,
                self.per_second,
                class.name,
                at(first_ms, 0.5),
                at(first_ms, 0.99),
                at(token_ms, 0.5),
                at(token_ms, 0.99),
            )?;
        }
        for what in self.failed.iter().take(5) {
            writeln!(f, "{what}")?;
        }
        Ok(())
    }
}

/// What the columns are.
pub(crate) const HEAD: &str = "\
| load | class | asked | answered | 429 | 503 | TTFT median / p99, ms | TPOT median / p99, ms |
|---|---|---|---|---|---|---|---|";

#[expect(clippy::disallowed_methods, reason = "requests come at times, whatever happens")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
