//! One attempt at the endpoint that was picked for it: counted there for as long as it lives, and
//! measured, so that what is expected of the next one is better.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    Placed,
    directory::Directory,
    endpoint::{Endpoint, InFlight, Owed},
    explain::record::{Actual, Decision},
    latency::Measured,
};

/// See the file.
pub(crate) struct Underway {
    directory: Arc<Directory>,
    endpoint: Arc<Endpoint>,
    decision: Arc<Decision>,
    in_flight: InFlight,
    choices: u32,
    began: Instant,
    first: Option<Instant>,
    last: Instant,
    actual: Actual,
}

/// Output tokens that are counted on, for each token of the prompt, where more are allowed.
const OUTPUT_RATIO: f32 = 1.5;

// === impl Underway ===

impl Underway {
    /// It begins now, with so many choices of so many tokens each at the most.
    pub(crate) fn begin(
        directory: &Arc<Directory>,
        placed: &Placed,
        choices: u32,
        max_tokens: u32,
        now: Instant,
    ) -> Self {
        let features = &placed.decision.features;
        let most = choices.saturating_mul(max_tokens);
        let owed = Owed {
            prompt: features.uncached as u32,
            output: most.min((features.tokens * OUTPUT_RATIO) as u32),
        };
        placed.endpoint.sent(directory.at(now));
        Self {
            directory: Arc::clone(directory),
            endpoint: Arc::clone(&placed.endpoint),
            decision: Arc::clone(&placed.decision),
            in_flight: placed.endpoint.begin(owed),
            choices: choices.max(1),
            began: now,
            first: None,
            last: now,
            actual: Actual::default(),
        }
    }

    /// Where it is.
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// So many tokens came.
    pub(crate) fn tokens(&mut self, now: Instant, count: usize) {
        self.last = now;
        self.actual.output_tokens += count as u64;
        if self.first.is_none() && count > 0 {
            self.first = Some(now);
            self.in_flight.computed();
            self.endpoint.answered();
            let time = now.saturating_duration_since(self.began).as_secs_f64();
            self.actual.first_token_seconds = Some(time);
            self.learn(Measured::FirstToken(time));
            self.decision.came_of_it(self.actual);
        }
    }

    /// The endpoint is there, even if it refuses.
    pub(crate) fn answered(&self) {
        self.endpoint.answered();
    }

    /// It ended by the endpoint's doing.
    pub(crate) fn broke(&self) {
        self.endpoint.broke(self.directory.now());
    }

    /// Its time is over. An endpoint that took a request and never said a token is no good.
    pub(crate) fn late(&self) {
        if self.first.is_none() {
            self.broke();
        }
    }

    fn learn(&self, measured: Measured) {
        let fingerprint = &self.endpoint.info.fingerprint;
        self.directory.learn(fingerprint, &self.decision.features, measured);
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let Some(first) = self.first else { return };
        let more = (self.actual.output_tokens / u64::from(self.choices)).saturating_sub(1);
        if more > 0 {
            let time = self.last.saturating_duration_since(first).as_secs_f64() / more as f64;
            self.actual.per_token_seconds = Some(time);
            self.learn(Measured::PerToken(time));
        }
        self.decision.came_of_it(self.actual);
    }
}
