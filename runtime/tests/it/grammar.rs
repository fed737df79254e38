//! Grammars over real vocabularies: whatever is chosen among the allowed tokens matches, a matcher
//! given the same tokens allows the same ones, and what would cost too much is refused.

use std::path::{Path, PathBuf};

use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use troupe_runtime::{
    model::{
        grammar::{GrammarError, GrammarFactory, MAX_TEXT_BYTES, Matcher},
        tokenizer::{SpecialTokens, Tokenizer},
        tokenizer_config::TokenizerConfig,
    },
    wire::generate::Grammar,
};

use crate::golden;

/// A vocabulary with its grammars.
struct Family {
    name: String,
    tokenizer: Tokenizer,
    ends: Vec<u32>,
    grammars: GrammarFactory,
}

// === Whatever is chosen matches ===

#[test]
fn every_output_of_a_schema_is_valid() {
    let schemas = [
        json!({"type": "object"}),
        json!({
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 2, "maxLength": 12},
                "age": {"type": "integer", "minimum": -3, "maximum": 120},
                "tags": {"type": "array", "items": {"enum": ["a", "b\"c", "é"]}, "maxItems": 4},
                "kind": {"const": "person"},
            },
            "required": ["name", "kind", "age"],
            "additionalProperties": false,
        }),
        json!({
            "$defs": {"tree": {
                "type": "object",
                "properties": {
                    "leaf": {"type": "boolean"},
                    "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
                },
                "required": ["leaf", "next"],
                "additionalProperties": false,
            }},
            "$ref": "#/$defs/tree",
        }),
        json!({"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 1,
               "maxItems": 3}),
    ];
    for family in families() {
        for (index, schema) in schemas.iter().enumerate() {
            let grammar = Grammar::JsonSchema(schema.to_string());
            for seed in 0..SEEDS {
                let text = family.sample(&grammar, seed);
                let place = format!("{}, schema {index}, seed {seed}: {text}", family.name);
                let value: Value = match serde_json::from_str(&text) {
                    Ok(value) => value,
                    // It is JSON all the same: 43e36598765.
                    Err(error) if error.to_string().starts_with("number out of range") => {
                        let _: IgnoredAny = serde_json::from_str(&text).unwrap();
                        continue;
                    }
                    Err(error) => panic!("{error} in {place}"),
                };
                assert!(is_valid(&value, schema, schema), "{place}");
            }
        }
    }
}

#[test]
fn every_output_of_an_expression_matches() {
    let is_date = |text: &str| {
        let parts: Vec<&str> = text.split('-').collect();
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        parts.len() == 3
            && parts.iter().all(|part| digits(part))
            && [4, 2, 2] == [parts[0].len(), parts[1].len(), parts[2].len()]
    };
    let is_euro = |text: &str| {
        let digits = text.trim_end_matches('€');
        text.chars().filter(|c| *c == '€').count() == text.chars().count() - digits.len()
            && (1..=3).contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && text.len() > digits.len()
    };
    let choices = ["yes", "no", "not at all", "日本"];
    let one_of = |text: &str| choices.contains(&text);
    let lark = "start: (\"yes\" | \"no\" | \"not at all\" | \"日本\")".to_owned();
    type Check<'a> = &'a dyn Fn(&str) -> bool;
    let cases: [(Grammar, Check<'_>); 3] = [
        (Grammar::Regex(r"^\d{4}-\d{2}-\d{2}$".into()), &is_date),
        (Grammar::Regex("[0-9]{1,3}€+".into()), &is_euro),
        (Grammar::Lark(lark), &one_of),
    ];
    for family in families() {
        for (grammar, matches) in &cases {
            for seed in 0..SEEDS {
                let text = family.sample(grammar, seed);
                assert!(matches(&text), "{}, {grammar:?}, seed {seed}: {text:?}", family.name);
            }
        }
    }
}

#[test]
fn every_output_of_gbnf_matches() {
    let is_greeting = |text: &str| {
        let words: Vec<&str> = text.trim_end_matches('?').split(' ').collect();
        let is_name = |word: &&str| ["A", "B", "Ça"].contains(word);
        text.ends_with('?')
            && ["hi", "h\"é"].contains(&words[0])
            && (1..=2).contains(&words[1..].iter().filter(|word| is_name(word)).count())
    };
    let is_sum = |text: &str| {
        let mut depth = 0;
        let mut before = '+';
        let mut fits = true;
        for c in text.chars() {
            depth += i32::from(c == '(') - i32::from(c == ')');
            let begins = c == '(' || c.is_ascii_digit();
            fits &= depth >= 0 && begins == matches!(before, '(' | '+');
            before = c;
        }
        fits && depth == 0 && before != '+'
    };
    let is_json = |text: &str| {
        serde_json::from_str::<IgnoredAny>(text).is_ok() && text.starts_with(['{', '['])
    };
    let greeting = r#"
        # Who is greeted, and how.
        root ::= hello (" " name){1,2} "\x3f"
        hello ::= "hi" | "h\"\u00e9"
        name  ::= [A-B] | "Ça"
    "#;
    let sum = "root ::= product (\"+\" product){0,3}\nproduct ::= [0-9] | \"(\" root \")\"";
    let json = r#"
        root   ::= object | array
        value  ::= object | array | string | number | "true" | "false" | "null"
        object ::= "{" ws (member ("," ws member)*)? "}" ws
        member ::= string ":" ws value
        array  ::= "[" ws (value ("," ws value)*)? "]" ws
        string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
        number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,2})? ws
        ws     ::= | " " | "\n" [ \t]{0,20}
    "#;
    type Check<'a> = &'a dyn Fn(&str) -> bool;
    let cases: [(&str, Check<'_>); 3] =
        [(greeting, &is_greeting), (sum, &is_sum), (json, &is_json)];
    for family in families() {
        for (grammar, matches) in &cases {
            for seed in 0..SEEDS {
                let text = family.sample(&Grammar::Lark((*grammar).into()), seed);
                assert!(matches(&text), "{}, {grammar}, seed {seed}: {text:?}", family.name);
            }
        }
    }
}

#[test]
fn gbnf_allows_what_it_says() {
    let json = "root ::= value\nvalue ::= \"[\" (value (\",\" value)*)? \"]\" | [0-9]+ | text\n\
                text ::= \"'\" [^']* \"'\"";
    let cases = [
        (json, "[1,[],['a',[[23]]]]"),
        ("root ::= \"a\"{1000000} | \"ab\" \"c\" | \"a\" \"b\" \"d\"", "abd"),
        ("root ::= (\"(\" root \")\"){0,1000000} | \"x\"", "((x)(()))(x)"),
        ("root ::= .{3}", "\né😀"),
    ];
    let family = &families()[0];
    for (grammar, text) in cases {
        let mut matcher = family.grammars.compile(&Grammar::Lark(grammar.into())).unwrap();
        for token in family.tokenizer.encode(text, SpecialTokens::Exclude).unwrap() {
            assert_eq!(matcher.accept(token), Ok(()), "{text} of {grammar}");
        }
        assert!(matcher.can_stop(), "{text} of {grammar}");
    }
}

// === A matcher is a function of its tokens ===

#[test]
fn rebuilt_and_rolled_back_is_the_same_as_never_left() {
    let grammar = Grammar::JsonSchema(
        json!({"type": "object", "properties": {"a": {"type": "array"}}}).to_string(),
    );
    for family in families() {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let compiled = family.grammars.compile(&grammar).unwrap();
        let mut steady = compiled.clone();
        let mut wandering = compiled.clone();
        let mut tokens = Vec::new();
        for _ in 0..40 {
            let Some(token) = family.choose(&mut steady, tokens.len(), &mut random) else { break };
            steady.accept(token).unwrap();
            tokens.push(token);
            let mut rebuilt = compiled.clone();
            tokens.iter().for_each(|token| rebuilt.accept(*token).unwrap());
            wandering.accept(token).unwrap();
            wander(&family, &mut wandering, &mut random);
            assert_eq!(wandering.position(), tokens.len());
            let mask = steady.allowed_mask().unwrap().to_vec();
            assert_eq!(rebuilt.allowed_mask().unwrap(), mask, "{} {tokens:?}", family.name);
            assert_eq!(wandering.allowed_mask().unwrap(), mask, "{} {tokens:?}", family.name);
        }
        wandering.rollback(tokens.len()).unwrap();
        assert_eq!(wandering.allowed_mask(), compiled.clone().allowed_mask());
    }
}

#[test]
fn after_the_end_there_are_only_ends() {
    for family in families() {
        let mut matcher = family.grammars.compile(&Grammar::Regex("ab".into())).unwrap();
        assert!(!matcher.can_stop());
        let end = family.ends[0];
        let refused = GrammarError::Refused { token: end, position: 0 };
        assert_eq!(matcher.accept(end), Err(refused));
        let text = family.tokenizer.id("a").unwrap();
        matcher.accept(text).unwrap();
        assert!(matcher.accept(text).is_err());
        matcher.accept(family.tokenizer.id("b").unwrap()).unwrap();
        for _ in 0..2 {
            assert!(matcher.is_complete() && matcher.can_stop());
            let mut only = allowed(&mut matcher);
            only.sort_unstable();
            assert_eq!(only, family.ends, "{}", family.name);
            matcher.accept(end).unwrap();
        }
        assert!(matcher.accept(text).is_err());
        matcher.rollback(3).unwrap();
        assert_eq!(matcher.position(), 1);
        assert!(!matcher.can_stop());
        assert!(matcher.rollback(2).is_err());
    }
}

#[test]
fn special_tokens_are_not_text() {
    for family in families() {
        let mut matcher = family.grammars.compile(&Grammar::Regex("(.|\n)+".into())).unwrap();
        let special = |id: u32| family.tokenizer.is_special(id) || family.ends.contains(&id);
        let tokens = allowed(&mut matcher);
        assert!(tokens.len() > 100 && !tokens.into_iter().any(special), "{}", family.name);
        assert!(matcher.allowed_mask().unwrap().len() * 32 < family.tokenizer.vocab_size() + 64);
    }
}

// === What cannot be served ===

#[test]
fn what_means_nothing_is_refused_by_name() {
    let schema = |value: Value| Grammar::JsonSchema(value.to_string());
    let cases = [
        (Grammar::JsonSchema("{".into()), "it is not JSON"),
        (schema(json!({"type": "string", "enum": [1]})), "incompatible types"),
        (schema(json!({"type": "integer", "minimum": 5, "maximum": 3})), "minimum (5)"),
        (schema(json!(false)), "schema is false"),
        (schema(json!({"not": {}})), "not"),
        (schema(json!({"$ref": "#/$defs/x"})), "not found"),
        (schema(json!({"$ref": "#"})), "nothing can match"),
        (schema(json!({"type": "number", "multipleOf": 1e-9})), "multipleOf"),
        (Grammar::Regex("(".into()), "unclosed group"),
        (Grammar::Regex("(?=a)b".into()), "look-around"),
        (Grammar::Regex("^$".into()), "empty"),
        (Grammar::Lark("start: nowhere".into()), "nowhere"),
        (Grammar::Lark("root ::= \"a\" |\n\t(b".into()), "line 2, column 2: `(` is not closed"),
        (Grammar::Lark("root ::= root".into()), "nothing can match"),
    ];
    let family = &families()[0];
    for (grammar, reason) in cases {
        let error = family.grammars.compile(&grammar).expect_err("refused").to_string();
        assert!(error.contains(reason) && error.len() < 500, "{grammar:?}: {error}");
    }
}

#[test]
fn what_explodes_is_refused() {
    let schema = |value: Value| Grammar::JsonSchema(value.to_string());
    let alternatives: Vec<Value> = (0..10).map(|i| json!({"const": i.to_string()})).collect();
    let product = json!({"allOf": vec![json!({"anyOf": alternatives}); 8]});
    let node = |name: &str| {
        let next = json!({"$ref": format!("#/$defs/{name}")});
        json!({"type": "object", "properties": {"l": next, "r": next}})
    };
    let both = json!({
        "$defs": {"a": node("a"), "b": node("b")},
        "allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
    });
    let wide: serde_json::Map<String, Value> =
        (0..401).map(|i| (format!("p{i}"), json!({}))).collect();
    let patterns: serde_json::Map<String, Value> =
        (0..100).map(|i| (format!("^a{i}"), json!({}))).collect();
    let chain: String = (1..499).map(|i| format!("r{i}: r{}\n", i + 1)).collect();
    let cases = [
        schema(product),
        schema(both),
        schema(json!({"type": "object", "properties": wide})),
        schema(json!({"type": "object", "patternProperties": patterns})),
        Grammar::Regex("a?".repeat(2100)),
        Grammar::Regex(".?".repeat(10_000)),
        Grammar::Regex(format!("{}a{}", "(".repeat(1900), ")".repeat(1900))),
        Grammar::Lark(format!("start: A\nA: {}", "\"a\"? ".repeat(5000))),
        Grammar::Lark("(".repeat(MAX_TEXT_BYTES)),
        Grammar::JsonSchema("[".repeat(MAX_TEXT_BYTES)),
        Grammar::Lark(format!("start: r1\n{chain}r499: nowhere")),
        Grammar::Lark("\"x\" ".repeat(MAX_TEXT_BYTES)),
    ];
    let family = &families()[0];
    for grammar in cases {
        let refused = family.grammars.compile(&grammar);
        assert!(
            refused.is_err(),
            "{}",
            format!("{grammar:?}").chars().take(200).collect::<String>()
        );
    }
}

#[test]
fn wide_and_deep_but_honest_grammars_go() {
    let schema = |value: Value| Grammar::JsonSchema(value.to_string());
    let defs = json!({"a": {"type": "object"}});
    let wide: serde_json::Map<String, Value> =
        (0..400).map(|i| (format!("p{i}"), json!({"$ref": "#/$defs/a"}))).collect();
    let many: Vec<String> = (0..8000).map(|i| format!("value-{i}")).collect();
    let deep = (0..50).fold(
        json!({"type": "integer"}),
        |inner, _| json!({"type": "array", "items": inner, "minItems": 1}),
    );
    let cases = [
        (schema(json!({"$defs": defs, "type": "object", "properties": wide})), r#"{"p399": {}}"#),
        (schema(json!({"enum": many})), r#""value-7999""#),
        (schema(deep), "[[["),
        (schema(json!({"type": "array", "minItems": 1, "maxItems": 1_000_000_000})), "[1, 2, 3"),
        (Grammar::Regex("(a{1000}){1000}".into()), "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    ];
    let family = &families()[0];
    for (grammar, text) in cases {
        let mut matcher = family.grammars.compile(&grammar).unwrap();
        for token in family.tokenizer.encode(text, SpecialTokens::Exclude).unwrap() {
            matcher.accept(token).unwrap();
            matcher.allowed_mask().unwrap();
        }
    }
}

// === Helpers ===

impl Family {
    fn load(folder: &Path) -> Option<Self> {
        let file = folder.join("tokenizer_config.json");
        let text: Value = serde_json::from_slice(&std::fs::read(&file).ok()?).unwrap();
        let config = TokenizerConfig::load(Some(&file), None).unwrap();
        let tokenizer = Tokenizer::load(&folder.join("tokenizer.json"), &config).unwrap();
        let end = &text["eos_token"];
        let end = tokenizer.id(end.as_str().or(end["content"].as_str())?)?;
        // A second end, as many models have.
        let mut ends = vec![end, u32::from(end == 0)];
        ends.sort_unstable();
        let grammars = GrammarFactory::new(&tokenizer, &ends).unwrap();
        Some(Self { name: folder.display().to_string(), tokenizer, ends, grammars })
    }

    /// The text of one output, chosen by chance.
    fn sample(&self, grammar: &Grammar, seed: u64) -> String {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut matcher = self.grammars.compile(grammar).unwrap();
        let mut bytes = Vec::new();
        for position in 0..MAX_OUTPUT {
            let Some(token) = self.choose(&mut matcher, position, &mut random) else {
                return String::from_utf8(bytes).unwrap();
            };
            matcher.accept(token).unwrap();
            bytes.extend(self.tokenizer.bytes(token).unwrap());
        }
        panic!("no end of {grammar:?}, seed {seed}: {}", String::from_utf8_lossy(&bytes));
    }

    /// Evenly among the allowed tokens; later on what brings the end nearer, if it is allowed.
    fn choose(
        &self,
        matcher: &mut Matcher,
        position: usize,
        random: &mut ChaCha8Rng,
    ) -> Option<u32> {
        let all = allowed(matcher);
        let (ends, mut others): (Vec<u32>, Vec<u32>) =
            all.into_iter().partition(|token| self.ends.contains(token));
        assert_eq!(matcher.can_stop(), !ends.is_empty());
        if position > HASTE {
            let closing = ["\"", "}", "]", "null", "\":"].map(|text| self.tokenizer.id(text));
            if let Some(token) = closing.into_iter().flatten().find(|id| others.contains(id)) {
                others = vec![token];
            }
        }
        let stops = others.is_empty() || !ends.is_empty() && (position > HASTE || random.random());
        (!stops).then(|| others[random.random_range(0..others.len())])
    }
}

/// Goes on for a few tokens by chance, and back again.
fn wander(family: &Family, matcher: &mut Matcher, random: &mut ChaCha8Rng) {
    let position = matcher.position();
    for _ in 0..random.random_range(0..4) {
        let Some(token) = family.choose(matcher, position, random) else { break };
        matcher.accept(token).unwrap();
    }
    matcher.rollback(matcher.position() - position).unwrap();
}

fn allowed(matcher: &mut Matcher) -> Vec<u32> {
    let words = matcher.allowed_mask().unwrap();
    let bits = words.iter().enumerate().flat_map(|(at, word)| {
        (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at as u32 * 32 + bit)
    });
    bits.collect()
}

/// The real vocabularies if they are there, else those of the golden models that differ.
fn families() -> Vec<Family> {
    let real = std::fs::read_dir(golden::dir().join("tokenizers"));
    let mut folders: Vec<PathBuf> = real
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    folders.extend(
        ["tiny-chat", "tiny-llama-tied", "tiny-gemma2"].map(golden::model).into_iter().flatten(),
    );
    folders.sort();
    let families: Vec<Family> = folders.iter().filter_map(|folder| Family::load(folder)).collect();
    assert!(families.len() >= 3, "{} vocabularies", families.len());
    families
}

/// As much of JSON schema as the schemas above use.
fn is_valid(value: &Value, schema: &Value, root: &Value) -> bool {
    let Value::Object(rules) = schema else { return schema.as_bool() == Some(true) };
    rules.iter().all(|(rule, said)| match (rule.as_str(), value) {
        ("type", _) => match said.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            "number" => value.is_number(),
            "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
            other => panic!("{other}"),
        },
        ("enum", _) => said.as_array().unwrap().contains(value),
        ("const", _) => said == value,
        ("anyOf", _) => said.as_array().unwrap().iter().any(|one| is_valid(value, one, root)),
        ("$ref", _) => {
            let target = said.as_str().unwrap().trim_start_matches('#');
            is_valid(value, root.pointer(target).unwrap(), root)
        }
        ("properties", Value::Object(fields)) => fields
            .iter()
            .all(|(name, value)| said.get(name).is_none_or(|schema| is_valid(value, schema, root))),
        ("required", Value::Object(fields)) => {
            said.as_array().unwrap().iter().all(|name| fields.contains_key(name.as_str().unwrap()))
        }
        ("additionalProperties", Value::Object(fields)) => {
            assert_eq!(*said, false);
            fields.keys().all(|name| rules["properties"].get(name).is_some())
        }
        ("items", Value::Array(items)) => items.iter().all(|item| is_valid(item, said, root)),
        ("minItems", Value::Array(items)) => items.len() as u64 >= said.as_u64().unwrap(),
        ("maxItems", Value::Array(items)) => items.len() as u64 <= said.as_u64().unwrap(),
        ("minLength", Value::String(text)) => text.chars().count() as u64 >= said.as_u64().unwrap(),
        ("maxLength", Value::String(text)) => text.chars().count() as u64 <= said.as_u64().unwrap(),
        ("minimum", Value::Number(number)) => number.as_f64() >= said.as_f64(),
        ("maximum", Value::Number(number)) => number.as_f64() <= said.as_f64(),
        ("$defs", _) => true,
        other => panic!("a rule that was forgotten: {other:?}"),
    })
}

/// Outputs per vocabulary and grammar.
const SEEDS: u64 = 6;
/// From this position on the nearest end is taken.
const HASTE: usize = 40;
/// Longest output.
const MAX_OUTPUT: usize = 2000;
