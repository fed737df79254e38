//! What cannot work is said at once, in words that tell what would, and with exit code 2.

use std::{fs, net::TcpListener, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    golden,
    process::{Ended, Troupe},
};

#[test]
fn a_model_that_is_not_there() {
    for model in ["/nowhere/at-all", "org/model-that-nobody-fetched", "./nowhere"] {
        let ended = serve(Path::new(model), &[]);
        check(&ended, &[model]);
    }
}

#[test]
fn a_folder_without_a_config() {
    let folder = tempfile::tempdir().expect("a folder");
    check(&serve(folder.path(), &[]), &["config.json"]);
}

#[test]
fn weights_that_were_cut_off() {
    let folder = copy();
    let weights = folder.path().join("model.safetensors");
    let length = fs::metadata(&weights).expect("its size").len();
    // In the middle of a tensor, in the header, in the header's length, and nothing at all.
    for keep in [length - 1, length / 2, 100, 5, 0] {
        let file = fs::File::options().write(true).open(&weights).expect("it can be opened");
        file.set_len(keep).expect("it can be cut");
        check(&serve(folder.path(), &["-tp", "2"]), &["model.safetensors"]);
    }
}

#[test]
fn an_architecture_that_is_unknown() {
    let folder = copy();
    edit(folder.path(), "config.json", |config| {
        config["architectures"] = json!(["FancyNewForCausalLM"]);
        config["model_type"] = json!("fancy_new");
    });
    check(&serve(folder.path(), &[]), &["FancyNewForCausalLM", "LlamaForCausalLM"]);
}

#[test]
fn a_tokenizer_that_does_not_fit() {
    let folder = copy();
    // Tokens that the model has no rows for.
    edit(folder.path(), "tokenizer.json", |tokenizer| {
        let vocabulary = tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary");
        for number in 0..1000 {
            vocabulary.insert(format!("surplus{number}"), json!(10_000 + number));
        }
    });
    check(&serve(folder.path(), &[]), &["tokenizer"]);
    fs::write(folder.path().join("tokenizer.json"), "{}").expect("it can be written");
    check(&serve(folder.path(), &[]), &["tokenizer.json"]);
}

/// Its library would panic with every text.
#[test]
fn a_tokenizer_that_cannot_work() {
    let folder = copy();
    edit(folder.path(), "tokenizer.json", |tokenizer| {
        tokenizer["post_processor"] = json!({
            "type": "TemplateProcessing", "special_tokens": {},
            "single": [{"SpecialToken": {"id": "<none>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "B", "type_id": 0}}],
        });
    });
    let words = ["tokenizer.json is not a tokenizer that can be used", "<none>"];
    check(&serve(folder.path(), &[]), &words);
}

#[test]
fn a_template_that_cannot_be_used() {
    let folder = copy();
    let with = |template: &str| {
        edit(folder.path(), "tokenizer_config.json", |config| {
            config["chat_template"] = template.into();
        });
        serve(folder.path(), &[])
    };
    check(&with("a\n{% if %}"), &["tokenizer_config.json", "line 2"]);
    check(&with("{% include 'chat' %}"), &["tokenizer_config.json", "stand alone"]);
}

#[test]
fn a_division_that_does_not_come_out() {
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    let ended = serve(&model, &["-tp", "3"]);
    check(&ended, &["1, 2, 4, 8", "3"]);
    // Four layers.
    check(&serve(&model, &["-pp", "5"]), &["5", "4"]);
}

#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    let model = model.to_str().expect("a path that can be written");
    let ended = Troupe::run(&["serve", model, "--host", "127.0.0.1", "--port", &port]);
    check(&ended, &[&port, "--port"]);
}

#[test]
fn a_member_by_hand() {
    check(&Troupe::run(&["member"]), &["a member is started by its node"]);
}

#[test]
fn arguments_that_make_no_sense() {
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    check(&serve(&model, &["-tp", "0"]), &["tensor-parallel-size"]);
    check(&serve(&model, &["--device", "gpu"]), &["gpu", "cuda:N"]);
    // No machine has so many.
    check(&serve(&model, &["--device", "cuda:99"]), &["cuda:99", "--device cpu"]);
    check(&serve(&model, &["--gpu-memory-utilization", "90"]), &["between 0 and 1"]);
    check(&serve(&model, &["-tp", "2", "--enable-expert-parallel"]), &["no experts", "divided"]);
    check(&serve(&model, &["--log", "=="]), &["log filter"]);
    check(&serve(&model, &["--stage-processes", "--rank-processes"]), &["--rank-processes"]);
    check(&serve(&model, &["--max-model-len", "100000"]), &["100000", "1024"]);
    check(&serve(&model, &["--served-model-name", ""]), &["served-model-name"]);
}

fn serve(model: &Path, args: &[&str]) -> Ended {
    let model = model.to_str().expect("a path that can be written");
    let mut all = vec!["serve", model, "--host", "127.0.0.1", "--port", "0"];
    all.extend(args);
    Troupe::run(&all)
}

fn check(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code, Some(2), "{}", ended.log);
    for word in words {
        assert!(ended.log.contains(word), "`{word}` is not said:\n{}", ended.log);
    }
    assert!(!ended.log.contains("panicked"), "{}", ended.log);
    assert!(!ended.log.contains("RUST_BACKTRACE"), "{}", ended.log);
}

/// A golden model of one's own, to be spoilt.
fn copy() -> TempDir {
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    let folder = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(model).expect("it can be listed") {
        let entry = entry.expect("it can be listed");
        fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("it can be copied");
    }
    folder
}

fn edit(folder: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = folder.join(file);
    let text = fs::read_to_string(&path).expect("it can be read");
    let mut value: Value = serde_json::from_str(&text).expect("it is JSON");
    change(&mut value);
    fs::write(path, value.to_string()).expect("it can be written");
}
