//! KV that another endpoint has cached: whether whoever answers fetches it from there.
//!
//! Load and prefixes pull a request to different endpoints now and then. Where the one that was
//! picked lacks a beginning of the prompt that another holds, sending those blocks may be sooner
//! done than computing them once more. It is, if what would be computed less takes longer than the
//! transfer, both as they were measured. Only endpoints that execute in the same way are asked, so
//! that an answer does not depend on where its KV came from; and they are asked only for what they
//! have, so that nobody computes for others who was not meant to.

use std::sync::Arc;

use serde::Serialize;
use troupe_runtime::wire::status::Fingerprint;

use super::{
    endpoint::Endpoint,
    handler::Cost,
    latency::{Features, Predictor},
};

/// Who has it, and how much.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) endpoint: Arc<Endpoint>,
    /// Tokens of the prompt's beginning, in whole blocks.
    pub(crate) tokens: u32,
}

/// What was compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Offer {
    pub(crate) endpoint: Arc<str>,
    pub(crate) cached_tokens: u32,
    /// Seconds that computing what it has takes.
    pub(crate) computing: f32,
    /// Seconds that sending it takes.
    pub(crate) sending: f32,
    pub(crate) fetched: bool,
}

/// Whether the endpoint at `at` fetches what another one has, where so many tokens of the prompt
/// are in the cache of each; nothing if nobody has more than it has itself.
pub(super) fn offer(
    endpoints: &[&Arc<Endpoint>],
    matched: &[u32],
    at: usize,
    seconds: impl Fn(f32) -> Option<f32>,
) -> Option<Offer> {
    let own = &endpoints[at].info;
    let helps = |other: &Fingerprint| *other == own.fingerprint;
    let most = (0..endpoints.len())
        .filter(|row| matched[*row] > matched[at])
        .filter(|row| {
            let info = &endpoints[*row].info;
            info.block_size == own.block_size && helps(&info.fingerprint)
        })
        // The first of equals, whoever that is.
        .max_by_key(|row| (matched[*row], std::cmp::Reverse(*row)))?;
    let cost = Cost::default();
    let missing = (matched[most] - matched[at]) as f32;
    let rate = match endpoints[at].fetch_rate() {
        0 => cost.transfer_rate,
        measured => measured as f32,
    };
    let computing = seconds(missing).unwrap_or(missing / cost.prefill_rate);
    let sending = missing / rate + cost.setup;
    let endpoint = Arc::clone(&endpoints[most].name);
    let fetched = sending < computing;
    Some(Offer { endpoint, cached_tokens: matched[most], computing, sending, fetched })
}

/// How much sooner the first token is there if so many tokens less are to be computed.
pub(super) fn sooner(
    predictor: &Predictor,
    of: &Fingerprint,
    features: &Features,
    tokens: f32,
) -> Option<f32> {
    let uncached = (features.uncached - tokens).max(0.0);
    let less = predictor.predict(of, &Features { uncached, ..*features })?;
    Some(predictor.predict(of, features)?.ttft - less.ttft)
}
