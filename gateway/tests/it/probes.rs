//! What probes and scrapers are told, and the tokenizer by itself.

use serde_json::{Value, json};
use troupe_runtime::{
    discovery::{Op, Registry, Txn},
    wire::status::Load,
};

use crate::support::{MAX_MODEL_LEN, MODEL, leader::says, stage, stage_with};

#[tokio::test]
async fn health_follows_the_endpoints() {
    let none = stage_with(vec![], |_| {}).await;
    assert_eq!(none.get("/health").await.status, 503);
    let reply = none.post("/v1/completions", json!({"prompt": "x"})).await;
    assert_eq!(reply.error().0, 503);

    let mut stage = stage(says("ok")).await;
    let reply = stage.get("/health").await;
    assert_eq!((reply.status, reply.text.as_str()), (200, ""));
    assert_eq!(stage.get("/ping").await.status, 200);
    assert_eq!(stage.send("POST", "/ping", &[], "").await.status, 200);

    stage.leaders[0].crash().await;
    stage.until(|metrics| !metrics.contains("vllm:num_requests_running{")).await;
    assert_eq!(stage.get("/health").await.status, 503);
    let reply = stage.post("/v1/completions", json!({"prompt": "x", "model": MODEL})).await;
    assert_eq!(reply.error().0, 503, "the model exists, nobody is there");
    let reply = stage.post("/v1/completions", json!({"prompt": "x", "model": "y"})).await;
    assert_eq!(reply.error().0, 404);
}

#[tokio::test]
async fn an_endpoint_that_leaves_the_registry_is_left() {
    let stage = stage(says("ok")).await;
    let endpoint = &stage.leaders[0].info.endpoint;
    let key = stage.keys.endpoint(&endpoint.group, endpoint.epoch);
    let gone = Txn { compare: vec![], then: vec![Op::Delete(key)] };
    assert!(stage.registry.commit(gone).await.unwrap());
    stage.until(|metrics| !metrics.contains("vllm:num_requests_running{")).await;
    stage.publish(&stage.leaders[0]).await;
    stage.until(|metrics| metrics.contains("vllm:num_requests_running{")).await;
}

#[tokio::test]
async fn models_are_listed() {
    let stage = stage(says("ok")).await;
    let list = stage.get("/v1/models").await.ok();
    assert_eq!(list["object"], "list");
    let card = &list["data"][0];
    assert_eq!(card["id"], MODEL);
    assert_eq!(card["object"], "model");
    assert_eq!(card["max_model_len"], MAX_MODEL_LEN);
    assert_eq!(stage.get(&format!("/v1/models/{MODEL}")).await.ok(), *card);
}

#[tokio::test]
async fn text_becomes_tokens_and_text_again() {
    let stage = stage(says("ok")).await;
    let body = json!({"prompt": "Hello wörld", "return_token_strs": true});
    let answer = stage.post("/tokenize", body).await.ok();
    let tokens = answer["tokens"].as_array().unwrap();
    assert_eq!(answer["count"], tokens.len());
    assert_eq!(answer["token_strs"].as_array().unwrap().len(), tokens.len());
    assert_eq!(answer["max_model_len"], MAX_MODEL_LEN);
    let back = stage.post("/detokenize", json!({"tokens": tokens})).await.ok();
    assert_eq!(back, json!({"prompt": "Hello wörld"}));

    let silent = stage.post("/tokenize", json!({"prompt": "a"})).await.ok();
    assert_eq!(silent["token_strs"], Value::Null);
    for (path, body) in [
        ("/tokenize", json!({})),
        ("/detokenize", json!({})),
        ("/detokenize", json!({"tokens": [99_999]})),
        ("/detokenize", json!({"tokens": "a"})),
    ] {
        assert_eq!(stage.post(path, body).await.error().0, 400);
    }
}

#[tokio::test]
async fn metrics_tell_of_requests_and_loads() {
    let stage = stage(says("one two three")).await;
    stage.post("/v1/completions", json!({"prompt": "x", "max_tokens": 3})).await.ok();
    let text = stage.get("/metrics").await.text;
    for line in [
        "vllm:request_success_total{model_name=\"tiny\",engine=\"0\",finished_reason=\"length\"} 1",
        "vllm:generation_tokens_total{model_name=\"tiny\",engine=\"0\"} 3",
        "vllm:time_to_first_token_seconds_count{model_name=\"tiny\",engine=\"0\"} 1",
        "vllm:inter_token_latency_seconds_count{model_name=\"tiny\",engine=\"0\"} 2",
        "vllm:e2e_request_latency_seconds_count{model_name=\"tiny\",engine=\"0\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    stage.leaders[0].load.send_replace(Load { running: 7, ..Load::default() });
    let text = stage.get("/metrics").await.text;
    assert!(text.contains("vllm:num_requests_running{engine=\"here\"} 7\n"), "{text}");
    assert_eq!(text.matches("# TYPE vllm:num_requests_running ").count(), 1);
    assert!(!text.contains("# EOF"));
}

#[tokio::test]
async fn version_and_load() {
    let stage = stage(says("ok")).await;
    assert_eq!(stage.get("/version").await.ok(), json!({"version": env!("CARGO_PKG_VERSION")}));
    assert_eq!(stage.get("/load").await.ok(), json!({"server_load": 0}));
}
