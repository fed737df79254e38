//! What this gateway measures, under vLLM's names, and the text of `/metrics`.
//!
//! Request-level figures are observed here, where the client is; engine-level gauges are what the
//! leaders push. A process that runs engines too adds their text through a callback.

use std::{fmt::Write, sync::Arc};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use tokio::time::Instant;
use troupe_runtime::wire::generate::FinishReason;

use crate::{egress::stream::Delta, placement::directory::Table};

/// Seconds to the first token.
const TTFT: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
/// Seconds between tokens; from 1 ms, because small models are faster than vLLM's first bucket.
const BETWEEN: [f64; 23] = [
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
/// Seconds of a whole request.
const WHOLE: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
/// Tokens of a prompt or an output.
const TOKENS: [f64; 19] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5,
    5e5, 1e6,
];
/// Choices.
const CHOICES: [f64; 5] = [1.0, 2.0, 5.0, 10.0, 20.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model_name: String,
    engine: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FinishLabels {
    model_name: String,
    engine: String,
    finished_reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpLabels {
    handler: String,
    method: String,
    status: String,
}

type Histograms = Family<ModelLabels, Histogram, fn() -> Histogram>;
type Counters = Family<ModelLabels, Counter>;

/// Everything that is measured here.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    ttft: Histograms,
    inter_token: Histograms,
    per_output_token: Histograms,
    e2e: Histograms,
    prompt_lengths: Histograms,
    output_lengths: Histograms,
    params_n: Histograms,
    params_max_tokens: Histograms,
    prompt_tokens: Counters,
    generation_tokens: Counters,
    rejections: Counters,
    finished: Family<FinishLabels, Counter>,
    http: Family<HttpLabels, Counter>,
}

/// Measures one prompt's execution; if it is dropped before its end, that was an abort.
#[derive(Debug)]
pub(crate) struct Meter {
    metrics: Arc<Metrics>,
    model: String,
    arrived: Instant,
    prompt_tokens: u32,
    /// When the first and the latest tokens came.
    tokens_at: Option<(Instant, Instant)>,
    output_tokens: u64,
    open_choices: u32,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let mut histograms = |name: &str, help: &str, make: fn() -> Histogram| {
            let family = Histograms::new_with_constructor(make);
            registry.register(format!("vllm:{name}"), help, family.clone());
            family
        };
        let ttft = || Histogram::new(TTFT);
        let (between, whole) = (|| Histogram::new(BETWEEN), || Histogram::new(WHOLE));
        let (tokens, choices) = (|| Histogram::new(TOKENS), || Histogram::new(CHOICES));
        let ttft = histograms("time_to_first_token_seconds", "Time to first token", ttft);
        let inter_token =
            histograms("inter_token_latency_seconds", "Time between parts of an output", between);
        let per_output_token = histograms(
            "request_time_per_output_token_seconds",
            "Mean time per output token of a request",
            between,
        );
        let e2e = histograms("e2e_request_latency_seconds", "Time of a whole request", whole);
        let prompt_lengths = histograms("request_prompt_tokens", "Tokens of a prompt", tokens);
        let output_lengths = histograms("request_generation_tokens", "Tokens of an output", tokens);
        let params_n = histograms("request_params_n", "Choices asked for", choices);
        let params_max_tokens =
            histograms("request_params_max_tokens", "Most output tokens asked for", tokens);
        let mut counters = |name: &str, help: &str| {
            let family = Counters::default();
            registry.register(format!("vllm:{name}"), help, family.clone());
            family
        };
        let prompt_tokens = counters("prompt_tokens", "Prompt tokens processed");
        let generation_tokens = counters("generation_tokens", "Output tokens produced");
        let rejections = counters("admission_rejections", "Requests refused for want of room");
        let finished = Family::default();
        registry.register("vllm:request_success", "Outputs by how they ended", finished.clone());
        let http = Family::default();
        registry.register("http_requests", "HTTP requests", http.clone());
        Self {
            registry,
            ttft,
            inter_token,
            per_output_token,
            e2e,
            prompt_lengths,
            output_lengths,
            params_n,
            params_max_tokens,
            prompt_tokens,
            generation_tokens,
            rejections,
            finished,
            http,
        }
    }

    /// One HTTP request was answered.
    pub(crate) fn answered(&self, handler: &str, method: &str, status: u16) {
        let labels = HttpLabels {
            handler: handler.to_owned(),
            method: method.to_owned(),
            status: status.to_string(),
        };
        self.http.get_or_create(&labels).inc();
    }

    /// One request was refused for want of room.
    pub(crate) fn rejected(&self, model: &str) {
        self.rejections.get_or_create(&labels(model)).inc();
    }

    /// The text of `/metrics`: this gateway's, the engines' gauges, and what else there is.
    pub(crate) fn text(&self, table: &Table, other: Option<String>) -> String {
        let mut out = String::new();
        // Writing to memory cannot fail.
        let _ = text::encode_registry(&mut out, &self.registry);
        match other {
            // Engines of this process tell their own, and more of them.
            Some(other) => out.push_str(other.trim_end().trim_end_matches("# EOF")),
            None => engines(&mut out, table),
        }
        if !out.ends_with('\n') {
            out.push('\n');
        }
        out.push_str("# EOF\n");
        out
    }
}

fn labels(model: &str) -> ModelLabels {
    ModelLabels { model_name: model.to_owned(), engine: "0".to_owned() }
}

/// The leaders' loads.
fn engines(out: &mut String, table: &Table) {
    type Value = fn(&troupe_runtime::wire::status::Load) -> f64;
    let gauges: [(&str, &str, Value); 3] = [
        ("num_requests_running", "Sequences in steps", |load| load.running.into()),
        ("num_requests_waiting", "Sequences waiting for room", |load| load.waiting.into()),
        ("kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1", |load| {
            f64::from(load.blocks_used) / f64::from(load.blocks_total.max(1))
        }),
    ];
    for (name, help, value) in gauges {
        let _ = writeln!(out, "# HELP vllm:{name} {help}.\n# TYPE vllm:{name} gauge");
        for endpoint in table.values() {
            let model = endpoint.info.model_names.first().map_or("", String::as_str);
            let _ = writeln!(
                out,
                "vllm:{name}{{model_name=\"{}\",engine=\"{}\"}} {}",
                model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"),
                endpoint.info.endpoint.group,
                value(&endpoint.load()),
            );
        }
    }
}

// === impl Meter ===

impl Meter {
    /// For one prompt with so many tokens, of which `choices` outputs of at most `max_tokens` each
    /// were asked for.
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        model: String,
        arrived: Instant,
        prompt_tokens: u32,
        asked: (u32, u32),
    ) -> Self {
        let (choices, max_tokens) = asked;
        let labels = labels(&model);
        metrics.params_n.get_or_create(&labels).observe(choices.into());
        metrics.params_max_tokens.get_or_create(&labels).observe(max_tokens.into());
        Self {
            metrics,
            model,
            arrived,
            prompt_tokens,
            tokens_at: None,
            output_tokens: 0,
            open_choices: choices,
        }
    }

    /// A part of an output came.
    pub(crate) fn delta(&mut self, now: Instant, delta: &Delta) {
        let labels = labels(&self.model);
        let metrics = Arc::clone(&self.metrics);
        if !delta.tokens.is_empty() {
            self.output_tokens += delta.tokens.len() as u64;
            metrics.generation_tokens.get_or_create(&labels).inc_by(delta.tokens.len() as u64);
            self.tokens_at = match self.tokens_at {
                None => {
                    let waited = now.duration_since(self.arrived).as_secs_f64();
                    metrics.ttft.get_or_create(&labels).observe(waited);
                    metrics.prompt_tokens.get_or_create(&labels).inc_by(self.prompt_tokens.into());
                    Some((now, now))
                }
                Some((first, last)) => {
                    let gap = now.duration_since(last).as_secs_f64();
                    metrics.inter_token.get_or_create(&labels).observe(gap);
                    Some((first, now))
                }
            };
        }
        if let Some(end) = &delta.end {
            let output = end.usage.completion_tokens;
            metrics.output_lengths.get_or_create(&labels).observe(output.into());
            self.finished(end.reason, 1);
            self.open_choices = self.open_choices.saturating_sub(1);
            if self.open_choices == 0 {
                self.over(now, &labels);
            }
        }
    }

    /// The stream ended with an error.
    pub(crate) fn failed(&mut self) {
        let open = std::mem::take(&mut self.open_choices);
        self.finished(FinishReason::Error, open);
    }

    fn over(&self, now: Instant, labels: &ModelLabels) {
        let metrics = &self.metrics;
        let whole = now.duration_since(self.arrived).as_secs_f64();
        metrics.e2e.get_or_create(labels).observe(whole);
        metrics.prompt_lengths.get_or_create(labels).observe(self.prompt_tokens.into());
        if let Some((first, last)) = self.tokens_at
            && self.output_tokens > 1
        {
            let decode = last.duration_since(first).as_secs_f64();
            let each = decode / (self.output_tokens - 1) as f64;
            metrics.per_output_token.get_or_create(labels).observe(each);
        }
    }

    fn finished(&self, reason: FinishReason, choices: u32) {
        let finished_reason = match reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Abort => "abort",
            FinishReason::Error => "error",
        };
        let labels = FinishLabels {
            model_name: self.model.clone(),
            engine: "0".to_owned(),
            finished_reason: finished_reason.to_owned(),
        };
        self.metrics.finished.get_or_create(&labels).inc_by(choices.into());
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.open_choices > 0 {
            self.finished(FinishReason::Abort, self.open_choices);
        }
    }
}
