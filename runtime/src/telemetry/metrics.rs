//! Numbers about this process, as Prometheus reads them.
//!
//! [`Metrics`] is an object and not a global: a test's cluster has one per member. Families are
//! registered once; whoever counts holds its own series, so that counting is one atomic addition.
//! The text is Prometheus' 0.0.4 as vLLM writes it and not OpenMetrics, because scrapers of vLLM
//! take the names of counters from it with their `_total`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use prometheus_client::{
    encoding::text,
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge,
        histogram::Histogram,
    },
    registry::Registry,
};

use super::names::{self, Kind, MetricName};

/// What [`Metrics::render`] gives, for the header of the answer.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A number that goes up and down.
pub type Gauge = gauge::Gauge<f64, AtomicU64>;
/// Names and values of labels, in the order in which they are written.
pub type Labels = Vec<(&'static str, String)>;

/// All metrics of a process (or of a simulated one).
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    registry: Registry,
    gauges: BTreeMap<&'static str, Family<Labels, Gauge>>,
    counters: BTreeMap<&'static str, Family<Labels, Counter>>,
    histograms: BTreeMap<&'static str, Family<Labels, Histogram, Bounds>>,
}

/// One engine's metrics. Seconds are seconds, tokens are tokens.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each field is documented by its entry in `names`")]
pub struct EngineMetrics {
    pub num_requests_running: Gauge,
    pub num_requests_waiting: Gauge,
    /// Waiting because there are no blocks or no places.
    pub num_requests_waiting_capacity: Gauge,
    /// Waiting for something else: a KV transfer, a grammar, an adapter.
    pub num_requests_waiting_deferred: Gauge,
    pub kv_cache_usage_perc: Gauge,
    pub prefix_cache_queries: Counter,
    pub prefix_cache_hits: Counter,
    pub num_preemptions: Counter,
    pub prompt_tokens: Counter,
    pub generation_tokens: Counter,
    pub iteration_tokens: Histogram,
    pub request_prompt_tokens: Histogram,
    pub request_generation_tokens: Histogram,
    pub request_params_n: Histogram,
    pub request_params_max_tokens: Histogram,
    pub time_to_first_token: Histogram,
    pub inter_token_latency: Histogram,
    pub request_time_per_output_token: Histogram,
    pub e2e_request_latency: Histogram,
    pub request_queue_time: Histogram,
    pub request_inference_time: Histogram,
    pub request_prefill_time: Histogram,
    pub request_decode_time: Histogram,
    pub request_num_preemptions: Histogram,
    metrics: Metrics,
    labels: Labels,
}

/// How requests end, as `finished_reason` says it.
pub const FINISHED_REASONS: [&str; 5] = ["stop", "length", "abort", "error", "repetition"];

// === impl Metrics ===

impl Metrics {
    /// No metrics.
    pub fn new() -> Self {
        Self::default()
    }

    /// The series of a gauge with these labels.
    pub fn gauge(&self, metric: MetricName, labels: &Labels) -> Gauge {
        debug_assert_eq!(metric.kind, Kind::Gauge, "{}", metric.name);
        let Shared { registry, gauges, .. } = &mut *self.shared();
        let family = gauges.entry(metric.name).or_insert_with(|| {
            let family = Family::default();
            registry.register(metric.name, metric.help, Family::clone(&family));
            family
        });
        family.get_or_create_owned(labels)
    }

    /// The series of a counter with these labels.
    pub fn counter(&self, metric: MetricName, labels: &Labels) -> Counter {
        debug_assert_eq!(metric.kind, Kind::Counter, "{}", metric.name);
        let Shared { registry, counters, .. } = &mut *self.shared();
        let family = counters.entry(metric.name).or_insert_with(|| {
            let family = Family::default();
            registry.register(metric.name, metric.help, Family::clone(&family));
            family
        });
        family.get_or_create_owned(labels)
    }

    /// The series of a histogram with these labels.
    pub fn histogram(&self, metric: MetricName, labels: &Labels) -> Histogram {
        let Kind::Histogram(bounds) = metric.kind else {
            debug_assert!(false, "{} is no histogram", metric.name);
            return Histogram::new([]);
        };
        let Shared { registry, histograms, .. } = &mut *self.shared();
        let family = histograms.entry(metric.name).or_insert_with(|| {
            let family = Family::new_with_constructor(Bounds(bounds));
            registry.register(metric.name, metric.help, Family::clone(&family));
            family
        });
        family.get_or_create_owned(labels)
    }

    /// The metrics of one engine; all of its series are there from now on, at zero.
    pub fn engine(&self, model_name: &str, engine: u32) -> EngineMetrics {
        EngineMetrics::new(self.clone(), model_name, engine)
    }

    /// Everything as text, with [`CONTENT_TYPE`].
    pub fn render(&self) -> String {
        let mut open_metrics = String::new();
        // Writing to a string cannot fail, and our labels and values encode without error.
        let written = text::encode_registry(&mut open_metrics, &self.shared().registry);
        debug_assert!(written.is_ok(), "metrics can be written as text");
        with_counter_suffixes(&open_metrics)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl EngineMetrics ===

impl EngineMetrics {
    fn new(metrics: Metrics, model_name: &str, engine: u32) -> Self {
        let labels = vec![
            (names::LABEL_MODEL, model_name.to_owned()),
            (names::LABEL_ENGINE, engine.to_string()),
        ];
        let gauge = |name| metrics.gauge(name, &labels);
        let counter = |name| metrics.counter(name, &labels);
        let histogram = |name| metrics.histogram(name, &labels);
        let waiting = |reason: &str| {
            let labels = with(&labels, "reason", reason);
            metrics.gauge(names::NUM_REQUESTS_WAITING_BY_REASON, &labels)
        };
        let engine = Self {
            num_requests_running: gauge(names::NUM_REQUESTS_RUNNING),
            num_requests_waiting: gauge(names::NUM_REQUESTS_WAITING),
            num_requests_waiting_capacity: waiting("capacity"),
            num_requests_waiting_deferred: waiting("deferred"),
            kv_cache_usage_perc: gauge(names::KV_CACHE_USAGE_PERC),
            prefix_cache_queries: counter(names::PREFIX_CACHE_QUERIES),
            prefix_cache_hits: counter(names::PREFIX_CACHE_HITS),
            num_preemptions: counter(names::NUM_PREEMPTIONS),
            prompt_tokens: counter(names::PROMPT_TOKENS),
            generation_tokens: counter(names::GENERATION_TOKENS),
            iteration_tokens: histogram(names::ITERATION_TOKENS),
            request_prompt_tokens: histogram(names::REQUEST_PROMPT_TOKENS),
            request_generation_tokens: histogram(names::REQUEST_GENERATION_TOKENS),
            request_params_n: histogram(names::REQUEST_PARAMS_N),
            request_params_max_tokens: histogram(names::REQUEST_PARAMS_MAX_TOKENS),
            time_to_first_token: histogram(names::TIME_TO_FIRST_TOKEN),
            inter_token_latency: histogram(names::INTER_TOKEN_LATENCY),
            request_time_per_output_token: histogram(names::REQUEST_TIME_PER_OUTPUT_TOKEN),
            e2e_request_latency: histogram(names::E2E_REQUEST_LATENCY),
            request_queue_time: histogram(names::REQUEST_QUEUE_TIME),
            request_inference_time: histogram(names::REQUEST_INFERENCE_TIME),
            request_prefill_time: histogram(names::REQUEST_PREFILL_TIME),
            request_decode_time: histogram(names::REQUEST_DECODE_TIME),
            request_num_preemptions: histogram(names::REQUEST_NUM_PREEMPTIONS),
            metrics: metrics.clone(),
            labels: labels.clone(),
        };
        for reason in FINISHED_REASONS {
            engine.request_success(reason);
        }
        engine.admission_rejections("queue_full");
        engine
    }

    /// Requests that ended in this way, one of [`FINISHED_REASONS`].
    pub fn request_success(&self, finished_reason: &str) -> Counter {
        debug_assert!(FINISHED_REASONS.contains(&finished_reason), "{finished_reason}");
        let labels = with(&self.labels, "finished_reason", finished_reason);
        self.metrics.counter(names::REQUEST_SUCCESS, &labels)
    }

    /// Requests that were refused for this reason: a few fixed words, never text of a request.
    pub fn admission_rejections(&self, reason: &str) -> Counter {
        let labels = with(&self.labels, "reason", reason);
        self.metrics.counter(names::ADMISSION_REJECTIONS, &labels)
    }

    /// Tells how the KV cache is set up: `block_size`, `num_gpu_blocks`, `cache_dtype` and so on.
    pub fn set_cache_config(&self, config: &[(&'static str, String)]) {
        let mut labels = self.labels.clone();
        labels.extend_from_slice(config);
        self.metrics.gauge(names::CACHE_CONFIG_INFO, &labels).set(1.0);
    }
}

/// Makes histograms of one family.
#[derive(Clone, Copy, Debug)]
struct Bounds(&'static [f64]);

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

fn with(labels: &Labels, name: &'static str, value: &str) -> Labels {
    let mut labels = labels.clone();
    labels.push((name, value.to_owned()));
    labels
}

/// OpenMetrics as the older text: there a counter's family is named as its samples are.
fn with_counter_suffixes(open_metrics: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in open_metrics.lines() {
        let counter = line.strip_prefix("# TYPE ").and_then(|rest| rest.strip_suffix(" counter"));
        let Some(name) = counter else {
            lines.push(line.to_owned());
            continue;
        };
        if let Some(help) = lines.last_mut()
            && let Some(text) = help.strip_prefix(&format!("# HELP {name} "))
        {
            *help = format!("# HELP {name}_total {text}");
        }
        lines.push(format!("# TYPE {name}_total counter"));
    }
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_as_vllm_writes_it() {
        let metrics = Metrics::new();
        let engine = metrics.engine("org/model", 0);
        engine.num_requests_running.set(3.0);
        engine.kv_cache_usage_perc.set(0.25);
        engine.prompt_tokens.inc_by(17);
        engine.request_success("length").inc();
        engine.iteration_tokens.observe(20.0);
        engine.inter_token_latency.observe(0.0015);
        engine.set_cache_config(&[("block_size", "16".into()), ("num_gpu_blocks", "99".into())]);
        let text = metrics.render();
        let labels = r#"model_name="org/model",engine="0""#;
        let lines = [
            "# HELP vllm:num_requests_running Requests in the batches that are under way.",
            "# TYPE vllm:num_requests_running gauge",
            &format!("vllm:num_requests_running{{{labels}}} 3.0"),
            &format!("vllm:kv_cache_usage_perc{{{labels}}} 0.25"),
            "# HELP vllm:prompt_tokens_total Prompt tokens that were prefilled.",
            "# TYPE vllm:prompt_tokens_total counter",
            &format!("vllm:prompt_tokens_total{{{labels}}} 17"),
            &format!("vllm:request_success_total{{{labels},finished_reason=\"length\"}} 1"),
            &format!("vllm:request_success_total{{{labels},finished_reason=\"stop\"}} 0"),
            "# TYPE vllm:iteration_tokens_total histogram",
            &format!("vllm:iteration_tokens_total_sum{{{labels}}} 20.0"),
            &format!("vllm:iteration_tokens_total_count{{{labels}}} 1"),
            &format!("vllm:iteration_tokens_total_bucket{{le=\"16.0\",{labels}}} 0"),
            &format!("vllm:iteration_tokens_total_bucket{{le=\"32.0\",{labels}}} 1"),
            &format!("vllm:iteration_tokens_total_bucket{{le=\"+Inf\",{labels}}} 1"),
            &format!("vllm:inter_token_latency_seconds_bucket{{le=\"0.001\",{labels}}} 0"),
            &format!("vllm:inter_token_latency_seconds_bucket{{le=\"0.002\",{labels}}} 1"),
            "# TYPE vllm:cache_config_info gauge",
            &format!(
                "vllm:cache_config_info{{{labels},block_size=\"16\",num_gpu_blocks=\"99\"}} 1.0"
            ),
        ];
        for line in lines {
            assert!(text.lines().any(|found| found == line), "no line `{line}` in\n{text}");
        }
        assert!(!text.contains("# EOF"), "this is not OpenMetrics");
    }

    #[test]
    fn every_name_of_the_table_is_exposed_from_the_start() {
        let metrics = Metrics::new();
        metrics.engine("m", 0).set_cache_config(&[]);
        let text = metrics.render();
        for metric in names::ENGINE {
            let sample = match metric.kind {
                Kind::Gauge => format!("\n{}{{", metric.name),
                Kind::Counter => format!("\n{}_total{{", metric.name),
                Kind::Histogram(_) => format!("\n{}_bucket{{", metric.name),
            };
            assert!(text.contains(&sample), "no sample of {}", metric.name);
        }
    }

    #[test]
    fn engines_share_families_and_nothing_is_global() {
        let metrics = Metrics::new();
        metrics.engine("m", 0).prompt_tokens.inc();
        metrics.engine("m", 1).prompt_tokens.inc_by(2);
        let text = metrics.render();
        assert_eq!(text.matches("# TYPE vllm:prompt_tokens_total counter").count(), 1);
        assert!(text.contains(r#"vllm:prompt_tokens_total{model_name="m",engine="1"} 2"#));
        assert_eq!(Metrics::new().render(), "");
    }

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        let metrics = Metrics::new();
        metrics.engine("a\"b\\c\nd", 0);
        let text = metrics.render();
        assert!(text.contains(r#"{model_name="a\"b\\c\nd",engine="0"}"#), "{text}");
    }
}
