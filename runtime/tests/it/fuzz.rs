//! Files of models and grammars that an enemy wrote: good ones with a few bytes or values changed,
//! from seeds that are the same in every run. Each is an error or is read, and what is read can be
//! used; nothing panics, nothing runs away. (The wire's messages have this in `wire`, specs in
//! `src/spec/tests/fuzz.rs`, bodies of requests in the gateway's tests.)
//!
//! A failure names its seed; the input is made again from it alone.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::{Value, json};
use troupe_runtime::{
    model::{
        config::{GenerationConfig, ModelConfig},
        grammar::GrammarFactory,
        tokenizer::Tokenizer,
        tokenizer_config::TokenizerConfig,
    },
    wire::generate::Grammar,
};

use crate::golden;

const MODELS: [&str; 5] =
    ["tiny-chat", "tiny-llama-bf16", "tiny-llama-tied", "tiny-mistral", "tiny-qwen2"];

#[test]
fn configs_of_models_are_read_or_refused() {
    let good: Vec<Vec<u8>> = MODELS.iter().map(|model| file(model, "config.json")).collect();
    let read = each(2000, |random| {
        let bytes = changed(random, &good);
        let Ok(config) = ModelConfig::parse(Path::new("config.json"), &bytes) else { return false };
        let layers: usize = config.kv_groups().iter().map(|group| group.layers.len()).sum();
        assert!(layers > 0, "a model has layers");
        assert!(config.heads_per_kv_head() > 0, "each KV head is some query head's");
        true
    });
    // Neither of which would test anything.
    assert!((1..2000).contains(&read), "{read} are read");
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
    let count = each(300, |random| {
        let bytes = changed(random, &good);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        grammars.compile(&Grammar::JsonSchema(text)).is_ok()
    });
    assert!((1..300).contains(&count), "{count} are grammars");
}

// === How inputs are made ===

/// Tries something with so many seeds; how often it was true.
fn each(seeds: u64, mut try_it: impl FnMut(&mut ChaCha8Rng) -> bool) -> usize {
    let mut count = 0;
    for seed in 0..seeds {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        match catch_unwind(AssertUnwindSafe(|| try_it(&mut random))) {
            Ok(held) => count += usize::from(held),
            Err(_) => panic!("seed {seed} panics"),
        }
    }
    count
}

/// One of the corpus, with a few things changed: in its bytes, or if it is JSON in its values.
fn changed(random: &mut ChaCha8Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let good = &corpus[random.random_range(0..corpus.len())];
    let changes = random.random_range(1..4);
    if random.random_bool(0.7)
        && let Ok(mut value) = serde_json::from_slice::<Value>(good)
    {
        for _ in 0..changes {
            change_value(random, &mut value);
        }
        return value.to_string().into_bytes();
    }
    let mut bytes = good.clone();
    for _ in 0..changes {
        change_bytes(random, &mut bytes);
    }
    bytes
}

fn change_bytes(random: &mut ChaCha8Rng, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        bytes.push(random.random());
        return;
    }
    let at = random.random_range(0..bytes.len());
    let end = (at + random.random_range(1..64)).min(bytes.len());
    match random.random_range(0..6) {
        0 => bytes[at] = random.random(),
        1 => bytes[at] ^= 1 << random.random_range(0..8),
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part.repeat(random.random_range(1..40)));
        }
        _ => {
            let odd =
                ["9", "-1", "{{", "%}", "{% for x in range(9999) %}", "\\u0000", "[[[[", "\""];
            let odd = odd[random.random_range(0..odd.len())];
            bytes.splice(at..at, odd.bytes());
        }
    }
}

/// Goes down to somewhere and puts something odd there.
fn change_value(random: &mut ChaCha8Rng, value: &mut Value) {
    let stop = random.random_bool(0.2);
    match value {
        Value::Object(fields) if !fields.is_empty() && !stop => {
            let at = random.random_range(0..fields.len());
            let name = fields.keys().nth(at).cloned().unwrap();
            match random.random_range(0..8) {
                0 => drop(fields.remove(&name)),
                1 => {
                    let moved = fields.remove(&name).unwrap();
                    fields.insert(format!("{name}{at}"), moved);
                }
                _ => change_value(random, &mut fields[name.as_str()]),
            }
        }
        Value::Array(items) if !items.is_empty() && !stop => {
            let at = random.random_range(0..items.len());
            match random.random_range(0..8) {
                0 => drop(items.remove(at)),
                1 => items.insert(at, items[at].clone()),
                _ => change_value(random, &mut items[at]),
            }
        }
        _ => {
            let odd = [
                json!(null),
                json!(0),
                json!(-1),
                json!(1),
                json!(1e308),
                json!(0.5),
                json!(true),
                json!(u64::MAX),
                json!(i64::MIN),
                json!(u32::MAX),
                json!(""),
                json!("\u{0}"),
                json!("(a|aa)+$"),
                json!("#"),
                json!([]),
                json!({}),
                json!([[[[]]]]),
                json!("x".repeat(5000)),
                json!({"$ref": "#"}),
                json!(4096),
                json!(1_u64 << 40),
            ];
            *value = odd[random.random_range(0..odd.len())].clone();
        }
    }
}

fn file(model: &str, name: &str) -> Vec<u8> {
    std::fs::read(golden::model(model).unwrap().join(name)).unwrap()
}
