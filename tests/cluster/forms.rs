//! Answers that are held to a form are the same answers whatever their sequences go through:
//! preempted and brought back, drafted and verified, sampled on the last of two stages.

use serde_json::{Value, json};

use crate::{
    golden, http,
    process::{Server, completion},
};

const REQUESTS: u64 = 16;
const DRAFTS: &str = r#"{"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1}"#;

#[test]
fn forms_hold_through_preemption_drafts_and_stages() {
    let model = golden::model("tiny-chat").expect("both sets have it");
    let calm = answers(&Server::serve(&model, &[]));
    for (number, answer) in (0..).zip(&calm) {
        check(number, answer);
    }
    let thoughtful = calm.iter().skip(3).step_by(4).flat_map(|choices| choices.as_array());
    let ended = thoughtful.flatten().filter(|choice| choice["finish_reason"] == "stop");
    assert!(ended.count() >= 4, "most thoughts were to end: {calm:?}");
    let small = Server::serve(&model, &["--num-gpu-blocks-override", "24"]);
    assert_eq!(answers(&small), calm);
    assert!(small.metric("vllm:num_preemptions_total") > 0.0, "there was to be too little room");
    let drafting = Server::serve(&model, &["--speculative-config", DRAFTS]);
    assert_eq!(answers(&drafting), calm);
    assert!(drafting.metric("vllm:spec_decode_num_draft_tokens_total") > 0.0);
    assert_eq!(answers(&Server::serve(&model, &["-pp", "2", "-tp", "2"])), calm);
}

/// The texts of requests of three forms, asked for all at once.
fn answers(server: &Server) -> Vec<Value> {
    std::thread::scope(|scope| {
        let asked = (0..REQUESTS).map(|number| {
            scope.spawn(move || {
                let answer = http::post(server.address, "/v1/completions", &request(number));
                answer.expect("an answer").ok()["choices"].clone()
            })
        });
        let asked: Vec<_> = asked.collect();
        asked.into_iter().map(|asked| asked.join().expect("an answer")).collect()
    })
}

fn request(number: u64) -> Value {
    let prompt: Vec<u32> = (0..50).map(|at| 5 + (at * 3 + number as u32) % 90).collect();
    let thoughtful = number % 4 == 3;
    let mut body = completion(&if thoughtful { thinking() } else { prompt }, 64);
    body["ignore_eos"] = json!(false);
    body["temperature"] = json!(if thoughtful { 0.9 } else { 1.3 });
    body["seed"] = json!(number);
    body["n"] = json!(2);
    body["structured_outputs"] = match number % 4 {
        3 => json!({"regex": "17 \\+ 25 is ([0-9]{2}|many)\\."}),
        0 => json!({"regex": "(red|green|blue)(, (red|green|blue)){12}"}),
        1 => json!({"json": {"type": "array", "items": {"type": "integer"}, "minItems": 9,
                             "maxItems": 9}}),
        _ => json!({"choice": ["a short one", "one that is somewhat longer than the other"]}),
    };
    body
}

/// A prompt that ends in the midst of a thought, which the form leaves free.
fn thinking() -> Vec<u32> {
    let golden = golden::json("models/tiny-chat/golden_chat.json").expect("both sets have it");
    let chats = golden["chats"].as_array().expect("chats");
    let chat = chats.iter().find(|chat| chat["id"] == "think").expect("one that thinks");
    let begun = chat["completion_ids"].as_array().expect("tokens")[..1].iter();
    let prompt = chat["prompt_ids"].as_array().expect("tokens").iter();
    prompt.chain(begun).map(|id| id.as_u64().expect("a token") as u32).collect()
}

fn check(number: u64, choices: &Value) {
    for choice in choices.as_array().expect("choices") {
        let text = choice["text"].as_str().expect("a text");
        if choice["finish_reason"] != "stop" {
            continue;
        }
        let holds = match number % 4 {
            3 => text.split_once("</think>").is_some_and(|(_, said)| {
                said.strip_prefix("17 + 25 is ").is_some_and(|sum| (3..=5).contains(&sum.len()))
            }),
            0 => text.split(", ").count() == 13,
            1 => serde_json::from_str::<Vec<i64>>(text).is_ok_and(|numbers| numbers.len() == 9),
            _ => text.starts_with("a short") || text.ends_with("the other"),
        };
        assert!(holds, "request {number}: {text}");
    }
}
