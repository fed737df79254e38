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

use super::names::{Kind, MetricName};

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

    /// The same, after which the family has no other series: what its labels say was so once.
    pub fn only_gauge(&self, metric: MetricName, labels: &Labels) -> Gauge {
        if let Some(family) = self.shared().gauges.get(metric.name) {
            family.clear();
        }
        self.gauge(metric, labels)
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

/// Makes histograms of one family.
#[derive(Clone, Copy, Debug)]
struct Bounds(&'static [f64]);

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
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
    use crate::telemetry::names;

    fn labels(engine: &str) -> Labels {
        vec![("model_name", "org/model".into()), ("engine", engine.into())]
    }

    #[test]
    fn the_text_is_as_vllm_writes_it() {
        let metrics = Metrics::new();
        metrics.gauge(names::KV_CACHE_USAGE_PERC, &labels("0")).set(0.25);
        metrics.counter(names::PROMPT_TOKENS, &labels("0")).inc_by(17);
        metrics.histogram(names::ITERATION_TOKENS, &labels("0")).observe(20.0);
        let text = metrics.render();
        let labels = r#"model_name="org/model",engine="0""#;
        let lines = [
            "# HELP vllm:kv_cache_usage_perc KV blocks in use, 1 means all of them.",
            "# TYPE vllm:kv_cache_usage_perc gauge",
            &format!("vllm:kv_cache_usage_perc{{{labels}}} 0.25"),
            "# HELP vllm:prompt_tokens_total Prompt tokens that were prefilled.",
            "# TYPE vllm:prompt_tokens_total counter",
            &format!("vllm:prompt_tokens_total{{{labels}}} 17"),
            "# TYPE vllm:iteration_tokens_total histogram",
            &format!("vllm:iteration_tokens_total_sum{{{labels}}} 20.0"),
            &format!("vllm:iteration_tokens_total_count{{{labels}}} 1"),
            &format!("vllm:iteration_tokens_total_bucket{{le=\"16.0\",{labels}}} 0"),
            &format!("vllm:iteration_tokens_total_bucket{{le=\"32.0\",{labels}}} 1"),
            &format!("vllm:iteration_tokens_total_bucket{{le=\"+Inf\",{labels}}} 1"),
        ];
        for line in lines {
            assert!(text.lines().any(|found| found == line), "no line `{line}` in\n{text}");
        }
        assert!(!text.contains("# EOF"), "this is not OpenMetrics");
    }

    #[test]
    fn series_share_families_and_nothing_is_global() {
        let metrics = Metrics::new();
        metrics.counter(names::PROMPT_TOKENS, &labels("0")).inc();
        metrics.counter(names::PROMPT_TOKENS, &labels("1")).inc_by(2);
        let text = metrics.render();
        assert_eq!(text.matches("# TYPE vllm:prompt_tokens_total counter").count(), 1);
        assert!(text.contains(r#"vllm:prompt_tokens_total{model_name="org/model",engine="1"} 2"#));
        assert_eq!(Metrics::new().render(), "");
    }

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        let metrics = Metrics::new();
        let labels = vec![("model_name", "a\"b\\c\nd".to_owned())];
        metrics.gauge(names::NUM_REQUESTS_RUNNING, &labels).set(1.0);
        let text = metrics.render();
        assert!(text.contains(r#"{model_name="a\"b\\c\nd"}"#), "{text}");
    }
}
