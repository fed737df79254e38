//! What every scorer with a plain formula says of a few endpoints, worked out by hand. Those with
//! memory or several parts have their own tests beside them.

use std::collections::BTreeMap;

use axum::http::{HeaderName, HeaderValue};
use troupe_runtime::{
    id::Digest,
    wire::adapter::{AdapterInfo, AdapterStatus},
};

use super::{
    ActiveRequestScorer, AttributeScorer, Direction, HeaderLabelScorer, KvCacheScorer,
    LoadAwareScorer, LoraAffinityScorer, QueueScorer, RunningScorer, Scene, Scorer,
    TokenLoadScorer, TopologyScorer,
    tests::{assert_near, scores},
};
use crate::{
    ingress::hints::Hints,
    placement::{
        Affinity, Busy, Candidate, Query,
        endpoint::tests::{candidate, info, query},
        scene::Signal,
    },
};

type Labels = BTreeMap<String, String>;
/// A scorer, what it looks at, that of each endpoint, and what it says of them.
type Row<'a> = (&'a dyn Scorer, Signal, [u32; 4], [f32; 4]);

/// What a scorer says of endpoints that each have one number of a kind.
fn of(scorer: &dyn Scorer, signal: Signal, numbers: [u32; 4]) -> Vec<f32> {
    let infos: Vec<_> = (0..4).map(|index| info("a", index)).collect();
    let candidates = infos.iter().zip(numbers).map(|(info, number)| {
        let plain = candidate(info);
        let busy = Busy { blocks_total: 100, ..Busy::default() };
        match signal {
            Signal::ActiveRequests => {
                // The leader knows of them, so that they do not count as waiting.
                let load = Busy { running: number, ..busy };
                Candidate { in_flight: number, load, ..plain }
            }
            Signal::InFlightTokens => Candidate { uncached_in_flight: number.into(), ..plain },
            Signal::KvUsed => Candidate { load: Busy { blocks_used: number, ..busy }, ..plain },
            Signal::Matched => Candidate { matched: number, ..plain },
            Signal::Running => Candidate { load: Busy { running: number, ..busy }, ..plain },
            Signal::Waiting => Candidate { load: Busy { waiting: number, ..busy }, ..plain },
        }
    });
    scores(scorer, &query("a"), candidates)
}

#[test]
fn formulas_of_load_give_what_they_give_by_hand() {
    let busy = |idle, most_busy_score| ActiveRequestScorer { idle, most_busy_score };
    let attribute = |direction, range| AttributeScorer { signal: Signal::KvUsed, direction, range };
    let (low, high) = (Direction::Lower, Direction::Higher);
    let tokens = TokenLoadScorer { threshold: 4_194_304.0 };
    let rows: [Row<'_>; 14] = [
        (&QueueScorer, Signal::Waiting, [0, 1, 3, 4], [1.0, 0.75, 0.25, 0.0]),
        (&QueueScorer, Signal::Waiting, [10, 12, 14, 20], [1.0, 0.8, 0.6, 0.0]),
        (&QueueScorer, Signal::Waiting, [7, 7, 7, 7], [1.0; 4]),
        (&RunningScorer, Signal::Running, [2, 4, 6, 10], [1.0, 0.75, 0.5, 0.0]),
        (&KvCacheScorer, Signal::KvUsed, [0, 25, 80, 100], [1.0, 0.75, 0.2, 0.0]),
        (
            &LoadAwareScorer { threshold: 128.0 },
            Signal::Waiting,
            [0, 32, 64, 200],
            [0.5, 0.375, 0.25, 0.0],
        ),
        (
            &LoadAwareScorer { threshold: 4.0 },
            Signal::Waiting,
            [0, 1, 3, 4],
            [0.5, 0.375, 0.125, 0.0],
        ),
        (&busy(0.0, 1.0), Signal::ActiveRequests, [0, 1, 3, 4], [1.0, 0.75, 0.25, 0.0]),
        (&busy(2.0, 0.5), Signal::ActiveRequests, [1, 2, 3, 6], [1.0, 1.0, 0.25, 0.0]),
        (&busy(0.0, 1.0), Signal::ActiveRequests, [0; 4], [1.0; 4]),
        (
            &tokens,
            Signal::InFlightTokens,
            [0, 1_048_576, 4_194_304, 9_000_000],
            [1.0, 0.75, 0.0, 0.0],
        ),
        (&attribute(low, None), Signal::KvUsed, [10, 20, 30, 50], [1.0, 0.75, 0.5, 0.0]),
        (&attribute(high, Some((0.0, 0.5))), Signal::KvUsed, [0, 25, 50, 90], [0.0, 0.5, 1.0, 1.0]),
        (&attribute(low, None), Signal::KvUsed, [30; 4], [1.0; 4]),
    ];
    for (scorer, signal, numbers, expected) in rows {
        let scored = of(scorer, signal, numbers);
        assert_eq!(scored.len(), 4, "{scorer:?}");
        assert_near(&scored, &expected);
    }
}

#[test]
fn adapters_are_where_they_run_or_fit_or_are_waited_for() {
    let named = |name: &str| AdapterInfo {
        name: name.into(),
        path: String::new(),
        digest: Digest::default(),
    };
    let status = |running: &[&str], waiting: &[&str]| AdapterStatus {
        max_loras: 2,
        served: vec![named("tuned"), named("b"), named("c")],
        running: running.iter().map(ToString::to_string).collect(),
        waiting: waiting.iter().map(ToString::to_string).collect(),
    };
    let all = [
        status(&["tuned", "b"], &[]),
        status(&["b"], &[]),
        status(&["b", "c"], &["tuned"]),
        status(&["b", "c"], &[]),
        AdapterStatus::default(),
    ];
    let infos: Vec<_> = (0..5).map(|index| info("a", index)).collect();
    let of = |name: &str| {
        let candidates = infos.iter().zip(&all).map(|(info, status)| Candidate {
            adapter: Affinity::of(name, status),
            ..candidate(info)
        });
        let candidates: Vec<_> = candidates.collect();
        scores(&LoraAffinityScorer, &query("a"), candidates.into_iter())
    };
    assert_near(&of("tuned"), &[1.0, 0.8, 0.6, 0.0, 0.0]);
    assert_near(&of("unknown"), &[0.0; 5]);
    let plain = scores(&LoraAffinityScorer, &query("a"), infos.iter().map(candidate));
    assert_near(&plain, &[0.8; 5]);
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_header_asks_for_a_label() {
    let infos = [info("a", 0), info("a", 1), info("a", 2)];
    let each = [labels(&[("slice", "1")]), labels(&[("slice", "2")]), Labels::new()];
    let scorer = HeaderLabelScorer { header: "x-slice".into(), label: "slice".into() };
    let of = |value: Option<&'static str>| {
        let value = value.map(HeaderValue::from_static);
        let headers = value.map(|value| (HeaderName::from_static("x-slice"), value));
        let hints = Hints { headers: headers.into_iter().collect(), ..Hints::NONE };
        let candidates = infos.iter().zip(&each);
        let candidates = candidates.map(|(info, labels)| Candidate { labels, ..candidate(info) });
        scores(&scorer, &Query { hints: &hints, ..query("a") }, candidates)
    };
    assert_near(&of(Some("2")), &[0.0, 1.0, 0.0]);
    assert_near(&of(None), &[0.0, 0.0, 0.0]);
}

#[test]
fn helpers_are_near_by_the_tightest_thing_that_they_share() {
    let place = |host: &str, rack: &str, zone: &str, region: &str| {
        labels(&[
            ("kubernetes.io/hostname", host),
            ("troupe.dev/rack", rack),
            ("topology.kubernetes.io/zone", zone),
            ("topology.kubernetes.io/region", region),
        ])
    };
    let each = [
        place("h1", "r1", "z1", "g1"),
        place("h1", "r1", "z1", "g1"),
        place("h2", "r1", "z1", "g1"),
        place("h3", "r2", "z1", "g1"),
        place("h4", "r3", "z2", "g1"),
        place("h5", "r4", "z3", "g2"),
        place("", "", "", ""),
    ];
    let infos: Vec<_> = (0..each.len() as u32).map(|index| info("a", index)).collect();
    let candidates = infos.iter().zip(&each);
    let candidates = candidates.map(|(info, labels)| Candidate { labels, ..candidate(info) });
    let all = Scene::of(candidates);
    let mut scores = vec![0.0; 6];
    TopologyScorer.score(&query("a"), &all.help(0), &mut scores);
    assert_near(&scores, &[1.0, 0.2, 0.05, 0.02, 0.0, 0.0]);
    scores.fill(0.0);
    TopologyScorer.score(&query("a"), &all.help(6), &mut scores);
    assert_near(&scores, &[0.0; 6]);
}
