//! Counts what a leader does, for `/metrics`: what only the engine can know. What a request's
//! client sees (prompts, ends, times to the client) is counted by the gateway.

use std::time::Duration;

use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use troupe_runtime::{
    id::GroupId,
    telemetry::{
        metrics::{Gauge, Labels, Metrics},
        names::{self, MetricName},
    },
    wire::{group::Progress, status::Load},
};

use super::{engine::Observation, settings::EngineSettings};
use crate::scheduler::Counters;

/// One number of those that the engine's core counts.
type CountOf = fn(&Counters) -> u64;

/// One engine's counts.
pub struct Observer {
    metrics: Metrics,
    labels: Labels,
    running: Gauge,
    waiting: Gauge,
    waiting_for_room: Gauge,
    usage: Gauge,
    totals: Vec<(Counter, CountOf)>,
    iteration_tokens: Histogram,
    queue_time: Histogram,
    prefill_time: Histogram,
    decode_time: Histogram,
    inference_time: Histogram,
    preemptions: Histogram,
}

impl Observer {
    /// Counts for one group's engine, everything at zero.
    pub fn new(model_name: &str, group: &GroupId) -> Self {
        let metrics = Metrics::new();
        let labels: Labels = vec![
            (names::LABEL_MODEL, model_name.to_owned()),
            (names::LABEL_ENGINE, group.index.to_string()),
            (names::LABEL_SERVICE, format!("{}/{}", group.namespace, group.service)),
        ];
        let gauge = |name| metrics.gauge(name, &labels);
        let histogram = |name| metrics.histogram(name, &labels);
        let waiting_for = |reason: &str| {
            let mut labels = labels.clone();
            labels.push(("reason", reason.to_owned()));
            metrics.gauge(names::NUM_REQUESTS_WAITING_BY_REASON, &labels)
        };
        // Nothing waits here for anything but room: grammars are compiled at the gateway.
        waiting_for("deferred");
        Self {
            running: gauge(names::NUM_REQUESTS_RUNNING),
            waiting: gauge(names::NUM_REQUESTS_WAITING),
            waiting_for_room: waiting_for("capacity"),
            usage: gauge(names::KV_CACHE_USAGE_PERC),
            totals: TOTALS.map(|(name, of)| (metrics.counter(name, &labels), of)).to_vec(),
            iteration_tokens: histogram(names::ITERATION_TOKENS),
            queue_time: histogram(names::REQUEST_QUEUE_TIME),
            prefill_time: histogram(names::REQUEST_PREFILL_TIME),
            decode_time: histogram(names::REQUEST_DECODE_TIME),
            inference_time: histogram(names::REQUEST_INFERENCE_TIME),
            preemptions: histogram(names::REQUEST_NUM_PREEMPTIONS),
            metrics: metrics.clone(),
            labels,
        }
    }

    /// All of it, to be rendered by whoever is asked.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// The engine begins: how its KV cache is set up.
    pub fn begin(&self, settings: &EngineSettings, blocks: &[u32]) {
        let limits = &settings.limits;
        let mut labels = self.labels.clone();
        labels.extend([
            ("block_size", limits.block_size.to_string()),
            ("num_gpu_blocks", blocks.iter().min().copied().unwrap_or(0).to_string()),
            ("cache_dtype", settings.kv_dtype.clone()),
            ("enable_prefix_caching", limits.prefix_caching.to_string()),
        ]);
        self.metrics.gauge(names::CACHE_CONFIG_INFO, &labels).set(1.0);
    }

    /// The load as it is now, and what was counted since the start.
    pub fn load(&self, load: &Load, counters: &Counters) {
        self.running.set(load.running.into());
        self.waiting.set(load.waiting.into());
        self.waiting_for_room.set(load.waiting.into());
        self.usage.set(f64::from(load.blocks_used) / f64::from(load.blocks_total.max(1)));
        for (counter, of) in &self.totals {
            counter.inc_by(of(counters).saturating_sub(counter.get()));
        }
    }

    /// A rank is through a step.
    pub fn progress(&self, progress: &Progress) {
        let mut labels = self.labels.clone();
        labels.push(("rank", progress.rank.to_string()));
        let raise = |name, by| self.metrics.counter(name, &labels).inc_by(by);
        raise(names::RANK_BUSY, progress.compute_us);
        raise(names::RANK_IDLE, progress.idle_us);
    }

    /// Something worth counting happened.
    pub fn observe(&self, observation: &Observation) {
        let seconds = |histogram: &Histogram, time: Duration| histogram.observe(time.as_secs_f64());
        match observation {
            Observation::Step { tokens } => self.iteration_tokens.observe(f64::from(*tokens)),
            Observation::Started { waited } => seconds(&self.queue_time, *waited),
            Observation::Finished { times, preemptions, .. } => {
                self.preemptions.observe(f64::from(*preemptions));
                if let Some(times) = times {
                    seconds(&self.prefill_time, times.prefill);
                    seconds(&self.decode_time, times.decode);
                    seconds(&self.inference_time, times.prefill + times.decode);
                }
            }
            // The gateway counts these, with what its client was told.
            Observation::Refused => {}
        }
    }
}

/// What the engine's core counts itself.
const TOTALS: [(MetricName, CountOf); 7] = [
    (names::NUM_PREEMPTIONS, |counters| counters.preemptions),
    (names::PREFIX_CACHE_QUERIES, |counters| counters.prefix_queries),
    (names::PREFIX_CACHE_HITS, |counters| counters.prefix_hits),
    (names::SPEC_DECODE_DRAFTS, |counters| counters.drafts),
    (names::SPEC_DECODE_DRAFT_TOKENS, |counters| counters.draft_tokens),
    (names::SPEC_DECODE_ACCEPTED_TOKENS, |counters| counters.accepted_tokens),
    (names::MERGED_BLOCKS, |counters| counters.merged_blocks),
];
