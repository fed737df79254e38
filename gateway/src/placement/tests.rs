//! Whole decisions: what llm-d's documented profiles pick on a table of cases, and what holds for
//! every profile and every input.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use troupe_runtime::{
    id::{Digest, RequestId},
    wire::status::{EndpointInfo, Role},
};

use super::{
    Busy, Candidate, Query,
    config::PickerConfig,
    defaults,
    endpoint::tests::{candidate, info, query},
    filter::Mask,
    handler::{Handler, Outcome, Placer},
    latency::Predicted,
    profile::Profile,
    scene::Scene,
};
use crate::ingress::hints::Hints;

/// Waiting and running sequences, used KV blocks of a hundred, matched tokens, tokens in flight.
type State = (u32, u32, u32, u32, u64);

fn candidates<'a>(
    infos: &'a [EndpointInfo],
    states: &'a [State],
) -> impl ExactSizeIterator<Item = Candidate<'a>> {
    infos.iter().zip(states).map(|(info, (waiting, running, used, matched, tokens))| {
        let load = Busy {
            waiting: *waiting,
            running: *running,
            blocks_used: *used,
            blocks_total: 100,
            fetch_rate: 0,
        };
        Candidate { load, matched: *matched, uncached_in_flight: *tokens, ..candidate(info) }
    })
}

fn infos(count: usize) -> Vec<EndpointInfo> {
    (0..count as u32).map(|index| info("a", index)).collect()
}

fn placer(body: &str) -> Placer {
    let text = format!("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n{body}");
    let config = PickerConfig::read(&text).expect("it is right");
    Placer::clone(&config.placer)
}

/// Who answers and who computes the prompt, of a prompt of 1,600 tokens.
fn place(placer: &Placer, states: &[State]) -> Outcome {
    let infos = infos(states.len());
    let query = Query { tokens: 1600, ..query("a") };
    placer.place(&query, Scene::of(candidates(&infos, states)))
}

#[test]
fn llm_ds_default_profile_picks_by_queue_kv_and_prefix() {
    // Totals by hand: 2 * queue + 2 * (1 - kv) + 3 * matched / 1600.
    for (states, expected, total) in [
        // 2*1 + 2*0.9 + 0 = 3.8 against 2*0 + 2*0.9 + 3*0.5 = 3.3
        (vec![(0, 0, 10, 0, 0), (4, 0, 10, 800, 0)], 0, 3.8),
        // 2*0 + 2*0.9 + 3*1 = 4.8 against 2*1 + 2*0.9 = 3.8
        (vec![(0, 0, 10, 0, 0), (4, 0, 10, 1600, 0)], 1, 4.8),
        // 2*1 + 2*0.1 + 3*0.5 = 3.7 against 2*1 + 2*1 = 4
        (vec![(2, 0, 90, 800, 0), (2, 0, 0, 0, 0)], 1, 4.0),
        // queue 1, 0.5, 0: 2+0.4 = 2.4; 1+2+1.5 = 4.5; 0+2+3*0.8 = 4.4
        (vec![(0, 9, 80, 0, 0), (5, 0, 0, 800, 0), (10, 0, 0, 1280, 0)], 1, 4.5),
    ] {
        let outcome = place(&defaults::placer(), &states);
        assert_eq!(outcome.endpoint, Some(expected), "{states:?}");
        let best = &outcome.steps[0].1.best[0];
        assert!((best.total - total).abs() < 1e-4, "{best:?} is not {total}");
    }
}

#[test]
fn llm_ds_optimized_baseline_sends_cold_requests_round() {
    let placer = placer(
        "
plugins: [{type: queue-scorer}, {type: kv-cache-utilization-scorer}, {type: prefix-cache-scorer},
  {type: no-hit-lru-scorer}]
schedulingProfiles:
- name: default
  plugins: [{pluginRef: prefix-cache-scorer, weight: 3}, {pluginRef: queue-scorer, weight: 2},
    {pluginRef: kv-cache-utilization-scorer, weight: 2}, {pluginRef: no-hit-lru-scorer, weight: 2}]
",
    );
    let cold = [(0, 0, 0, 0, 0); 4];
    let mut picks: Vec<_> = (0..4).map(|_| place(&placer, &cold).endpoint).collect();
    let again: Vec<_> = (0..4).map(|_| place(&placer, &cold).endpoint).collect();
    assert_eq!(picks, again, "in the same turn");
    picks.sort_unstable();
    assert_eq!(picks, [Some(0), Some(1), Some(2), Some(3)], "each once");
    let warm = [(0, 0, 0, 0, 0), (0, 0, 0, 1600, 0), (0, 0, 0, 0, 0), (0, 0, 0, 0, 0)];
    assert_eq!(place(&placer, &warm).endpoint, Some(1));
}

#[test]
fn llm_ds_sticky_profile_leaves_the_warm_ones_once_they_are_full() {
    let placer = placer(
        "
plugins: [{type: prefix-cache-affinity-filter}, {type: token-load-scorer}]
schedulingProfiles:
- name: default
  plugins: [{pluginRef: prefix-cache-affinity-filter}, {pluginRef: token-load-scorer}]
",
    );
    for (states, expected) in [
        ([(0, 0, 0, 1600, 9000), (0, 0, 0, 1280, 8000), (0, 0, 0, 0, 0)], 1),
        ([(0, 0, 0, 1600, 290_000), (0, 0, 0, 0, 0), (0, 0, 0, 0, 10)], 1),
        ([(0, 0, 0, 1600, 280_000), (0, 0, 0, 0, 0), (0, 0, 0, 0, 10)], 0),
    ] {
        assert_eq!(place(&placer, &states).endpoint, Some(expected), "{states:?}");
    }
}

#[test]
fn llm_ds_prefill_and_decode_profile_picks_a_pair() {
    let apart = placer(
        "
plugins:
- {type: prefix-based-pd-decider, parameters: {nonCachedTokens: 512}}
- {type: disagg-profile-handler, parameters: {deciders: {prefill: prefix-based-pd-decider}}}
- {type: prefill-filter}
- {type: decode-filter}
- {type: prefix-cache-affinity-filter}
- {type: token-load-scorer}
- {type: active-request-scorer}
schedulingProfiles:
- {name: prefill, plugins: [{pluginRef: prefill-filter}, {pluginRef: prefix-cache-affinity-filter},
    {pluginRef: token-load-scorer}]}
- {name: decode, plugins: [{pluginRef: decode-filter}, {pluginRef: active-request-scorer}]}
",
    );
    let mut infos = infos(4);
    infos[0].role = Role::Prefill;
    infos[1].role = Role::Prefill;
    infos[2].role = Role::Decode;
    infos[3].role = Role::Decode;
    let pick = |matched_at_3: u32, active: [u32; 4], model: Digest| {
        let mut infos = infos.clone();
        infos[1].fingerprint.model = model;
        let states = [(0, 0, 0, 0, 5000), (0, 0, 0, 0, 100), (0, 0, 0, 0, 0), (0, 0, 0, 0, 0)];
        let candidates = candidates(&infos, &states).zip(active).enumerate();
        let candidates = candidates.map(|(at, (candidate, in_flight))| Candidate {
            in_flight,
            matched: if at == 3 { matched_at_3 } else { 0 },
            ..candidate
        });
        let query = Query { tokens: 1600, ..query("a") };
        let outcome = apart.place(&query, Scene::of(candidates));
        (outcome.endpoint, outcome.prefill)
    };
    let same = Digest::default();
    assert_eq!(pick(0, [0, 0, 5, 2], same), (Some(3), Some(1)), "the least loaded of each");
    assert_eq!(pick(1089, [0, 0, 5, 2], same), (Some(3), None), "too little is missing there");
    assert_eq!(pick(1088, [0, 0, 5, 2], same), (Some(3), Some(1)));
    let other = Digest::of(b"another model");
    assert_eq!(pick(0, [0, 0, 5, 2], other), (Some(3), Some(0)), "1 has another model");
}

#[test]
fn by_default_prefill_groups_help_where_others_would_wait() {
    let mut infos = infos(2);
    infos[0].role = Role::Prefill;
    infos[1].role = Role::Decode;
    let place = |running| {
        let states = [(0, 0, 0, 0, 0), (0, running, 0, 0, 0)];
        let scene = Scene::of(candidates(&infos, &states));
        let outcome = defaults::placer().place(&Query { tokens: 8000, ..query("a") }, scene);
        (outcome.endpoint, outcome.prefill)
    };
    assert_eq!(place(0), (Some(1), None));
    assert_eq!(place(16), (Some(1), Some(0)));
}

#[test]
fn who_is_to_begin_at_once_is_not_sent_to_a_full_endpoint_that_knows_the_prompt() {
    let infos = infos(3);
    let states = [(0, 8, 40, 1600, 0), (0, 7, 40, 0, 0), (1, 7, 40, 0, 0)];
    let place = |placer: &Placer, at_once, places: [bool; 3]| {
        let query = Query { tokens: 1600, at_once, ..query("a") };
        let candidates = candidates(&infos, &states).zip(places);
        let candidates: Vec<_> =
            candidates.map(|(candidate, has_place)| Candidate { has_place, ..candidate }).collect();
        placer.place(&query, Scene::of(candidates.into_iter()))
    };
    let dropped = |outcome: &Outcome| {
        let (profile, verdict) = &outcome.steps[0];
        let (name, _) = profile.filters.last().expect("every profile that answers has it");
        assert_eq!(&**name, "free-place-filter");
        *verdict.dropped.last().expect("as many as filters")
    };
    let default = defaults::placer();
    let some = [false, true, true];
    let outcome = place(&default, true, some);
    assert_eq!((outcome.endpoint, dropped(&outcome)), (Some(1), 1));
    let outcome = place(&default, false, some);
    assert_eq!((outcome.endpoint, dropped(&outcome)), (Some(0), 0), "it may wait there");
    let outcome = place(&default, true, [false; 3]);
    assert_eq!((outcome.endpoint, dropped(&outcome)), (Some(0), 0), "nobody has one");
    // What a profile says itself comes first.
    let sticky = placer(
        "
plugins: [{type: prefix-cache-affinity-filter}, {type: token-load-scorer}]
",
    );
    assert_eq!(place(&sticky, true, some).endpoint, Some(0));
}

#[test]
fn a_header_names_the_profile() {
    let placer = placer(
        "
plugins: [{type: header-profile-handler}, {type: queue-scorer}, {type: kv-cache-utilization-scorer}]
schedulingProfiles:
- {name: fast, plugins: [{pluginRef: queue-scorer}]}
- {name: decode, plugins: [{pluginRef: kv-cache-utilization-scorer}]}
",
    );
    let infos = infos(2);
    let states = [(0, 0, 50, 0, 0), (5, 0, 0, 0, 0)];
    let pick = |profile: Option<&str>| {
        let hints = Hints { profile: profile.map(str::to_owned), ..Hints::NONE };
        let query = Query { hints: &hints, ..query("a") };
        placer.place(&query, Scene::of(candidates(&infos, &states))).endpoint
    };
    assert_eq!(pick(Some("fast")), Some(0));
    assert_eq!(pick(None), Some(1), "decode is the default");
    assert_eq!(pick(Some("nobody's")), Some(1));
}

#[test]
fn a_header_can_name_the_prefill_side() {
    let placer = placer(
        "
plugins: [{type: header-profile-handler}, {type: prefill-filter, name: helpers},
  {type: decode-filter}, {type: queue-scorer}]
schedulingProfiles:
- {name: prefill, plugins: [{pluginRef: helpers}, {pluginRef: queue-scorer}]}
- {name: decode, plugins: [{pluginRef: decode-filter}, {pluginRef: queue-scorer}]}
",
    );
    let mut infos = infos(2);
    infos[0].role = Role::Prefill;
    infos[1].role = Role::Decode;
    let states = [(3, 0, 0, 0, 0), (0, 0, 0, 0, 0)];
    let pick = |profile: Option<&str>| {
        let hints = Hints { profile: profile.map(str::to_owned), ..Hints::NONE };
        let query = Query { hints: &hints, ..query("a") };
        placer.place(&query, Scene::of(candidates(&infos, &states))).endpoint
    };
    assert_eq!(pick(Some("prefill")), Some(0));
    assert_eq!(pick(None), Some(1));
}

#[test]
fn equals_are_shared_by_requests_and_the_same_request_goes_the_same_way() {
    let infos = infos(8);
    let states = [(0, 0, 0, 0, 0); 8];
    let pick = |n: u128| {
        let request = RequestId(uuid::Uuid::from_u128(n));
        let query = Query { request, ..query("a") };
        defaults::placer().place(&query, Scene::of(candidates(&infos, &states))).endpoint
    };
    let picks: std::collections::BTreeSet<_> = (0..100).map(pick).collect();
    assert_eq!(picks.len(), 8);
    assert_eq!(pick(7), pick(7));
}

/// One profile with every plug-in that can be in one.
fn everything() -> Profile {
    let placer = placer(
        "
plugins:
- {type: by-label, parameters: {label: gpu, validValues: [h100], allowsNoLabel: true}}
- {type: session-affinity-filter}
- {type: slo-headroom-tier-filter}
- {type: topology-affinity-filter}
- {type: prefix-cache-affinity-filter, parameters: {affinityThreshold: 0.5}}
- {type: utilization-filter, parameters: {conditions: [{metric: waiting-queue, maxValue: 10}],
    fallbackOnEmpty: true}}
- {type: endpoint-attribute-filter, parameters: {attribute: num_requests_running,
    fallbackOnEmpty: true,
    algorithm: {type: threshold, threshold: {operator: LessThan, value: 20}}}}
- {type: active-request-scorer, parameters: {idleThreshold: 2, maxBusyScore: 0.5}}
- {type: context-length-aware}
- {type: endpoint-attribute-scorer, parameters: {attributeKey: kv_cache_usage_perc,
    algorithm: {type: linear_lower_is_better}}}
- {type: header-label-affinity-scorer, parameters: {headerName: x-zone, labelKey: gpu}}
- {type: kv-cache-utilization-scorer}
- {type: latency-scorer}
- {type: load-aware-scorer}
- {type: lora-affinity-scorer}
- {type: no-hit-lru-scorer}
- {type: prefix-cache-scorer, parameters: {matchLengthWeight: 0.3}}
- {type: queue-scorer}
- {type: running-requests-size-scorer}
- {type: session-affinity-scorer, parameters: {strategy: session_id}}
- {type: token-load-scorer}
- {type: topology-affinity-scorer}
",
    );
    let Handler::Single(profile) = &placer.handler else { panic!("one profile") };
    Profile::clone(profile)
}

fn states() -> impl Strategy<Value = Vec<State>> {
    let extreme = || prop_oneof![0..20_u32, Just(u32::MAX)];
    let tokens = prop_oneof![0..100_000_u64, Just(u64::MAX)];
    let state = (extreme(), extreme(), extreme(), extreme(), tokens);
    proptest::collection::vec(state, 1..12)
}

proptest! {
    #[test]
    fn scores_are_from_0_to_1_and_finite_for_every_input(
        states in states(),
        tokens in prop_oneof![0..10_000_u32, Just(u32::MAX)],
        times in proptest::option::of(0.0..1e30_f32),
        slo in proptest::option::of(1..100_000_u64),
    ) {
        let profile = everything();
        let infos = infos(states.len());
        let mut scene = Scene::of(candidates(&infos, &states));
        if let Some(ttft) = times {
            let of = |row: usize| Predicted { ttft: ttft * row as f32, tpot: row as f32 };
            scene.predict((0..scene.len()).map(of).collect());
        }
        let ttft = slo.map(std::time::Duration::from_millis);
        let hints = Hints { ttft, ..Hints::NONE };
        let query = Query { tokens, hints: &hints, ..query("a") };
        for (name, scorer, _) in &profile.scorers {
            let mut scores = vec![0.0; scene.len()];
            scorer.score(&query, &scene, &mut scores);
            for score in scores {
                prop_assert!((0.0..=1.0 + 1e-6).contains(&score), "{name} says {score}");
            }
        }
    }

    #[test]
    fn a_filter_never_adds_and_somebody_is_picked_whenever_one_is_left(
        states in states(),
        request in any::<u128>(),
        labelled in proptest::collection::vec(0..3_u8, 12),
    ) {
        let profile = everything();
        let infos = infos(states.len());
        let label = |value: &str| BTreeMap::from([("gpu".to_owned(), value.to_owned())]);
        let labels = [BTreeMap::new(), label("h100"), label("a100")];
        let of = || {
            candidates(&infos, &states).zip(&labelled).map(|(candidate, at)| {
                Candidate { labels: &labels[*at as usize], ..candidate }
            })
        };
        let request = RequestId(uuid::Uuid::from_u128(request));
        let query = Query { request, ..query("a") };
        let scene = Scene::of(of());
        let mut mask = Mask::all(scene.len());
        for (_, filter) in &profile.filters {
            let before: Vec<usize> = mask.rows().collect();
            filter.filter(&query, &scene, &mut mask);
            prop_assert!(mask.rows().all(|row| before.contains(&row)));
            prop_assert_eq!(mask.rows().count(), mask.left());
        }
        // Only the label is a condition; everything else here is a wish.
        let can = (0..states.len()).filter(|row| labelled[*row] != 2).count();
        let placer = Placer {
            handler: Handler::Single(Arc::new(profile)),
            wants_predicted: false,
            tokens: false,
        };
        let picked = placer.place(&query, Scene::of(of())).endpoint;
        prop_assert_eq!(picked.is_some(), can > 0);
        prop_assert!(picked.is_none_or(|row| labelled[row] != 2));
    }
}
