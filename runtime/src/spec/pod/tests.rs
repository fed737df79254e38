//! Pods: what is honored, what is told, and which nodes are refused.

use super::*;
use crate::spec::{finding::Findings, reader::Fields};

fn read(text: &str) -> (PodSpec, Vec<String>, Vec<String>) {
    let document = crate::spec::document::read(text).expect("YAML").remove(0);
    let findings = Findings::default();
    let pod = pod(Fields::of(&document, "pod".into(), &findings).expect("an object"));
    let (problems, warnings) = findings.into_parts();
    let texts = |all: Vec<crate::spec::Finding>| all.iter().map(ToString::to_string).collect();
    (pod, texts(problems), texts(warnings))
}

fn labels(texts: &[(&str, &str)]) -> BTreeMap<String, String> {
    texts.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn the_engine_is_main_and_the_rest_is_told() {
    let (pod, problems, warnings) = read(
        "
initContainers: [{name: fetch, image: x}]
containers:
  - {name: sidecar, args: [--not-ours]}
  - name: main
    image: vllm
    command: [vllm, serve, /mnt/models, --block-size, '16']
    args: [-tp, 2, --max-num-seqs=7]
    env:
      - {name: VLLM_ADDITIONAL_ARGS, value: --seed 3}
      - {name: A, value: 1}
      - {name: B, valueFrom: {}}
    resources: {limits: {nvidia.com/gpu: 2, memory: 8Gi}, requests: {cpu: 500m}}
    readinessProbe: {}
    ports: [{containerPort: 8000}]
terminationGracePeriodSeconds: 90
volumes: []
serviceAccountName: x
",
    );
    assert_eq!(problems, [""; 0]);
    assert_eq!(pod.flags.block_size, Some(16));
    assert_eq!((pod.flags.seed, pod.flags.max_num_seqs), (Some(3), Some(7)));
    assert_eq!(pod.parallel.tensor, Some(2));
    assert_eq!(pod.devices, Some(Devices { resource: "nvidia.com/gpu".into(), count: 2 }));
    assert_eq!(pod.memory, Some(8 << 30));
    assert_eq!(pod.env["A"], "1");
    assert_eq!(pod.grace, Some(Duration::from_secs(90)));
    assert_eq!(
        warnings,
        [
            "pod.containers[1].env[2].valueFrom: has no effect outside Kubernetes",
            "pod.containers[1]: image, ports and readinessProbe have no effect outside Kubernetes",
            "pod.containers[0]: has no effect: only the engine's container is run",
            "pod.initContainers[0]: has no effect: only the engine's container is run",
            "pod: serviceAccountName and volumes have no effect outside Kubernetes",
        ]
    );
}

#[test]
fn nodes_are_refused_with_a_reason() {
    let (pod, problems, _) = read(
        "
nodeSelector: {pool: gpu}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchExpressions:
            - {key: zone, operator: In, values: [a, b]}
            - {key: old, operator: DoesNotExist}
        - matchExpressions:
            - {key: spare, operator: Exists}
            - {key: zone, operator: NotIn, values: [c]}
tolerations: [{key: team, value: x, effect: NoSchedule}, {key: gpu, operator: Exists}]
",
    );
    assert_eq!(problems, [""; 0]);
    let refusal = |texts: &[(&str, &str)]| pod.refusal("n", &labels(texts), &[]);
    assert_eq!(refusal(&[("zone", "a")]).as_deref(), Some("does not have the label pool=gpu"));
    assert_eq!(refusal(&[("pool", "gpu"), ("zone", "a")]), None);
    assert_eq!(refusal(&[("pool", "gpu"), ("spare", "")]), None);
    assert_eq!(
        refusal(&[("pool", "gpu"), ("zone", "a"), ("old", "")]).as_deref(),
        Some(
            "does not meet zone in (a, b) and old does not exist or spare exists and zone not in \
             (c)"
        )
    );
    let fine = labels(&[("pool", "gpu"), ("zone", "b")]);
    let taint =
        |key: &str, value: &str, effect| Taint { key: key.into(), value: value.into(), effect };
    let refusal = |taint| pod.refusal("n", &fine, &[taint]);
    assert_eq!(refusal(taint("team", "x", Effect::NoSchedule)), None);
    assert_eq!(refusal(taint("gpu", "any", Effect::NoExecute)), None);
    assert_eq!(refusal(taint("y", "", Effect::PreferNoSchedule)), None);
    let told = refusal(taint("team", "y", Effect::NoSchedule));
    assert_eq!(told.as_deref(), Some("has the taint team=y:NoSchedule"));
}

#[test]
fn what_a_pod_cannot_be_is_told() {
    let (_, problems, _) = read(
        "
containers: [{name: main, env: [{value: x}], resources: {limits: {memory: much}}}]
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchExpressions:
            - {operator: In, key: a}
            - {operator: Exists, key: a, values: [b]}
            - {operator: Gt, key: a, values: [1]}
            - {key: a}
tolerations: [{operator: Equal}, {operator: Exists, value: x}, {key: a, effect: Never}]
topologySpreadConstraints: [{maxSkew: 0, topologyKey: rack, whenUnsatisfiable: Perhaps}]
",
    );
    let terms = "pod.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.\
                 nodeSelectorTerms[0].matchExpressions";
    assert_eq!(
        problems,
        [
            "pod.containers[0].env[0].name: is required".to_owned(),
            "pod.containers[0].resources.limits.memory: must be an amount as 4, 500m or 8Gi, got \
             much"
                .to_owned(),
            format!("{terms}[0].values: must not be empty with In and NotIn"),
            format!("{terms}[1].values: must be empty with Exists and DoesNotExist"),
            format!("{terms}[2].operator: must be In, NotIn, Exists or DoesNotExist, got Gt"),
            format!("{terms}[3].operator: is required"),
            "pod.tolerations[0].operator: must be Exists when key is empty".to_owned(),
            "pod.tolerations[1].value: must be empty when operator is Exists".to_owned(),
            "pod.tolerations[2].effect: must be NoSchedule, PreferNoSchedule or NoExecute, got \
             Never"
                .to_owned(),
            "pod.topologySpreadConstraints[0].maxSkew: must be at least 1, got 0".to_owned(),
            "pod.topologySpreadConstraints[0].whenUnsatisfiable: must be DoNotSchedule or \
             ScheduleAnyway, got Perhaps"
                .to_owned(),
        ]
    );
}
