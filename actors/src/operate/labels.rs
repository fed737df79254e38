//! Labels: what they may look like, and selections by them (`app=a,tier!=b,env in (x,y),!old`).

use std::collections::BTreeMap;

/// A selection: all of its terms must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    /// The label is there.
    Has(String),
    /// It is not.
    HasNot(String),
    /// It is there and has one of these values.
    In(String, Vec<String>),
    /// It is not there or has none of these values.
    NotIn(String, Vec<String>),
}

// === impl Selector ===

impl Selector {
    /// Reads a selection; an empty one selects everything.
    ///
    /// # Errors
    /// Which term cannot be read, and what could.
    pub fn parse(text: &str) -> Result<Self, String> {
        let terms = split(text).into_iter().map(str::trim).filter(|term| !term.is_empty());
        terms.map(Term::parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|term| term.holds(labels))
    }
}

impl Term {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(key) = text.strip_prefix('!') {
            return Ok(Self::HasNot(checked_key(key)?));
        }
        if let Some((key, values)) = text.split_once(" notin ") {
            return Ok(Self::NotIn(checked_key(key)?, set(values)?));
        }
        if let Some((key, values)) = text.split_once(" in ") {
            return Ok(Self::In(checked_key(key)?, set(values)?));
        }
        if let Some((key, value)) = text.split_once("!=") {
            return Ok(Self::NotIn(checked_key(key)?, vec![checked_value(value)?]));
        }
        if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            return Ok(Self::In(checked_key(key)?, vec![checked_value(value)?]));
        }
        Ok(Self::Has(checked_key(text)?))
    }

    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Has(key) => labels.contains_key(key),
            Self::HasNot(key) => !labels.contains_key(key),
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
        }
    }
}

/// Whether text can be a label's name: `name` or `domain/name`.
///
/// # Errors
/// What would be right.
pub fn check_key(key: &str) -> Result<(), String> {
    let (domain, name) = key.split_once('/').map_or(("", key), |(domain, name)| (domain, name));
    let domain_is_one = domain.len() <= 253
        && domain.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')
        });
    if is_word(name) && domain_is_one && !key.starts_with('/') {
        return Ok(());
    }
    Err(format!("`{key}` is no label's name: 1 to 63 of {WORD}, perhaps behind `domain/`"))
}

/// Whether text can be a label's value.
///
/// # Errors
/// What would be right.
pub fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_word(value) {
        return Ok(());
    }
    Err(format!("`{value}` is no label's value: at most 63 of {WORD}"))
}

const WORD: &str = "letters, digits, -, _ and ., a letter or digit at both ends";

fn is_word(text: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let bytes = text.as_bytes();
    text.len() <= 63 && ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(inner)
}

fn checked_key(key: &str) -> Result<String, String> {
    let key = key.trim();
    check_key(key).map(|()| key.to_owned())
}

fn checked_value(value: &str) -> Result<String, String> {
    let value = value.trim();
    check_value(value).map(|()| value.to_owned())
}

fn set(text: &str) -> Result<Vec<String>, String> {
    let inner = text.trim().strip_prefix('(').and_then(|text| text.strip_suffix(')'));
    let inner = inner.ok_or_else(|| format!("`{text}` must be values in brackets: (a,b)"))?;
    inner.split(',').map(checked_value).collect()
}

/// At commas that are in no brackets.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    text.split(|letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Selector::parse(selector).expect(selector).matches(&labels.collect())
    }

    #[test]
    fn every_kind_of_term_selects() {
        let labels = [("app", "a"), ("env", "x"), ("kserve.io/tier", "")];
        let yes = [
            "",
            "app",
            "app=a",
            "app==a",
            "app = a , env=x",
            "app!=b",
            "old!=b",
            "!old",
            "env in (x, y)",
            "env notin (z),app",
            "old notin (x)",
            "kserve.io/tier",
            "kserve.io/tier=",
        ];
        for selector in yes {
            assert!(selects(selector, &labels), "{selector}");
        }
        let no = ["old", "app=b", "app!=a", "!app", "env in (y,z)", "env notin (x)", "app,old"];
        for selector in no {
            assert!(!selects(selector, &labels), "{selector}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        for nonsense in ["=a", "a=b c", "env in x", "a in (b", "-a", "a/b/c=d", "!"] {
            let error = Selector::parse(nonsense).expect_err(nonsense);
            assert!(error.contains('`'), "{error}");
        }
        assert!(check_value(&"v".repeat(64)).is_err());
    }
}
