//! Files of models and grammars that an enemy wrote: good ones with a few bytes or values changed,
//! from seeds that are the same in every run. Each is an error or is read, and what is read can be
//! used; nothing panics, nothing runs away. (The wire's messages have this in `wire`, specs in
//! `src/spec/tests/fuzz.rs`, bodies of requests in the gateway's tests.)
//!
//! (`tests/support/fuzz.rs` makes the inputs; what it begins from beside the golden models is in
//! `corpus/`.)

use std::{path::Path, sync::Arc};

use rand::RngExt;
use serde_json::{Map, Value, json};
use troupe_runtime::{
    model::{
        config::{GenerationConfig, ModelConfig},
        detokenize::Detokenizer,
        grammar::GrammarFactory,
        pooling::SentenceFiles,
        template::{ChatInput, ChatTemplates},
        tokenizer::{SpecialTokens, Tokenizer},
        tokenizer_config::TokenizerConfig,
    },
    spec::objects,
    wire::generate::Grammar,
};

use crate::{
    fuzz_inputs::{change_bytes, changed, each},
    golden,
};

const MODELS: [&str; 5] =
    ["tiny-chat", "tiny-deepseek-v2", "tiny-gemma2", "tiny-llama-tied", "tiny-qwen2"];

#[test]
fn configs_of_models_are_read_or_refused() {
    let good: Vec<Vec<u8>> = MODELS.iter().map(|model| file(model, "config.json")).collect();
    let (read, of) = each(2000, |random| {
        let bytes = changed(random, &good);
        let Ok(config) = ModelConfig::parse(Path::new("config.json"), &bytes) else { return false };
        let layers: usize = config.kv_groups().iter().map(|group| group.layers.len()).sum();
        assert!(layers > 0, "a model has layers");
        assert!(config.heads_per_kv_head() > 0, "each KV head is some query head's");
        true
    });
    // Neither of which would test anything.
    assert!(of == 1 || (1..of).contains(&read), "{read} of {of} are read");
}

#[test]
fn files_beside_a_tokenizer_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.json");
    let good: Vec<Vec<u8>> = MODELS
        .iter()
        .flat_map(|model| {
            let beside = ["tokenizer_config.json", "generation_config.json"];
            beside.map(|name| golden::model(model).unwrap().join(name))
        })
        .filter_map(|path| std::fs::read(path).ok())
        .collect();
    each(1000, |random| {
        std::fs::write(&path, changed(random, &good)).unwrap();
        let _ = GenerationConfig::load(&path, 512);
        TokenizerConfig::load(Some(&path), None).is_ok()
    });
}

#[test]
fn files_of_sentence_transformers_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    let names = ["modules.json", "1_Pooling/config.json", "sentence_bert_config.json"];
    // Only the full set has them.
    if golden::model("tiny-bert").is_none() {
        return;
    }
    let good = names.map(|name| file("tiny-bert", name));
    let (read, of) = each(1500, |random| {
        let spoilt = random.random_range(0..names.len());
        for (at, name) in names.into_iter().enumerate() {
            let as_it_was = good[at].clone();
            let bytes = if at == spoilt { changed(random, &[as_it_was]) } else { as_it_was };
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        SentenceFiles::load(folder.path()).is_ok()
    });
    assert!(of == 1 || (1..of).contains(&read), "{read} of {of} are read");
}

#[test]
fn schemas_become_grammars_or_are_refused() {
    let folder = golden::model("tiny-chat").unwrap();
    let config = TokenizerConfig::load(Some(&folder.join("tokenizer_config.json")), None).unwrap();
    let tokenizer = Tokenizer::load(&folder.join("tokenizer.json"), &config).unwrap();
    let grammars = GrammarFactory::new(&tokenizer, &[0]).unwrap();
    let schemas = [
        json!({
            "type": "object", "required": ["name", "age"], "additionalProperties": false,
            "properties": {
                "name": {"type": "string", "minLength": 2, "maxLength": 12, "pattern": "^[a-z]+$"},
                "age": {"type": "integer", "minimum": -3, "exclusiveMaximum": 120},
                "tags": {"type": "array", "items": {"enum": ["a", 1, null]}, "maxItems": 4},
            },
        }),
        json!({
            "$defs": {"tree": {"type": "object", "properties": {
                "leaf": {"type": "boolean"}, "next": {"$ref": "#/$defs/tree"},
            }}},
            "$ref": "#/$defs/tree",
        }),
        json!({"anyOf": [{"type": "number", "multipleOf": 0.5}, {"const": {"a": []}}]}),
        json!({"allOf": [{"type": "array", "minItems": 3}, {"prefixItems": [{"type": "null"}]}]}),
        json!({"type": "string", "format": "date-time"}),
    ];
    let good: Vec<Vec<u8>> = schemas.iter().map(|one| one.to_string().into_bytes()).collect();
    let (count, of) = each(300, |random| {
        let bytes = changed(random, &good);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        grammars.compile(&Grammar::JsonSchema(text)).is_ok()
    });
    assert!(of == 1 || (1..of).contains(&count), "{count} of {of} are grammars");
}

/// Whatever a tokenizer's file says, it is refused when it is read, or texts become ids that it has
/// and text again, or one text fails.
#[test]
fn tokenizers_are_read_or_refused() {
    let good: Vec<Vec<u8>> = MODELS.iter().map(|model| file(model, "tokenizer.json")).collect();
    let (read, of) = each(600, |random| {
        let bytes = changed(random, &good);
        let config = TokenizerConfig::default();
        let Ok(tokenizer) = Tokenizer::parse(Path::new("t"), &bytes, &config) else { return false };
        let tokenizer = Arc::new(tokenizer);
        for text in ["The <|im_start|> fox\u{301} \0 says 12345 …\n\n  ", "", "é🦊"] {
            let Ok(ids) = tokenizer.encode(text, SpecialTokens::Include) else { continue };
            let beyond = ids.iter().find(|id| **id as usize >= tokenizer.vocab_size());
            assert_eq!(beyond, None, "an id that no model has a row for");
            let _ = tokenizer.decode(&ids, SpecialTokens::Exclude);
            let mut stream = Detokenizer::new(Arc::clone(&tokenizer), SpecialTokens::Exclude);
            ids.iter().for_each(|id| drop(stream.push(*id)));
            stream.finish();
        }
        true
    });
    assert!(of == 1 || (1..of).contains(&read), "{read} of {of} are read");
}

/// A template that somebody broke is refused, or fails, or renders what is allowed.
#[test]
fn templates_end() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/corpus");
    let files = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|e| e == "jinja")).collect();
    paths.sort();
    let mut good: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    for model in MODELS {
        let config: Value = serde_json::from_slice(&file(model, "tokenizer_config.json")).unwrap();
        good.extend(config["chat_template"].as_str().map(|text| text.as_bytes().to_vec()));
    }
    assert!(good.len() > 5);
    let messages = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": null, "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": {"a": [1, {"b": null}]}}},
        ]},
        {"role": "tool", "content": "3"},
        {"role": "user", "content": "x".repeat(500)},
    ]);
    let tools = json!([{"type": "function", "function": {
        "name": "f", "description": "d", "parameters": {"type": "object", "properties": {}},
    }}]);
    let kwargs = Map::from_iter([("x".to_owned(), json!("xyz")), ("n".to_owned(), json!(3))]);
    let config = TokenizerConfig::default();
    let (rendered, of) = each(1500, |random| {
        let mut bytes = good[random.random_range(0..good.len())].clone();
        for _ in 0..random.random_range(1..5) {
            change_bytes(random, &mut bytes);
        }
        let text = String::from_utf8_lossy(&bytes);
        let Ok(templates) = ChatTemplates::parse(Path::new("t"), &[("default", &text)], &config)
        else {
            return false;
        };
        let text = templates.render(&ChatInput {
            messages: &messages,
            tools: Some(&tools),
            documents: None,
            add_generation_prompt: true,
            kwargs: Some(&kwargs),
            now_unix_s: 0,
        });
        text.is_ok()
    });
    assert!(of == 1 || (1..of).contains(&rendered), "{rendered} of {of} render");
}

/// Whatever a specification's file says, it is read or refused, and soon.
#[test]
fn specifications_are_read_or_refused() {
    let folders = ["../deploy/specs", "tests/it/corpus"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap());
    let mut paths: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    paths.sort();
    let good: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(good.len() > 2, "{paths:?}");
    let (read, of) = each(3000, |random| {
        let bytes = changed(random, &good);
        objects::parse(&String::from_utf8_lossy(&bytes)).is_ok()
    });
    assert!(of == 1 || (1..of).contains(&read), "{read} of {of} are read");
}

fn file(model: &str, name: &str) -> Vec<u8> {
    std::fs::read(golden::model(model).unwrap().join(name)).unwrap()
}
