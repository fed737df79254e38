//! minijinja, set up as transformers sets Jinja2 up: block trimming, loop controls, its functions
//! and filters, Python's methods, and nothing else.

use std::fmt;

use minijinja::{
    Environment, Error, ErrorKind, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, Rest, ValueKind},
};

use super::{json, methods, tags};

/// The one template of an environment.
pub(super) const NAME: &str = "chat";

/// A refusal by `raise_exception`, to be told from a failure.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// Compiles a template in an environment of its own.
pub(super) fn compile(source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(MAX_STEPS));
    environment.set_unknown_method_callback(methods::call);
    environment.add_function("raise_exception", raise_exception);
    environment.add_filter("tojson", tojson);
    environment.add_filter(tags::COUNTED, tags::counted);
    environment.add_test("iterable", is_iterable);
    environment.add_test("number", is_number);
    environment.add_test("sequence", is_sequence);
    environment.remove_global("debug");
    environment.add_template_owned(NAME, tags::rewrite(source))?;
    Ok(environment)
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = message.to_string();
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// transformers' own `tojson`: Python's `json.dumps`, with non-ASCII characters as they are.
fn tojson(value: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        let value =
            positional.get(index).cloned().map_or_else(|| kwargs.get(name), |v| Ok(Some(v)));
        Ok(value?.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let style = json::Style {
        ensure_ascii: argument(0, "ensure_ascii")?.is_some_and(|value| value.is_true()),
        indent: argument(1, "indent")?.map(|value| json::indent_of(&value)).transpose()?,
        separators: argument(2, "separators")?.map(|v| json::separators_of(&v)).transpose()?,
        sort_keys: argument(3, "sort_keys")?.is_some_and(|value| value.is_true()),
    };
    kwargs.assert_all_used()?;
    json::dumps(value, &style).map(Value::from)
}

/// In Python `None` cannot be iterated over; here it is as good as an empty list.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// In Python `True` and `False` are numbers.
fn is_number(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
}

/// In Python a text and a dict have a length and can be indexed, so Jinja2 calls them sequences.
fn is_sequence(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined => true,
        // A slice of a list is lazy here and a list in Python.
        ValueKind::Iterable => value.len().is_some(),
        _ => false,
    }
}

/// Instructions in one rendering. A message takes about a hundred; a conversation of ten thousand
/// messages over a template that looks back once per message stays below.
const MAX_STEPS: u64 = 10_000_000;
