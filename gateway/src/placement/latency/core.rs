//! What is known of every fingerprint, and what that says of an endpoint.

use troupe_runtime::wire::status::Fingerprint;

use super::{Predicted, fit::Fit};
use crate::placement::{
    Query,
    scene::{Scene, Signal},
};

/// How an endpoint and a request were when it was placed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Features {
    pub(crate) waiting: f32,
    pub(crate) running: f32,
    pub(crate) kv_used: f32,
    /// Tokens that are to be computed before.
    pub(crate) in_flight_tokens: f32,
    /// Tokens of the prompt.
    pub(crate) tokens: f32,
    /// Those that are not in the cache.
    pub(crate) uncached: f32,
}

/// What happened, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Measured {
    /// To the first token.
    FirstToken(f64),
    /// From one token to the next, on average.
    PerToken(f64),
}

/// All that was learned.
#[derive(Debug, Default)]
pub(crate) struct Predictor {
    /// The latest used are last.
    known: Vec<(Fingerprint, Times)>,
}

/// What was learned of those that execute in one way.
#[derive(Debug, Default)]
pub(crate) struct Times {
    first_token: Fit<6>,
    per_token: Fit<4>,
}

/// Fingerprints that are remembered: versions come and go, and a gateway stays.
const MOST: usize = 64;

// === impl Features ===

impl Features {
    /// Of a request at one of the candidates.
    pub(crate) fn of(query: &Query<'_>, scene: &Scene<'_>, row: usize) -> Self {
        let number = |signal| scene.column(signal)[row];
        let tokens = query.tokens as f32;
        Self {
            waiting: number(Signal::Waiting),
            running: number(Signal::Running),
            kv_used: number(Signal::KvUsed),
            in_flight_tokens: number(Signal::InFlightTokens),
            tokens,
            uncached: (tokens - number(Signal::Matched)).max(0.0),
        }
    }
}

// === impl Predictor ===

impl Predictor {
    /// What is expected; `None` if too little is known. A time per token that is not known yet
    /// counts as none.
    pub(crate) fn predict(&self, of: &Fingerprint, features: &Features) -> Option<Predicted> {
        self.times(of)?.predict(features)
    }

    /// All that is known of those that execute so.
    pub(crate) fn times(&self, of: &Fingerprint) -> Option<&Times> {
        let known = self.known.iter().rev().find(|(known, _)| known == of);
        known.map(|(_, times)| times)
    }

    /// Learns from what happened.
    pub(crate) fn learn(&mut self, of: &Fingerprint, features: &Features, measured: Measured) {
        let at = self.known.iter().position(|(known, _)| known == of);
        let (fingerprint, mut times) = match at {
            Some(at) => self.known.remove(at),
            None => (of.clone(), Times::default()),
        };
        match measured {
            Measured::FirstToken(time) => {
                times.first_token.learn(&first_token(features), time);
            }
            Measured::PerToken(time) => times.per_token.learn(&per_token(features), time),
        }
        self.known.push((fingerprint, times));
        if self.known.len() > MOST {
            self.known.remove(0);
        }
    }
}

// === impl Times ===

impl Times {
    /// What is expected; `None` if too little is known.
    pub(crate) fn predict(&self, features: &Features) -> Option<Predicted> {
        let ttft = self.first_token.at(&first_token(features))? as f32;
        let tpot = self.per_token.at(&per_token(features)).unwrap_or_default() as f32;
        Some(Predicted { ttft, tpot })
    }
}

/// Tokens are counted in thousands, so that no number is much larger than another.
fn first_token(features: &Features) -> [f64; 6] {
    let thousands = |tokens: f32| f64::from(tokens) / 1000.0;
    let uncached = thousands(features.uncached);
    [
        1.0,
        f64::from(features.waiting),
        f64::from(features.running),
        thousands(features.in_flight_tokens),
        uncached,
        // Attention: each uncached token looks at all before it.
        uncached * thousands(features.tokens) / 10.0,
    ]
}

fn per_token(features: &Features) -> [f64; 4] {
    let tokens = f64::from(features.tokens) / 1000.0;
    [1.0, f64::from(features.running), f64::from(features.kv_used), tokens]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::endpoint::tests::info;

    /// An engine that computes 10,000 tokens a second, one prompt after the other.
    fn engine(features: &Features) -> f64 {
        0.01 + f64::from(features.in_flight_tokens + features.uncached) / 10_000.0
    }

    fn features(n: u32) -> Features {
        Features {
            waiting: (n % 3) as f32,
            running: (n % 5) as f32,
            kv_used: (n % 10) as f32 / 10.0,
            in_flight_tokens: (n % 13) as f32 * 500.0,
            tokens: 4000.0,
            uncached: (n % 17) as f32 * 200.0,
        }
    }

    #[test]
    fn queue_and_uncached_tokens_are_told_from_each_other() {
        let mut predictor = Predictor::default();
        let (ours, other) = (info("a", 0).fingerprint, {
            let mut other = info("a", 0).fingerprint;
            other.tensor_parallel = 8;
            other
        });
        for n in 0..300 {
            let time = Measured::FirstToken(engine(&features(n)));
            predictor.learn(&ours, &features(n), time);
        }
        let expected = |uncached, in_flight_tokens| {
            let features = Features { uncached, in_flight_tokens, ..features(7) };
            let predicted = predictor.predict(&ours, &features).expect("it was learned");
            let error = f64::from(predicted.ttft) - engine(&features);
            assert!(error.abs() < 0.02, "{predicted:?} {}", engine(&features));
            predicted.ttft
        };
        assert!(expected(0.0, 0.0) < expected(3000.0, 0.0));
        assert!(expected(0.0, 0.0) < expected(0.0, 6000.0));
        assert_eq!(predictor.predict(&other, &features(1)), None, "nothing was seen of it");
    }

    #[test]
    fn only_so_many_fingerprints_are_remembered() {
        let mut predictor = Predictor::default();
        for n in 0..200 {
            let mut fingerprint = info("a", 0).fingerprint;
            fingerprint.tensor_parallel = n;
            predictor.learn(&fingerprint, &features(n), Measured::PerToken(0.02));
        }
        assert_eq!(predictor.known.len(), MOST);
    }
}
