//! What applying a document means for an object that is there already.
//!
//! A person's file says what it says and nothing of the rest: a field that it never had, such as
//! the number of replicas that `scale` or the autoscaler set, stays; a field that the file had when
//! it was last applied and has no longer goes. To know that, what was last applied is kept with the
//! object, in the annotation in which `kubectl apply` keeps it. Lists are taken as wholes.

use serde_json::{Map, Value};

/// The annotation that holds what was last applied.
pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What a cluster writes into `metadata`; a document's own word about it counts for nothing.
const OURS: [&str; 7] = [
    "uid",
    "creationTimestamp",
    "generation",
    "resourceVersion",
    "managedFields",
    "selfLink",
    "deletionTimestamp",
];

/// A document without what a cluster wrote into it: what a person declares.
pub(super) fn declared(document: &Value) -> Value {
    let mut declared = document.clone();
    let Some(top) = declared.as_object_mut() else { return declared };
    top.shift_remove("status");
    if let Some(metadata) = top.get_mut("metadata").and_then(Value::as_object_mut) {
        for ours in OURS {
            metadata.shift_remove(ours);
        }
        let annotations = metadata.get_mut("annotations").and_then(Value::as_object_mut);
        if let Some(annotations) = annotations {
            annotations.shift_remove(LAST_APPLIED);
            if annotations.is_empty() {
                metadata.shift_remove("annotations");
            }
        }
    }
    declared
}

/// What was last applied to a stored object; none if it was made otherwise.
pub(super) fn last_applied(stored: &Value) -> Option<Value> {
    let annotations = stored.pointer("/metadata/annotations")?;
    serde_json::from_str(annotations.get(LAST_APPLIED)?.as_str()?).ok()
}

/// An object as it is after a document was applied: what the document says, less what it said the
/// last time and no longer does, over what is there.
pub(super) fn merge(last: Option<&Value>, given: &Value, live: &Value) -> Value {
    let (Value::Object(given), Value::Object(live)) = (given, live) else { return given.clone() };
    let no_fields = Map::new();
    let last = last.and_then(Value::as_object).unwrap_or(&no_fields);
    let mut merged = live.clone();
    for key in last.keys().filter(|key| !given.contains_key(*key)) {
        merged.shift_remove(key);
    }
    for (key, value) in given {
        match (value, live.get(key)) {
            // As in a JSON merge patch.
            (Value::Null, _) => drop(merged.shift_remove(key)),
            (_, Some(there)) => {
                merged.insert(key.clone(), merge(last.get(key), value, there));
            }
            (_, None) => drop(merged.insert(key.clone(), value.clone())),
        }
    }
    Value::Object(merged)
}

/// A document without the fields that are null, which say nothing.
pub(super) fn without_nulls(document: Value) -> Value {
    match document {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_that_the_file_never_had_stays_and_one_that_it_lost_goes() {
        let last = json!({"spec": {"model": {"uri": "a", "name": "n"}, "parallelism": {}}});
        let live = json!({"spec": {
            "model": {"uri": "a", "name": "n", "criticality": "Critical"},
            "parallelism": {}, "replicas": 5,
        }});
        let given = json!({"spec": {"model": {"uri": "b"}}});
        let merged = merge(Some(&last), &given, &live);
        let model = json!({"uri": "b", "criticality": "Critical"});
        assert_eq!(merged, json!({"spec": {"model": model, "replicas": 5}}));
    }

    #[test]
    fn lists_are_wholes_and_null_removes() {
        let live = json!({"a": [1, 2], "b": {"c": 1}, "d": 4});
        let merged = merge(None, &json!({"a": [3], "b": 7, "d": null, "e": {"f": 1}}), &live);
        assert_eq!(merged, json!({"a": [3], "b": 7, "e": {"f": 1}}));
        let bare = without_nulls(json!({"a": [{"b": null}], "c": {"d": null}, "e": null}));
        assert_eq!(bare, json!({"a": [{}], "c": {}}));
    }

    #[test]
    fn what_a_cluster_wrote_is_not_declared() {
        let document = json!({
            "kind": "K",
            "metadata": {
                "name": "n", "uid": "u", "generation": 3, "resourceVersion": "3",
                "creationTimestamp": "2026-02-03T04:05:06Z",
                "annotations": {LAST_APPLIED: "{}"},
            },
            "spec": {}, "status": {"ready": 1},
        });
        let bare = json!({"kind": "K", "metadata": {"name": "n"}, "spec": {}});
        assert_eq!(declared(&document), bare);
        assert_eq!(last_applied(&document), Some(json!({})));
        assert_eq!(last_applied(&bare), None);
    }
}
