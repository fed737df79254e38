//! Which foreign endpoint answers: the same plug-ins, over what is known of these.

use std::{sync::Arc, time::Duration};

use troupe_runtime::{
    id::{Digest, EndpointId, Epoch, GroupId},
    wire::status::{EndpointInfo, Fingerprint, Load, Role},
};

use super::{
    config::ForeignEndpoint,
    upstream::{Upstream, Upstreams},
};
use crate::placement::{
    Affinity, Busy, Candidate, Duty, Query, explain::record::Decision, handler::Placer,
    latency::Features, prefix::guessed::Guessed, scene::Scene,
};

/// One that answers and serves the model, at this moment.
struct Seen<'a> {
    upstream: &'a Arc<Upstream>,
    load: Busy,
    load_age: Duration,
    /// Others are taken before it, because it keeps failing.
    rests: bool,
}

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
        tried: &[u32],
    ) -> Option<(Arc<Upstream>, Decision)> {
        let (now, all) = (self.now(), self.all());
        let fits = |upstream: &Upstream| {
            let group = &upstream.info.endpoint.group;
            let within = query.scope.is_none_or(|scope| scope.has(group));
            within && !tried.contains(&upstream.number)
        };
        let seen = |upstream| Seen::of(upstream, query.model, now);
        let fitting = all.iter().filter(|upstream| fits(upstream));
        let mut all: Vec<Seen<'_>> = fitting.filter_map(seen).collect();
        if all.iter().any(|seen| !seen.rests) {
            all.retain(|seen| !seen.rests);
        }
        let runs = self.guessed.runs(query.hashes);
        let candidates = all.iter().map(|seen| {
            let matched = Guessed::matched(&seen.upstream.cached, &runs);
            Candidate { matched, ..seen.candidate() }
        });
        let scene = Scene::of(candidates);
        let features: Vec<_> =
            (0..scene.len()).map(|row| Features::of(query, &scene, row)).collect();
        let outcome = placer.place(query, scene);
        let picked = outcome.endpoint?;
        let name = |row: usize| Arc::clone(&all[row].upstream.name);
        let learned = (features[picked], None);
        let decision = Decision::new(query, (all.len(), &name), outcome, learned, None)?;
        let upstream = all.get(picked)?.upstream;
        self.guessed.sent(now, &upstream.cached, query.hashes);
        Some((Arc::clone(upstream), decision))
    }
}

// === impl Seen ===

impl<'a> Seen<'a> {
    fn of(upstream: &'a Arc<Upstream>, model: &str, now: Duration) -> Option<Self> {
        let known = upstream.serving(model)?;
        let Load { running, waiting, blocks_used, blocks_total, .. } = known.load;
        let load = Busy { running, waiting, blocks_used, blocks_total, fetch_rate: 0 };
        let load_age = now.saturating_sub(known.told_at);
        Some(Self { upstream, load, load_age, rests: known.breaker.is_open(now) })
    }

    fn candidate(&self) -> Candidate<'a> {
        let Upstream { info, config, number, .. } = &**self.upstream;
        Candidate {
            info,
            number: *number,
            load: self.load,
            in_flight: self.upstream.in_flight(),
            uncached_in_flight: 0,
            matched: 0,
            labels: &config.labels,
            duty: Duty::of(info.role, &config.labels),
            adapter: Affinity::Room,
            has_place: true,
            load_age: self.load_age,
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
        embeds: None,
        fingerprint: Fingerprint {
            model: Digest::default(),
            tokenizer: Digest::default(),
            adapter: None,
            dtype: String::new(),
            quantization: String::new(),
            kv_dtype: String::new(),
            tensor_parallel: 1,
            expert_parallel: false,
            kernel_path: "foreign".into(),
            batch_invariant: false,
        },
    }
}
