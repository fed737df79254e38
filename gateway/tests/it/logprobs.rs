//! Log-probabilities in both styles.

use serde_json::{Value, json};

use crate::support::{leader::says, stage};

const TEXT: &str = "abc déf";

#[tokio::test]
async fn the_old_style_has_parallel_lists() {
    let stage = stage(says(TEXT)).await;
    let body = json!({"prompt": "x", "max_tokens": 20, "logprobs": 2});
    let answer = stage.post("/v1/completions", body.clone()).await.ok();
    let logprobs = &answer["choices"][0]["logprobs"];
    let list = |field: &str| logprobs[field].as_array().unwrap().clone();
    let tokens = list("tokens");
    assert_eq!(tokens.len() as u64, answer["usage"]["completion_tokens"].as_u64().unwrap());
    for field in ["token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(list(field).len(), tokens.len(), "{field}");
    }
    let mut offset = 0;
    for (token, at) in tokens.iter().zip(list("text_offset")) {
        assert_eq!(at, offset);
        offset += token.as_str().unwrap().chars().count();
    }
    assert!(
        list("top_logprobs").iter().all(|top| (1..=3).contains(&top.as_object().unwrap().len()))
    );
    assert!(list("token_logprobs").iter().all(|logprob| *logprob == -0.5));

    let mut joined = Vec::new();
    for event in stage.events("/v1/completions", body).await {
        joined.extend(event["choices"][0]["logprobs"]["tokens"].as_array().unwrap().clone());
    }
    assert_eq!(joined, tokens, "a stream tells the same tokens");
}

#[tokio::test]
async fn none_zero_and_ids() {
    let stage = stage(says(TEXT)).await;
    let ask = |extra: Value| {
        let mut body = json!({"prompt": "x", "max_tokens": 3});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        stage.post("/v1/completions", body)
    };
    assert_eq!(ask(json!({})).await.ok()["choices"][0]["logprobs"], Value::Null);
    let zero = ask(json!({"logprobs": 0})).await.ok();
    let logprobs = &zero["choices"][0]["logprobs"];
    let name = logprobs["tokens"][0].as_str().unwrap();
    assert_eq!(logprobs["top_logprobs"][0], json!({name: -0.5}), "the token itself is always told");
    let ids = ask(json!({"logprobs": 1, "return_tokens_as_token_ids": true})).await.ok();
    let name = ids["choices"][0]["logprobs"]["tokens"][0].as_str().unwrap().to_owned();
    assert!(name.starts_with("token_id:"), "{name}");
    let of_prompt = ask(json!({"prompt": [5, 6], "prompt_logprobs": 1})).await.ok();
    let of_prompt = of_prompt["choices"][0]["prompt_logprobs"].as_array().unwrap().clone();
    assert_eq!(of_prompt.len(), 2);
    assert_eq!(of_prompt[0], Value::Null);
    assert_eq!(of_prompt[1]["6"]["rank"], 1);
}

#[tokio::test]
async fn echoed_prompts_are_scored() {
    let stage = stage(says(TEXT)).await;
    let body = json!({"prompt": "abc", "echo": true, "logprobs": 1, "max_tokens": 0});
    let answer = stage.post("/v1/completions", body).await.ok();
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], "abc");
    let logprobs = choice["logprobs"]["token_logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len() as u64, answer["usage"]["prompt_tokens"].as_u64().unwrap());
    assert_eq!(logprobs[0], Value::Null);
    assert!(logprobs[1..].iter().all(|logprob| *logprob == -0.5));
    assert!(choice.get("prompt_logprobs").is_none());

    let body = json!({"prompt": "abc", "echo": true, "logprobs": 1, "max_tokens": 2});
    let answer = stage.post("/v1/completions", body).await.ok();
    let logprobs = &answer["choices"][0]["logprobs"];
    let total = answer["usage"]["total_tokens"].as_u64().unwrap() as usize;
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), total);
}

#[tokio::test]
async fn the_new_style_has_an_object_per_token() {
    let stage = stage(says(TEXT)).await;
    let body = json!({
        "messages": [{"role": "user", "content": "x"}], "max_tokens": 20,
        "logprobs": true, "top_logprobs": 2,
    });
    let answer = stage.post("/v1/chat/completions", body.clone()).await.ok();
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(content.len() as u64, answer["usage"]["completion_tokens"].as_u64().unwrap());
    for token in &content {
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 2);
        assert!(token["bytes"].is_array() && token["token"].is_string());
    }
    let bytes: Vec<u8> = content[..content.len() - 1]
        .iter()
        .flat_map(|token| token["bytes"].as_array().unwrap())
        .map(|byte| byte.as_u64().unwrap() as u8)
        .collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), TEXT, "bytes join to the text");

    let mut joined = Vec::new();
    for event in stage.events("/v1/chat/completions", body).await {
        if let Some(part) = event["choices"][0]["logprobs"]["content"].as_array() {
            joined.extend(part.clone());
        }
    }
    assert_eq!(joined, content);
}
