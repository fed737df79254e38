//! Paths that lead to services, shares between them, and names that stand for models.

use serde_json::{Value, json};
use troupe_runtime::spec::Kind;

use crate::support::{MODEL, Stage, leader::says, stage_with};

/// Two services that serve one model, each with a leader that says who it is.
async fn two_services() -> Stage {
    let mut stage = stage_with(vec![], |_| {}).await;
    for service in ["stable", "canary"] {
        let leader = stage.leader_of(service, says(service));
        stage.publish(&leader).await;
        stage.leaders.push(leader);
        let weight = if service == "stable" { 3 } else { 1 };
        let spec = json!({
            "model": {"uri": "file:///tiny", "name": MODEL},
            "router": {"route": {"group": "chat", "weight": weight}},
        });
        stage.declare(Kind::LlmInferenceService, service, spec).await;
    }
    stage.until(|metrics| metrics.matches("vllm:num_requests_running{").count() == 2).await;
    until_routed(&stage, "/default/canary/v1/models").await;
    stage
}

/// Waits until the gateway knows a path.
async fn until_routed(stage: &Stage, path: &str) {
    let known = async {
        while stage.get(path).await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, known).await.expect("it is known in time");
}

async fn says_at(stage: &Stage, path: &str, model: &str, id: &str) -> Result<String, u16> {
    let body: Value = json!({"model": model, "prompt": "x", "max_tokens": 20});
    let headers = [("content-type", "application/json"), ("x-request-id", id)];
    let reply = stage.send("POST", path, &headers, &body.to_string()).await;
    if reply.status != 200 {
        return Err(reply.status);
    }
    Ok(reply.ok()["choices"][0]["text"].as_str().expect("a text").to_owned())
}

#[tokio::test]
async fn every_service_answers_under_its_own_path_and_a_group_by_shares() {
    let stage = two_services().await;
    for service in ["stable", "canary"] {
        let path = format!("/default/{service}/v1/completions");
        for id in 0..8 {
            let said = says_at(&stage, &path, MODEL, &id.to_string()).await;
            assert_eq!(said.as_deref(), Ok(service));
        }
        // What is served there, and nothing else.
        let path = format!("/default/{service}/v1/completions");
        assert_eq!(says_at(&stage, &path, "unknown", "1").await, Err(404));
    }
    let mut stable = 0;
    for id in 0..80 {
        let id = format!("request-{id}");
        let said = says_at(&stage, "/default/chat/v1/completions", MODEL, &id).await;
        let again = says_at(&stage, "/default/chat/v1/completions", MODEL, &id).await;
        assert_eq!(said, again, "a request that is sent again goes the same way");
        stable += u32::from(said.as_deref() == Ok("stable"));
    }
    assert!((45..=75).contains(&stable), "three of four, got {stable} of 80");
    assert_eq!(stage.get("/default/nobody/v1/models").await.status, 404);
}

#[tokio::test]
async fn a_route_leads_where_it_says_or_nowhere() {
    let stage = two_services().await;
    let rule = |path: &str, service: &str| {
        json!({
            "matches": [{"path": {"type": "PathPrefix", "value": path}}],
            "filters": [{"type": "URLRewrite", "urlRewrite": {
                "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v1"},
            }}],
            "backendRefs": [
                {"group": "serving.kserve.io", "kind": "LLMInferenceService", "name": service},
            ],
        })
    };
    let rules = [rule("/new", "canary"), rule("/lost", "nobody")];
    let spec = json!({"parentRefs": [{"name": "gateway"}], "rules": rules});
    stage.declare(Kind::HttpRoute, "paths", spec).await;
    until_routed(&stage, "/new/models").await;
    let said = says_at(&stage, "/new/completions", MODEL, "1").await;
    assert_eq!(said.as_deref(), Ok("canary"));
    let (status, _, message, _) = stage.get("/lost/models").await.error();
    assert_eq!(status, 503);
    assert!(message.contains("/lost/models") && message.contains("no service"), "{message}");
}

#[tokio::test]
async fn a_name_stands_for_the_models_that_are_declared_behind_it() {
    let stage = two_services().await;
    let model = |targets: Value| {
        let pool = json!({"name": "p"});
        json!({"modelName": "alias", "poolRef": pool, "targetModels": targets})
    };
    assert_eq!(says_at(&stage, "/v1/completions", "alias", "1").await, Err(404));
    let spec = model(json!([{"name": MODEL, "weight": 1}]));
    stage.declare(Kind::InferenceModel, "alias", spec).await;
    let known = async {
        while says_at(&stage, "/v1/completions", "alias", "1").await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, known).await.expect("it is known in time");
    let spec = model(json!([{"name": "gone", "weight": 1}]));
    stage.declare(Kind::InferenceModel, "alias", spec).await;
    let lost = async {
        while says_at(&stage, "/v1/completions", "alias", "1").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, lost).await.expect("it is known in time");
}
