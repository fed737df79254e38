//! A model that nobody has put on this machine: it comes from a hub, cut and resumed, while the
//! server starts, and gives its golden tokens.

use std::fs;

use crate::{
    golden,
    process::{Ended, Server, Troupe, tokens},
    stand::{Fault, Stand},
};

const NAME: &str = "tiny/chat";
const GOLDEN: &str = "tiny-llama-tied";

#[test]
fn a_model_comes_from_a_hub_while_its_server_starts() {
    let folder = golden::model(GOLDEN).expect("both sets have it");
    let files = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];
    let files = files.map(|name| (name, fs::read(folder.join(name)).expect("a model's file")));
    let hub = Stand::hub(NAME, files.into());
    hub.fault(Fault::Cut { after: 100_000, times: 3 });
    let cache = tempfile::tempdir().expect("a folder");
    let words =
        [format!("HF_ENDPOINT={}", hub.url()), format!("HF_HUB_CACHE={}", cache.path().display())];
    let serve = |more: &[&str]| {
        let mut program = vec!["env", "-u", "HF_HUB_OFFLINE"];
        program.extend(words.iter().map(String::as_str));
        let mut args = vec!["serve", NAME, "--host", "127.0.0.1", "--port", "0"];
        args.extend(["--served-model-name", "m", "--dtype", "float32", "--log-format", "json"]);
        args.extend(more);
        let mut troupe = Troupe::start_under(&program, &args);
        let address = troupe.address("Troupe serves m on ");
        Server { troupe, address }
    };
    // Two processes that need the same files.
    let server = serve(&["-pp", "2", "--stage-processes"]);
    let prompt =
        &golden::json(&format!("models/{GOLDEN}/golden.json")).expect("goldens")["prompts"][1];
    let ids = |key: &str| -> Vec<u32> {
        serde_json::from_value(prompt[key].clone()).expect("a list of tokens")
    };
    let answer = server.complete(&ids("ids"), 48);
    assert_eq!(tokens(&answer), ids("greedy_ids"));
    let weights = hub.file("model.safetensors").len() as u64;
    assert!(hub.sent() < 2 * weights, "{} bytes were sent", hub.sent());
    drop(server);

    // Once it is here, no hub is needed.
    drop(hub);
    let server = serve(&[]);
    assert_eq!(tokens(&server.complete(&ids("ids"), 48)), ids("greedy_ids"));
}

#[test]
fn a_hub_that_says_no_is_quoted() {
    let hub = Stand::hub(NAME, Vec::new());
    hub.fault(Fault::Status { status: 401, times: 100 });
    let words = format!("HF_ENDPOINT={}", hub.url());
    let program = ["env", "-u", "HF_HUB_OFFLINE", "-u", "HF_TOKEN", "HF_HOME=/nowhere", &words];
    let Ended { code, log } = Troupe::run_under(&program, &["serve", NAME, "--port", "0"]);
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("set HF_TOKEN to a token that may read it"), "{log}");
}
