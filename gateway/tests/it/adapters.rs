//! Adapters at the front: as names of models, loaded and unloaded while the model is served.

use serde_json::{Value, json};
use troupe_runtime::{id::Digest, prefix::Parameters};

use crate::support::{MODEL, Stage, leader::says, stage, stage_with};

const LOAD: &str = "/v1/load_lora_adapter";
const UNLOAD: &str = "/v1/unload_lora_adapter";
const COMPLETIONS: &str = "/v1/completions";
const TEXT: &str = "Once upon a time.";

async fn with_adapters(leaders: usize) -> Stage {
    let scripts = (0..leaders).map(|_| says(TEXT)).collect();
    stage_with(scripts, |config| config.lora_updates = true).await
}

fn names(models: &Value) -> Vec<&str> {
    let data = models["data"].as_array().expect("a list").iter();
    data.map(|card| card["id"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn an_adapter_is_a_model_until_it_is_unloaded() {
    let stage = with_adapters(1).await;
    let said = stage.post(LOAD, json!({"lora_name": "sql", "lora_path": "/adapters/sql"})).await;
    assert_eq!(said.status, 200);
    assert_eq!(said.text, "Success: LoRA adapter 'sql' added successfully.");
    let models = stage.get("/v1/models").await.ok();
    assert_eq!(names(&models), ["sql", MODEL]);
    let card = &models["data"][0];
    assert_eq!((&card["parent"], &card["root"]), (&json!(MODEL), &json!("/adapters/sql")));
    let body = json!({"model": "sql", "prompt": "Hello, you there!", "max_tokens": 40});
    let answer = stage.post(COMPLETIONS, body.clone()).await.ok();
    assert_eq!((&answer["model"], &answer["choices"][0]["text"]), (&json!("sql"), &json!(TEXT)));
    // The leader is told whose files are meant, and its blocks are named apart from the base's.
    let generate = stage.leaders[0].started().await;
    let digest = Digest::of(b"/adapters/sql");
    let adapter = generate.adapter.as_ref().expect("it is named");
    assert_eq!((adapter.name.as_str(), adapter.digest), ("sql", digest));
    let parameters = Parameters::of(&stage.leaders[0].info);
    assert_eq!(generate.hash_seed, parameters.chain(Some(digest), None).seed());
    stage.post(COMPLETIONS, json!({"model": MODEL, "prompt": "Hi", "max_tokens": 40})).await.ok();
    let plain = stage.leaders[0].started().await;
    assert_eq!((plain.adapter, plain.hash_seed), (None, parameters.chain(None, None).seed()));

    let said = stage.post(UNLOAD, json!({"lora_name": "sql"})).await;
    assert_eq!(said.text, "Success: LoRA adapter 'sql' removed successfully.");
    assert_eq!(names(&stage.get("/v1/models").await.ok()), [MODEL]);
    let gone = stage.post(COMPLETIONS, body).await;
    assert_eq!((gone.status, gone.json()["error"]["type"].as_str()), (404, Some("NotFoundError")));
    let gone = stage.post(UNLOAD, json!({"lora_name": "sql"})).await;
    assert_eq!(gone.status, 404);
    let said = "The lora adapter 'sql' cannot be found.";
    assert_eq!(gone.json()["error"]["message"], said);
}

#[tokio::test]
async fn mistakes_are_said_as_vllm_says_them() {
    let stage = with_adapters(1).await;
    for (path, body, said) in [
        (LOAD, json!({}), "Both 'lora_name' and 'lora_path' must be provided."),
        (LOAD, json!({"lora_name": "a"}), "Both 'lora_name' and 'lora_path' must be provided."),
        (UNLOAD, json!({}), "either 'lora_name' and 'lora_int_id' needs to be provided."),
        (LOAD, json!({"lora_name": "a", "lora_path": "/bad-0"}), "/bad-0 is bad"),
    ] {
        let reply = stage.post(path, body).await;
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status, &error["type"]), (400, &json!("InvalidUserInput")));
        assert_eq!(error["message"], said);
    }
}

#[tokio::test]
async fn what_one_endpoint_refuses_no_other_keeps() {
    let stage = with_adapters(2).await;
    let body = json!({"lora_name": "a", "lora_path": "/bad-1"});
    assert_eq!(stage.post(LOAD, body).await.status, 400);
    for leader in &stage.leaders {
        assert!(leader.adapters.borrow().served.is_empty());
    }
    let body = json!({"lora_name": "a", "lora_path": "/good"});
    assert_eq!(stage.post(LOAD, body).await.status, 200);
    for leader in &stage.leaders {
        assert_eq!(leader.adapters.borrow().served.len(), 1);
    }
}

#[tokio::test]
async fn nothing_is_loaded_where_that_is_not_allowed() {
    let stage = stage(says(TEXT)).await;
    for path in [LOAD, UNLOAD] {
        let reply = stage.post(path, json!({"lora_name": "a", "lora_path": "/a"})).await;
        assert_eq!(reply.status, 404);
        assert!(reply.json()["error"]["message"].to_string().contains("--allow-runtime-lora"));
    }
}
