//! Configurations that load, and what is said of those that do not.

use super::*;
use crate::placement::handler::{Decider, Handler, Order};

const HEAD: &str = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n";

fn read(body: &str) -> Result<PickerConfig, PickerError> {
    PickerConfig::read(&format!("{HEAD}{body}"))
}

#[test]
fn llm_ds_baseline_loads() {
    let config = read(
        "
plugins:
- type: approx-prefix-cache-producer
  parameters: {blockSize: 64}
- type: queue-scorer
- type: kv-cache-utilization-scorer
- name: warm
  type: prefix-cache-scorer
  parameters: {matchLengthWeight: 0.5, matchLengthScaleTokens: 16384}
- type: no-hit-lru-scorer
- type: max-score-picker
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: warm, weight: 3}
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: no-hit-lru-scorer, weight: 2}
  - {pluginRef: max-score-picker}
",
    );
    let config = config.expect("it is right");
    let Handler::Single(profile) = &config.placer.handler else { panic!("one profile") };
    let weights: Vec<_> =
        profile.scorers.iter().map(|(name, _, weight)| (&**name, *weight)).collect();
    let expected = [
        ("warm", 3.0),
        ("queue-scorer", 2.0),
        ("kv-cache-utilization-scorer", 2.0),
        ("no-hit-lru-scorer", 2.0),
    ];
    assert_eq!(weights, expected);
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
}

#[test]
fn prefill_and_decode_apart_load_with_each_decider() {
    let of = |parameters: &str, decider: &str| {
        let body = format!(
            "
plugins:
{decider}
- type: disagg-profile-handler
  parameters: {parameters}
- type: prefill-filter
- type: decode-filter
- type: token-load-scorer
schedulingProfiles:
- name: prefill
  plugins: [{{pluginRef: prefill-filter}}, {{pluginRef: token-load-scorer}}]
- name: decode
  plugins: [{{pluginRef: decode-filter}}, {{pluginRef: token-load-scorer}}]
"
        );
        let config = read(&body).expect("it is right");
        let Handler::Disagg { decider, order, both, .. } = &config.placer.handler else {
            panic!("two profiles")
        };
        assert!(both, "prefill-filter lets those that answer help too");
        (*decider, *order)
    };
    let threshold = "- {type: prefix-based-pd-decider, parameters: {nonCachedTokens: 512}}";
    let named = "{deciders: {prefill: prefix-based-pd-decider}}";
    let (decider, order) = of(named, threshold);
    assert!(matches!(decider, Decider::Threshold { uncached: 512, prompt: 0 }), "{decider:?}");
    assert_eq!(order, Order::DecodeFirst);
    assert!(matches!(of(named, "- type: prefix-based-pd-decider").0, Decider::Cost(_)));
    let never = "- {type: prefix-based-pd-decider, parameters: {nonCachedTokens: 0}}";
    assert!(matches!(of(named, never).0, Decider::Never));
    let (decider, order) = of("{order: prefill-first}", "- type: always-disagg-pd-decider");
    assert!(matches!(decider, Decider::Cost(_)), "nobody named another: {decider:?}");
    assert_eq!(order, Order::PrefillFirst);
}

#[test]
fn what_is_not_there_is_refused_by_name_and_with_what_is() {
    for (body, expected) in [
        ("plugins: [{type: fast-scorer}]", "plugins[0].type: there is no fast-scorer; there are "),
        (
            "plugins: [{type: load-aware-scorer, parameters: {limit: 3}}]",
            "plugins[0].parameters.limit: is not known; there are threshold",
        ),
        (
            "plugins: [{type: queue-scorer, parameters: {a: 1}}]",
            "plugins[0].parameters.a: is not known; there are none",
        ),
        (
            "plugins: [{type: load-aware-scorer, parameters: {threshold: 0}}]",
            "plugins[0].parameters.threshold: must be a whole number, at least 1, is 0",
        ),
        (
            "plugins: [{type: queue-scorer}]\nschedulingProfiles: [{name: a, plugins: \
             [{pluginRef: queue-scorer, weight: -1}]}]",
            "schedulingProfiles[0].plugins[0].weight: must be a number, from 0 to 1000000, is -1",
        ),
        (
            "plugins: [{type: queue-scorer}]\nschedulingProfiles: [{name: a, plugins: \
             [{pluginRef: quue-scorer}]}]",
            "schedulingProfiles[0].plugins[0].pluginRef: no plugin is called quue-scorer; there \
             are queue-scorer",
        ),
        (
            "plugins: [{type: random-picker}]\nschedulingProfiles: [{name: a, plugins: \
             [{pluginRef: random-picker, weight: 2}]}]",
            "schedulingProfiles[0].plugins[0].weight: random-picker is no scorer, and has none",
        ),
        (
            "plugins: [{type: disagg-profile-handler, parameters: {deciders: {prefill: x}}}]\n\
             schedulingProfiles: [{name: decode}, {name: prefill}]",
            "deciders.prefill: no decider is called x, and none is declared",
        ),
        (
            "plugins: [{type: disagg-profile-handler}]\nschedulingProfiles: [{name: decode}]",
            "schedulingProfiles: no profile is called prefill; there are decode",
        ),
        (
            "schedulingProfiles: [{name: a}, {name: b}]",
            "plugins: must have a profile handler where there are several profiles: \
             disagg-profile-handler or header-profile-handler",
        ),
        ("pluggins: []", "pluggins: is not known; there are "),
        (
            "plugins: [{type: queue-scorer}, {type: queue-scorer}]",
            "plugins[1].name: is there twice: queue-scorer",
        ),
    ] {
        let PickerError(problems) = read(body).expect_err(body);
        assert!(problems.iter().any(|problem| problem.starts_with(expected)), "{problems:#?}");
    }
    let wrong = PickerConfig::read("apiVersion: v9\nkind: Pod").expect_err("neither is right");
    assert_eq!(wrong.0.len(), 2, "{wrong}");
    assert!(PickerConfig::read("[]").is_err() && PickerConfig::read("").is_err());
}

#[test]
fn without_profiles_all_plugins_are_one_and_without_plugins_it_is_the_default() {
    let of = |body: &str| {
        let config = read(body).expect("it is right");
        let Handler::Single(profile) = &config.placer.handler else { panic!("one profile") };
        profile.scorers.iter().map(|(name, ..)| name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(of("plugins: [{type: token-load-scorer}]"), ["token-load-scorer"]);
    assert_eq!(of("plugins: [{type: random-picker}]").len(), 3);
    assert_eq!(of("").len(), 3);
}
