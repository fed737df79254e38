//! Counts what a leader does, for `/metrics`: what only the engine can know. What a request's
//! client sees (times, prompts, ends) is counted by the gateway.

use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use troupe_runtime::{
    telemetry::{
        metrics::{Gauge, Labels, Metrics},
        names,
    },
    wire::status::Load,
};

use super::engine::Observation;

/// Counts; cheap to clone, and empty where nobody asks.
#[derive(Clone, Default)]
pub struct Observer {
    series: Option<Series>,
}

#[derive(Clone)]
struct Series {
    running: Gauge,
    waiting: Gauge,
    usage: Gauge,
    preemptions: Counter,
    iteration_tokens: Histogram,
}

impl Observer {
    /// Counts into these metrics, under this model's name.
    pub fn new(metrics: &Metrics, model_name: &str) -> Self {
        let labels: Labels = vec![
            (names::LABEL_MODEL, model_name.to_owned()),
            (names::LABEL_ENGINE, "0".to_owned()),
        ];
        Self {
            series: Some(Series {
                running: metrics.gauge(names::NUM_REQUESTS_RUNNING, &labels),
                waiting: metrics.gauge(names::NUM_REQUESTS_WAITING, &labels),
                usage: metrics.gauge(names::KV_CACHE_USAGE_PERC, &labels),
                preemptions: metrics.counter(names::NUM_PREEMPTIONS, &labels),
                iteration_tokens: metrics.histogram(names::ITERATION_TOKENS, &labels),
            }),
        }
    }

    /// The load as it is now, and the preemptions since the start.
    pub fn load(&self, load: &Load, preemptions: u64) {
        let Some(series) = &self.series else { return };
        series.running.set(load.running.into());
        series.waiting.set(load.waiting.into());
        series.usage.set(f64::from(load.blocks_used) / f64::from(load.blocks_total.max(1)));
        series.preemptions.inc_by(preemptions.saturating_sub(series.preemptions.get()));
    }

    /// Something worth counting happened.
    pub fn observe(&self, observation: &Observation) {
        let Some(series) = &self.series else { return };
        match observation {
            Observation::Step { tokens } => series.iteration_tokens.observe(f64::from(*tokens)),
            // The gateway counts these, with what its client was told.
            Observation::Finished { .. } | Observation::Refused => {}
        }
    }
}
