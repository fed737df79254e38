//! Where configurations are found, and what they may not do. What comes of merging is told by the
//! scripts, `spec/scripts/*.txt`.

use serde_json::json;

use super::*;

fn service(base_refs: &[&str]) -> ServiceSpec {
    let refs: Vec<Value> = base_refs.iter().map(|name| json!({ "name": name })).collect();
    let document = json!({
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": {"name": "chat", "namespace": "prod"},
        "spec": {"model": {"uri": "hf://org/model"}, "baseRefs": refs},
    });
    ServiceSpec::from_document(document).expect("a service").0
}

fn config(namespace: &str, name: &str, spec: Value) -> ServiceConfig {
    let document = json!({
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceServiceConfig",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    });
    ServiceConfig::from_document(document).expect("a configuration").0
}

fn resolved(base_refs: &[&str], configs: &[ServiceConfig]) -> Result<Resolved, String> {
    let lookup = |namespace: &str, name: &str| {
        let same = |config: &&ServiceConfig| {
            config.metadata.namespace == namespace && config.metadata.name == name
        };
        configs.iter().find(same).cloned()
    };
    resolve(&service(base_refs), lookup).map_err(|error| error.to_string())
}

fn applied(resolved: &Resolved) -> Vec<String> {
    let name = |config: &AppliedConfig| {
        format!("{:?} {}/{}", config.source, config.namespace, config.name)
    };
    resolved.applied.iter().map(name).collect()
}

#[test]
fn the_own_namespace_comes_first_and_what_is_built_in_last() {
    let configs = [
        config("prod", "a", json!({"replicas": 2})),
        config("kserve", "a", json!({"replicas": 3})),
        config("kserve", "b", json!({"labels": {"x": "y"}})),
        config("elsewhere", "c", json!({})),
    ];
    let whole = resolved(&["a", "b"], &configs).expect("both are there");
    assert_eq!(whole.spec.workload.replicas, 2);
    assert_eq!(
        applied(&whole),
        ["Preset kserve/kserve-config-llm-template", "UserRef prod/a", "UserRef kserve/b"]
    );
    let missing = resolved(&["a", "c", "d"], &configs).expect_err("two are missing");
    assert_eq!(
        missing,
        "spec.baseRefs[1]: there is no LLMInferenceServiceConfig c in namespaces prod and kserve\n\
         spec.baseRefs[2]: there is no LLMInferenceServiceConfig d in namespaces prod and kserve"
    );
    let replaced = [config("kserve", "kserve-config-llm-template", json!({"replicas": 7}))];
    assert_eq!(resolved(&[], &replaced).expect("a preset").spec.workload.replicas, 7);
}

#[test]
fn configurations_may_start_from_others_but_not_from_themselves() {
    let chain = [
        config("prod", "a", json!({"baseRefs": [{"name": "b"}], "replicas": 2})),
        config("prod", "b", json!({"replicas": 3, "parallelism": {"tensor": 2}})),
        config("prod", "x", json!({"baseRefs": [{"name": "y"}]})),
        config("prod", "y", json!({"baseRefs": [{"name": "x"}]})),
        config("prod", "me", json!({"baseRefs": [{"name": "me"}]})),
    ];
    let whole = resolved(&["a"], &chain).expect("a chain");
    assert_eq!((whole.spec.workload.replicas, whole.spec.workload.parallelism.tensor), (2, 2));
    assert_eq!(applied(&whole)[1..], ["UserRef prod/b", "UserRef prod/a"]);
    let circle = resolved(&["x", "me"], &chain).expect_err("two circles");
    assert_eq!(
        circle,
        "spec.baseRefs, through x and y: x starts from itself: x > y > x\n\
         spec.baseRefs, through me: me starts from itself: me > me"
    );
}

#[test]
fn many_paths_to_one_configuration_are_walked_once() {
    let refs =
        |at: usize| json!([{"name": format!("c{}", at + 1)}, {"name": format!("d{}", at + 1)}]);
    let mut configs = Vec::new();
    for at in 0..40 {
        configs.push(config("prod", &format!("c{at}"), json!({"baseRefs": refs(at)})));
        configs.push(config("prod", &format!("d{at}"), json!({"baseRefs": refs(at)})));
    }
    configs.push(config("prod", "c40", json!({"replicas": 4})));
    configs.push(config("prod", "d40", json!({})));
    let whole = resolved(&["c0"], &configs).expect("2^40 paths");
    assert_eq!((whole.applied.len(), whole.spec.workload.replicas), (82, 4));
}

#[test]
fn what_contradicts_itself_only_when_merged_is_found() {
    let configs = [
        config("prod", "pipeline", json!({"parallelism": {"pipeline": 2}})),
        config("prod", "data", json!({"parallelism": {"data": 4, "dataLocal": 4}})),
    ];
    let problems = resolved(&["pipeline", "data"], &configs).expect_err("both");
    assert_eq!(problems, "spec.parallelism.pipeline: must not be given together with data");
}
