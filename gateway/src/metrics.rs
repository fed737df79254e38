//! What this gateway measures, under vLLM's names, and the text of `/metrics`.
//!
//! Request-level figures are observed here, where the client is ([`meter`]); what only an engine
//! can know is asked of every leader when somebody asks the gateway ([`text`]).

pub(crate) mod meter;
mod text;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::{Method, StatusCode};
use futures_util::future::join_all;
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use troupe_runtime::telemetry::{
    self,
    metrics::{FINISHED_REASONS, Labels},
    names::{self, Kind, MetricName},
};

pub(crate) use self::meter::Meter;
use crate::{egress::stream::Fidelity, placement::directory::Table};

/// HTTP requests by route, method and status.
const HTTP_REQUESTS: MetricName =
    MetricName { name: "http_requests", help: "HTTP requests answered", kind: Kind::Counter };

/// Everything that is measured here.
#[derive(Debug)]
pub(crate) struct Metrics {
    all: telemetry::Metrics,
    /// By model. Only models that are served get here, so a client cannot add any.
    series: Mutex<BTreeMap<String, Arc<Series>>>,
    /// Of each kind of answer that there was. There are as many as routes, methods and statuses.
    answers: Mutex<Vec<Answers>>,
}

/// Requests of one kind that were answered.
#[derive(Debug)]
struct Answers {
    handler: String,
    method: Method,
    status: StatusCode,
    counter: Counter,
}

/// One model's.
#[derive(Debug)]
pub(crate) struct Series {
    time_to_first_token: Histogram,
    inter_token_latency: Histogram,
    time_per_output_token: Histogram,
    e2e_latency: Histogram,
    request_prompt_tokens: Histogram,
    request_generation_tokens: Histogram,
    params_n: Histogram,
    params_max_tokens: Histogram,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    rejections: Counter,
    resumed_exactly: Counter,
    resumed_approximately: Counter,
    /// Won by the first attempt, and by the second.
    hedged: [Counter; 2],
    /// In the order of [`FINISHED_REASONS`].
    finished: Vec<Counter>,
}

/// Methods that routes have.
const STANDARD: [Method; 3] = [Method::GET, Method::POST, Method::OPTIONS];

/// Who was first to speak where a request was sent to two.
const HEDGES_WON: [&str; 2] = ["first", "second"];

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new() -> Self {
        Self { all: telemetry::Metrics::new(), series: Mutex::default(), answers: Mutex::default() }
    }

    /// A served model's series, at zero if they are new.
    pub(crate) fn of(&self, model: &str) -> Arc<Series> {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = series.get(model) {
            return Arc::clone(series);
        }
        let new = Arc::new(Series::new(&self.all, model));
        series.insert(model.to_owned(), Arc::clone(&new));
        new
    }

    /// For what is counted elsewhere.
    pub(crate) fn all(&self) -> &telemetry::Metrics {
        &self.all
    }

    /// One HTTP request was answered.
    pub(crate) fn answered(&self, handler: &str, method: &Method, status: StatusCode) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = answers.iter().find(|known| {
            known.status == status && known.method == *method && known.handler == handler
        });
        if let Some(known) = known {
            known.counter.inc();
            return;
        }
        let labels = vec![
            ("handler", handler.to_owned()),
            ("method", method.to_string()),
            ("status", status.as_u16().to_string()),
        ];
        let counter = self.all.counter(HTTP_REQUESTS, &labels);
        counter.inc();
        // A client may make up methods: those are counted, and looked up each time.
        if STANDARD.contains(method) {
            let (handler, method) = (handler.to_owned(), method.clone());
            answers.push(Answers { handler, method, status, counter });
        }
    }

    /// The text of `/metrics`: this gateway's, and what every ready endpoint's leader has counted.
    pub(crate) async fn text(&self, table: &Table) -> String {
        for endpoint in table.values() {
            if let Some(model) = endpoint.info.model_names.first() {
                self.of(model);
            }
        }
        let engines = join_all(table.values().map(|endpoint| endpoint.metrics())).await;
        let own = self.all.render();
        let engines = engines.iter().map(AsRef::as_ref);
        text::merge(std::iter::once(own.as_str()).chain(engines))
    }
}

// === impl Series ===

impl Series {
    fn new(all: &telemetry::Metrics, model: &str) -> Self {
        let labels: Labels =
            vec![(names::LABEL_MODEL, model.to_owned()), (names::LABEL_ENGINE, "0".to_owned())];
        let with = |name, value: &str| {
            let mut labels = labels.clone();
            labels.push((name, value.to_owned()));
            labels
        };
        let histogram = |name| all.histogram(name, &labels);
        let finished =
            |reason: &&str| all.counter(names::REQUEST_SUCCESS, &with("finished_reason", reason));
        let rejections = with("reason", "concurrency");
        let resumed = |fidelity: Fidelity| {
            all.counter(names::GATEWAY_RESUMES, &with("fidelity", fidelity.name()))
        };
        Self {
            time_to_first_token: histogram(names::TIME_TO_FIRST_TOKEN),
            inter_token_latency: histogram(names::INTER_TOKEN_LATENCY),
            time_per_output_token: histogram(names::REQUEST_TIME_PER_OUTPUT_TOKEN),
            e2e_latency: histogram(names::E2E_REQUEST_LATENCY),
            request_prompt_tokens: histogram(names::REQUEST_PROMPT_TOKENS),
            request_generation_tokens: histogram(names::REQUEST_GENERATION_TOKENS),
            params_n: histogram(names::REQUEST_PARAMS_N),
            params_max_tokens: histogram(names::REQUEST_PARAMS_MAX_TOKENS),
            prompt_tokens: all.counter(names::PROMPT_TOKENS, &labels),
            generation_tokens: all.counter(names::GENERATION_TOKENS, &labels),
            rejections: all.counter(names::ADMISSION_REJECTIONS, &rejections),
            resumed_exactly: resumed(Fidelity::Exact),
            resumed_approximately: resumed(Fidelity::Approximate),
            hedged: HEDGES_WON.map(|by| all.counter(names::GATEWAY_HEDGES, &with("won", by))),
            finished: FINISHED_REASONS.iter().map(finished).collect(),
        }
    }

    /// One stream went on at another endpoint.
    pub(crate) fn resumed(&self, fidelity: Fidelity) {
        match fidelity {
            Fidelity::Exact => self.resumed_exactly.inc(),
            Fidelity::Approximate => self.resumed_approximately.inc(),
        };
    }

    /// One request was sent to a second endpoint, and one of the two was first to speak.
    pub(crate) fn hedged(&self, by: &str) {
        let won = HEDGES_WON.iter().zip(&self.hedged).find(|(name, _)| **name == by);
        won.into_iter().for_each(|(_, counter)| _ = counter.inc());
    }

    /// One request was refused for want of room at this gateway.
    pub(crate) fn rejected(&self) {
        self.rejections.inc();
    }
}
