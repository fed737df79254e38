//! Outcomes to figures, with the formulas of `vllm bench serve`. Nothing here knows of time.

use super::request::Outcome;

/// What requests had to keep to be good, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Goals {
    pub(crate) ttft: Option<f64>,
    pub(crate) tpot: Option<f64>,
    pub(crate) e2el: Option<f64>,
}

/// The figures of a run. Times in milliseconds, of requests that succeeded.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) seconds: f64,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
    /// Requests that kept all goals, per second.
    pub(crate) goodput: f64,
    /// Most chunks that came in one second, counted from the first request sent.
    pub(crate) peak_output: f64,
    /// Most requests that were under way in one of those seconds.
    pub(crate) peak_requests: u64,
    pub(crate) ttft: Series,
    pub(crate) tpot: Series,
    pub(crate) itl: Series,
    pub(crate) e2el: Series,
}

/// Durations in ascending order, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Series(Vec<f64>);

impl Figures {
    /// Of a run that took `seconds`.
    pub(crate) fn new(outcomes: &[Outcome], seconds: f64, goals: Goals) -> Self {
        let good: Vec<&Outcome> = outcomes.iter().filter(|one| one.error.is_none()).collect();
        let kept = good.iter().filter(|one| goals.kept_by(one)).count();
        let (peak_output, peak_requests) = peaks(&good);
        Self {
            completed: good.len() as u64,
            failed: (outcomes.len() - good.len()) as u64,
            seconds,
            input_tokens: good.iter().map(|one| one.prompt_tokens).sum(),
            output_tokens: good.iter().map(|one| one.output_tokens).sum(),
            goodput: kept as f64 / seconds,
            peak_output,
            peak_requests,
            ttft: Series::of(good.iter().map(|one| one.ttft)),
            tpot: Series::of(good.iter().filter_map(|one| one.tpot())),
            itl: Series::of(good.iter().flat_map(|one| one.itl.iter().copied())),
            e2el: Series::of(good.iter().map(|one| one.latency)),
        }
    }

    /// So much of something, per second.
    pub(crate) fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.seconds
    }
}

impl Outcome {
    /// Time per token of output behind the first, in seconds; a single token has none.
    fn tpot(&self) -> Option<f64> {
        (self.output_tokens > 1)
            .then(|| (self.latency - self.ttft) / (self.output_tokens - 1) as f64)
    }
}

impl Goals {
    fn kept_by(&self, outcome: &Outcome) -> bool {
        let within =
            |goal: Option<f64>, seconds: f64| goal.is_none_or(|goal| seconds * 1e3 <= goal);
        within(self.ttft, outcome.ttft)
            && within(self.tpot, outcome.tpot().unwrap_or(0.0))
            && within(self.e2el, outcome.latency)
    }

    /// Whether there are any.
    pub(crate) fn is_any(&self) -> bool {
        *self != Self::default()
    }
}

/// Chunks and requests per second, each in its fullest second.
fn peaks(good: &[&Outcome]) -> (f64, u64) {
    let first = good.iter().map(|one| one.start).fold(f64::INFINITY, f64::min);
    let last = good.iter().map(|one| one.start + one.latency).fold(first, f64::max);
    if good.is_empty() {
        return (0.0, 0);
    }
    let second = |at: f64| (at - first).max(0.0) as usize;
    let mut chunks = vec![0_u64; second(last) + 2];
    let mut requests = chunks.clone();
    let count = |counts: &mut Vec<u64>, at: usize| {
        if let Some(count) = counts.get_mut(at) {
            *count += 1;
        }
    };
    for one in good {
        let mut at = one.start + one.ttft;
        count(&mut chunks, second(at));
        for gap in &one.itl {
            at += gap;
            count(&mut chunks, second(at));
        }
        for at in second(one.start)..=second(one.start + one.latency) {
            count(&mut requests, at);
        }
    }
    let most = |counts: Vec<u64>| counts.into_iter().max().unwrap_or(0);
    (most(chunks) as f64, most(requests))
}

// === impl Series ===

impl Series {
    /// Of durations in seconds.
    pub(crate) fn of(seconds: impl Iterator<Item = f64>) -> Self {
        let mut all: Vec<f64> = seconds.map(|seconds| seconds * 1e3).collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }

    /// Their mean; 0 of none, as everything here.
    pub(crate) fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len().max(1) as f64
    }

    /// Their deviation, as of a whole population.
    pub(crate) fn deviation(&self) -> f64 {
        let mean = self.mean();
        let squares = self.0.iter().map(|each| (each - mean).powi(2)).sum::<f64>();
        (squares / self.0.len().max(1) as f64).sqrt()
    }

    /// Below it are so many percent of them; between two neighbors on the line that joins them.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        let place = percent / 100.0 * self.0.len().saturating_sub(1) as f64;
        let at = |index: f64| self.0.get(index as usize).copied().unwrap_or(0.0);
        let (low, high) = (at(place.floor()), at(place.ceil()));
        low + (high - low) * place.fract()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(start: f64, ttft: f64, itl: &[f64], output_tokens: u64) -> Outcome {
        let latency = ttft + itl.iter().sum::<f64>();
        let itl = itl.to_vec();
        Outcome {
            start,
            ttft,
            itl,
            latency,
            prompt_tokens: 10,
            output_tokens,
            ..Outcome::default()
        }
    }

    fn close(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-9, "{found} instead of {wanted}");
    }

    #[test]
    fn figures_are_those_of_the_formulas() {
        let mut failed = outcome(0.0, 9.0, &[9.0], 99);
        failed.error = Some("status 503".into());
        // The second has one chunk of two tokens, the third a single token.
        let outcomes = [
            outcome(0.0, 0.5, &[0.1, 0.3], 3),
            outcome(0.2, 0.1, &[0.2], 3),
            failed,
            outcome(2.5, 0.3, &[], 1),
        ];
        let goals = Goals { ttft: Some(400.0), tpot: Some(150.0), e2el: None };
        let figures = Figures::new(&outcomes, 4.0, goals);
        assert_eq!((figures.completed, figures.failed), (3, 1));
        assert_eq!((figures.input_tokens, figures.output_tokens), (30, 7));
        close(figures.per_second(figures.output_tokens), 1.75);
        close(figures.ttft.mean(), 300.0);
        close(figures.ttft.deviation(), (80_000.0_f64 / 3.0).sqrt());
        // (0.9 - 0.5) / 2 and (0.3 - 0.1) / 2.
        close(figures.tpot.mean(), 150.0);
        close(figures.itl.percentile(50.0), 200.0);
        close(figures.e2el.percentile(50.0), 300.0);
        // The first misses TTFT; the others keep both.
        close(figures.goodput, 0.5);
        close(figures.peak_output, 5.0);
        assert_eq!(figures.peak_requests, 2);
    }

    #[test]
    fn percentiles_lie_between_neighbors() {
        let series = Series::of([0.004, 0.001, 0.003, 0.002].into_iter());
        let wanted = [(0.0, 1.0), (50.0, 2.5), (90.0, 3.7), (99.0, 3.97), (100.0, 4.0)];
        wanted.iter().for_each(|(percent, wanted)| close(series.percentile(*percent), *wanted));
    }

    #[test]
    fn nothing_gives_zeros() {
        let figures = Figures::new(&[], 1.0, Goals::default());
        let all = [figures.ttft.mean(), figures.ttft.deviation(), figures.ttft.percentile(99.0)];
        assert_eq!((all, figures.peak_requests), ([0.0; 3], 0));
    }
}
