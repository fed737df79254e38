//! Tool calls and reasoning over HTTP: what a model writes, streamed and whole, is told the same.

use serde_json::{Value, json};
use troupe_gateway::{ParserChoice, ToolFamily};
use troupe_runtime::wire::generate::Grammar;

use crate::support::{Stage, leader::says, stage_of};

const PATH: &str = "/v1/chat/completions";
const CALL: &str =
    "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>";

/// A leader that says this and has room for tools in its prompt.
async fn saying(text: &str) -> Stage {
    stage_of(vec![says(text)], 1024, |_| {}).await
}

fn body() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    json!({
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": parameters}}],
    })
}

/// The choice of a whole answer, after a check that a stream adds up to the same.
async fn answer(stage: &Stage, body: Value) -> Value {
    let whole = stage.post(PATH, body.clone()).await.ok();
    let mut streaming = body;
    streaming["stream_options"] = json!({"include_usage": true});
    let events = stage.events(PATH, streaming).await;
    let (usage, events) = events.split_last().unwrap();
    assert_eq!(usage["usage"], whole["usage"]);
    let choice = &whole["choices"][0];
    let folded = fold(events);
    let text = |field: &str| choice["message"][field].as_str().unwrap_or_default().to_owned();
    for field in ["content", "reasoning", "reasoning_content"] {
        assert_eq!(folded[field].as_str().unwrap_or_default(), text(field), "{field}");
    }
    let calls = |message: &Value| -> Vec<Value> {
        let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
        calls.into_iter().map(|call| call["function"].clone()).collect()
    };
    assert_eq!(calls(&folded), calls(&choice["message"]));
    assert_eq!(folded["finish_reason"], choice["finish_reason"]);
    whole
}

/// What the deltas of one choice add up to.
fn fold(events: &[Value]) -> Value {
    let mut message = json!({"tool_calls": []});
    for event in events {
        let choice = &event["choices"][0];
        for field in ["content", "reasoning", "reasoning_content"] {
            if let Some(text) = choice["delta"][field].as_str() {
                let so_far = message[field].as_str().unwrap_or_default();
                message[field] = (so_far.to_owned() + text).into();
            }
        }
        for part in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = part["index"].as_u64().unwrap() as usize;
            let calls = message["tool_calls"].as_array_mut().unwrap();
            if index == calls.len() {
                assert_eq!(part["type"], "function");
                assert!(part["id"].is_string() && part["function"]["name"].is_string());
                let function = json!({"name": part["function"]["name"], "arguments": ""});
                calls.push(json!({"id": part["id"], "function": function}));
            } else {
                assert!(part.get("id").is_none() && part["function"].get("name").is_none());
            }
            let arguments = &mut calls[index]["function"]["arguments"];
            let more = part["function"]["arguments"].as_str().unwrap();
            *arguments = (arguments.as_str().unwrap().to_owned() + more).into();
        }
        if !choice["finish_reason"].is_null() {
            assert!(message.get("finish_reason").is_none(), "it ends once");
            message["finish_reason"] = choice["finish_reason"].clone();
        }
    }
    message
}

#[tokio::test]
async fn a_call_is_told_as_one() {
    let stage = saying(&format!("I look.\n{CALL}")).await;
    let whole = answer(&stage, body()).await;
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], "I look.");
    let call = &choice["message"]["tool_calls"][0];
    assert!(call["id"].as_str().unwrap().starts_with("chatcmpl-tool-"));
    assert_eq!(call["type"], "function");
    let function = json!({"name": "look", "arguments": "{\"city\": \"Paris\"}"});
    assert_eq!(call["function"], function);

    // A message that is nothing but calls has no content.
    let stage = saying(CALL).await;
    let whole = answer(&stage, body()).await;
    assert_eq!(whole["choices"][0]["message"]["content"], Value::Null);
}

#[tokio::test]
async fn calls_are_read_only_where_they_may_be_made() {
    let stage = saying(CALL).await;
    let mut none = body();
    none["tool_choice"] = json!("none");
    let mut toolless = body();
    toolless.as_object_mut().unwrap().remove("tools");
    for body in [none, toolless] {
        let whole = answer(&stage, body).await;
        assert_eq!(whole["choices"][0]["message"]["content"], CALL);
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    }
    let off = |config: &mut troupe_gateway::GatewayConfig| {
        config.tool_call_parser = ParserChoice::Off;
    };
    let stage = stage_of(vec![says(CALL)], 1024, off).await;
    assert_eq!(answer(&stage, body()).await["choices"][0]["message"]["content"], CALL);
}

#[tokio::test]
async fn one_call_is_told_if_one_is_wanted() {
    let stage = saying(&format!("{CALL}\n{CALL}")).await;
    let whole = answer(&stage, body()).await;
    assert_eq!(whole["choices"][0]["message"]["tool_calls"].as_array().unwrap().len(), 2);
    let mut one = body();
    one["parallel_tool_calls"] = json!(false);
    let whole = answer(&stage, one).await;
    assert_eq!(whole["choices"][0]["message"]["tool_calls"].as_array().unwrap().len(), 1);
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn an_end_for_lack_of_room_stays_one() {
    let stage = saying(CALL).await;
    let mut short = body();
    short["max_tokens"] = json!(12);
    let whole = answer(&stage, short).await;
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert!(choice["message"].get("tool_calls").is_none());
    let content = choice["message"]["content"].as_str().unwrap();
    assert!(content.starts_with("<tool_call>") && CALL.starts_with(content), "{content}");
}

#[tokio::test]
async fn what_must_be_called_is_forced() {
    let stage = saying("[{\"name\": \"look\", \"parameters\": {\"city\": \"Rome\"}}]").await;
    let mut required = body();
    required["tool_choice"] = json!("required");
    let whole = answer(&stage, required).await;
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let function = json!({"name": "look", "arguments": "{\"city\": \"Rome\"}"});
    assert_eq!(choice["message"]["tool_calls"][0]["function"], function);
    let grammar = stage.leaders[0].started().await.options.grammar;
    let Some(Grammar::JsonSchema(schema)) = grammar else { panic!("{grammar:?}") };
    assert!(schema.contains("\"look\"") && schema.contains("minItems"), "{schema}");

    let stage = saying("{\"city\": \"Rome\"}").await;
    let mut named = body();
    named["tool_choice"] = json!({"type": "function", "function": {"name": "look"}});
    let whole = answer(&stage, named).await;
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(choice["message"]["tool_calls"][0]["function"], function);
    let grammar = stage.leaders[0].started().await.options.grammar;
    let Some(Grammar::JsonSchema(schema)) = grammar else { panic!("{grammar:?}") };
    assert!(schema.contains("city") && !schema.contains("look"), "{schema}");
}

#[tokio::test]
async fn a_family_can_be_named() {
    let named = |config: &mut troupe_gateway::GatewayConfig| {
        config.tool_call_parser = ParserChoice::Is(ToolFamily::Mistral);
    };
    let text = "[TOOL_CALLS][{\"name\": \"look\", \"arguments\": {}}]";
    let stage = stage_of(vec![says(text)], 1024, named).await;
    let whole = answer(&stage, body()).await;
    let call = &whole["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(call["function"], json!({"name": "look", "arguments": "{}"}));
    let id = call["id"].as_str().unwrap();
    assert!(id.len() == 9 && id.chars().all(|c| c.is_ascii_alphanumeric()), "{id}");
}

#[tokio::test]
async fn reasoning_is_told_apart() {
    let stage = saying("<think>\nSo it is.\n</think>\n\nYes.").await;
    let plain = json!({"messages": [{"role": "user", "content": "Is it?"}]});
    let whole = answer(&stage, plain.clone()).await;
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["content"], "Yes.");
    assert_eq!(message["reasoning"], "So it is.");
    assert_eq!(message["reasoning_content"], "So it is.");
    let thought = whole["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64();
    let all = whole["usage"]["completion_tokens"].as_u64().unwrap();
    assert!(thought.is_some_and(|thought| thought > 2 && thought < all - 4), "{}", whole["usage"]);

    let mut unwanted = plain.clone();
    unwanted["include_reasoning"] = json!(false);
    let whole = answer(&stage, unwanted).await;
    assert_eq!(whole["choices"][0]["message"]["reasoning"], Value::Null);
    assert_eq!(whole["choices"][0]["message"]["content"], "Yes.");

    // Thought that was cut off is no answer.
    let mut short = plain;
    short["max_tokens"] = json!(5);
    let whole = answer(&stage, short).await;
    assert_eq!(whole["choices"][0]["message"]["content"], Value::Null);
    assert!(whole["choices"][0]["message"]["reasoning"].is_string());
}

#[tokio::test]
async fn reasoning_may_be_open_already() {
    let stage = saying(" so it is.</think>Yes.").await;
    let begun = json!({"role": "assistant", "content": "<think>Well,"});
    let body = json!({
        "messages": [{"role": "user", "content": "Is it?"}, begun],
        "continue_final_message": true, "add_generation_prompt": false,
    });
    let whole = answer(&stage, body).await;
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["reasoning"], "so it is.");
    assert_eq!(message["content"], "Yes.");
}

#[tokio::test]
async fn what_was_called_reaches_the_template() {
    let stage = saying("ok").await;
    let mut body = body();
    let call = json!({"id": "c", "type": "function", "function": {
        "name": "look", "arguments": "{\"city\": \"Paris\"}",
    }});
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "assistant", "tool_calls": [call]}));
    messages.push(json!({"role": "tool", "tool_call_id": "c", "content": "21 degrees"}));
    let tokens = stage.post("/tokenize", body).await.ok()["tokens"].clone();
    let text = stage.post("/detokenize", json!({"tokens": tokens})).await.ok();
    let text = text["prompt"].as_str().unwrap();
    let wanted = "{\"name\": \"look\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>";
    assert!(text.contains(wanted) && text.contains("21 degrees"), "{text}");
}
