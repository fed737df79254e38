//! JSON into a template and out of it again.
//!
//! Out goes what Python's `json.dumps` makes: ", " and ": " between, keys in their order, no HTML
//! escaping. Models were trained on exactly these bytes, so a space more is another prompt.

use minijinja::{Error, ErrorKind, Value, value::ValueKind};
use serde_json::Value as Json;

/// The arguments of `json.dumps`.
pub(super) struct Style {
    /// Whether characters beyond ASCII are written as `\uNNNN`.
    pub(super) ensure_ascii: bool,
    /// Whether keys are sorted.
    pub(super) sort_keys: bool,
    /// What one level is indented by; `None` is all in one line.
    pub(super) indent: Option<String>,
    /// Between items and after a key, if not the usual.
    pub(super) separators: Option<(String, String)>,
}

/// `indent` as Python takes it: a number of spaces, or a text.
pub(super) fn indent_of(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    match value.as_i64() {
        Some(count) if count <= MAX_INDENT => Ok(" ".repeat(count.max(0) as usize)),
        _ => Err(invalid("indent must be a small number or a text")),
    }
}

/// `separators` as Python takes it: a pair of texts.
pub(super) fn separators_of(value: &Value) -> Result<(String, String), Error> {
    let texts: Option<Vec<String>> =
        value.try_iter()?.map(|item| item.as_str().map(str::to_owned)).collect();
    match texts.as_deref() {
        Some([item, key]) => Ok((item.clone(), key.clone())),
        _ => Err(invalid("separators must be two texts")),
    }
}

/// Writes a value.
pub(super) fn dumps(value: &Value, style: &Style) -> Result<String, Error> {
    let (item, key) = match &style.separators {
        Some((item, key)) => (item.as_str(), key.as_str()),
        None if style.indent.is_some() => (",", ": "),
        None => (", ", ": "),
    };
    let mut writer = Writer { out: String::new(), style, item, key };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct Writer<'a> {
    out: String,
    style: &'a Style,
    item: &'a str,
    key: &'a str,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid("a value is nested too deeply for tojson"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth)?,
            ValueKind::Map => self.object(value, depth)?,
            kind => return Err(invalid(format!("{kind} cannot be written as JSON"))),
        }
        Ok(())
    }

    fn list(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut is_empty = true;
        for item in value.try_iter()? {
            self.separate(&mut is_empty, depth + 1);
            self.value(&item, depth + 1)?;
        }
        self.close(']', is_empty, depth);
        Ok(())
    }

    fn object(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.style.sort_keys {
            keys.sort();
        }
        self.out.push('{');
        let mut is_empty = true;
        for key in keys {
            self.separate(&mut is_empty, depth + 1);
            match key.kind() {
                ValueKind::String => self.text(key.as_str().unwrap_or_default()),
                ValueKind::None => self.out.push_str("\"null\""),
                ValueKind::Bool => {
                    self.out.push_str(if key.is_true() { "\"true\"" } else { "\"false\"" });
                }
                ValueKind::Number => self.text(&number(&key)),
                kind => return Err(invalid(format!("a key cannot be {kind}"))),
            }
            self.out.push_str(self.key);
            self.value(&value.get_item(&key)?, depth + 1)?;
        }
        self.close('}', is_empty, depth);
        Ok(())
    }

    /// What stands before an item: a separator unless it is the first, and its line's indent.
    fn separate(&mut self, is_empty: &mut bool, depth: usize) {
        if !*is_empty {
            self.out.push_str(self.item);
        }
        *is_empty = false;
        self.new_line(depth);
    }

    fn close(&mut self, bracket: char, is_empty: bool, depth: usize) {
        if !is_empty {
            self.new_line(depth);
        }
        self.out.push(bracket);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.style.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                // Python writes DEL as it is unless all but printable ASCII is escaped.
                '\0'..'\u{20}' => self.escape(character),
                _ if self.style.ensure_ascii && !(' '..='~').contains(&character) => {
                    self.escape(character);
                }
                _ => self.out.push(character),
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, character: char) {
        for unit in character.encode_utf16(&mut [0; 2]) {
            self.out.push_str(&format!("\\u{unit:04x}"));
        }
    }
}

/// A number as Python writes it.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(number) if number.is_nan() => "NaN".to_owned(),
        Ok(number) if number.is_infinite() => {
            if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
        }
        Ok(number) => float(number),
        Err(_) => value.to_string(),
    }
}

/// A finite float as Python's `repr`: the shortest digits that give the same number back, with an
/// exponent from 1e16 upwards and below 1e-4.
fn float(number: f64) -> String {
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    match exponent.parse::<i32>() {
        Ok(power) if !(-4..16).contains(&power) => {
            let sign = if power < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", power.abs())
        }
        _ => {
            let plain = number.to_string();
            if plain.contains('.') { plain } else { plain + ".0" }
        }
    }
}

/// JSON as a template sees it.
pub(super) fn value_of(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(list) => list.iter().map(value_of).collect(),
        Json::Object(map) => {
            Value::from_pairs(map.iter().map(|(key, value)| (key.as_str(), value_of(value))))
        }
    }
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}

/// Requests are nested at most as deep as their parser allows; a template could build more.
const MAX_DEPTH: usize = 128;
const MAX_INDENT: i64 = 64;
