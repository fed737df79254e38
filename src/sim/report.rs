//! A run as figures, for people and for programs. Times are in milliseconds.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::outcome::{Answered, Run};
use crate::bench::measure::Series;

/// What a profile achieved.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Figures {
    pub(crate) profile: String,
    /// Requests that were answered.
    pub(crate) requests: u64,
    /// Requests that were not taken, or did not come because those before them were not.
    pub(crate) refused: u64,
    /// Share of all prompts' tokens whose KV was there already.
    pub(crate) hit_rate: f64,
    pub(crate) ttft_ms: Spread,
    /// Per token of output behind the first.
    pub(crate) tpot_ms: Spread,
    /// From the beginning to the end of the last answer.
    pub(crate) seconds: f64,
    pub(crate) output_tokens_per_second: f64,
    /// How long the busiest endpoint's device computed, by the mean of all.
    pub(crate) busiest: f64,
    /// Jain's index of the conversations' mean times to a first token: 1 if all are equal, near 0
    /// if few wait for long.
    pub(crate) fairness: f64,
    pub(crate) preemptions: u64,
    /// Equal for equal runs.
    pub(crate) trace: String,
}

/// Where durations lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
}

// === impl Figures ===

impl Figures {
    /// Of a run.
    pub(crate) fn new(profile: &str, run: &Run) -> Self {
        let answered = &run.answered;
        let sum = |of: fn(&Answered) -> u32| answered.iter().map(|one| u64::from(of(one))).sum();
        let (prompt, cached): (u64, u64) = (sum(|one| one.prompt), sum(|one| one.cached));
        let output: u64 = sum(|one| one.output);
        let seconds = run.ended.as_secs_f64();
        let busy = run.busy.iter().map(std::time::Duration::as_secs_f64);
        let most = busy.clone().fold(0.0, f64::max);
        let mean = busy.sum::<f64>() / run.busy.len().max(1) as f64;
        let tpot = |one: &Answered| {
            let more = one.output.saturating_sub(1);
            (more > 0).then(|| one.rest.as_secs_f64() / f64::from(more))
        };
        Self {
            profile: profile.into(),
            requests: answered.len() as u64,
            refused: run.refused,
            hit_rate: share(cached as f64, prompt as f64),
            ttft_ms: Spread::of(answered.iter().map(|one| one.first.as_secs_f64())),
            tpot_ms: Spread::of(answered.iter().filter_map(tpot)),
            seconds,
            output_tokens_per_second: share(output as f64, seconds),
            busiest: share(most, mean),
            fairness: jain(&by_conversation(answered)),
            preemptions: run.preemptions,
            trace: format!("{:016x}", run.trace.0),
        }
    }
}

/// Each one's mean time to a first token.
fn by_conversation(answered: &[Answered]) -> Vec<f64> {
    let mut times: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
    for one in answered {
        let (sum, count) = times.entry(one.conversation).or_default();
        *sum += one.first.as_secs_f64();
        *count += 1.0;
    }
    times.into_values().map(|(sum, count)| sum / count).collect()
}

/// The square of the sum, by as many times the sum of the squares (Jain, Chiu, Hawe 1984).
fn jain(all: &[f64]) -> f64 {
    let sum: f64 = all.iter().sum();
    let squares: f64 = all.iter().map(|one| one * one).sum();
    share(sum * sum, all.len() as f64 * squares)
}

/// A quotient; 0 of nothing.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

impl Spread {
    fn of(seconds: impl Iterator<Item = f64>) -> Self {
        let all = Series::of(seconds);
        let [p50, p90, p99] = [50.0, 90.0, 99.0].map(|percent| all.percentile(percent));
        Self { mean: all.mean(), p50, p90, p99 }
    }
}

/// One line for each profile.
pub(crate) fn table(figures: &[Figures]) -> String {
    let name = |figures: &Figures| figures.profile.chars().count();
    let width = figures.iter().map(name).max().unwrap_or(0).max("profile".len());
    let mut text = format!(
        "{:width$}  {:>8}  {:>7}  {:>35}  {:>15}  {:>8}  {:>7}  {:>5}  {:>16}\n{:width$}  {:>8}  \
         {:>7}  {:>8} {:>8} {:>8} {:>8}  {:>7} {:>7}  {:>8}  {:>7}  {:>5}  {:>16}\n",
        "",
        "",
        "prefix",
        "TTFT, ms",
        "TPOT, ms",
        "output",
        "",
        "",
        "",
        "profile",
        "requests",
        "hits",
        "mean",
        "p50",
        "p90",
        "p99",
        "p50",
        "p99",
        "tokens/s",
        "busiest",
        "Jain",
        "trace",
    );
    for one in figures {
        let Figures { ttft_ms: ttft, tpot_ms: tpot, .. } = one;
        let _ = writeln!(
            text,
            "{:width$}  {:>8}  {:>6.1}%  {:>8.1} {:>8.1} {:>8.1} {:>8.1}  {:>7.2} {:>7.2}  \
             {:>8.0}  {:>7.2}  {:>5.3}  {:>16}",
            one.profile,
            one.requests,
            one.hit_rate * 100.0,
            ttft.mean,
            ttft.p50,
            ttft.p90,
            ttft.p99,
            tpot.p50,
            tpot.p99,
            one.output_tokens_per_second,
            one.busiest,
            one.fairness,
            one.trace,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answered(conversation: u32, first: u64, rest: u64) -> Answered {
        let (first, rest) = (Duration::from_millis(first), Duration::from_millis(rest));
        Answered { conversation, prompt: 100, cached: 25, output: 5, first, rest }
    }

    #[test]
    fn figures_are_those_of_the_formulas() {
        let run = Run {
            answered: vec![answered(0, 10, 40), answered(0, 30, 80), answered(1, 60, 40)],
            ended: Duration::from_secs(2),
            busy: vec![Duration::from_secs(1), Duration::from_secs(2)],
            ..Run::default()
        };
        let figures = Figures::new("x", &run);
        assert_eq!((figures.requests, figures.hit_rate), (3, 0.25));
        assert!((figures.output_tokens_per_second - 7.5).abs() < 1e-9);
        assert!((figures.busiest - 4.0 / 3.0).abs() < 1e-9);
        assert!((figures.ttft_ms.mean - 100.0 / 3.0).abs() < 1e-9);
        assert!((figures.ttft_ms.p50 - 30.0).abs() < 1e-9);
        assert!((figures.tpot_ms.mean - 40.0 / 3.0).abs() < 1e-9);
        // Conversations wait 20 and 60 ms on average.
        assert!((figures.fairness - 80.0 * 80.0 / (2.0 * 4000.0)).abs() < 1e-9);
        let table = table(&[figures]);
        let widths: Vec<usize> = table.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
    }

    #[test]
    fn a_run_of_nothing_is_told_too() {
        let figures = Figures::new("x", &Run::default());
        assert_eq!((figures.hit_rate, figures.busiest, figures.fairness), (0.0, 0.0, 0.0));
    }
}
