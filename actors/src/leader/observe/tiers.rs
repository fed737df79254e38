//! Counts of the tiers beside the device, where there are any.

use std::time::Duration;

use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use troupe_runtime::{
    telemetry::{
        metrics::{Gauge, Labels, Metrics},
        names,
    },
    wire::tier::Tier,
};

use super::raise;
use crate::kv::tiers::Tiers;

/// One engine's.
pub(super) struct TierMeters {
    tiers: Vec<TierMeter>,
    tokens: Counter,
    bytes: Counter,
    time: Histogram,
}

struct TierMeter {
    tier: Tier,
    stored: Counter,
    loaded: Counter,
    dropped: Counter,
    used: Gauge,
    usage: Gauge,
}

impl TierMeters {
    /// Counts at zero, of those tiers that have slots.
    pub(super) fn new(metrics: &Metrics, labels: &Labels, tiers: &Tiers) -> Self {
        let there = [(Tier::Host, "host"), (Tier::Disk, "disk")].into_iter();
        let there = there.filter(|(tier, _)| tiers.usage(*tier).1 > 0);
        let meter = |(tier, name): (Tier, &str)| {
            let mut labels = labels.clone();
            labels.push((names::LABEL_TIER, name.to_owned()));
            let counter = |name| metrics.counter(name, &labels);
            let gauge = |name| metrics.gauge(name, &labels);
            TierMeter {
                tier,
                stored: counter(names::KV_OFFLOAD_STORED),
                loaded: counter(names::KV_OFFLOAD_LOADED),
                dropped: counter(names::KV_OFFLOAD_DROPPED),
                used: gauge(names::KV_OFFLOAD_BLOCKS),
                usage: gauge(names::KV_OFFLOAD_USAGE_PERC),
            }
        };
        Self {
            tiers: there.map(meter).collect(),
            tokens: metrics.counter(names::KV_OFFLOAD_LOADED_TOKENS, labels),
            bytes: metrics.counter(names::KV_OFFLOAD_LOADED_BYTES, labels),
            time: metrics.histogram(names::KV_OFFLOAD_LOAD_TIME, labels),
        }
    }

    /// The tiers as they are now, and what was counted since the start.
    pub(super) fn observe(&self, tiers: &Tiers) {
        for meter in &self.tiers {
            let counts = tiers.counts(meter.tier);
            raise(&meter.stored, counts.stored);
            raise(&meter.loaded, counts.loaded);
            raise(&meter.dropped, counts.dropped);
            let (used, all) = tiers.usage(meter.tier);
            meter.used.set(used.into());
            meter.usage.set(f64::from(used) / f64::from(all.max(1)));
        }
    }

    /// A request has got what tiers had of it.
    pub(super) fn loaded(&self, tokens: u32, bytes: u64, time: Duration) {
        self.tokens.inc_by(tokens.into());
        self.bytes.inc_by(bytes);
        self.time.observe(time.as_secs_f64());
    }
}
