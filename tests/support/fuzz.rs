//! Hostile inputs: good ones with a few bytes or values changed, from seeds that are the same in
//! every run. A failure names its seed, from which alone the input is made again.
//!
//! `TROUPE_FUZZ_CASES=100000` tries so many more of each; `TROUPE_FUZZ_SEED=17` tries that one
//! alone.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::{Value, json};

/// What inputs are made from.
pub(crate) type Random = ChaCha8Rng;

/// Tries something with so many seeds; how often it was true, of how many.
pub(crate) fn each(seeds: u64, mut try_it: impl FnMut(&mut Random) -> bool) -> (usize, usize) {
    let seeds = match (asked("TROUPE_FUZZ_SEED"), asked("TROUPE_FUZZ_CASES")) {
        (Some(seed), _) => seed..seed + 1,
        (None, more) => 0..seeds + more.unwrap_or(0),
    };
    let count = (seeds.end - seeds.start) as usize;
    let mut held = 0;
    for seed in seeds {
        let mut random = Random::seed_from_u64(seed);
        match catch_unwind(AssertUnwindSafe(|| try_it(&mut random))) {
            Ok(true) => held += 1,
            Ok(false) => {}
            Err(_) => panic!("TROUPE_FUZZ_SEED={seed} panics"),
        }
    }
    (held, count)
}

#[expect(clippy::disallowed_methods, reason = "whoever runs it says how long")]
fn asked(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// One of the corpus, with a few things changed: in its bytes, or if it is JSON in its values.
pub(crate) fn changed(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
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

pub(crate) fn change_bytes(random: &mut Random, bytes: &mut Vec<u8>) {
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
            let odd = [
                "9",
                "-1",
                "{{",
                "%}",
                "{% for x in range(9999) %}",
                "\\u0000",
                "[[[[",
                "\"",
                "|list",
                " ~ x",
                " * 99999999",
                "|replace('', x)",
                "{% set x = [x, x] %}",
                "\u{85}",
                "&a ",
                "*a",
            ];
            let odd = odd[random.random_range(0..odd.len())];
            bytes.splice(at..at, odd.bytes());
        }
    }
}

/// Goes down to somewhere and puts something odd there.
fn change_value(random: &mut Random, value: &mut Value) {
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
