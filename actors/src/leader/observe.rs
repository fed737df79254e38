//! Counts what a leader does, for `/metrics`: what only the engine can know. What a request's
//! client sees (prompts, ends, times to the client) is counted by the gateway.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use troupe_runtime::{
    error::ErrorKind,
    id::GroupId,
    telemetry::{
        metrics::{Gauge, Labels, Metrics},
        names::{self, MetricName},
    },
    wire::{adapter::AdapterStatus, group::Progress, status::Load},
};

use super::{engine::Observation, settings::EngineSettings};
use crate::{kv::tiers::Tiers, scheduler::Counters};

mod tiers;

use tiers::TierMeters;

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
    queue_full: Counter,
    totals: Vec<(Counter, CountOf)>,
    drafts: Option<Drafts>,
    iteration_tokens: Histogram,
    queue_time: Histogram,
    prefill_time: Histogram,
    decode_time: Histogram,
    inference_time: Histogram,
    preemptions: Histogram,
    transfer_time: Histogram,
    tiers: Option<TierMeters>,
}

/// What is counted of drafts beyond the totals, where there are any.
struct Drafts {
    accepted_at: Vec<Counter>,
    acceptance_length: Gauge,
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
        let with_reason = |reason: &str| {
            let mut labels = labels.clone();
            labels.push(("reason", reason.to_owned()));
            labels
        };
        let waiting_for =
            |reason| metrics.gauge(names::NUM_REQUESTS_WAITING_BY_REASON, &with_reason(reason));
        // Nothing waits here for anything but room: grammars are compiled at the gateway.
        waiting_for("deferred");
        Self {
            running: gauge(names::NUM_REQUESTS_RUNNING),
            waiting: gauge(names::NUM_REQUESTS_WAITING),
            waiting_for_room: waiting_for("capacity"),
            usage: gauge(names::KV_CACHE_USAGE_PERC),
            queue_full: metrics
                .counter(names::ADMISSION_REJECTIONS, &with_reason("max_num_queued_reqs")),
            totals: TOTALS.map(|(name, of)| (metrics.counter(name, &labels), of)).to_vec(),
            drafts: None,
            iteration_tokens: histogram(names::ITERATION_TOKENS),
            queue_time: histogram(names::REQUEST_QUEUE_TIME),
            prefill_time: histogram(names::REQUEST_PREFILL_TIME),
            decode_time: histogram(names::REQUEST_DECODE_TIME),
            inference_time: histogram(names::REQUEST_INFERENCE_TIME),
            preemptions: histogram(names::REQUEST_NUM_PREEMPTIONS),
            transfer_time: histogram(names::KV_TRANSFER_TIME),
            tiers: None,
            metrics: metrics.clone(),
            labels,
        }
    }

    /// All of it, to be rendered by whoever is asked.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// The engine begins: how its KV cache is set up, and whether it drafts.
    pub fn begin(&mut self, settings: &EngineSettings, blocks: &[u32]) {
        let limits = &settings.limits;
        let mut labels = self.labels.clone();
        labels.extend([
            ("block_size", limits.block_size.to_string()),
            ("num_gpu_blocks", blocks.iter().min().copied().unwrap_or(0).to_string()),
            ("cache_dtype", settings.kv_dtype.clone()),
            ("enable_prefix_caching", limits.prefix_caching.to_string()),
        ]);
        self.metrics.gauge(names::CACHE_CONFIG_INFO, &labels).set(1.0);
        self.drafts = limits.speculation.map(|drafts| self.drafts_of(drafts.num_tokens));
    }

    /// Which adapters are used now; there is no such family where there is no room for any.
    pub fn adapters(&self, status: &AdapterStatus) {
        let mut labels = self.labels.clone();
        labels.extend([
            ("max_lora", status.max_loras.to_string()),
            ("waiting_lora_adapters", status.waiting.join(",")),
            ("running_lora_adapters", status.running.join(",")),
        ]);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.metrics.only_gauge(names::LORA_REQUESTS_INFO, &labels).set(now.as_secs_f64());
    }

    fn drafts_of(&self, num_tokens: u32) -> Drafts {
        let accepted_at = |position: u32| {
            let mut labels = self.labels.clone();
            labels.push((names::LABEL_POSITION, position.to_string()));
            self.metrics.counter(names::SPEC_DECODE_ACCEPTED_PER_POS, &labels)
        };
        Drafts {
            accepted_at: (0..num_tokens).map(accepted_at).collect(),
            acceptance_length: self
                .metrics
                .gauge(names::SPEC_DECODE_ACCEPTANCE_LENGTH, &self.labels),
        }
    }

    /// The load as it is now, and what was counted since the start.
    pub fn load(&self, load: &Load, counters: &Counters) {
        self.running.set(load.running.into());
        self.waiting.set(load.waiting.into());
        self.waiting_for_room.set(load.waiting.into());
        self.usage.set(f64::from(load.blocks_used) / f64::from(load.blocks_total.max(1)));
        for (counter, of) in &self.totals {
            raise(counter, of(counters));
        }
        let Some(drafts) = self.drafts.as_ref().filter(|_| counters.drafts > 0) else { return };
        for (counter, accepted) in drafts.accepted_at.iter().zip(&counters.accepted_per_position) {
            raise(counter, *accepted);
        }
        // As vLLM reckons it: every draft brings one token more than what is right of it.
        let accepted = counters.accepted_tokens as f64 / counters.drafts as f64;
        drafts.acceptance_length.set(1.0 + accepted);
    }

    /// The tiers beside the device, if there are any.
    pub fn tiers(&mut self, tiers: Option<&Tiers>) {
        let Some(tiers) = tiers else { return };
        let new = || TierMeters::new(&self.metrics, &self.labels, tiers);
        self.tiers.get_or_insert_with(new).observe(tiers);
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
            Observation::Fetched { from_tiers: true, tokens, of, bytes, time, missing } => {
                if let Some(why) = missing {
                    tracing::info!(tokens, of, ?time, why, "KV did not all come from the tiers");
                }
                let meters = self.tiers.iter();
                meters.for_each(|meters| meters.loaded(*tokens, *bytes, *time));
            }
            Observation::Fetched { tokens, of, bytes, time, missing, .. } => {
                if let Some(why) = missing {
                    tracing::info!(tokens, of, ?time, why, "KV of another group did not all come");
                }
                seconds(&self.transfer_time, *time);
                self.fetched(*tokens, *of, *bytes);
            }
            Observation::FramesDropped(frames) => {
                let frames = u64::from(*frames);
                self.metrics.counter(names::KV_TRANSFER_DROPPED, &self.labels).inc_by(frames);
            }
            Observation::Refused(ErrorKind::Overloaded) => _ = self.queue_full.inc(),
            // Mistakes of its client and of its gateway: nothing was wanting here.
            Observation::Refused(_) => {}
        }
    }

    /// So many of the tokens came whose KV another group was asked for.
    fn fetched(&self, tokens: u32, of: u32, bytes: u64) {
        let outcome = match tokens {
            0 => "nothing",
            _ if tokens < of => "partial",
            _ => "complete",
        };
        let mut labels = self.labels.clone();
        labels.push((names::LABEL_OUTCOME, outcome.to_owned()));
        self.metrics.counter(names::KV_TRANSFERS, &labels).inc();
        self.metrics.counter(names::KV_TRANSFER_TOKENS, &self.labels).inc_by(tokens.into());
        self.metrics.counter(names::KV_TRANSFER_BYTES, &self.labels).inc_by(bytes);
    }
}

/// Brings a counter up to what was counted.
fn raise(counter: &Counter, counted: u64) {
    counter.inc_by(counted.saturating_sub(counter.get()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{leader::tests, scheduler::NgramSettings};

    fn observer() -> Observer {
        Observer::new("m", &tests::endpoint().group)
    }

    #[test]
    fn drafts_are_counted_by_place_and_their_mean_length_is_told() {
        let mut observer = observer();
        let mut settings = tests::settings();
        settings.limits.speculation =
            Some(NgramSettings { num_tokens: 3, longest: 2, shortest: 1 });
        observer.begin(&settings, &[8]);
        let mut counters = Counters {
            drafts: 4,
            draft_tokens: 12,
            accepted_tokens: 6,
            accepted_per_position: vec![3, 2, 1],
            ..Counters::default()
        };
        observer.load(&Load::default(), &counters);
        counters.accepted_per_position[0] = 4;
        observer.load(&Load::default(), &counters);
        let text = observer.metrics().render();
        let labels = r#"model_name="m",engine="0",service="default/s""#;
        let accepted = |position, count| {
            let family = "vllm:spec_decode_num_accepted_tokens_per_pos_total";
            format!("{family}{{{labels},position=\"{position}\"}} {count}")
        };
        let lines = [
            accepted(0, 4),
            accepted(1, 2),
            accepted(2, 1),
            format!("vllm:spec_decode_num_drafts_total{{{labels}}} 4"),
            format!("vllm:spec_decode_num_accepted_tokens_total{{{labels}}} 6"),
            format!("troupe:spec_decode_mean_acceptance_length{{{labels}}} 2.5"),
        ];
        for line in lines {
            assert!(text.lines().any(|found| found == line), "no line `{line}` in\n{text}");
        }
    }

    #[test]
    fn an_engine_that_does_not_draft_has_no_places_in_drafts() {
        let mut observer = observer();
        observer.begin(&tests::settings(), &[8]);
        observer.load(&Load::default(), &Counters::default());
        assert!(!observer.metrics().render().contains("position"));
    }
}
