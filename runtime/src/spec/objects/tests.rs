//! Files of several documents: what each finding is called, and what is there twice.

use serde_json::json;

use super::*;

const POOL: &str = "
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: llama-3.1}
spec: {selector: {matchLabels: {app: x}}, targetPorts: [{number: 8000}]}
";

fn problems(text: &str) -> Vec<String> {
    match parse(text).expect_err("something is wrong") {
        SpecError::Invalid(findings) | SpecError::ConfigNotFound(findings) => {
            findings.iter().map(ToString::to_string).collect()
        }
        SpecError::Document(error) => panic!("{error}"),
    }
}

#[test]
fn every_problem_says_of_which_document_it_is() {
    let wrong = POOL.replace("number: 8000", "number: 70000");
    let text = format!("{POOL}---\n{wrong}---\nkind: Pod\n---\n[1]\n---\n{POOL}");
    assert_eq!(
        problems(&text),
        [
            "document 2: spec.targetPorts[0].number: must be at most 65535, got 70000",
            "document 2: spec.targetPorts: must have at least one port",
            "document 3: kind: must be LLMInferenceService, LLMInferenceServiceConfig, \
             LeaderWorkerSet, InferencePool, InferenceModel, InferenceObjective or HTTPRoute, got \
             Pod",
            "document 4: : must be an object with apiVersion, kind, metadata and spec",
            "document 5: metadata.name: default/llama-3.1 is declared by document 1 already",
        ]
    );
    assert_eq!(problems("# nothing"), ["file: holds no document"]);
    assert!(problems("a: 1")[0].starts_with("kind: is required: LLMInferenceService,"));
}

#[test]
fn lists_are_their_items() {
    let item = |name: &str| {
        let pool = serde_norway::from_str::<Value>(POOL).expect("YAML");
        let mut pool = pool;
        pool["metadata"]["name"] = json!(name);
        pool
    };
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [item("a"), item("b")]});
    let Objects { objects, .. } = parse(&list.to_string()).expect("two pools");
    let names: Vec<&str> = objects.iter().map(|object| object.metadata().name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let list = json!({"kind": "InferencePoolList", "items": [item("a"), item("A")]});
    let both = format!("{list}\n---\n{{\"kind\": \"List\"}}");
    assert_eq!(
        problems(&both),
        [
            "document 2: items: must be a list",
            "document 1 items[1]: metadata.name: must be 1 to 253 of a-z, 0-9, - and ., a letter \
             or digit at both ends of each part, got A",
        ]
    );
}

#[test]
fn what_the_store_cannot_take_is_refused() {
    let large = format!("{POOL}# {}\n", "x".repeat(600_000));
    assert!(parse(&large).is_ok(), "a comment is not stored");
    let large = POOL.replace("app: x", &format!("app: {}", "x".repeat(600_000)));
    let told = problems(&large).remove(0);
    assert!(told.starts_with("object: has 600") && told.contains("at most 524288"), "{told}");
}

#[test]
fn what_was_stored_is_read_again_to_the_same() {
    let Objects { objects, warnings } = parse(POOL).expect("a pool");
    assert_eq!(warnings, []);
    let stored = objects[0].document().clone();
    let (again, _) = Object::from_document(stored).expect("the same pool");
    assert_eq!(again, objects[0]);
    assert_eq!(again.kind(), Kind::InferencePool);
}
