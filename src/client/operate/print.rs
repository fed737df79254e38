//! Objects as a person asked to see them: a table, YAML, JSON, or names alone.

use std::str::FromStr;

use serde_json::{Value, json};
use troupe_actors::operate::Resource;

use super::{
    columns::{at, columns},
    table::Table,
};

/// What `-o` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// A table.
    #[default]
    Table,
    /// A table with more columns.
    Wide,
    /// Documents.
    Yaml,
    /// Documents.
    Json,
    /// `kind/name`, one per line.
    Name,
}

/// Which columns a table has besides those of its kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Look {
    /// Those of `-o wide`.
    pub(crate) wide: bool,
    /// The namespace.
    pub(crate) namespaces: bool,
    /// The kind, as part of the name.
    pub(crate) kinds: bool,
    /// The labels.
    pub(crate) labels: bool,
}

// === impl Format ===

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "wide" => Ok(Self::Wide),
            "yaml" => Ok(Self::Yaml),
            "json" => Ok(Self::Json),
            "name" => Ok(Self::Name),
            _ => Err(format!(
                "unable to match a printer suitable for the output format \"{text}\", allowed \
                 formats are: json,name,wide,yaml"
            )),
        }
    }
}

/// One document.
pub(crate) fn document(format: Format, document: &Value) -> String {
    match format {
        Format::Json => format!("{document:#}\n"),
        // A document of JSON can be written as YAML: all its keys are text.
        _ => serde_norway::to_string(document).unwrap_or_else(|_| format!("{document:#}\n")),
    }
}

/// Several documents as one.
pub(crate) fn list(documents: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": documents})
}

/// The name of an object, with its kind.
pub(crate) fn name(object: &Value) -> String {
    let name = at(object, "/metadata/name");
    match Resource::find(&at(object, "/kind")) {
        Some(resource) => resource.slash(&name),
        None => name,
    }
}

/// Objects of one kind as a table, at a time in seconds since 1970.
pub(crate) fn table(resource: Resource, objects: &[Value], look: Look, now: u64) -> Table {
    let columns: Vec<_> =
        columns(resource).iter().filter(|column| look.wide || !column.wide).collect();
    let before = look.namespaces.then_some("NAMESPACE");
    let after = look.labels.then_some("LABELS");
    let titles = columns.iter().map(|column| column.title);
    let mut table = Table::new(before.into_iter().chain(titles).chain(after));
    for object in objects {
        let namespace = look.namespaces.then(|| at(object, "/metadata/namespace"));
        let cells = columns.iter().map(|column| match column.title {
            "NAME" if look.kinds => name(object),
            _ => column.cell(object, now),
        });
        let labels = look.labels.then(|| labels(object));
        table.add(namespace.into_iter().chain(cells).chain(labels));
    }
    table
}

/// `a=b,c=d`.
pub(crate) fn labels(object: &Value) -> String {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    let mut pairs: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort();
    pairs.join(",")
}

#[cfg(test)]
mod tests;
