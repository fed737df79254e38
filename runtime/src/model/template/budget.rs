//! What one rendering may cost beyond the steps that minijinja counts: a single step may make a
//! text twice as long, or go through a million items.
//!
//! Everything with which a template can do that is charged here for the bytes and items that it
//! goes through, and no value that is given a name, goes through a loop or into a filter is larger
//! or deeper than anything honest. What can still grow unseen is one expression: the texts that it
//! joins are bounded by what stands in one tag ([`super::tags`]).
//!
//! The budget is the thread's, because a rendering never leaves its thread and not every hook of
//! minijinja is told whose it is.

use std::cell::Cell;

use minijinja::{Error, ErrorKind, Value, value::ValueKind};

/// Bytes and items that one rendering may go through. What a conversation that fills the context of
/// any model takes is a few times its own length.
const MAX_WORK: usize = 1 << 30;
/// What an item costs, beside its text: as much memory, and as much time as copying it.
const ITEM: usize = 32;
/// The largest value, in the same units: as large as the largest prompt.
const MAX_VALUE: usize = 32 << 20;
/// The deepest value: requests are nested at most as deep as their parser allows, and a template
/// may put some lists around that. Values are dropped by recursion.
const MAX_DEPTH: usize = 200;

thread_local! {
    static LEFT: Cell<usize> = const { Cell::new(0) };
}

/// A rendering begins on this thread.
pub(super) fn begin() {
    LEFT.set(MAX_WORK);
}

/// Whether the rendering on this thread has used all of it up.
pub(super) fn is_spent() -> bool {
    LEFT.get() == 0
}

/// Pays for so many bytes or items.
pub(super) fn charge(units: usize) -> Result<(), Error> {
    let left = LEFT.get().saturating_sub(units);
    LEFT.set(left);
    if left == 0 {
        return Err(Error::new(ErrorKind::OutOfFuel, "the chat template takes too much work"));
    }
    Ok(())
}

/// Pays for going through all of a value, which must not be too large or too deep.
pub(super) fn weigh(value: &Value) -> Result<(), Error> {
    let mut room = MAX_VALUE;
    let fits = visit(value, 0, &mut room);
    charge(MAX_VALUE - room)?;
    fits
}

fn visit(value: &Value, depth: usize, room: &mut usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        let message = format!("a value is nested deeper than {MAX_DEPTH} levels");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    let units = ITEM + value.as_str().map_or(0, str::len);
    let Some(left) = room.checked_sub(units) else {
        let message = format!("a value is larger than {MAX_VALUE} bytes");
        return Err(Error::new(ErrorKind::OutOfFuel, message));
    };
    *room = left;
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter()? {
                visit(&item, depth + 1, room)?;
            }
        }
        ValueKind::Map => {
            for key in value.try_iter()? {
                visit(&key, depth + 1, room)?;
                visit(&value.get_item(&key)?, depth + 1, room)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Pays for a filter or method before it runs: for what it goes through, and for what it makes if
/// that can be far more.
pub(super) fn prepay(name: &str, args: &[Value]) -> Result<(), Error> {
    let text = |at: usize| args.get(at).and_then(Value::as_str).unwrap_or_default();
    let number = |at: usize| args.get(at).and_then(Value::as_usize).unwrap_or_default();
    let items = |at: usize| args.get(at).and_then(Value::len).unwrap_or_default();
    match name {
        "replace" if !text(1).is_empty() => {
            charge(text(0).matches(text(1)).count().saturating_mul(text(2).len()))?;
        }
        "replace" => charge((text(0).len() + 1).saturating_mul(text(2).len()))?,
        "join" => charge(items(0).saturating_mul(text(1).len()))?,
        // Of the method the text comes first.
        "str.join" => charge(items(1).saturating_mul(text(0).len()))?,
        "indent" => charge(text(0).lines().count().saturating_mul(number(1)))?,
        "batch" | "slice" => charge(number(1))?,
        "format" if has_long_number(text(0)) => {
            let message = "a width in a format is too large";
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        _ => {}
    }
    args.iter().try_for_each(weigh)
}

/// Whether a format asks for more than 999 characters, or for as many as a value says.
fn has_long_number(format: &str) -> bool {
    format.contains('*') || format.split(|c: char| !c.is_ascii_digit()).any(|run| run.len() > 3)
}
