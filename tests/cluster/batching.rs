//! Many requests at once: the same tokens as alone, in shared steps; and a client that goes away.

use std::sync::Barrier;

use serde_json::{Value, json};

use crate::{
    golden, http,
    process::{Server, completion, tokens, until},
};

/// As many as are asked for at once.
const REQUESTS: usize = 16;
const TOKENS: usize = 48;

#[test]
fn requests_that_share_steps_get_the_tokens_that_they_get_alone() {
    // Every step takes a while, so that requests meet however fast this machine is.
    let server = Server::serve(&model(), &["--stage-time-min-ms", "10"]);
    let prompts = prompts();
    let alone: Vec<_> =
        prompts.iter().map(|prompt| tokens(&server.complete(prompt, TOKENS))).collect();
    let steps = || server.metric("vllm:iteration_tokens_total_count");
    let before = steps();

    let together = at_once(&server, &prompts);
    assert_eq!(together, alone);
    let per_step = (REQUESTS * TOKENS) as f64 / (steps() - before);
    assert!(per_step >= 8.0, "{per_step} tokens of output per step");
}

#[test]
fn golden_batches_come_out_as_golden() {
    // Only the full set has them.
    let Some(model) = golden::model("tiny-llama-untied") else { return };
    let golden = golden::json("models/tiny-llama-untied/golden_batch.json").expect("it has one");
    let requests = golden["requests"].as_array().expect("requests");
    let server = Server::serve(&model, &["-tp", "2", "--stage-time-min-ms", "5"]);
    std::thread::scope(|scope| {
        for request in requests {
            let server = &server;
            scope.spawn(move || {
                let wanted: Vec<u32> =
                    serde_json::from_value(request["greedy_ids"].clone()).expect("tokens");
                let prompt: Vec<u32> =
                    serde_json::from_value(request["ids"].clone()).expect("tokens");
                let told = tokens(&server.complete(&prompt, wanted.len()));
                assert_eq!(told, wanted, "request {}", request["id"]);
            });
        }
    });
}

#[test]
fn a_client_that_goes_away_frees_its_blocks() {
    const ASKED: usize = 400;
    let server = Server::serve(&model(), &["--stage-time-min-ms", "50"]);
    let mut body = completion(&prompts()[3], ASKED);
    body["stream"] = json!(true);
    let mut stream = http::stream(server.address, "/v1/completions", &body).expect("an answer");
    assert!(matches!(stream.next(), Some(http::Event::Data(_))), "it has begun");
    until("the request runs", || server.metric("vllm:num_requests_running") == 1.0);
    assert!(server.metric("vllm:kv_cache_usage_perc") > 0.0);
    drop(stream);
    until("its blocks are free", || {
        server.metric("vllm:num_requests_running") == 0.0
            && server.metric("vllm:kv_cache_usage_perc") == 0.0
    });
    let made = server.metric("vllm:iteration_tokens_total_sum");
    assert!(made < ASKED as f64, "it was ended, it has not come to its end: {made} tokens");
}

/// Ctrl-C reaches every process of a terminal's foreground group; members are not among them, so
/// that what is in flight can be finished.
#[test]
fn a_stream_in_flight_is_finished_when_the_server_is_asked_to_end() {
    let args = ["-pp", "2", "--stage-processes", "--stage-time-min-ms", "10"];
    let mut server = Server::serve(&model(), &args);
    let alone = tokens(&server.complete(&prompts()[0], TOKENS));
    let mut body = completion(&prompts()[0], TOKENS);
    body["stream"] = json!(true);
    let mut stream = http::stream(server.address, "/v1/completions", &body).expect("an answer");
    let Some(http::Event::Data(first)) = stream.next() else { panic!("it does not begin") };
    let mut told = tokens(&first["choices"][0]);
    server.troupe.interrupt();
    let mut done = false;
    for event in stream {
        match event {
            http::Event::Data(data) => told.extend(tokens(&data["choices"][0])),
            http::Event::Done => done = true,
            http::Event::Broken(why) => panic!("the stream broke: {why}"),
        }
    }
    assert!(done && told == alone, "{told:?}");
    let status = server.troupe.ended();
    assert!(status.success(), "{status}");
}

fn at_once(server: &Server, prompts: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let together = Barrier::new(prompts.len());
    std::thread::scope(|scope| {
        let asked: Vec<_> = prompts
            .iter()
            .map(|prompt| {
                scope.spawn(|| {
                    together.wait();
                    tokens(&server.complete(prompt, TOKENS))
                })
            })
            .collect();
        asked.into_iter().map(|asked| asked.join().expect("an answer")).collect()
    })
}

fn model() -> std::path::PathBuf {
    golden::model("tiny-qwen2").expect("both sets have it")
}

/// Beginnings of the longest golden prompt, each of another length and most of several blocks, some
/// of which they share.
fn prompts() -> Vec<Vec<u32>> {
    let golden = golden::json("models/tiny-qwen2/golden.json").expect("it has goldens");
    let longest: &Value = &golden["prompts"][3]["ids"];
    let longest: Vec<u32> = serde_json::from_value(longest.clone()).expect("tokens");
    (1..=REQUESTS).map(|index| longest[..9 * index].to_vec()).collect()
}
