//! `/v1/completions`, streamed and whole.

use serde_json::{Value, json};
use troupe_runtime::{model::tokenizer::SpecialTokens, wire::generate::GenerateDown};

use crate::support::{
    MAX_MODEL_LEN, MODEL, Seen, Stage, card,
    leader::{Act, says},
    stage, stage_with,
};

const PATH: &str = "/v1/completions";
const TEXT: &str = "Once upon a time there was a tiny fox. The end of it.";

/// The whole answer, and the same from a stream: text, reason and logprobs must be equal.
async fn both(stage: &Stage, body: Value) -> Value {
    let whole = stage.post(PATH, body.clone()).await.ok();
    let count = whole["choices"].as_array().expect("choices").len();
    let mut joined = vec![(String::new(), Value::Null, Value::Null); count];
    for event in stage.events(PATH, body).await {
        assert_eq!(event["object"], "text_completion");
        for choice in event["choices"].as_array().expect("choices") {
            let index = choice["index"].as_u64().expect("an index") as usize;
            let (text, reason, stop) = &mut joined[index];
            assert!(reason.is_null(), "nothing follows the end");
            text.push_str(choice["text"].as_str().expect("a text"));
            *reason = choice["finish_reason"].clone();
            *stop = choice["stop_reason"].clone();
        }
    }
    let choices = whole["choices"].as_array().expect("choices");
    for (choice, (text, reason, stop)) in choices.iter().zip(&joined) {
        assert_eq!(choice["text"], *text);
        assert_eq!(choice["finish_reason"], *reason);
        assert_eq!(choice["stop_reason"], *stop);
        assert!(!reason.is_null());
    }
    whole
}

#[tokio::test]
async fn an_answer_has_the_shape_of_openai() {
    let stage = stage(says(TEXT)).await;
    let answer = both(&stage, json!({"model": MODEL, "prompt": "Hello", "max_tokens": 40})).await;
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["model"], MODEL);
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], TEXT);
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(choice["stop_reason"], Value::Null, "the model's own end names nothing");
    let usage = &answer["usage"];
    let generate = stage.leaders[0].started().await;
    assert_eq!(usage["prompt_tokens"], generate.prompt.len());
    assert_eq!(
        usage["total_tokens"].as_u64(),
        Some(
            usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap()
        )
    );
    assert_eq!(generate.options.max_tokens, 40);
}

#[tokio::test]
async fn stop_strings_are_found_across_tokens_and_never_leak() {
    let stage = stage(says(TEXT)).await;
    let body = |stop: Value| json!({"prompt": "x", "max_tokens": 60, "stop": stop});
    let answer = both(&stage, body(json!("tiny fox"))).await;
    assert_eq!(answer["choices"][0]["text"], "Once upon a time there was a ");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["choices"][0]["stop_reason"], "tiny fox");

    let mut body = body(json!(["never", "there was"]));
    body["include_stop_str_in_output"] = true.into();
    let answer = both(&stage, body).await;
    assert_eq!(answer["choices"][0]["text"], "Once upon a time there was");
}

#[tokio::test]
async fn the_leader_is_told_of_a_stop() {
    let stage = stage(says(TEXT)).await;
    let body = json!({"prompt": "x", "max_tokens": 60, "stop": " upon"});
    let answer = stage.post(PATH, body).await.ok();
    let kept = answer["usage"]["completion_tokens"].as_u64().unwrap();
    stage.leaders[0].started().await;
    let Seen::Finish(finish) = stage.leaders[0].saw().await else { panic!("a finish comes") };
    assert_eq!(u64::from(finish.tokens_kept), kept);
    assert_eq!(stage.leaders[0].saw().await, Seen::Ended);
}

#[tokio::test]
async fn limits_and_stop_tokens_end_an_answer() {
    let stage = stage(says(TEXT)).await;
    let answer = both(&stage, json!({"prompt": "x", "max_tokens": 3})).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 3);

    let default = stage.post(PATH, json!({"prompt": "x"})).await.ok();
    assert_eq!(default["usage"]["completion_tokens"], 16);

    let special = SpecialTokens::Exclude;
    let tokens = card().tokenizer.encode(TEXT, special).unwrap();
    let body = json!({"prompt": "x", "max_tokens": 40, "stop_token_ids": [tokens[4]]});
    let answer = both(&stage, body).await;
    assert_eq!(answer["choices"][0]["stop_reason"], tokens[4]);
    let text = answer["choices"][0]["text"].as_str().unwrap();
    assert_eq!(text, card().tokenizer.decode(&tokens[..4], special).unwrap());
}

#[tokio::test]
async fn n_and_batches_make_choices_in_order() {
    let stage = stage(says(TEXT)).await;
    let body = json!({
        "prompt": ["one", "two", "three"], "n": 2, "max_tokens": 5, "temperature": 1.0,
    });
    let answer = both(&stage, body).await;
    let choices = answer["choices"].as_array().unwrap();
    let indexes: Vec<u64> = choices.iter().map(|c| c["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, [0, 1, 2, 3, 4, 5]);
    assert_eq!(answer["usage"]["completion_tokens"], 30);
}

#[tokio::test]
async fn prompts_come_as_text_and_as_tokens() {
    let stage = stage(says(TEXT)).await;
    for (prompt, prompts) in [
        (json!("ab"), 1),
        (json!(["ab", "c"]), 2),
        (json!([5, 6, 7]), 1),
        (json!([[5, 6], [7]]), 2),
    ] {
        let body = json!({"prompt": prompt, "max_tokens": 2, "return_token_ids": true});
        let answer = stage.post(PATH, body).await.ok();
        let choices = answer["choices"].as_array().unwrap();
        assert_eq!(choices.len(), prompts, "{prompt}");
        assert!(choices.iter().all(|choice| choice["token_ids"].as_array().unwrap().len() == 2));
        if prompt[0].is_number() {
            assert_eq!(choices[0]["prompt_token_ids"], prompt);
        }
    }
    let body = json!({"prompt": [5, 6, 7, 8], "max_tokens": 2, "truncate_prompt_tokens": 2,
        "return_token_ids": true});
    let answer = stage.post(PATH, body).await.ok();
    assert_eq!(answer["choices"][0]["prompt_token_ids"], json!([7, 8]));
}

#[tokio::test]
async fn echo_puts_the_prompt_first() {
    let stage = stage(says(TEXT)).await;
    let body = json!({"prompt": "Hello ", "echo": true, "max_tokens": 3});
    let answer = both(&stage, body).await;
    let text = answer["choices"][0]["text"].as_str().unwrap();
    assert!(text.starts_with("Hello Once") || text.starts_with("Hello O"), "{text}");

    // As long as the context, which leaves no room for output.
    let full = vec![5; MAX_MODEL_LEN as usize];
    let body = json!({"prompt": full, "echo": true, "max_tokens": 0});
    let answer = both(&stage, body).await;
    assert_eq!(answer["usage"]["prompt_tokens"], MAX_MODEL_LEN);

    let body = json!({"prompt": "Hello", "echo": true, "max_tokens": 0});
    let answer = both(&stage, body).await;
    assert_eq!(answer["choices"][0]["text"], "Hello");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 0);
}

#[tokio::test]
async fn a_stream_tells_its_usage_if_asked() {
    let stage = stage(says(TEXT)).await;
    let body = |options: Value| json!({"prompt": "x", "max_tokens": 4, "stream_options": options});
    let events = stage.events(PATH, body(json!({"include_usage": true}))).await;
    let (last, others) = events.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 4);
    assert!(others.iter().all(|event| event.get("usage").is_none()));

    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let events = stage.events(PATH, body(options)).await;
    let counts: Vec<u64> =
        events.iter().map(|e| e["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert!(counts.is_sorted() && counts.last() == Some(&4), "{counts:?}");

    let events = stage.events(PATH, json!({"prompt": "x", "max_tokens": 4})).await;
    assert!(events.iter().all(|event| event.get("usage").is_none()));
}

#[tokio::test]
async fn a_stream_speaks_as_often_as_asked() {
    let stage = stage(says(TEXT)).await;
    let body = |interval: u32| {
        let usage = json!({"include_usage": true, "continuous_usage_stats": true});
        json!({"prompt": "x", "max_tokens": 10, "stream_interval": interval, "logprobs": 0,
            "return_token_ids": true, "stream_options": usage})
    };
    let text = |events: &[Value]| -> String {
        let parts = events.iter().filter_map(|event| event["choices"][0]["text"].as_str());
        parts.collect()
    };
    let each = stage.events(PATH, body(1)).await;
    let some = stage.events(PATH, body(4)).await;
    assert_eq!(text(&each), text(&some));
    let sizes: Vec<usize> = some[..some.len() - 1]
        .iter()
        .map(|event| event["choices"][0]["token_ids"].as_array().unwrap().len())
        .collect();
    assert_eq!(sizes, [1, 4, 4, 1]);
    let counts: Vec<&Value> = some.iter().map(|e| &e["usage"]["completion_tokens"]).collect();
    assert_eq!(counts, [1, 5, 9, 10, 10]);
}

#[tokio::test]
async fn what_was_cached_is_always_told() {
    let says = says(TEXT);
    let stage = stage(std::sync::Arc::new(move |generate| {
        let mut acts = says(generate);
        for act in &mut acts {
            if let Act::Say(GenerateDown::Chunk(chunk)) = act {
                chunk.cached_tokens = 5;
            }
        }
        acts
    }))
    .await;
    let body = json!({"prompt": ["one", "two"], "max_tokens": 2});
    let details = json!({"cached_tokens": 10});
    let answer = stage.post(PATH, body.clone()).await.ok();
    assert_eq!(answer["usage"]["prompt_tokens_details"], details);
    let mut body = body;
    body["stream_options"] = json!({"include_usage": true});
    let events = stage.events(PATH, body).await;
    assert_eq!(events.last().unwrap()["usage"]["prompt_tokens_details"], details);

    // The leader has not said the last word when a stop string ends the text.
    let word = TEXT.split(' ').next().unwrap();
    let body = json!({"prompt": ["one", "two"], "max_tokens": 40, "stop": [word]});
    let answer = stage.post(PATH, body).await.ok();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["prompt_tokens_details"], details);
}

#[tokio::test]
async fn prompts_are_cut_to_what_fits() {
    let stage = stage(says(TEXT)).await;
    let tokens: Vec<u32> = (10..10 + 2 * MAX_MODEL_LEN).collect();
    let cases = [
        (json!({"truncate_prompt_tokens": -1}), 16, 10 + MAX_MODEL_LEN + 16),
        (json!({"truncate_prompt_tokens": -1, "max_tokens": 60}), 60, 10 + MAX_MODEL_LEN + 60),
        (json!({"truncate_prompt_tokens": -1, "truncation_side": "right"}), 16, 10),
        (json!({"truncate_prompt_tokens": 48, "truncation_side": "left"}), 16, 10 + 80),
    ];
    for (extra, output, first) in cases {
        let mut body = json!({"prompt": tokens});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        stage.post(PATH, body).await.ok();
        let generate = stage.leaders[0].started().await;
        assert_eq!(generate.prompt.len() as u32, MAX_MODEL_LEN - output, "{extra}");
        assert_eq!(generate.prompt[0], first, "{extra}");
        assert_eq!(generate.options.max_tokens, output, "the output has the room that it asked");
    }
    // A text that is far too long is cut before it costs anything.
    let body = json!({"prompt": "long ".repeat(200_000), "truncate_prompt_tokens": 20});
    stage.post(PATH, body).await.ok();
    assert_eq!(stage.leaders[0].started().await.prompt.len(), 20);
}

#[tokio::test]
async fn vocabulary_wide_logprobs_are_the_servers_to_allow() {
    let stage = stage_with(vec![says(TEXT)], |config| config.max_logprobs = None).await;
    let body = json!({"prompt": "x", "max_tokens": 1, "logprobs": -1, "prompt_logprobs": -1});
    stage.post(PATH, body).await.ok();
    let options = stage.leaders[0].started().await.options;
    let vocabulary = card().config.vocab_size as u32;
    assert_eq!((options.logprobs, options.prompt_logprobs), (Some(vocabulary), Some(vocabulary)));
}

#[tokio::test]
async fn minus_one_is_no_seed_and_urgency_has_an_end() {
    let stage = stage(says(TEXT)).await;
    let mut seeds = std::collections::BTreeSet::new();
    for priority in [i64::MAX, i64::MIN] {
        let body = json!({"prompt": "x", "max_tokens": 1, "seed": -1, "priority": priority,
            "stop_token_ids": [-5, 7, 7, 999_999_999_999_i64]});
        stage.post(PATH, body).await.ok();
        let generate = stage.leaders[0].started().await;
        assert_eq!(i64::from(generate.priority).signum(), priority.signum());
        assert_eq!(generate.options.stop_token_ids, [7]);
        seeds.insert(generate.seed);
    }
    assert_eq!(seeds.len(), 2, "drawn anew");
}

#[tokio::test]
async fn bad_words_become_the_tokens_that_spell_them() {
    let stage = stage(says(TEXT)).await;
    stage.post(PATH, json!({"prompt": "x", "max_tokens": 1, "bad_words": ["  fox"]})).await.ok();
    let sequences = stage.leaders[0].started().await.options.bad_words;
    let tokenizer = card().tokenizer;
    let encode = |text| tokenizer.encode(text, SpecialTokens::Exclude).unwrap();
    assert_eq!(sequences[0], encode("fox"));
    for more in &sequences[1..] {
        assert_eq!(*more, encode(" fox"), "after a space, if that is another token");
    }
}

#[tokio::test]
async fn options_reach_the_leader() {
    let stage = stage(says(&TEXT.repeat(4))).await;
    let body = json!({
        "prompt": "x", "max_tokens": MAX_MODEL_LEN, "temperature": 0.5, "top_p": 0.9,
        "top_k": 7, "min_p": 0.1, "presence_penalty": 0.25, "frequency_penalty": -0.5,
        "repetition_penalty": 1.5, "logit_bias": {"5": 200, "6": -1}, "seed": 42, "min_tokens": 2,
        "ignore_eos": true, "stop_token_ids": [9], "allowed_token_ids": [5, 6, 9], "priority": 3,
        "cache_salt": "salt", "bad_words": ["fox"], "unheard_of": {"a": [1]},
    });
    stage.post(PATH, body).await.ok();
    let generate = stage.leaders[0].started().await;
    let options = &generate.options;
    assert_eq!((options.temperature, options.top_p, options.top_k), (0.5, 0.9, 7));
    assert_eq!((options.min_p, options.presence_penalty), (0.1, 0.25));
    assert_eq!((options.frequency_penalty, options.repetition_penalty), (-0.5, 1.5));
    assert_eq!(options.logit_bias, [(5, 100.0), (6, -1.0)]);
    assert_eq!((generate.seed, options.min_tokens, options.ignore_eos), (42, 2, true));
    assert_eq!(options.stop_token_ids, [9]);
    assert_eq!(options.allowed_token_ids, [5, 6, 9]);
    assert_eq!(options.eos_token_ids, card().stop_ids);
    assert!(!options.bad_words.is_empty());
    assert_eq!((generate.priority, generate.cache_salt.as_deref()), (3, Some("salt")));
    let room = MAX_MODEL_LEN - generate.prompt.len() as u32;
    assert_eq!(options.max_tokens, room, "clamped to what is left of the context");
    assert!(generate.time_left_ms > 590_000);
}

#[tokio::test]
async fn a_trace_and_an_id_are_passed_on() {
    let stage = stage(says(TEXT)).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers =
        [("content-type", "application/json"), ("x-request-id", "mine"), ("traceparent", trace)];
    let body = json!({"prompt": "x", "max_tokens": 1}).to_string();
    let reply = stage.send("POST", PATH, &headers, &body).await;
    assert_eq!(reply.header("x-request-id"), "mine");
    assert_eq!(reply.ok()["id"], "cmpl-mine");
    let named = json!({"prompt": "x", "max_tokens": 1, "request_id": "theirs"});
    assert_eq!(stage.post(PATH, named.clone()).await.ok()["id"], "cmpl-theirs");
    let reply = stage.send("POST", PATH, &headers[..2], &named.to_string()).await;
    assert_eq!(reply.ok()["id"], "cmpl-mine", "the header wins");
    assert_eq!(stage.leaders[0].started().await.traceparent.as_deref(), Some(trace));
}
