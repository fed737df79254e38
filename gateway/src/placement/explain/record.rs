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

/// What was decided for one attempt at one prompt.
#[derive(Debug)]
pub(crate) struct Decision {
    told: Told,
    request: RequestId,
    /// How everything was, to learn from.
    pub(crate) features: Features,
    actual: Mutex<Actual>,
}

/// As it is told.
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
    profiles: Vec<Step>,
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
#[derive(Debug, Serialize)]
struct Step {
    profile: Arc<str>,
    filters: Vec<Filtered>,
    scorers: Vec<Weight>,
    picker: Arc<str>,
    /// In order of their totals.
    best: Vec<Best>,
}

#[derive(Debug, Serialize)]
struct Filtered {
    filter: Arc<str>,
    dropped: u32,
    /// Some of them.
    examples: Vec<Arc<str>>,
}

#[derive(Debug, Serialize)]
struct Weight {
    scorer: Arc<str>,
    weight: f32,
}

#[derive(Debug, Serialize)]
struct Best {
    endpoint: Arc<str>,
    total: f32,
    /// In the scorers' order, without their weights.
    scores: Vec<f32>,
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
            profiles: outcome
                .steps
                .into_iter()
                .map(|(profile, verdict)| Step::new(&profile, verdict, name))
                .collect(),
        };
        Some(Self { told, request: query.request, features, actual: Mutex::default() })
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
        serde_json::to_value(Whole { told: &self.told, actual }).unwrap_or_default()
    }

    /// What a trace says of it.
    pub(crate) fn trace(&self) -> tracing::Span {
        let told = &self.told;
        let prefill = told.prefill_endpoint.as_deref().unwrap_or("");
        let last = told.profiles.first().and_then(|step| step.best.iter().find(|one| one.picked));
        tracing::info_span!(
            "place",
            endpoint = %told.endpoint,
            prefill,
            candidates = told.candidates,
            cached_tokens = told.cached_tokens,
            score = last.map(|best| best.total),
            predicted_first_token = told.predicted.as_ref().map(|it| it.first_token_seconds),
        )
    }
}

// === impl Step ===

impl Step {
    fn new(profile: &Profile, verdict: Verdict, name: &impl Fn(usize) -> Arc<str>) -> Self {
        let filters = profile.filters.iter().zip(&verdict.dropped).enumerate();
        let filtered = |(at, ((filter, _), dropped)): (usize, (&(Arc<str>, _), &u32))| {
            let of_it = verdict.examples.iter().filter(|(_, by)| *by == at);
            Filtered {
                filter: Arc::clone(filter),
                dropped: *dropped,
                examples: of_it.map(|(row, _)| name(*row)).collect(),
            }
        };
        let weight = |(scorer, _, weight): &(Arc<str>, _, f32)| Weight {
            scorer: Arc::clone(scorer),
            weight: *weight,
        };
        Self {
            profile: Arc::clone(&profile.name),
            filters: filters.map(filtered).collect(),
            scorers: profile.scorers.iter().map(weight).collect(),
            picker: Arc::clone(&profile.picker.0),
            best: verdict
                .best
                .into_iter()
                .map(|scored| Best {
                    endpoint: name(scored.row),
                    total: scored.total,
                    scores: scored.scores,
                    picked: Some(scored.row) == verdict.picked,
                })
                .collect(),
        }
    }
}
