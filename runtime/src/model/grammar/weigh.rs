//! What is refused before it is compiled, because the compiler's own counting would not see it.
//!
//! The compiler counts its steps, but some of them are as long as a part of the grammar: combining
//! alternatives copies what stands beside them, alternatives that must exclude each other are
//! compared in pairs, and so are the patterns of an object's names. Here those products are bounded
//! by looking at the text alone, in one pass.

use serde_json::Value;

/// Refuses a schema whose parts multiply.
pub(super) fn schema(schema: &Value) -> Result<(), String> {
    let mut regex_bytes = 0;
    nodes(schema, &mut regex_bytes).map(|_| ())
}

/// Refuses a Lark grammar that nests too deeply, repeats too much, or holds such a schema.
pub(super) fn lark(text: &str) -> Result<(), String> {
    let seen = scan(text)?;
    let counts = [
        ("nested brackets", seen.depth, MAX_DEPTH),
        ("rules", seen.rules, MAX_RULES),
        ("repetitions", seen.repetitions, MAX_REPETITIONS),
        ("bytes of regular expressions", seen.regex_bytes, MAX_REGEX_BYTES),
    ];
    for (what, count, limit) in counts {
        if count > limit {
            return Err(format!("it has {count} {what}, {limit} are possible"));
        }
    }
    Ok(())
}

/// Refuses a regular expression that is too long.
pub(super) fn regex(text: &str) -> Result<(), String> {
    if text.len() > MAX_REGEX_BYTES {
        return Err(format!("it has {} bytes, {MAX_REGEX_BYTES} are possible", text.len()));
    }
    Ok(())
}

/// Counts a schema's values, and refuses it on the way.
fn nodes(value: &Value, regex_bytes: &mut usize) -> Result<u64, String> {
    match value {
        Value::Object(fields) => {
            let mut parts = Vec::new();
            let mut total = 1;
            for (name, value) in fields {
                let count = nodes(value, regex_bytes)?;
                // Definitions stand aside.
                total += if DEFINITIONS.contains(&name.as_str()) { 0 } else { count };
                if COMBINING.contains(&name.as_str()) {
                    parts.push(count);
                }
                counts(name, value)?;
                patterns(name, value, regex_bytes)?;
            }
            product(&parts, total)?;
            Ok(total)
        }
        Value::Array(values) => {
            let mut total = 1;
            for value in values {
                total += nodes(value, regex_bytes)?;
            }
            Ok(total)
        }
        _ => Ok(1),
    }
}

/// Alternatives meet what stands beside them: each is a copy of that.
fn product(parts: &[u64], total: u64) -> Result<(), String> {
    for part in parts {
        let beside = total - part - 1;
        if part * beside > MAX_PRODUCT {
            return Err(format!(
                "alternatives of {part} values stand beside {beside} others; put one of them into \
                 a property of its own, or leave some out"
            ));
        }
    }
    Ok(())
}

/// What is compared in pairs, or waited for all at once, or counted one by one.
fn counts(name: &str, value: &Value) -> Result<(), String> {
    let (count, limit) = match (name, value) {
        ("oneOf" | "allOf", Value::Array(values)) => (values.len(), MAX_COMPARED),
        ("patternProperties", Value::Object(fields)) => (fields.len(), MAX_PATTERNS),
        ("properties", Value::Object(fields)) => (fields.len(), MAX_PROPERTIES),
        ("multipleOf", Value::Number(number)) if !is_countable(number.as_f64()) => {
            return Err(format!(
                "`multipleOf` is {number}, up to four digits of at least 0.000001 are possible"
            ));
        }
        _ => return Ok(()),
    };
    if count > limit {
        return Err(format!("`{name}` has {count} parts, {limit} are possible"));
    }
    Ok(())
}

/// The compiler has a state for each remainder.
fn is_countable(number: Option<f64>) -> bool {
    let Some(number) = number.filter(|number| (1e-6..=1e4).contains(number)) else { return false };
    (0..=6).any(|places| {
        let digits = number * 10_f64.powi(places);
        digits <= 1e4 && (digits - digits.round()).abs() < 1e-6
    })
}

/// Regular expressions cost more than their length.
fn patterns(name: &str, value: &Value, regex_bytes: &mut usize) -> Result<(), String> {
    *regex_bytes += match (name, value) {
        ("pattern", Value::String(text)) => text.len(),
        ("patternProperties", Value::Object(fields)) => fields.keys().map(String::len).sum(),
        _ => 0,
    };
    if *regex_bytes > MAX_REGEX_BYTES {
        return Err(format!(
            "its regular expressions have more than {MAX_REGEX_BYTES} bytes together"
        ));
    }
    Ok(())
}

/// What a Lark grammar is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Deepest nesting of brackets outside of quotes, comments and regular expressions.
    depth: usize,
    /// Colons outside of brackets too.
    rules: usize,
    /// `?`, `*`, `+`, `~`, `{` and `[` there.
    repetitions: usize,
    /// Inside of regular expressions, all together.
    regex_bytes: usize,
}

/// Looks at a grammar character by character; quotes and expressions end with their line. Schemas
/// are weighed for themselves.
fn scan(text: &str) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let mut depth = 0_usize;
    let (mut inside, mut escaped) = (None, false);
    let mut schema_end = 0;
    for (at, character) in text.char_indices() {
        if at < schema_end {
            continue;
        }
        if character == '\n' {
            (inside, escaped) = (None, false);
            continue;
        }
        if inside == Some('/') {
            seen.regex_bytes += character.len_utf8();
        }
        match (inside, character) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(end), _) if end == character => inside = None,
            (Some(_), _) => {}
            (None, '"' | '/') => inside = Some(character),
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, '(' | '[' | '{') => depth += 1,
            (None, '%') => schema_end = at + schema_at(&text[at..])?,
            (None, _) => {}
        }
        let repeats = matches!(character, '?' | '*' | '+' | '~' | '[' | '{');
        let defines = character == ':' && depth == 0;
        seen.rules += usize::from(inside.is_none() && defines);
        seen.repetitions += usize::from(inside.is_none() && repeats);
        seen.depth = seen.depth.max(depth);
    }
    Ok(seen)
}

/// Weighs the schema that begins here, if one does; how many bytes it has with its keyword.
fn schema_at(text: &str) -> Result<usize, String> {
    let Some(rest) = text.strip_prefix(JSON_KEYWORD) else { return Ok(0) };
    let mut values = serde_json::Deserializer::from_str(rest).into_iter();
    // What is no JSON is the compiler's to complain of.
    let Some(Ok(value)) = values.next() else { return Ok(0) };
    schema(&value)?;
    Ok(JSON_KEYWORD.len() + values.byte_offset())
}

/// Keywords of a schema that are combined with their neighbors.
const COMBINING: [&str; 5] = ["allOf", "anyOf", "const", "enum", "oneOf"];
/// Keywords of a schema whose value is not part of it.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];
/// Most copies of a value that one place of a schema may cost: a tenth of a second's work.
const MAX_PRODUCT: u64 = 1_000_000;
/// Most parts that are compared with each other.
const MAX_COMPARED: usize = 500;
/// Most patterns of names in one object: each pair may cost a millisecond.
const MAX_PATTERNS: usize = 24;
/// Most properties of one object: the parser keeps four items for each that may come next.
const MAX_PROPERTIES: usize = 400;
/// Most bytes of regular expressions in one grammar. Their cost grows with the square.
const MAX_REGEX_BYTES: usize = 4096;
/// Most rules of a Lark grammar: a mistake in the last is told once more by each that leads there.
pub(super) const MAX_RULES: usize = 500;
/// Most repetitions and optional parts in a Lark grammar, for the same reason.
const MAX_REPETITIONS: usize = 1000;
/// Deepest nesting of brackets in a Lark grammar.
const MAX_DEPTH: usize = 100;
/// What a JSON schema inside a Lark grammar begins with.
const JSON_KEYWORD: &str = "%json";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_multiplies_is_refused() {
        let many: Vec<u32> = (0..2000).collect();
        let fields: serde_json::Map<String, Value> =
            (0..300).map(|i| (format!("p{i}"), json!({"type": "string"}))).collect();
        assert_eq!(schema(&json!({"enum": many})), Ok(()));
        let beside = json!({"enum": many, "properties": fields});
        assert!(schema(&beside).is_err_and(|error| error.contains("beside")));
        let deep = json!({"items": {"oneOf": vec![json!({}); 501]}});
        assert_eq!(schema(&deep), Err("`oneOf` has 501 parts, 500 are possible".into()));
        let patterns = json!([{"pattern": "a".repeat(3000)}, {"pattern": "a".repeat(3000)}]);
        assert!(schema(&patterns).is_err_and(|error| error.contains("together")));
    }

    #[test]
    fn remainders_are_counted() {
        for good in [1.0, 0.01, 5.0, 0.125, 10_000.0, 0.000_001, 12.5] {
            assert!(is_countable(Some(good)), "{good}");
        }
        for bad in [0.0, -1.0, 1e-9, 65_537.0, 0.333_333, f64::NAN] {
            assert!(!is_countable(Some(bad)), "{bad}");
        }
    }

    #[test]
    fn quotes_and_expressions_are_not_structure() {
        let text = "start: \"((\\\"(\" A? (B | C)+\nA: /[(]{2}/";
        let seen = Seen { depth: 1, rules: 2, repetitions: 2, regex_bytes: 7 };
        assert_eq!(scan(text), Ok(seen));
        assert!(lark(&"(".repeat(200)).is_err_and(|error| error.contains("nested")));
        let inner = format!("start: %json {{\"pattern\": \"{}\"}}", "a".repeat(5000));
        assert!(lark(&inner).is_err_and(|error| error.contains("together")));
    }

    #[test]
    fn a_schema_in_a_grammar_is_weighed_as_one() {
        let many = json!({"enum": vec![json!({}); 1500]});
        let text = format!("start: \"%json\" %json {many} (\"a\")*");
        let seen = Seen { depth: 1, rules: 1, repetitions: 1, regex_bytes: 0 };
        assert_eq!(scan(&text), Ok(seen));
        let open = scan("start: %json {\"a\": ((").map(|seen| seen.depth);
        assert_eq!(open, Ok(3));
    }
}
