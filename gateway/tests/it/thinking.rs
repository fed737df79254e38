//! Reasoning before a form: the leader is told where the grammar begins, and the answer is read so.

use serde_json::{Value, json};
use troupe_gateway::{GatewayConfig, ParserChoice};
use troupe_runtime::wire::generate::Reasoning;

use crate::support::{Stage, leader::says, stage_of};

const CHAT: &str = "/v1/chat/completions";
const COMPLETION: &str = "/v1/completions";
/// Tiny-chat's markers.
const AHEAD: Reasoning = Reasoning { open: 487, close: 488, inside: false };
const INSIDE: Reasoning = Reasoning { inside: true, ..AHEAD };

async fn saying(text: &str, adjust: impl FnOnce(&mut GatewayConfig)) -> Stage {
    stage_of(vec![says(text)], 1024, adjust).await
}

fn with(body: &Value, more: Value) -> Value {
    let mut body = body.clone();
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn the_leader_is_told_where_a_grammar_begins() {
    let stage = saying("<think>Hm.</think>{}", |_| {}).await;
    let plain = json!({"messages": [{"role": "user", "content": "Is it?"}]});
    let form = json!({"response_format": {"type": "json_object"}});
    let formed = with(&plain, form.clone());
    let going_on = |begun: &str| {
        let begun = json!({"role": "assistant", "content": begun});
        let messages = json!([{"role": "user", "content": "Is it?"}, begun]);
        let more = json!({
            "messages": messages, "continue_final_message": true, "add_generation_prompt": false,
        });
        with(&formed, more)
    };
    let text = |prompt: &str| with(&form, json!({"prompt": prompt}));
    let cases = [
        (CHAT, plain.clone(), None),
        (CHAT, formed.clone(), Some(AHEAD)),
        (CHAT, with(&formed, json!({"n": 2, "stream": true})), Some(AHEAD)),
        (CHAT, with(&formed, json!({"chat_template_kwargs": {"enable_thinking": false}})), None),
        (CHAT, going_on("<think>Well,"), Some(INSIDE)),
        (CHAT, going_on("<think>Well.</think>"), None),
        (CHAT, going_on("The answer is "), None),
        (COMPLETION, text("What is it? "), None),
        (COMPLETION, text("What is it? <think>\n"), Some(INSIDE)),
        (COMPLETION, json!({"prompt": "What is it? <think>\n"}), None),
    ];
    for (path, body, wanted) in cases {
        let reply = stage.post(path, body.clone()).await;
        assert_eq!(reply.status, 200, "{body}: {}", reply.text);
        let options = stage.leaders[0].started().await.options;
        assert_eq!(options.reasoning, wanted, "{body}");
        let is_formed = body.get("response_format").is_some();
        assert_eq!(options.grammar.is_some(), is_formed, "{body}");
    }
    let off = |config: &mut GatewayConfig| config.reasoning_parser = ParserChoice::Off;
    let stage = saying("{}", off).await;
    stage.post(CHAT, formed).await.ok();
    assert_eq!(stage.leaders[0].started().await.options.reasoning, None);
}

#[tokio::test]
async fn a_formed_answer_is_read_behind_its_reasoning() {
    let stage = saying("<think>\nHm.\n</think>{\"a\": 1}", |_| {}).await;
    let body = json!({
        "messages": [{"role": "user", "content": "Is it?"}],
        "response_format": {"type": "json_object"},
    });
    let answer = stage.post(CHAT, body).await.ok();
    let message = &answer["choices"][0]["message"];
    assert_eq!((&message["reasoning"], &message["content"]), (&json!("Hm."), &json!("{\"a\": 1}")));
    let thought = &answer["usage"]["completion_tokens_details"]["reasoning_tokens"];
    assert!(thought.as_u64().is_some_and(|thought| thought > 0), "{answer}");
}

#[tokio::test]
async fn a_call_may_be_forced_behind_reasoning() {
    let call = "[{\"name\": \"look\", \"parameters\": {\"city\": \"Rome\"}}]";
    let stage = saying(&format!("<think>Where?</think>\n\n{call}"), |_| {}).await;
    let body = json!({
        "messages": [{"role": "user", "content": "What is the weather?"}],
        "tools": [{"type": "function", "function": {"name": "look"}}],
        "tool_choice": "required",
    });
    let answer = stage.post(CHAT, body.clone()).await.ok();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["reasoning"], "Where?");
    let function = json!({"name": "look", "arguments": "{\"city\": \"Rome\"}"});
    assert_eq!(choice["message"]["tool_calls"][0]["function"], function);
    assert_eq!(stage.leaders[0].started().await.options.reasoning, Some(AHEAD));

    let stage = saying("<think>Where?</think>{\"city\": \"Rome\"}", |_| {}).await;
    let named = json!({"type": "function", "function": {"name": "look"}});
    let answer = stage.post(CHAT, with(&body, json!({"tool_choice": named}))).await.ok();
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["reasoning"], "Where?");
    assert_eq!(message["tool_calls"][0]["function"], function);
}
