//! A form's fields as what they have to be, or a mistake with its place.

use serde_json::{Value, json};
use troupe_runtime::model::grammar::lark;

/// A form's fields, with the place of the form for mistakes.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) place: &'a str,
    pub(super) value: &'a Value,
}

// === impl Fields ===

impl<'a> Fields<'a> {
    pub(super) fn text(self, name: &str) -> Result<&'a str, String> {
        let value = self.value.get(name).ok_or_else(|| self.missing(name))?;
        value.as_str().ok_or_else(|| self.wrong(name, "a text is needed"))
    }

    pub(super) fn texts(self, name: &str) -> Result<Vec<&'a str>, String> {
        let texts = self
            .list(name)?
            .iter()
            .map(|text| text.as_str().ok_or_else(|| self.wrong(name, "a list of texts is needed")));
        texts.collect()
    }

    pub(super) fn list(self, name: &str) -> Result<&'a [Value], String> {
        let value = self.value.get(name).ok_or_else(|| self.missing(name))?;
        let list = value.as_array().ok_or_else(|| self.wrong(name, "a list is needed"))?;
        Ok(list)
    }

    pub(super) fn flag(self, name: &str) -> Result<bool, String> {
        match self.value.get(name) {
            None | Some(Value::Null) => Ok(false),
            Some(value) => {
                value.as_bool().ok_or_else(|| self.wrong(name, "true or false is needed"))
            }
        }
    }

    /// A tag's ends.
    pub(super) fn ends(self) -> Result<Vec<&'a str>, String> {
        match self.value.get("end") {
            Some(Value::Array(ends)) if ends.is_empty() => {
                Err(self.wrong("end", "at least one is needed"))
            }
            Some(Value::Array(_)) => self.texts("end"),
            _ => self.text("end").map(|end| vec![end]),
        }
    }

    pub(super) fn schema(self) -> Result<String, String> {
        if self.value.get("style").is_some_and(|style| style != "json") {
            return Err(self.wrong("style", "`json` is the only one that is supported"));
        }
        match self.value.get("json_schema") {
            Some(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(lark::schema(schema.clone())),
            Some(_) => Err(self.wrong("json_schema", "an object or a boolean is needed")),
            None => Err(self.missing("json_schema")),
        }
    }

    /// As Lark writes it.
    pub(super) fn times(self) -> Result<String, String> {
        let number = |name: &str| {
            let value = self.value.get(name).ok_or_else(|| self.missing(name))?;
            let number = value.as_i64().filter(|number| (-1..=MAX_TIMES).contains(number));
            let what = format!("a number up to {MAX_TIMES} is needed");
            number.ok_or_else(|| self.wrong(name, &what))
        };
        let (least, most) = (number("min")?.max(0), number("max")?);
        match most {
            -1 => Ok(format!("{{{least},}}")),
            0 if least == 0 => Err(self.wrong("max", "nothing is matched at most 0 times")),
            most if most < least => Err(self.wrong("max", "it is less than `min`")),
            most => Ok(format!("{{{least},{most}}}")),
        }
    }

    /// Refuses what would bound or forbid parts of free text.
    pub(super) fn check_plain_text(self) -> Result<(), String> {
        for name in ["excludes", "max_tokens", "max_chars"] {
            let given = self.value.get(name).filter(|value| !value.is_null());
            if given.is_some_and(|value| *value != json!([])) {
                return Err(self.wrong(name, "it is not supported"));
            }
        }
        Ok(())
    }

    pub(super) fn endless(self, kind: &str) -> String {
        let what = format!(
            "`{kind}` is only possible at the end of the output, and `any_text` directly in a tag \
             with an end"
        );
        self.wrong("type", &what)
    }

    pub(super) fn missing(self, name: &str) -> String {
        self.wrong(name, "it is missing")
    }

    pub(super) fn wrong(self, name: &str, what: &str) -> String {
        format!("`{}`: {what}", self.below(name))
    }

    pub(super) fn below(self, name: &str) -> String {
        if self.place.is_empty() { name.into() } else { format!("{}.{name}", self.place) }
    }
}

/// Highest number of a repetition.
const MAX_TIMES: i64 = 1_000_000;
