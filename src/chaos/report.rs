//! What came of several runs: a line for each, the median and the worst, or all of it as JSON.

use std::time::Duration;

use serde_json::{Value, json};

use super::stream::Outcome;
use crate::client::operate::table::{Table, Titles};

/// One run: what it was done to, and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// What it was done to.
    pub(crate) what: String,
    /// Its process.
    pub(crate) process: u32,
    /// How that process ended, if it did and somebody knows.
    pub(crate) ended: Option<String>,
    /// What the client saw.
    pub(crate) outcome: Outcome,
}

/// A table of all runs; of several also the median and the worst.
pub(crate) fn table(runs: &[Run]) -> String {
    let mut table = Table::new(["RUN", "PID", "NOTICED", "NEXT TOKEN", "PAUSE", "LOST", "WRONG"]);
    let mut add = |name: String, process: String, o: &Outcome| {
        let (lost, wrong) = (o.lost.to_string(), o.wrong.to_string());
        let pause = time(Some(o.pause));
        table.add([name, process, time(o.noticed), time(o.next_token), pause, lost, wrong]);
    };
    for (number, run) in (1..).zip(runs) {
        add(format!("{number}"), run.process.to_string(), &run.outcome);
    }
    if runs.len() > 1 {
        add("median".into(), "-".into(), &of_all(runs, median));
        add("worst".into(), "-".into(), &of_all(runs, worst));
    }
    table.print(Titles::Shown)
}

/// The same for programs.
pub(crate) fn json(runs: &[Run]) -> Value {
    let shown: Vec<Value> = runs
        .iter()
        .map(|run| {
            let mut shown = figures(&run.outcome);
            shown["target"] = json!(run.what);
            shown["pid"] = json!(run.process);
            shown["ended"] = json!(run.ended);
            shown["error"] = json!(run.outcome.error);
            shown
        })
        .collect();
    json!({
        "runs": shown,
        "median": figures(&of_all(runs, median)),
        "worst": figures(&of_all(runs, worst)),
    })
}

fn figures(outcome: &Outcome) -> Value {
    let ms = |time: Duration| json!((time.as_secs_f64() * 1e4).round() / 10.0);
    json!({
        "noticedMs": outcome.noticed.map(ms),
        "nextTokenMs": outcome.next_token.map(ms),
        "pauseMs": ms(outcome.pause),
        "lost": outcome.lost,
        "wrong": outcome.wrong,
    })
}

/// One outcome that stands for all, figure by figure. A run without a figure counts as the worst.
fn of_all(runs: &[Run], pick: fn(usize) -> usize) -> Outcome {
    fn one<T: Ord + Copy + Default>(mut all: Vec<T>, pick: fn(usize) -> usize) -> T {
        all.sort_unstable();
        all.get(pick(all.len())).copied().unwrap_or_default()
    }
    let times = |figure: fn(&Outcome) -> Option<Duration>| {
        let all = runs.iter().map(|run| figure(&run.outcome).unwrap_or(Duration::MAX)).collect();
        Some(one(all, pick)).filter(|time| *time != Duration::MAX)
    };
    let counts = |figure: fn(&Outcome) -> usize| {
        one(runs.iter().map(|run| figure(&run.outcome)).collect(), pick)
    };
    Outcome {
        noticed: times(|outcome| outcome.noticed),
        next_token: times(|outcome| outcome.next_token),
        pause: one(runs.iter().map(|run| run.outcome.pause).collect(), pick),
        lost: counts(|outcome| outcome.lost),
        wrong: counts(|outcome| outcome.wrong),
        error: None,
    }
}

fn median(len: usize) -> usize {
    len.saturating_sub(1) / 2
}

fn worst(len: usize) -> usize {
    len.saturating_sub(1)
}

fn time(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".into(), |time| format!("{:.1}ms", time.as_secs_f64() * 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(noticed: Option<u64>, lost: usize) -> Run {
        let ms = Duration::from_millis;
        let noticed = noticed.map(ms);
        let next_token = noticed.map(|time| time + ms(100));
        let pause = next_token.unwrap_or_default();
        let outcome = Outcome { noticed, next_token, pause, lost, wrong: 0, error: None };
        Run { what: "a/0".into(), process: 7, ended: None, outcome }
    }

    #[test]
    fn median_and_worst_are_of_each_figure() {
        let runs = [run(Some(30), 0), run(Some(10), 2), run(Some(20), 0)];
        let shown = json(&runs);
        assert_eq!(shown["median"]["noticedMs"], 20.0);
        assert_eq!(shown["worst"]["nextTokenMs"], 130.0);
        assert_eq!((&shown["median"]["lost"], &shown["worst"]["lost"]), (&json!(0), &json!(2)));
        let text = table(&runs);
        assert_eq!(text.lines().count(), 6, "{text}");
        assert!(text.lines().nth(4).is_some_and(|line| line.contains("20.0ms")), "{text}");
    }

    #[test]
    fn a_run_in_which_nothing_was_noticed_is_the_worst() {
        let shown = json(&[run(Some(10), 0), run(None, 0), run(Some(20), 0)]);
        assert_eq!(shown["worst"]["noticedMs"], Value::Null);
        assert_eq!(shown["median"]["noticedMs"], 20.0);
    }
}
