//! Measures one prompt's execution, as the client sees it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::time::Instant;
use troupe_runtime::{telemetry::metrics::FINISHED_REASONS, wire::generate::FinishReason};

use super::Series;
use crate::egress::{shape::reason_name, stream::Delta};

/// One prompt's; if it is dropped before its end, that was an abort.
#[derive(Debug)]
pub(crate) struct Meter {
    series: Arc<Series>,
    arrived: Instant,
    prompt_tokens: u32,
    /// When the first and the latest tokens came.
    tokens_at: Option<(Instant, Instant)>,
    output_tokens: u64,
    open_choices: u32,
    /// Where output tokens are counted besides.
    output: Option<Arc<AtomicU64>>,
}

impl Meter {
    /// For a prompt with so many tokens, of which `choices` outputs of at most `max_tokens` each
    /// were asked for.
    pub(crate) fn new(
        series: Arc<Series>,
        arrived: Instant,
        prompt_tokens: u32,
        choices: u32,
        max_tokens: u32,
    ) -> Self {
        series.params_n.observe(choices.into());
        series.params_max_tokens.observe(max_tokens.into());
        let (tokens_at, output_tokens, open_choices, output) = (None, 0, choices, None);
        Self { series, arrived, prompt_tokens, tokens_at, output_tokens, open_choices, output }
    }

    /// Counts output tokens here too.
    pub(crate) fn counting(mut self, output: Option<Arc<AtomicU64>>) -> Self {
        self.output = output;
        self
    }

    /// It was sent to a second endpoint, and one of the two was first to speak.
    pub(crate) fn hedged(&self, by: &str) {
        self.series.hedged(by);
    }

    /// A part of an output came.
    pub(crate) fn delta(&mut self, now: Instant, delta: &Delta) {
        if let Some(fidelity) = delta.resumed {
            self.series.resumed(fidelity);
        }
        if !delta.tokens.is_empty() {
            self.tokens(now, delta.tokens.len() as u64);
        }
        // A vector comes at once and is no token; what was read for it counts all the same.
        if !delta.embedding.is_empty() {
            self.series.prompt_tokens.inc_by(self.prompt_tokens.into());
        }
        if let Some(end) = &delta.end {
            let output = end.usage.completion_tokens;
            self.series.request_generation_tokens.observe(output.into());
            self.finished(end.reason, 1);
            self.open_choices = self.open_choices.saturating_sub(1);
            if self.open_choices == 0 {
                self.over(now);
            }
        }
    }

    /// The stream ended with an error.
    pub(crate) fn failed(&mut self) {
        let open = std::mem::take(&mut self.open_choices);
        self.finished(FinishReason::Error, open);
    }

    fn tokens(&mut self, now: Instant, count: u64) {
        self.output_tokens += count;
        self.series.generation_tokens.inc_by(count);
        if let Some(output) = &self.output {
            output.fetch_add(count, Ordering::Relaxed);
        }
        let first = match self.tokens_at {
            None => {
                let waited = now.duration_since(self.arrived);
                self.series.time_to_first_token.observe(waited.as_secs_f64());
                self.series.prompt_tokens.inc_by(self.prompt_tokens.into());
                now
            }
            Some((first, last)) => {
                let gap = now.duration_since(last);
                self.series.inter_token_latency.observe(gap.as_secs_f64());
                first
            }
        };
        self.tokens_at = Some((first, now));
    }

    fn over(&self, now: Instant) {
        let whole = now.duration_since(self.arrived);
        self.series.e2e_latency.observe(whole.as_secs_f64());
        self.series.request_prompt_tokens.observe(self.prompt_tokens.into());
        if let Some((first, last)) = self.tokens_at
            && self.output_tokens > 1
        {
            let each = last.duration_since(first).as_secs_f64() / (self.output_tokens - 1) as f64;
            self.series.time_per_output_token.observe(each);
        }
    }

    fn finished(&self, reason: FinishReason, choices: u32) {
        let named = FINISHED_REASONS.iter().zip(&self.series.finished);
        for (_, counter) in named.filter(|(name, _)| **name == reason_name(reason)) {
            counter.inc_by(choices.into());
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.finished(FinishReason::Abort, self.open_choices);
    }
}
