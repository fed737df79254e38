//! Many streams at once while groups are killed without a pause. No stream may be lost, and each
//! has to say what it says when nobody is killed.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::time::{Duration, Instant};

use super::{
    exam::{Exam, Outcome, Question},
    fleet::Fleet,
};
use crate::process::kill;

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storm {
    /// At a time.
    pub(crate) streams: usize,
    pub(crate) groups: usize,
    /// For how long new ones begin; those that have begun are heard to their end.
    pub(crate) lasts: Duration,
    /// From one kill to the next.
    pub(crate) every: Duration,
    /// Tokens of an answer.
    pub(crate) tokens: usize,
    /// Different questions, half of them greedy, half sampled.
    pub(crate) questions: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) begun: usize,
    /// In order, with the right answer.
    pub(crate) ended: usize,
    pub(crate) refused: Vec<String>,
    pub(crate) lost: Vec<String>,
    pub(crate) wrong: Vec<String>,
    /// Groups of which something was killed.
    pub(crate) kills: usize,
    /// Processes.
    pub(crate) killed: usize,
    /// Times that a stream went on elsewhere.
    pub(crate) resumes: usize,
    /// The longest time without a token in each stream, the shortest first.
    pauses: Vec<Duration>,
    took: Duration,
}

impl Storm {
    /// Waits until all is there, asks everything once in peace, and begins.
    pub(crate) fn run(&self) -> Report {
        // One more than a group runs, with all others gone, waits.
        let most = format!("--max-num-seqs={}", (self.streams / self.groups + 1).max(32));
        let fleet = Fleet::start(self.groups, &[&most, "--stage-time-min-ms=2"], &[]);
        let exam = Exam::taken(fleet.address, Question::texts(self.questions, self.tokens), 16);
        let (over, number) = (AtomicBool::new(false), AtomicUsize::new(0));
        let began = Instant::now();
        let resumes = resumes(&fleet);
        let mut report = Report::default();
        std::thread::scope(|scope| {
            let client = || {
                let mut own = Report::default();
                while !over.load(Ordering::Relaxed) {
                    let number = number.fetch_add(1, Ordering::Relaxed);
                    own.begun += 1;
                    let asked = exam.ask(fleet.address, number, || true);
                    own.pauses.push(asked.pause);
                    match asked.outcome {
                        Outcome::Right => own.ended += 1,
                        Outcome::Wrong(what) => own.wrong.push(what),
                        Outcome::Refused(answer) => own.refused.push(answer.text),
                        Outcome::Lost(why) => own.lost.push(why),
                    }
                }
                own
            };
            let start = |_| {
                let thread = std::thread::Builder::new().stack_size(STACK);
                thread.spawn_scoped(scope, client).expect("a thread")
            };
            let clients: Vec<_> = (0..self.streams).map(start).collect();
            self.kill(&fleet, &mut report);
            over.store(true, Ordering::Relaxed);
            for client in clients {
                report.add(client.join().expect("a client ends"));
            }
        });
        report.took = began.elapsed();
        report.resumes = self::resumes(&fleet) - resumes;
        report.pauses.sort();
        // Whatever was killed is back.
        fleet.until_whole();
        report
    }

    /// Kills, in turn of each group, the leader, the worker, and both.
    fn kill(&self, fleet: &Fleet, report: &mut Report) {
        let began = Instant::now();
        for kill_number in 1.. {
            let then = began + self.every * kill_number;
            if then > began + self.lasts {
                break;
            }
            pause_until(then);
            let groups = fleet.groups();
            // The next in turn that runs.
            let turn = kill_number as usize;
            let running = (0..groups.len()).map(|at| &groups[(turn + at) % groups.len()]);
            let mut running = running.map(|group| (group, fleet.members(group)));
            let Some((_, members)) = running.find(|(_, members)| members.len() == 2) else {
                continue;
            };
            let victims = match turn / groups.len() % 3 {
                0 => &members[..1],
                1 => &members[1..],
                _ => &members[..],
            };
            victims.iter().copied().for_each(kill);
            report.kills += 1;
            report.killed += victims.len();
        }
        pause_until(began + self.lasts);
    }
}

fn resumes(fleet: &Fleet) -> usize {
    fleet.counted("troupe:gateway_resumes_total").into_iter().sum::<f64>() as usize
}

impl Report {
    fn add(&mut self, other: Self) {
        self.begun += other.begun;
        self.ended += other.ended;
        self.refused.extend(other.refused);
        self.lost.extend(other.lost);
        self.wrong.extend(other.wrong);
        self.pauses.extend(other.pauses);
    }

    /// The longest pause of so large a share of the streams.
    fn pause(&self, share: f64) -> f64 {
        let last = self.pauses.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        self.pauses.get(at).map_or(0.0, Duration::as_secs_f64)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { begun, ended, kills, killed, resumes, .. } = self;
        let (lost, wrong, refused) = (self.lost.len(), self.wrong.len(), self.refused.len());
        writeln!(f, "streams begun {begun}, ended as they should {ended}")?;
        writeln!(f, "lost {lost}, wrong {wrong}, refused {refused}")?;
        writeln!(f, "kills {kills} ({killed} processes), went on elsewhere {resumes} times")?;
        let [half, most, all] = [0.5, 0.99, 1.0].map(|share| self.pause(share));
        writeln!(f, "longest pause of a stream: median {half:.2} s, p99 {most:.2} s, {all:.2} s")?;
        write!(f, "{:.0} s", self.took.as_secs_f64())?;
        for what in self.lost.iter().chain(&self.wrong).chain(&self.refused).take(10) {
            write!(f, "\n{what}")?;
        }
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "kills come at times, whatever happens")]
fn pause_until(then: Instant) {
    std::thread::sleep(then.saturating_duration_since(Instant::now()));
}

/// Of a client's thread: it reads lines, and there are a thousand of them.
const STACK: usize = 256 << 10;
