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
use crate::scheduler::Counters;

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

    /// The load as it is now, and what was counted since the start.
    pub fn load(&self, load: &Load, counters: &Counters) {
        let Some(series) = &self.series else { return };
        series.running.set(load.running.into());
        series.waiting.set(load.waiting.into());
        series.usage.set(f64::from(load.blocks_used) / f64::from(load.blocks_total.max(1)));
        raise(&series.preemptions, counters.preemptions);
    }

    /// Something worth counting happened.
    pub fn observe(&self, observation: &Observation) {
        let Some(series) = &self.series else { return };
        match observation {
            Observation::Step { tokens } => series.iteration_tokens.observe(f64::from(*tokens)),
            // The gateway counts these, with what its client was told.
            Observation::Started { .. } | Observation::Finished { .. } | Observation::Refused => {}
        }
    }
}

/// Brings a counter up to a number that only grows.
fn raise(counter: &Counter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}
