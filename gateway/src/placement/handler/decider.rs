//! Whether a prompt is computed by a prefill group and its KV sent, or where it is answered.
//!
//! llm-d's deciders compare the tokens that are not cached with a threshold. Without one this is
//! what is compared: how soon the first token would be there either way, from what was measured,
//! and how long sequences that run at the answering group would stand still meanwhile. KV is sent
//! layer by layer while later layers are computed, so the slower of the two counts, not the sum.

use serde::Serialize;

use super::{Query, Row, Scene};
use crate::placement::scene::Signal;

/// How it is decided.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Decider {
    /// It always is.
    Always,
    /// By what it costs.
    Cost(Cost),
    /// It never is.
    Never,
    /// From so many tokens on that are not cached, of prompts that have at least so many.
    Threshold { uncached: u32, prompt: u32 },
}

/// What the comparison assumes where nothing was measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Tokens that a group computes in a second.
    pub(crate) prefill_rate: f32,
    /// Tokens whose KV is sent in a second.
    pub(crate) transfer_rate: f32,
    /// Seconds that setting a transfer up takes.
    pub(crate) setup: f32,
    /// What a second of a running sequence's standing still counts, in seconds.
    pub(crate) stall: f32,
}

/// What was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Weighed {
    /// Whether it is computed apart.
    pub(crate) apart: bool,
    /// Tokens that the answering endpoint's cache does not have.
    pub(crate) uncached: u32,
    /// Seconds to the first token, computed where it is answered; with the others' standing still.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) here: Option<f32>,
    /// Seconds to the first token, computed by the helper.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) there: Option<f32>,
}

impl Default for Cost {
    fn default() -> Self {
        Self { prefill_rate: 15_928.0, transfer_rate: 40_000.0, setup: 0.005, stall: 0.1 }
    }
}

// === impl Decider ===

impl Decider {
    /// Whether the helper at a place computes for the scene's peer; where there is none, whether
    /// one would that has nothing else to do.
    pub(crate) fn weigh(
        &self,
        query: &Query<'_>,
        scene: &Scene<'_>,
        helper: Option<usize>,
    ) -> Weighed {
        let matched = scene.of_peer(Signal::Matched).unwrap_or_default() as u32;
        let uncached = query.tokens.saturating_sub(matched);
        let plain = |apart| Weighed { apart, uncached, ..Weighed::default() };
        match self {
            Self::Always => plain(true),
            Self::Never => plain(false),
            Self::Threshold { uncached: least, prompt } => {
                plain(*least > 0 && query.tokens >= *prompt && uncached >= *least)
            }
            Self::Cost(cost) => {
                let place = |row: &Row<'_>| Some(row.at) == helper;
                let row = scene.rows().iter().position(place);
                let (here, there) = cost.compare(uncached, query, scene, row);
                let apart = there < here;
                Weighed { apart, uncached, here: Some(here), there: Some(there) }
            }
        }
    }
}

impl Cost {
    fn compare(
        &self,
        uncached: u32,
        query: &Query<'_>,
        scene: &Scene<'_>,
        helper: Option<usize>,
    ) -> (f32, f32) {
        let missing = uncached as f32;
        let at_peer = |signal| scene.of_peer(signal).unwrap_or_default();
        let at_helper = |signal| helper.map(|row| scene.column(signal)[row]).unwrap_or_default();
        let computing = |queue: f32, tokens: f32| (queue + tokens) / self.prefill_rate;
        // What was measured is not compared with what is only assumed of nobody.
        let here = scene.predicted_peer().filter(|_| helper.is_some()).map_or_else(
            || computing(at_peer(Signal::InFlightTokens), missing),
            |predicted| predicted.ttft,
        );
        let stands = at_peer(Signal::Running) * (missing / self.prefill_rate) * self.stall;
        let to_compute = (query.tokens as f32 - at_helper(Signal::Matched)).max(0.0);
        let predicted = helper.and_then(|row| Some(scene.predicted()?[row].ttft));
        let there =
            predicted.unwrap_or_else(|| computing(at_helper(Signal::InFlightTokens), to_compute));
        let rate = match scene.peer().map_or(0, |peer| peer.fetch_rate) {
            0 => self.transfer_rate,
            measured => measured as f32,
        };
        let sending = missing / rate;
        (here + stands, there.max(sending) + self.setup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{
        Busy, Candidate,
        endpoint::tests::{candidate, info, query},
    };

    fn weigh(
        decider: &Decider,
        tokens: u32,
        peer: Candidate<'_>,
        helper: Candidate<'_>,
    ) -> Weighed {
        let scene = Scene::of([peer, helper].into_iter()).help(0);
        decider.weigh(&Query { tokens, ..query("a") }, &scene, Some(1))
    }

    #[test]
    fn thresholds_compare_what_is_not_cached_and_the_prompt() {
        let infos = [info("a", 0), info("a", 1)];
        let threshold = |uncached, prompt| Decider::Threshold { uncached, prompt };
        for (decider, tokens, matched, apart) in [
            (threshold(512, 0), 1000, 488, true),
            (threshold(512, 0), 1000, 489, false),
            (threshold(512, 1024), 1000, 0, false),
            (threshold(512, 1024), 1024, 0, true),
            (threshold(0, 0), 1000, 0, false),
            (Decider::Always, 1, 1, true),
            (Decider::Never, 100_000, 0, false),
        ] {
            let peer = Candidate { matched, ..candidate(&infos[0]) };
            let weighed = weigh(&decider, tokens, peer, candidate(&infos[1]));
            assert_eq!(weighed.apart, apart, "{decider:?} {tokens} {matched}");
            assert_eq!(weighed.uncached, tokens - matched);
        }
    }

    #[test]
    fn it_pays_where_others_would_wait_and_the_helper_is_free() {
        let infos = [info("a", 0), info("a", 1)];
        let decider = Decider::Cost(Cost::default());
        let apart = |running, matched, queued| {
            let load = Busy { running, ..Busy::default() };
            let peer = Candidate { load, matched, ..candidate(&infos[0]) };
            let helper = Candidate { uncached_in_flight: queued, ..candidate(&infos[1]) };
            weigh(&decider, 10_000, peer, helper).apart
        };
        assert!(!apart(0, 0, 0), "alone it is computed sooner without setting anything up");
        assert!(apart(8, 0, 0), "eight others would stand still");
        assert!(!apart(8, 9_984, 0), "nearly all of it is there");
        assert!(!apart(8, 0, 200_000), "the helper has much to do");
    }

    #[test]
    fn one_who_is_not_there_would_be_free() {
        let infos = [info("a", 0), info("a", 1)];
        let decider = Decider::Cost(Cost::default());
        for running in [0, 8] {
            let load = Busy { running, ..Busy::default() };
            let peer = Candidate { load, ..candidate(&infos[0]) };
            let alone = Scene::of([peer].into_iter()).help(0);
            let query = Query { tokens: 10_000, ..query("a") };
            let nobody = decider.weigh(&query, &alone, None);
            assert_eq!(nobody, weigh(&decider, 10_000, peer, candidate(&infos[1])));
            assert_eq!(nobody.apart, running > 0);
        }
    }
}
