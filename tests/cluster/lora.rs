//! Adapters as clients use them: as names of models, many at once, coming and going under load.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};

use crate::{
    golden, http,
    process::{Ended, Server, Troupe, completion, kill, tokens, until},
    stand::{Fault, Stand},
};

const CHAT: &str = "tiny-chat";
const CHAT_ADAPTERS: [&str; 2] = ["tiny-chat-lora-a", "tiny-chat-lora-b"];
const BASE: &str = "tiny-llama-untied";
const ADAPTERS: [&str; 3] =
    ["tiny-llama-lora-a", "tiny-llama-lora-b", "tiny-llama-lora-c-rslora-qv"];

fn model(name: &str) -> PathBuf {
    golden::model(name).expect("both sets have it")
}

fn adapter() -> String {
    let folder = golden::adapter(CHAT_ADAPTERS[0]).expect("both sets have it");
    folder.to_str().expect("a path that can be written").to_owned()
}

/// Those of some adapters that this golden set has, as `--lora-modules` takes them.
fn modules(names: &[&'static str]) -> Vec<(&'static str, String)> {
    let found = names.iter().filter_map(|name| Some((*name, golden::adapter(name)?)));
    found.map(|(name, folder)| (name, format!("{name}={}", folder.display()))).collect()
}

/// A request in the words of a golden chat, and the text that must come.
fn chats(golden: &str, model: &str) -> Vec<(Value, Value)> {
    let golden = golden::json(&format!("models/{golden}/golden_chat.json")).expect("it has chats");
    let cases = golden["chats"].as_array().expect("chats").iter();
    let case = |case: &Value| {
        let body = json!({
            "model": model, "messages": case["messages"], "temperature": 0, "tools": case["tools"],
            "chat_template_kwargs": case["chat_template_kwargs"], "return_token_ids": true,
        });
        (body, case["completion_ids"].clone())
    };
    cases.map(case).collect()
}

fn ask(server: &Server, (body, wanted): &(Value, Value)) {
    let answer = http::post(server.address, "/v1/chat/completions", body).expect("an answer").ok();
    assert_eq!(answer["model"], body["model"]);
    assert_eq!(answer["choices"][0]["token_ids"], *wanted, "{body}");
}

#[test]
fn adapters_answer_by_their_names_beside_their_base() {
    let modules = modules(&CHAT_ADAPTERS);
    assert!(!modules.is_empty(), "both sets have one");
    let mut args = vec!["--max-loras", "2", "-tp", "2", "-pp", "2", "--stage-processes"];
    args.push("--lora-modules");
    args.extend(modules.iter().map(|(_, module)| module.as_str()));
    let server = Server::serve(&model(CHAT), &args);
    let models = http::get(server.address, "/v1/models").expect("models").ok();
    let cards = models["data"].as_array().expect("a list");
    assert_eq!(cards.len(), 1 + modules.len());
    for (name, module) in &modules {
        let card = cards.iter().find(|card| card["id"] == *name).expect("it is listed");
        assert_eq!(card["parent"], "m");
        assert!(module.ends_with(card["root"].as_str().expect("a path")));
    }
    let mut all = chats(CHAT, "m");
    all.truncate(8);
    for (name, _) in &modules {
        all.extend(chats(name, name));
    }
    std::thread::scope(|scope| {
        for case in &all {
            let server = &server;
            scope.spawn(move || ask(server, case));
        }
    });
    assert!(server.metric("vllm:lora_requests_info") > 1e9);
}

#[test]
fn thirty_two_over_three_adapters_and_the_base_are_each_their_own() {
    // Only the full set has them.
    let (modules, Some(base)) = (modules(&ADAPTERS), golden::model(BASE)) else { return };
    if modules.len() < ADAPTERS.len() {
        return;
    }
    let mut args = vec!["--dtype", "float32", "--max-loras", "3", "--stage-time-min-ms", "5"];
    args.push("--lora-modules");
    args.extend(modules.iter().map(|(_, module)| module.as_str()));
    let server = Server::serve(&base, &args);
    let who: Vec<_> = [("m", BASE)].into_iter().chain(ADAPTERS.map(|name| (name, name))).collect();
    std::thread::scope(|scope| {
        for number in 0..32 {
            let (server, (name, golden)) = (&server, who[number % 4]);
            scope.spawn(move || {
                let golden = golden::json(&format!("models/{golden}/golden.json"));
                let prompt = golden.expect("goldens")["prompts"][number / 4 % 4].clone();
                let ids = |key: &str| -> Vec<u32> {
                    serde_json::from_value(prompt[key].clone()).expect("a list of tokens")
                };
                let mut body = completion(&ids("ids"), 48);
                body["model"] = json!(name);
                let answer = http::post(server.address, "/v1/completions", &body);
                let answer = answer.expect("an answer").ok();
                assert_eq!(tokens(&answer["choices"][0]), ids("greedy_ids"), "{name} {number}");
            });
        }
    });
}

#[test]
fn loading_and_unloading_under_load_loses_nothing() {
    let module = format!("steady={}", adapter());
    let args = ["--allow-runtime-lora-updating", "--max-loras", "2", "--lora-modules", &module];
    let more = ["-pp", "2", "--stage-processes", "--stage-time-min-ms", "2"];
    let server = Server::serve(&model(CHAT), &[&args[..], &more[..]].concat());
    let (base, steady) = (chats(CHAT, "m"), chats(CHAT_ADAPTERS[0], "steady"));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for cases in [&base[..4], &steady, &base[4..8], &steady] {
            let (server, over) = (&server, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    cases.iter().for_each(|case| ask(server, case));
                }
            });
        }
        // Ends the others also where this panics.
        let _over = Over(&over);
        let cases = chats(CHAT_ADAPTERS[0], "guest");
        let change = |path: &str, body: Value| http::post(server.address, path, &body).unwrap();
        for _ in 0..6 {
            let body = json!({"lora_name": "guest", "lora_path": adapter()});
            let said = change("/v1/load_lora_adapter", body);
            assert_eq!((said.status, said.text.as_str()), (200, ADDED), "{}", said.text);
            // One that has begun when its adapter is unloaded comes to its end.
            let (mut body, wanted) = cases[0].clone();
            body["stream"] = json!(true);
            let mut stream =
                http::stream(server.address, "/v1/chat/completions", &body).expect("an answer");
            let mut told = told_by(stream.next().expect("it has begun"));
            cases[1..].iter().for_each(|case| ask(&server, case));
            let said = change("/v1/unload_lora_adapter", json!({"lora_name": "guest"}));
            assert_eq!((said.status, said.text.as_str()), (200, REMOVED), "{}", said.text);
            told.extend(stream.flat_map(told_by));
            assert_eq!(json!(told), wanted);
            let gone = http::post(server.address, "/v1/chat/completions", &cases[0].0);
            assert_eq!(gone.expect("an answer").status, 404);
        }
    });
    until("nothing is held", || server.metric("vllm:kv_cache_usage_perc") == 0.0);
}

/// The group has what was declared, however often it is formed.
#[test]
fn a_stream_goes_on_with_its_adapter_when_its_group_is_formed_anew() {
    let module = format!("a={}", adapter());
    let args = ["--lora-modules", &module, "-pp", "2", "--stage-processes"];
    let slow = ["--stage-time-min-ms", "20"];
    let server = Server::serve(&model(CHAT), &[&args[..], &slow].concat());
    let cases = chats(CHAT_ADAPTERS[0], "a");
    for at in [0, 1] {
        let (mut body, wanted) = cases[at].clone();
        body["stream"] = json!(true);
        let mut stream =
            http::stream(server.address, "/v1/chat/completions", &body).expect("an answer");
        let mut told = Vec::new();
        while told.len() < 3 {
            told.extend(told_by(stream.next().expect("it goes on")));
        }
        let member = server.troupe.members()[at];
        kill(member);
        told.extend(stream.flat_map(told_by));
        assert_eq!(json!(told), wanted);
    }
    cases.iter().for_each(|case| ask(&server, case));
}

/// The tokens of an event of a stream.
fn told_by(event: http::Event) -> Vec<u32> {
    match event {
        http::Event::Data(data) => {
            let ids = data["choices"][0]["token_ids"].as_array();
            ids.into_iter().flatten().filter_map(Value::as_u64).map(|id| id as u32).collect()
        }
        http::Event::Done => Vec::new(),
        http::Event::Broken(why) => panic!("the stream broke: {why}"),
    }
}

const ADDED: &str = "Success: LoRA adapter 'guest' added successfully.";
const REMOVED: &str = "Success: LoRA adapter 'guest' removed successfully.";

/// Says that it is over when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn an_adapter_comes_from_a_hub() {
    let folder = golden::adapter(CHAT_ADAPTERS[0]).expect("both sets have it");
    let files = ["adapter_config.json", "adapter_model.safetensors"];
    let files = files.map(|name| (name, fs::read(folder.join(name)).expect("an adapter's file")));
    let hub = Stand::hub("org/adapter", files.into());
    hub.fault(Fault::Cut { after: 50_000, times: 2 });
    let cache = tempfile::tempdir().expect("a folder");
    let words =
        [format!("HF_ENDPOINT={}", hub.url()), format!("HF_HUB_CACHE={}", cache.path().display())];
    let mut program = vec!["env", "-u", "HF_HUB_OFFLINE"];
    program.extend(words.iter().map(String::as_str));
    // Two processes that need the same files.
    let args = ["--lora-modules", "a=org/adapter", "-pp", "2", "--stage-processes"];
    let server = Server::serve_under(&program, &model(CHAT), &args);
    chats(CHAT_ADAPTERS[0], "a").iter().for_each(|case| ask(&server, case));
}

#[test]
fn an_adapter_that_does_not_fit_is_refused_with_all_that_is_wrong() {
    // One of another base, at the start: nothing is served.
    let base = model("tiny-qwen2");
    let base = base.to_str().expect("a path that can be written");
    let module = format!("a={}", adapter());
    let args = ["serve", base, "--host", "127.0.0.1", "--port", "0", "--lora-modules", &module];
    let Ended { code, log } = Troupe::run(&args);
    assert_ne!(code, Some(0), "{log}");
    for said in ["the LoRA adapter a", "rank and model imply", "it was made for tiny-chat"] {
        assert!(log.contains(said), "`{said}` is not said:\n{log}");
    }
    // While one serves: it goes on.
    let args = ["--enable-lora", "--max-lora-rank", "4", "--allow-runtime-lora-updating"];
    let server = Server::serve(&model(CHAT), &args);
    for (path, said) in [
        (adapter(), "its rank is 8, --max-lora-rank allows up to 4"),
        ("/nowhere".into(), "nowhere"),
    ] {
        let body = json!({"lora_name": "a", "lora_path": path});
        let refused =
            http::post(server.address, "/v1/load_lora_adapter", &body).expect("an answer");
        assert_eq!(refused.status, 400);
        assert!(refused.text.contains(said), "{}", refused.text);
    }
    ask(&server, &chats(CHAT, "m")[0]);
}
