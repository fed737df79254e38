//! minijinja, set up as transformers sets Jinja2 up: block trimming, loop controls, its functions
//! and filters, Python's methods, and nothing else.

use std::fmt;

use minijinja::{
    Environment, Error, ErrorKind, Output, State, Value, escape_formatter, filters,
    syntax::SyntaxConfig,
    value::{Kwargs, Rest, ValueKind},
};

use super::{budget, json, methods, tags};

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
    environment.set_formatter(write);
    environment.add_function("raise_exception", raise_exception);
    for (name, filter) in costly_filters() {
        environment.add_filter(name, move |state: &mut State<'_, '_>, args: Rest<Value>| {
            budget::prepay(name, &args)?;
            filter.call(state, &args)
        });
    }
    environment.add_filter("tojson", tojson);
    let around = tags::raw_bytes(source);
    environment.add_filter(tags::COUNTED, move |value: &Value| tags::counted(value, around));
    environment.add_filter(tags::HELD, move |value: &Value| tags::held(value, around));
    environment.add_test("iterable", is_iterable);
    environment.add_test("number", is_number);
    environment.add_test("sequence", is_sequence);
    environment.remove_global("debug");
    environment.add_template_owned(NAME, tags::rewrite(source)?)?;
    Ok(environment)
}

/// What minijinja writes by itself, paid for: a block that is captured has no bound of its own.
fn write(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    budget::weigh(value)?;
    escape_formatter(out, state, value)
}

/// minijinja's filters that go through all of a value, or make more of it.
fn costly_filters() -> [(&'static str, Value); 26] {
    [
        ("batch", Value::from_function(filters::batch)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("chain", Value::from_function(filters::chain)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("format", Value::from_function(filters::format)),
        ("groupby", Value::from_function(filters::groupby)),
        ("indent", Value::from_function(filters::indent)),
        ("join", Value::from_function(filters::join)),
        ("lines", Value::from_function(filters::lines)),
        ("list", Value::from_function(filters::list)),
        ("lower", Value::from_function(filters::lower)),
        ("map", Value::from_function(filters::map)),
        ("max", Value::from_function(filters::max)),
        ("min", Value::from_function(filters::min)),
        ("pprint", Value::from_function(filters::pprint)),
        ("replace", Value::from_function(filters::replace)),
        ("slice", Value::from_function(filters::slice)),
        ("sort", Value::from_function(filters::sort)),
        ("split", Value::from_function(filters::split)),
        ("string", Value::from_function(filters::string)),
        ("sum", Value::from_function(filters::sum)),
        ("title", Value::from_function(filters::title)),
        ("trim", Value::from_function(filters::trim)),
        ("unique", Value::from_function(filters::unique)),
        ("upper", Value::from_function(filters::upper)),
        ("zip", Value::from_function(filters::zip)),
    ]
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
    budget::weigh(value)?;
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
