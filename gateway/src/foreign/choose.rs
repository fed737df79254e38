//! Which foreign endpoint answers: the same plug-ins, over what is known of these.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use troupe_runtime::{
    id::{Digest, EndpointId, Epoch, GroupId},
    wire::status::{EndpointInfo, Fingerprint, Load, Role},
};

use super::{
    config::ForeignEndpoint,
    upstream::{Known, Upstream, Upstreams},
};
use crate::placement::{
    Busy, Candidate, Duty, Query, explain::record::Decision, handler::Placer, latency::Features,
    prefix::guessed::Guessed, scene::Scene,
};

/// Bytes of a text that make a token, about: llm-d's estimate too.
pub(crate) const BYTES_PER_TOKEN: usize = 4;

// === impl Upstreams ===

impl Upstreams {
    /// Who answers, of those that were not tried, and why. One that keeps failing is only taken if
    /// there is nobody else.
    pub(crate) fn choose(
        &self,
        query: &Query<'_>,
        placer: &Placer,
        tried: &BTreeSet<(String, String)>,
    ) -> Option<(Arc<Upstream>, Decision)> {
        let now = self.now();
        let fits = |upstream: &Upstream| {
            let config = &upstream.config;
            let group = &upstream.info.endpoint.group;
            let within = query.scope.is_none_or(|scope| scope.has(group));
            within && !tried.contains(&(config.namespace.clone(), config.name.clone()))
        };
        let mut all: Vec<_> = self.serving(query.model).filter(|(one, _)| fits(one)).collect();
        let closed = |(_, known): &(Arc<Upstream>, Known)| !known.breaker.is_open(now);
        if all.iter().any(closed) {
            all.retain(closed);
        }
        let runs = self.guessed.runs(query.hashes);
        let candidates = all.iter().map(|(upstream, known)| {
            let matched = Guessed::matched(&upstream.cached, &runs);
            Candidate { matched, ..upstream.candidate(known, now) }
        });
        let scene = Scene::of(candidates);
        let features: Vec<_> =
            (0..scene.len()).map(|row| Features::of(query, &scene, row)).collect();
        let outcome = placer.place(query, scene);
        let picked = outcome.endpoint?;
        let name = |row: usize| Arc::clone(&all[row].0.name);
        let learned = (features[picked], None);
        let decision = Decision::new(query, (all.len(), &name), outcome, learned, None)?;
        let (upstream, _) = all.get(picked)?;
        self.guessed.sent(now, &upstream.cached, query.hashes);
        Some((Arc::clone(upstream), decision))
    }
}

// === impl Upstream ===

impl Upstream {
    fn candidate(&self, known: &Known, now: Duration) -> Candidate<'_> {
        let Load { running, waiting, blocks_used, blocks_total, .. } = known.load;
        Candidate {
            info: &self.info,
            number: self.number,
            load: Busy { running, waiting, blocks_used, blocks_total, fetch_rate: 0 },
            in_flight: self.in_flight(),
            uncached_in_flight: 0,
            matched: 0,
            labels: &self.config.labels,
            duty: Duty::of(self.info.role, &self.config.labels),
            has_place: true,
            load_age: now.saturating_sub(known.told_at),
        }
    }
}

/// What plug-ins are told of it that look at more than numbers and labels.
pub(super) fn info(config: &ForeignEndpoint) -> EndpointInfo {
    let (namespace, service) = (config.namespace.clone(), config.name.clone());
    let group = GroupId { namespace, service, index: 0 };
    EndpointInfo {
        endpoint: EndpointId { group, revision: 0, epoch: Epoch::default(), dp: 0 },
        role: Role::Unified,
        model_names: Vec::new(),
        max_model_len: u32::MAX,
        block_size: 16,
        num_blocks: 0,
        max_num_seqs: 0,
        fingerprint: Fingerprint {
            model: Digest::default(),
            tokenizer: Digest::default(),
            adapter: None,
            dtype: String::new(),
            quantization: String::new(),
            kv_dtype: String::new(),
            tensor_parallel: 1,
            kernel_path: "foreign".into(),
            batch_invariant: false,
        },
    }
}
