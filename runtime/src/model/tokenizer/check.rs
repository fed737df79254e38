//! What the `tokenizers` library takes for granted of a file, and panics or worse where it is not
//! so.
//!
//! Found by changing good files (`tests/it/fuzz.rs`). Each is looked for before the library sees
//! the file; what is not known yet ends at [`super::guarded`].

use serde::Deserialize;
use serde_json::Value;

/// Of the file, what is looked at; a field that is there twice is an error.
#[derive(Deserialize)]
struct File {
    model: Model,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    post_processor: Value,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    continuing_subword_prefix: Value,
}

/// The same, for files that say how a word goes on.
#[derive(Deserialize)]
struct MergingFile {
    model: Merging,
}

#[derive(Deserialize)]
struct Merging {
    #[serde(default)]
    merges: Vec<Value>,
}

/// Refuses what the library would not bear.
///
/// # Errors
/// What is wrong, and where.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    check_decoder(&file.decoder)?;
    check_processor(&file.post_processor)?;
    match file.model.continuing_subword_prefix.as_str() {
        None | Some("") => Ok(()),
        Some(prefix) => check_merges(bytes, prefix),
    }
}

fn check_decoder(decoder: &Value) -> Result<(), String> {
    match decoder {
        Value::Null => Ok(()),
        Value::Object(fields) => match fields.get("decoders") {
            Some(Value::Array(inner)) => inner.iter().try_for_each(|one| match one {
                Value::Object(_) => check_decoder(one),
                _ => Err("each of `decoder.decoders` must be an object".to_owned()),
            }),
            _ => Ok(()),
        },
        _ => Err("`decoder` must be an object".to_owned()),
    }
}

/// A template may only name special tokens that it has: it is trusted with every text.
fn check_processor(processor: &Value) -> Result<(), String> {
    let inner = processor["processors"].as_array().into_iter().flatten();
    inner.clone().try_for_each(check_processor)?;
    let pieces = ["single", "pair"].map(|name| processor[name].as_array());
    for piece in pieces.into_iter().flatten().flatten() {
        let Some(id) = piece["SpecialToken"]["id"].as_str() else { continue };
        if processor["special_tokens"].get(id).is_none() {
            return Err(format!(
                "`post_processor` names the special token {id:?}, which it has not"
            ));
        }
    }
    Ok(())
}

/// The library cuts the prefix off the second part of a merge without looking, and takes what is
/// left for text.
fn check_merges(bytes: &[u8], prefix: &str) -> Result<(), String> {
    let file: MergingFile = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    for merge in &file.model.merges {
        let second = match merge {
            Value::String(both) => both.rsplit_once(' ').map(|(_, second)| second),
            pair => pair[1].as_str(),
        };
        if !second.is_some_and(|second| second.starts_with(prefix)) {
            let found = second.unwrap_or_default();
            return Err(format!(
                "the second part {found:?} of a merge does not begin with the \
                 `continuing_subword_prefix` {prefix:?}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(file: &Value) -> String {
        check(file.to_string().as_bytes()).expect_err("it is wrong")
    }

    #[test]
    fn what_the_library_would_not_bear_is_refused() {
        let with = |name: &str, value: Value| {
            let mut file = json!({"model": {"merges": ["a ##b", ["a", "##c"]]}, "decoder": null});
            file[name] = value;
            file
        };
        assert_eq!(check(with("decoder", json!({"type": "x"})).to_string().as_bytes()), Ok(()));
        assert!(wrong(&with("decoder", json!("x"))).contains("`decoder` must be an object"));
        let inner = json!({"type": "Sequence", "decoders": [{"type": "x"}, 3]});
        assert!(wrong(&with("decoder", inner)).contains("`decoder.decoders`"));
        let template = json!({"type": "TemplateProcessing", "special_tokens": {"<s>": {}},
            "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
            "pair": [{"SpecialToken": {"id": "</s>"}}]});
        assert!(wrong(&with("post_processor", template.clone())).contains("\"</s>\""));
        let sequence = json!({"type": "Sequence", "processors": [{"type": "x"}, template]});
        assert!(wrong(&with("post_processor", sequence)).contains("\"</s>\""));
        for (prefix, is_right) in [("##", true), ("", true), ("###", false), ("\u{e9}", false)] {
            let mut file = with("decoder", json!(null));
            file["model"]["continuing_subword_prefix"] = prefix.into();
            assert_eq!(check(file.to_string().as_bytes()).is_ok(), is_right, "{prefix}");
        }
        assert!(wrong(&json!({})).contains("model"));
        let twice = br#"{"model": {}, "decoder": null, "decoder": "x"}"#;
        assert!(check(twice).expect_err("it is ambiguous").contains("duplicate field"));
    }
}
