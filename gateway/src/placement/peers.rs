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
use troupe_runtime::wire::status::{EndpointInfo, Fingerprint};

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
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Offer {
    /// Who has it, among the candidates.
    #[serde(skip)]
    pub(crate) row: usize,
    pub(crate) cached_tokens: u32,
    /// Seconds that computing what it has takes.
    pub(crate) computing: f32,
    /// Seconds that sending it takes.
    pub(crate) sending: f32,
    pub(crate) fetched: bool,
}

/// Whether the endpoint at `at`, to which KV of so many tokens comes in a second (0 if that is not
/// known), fetches what another one has, where so many tokens of the prompt are in the cache of
/// each; nothing if nobody has more than it has itself. `seconds` is what computing tokens takes.
pub(super) fn offer<'a>(
    endpoint: impl Fn(usize) -> &'a EndpointInfo,
    matched: &[u32],
    (at, fetch_rate): (usize, u32),
    seconds: impl Fn(f32) -> Option<f32>,
) -> Option<Offer> {
    // It seldom is so.
    if matched.iter().copied().max() <= matched.get(at).copied() {
        return None;
    }
    let own = endpoint(at);
    let is_alike = |row: usize| {
        let other = endpoint(row);
        other.block_size == own.block_size && other.fingerprint == own.fingerprint
    };
    // The first of equals, whoever that is. To compare fingerprints takes longer than numbers.
    let mut most = at;
    for row in 0..matched.len() {
        if matched[row] > matched[most] && is_alike(row) {
            most = row;
        }
    }
    let row = (most != at).then_some(most)?;
    let cost = Cost::default();
    let missing = (matched[row] - matched[at]) as f32;
    let rate = match fetch_rate {
        0 => cost.transfer_rate,
        measured => measured as f32,
    };
    let computing = seconds(missing).unwrap_or(missing / cost.prefill_rate);
    let sending = missing / rate + cost.setup;
    let fetched = sending < computing;
    Some(Offer { row, cached_tokens: matched[row], computing, sending, fetched })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::endpoint::tests::info;

    #[test]
    fn blocks_are_fetched_from_who_has_most_if_that_is_sooner() {
        let infos: Vec<_> = (0..4).map(|index| info("m", index)).collect();
        let all = |row: usize| &infos[row];
        let none = |_| None;
        let told = offer(all, &[64, 4096, 8192, 8192], (0, 0), none).expect("two have more");
        assert_eq!((told.row, told.cached_tokens, told.fetched), (2, 8192, true), "{told:?}");
        assert_eq!(offer(all, &[64, 64, 0, 16], (0, 0), none), None, "nobody has more");
        let few = offer(all, &[64, 96, 0, 0], (0, 0), none).expect("one has more");
        assert!(!few.fetched, "32 tokens are computed before a transfer is set up: {few:?}");
        // What was measured counts, of either.
        assert!(!offer(all, &[0, 8192, 0, 0], (0, 900), none).expect("more").fetched);
        let quick = |_| Some(0.001);
        assert!(!offer(all, &[0, 8192, 0, 0], (0, 0), quick).expect("more").fetched);
        let slow = |tokens| Some(tokens / 500.0);
        assert!(offer(all, &[0, 8192, 0, 0], (0, 900), slow).expect("more").fetched);
    }

    #[test]
    fn who_executes_in_another_way_is_not_asked() {
        let (own, mut other, mut blocks) = (info("m", 0), info("m", 1), info("m", 2));
        other.fingerprint.tensor_parallel = 2;
        blocks.block_size = 32;
        let all = [own, other, blocks];
        let all = |row: usize| &all[row];
        assert_eq!(offer(all, &[0, 8192, 8192], (0, 0), |_| None), None);
    }
}
