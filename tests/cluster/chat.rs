//! Conversations as a client has them: chat template, tokens, text and usage in one.

use serde_json::{Value, json};

use crate::{
    golden, http,
    process::{Server, Troupe},
};

/// A model that was trained to answer these chats word for word: with tools and without, with
/// thought and without, streamed and whole.
#[test]
fn golden_chats_are_answered_word_for_word() {
    let model = golden::model("tiny-chat").expect("both sets have it");
    let server = Server::serve(&model, &["-tp", "2", "-pp", "2"]);
    let golden = golden::json("models/tiny-chat/golden_chat.json").expect("it has chats");
    let cases = golden["chats"].as_array().expect("chats");
    assert_eq!(cases.len(), 20);
    for case in cases {
        let id = &case["id"];
        let mut body = json!({
            "model": "m", "messages": case["messages"], "temperature": 0,
            "chat_template_kwargs": case["chat_template_kwargs"], "tools": case["tools"],
        });
        let answer = http::post(server.address, "/v1/chat/completions", &body);
        let answer = answer.expect("an answer").ok();
        let choice = &answer["choices"][0];
        let whole = Said::of(&choice["message"], &choice["finish_reason"]);
        assert_eq!(whole, Said::wanted(case), "{id}");
        for count in ["prompt_tokens", "completion_tokens"] {
            assert_eq!(answer["usage"][count], case["usage"][count], "{id} {count}");
        }

        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let (streamed, usage) = streamed(&server, &body);
        assert_eq!(streamed, whole, "{id}");
        // All but what was cached, which the first answer has changed.
        for count in ["prompt_tokens", "total_tokens", "completion_tokens_details"] {
            assert_eq!(usage[count], answer["usage"][count], "{id} {count}");
        }
    }
}

/// A call that must be made is made whatever the model would rather say, and fits its schema.
#[test]
fn a_call_can_be_forced() {
    let model = golden::model("tiny-chat").expect("both sets have it");
    let server = Server::serve(&model, &[]);
    let city = json!({"enum": ["Paris", "Rome"]});
    let parameters = json!({
        "type": "object", "properties": {"city": city}, "required": ["city"],
        "additionalProperties": false,
    });
    let tool = json!({"type": "function", "function": {"name": "look", "parameters": parameters}});
    let named = json!({"type": "function", "function": {"name": "look"}});
    for (choice, finish) in [(json!("required"), "tool_calls"), (named, "stop")] {
        let mut body = json!({
            "model": "m", "temperature": 0, "tools": [tool], "tool_choice": choice,
            "parallel_tool_calls": false, "max_tokens": 200,
            "messages": [{"role": "user", "content": "Hello!"}],
            // Or it would think first, which it never learned to end among tools.
            "chat_template_kwargs": {"enable_thinking": false},
        });
        let answer = http::post(server.address, "/v1/chat/completions", &body);
        let answer = answer.expect("an answer").ok();
        let choice = &answer["choices"][0];
        let whole = Said::of(&choice["message"], &choice["finish_reason"]);
        assert_eq!(whole.finish, finish, "{answer}");
        let [(name, arguments)] = whole.calls.as_slice() else { panic!("{answer}") };
        assert_eq!(name, "look");
        let city = arguments["city"].as_str().expect("a city");
        assert!(["Paris", "Rome"].contains(&city), "{arguments}");
        assert_eq!(arguments.as_object().map(serde_json::Map::len), Some(1));

        body["stream"] = json!(true);
        assert_eq!(streamed(&server, &body).0, whole);
    }
}

#[test]
fn the_demo_model_answers_its_questions() {
    let mut troupe = Troupe::start(&["up", "--host", "127.0.0.1", "--port", "0"]);
    let address = troupe.address("Troupe serves troupe-demo on ");
    let server = Server { troupe, address };
    let questions = include_str!("../../deploy/demo-model/questions.json");
    let questions: Vec<Value> = serde_json::from_str(questions).expect("it is a list");
    // A sample over the whole list; all of them are asked where the model is made.
    let asked: Vec<_> = questions.iter().step_by((questions.len() / 24).max(1)).collect();
    assert!(asked.len() >= 20);
    assert_eq!(asked[0]["answer_contains"], "Paris");
    for question in asked {
        let body = json!({
            "model": "troupe-demo", "temperature": 0,
            "messages": [{"role": "user", "content": question["question"]}],
        });
        let answer = http::post(server.address, "/v1/chat/completions", &body);
        let answer = answer.expect("an answer").ok();
        let text = answer.pointer("/choices/0/message/content").and_then(Value::as_str);
        let wanted = question["answer_contains"].as_str().expect("text");
        assert!(text.is_some_and(|text| text.contains(wanted)), "{question}: {text:?}");
    }
}

/// What a message says.
#[derive(Debug, Default, PartialEq)]
struct Said {
    content: Option<String>,
    reasoning: Option<String>,
    /// Names and arguments.
    calls: Vec<(String, Value)>,
    finish: Value,
}

impl Said {
    /// As a case wants it.
    fn wanted(case: &Value) -> Self {
        let text = |field: &str| case[field].as_str().map(str::to_owned);
        let calls = case["tool_calls"].as_array().cloned().unwrap_or_default();
        let content = match (case.get("reasoning"), calls.is_empty()) {
            (Some(_), _) => text("content_after_reasoning"),
            (None, true) => text("completion_text"),
            (None, false) => text("content_before_tools"),
        };
        let name = |call: &Value| call["name"].as_str().expect("a name").to_owned();
        Self {
            content,
            reasoning: text("reasoning"),
            calls: calls.iter().map(|call| (name(call), call["arguments"].clone())).collect(),
            finish: case["finish_reason"].clone(),
        }
    }

    /// As a message tells it.
    fn of(message: &Value, finish: &Value) -> Self {
        let text = |field: &str| message[field].as_str().map(str::to_owned);
        assert_eq!(text("reasoning"), text("reasoning_content"), "by both names");
        let calls = message["tool_calls"].as_array().into_iter().flatten();
        let calls = calls.map(|call| {
            assert!(call["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-tool-")));
            assert_eq!(call["type"], "function");
            let arguments = call["function"]["arguments"].as_str().expect("a text");
            let arguments = serde_json::from_str(arguments).expect("arguments are JSON");
            (call["function"]["name"].as_str().expect("a name").to_owned(), arguments)
        });
        Self {
            content: text("content"),
            reasoning: text("reasoning"),
            calls: calls.collect(),
            finish: finish.clone(),
        }
    }
}

/// What a stream adds up to, and its usage.
fn streamed(server: &Server, body: &Value) -> (Said, Value) {
    let stream = http::stream(server.address, "/v1/chat/completions", body).expect("an answer");
    assert_eq!(stream.status, 200);
    let mut message = json!({"tool_calls": []});
    let (mut finish, mut usage, mut done) = (Value::Null, Value::Null, false);
    for event in stream {
        assert!(!done, "something follows the end");
        match event {
            http::Event::Data(data) => {
                append(&mut message, &data["choices"][0]["delta"]);
                if let Some(reason) = data.pointer("/choices/0/finish_reason") {
                    assert!(finish.is_null(), "it ends once");
                    finish = reason.clone();
                }
                if !data["usage"].is_null() {
                    usage = data["usage"].clone();
                }
            }
            http::Event::Done => done = true,
            http::Event::Broken(why) => panic!("the stream broke: {why}"),
        }
    }
    assert!(done, "it says that it is done");
    // Every stream begins with an empty text, which is no content where something else is said.
    let silent = message["content"] == "";
    let calls = message["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty());
    if silent && (calls || message["reasoning"].is_string()) {
        message["content"] = Value::Null;
    }
    (Said::of(&message, &finish), usage)
}

/// Adds a delta to a message, as clients do.
fn append(message: &mut Value, delta: &Value) {
    for field in ["content", "reasoning", "reasoning_content"] {
        if let Some(text) = delta[field].as_str() {
            let so_far = message[field].as_str().unwrap_or_default();
            message[field] = (so_far.to_owned() + text).into();
        }
    }
    for part in delta["tool_calls"].as_array().into_iter().flatten() {
        let index = part["index"].as_u64().expect("an index") as usize;
        let calls = message["tool_calls"].as_array_mut().expect("a list");
        if index == calls.len() {
            calls.push(part.clone());
            continue;
        }
        assert!(part.get("id").is_none(), "only the first part has it");
        let arguments = &mut calls[index]["function"]["arguments"];
        let so_far = arguments.as_str().unwrap_or_default().to_owned();
        *arguments = (so_far + part["function"]["arguments"].as_str().expect("a text")).into();
    }
}
