//! Conversations as a client has them: chat template, tokens, text and usage in one.

use serde_json::{Value, json};

use crate::{
    golden, http,
    process::{Server, Troupe},
};

/// A model that was trained to answer these chats word for word.
#[test]
fn golden_chats_are_answered_word_for_word() {
    let model = golden::model("tiny-chat").expect("both sets have it");
    let server = Server::serve(&model, &["-tp", "2", "-pp", "2"]);
    let golden = golden::json("models/tiny-chat/golden_chat.json").expect("it has chats");
    let cases = golden["chats"].as_array().expect("chats");
    let plain: Vec<_> = cases.iter().filter(|case| case["tools"].is_null()).collect();
    assert!(plain.len() >= 12, "only {} chats are without tools", plain.len());
    for case in plain {
        let mut body = json!({
            "model": "m", "messages": case["messages"], "temperature": 0,
            "chat_template_kwargs": case["chat_template_kwargs"],
        });
        let answer = http::post(server.address, "/v1/chat/completions", &body);
        let answer = answer.expect("an answer").ok();
        let choice = &answer["choices"][0];
        let id = &case["id"];
        assert_eq!(choice["message"]["content"], case["completion_text"], "{id}");
        assert_eq!(choice["finish_reason"], case["finish_reason"], "{id}");
        for count in ["prompt_tokens", "completion_tokens"] {
            assert_eq!(answer["usage"][count], case["usage"][count], "{id} {count}");
        }

        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let streamed = streamed(&server, &body);
        assert_eq!(streamed.text, case["completion_text"].as_str().expect("text"), "{id}");
        assert_eq!(streamed.finish, case["finish_reason"], "{id}");
        assert_eq!(streamed.usage, answer["usage"], "{id}");
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

struct Streamed {
    text: String,
    finish: Value,
    usage: Value,
}

fn streamed(server: &Server, body: &Value) -> Streamed {
    let stream = http::stream(server.address, "/v1/chat/completions", body).expect("an answer");
    assert_eq!(stream.status, 200);
    let mut streamed = Streamed { text: String::new(), finish: Value::Null, usage: Value::Null };
    let mut done = false;
    for event in stream {
        assert!(!done, "something follows the end");
        match event {
            http::Event::Data(data) => {
                let delta = data.pointer("/choices/0/delta/content").and_then(Value::as_str);
                streamed.text += delta.unwrap_or_default();
                if let Some(finish) = data.pointer("/choices/0/finish_reason") {
                    assert!(streamed.finish.is_null(), "it ends once");
                    streamed.finish = finish.clone();
                }
                if !data["usage"].is_null() {
                    streamed.usage = data["usage"].clone();
                }
            }
            http::Event::Done => done = true,
            http::Event::Broken(why) => panic!("the stream broke: {why}"),
        }
    }
    assert!(done, "it says that it is done");
    streamed
}
