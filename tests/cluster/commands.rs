//! Commands that end by themselves: `bench serve`, `run`, `batch` and `sim`, with the real binary.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    golden, http,
    operator::troupe,
    process::{Ended, Server, Troupe, completion, tokens, until},
};

/// The latencies of a report, and what is told of each.
const LATENCIES: [&str; 4] = ["ttft", "tpot", "itl", "e2el"];
const STATISTICS: [&str; 5] = ["mean", "median", "std", "p50", "p99"];

#[test]
fn a_report_adds_up() {
    let server = Server::serve(&model(), &[]);
    let folder = tempfile::tempdir().expect("a folder");
    let (ended, report) = bench(
        &server,
        folder.path(),
        "--random-input-len 20 --random-output-len 8 --random-range-ratio 0.5 \
         --random-prefix-len 5 --num-prompts 40 --max-concurrency 6 --num-warmups 2 --seed 3 \
         --percentile-metrics ttft,tpot,itl,e2el --metric-percentiles 50,99 --save-detailed \
         --goodput e2el:100000 --metadata machine=this",
    );
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{key} in {report}"));
    let list = |key: &str| -> Vec<f64> {
        serde_json::from_value(report[key].clone()).unwrap_or_else(|error| panic!("{key}: {error}"))
    };
    assert_eq!((number("completed"), number("failed")), (40.0, 0.0));
    let (inputs, outputs) = (list("input_lens"), list("output_lens"));
    assert!(inputs.iter().all(|input| (15.0..=35.0).contains(input)), "{inputs:?}");
    assert!(outputs.iter().all(|output| (4.0..=12.0).contains(output)), "{outputs:?}");
    assert_eq!(number("total_input_tokens"), inputs.iter().sum::<f64>());
    assert_eq!(number("total_output_tokens"), outputs.iter().sum::<f64>());
    let per_second = |count: f64| count / number("duration");
    let close = |key: &str, wanted: f64| {
        assert!((number(key) - wanted).abs() < 1e-6 * wanted, "{key}: {}", number(key));
    };
    let (input, output) = (number("total_input_tokens"), number("total_output_tokens"));
    close("request_throughput", per_second(40.0));
    close("request_goodput", per_second(40.0));
    close("output_throughput", per_second(output));
    close("total_token_throughput", per_second(input + output));
    for latency in LATENCIES {
        for statistic in STATISTICS {
            assert!(number(&format!("{statistic}_{latency}_ms")) >= 0.0);
        }
    }
    let ttfts = list("ttfts");
    close("mean_ttft_ms", ttfts.iter().sum::<f64>() / 40.0 * 1e3);
    assert!(number("max_concurrent_requests") >= 1.0);
    assert_eq!(report["machine"], "this");
    assert_eq!((&report["model_id"], &report["backend"]), (&json!("m"), &json!("openai")));
    // What the server counted is what was reported, with three requests that warmed up.
    assert_eq!(server.metric("vllm:request_success_total"), 43.0);
    assert!(server.metric("vllm:prompt_tokens_total") > input);
}

#[test]
fn lengths_are_exact_and_seeds_repeat() {
    let server = Server::serve(&model(), &[]);
    let folder = tempfile::tempdir().expect("a folder");
    let flags = "--random-input-len 17 --random-output-len 5 --num-prompts 10 --save-detailed \
                 --request-rate 200 --burstiness 0.5";
    let texts = |seed: u32| {
        let (ended, report) = bench(&server, folder.path(), &format!("{flags} --seed {seed}"));
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        assert_eq!(report["total_input_tokens"], 170);
        assert_eq!(report["total_output_tokens"], 50);
        assert_eq!(report["request_rate"], 200.0);
        report["generated_texts"].clone()
    };
    let first = texts(1);
    assert_eq!(texts(1), first);
    assert_ne!(texts(2), first);
}

#[test]
fn chats_and_files_are_datasets_too() {
    let server = Server::serve(&model(), &[]);
    let folder = tempfile::tempdir().expect("a folder");
    let (ended, report) = bench(
        &server,
        folder.path(),
        "--backend openai-chat --random-input-len 9 --random-output-len 4 --num-prompts 5",
    );
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_eq!(report["total_output_tokens"], 20);

    let prompts = folder.path().join("prompts.jsonl");
    fs::write(&prompts, "{\"prompt\": \"One\"}\n{\"prompt\": \"Two\"}\n").expect("written");
    let flags = format!(
        "--dataset-name custom --dataset-path {} --custom-output-len 3 --num-prompts 4 \
         --ignore-eos",
        prompts.display()
    );
    let (ended, report) = bench(&server, folder.path(), &flags);
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_eq!((&report["completed"], &report["total_output_tokens"]), (&json!(4), &json!(12)));

    let talks = folder.path().join("talks.json");
    let talk = json!([{"conversations": [
        {"from": "human", "value": "What is the capital of France, and why?"},
        {"from": "gpt", "value": "It is Paris, for many reasons."},
    ]}]);
    fs::write(&talks, talk.to_string()).expect("written");
    let flags = format!(
        "--dataset-name sharegpt --dataset-path {} --num-prompts 3 --tokenizer {}",
        talks.display(),
        model().display()
    );
    let (ended, report) = bench(&server, folder.path(), &flags);
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_eq!(report["completed"], 3);
}

#[test]
fn what_does_not_fit_is_said_before_anything_is_sent() {
    let server = Server::serve(&model(), &["--max-model-len", "64"]);
    let ended = Troupe::run(&[
        "bench",
        "serve",
        "--base-url",
        &format!("http://{}", server.address),
        "--random-input-len=60",
        "--random-output-len=5",
        "--num-prompts=2",
    ]);
    assert_eq!(ended.code, Some(2), "{}", ended.log);
    assert!(ended.log.contains("65 tokens") && ended.log.contains("64"), "{}", ended.log);
    assert_eq!(server.metric("vllm:request_success_total"), 0.0);
}

#[test]
fn fifty_prompts_give_what_they_give_one_by_one() {
    let folder = tempfile::tempdir().expect("a folder");
    // Texts, tokens and options, and all of different lengths.
    let prompts: Vec<Value> = (0..50_u32)
        .map(|index| match index % 3 {
            0 => json!({"prompt": format!("{index} birds sat on a wall"), "max_tokens": 9}),
            1 => json!({"prompt": (0..=index).map(|at| 10 + at * 7 % 400).collect::<Vec<_>>()}),
            _ => json!({"prompt": format!("Prompt {index}"), "temperature": 0.9, "seed": index}),
        })
        .collect();
    let flags = ["--max-tokens", "12", "--temperature", "0", "--max-concurrency", "20"];
    let (ended, lines) = run(folder.path(), &prompts, &flags);
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_eq!(lines.len(), 50);

    let server = Server::serve(&model(), &[]);
    for (index, (prompt, line)) in prompts.iter().zip(&lines).enumerate() {
        let mut body = json!({"max_tokens": 12, "temperature": 0});
        for (field, value) in prompt.as_object().expect("an object") {
            body[field] = value.clone();
        }
        let alone = http::post(server.address, "/v1/completions", &body).expect("an answer").ok();
        assert_eq!(line["line"], index + 1);
        assert_eq!(line["prompt"], prompt["prompt"]);
        assert_eq!(line["outputs"], alone["choices"], "line {}", index + 1);
        assert_eq!(line["usage"]["completion_tokens"], alone["usage"]["completion_tokens"]);
    }
}

#[test]
fn a_bad_prompt_fails_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let prompts = [
        json!({"prompt": "good", "max_tokens": 2}),
        json!({"prompt": "bad", "temperature": 7}),
        json!({"nothing": true}),
        json!("a text by itself"),
        json!({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}),
    ];
    let (ended, lines) = run(folder.path(), &prompts, &[]);
    assert_eq!(ended.code, Some(1), "{}", ended.log);
    assert!(ended.log.contains("2 of 5 lines failed"), "{}", ended.log);
    assert_eq!(lines.len(), 5);
    let said = |index: usize| lines[index]["error"]["message"].as_str().expect("a message");
    assert!(said(1).contains("temperature"), "{}", said(1));
    assert!(said(2).contains("line 3") && said(2).contains("`prompt`"), "{}", said(2));
    for good in [0, 3, 4] {
        assert!(lines[good]["outputs"][0]["text"].is_string(), "{}", lines[good]);
        assert!(lines[good].get("error").is_none());
    }
}

#[test]
fn nothing_is_started_for_files_that_cannot_be() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = |name: &str| folder.path().join(name).display().to_string();
    fs::write(here("empty"), "\n\n").expect("written");
    fs::write(here("prompts"), "one\n").expect("written");
    let model = model().display().to_string();
    let cases = [
        (here("missing"), here("out"), "missing"),
        (here("empty"), here("out"), "no lines"),
        (here("prompts"), here("prompts"), "choose another"),
        (here("prompts"), here("no/such/folder"), "no/such/folder"),
    ];
    for (input, output, words) in cases {
        let ended = Troupe::run(&["run", &model, "--input", &input, "--output", &output]);
        assert_eq!(ended.code, Some(2), "{}", ended.log);
        assert!(ended.log.contains(words), "{words} in {}", ended.log);
    }
    assert_eq!(fs::read_to_string(here("prompts")).expect("it is there"), "one\n");
}

#[test]
fn a_batch_answers_every_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let request = |id: &str, url: &str, body: Value| {
        json!({"custom_id": id, "method": "POST", "url": url, "body": body}).to_string()
    };
    let chat = json!({
        "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5, "temperature": 0,
    });
    let lines = [
        request("text", "/v1/completions", json!({"prompt": "One", "max_tokens": 3})),
        request("chat", "/v1/chat/completions", chat.clone()),
        "not json at all".to_owned(),
        request("refused", "/v1/completions", json!({"prompt": "One", "top_p": 9})),
        request("nobody", "/v1/completions", json!({"prompt": "One", "model": "gpt-5"})),
        request("elsewhere", "/v1/nowhere", json!({})),
        request("text", "/v1/completions", json!({"prompt": "One"})),
        request("last", "/v1/completions", json!({"prompt": [20, 21], "max_tokens": 2})),
    ];
    let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    fs::write(&input, lines.join("\n")).expect("written");
    let server = Server::serve(&model(), &[]);
    let url = format!("http://{}", server.address);
    let model = model().display().to_string();
    for (flag, value) in [("--model", &model), ("--base-url", &url)] {
        let files = [input.display().to_string(), output.display().to_string()];
        let ended = Troupe::run(&["batch", "-i", &files[0], "-o", &files[1], flag, value]);
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        assert!(ended.log.contains("8 of 8 results, 5 failed"), "{}", ended.log);
        let told = read(&output);
        let ids: Vec<_> = told.iter().map(|line| line["custom_id"].as_str()).collect();
        let wanted = ["text", "chat", "", "refused", "nobody", "elsewhere", "text", "last"];
        assert_eq!(ids, wanted.map(|id| (!id.is_empty()).then_some(id)));
        let status = |index: usize| told[index]["response"]["status_code"].as_u64();
        assert_eq!([0, 1, 3, 4, 7].map(status), [200, 200, 400, 404, 200].map(Some));
        for bad in [2, 5, 6] {
            assert_eq!((&told[bad]["response"], status(bad)), (&Value::Null, None));
            let message = told[bad]["error"]["message"].as_str().expect("a message");
            assert!(message.contains(&format!("line {}", bad + 1)), "{message}");
        }
        for good in [0, 1, 7] {
            let line = &told[good];
            assert_eq!(line["error"], Value::Null);
            assert!(line["id"].as_str().is_some_and(|id| id.starts_with("batch_req_")), "{line}");
            let id = line["response"]["request_id"].as_str().expect("an id");
            assert!(!id.is_empty());
        }
        let alone = http::post(server.address, "/v1/chat/completions", &chat).expect("an answer");
        let body = &told[1]["response"]["body"];
        assert_eq!(body["choices"], alone.ok()["choices"]);
    }
}

/// Steps are slow, so that the command is asked to end while most of its work is undone.
#[test]
fn an_interrupted_command_keeps_what_it_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (folder.path().join("prompts"), folder.path().join("out.jsonl"));
    fs::write(&input, "a prompt\n".repeat(200)).expect("written");
    let args: [&str; 12] = [
        "run",
        &model().display().to_string(),
        "--input",
        &input.display().to_string(),
        "--output",
        &output.display().to_string(),
        "--max-tokens",
        "4",
        "--max-concurrency",
        "2",
        "--stage-time-min-ms",
        "20",
    ];
    let mut troupe = Troupe::start(&args);
    let written = || fs::read_to_string(&output).unwrap_or_default().lines().count();
    until("some results are written", || written() >= 3);
    troupe.interrupt();
    assert_eq!(troupe.ended().code(), Some(1));
    assert!(troupe.log().contains("interrupted"), "it says so");
    let lines = read(&output);
    assert!((3..200).contains(&lines.len()), "{} lines", lines.len());
    assert!(lines.iter().all(|line| line["outputs"].is_array()));
}

/// A server that says "later" three times means it.
#[test]
fn a_batch_asks_again_where_there_is_no_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    let line = json!({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {}});
    fs::write(&input, line.to_string()).expect("written");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let server = std::thread::spawn(move || {
        for (status, body) in
            [("503 Later", "{}"), ("429 Later", "{}"), ("503 Later", "{}"), ("200 OK", "{\"a\":1}")]
        {
            let (mut socket, _) = listener.accept().expect("a connection");
            let mut head = [0; 4096];
            assert!(socket.read(&mut head).expect("a request") > 0);
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n");
            write!(socket, "{head}connection: close\r\n\r\n{body}").expect("an answer");
        }
    });
    let files = [input.display().to_string(), output.display().to_string()];
    let ended = Troupe::run(&["batch", "-i", &files[0], "-o", &files[1], "--base-url", &url]);
    server.join().expect("four requests came");
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_eq!(read(&output)[0]["response"]["body"], json!({"a": 1}));
}

/// In two processes, so that no order of a hash table is the same by accident.
#[test]
fn a_simulation_is_the_same_in_every_process() {
    let simulate = |seed: &str| {
        let args = ["sim", "--conversations", "60", "--output-format", "json", "--seed", seed];
        let said = troupe(&args);
        assert_eq!(said.code, Some(0), "{}", said.err);
        serde_json::from_str::<Value>(&said.out).expect("figures and nothing else")
    };
    let (first, other) = (simulate("3"), simulate("4"));
    assert_eq!(first, simulate("3"));
    let profiles = first.as_array().expect("one for each profile");
    assert_eq!(profiles.len(), 5);
    for (at, figures) in profiles.iter().enumerate() {
        assert_eq!(figures["requests"], 300, "{figures}");
        assert_ne!(figures["trace"], other[at]["trace"], "{figures}");
    }
}

#[test]
fn a_random_model_can_be_made_and_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("model");
    let path = model.display().to_string();
    let sizes = "--hidden-size 64 --intermediate-size 96 --num-hidden-layers 2 \
                 --num-attention-heads 4 --num-key-value-heads 2 --vocab-size 1000";
    let make = |sizes: &str| {
        let mut args = vec!["bench", "random-model", &path];
        args.extend(sizes.split_whitespace());
        Troupe::run(&args)
    };
    let ended = make(sizes);
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let bytes = fs::read(model.join("model.safetensors")).expect("weights");
    assert_eq!(make(sizes).code, Some(0), "it is there already");
    assert_eq!(fs::read(model.join("model.safetensors")).expect("weights"), bytes);
    let other = make("--num-hidden-layers 1");
    assert_eq!(other.code, Some(1), "{}", other.log);
    assert!(other.log.contains("another model"), "{}", other.log);
    assert_eq!(make("--num-attention-heads 7").code, Some(2));

    let server = Server::serve(&model, &[]);
    // Every word has a text of its own, so that a stream has a chunk for each.
    let mut body = completion(&[300, 500, 999], 20);
    let whole = http::post(server.address, "/v1/completions", &body).expect("an answer").ok();
    let told = tokens(&whole["choices"][0]);
    assert_eq!(told.len(), 20);
    // Behind special tokens and single bytes, which need not be whole characters.
    let words = told.into_iter().filter(|token| *token >= 259).count();
    assert!(words > 0, "more than half of the vocabulary are words");
    body["return_token_ids"] = json!(false);
    body["stream"] = json!(true);
    let stream = http::stream(server.address, "/v1/completions", &body).expect("an answer");
    let chunks = stream.filter(|event| matches!(event, http::Event::Data(_))).count();
    assert!(chunks >= words, "{chunks} chunks for {words} words");
    let asked = json!({"prompt": "abcd zzz", "add_special_tokens": false});
    let told = http::post(server.address, "/tokenize", &asked).expect("an answer").ok();
    let back = json!({"tokens": told["tokens"]});
    let text = http::post(server.address, "/detokenize", &back).expect("an answer").ok();
    assert_eq!(text["prompt"], "abcd zzz");
}

fn model() -> PathBuf {
    golden::model("tiny-chat").expect("both sets have it")
}

/// `troupe bench serve` with these flags, and the report that it wrote.
fn bench(server: &Server, folder: &Path, flags: &str) -> (Ended, Value) {
    let (url, folder) = (format!("http://{}", server.address), folder.display().to_string());
    let mut args = vec!["bench", "serve", "--base-url", &url, "--save-result"];
    args.extend(["--result-dir", &folder, "--result-filename", "report.json"]);
    args.extend(flags.split_whitespace());
    let ended = Troupe::run(&args);
    let report = fs::read(Path::new(&folder).join("report.json")).unwrap_or_default();
    (ended, serde_json::from_slice(&report).unwrap_or_default())
}

/// `troupe run` with these lines, and the lines that came of it.
fn run(folder: &Path, prompts: &[Value], flags: &[&str]) -> (Ended, Vec<Value>) {
    let (input, output) = (folder.join("in.jsonl"), folder.join("out.jsonl"));
    let lines: Vec<_> = prompts.iter().map(Value::to_string).collect();
    fs::write(&input, lines.join("\n")).expect("written");
    let args = [model(), input, output.clone()].map(|path| path.display().to_string());
    let mut all = vec!["run", &args[0], "--input", &args[1], "--output", &args[2]];
    all.extend(flags);
    let ended = Troupe::run(&all);
    (ended, read(&output))
}

fn read(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).expect("results were written");
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}
