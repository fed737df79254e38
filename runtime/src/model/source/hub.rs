//! Names on the Hugging Face hub: `org/name` or `org/name@revision`.

use super::Place;
use crate::model::error::ModelError;

/// Reads a name.
///
/// # Errors
/// [`ModelError::Source`], saying what one looks like.
pub(super) fn place(model: &str) -> Result<Place, ModelError> {
    if !is_name(model) {
        return Err(ModelError::Source(format!(
            "{model} is no name on the hub: one looks like `org/name` or `org/name@revision`"
        )));
    }
    let (name, revision) = split(model);
    Ok(Place::Hub { name: name.to_owned(), revision: revision.to_owned() })
}

/// Whether a text can be `org/name` or `org/name@revision`. The characters are those that the hub
/// allows, which also keeps a name from leaving the cache's folder.
pub(super) fn is_name(text: &str) -> bool {
    let (name, revision) = split(text);
    let is_part = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
    };
    let parts: Vec<&str> = name.split('/').collect();
    parts.len() == 2 && parts.into_iter().all(is_part) && revision.split('/').all(is_part)
}

fn split(model: &str) -> (&str, &str) {
    model.split_once('@').unwrap_or((model, "main"))
}
