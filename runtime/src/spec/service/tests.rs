//! Services from documents: what is read, what is refused, and where it says so.

use super::*;

const FULL: &str = r#"
apiVersion: serving.kserve.io/v1alpha1
kind: LLMInferenceService
metadata:
  name: chat
  namespace: prod
  generation: 7
  labels: {team: a, tier: 1}
  annotations: {note: x}
spec:
  model:
    uri: hf://org/model
    name: org/model
    criticality: Critical
    lora:
      maxRank: 16
      adapters: [{name: sql, uri: "hf://org/sql"}]
  replicas: 2
  parallelism: {tensor: 2, pipeline: 2, expert: true}
  labels: {role: decode}
  rolloutStrategy: {maxUnavailable: 25%, maxSurge: 1}
  template:
    tolerations: []
    containers:
      - name: sidecar
        args: [--not-ours]
      - name: main
        image: anything
        args: [--max-model-len, 8192, --block-size=32, --surprise]
        resources: {limits: {cpu: 4, memory: 8Gi}}
  worker: {containers: [{name: main}]}
  prefill:
    replicas: 3
    parallelism: {tensor: 4}
  router: {scheduler: {}, route: {}, gateway: {}}
  baseRefs: [{name: base}, {name: fast}]
  storageInitializer: {enabled: false}
  novelty: {a: 1}
status: {url: x}
"#;

fn problems(text: &str) -> Vec<String> {
    match Services::parse(text).expect_err("something is wrong") {
        SpecError::Invalid(findings) | SpecError::ConfigNotFound(findings) => {
            findings.iter().map(ToString::to_string).collect()
        }
        SpecError::Document(error) => panic!("{error}"),
    }
}

#[test]
fn a_whole_service_is_read() {
    let Services { services, warnings } = Services::parse(FULL).expect("it is right");
    let [service] = services.as_slice() else { panic!("one document") };
    assert_eq!(service.api_version, ApiVersion::V1Alpha1);
    let Metadata { name, namespace, generation, labels, annotations, .. } = &service.metadata;
    assert_eq!((name.as_str(), namespace.as_str(), *generation), ("chat", "prod", 7));
    assert_eq!(labels["tier"], "1");
    assert_eq!(annotations["note"], "x");
    assert_eq!(service.model_name(), "org/model");
    assert_eq!(service.model.criticality, Some(Criticality::Critical));
    let lora = service.model.lora.as_ref().expect("adapters are given");
    assert_eq!((lora.max_rank, lora.adapters[0].name.as_deref()), (Some(16), Some("sql")));
    assert_eq!(service.workload.replicas, 2);
    let Parallelism { tensor, pipeline, data, data_local, expert } = service.workload.parallelism;
    assert_eq!((tensor, pipeline, data, data_local, expert), (2, 2, 1, None, true));
    let template = service.workload.template.as_ref().expect("a template is given");
    assert_eq!(template.flags.max_model_len, Some(8192));
    assert_eq!(template.flags.block_size, Some(32));
    assert_eq!(template.limits["cpu"], "4");
    assert_eq!(template.document["containers"][0]["name"], "sidecar");
    assert!(service.workload.worker.is_some());
    let prefill = service.prefill.as_ref().expect("a prefill side is given");
    assert_eq!((prefill.replicas, prefill.parallelism.tensor), (3, 4));
    assert_eq!(service.base_refs, ["base", "fast"]);
    let router = service.router.as_ref().expect("a router is given");
    assert_eq!(router.scheduler, Some(Scheduler::default()));
    let rollout = service.workload.group_policy(None).rollout;
    assert_eq!(rollout.bounds(8), (2, 1));
    assert_eq!(service.pool_labels()["role"], "decode");
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "spec.template.containers[1].args: `--surprise` is not known and has no effect",
            "spec.template.containers[1].image: has no effect outside Kubernetes",
            "spec.template.containers[0]: has no effect: only the engine's container is run",
            "spec.storageInitializer: has no effect: each host finds the model by its URI",
            "spec.novelty: is not known and has no effect",
        ]
    );
}

#[test]
fn a_stored_document_is_read_again_to_the_same() {
    let service = Services::parse(FULL).expect("it is right").services.remove(0);
    let text = serde_json::to_string(&service.document).expect("it is JSON");
    let stored = serde_json::from_str(&text).expect("it is JSON");
    let (again, _) = ServiceSpec::from_document(stored).expect("it is right");
    assert_eq!(again, service);
}

#[test]
fn json_and_several_documents_are_read() {
    let json = r#"{"apiVersion": "serving.kserve.io/v1alpha2", "kind": "LLMInferenceService",
        "metadata": {"name": "NAME"}, "spec": {"model": {"uri": "/models/x"}}}"#;
    let text = format!("{}\n---\n{}", json.replace("NAME", "a"), json.replace("NAME", "b"));
    let Services { services, warnings } = Services::parse(&text).expect("both are right");
    assert_eq!(warnings, []);
    let names: Vec<_> = services.iter().map(ServiceSpec::model_name).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(services[0].metadata.namespace, "default");
    assert_eq!(services[0].workload.replicas, 1);
}

#[test]
fn every_problem_is_told_at_once_with_its_path() {
    let text = "
apiVersion: serving.kserve.io/v2
kind: LLMInferenceService
metadata: {name: Not_A_Name}
spec:
  model: {uri: 'ftp://x', criticality: High, lora: {adapters: [{name: a}]}}
  replicas: -1
  parallelism: {tensor: 0, pipeline: 2, data: 3, dataLocal: 2, expert: 1}
  template: {containers: [{args: [--block-size, x, [1]]}]}
  prefill: {replicas: 1, scaling: {maxReplicas: 2}}
";
    assert_eq!(
        problems(text),
        [
            "apiVersion: must be serving.kserve.io/v1alpha1 or serving.kserve.io/v1alpha2, \
             got serving.kserve.io/v2",
            "metadata.name: must be 1 to 63 of a-z, 0-9 and -, a letter or digit at both ends, \
             got Not_A_Name",
            "spec.model.uri: has the scheme ftp, known are hf, s3, gs, http, https, file, oci, pvc",
            "spec.model.criticality: must be Critical, Standard or Sheddable, got High",
            "spec.model.lora.adapters[0].uri: is required",
            "spec.replicas: must be at least 0, got -1",
            "spec.template.containers[0].args[2]: must be text",
            "spec.template.containers[0].args: `--block-size` must be a whole number of at least \
             1, got x",
            "spec.parallelism.tensor: must be at least 1, got 0",
            "spec.parallelism.expert: must be true or false, is a number",
            "spec.parallelism.pipeline: must not be given together with data",
            "spec.parallelism.dataLocal: must divide data, got 2 and data 3",
            "spec.worker: is required when data (3) is more than dataLocal (2)",
            "spec.prefill.replicas: must not be given together with scaling",
        ]
    );
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(problems(""), ["file: holds no document"]);
    assert_eq!(
        problems("a: 1"),
        [
            "kind: is required",
            "apiVersion: is required",
            "metadata: is required",
            "spec: is required",
        ]
    );
    assert_eq!(problems("[1]"), [": must be an object, is a list"]);
    let other = "apiVersion: v1\nkind: Pod\nspec: {x: 1}\n---\n{}";
    let problems = problems(other);
    // Of another kind nothing else is known: its version and fields are not held against it.
    assert_eq!(problems[0], "document 1: kind: must be LLMInferenceService, got Pod");
    assert_eq!(problems[1], "document 2: kind: is required");
    assert_eq!(problems[2], "document 2: apiVersion: is required");
}
