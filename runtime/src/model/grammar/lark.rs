//! Parts of a grammar in Lark, for who puts one together from the parts of a request.

use serde_json::{Value, json};

use super::{MAX_WHITESPACE, OPTIONS, gbnf};

/// A text by itself: as JSON writes it, but for the one control character that JSON leaves as it
/// is.
pub fn text(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// A regular expression.
///
/// # Errors
/// If it is empty.
pub fn regex(text: &str) -> Result<String, String> {
    let text = unanchored(text);
    if text.is_empty() {
        return Err("it is empty".into());
    }
    // `\d` and `\w` are ASCII, as in JSON schemas: nobody who asks for a date means ۷೫.
    Ok(format!("/{}/", llguidance::regex_to_lark(text, "dw")))
}

/// A value of a JSON schema.
pub fn schema(schema: Value) -> String {
    format!("%json {}", with_options(schema))
}

/// What another grammar, in Lark or GBNF, matches.
///
/// # Errors
/// A mistake in GBNF.
pub fn nested(text: &str) -> Result<String, String> {
    Ok(format!("%lark {{\n{}\n}}", plain(text)?))
}

/// The grammar in Lark, if it is not yet.
pub(super) fn plain(text: &str) -> Result<String, String> {
    if gbnf::is_gbnf(text) { gbnf::to_lark(text) } else { Ok(text.to_owned()) }
}

/// The schema with what is true of all where it does not say otherwise. White space between tokens
/// is bounded, because small models like to go on with it for ever; `oneOf` counts as `anyOf` where
/// its parts cannot be seen to exclude each other, as in other servers.
pub(super) fn with_options(mut schema: Value) -> Value {
    if let Value::Object(fields) = &mut schema {
        fields.entry(OPTIONS).or_insert_with(|| {
            json!({
                "whitespace_pattern": format!(r"[\x20\x0A\x0D\x09]{{1,{MAX_WHITESPACE}}}"),
                "coerce_one_of": true,
            })
        });
    }
    schema
}

/// A whole part is matched, so anchors around an expression say nothing; the compiler does not know
/// them.
fn unanchored(text: &str) -> &str {
    let text = text.strip_prefix('^').unwrap_or(text);
    let Some(inner) = text.strip_suffix('$') else { return text };
    let backslashes = inner.len() - inner.trim_end_matches('\\').len();
    if backslashes % 2 == 0 { inner } else { text }
}
