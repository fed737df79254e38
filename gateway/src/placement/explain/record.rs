//! One decision.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use serde::Serialize;
use troupe_runtime::id::RequestId;

use crate::placement::{
    Query,
    handler::{Outcome, Weighed},
    latency::{Features, Predicted},
    peers::Offer,
    profile::{Profile, Verdict},
};

/// What was decided for one attempt at one prompt. There is one for every request and few are asked
/// for, so what was found is kept as it is and only put into words when somebody asks.
#[derive(Debug)]
pub(crate) struct Decision {
    told: Told,
    /// The profiles that were run, in order.
    steps: Vec<(Arc<Profile>, Verdict)>,
    /// The candidates that the steps tell of.
    names: Vec<(usize, Arc<str>)>,
    request: RequestId,
    /// How everything was, to learn from.
    pub(crate) features: Features,
    actual: Mutex<Actual>,
}

/// As it is told, but for the steps.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    request: String,
    model: String,
    /// Seconds since 1970.
    at: f64,
    /// Endpoints that were tried before.
    tried: usize,
    prompt_tokens: u32,
    candidates: usize,
    endpoint: Arc<str>,
    /// Tokens of the prompt that its cache has.
    cached_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefill_endpoint: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefill_apart: Option<Weighed>,
    /// Whether KV is fetched from an endpoint that has more of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<Peer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted: Option<Expected>,
}

/// Somebody who has more of the prompt cached.
#[derive(Debug, Serialize)]
struct Peer {
    endpoint: Arc<str>,
    #[serde(flatten)]
    offer: Offer,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Expected {
    first_token_seconds: f32,
    per_token_seconds: f32,
}

/// A profile that was run.
#[derive(Serialize)]
struct Step<'a> {
    profile: &'a str,
    filters: Vec<Filtered<'a>>,
    scorers: Vec<Weight<'a>>,
    picker: &'a str,
    /// In order of their totals.
    best: Vec<Best<'a>>,
}

#[derive(Serialize)]
struct Filtered<'a> {
    filter: &'a str,
    dropped: u32,
    /// Some of them.
    examples: Vec<&'a str>,
}

#[derive(Serialize)]
struct Weight<'a> {
    scorer: &'a str,
    weight: f32,
}

#[derive(Serialize)]
struct Best<'a> {
    endpoint: &'a str,
    total: f32,
    /// In the scorers' order, without their weights.
    scores: &'a [f32],
    picked: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Actual {
    /// None while it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_token_seconds: Option<f64>,
    /// None while there is only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) per_token_seconds: Option<f64>,
    pub(crate) output_tokens: u64,
}

/// A decision with what came of it.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    told: &'a Told,
    profiles: Vec<Step<'a>>,
    actual: Actual,
}

// === impl Decision ===

impl Decision {
    /// Of an outcome whose rows are so many endpoints of these names; `None` if nobody was picked.
    pub(crate) fn new(
        query: &Query<'_>,
        (candidates, name): (usize, &impl Fn(usize) -> Arc<str>),
        outcome: Outcome,
        (features, predicted): (Features, Option<Predicted>),
        peer: Option<Offer>,
    ) -> Option<Self> {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let told = Told {
            request: query.name.to_owned(),
            model: query.model.to_owned(),
            at: at.unwrap_or_default().as_secs_f64(),
            tried: query.exclude.len(),
            prompt_tokens: query.tokens,
            candidates,
            endpoint: name(outcome.endpoint?),
            cached_tokens: (features.tokens - features.uncached).max(0.0) as u32,
            prefill_endpoint: outcome.prefill.map(name),
            prefill_apart: outcome.weighed,
            peer: peer.map(|offer| Peer { endpoint: name(offer.row), offer }),
            predicted: predicted.map(|Predicted { ttft, tpot }| Expected {
                first_token_seconds: ttft,
                per_token_seconds: tpot,
            }),
        };
        let steps = outcome.steps;
        let rows = steps.iter().flat_map(|(_, verdict)| verdict.rows());
        let most = steps.iter().map(|(_, verdict)| verdict.rows().count()).sum();
        let mut names = Vec::with_capacity(most);
        for row in rows {
            if !names.iter().any(|(known, _)| *known == row) {
                names.push((row, name(row)));
            }
        }
        let actual = Mutex::default();
        Some(Self { told, steps, names, request: query.request, features, actual })
    }

    /// What a candidate is called that a step tells of.
    fn name(&self, row: usize) -> &str {
        self.names.iter().find(|(known, _)| *known == row).map_or("", |(_, name)| name)
    }

    /// Whether it is a request's of this name.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.told.request == name || self.request.to_string() == name
    }

    /// Keeps what came of it.
    pub(crate) fn came_of_it(&self, actual: Actual) {
        *self.actual.lock().unwrap_or_else(PoisonError::into_inner) = actual;
    }

    /// As JSON.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let actual = *self.actual.lock().unwrap_or_else(PoisonError::into_inner);
        // Plain structs with string keys, which are always JSON.
        let profiles = self.steps.iter().map(|(profile, verdict)| self.step(profile, verdict));
        let whole = Whole { told: &self.told, profiles: profiles.collect(), actual };
        serde_json::to_value(whole).unwrap_or_default()
    }

    /// What a trace says of it.
    pub(crate) fn trace(&self) -> tracing::Span {
        let told = &self.told;
        let prefill = told.prefill_endpoint.as_deref().unwrap_or("");
        let picked = |verdict: &Verdict| {
            verdict.best.iter().find(|one| Some(one.row) == verdict.picked).map(|one| one.total)
        };
        let score = self.steps.first().and_then(|(_, verdict)| picked(verdict));
        tracing::info_span!(
            "place",
            endpoint = %told.endpoint,
            prefill,
            candidates = told.candidates,
            cached_tokens = told.cached_tokens,
            score,
            predicted_first_token = told.predicted.as_ref().map(|it| it.first_token_seconds),
        )
    }

    fn step<'a>(&'a self, profile: &'a Profile, verdict: &'a Verdict) -> Step<'a> {
        let filters = profile.filters.iter().zip(&verdict.dropped).enumerate();
        let filtered = |(at, ((filter, _), dropped)): (usize, (&'a (Arc<str>, _), &u32))| {
            let of_it = verdict.examples.iter().filter(|(_, by)| *by == at);
            let examples = of_it.map(|(row, _)| self.name(*row)).collect();
            Filtered { filter, dropped: *dropped, examples }
        };
        let scorers = profile.scorers.iter();
        let best = verdict.scored().map(|(scored, scores)| Best {
            endpoint: self.name(scored.row),
            total: scored.total,
            scores,
            picked: Some(scored.row) == verdict.picked,
        });
        Step {
            profile: &profile.name,
            filters: filters.map(filtered).collect(),
            scorers: scorers
                .map(|(scorer, _, weight)| Weight { scorer, weight: *weight })
                .collect(),
            picker: &profile.picker.0,
            best: best.collect(),
        }
    }
}
