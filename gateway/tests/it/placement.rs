//! What a client and an operator see of placement: explanations, and sessions.

use serde_json::json;
use troupe_gateway::PickerConfig;

use crate::support::{leader::says, stage, stage_with};

const PATH: &str = "/v1/completions";
const JSON: (&str, &str) = ("content-type", "application/json");

fn body() -> String {
    json!({"prompt": "x", "max_tokens": 8}).to_string()
}

#[tokio::test]
async fn a_request_is_explained_by_its_id() {
    let stage = stage_with(vec![says("fine"), says("fine")], |config| config.picker = None).await;
    let headers = [JSON, ("x-request-id", "mine")];
    let answer = stage.send("POST", PATH, &headers, &body()).await.ok();
    let id = answer["id"].as_str().expect("it has one").to_owned();
    for request in ["mine", &id] {
        let told = stage.get(&format!("/debug/placement/{request}")).await.ok();
        let decision = &told["decisions"][0];
        assert_eq!((&decision["request"], &decision["candidates"]), (&json!("mine"), &json!(2)));
        let profile = &decision["profiles"][0];
        let scorers: Vec<_> = profile["scorers"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| &one["scorer"])
            .collect();
        assert_eq!(scorers, ["queue-scorer", "kv-cache-utilization-scorer", "prefix-cache-scorer"]);
        let best = profile["best"].as_array().expect("a list");
        assert_eq!(best.len(), 2);
        let picked = best.iter().find(|best| best["picked"] == true).expect("one is");
        assert_eq!(picked["endpoint"], decision["endpoint"]);
        assert!(decision["actual"]["firstTokenSeconds"].as_f64().is_some_and(|time| time > 0.0));
        assert!(decision["actual"]["outputTokens"].as_u64().is_some_and(|tokens| tokens > 0));
    }
    let (status, _, message, _) = stage.get("/debug/placement/other").await.error();
    assert_eq!(status, 404);
    assert!(message.starts_with("Nothing is known of the request `other`"), "{message}");
}

#[tokio::test]
async fn explanations_are_behind_the_key() {
    let keyed = stage_with(vec![says("fine")], |config| config.api_keys = vec!["k".into()]).await;
    assert_eq!(keyed.status("/debug/placement/any").await, 401);
    let open = stage(says("fine")).await;
    assert_eq!(open.status("/debug/placement/any").await, 404);
}

#[tokio::test]
async fn a_session_comes_back_with_its_token() {
    let text = "
apiVersion: llm-d.ai/v1
kind: EndpointPickerConfig
plugins: [{type: session-affinity-scorer}, {type: max-score-picker}]
schedulingProfiles:
- name: default
  plugins: [{pluginRef: session-affinity-scorer}, {pluginRef: max-score-picker}]
";
    let picker = PickerConfig::read(text).expect("it is right");
    let scripts = (0..4).map(|index| says(&index.to_string())).collect();
    let stage = stage_with(scripts, |config| config.picker = Some(picker)).await;
    let first = stage.send("POST", PATH, &[JSON], &body()).await;
    let token = first.header("x-session-token").to_owned();
    let said = first.ok()["choices"][0]["text"].clone();
    for _ in 0..8 {
        let headers = [JSON, ("x-session-token", token.as_str())];
        let reply = stage.send("POST", PATH, &headers, &body()).await;
        assert_eq!(reply.header("x-session-token"), token);
        assert_eq!(reply.ok()["choices"][0]["text"], said);
    }
    let nonsense = [JSON, ("x-session-token", "bm9ib2R5")];
    assert_eq!(stage.send("POST", PATH, &nonsense, &body()).await.status, 200);
}
