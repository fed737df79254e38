//! `/v1/chat/completions`, streamed and whole.

use serde_json::{Value, json};
use troupe_runtime::model::{template::ChatInput, tokenizer::SpecialTokens};

use crate::support::{MODEL, card, leader::says, stage};

const PATH: &str = "/v1/chat/completions";
const TEXT: &str = "Hello there, friend!";

fn messages() -> Value {
    json!([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}])
}

#[tokio::test]
async fn a_conversation_is_rendered_and_answered() {
    let stage = stage(says(TEXT)).await;
    let body = json!({"model": MODEL, "messages": messages(), "max_completion_tokens": 30});
    let answer = stage.post(PATH, body).await.ok();
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer["object"], "chat.completion");
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["message"]["content"], TEXT);
    assert_eq!(choice["message"]["refusal"], Value::Null);
    assert_eq!(choice["finish_reason"], "stop");
    assert!(choice["message"].get("tool_calls").is_none());

    let card = card();
    let text = card.templates.as_ref().unwrap().render(&ChatInput {
        messages: &messages(),
        tools: None,
        documents: None,
        add_generation_prompt: true,
        kwargs: None,
        now_unix_s: 0,
    });
    let wanted = card.tokenizer.encode(&text.unwrap(), SpecialTokens::Exclude).unwrap();
    let generate = stage.leaders[0].started().await;
    assert_eq!(generate.prompt, wanted);
    assert_eq!(generate.options.max_tokens, 30);
}

#[tokio::test]
async fn a_stream_says_who_speaks_first_and_why_it_ends_last() {
    let stage = stage(says(TEXT)).await;
    let body = json!({
        "messages": messages(), "max_tokens": 30, "n": 2, "temperature": 1.0,
        "stream_options": {"include_usage": true},
    });
    let events = stage.events(PATH, body).await;
    let (usage, events) = events.split_last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    for index in 0..2 {
        let parts: Vec<&Value> = events
            .iter()
            .map(|event| &event["choices"][0])
            .filter(|choice| choice["index"] == index)
            .collect();
        assert_eq!(parts[0]["delta"], json!({"role": "assistant", "content": ""}));
        let text: String =
            parts.iter().filter_map(|part| part["delta"]["content"].as_str()).collect();
        assert_eq!(text, TEXT);
        let (last, others) = parts.split_last().unwrap();
        assert_eq!(last["finish_reason"], "stop");
        assert!(others.iter().all(|part| part["finish_reason"].is_null()));
        assert!(parts[1..].iter().all(|part| part["delta"].get("role").is_none()));
    }
}

#[tokio::test]
async fn without_a_limit_the_context_is_the_limit() {
    let stage = stage(says(TEXT)).await;
    stage.post(PATH, json!({"messages": messages()})).await.ok();
    let generate = stage.leaders[0].started().await;
    let room = crate::support::MAX_MODEL_LEN - generate.prompt.len() as u32;
    assert_eq!(generate.options.max_tokens, room);
}

#[tokio::test]
async fn the_last_message_can_be_gone_on_with() {
    let stage = stage(says(TEXT)).await;
    let conversation =
        json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well, "}]);
    let body = json!({
        "messages": conversation, "continue_final_message": true, "add_generation_prompt": false,
        "echo": true, "max_tokens": 20,
    });
    let answer = stage.post(PATH, body).await.ok();
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert_eq!(text, format!("Well, {TEXT}"));
    let generate = stage.leaders[0].started().await;
    let prompt = card().tokenizer.decode(&generate.prompt, SpecialTokens::Include).unwrap();
    assert!(prompt.ends_with("Well, ") || prompt.ends_with("Well,"), "{prompt}");
}

#[tokio::test]
async fn tools_and_variables_reach_the_template() {
    let stage = stage(says(TEXT)).await;
    let tool = json!({"type": "function", "function": {"name": "weather", "parameters": {}}});
    let plain = json!({"messages": [{"role": "user", "content": "Hi"}]});
    let mut rich = plain.clone();
    rich["tools"] = json!([tool]);
    rich["chat_template_kwargs"] = json!({"enable_thinking": false});
    for (body, reaches) in [(plain, false), (rich, true)] {
        let tokens = stage.post("/tokenize", body).await.ok()["tokens"].clone();
        let text = stage.post("/detokenize", json!({"tokens": tokens})).await.ok();
        let text = text["prompt"].as_str().unwrap();
        assert_eq!(text.contains("weather"), reaches, "{text}");
        assert_eq!(text.contains("<think>"), reaches, "{text}");
    }
}

#[tokio::test]
async fn tokenizing_a_conversation_gives_the_prompt() {
    let stage = stage(says(TEXT)).await;
    let body = json!({"messages": messages(), "max_tokens": 1});
    let tokens = stage.post("/tokenize", body.clone()).await.ok();
    stage.post(PATH, body).await.ok();
    assert_eq!(tokens["tokens"], json!(stage.leaders[0].started().await.prompt));
}
