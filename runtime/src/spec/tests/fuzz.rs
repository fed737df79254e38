//! Nothing that a file may hold brings the reader down, and what it takes stays the same.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::spec::{Kind, objects, objects::Object, resolve, service::ServiceSpec};

/// Names that mean something somewhere, so that random documents get past the first checks.
const NAMES: [&str; 72] = [
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    "name",
    "namespace",
    "labels",
    "annotations",
    "model",
    "uri",
    "lora",
    "adapters",
    "criticality",
    "replicas",
    "scaling",
    "minReplicas",
    "maxReplicas",
    "metrics",
    "type",
    "target",
    "value",
    "behavior",
    "scaleUp",
    "policies",
    "keda",
    "wva",
    "parallelism",
    "tensor",
    "pipeline",
    "data",
    "dataLocal",
    "template",
    "worker",
    "prefill",
    "containers",
    "args",
    "env",
    "resources",
    "limits",
    "nvidia.com/gpu",
    "affinity",
    "nodeAffinity",
    "requiredDuringSchedulingIgnoredDuringExecution",
    "nodeSelectorTerms",
    "matchExpressions",
    "key",
    "operator",
    "values",
    "tolerations",
    "effect",
    "rolloutStrategy",
    "maxSurge",
    "router",
    "route",
    "http",
    "refs",
    "rules",
    "matches",
    "path",
    "filters",
    "urlRewrite",
    "backendRefs",
    "weight",
    "scheduler",
    "pool",
    "selector",
    "targetPorts",
    "number",
    "leaderWorkerTemplate",
    "size",
    "baseRefs",
    "items",
];

/// Values that are nearly right somewhere.
const TEXTS: [&str; 22] = [
    "",
    "x",
    "4",
    "25%",
    "300%",
    "8Gi",
    "500ms",
    "hf://a/b",
    "{{ .Name }}",
    "{{ if .Name",
    "In",
    "Exists",
    "PathPrefix",
    "/a",
    "Percent",
    "QueueDepth",
    "URLRewrite",
    "ä",
    "Critical",
    "--max-num-seqs",
    "{{ or (.Spec.Model.Name }}",
    "LeaderExcluded",
];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_u32..20).prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        prop::sample::select(TEXTS.to_vec()).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(7, 96, 6, |inner| {
        let name = prop_oneof![
            6 => prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned),
            1 => ".{0,6}".prop_map(|name: String| name),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn document() -> impl Strategy<Value = Value> {
    (prop::sample::select(Kind::ALL.to_vec()), any::<bool>(), value()).prop_map(
        |(kind, newest, spec)| {
            let versions = kind.api_versions();
            let version = if newest { versions.last() } else { versions.first() };
            json!({
                "apiVersion": version,
                "kind": kind.name(),
                "metadata": {"name": "a"},
                "spec": spec,
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in "(?s).{0,200}") {
        let _ = objects::parse(&text);
    }

    #[test]
    fn any_value_is_read_or_refused(value in value()) {
        let _ = objects::parse(&value.to_string());
    }

    /// What is taken once is taken again, and means the same.
    #[test]
    fn any_specification_is_read_or_refused(document in document()) {
        if let Ok((object, _)) = Object::from_document(document) {
            let again = Object::from_document(object.document().clone());
            prop_assert_eq!(again.expect("it was right before").0, object);
        }
    }

    /// Whatever a service starts from, it becomes whole or is refused, and what is whole has no
    /// more to resolve.
    #[test]
    fn any_merge_is_whole_or_refused(base in value(), own in value()) {
        let config = json!({
            "apiVersion": "serving.kserve.io/v1alpha2",
            "kind": "LLMInferenceServiceConfig",
            "metadata": {"name": "base", "namespace": "kserve"},
            "spec": base,
        });
        let mut service = json!({
            "apiVersion": "serving.kserve.io/v1alpha2",
            "kind": "LLMInferenceService",
            "metadata": {"name": "a"},
            "spec": own,
        });
        if let Some(spec) = service["spec"].as_object_mut() {
            spec.insert("baseRefs".into(), json!([{"name": "base"}]));
        }
        let config = Object::from_document(config);
        let service = ServiceSpec::from_document(service);
        if let (Ok((Object::Config(config), _)), Ok((service, _))) = (config, service) {
            let lookup = |namespace: &str, name: &str| {
                (namespace == "kserve" && name == "base").then(|| config.clone())
            };
            if let Ok(whole) = resolve(&service, lookup) {
                let read = ServiceSpec::from_document(whole.spec.document.clone());
                prop_assert_eq!(read.expect("it is whole").0, whole.spec);
            }
        }
    }
}
