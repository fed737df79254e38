//! Python methods that templates call on texts, beyond those of minijinja-contrib.

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Tuple, from_args},
};

use super::budget;

/// Called for every method that a value does not have of itself.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let mut paid_for = vec![value.clone()];
    paid_for.extend_from_slice(args);
    budget::prepay(if method == "join" { "str.join" } else { method }, &paid_for)?;
    if let Some(text) = value.as_str() {
        match text_method(text, method, args) {
            Err(error) if error.kind() == ErrorKind::UnknownMethod => {}
            result => return result,
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

fn text_method(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let pair = |parts: Option<(&str, &str)>, separator: &str, whole: [&str; 3]| {
        let parts = parts.map_or(whole, |(before, after)| [before, separator, after]);
        Value::from(Tuple::from(parts.map(Value::from)))
    };
    match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            Ok(pair(text.split_once(separator), separator, [text, "", ""]))
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            Ok(pair(text.rsplit_once(separator), separator, ["", "", text]))
        }
        "rsplit" => {
            let (separator, limit): (&str, Option<i64>) = from_args(args)?;
            let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
            let mut parts: Vec<Value> =
                text.rsplitn(limit.saturating_add(1), separator).map(Value::from).collect();
            parts.reverse();
            Ok(Value::from(parts))
        }
        "index" => {
            let (part,): (&str,) = from_args(args)?;
            let found = text.find(part).map(|byte| text[..byte].chars().count());
            let missing = || Error::new(ErrorKind::InvalidOperation, "substring not found");
            found.map(Value::from).ok_or_else(missing)
        }
        "casefold" => Ok(Value::from(text.to_lowercase())),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}
