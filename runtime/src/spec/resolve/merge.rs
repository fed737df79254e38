//! Strategic merge: one specification laid over another, as Kubernetes patches objects.
//!
//! Objects are merged field by field and scalars replaced. Lists of things with names (containers,
//! environment, ports, volumes) are merged by name, in the order of what is laid over, between
//! which the others keep their places; all other lists are replaced. What says nothing replaces
//! nothing: `null`, an empty text, an empty list, and `false` except for `enabled`, because the
//! types of KServe cannot tell those from a field that was left out. An empty object does say
//! something (`gateway: {}`), and so does 0.

use serde_json::{Map, Value};

/// Lays `over` on `base`.
pub(in crate::spec) fn merge(base: &mut Value, over: &Value) {
    let Some(over) = over.as_object() else {
        return;
    };
    if !base.is_object() {
        *base = Value::Object(Map::new());
    }
    if let Some(base) = base.as_object_mut() {
        merge_objects(base, over, false);
    }
}

/// `free` if the fields are names of the user's, as labels are: then every value says something.
fn merge_objects(base: &mut Map<String, Value>, over: &Map<String, Value>, free: bool) {
    for (key, value) in over {
        if !free && !says_something(key, value) || value.is_null() {
            continue;
        }
        match (base.get_mut(key), value) {
            (Some(Value::Object(base)), Value::Object(over)) => {
                merge_objects(base, over, FREE.contains(&key.as_str()));
            }
            (Some(Value::Array(base)), Value::Array(over)) => match merge_key(key) {
                Some(name) => merge_lists(base, over, name),
                None => base.clone_from(over),
            },
            _ => {
                base.insert(key.clone(), cleaned(key, value));
            }
        }
    }
}

fn merge_lists(base: &mut Vec<Value>, over: &[Value], key: &str) {
    let name = |item: &Value| item.get(key).cloned();
    let place = |items: &[Value], item: &Value| {
        let named = name(item)?;
        items.iter().position(|other| name(other).as_ref() == Some(&named))
    };
    let mut kept =
        base.iter().enumerate().filter(|(_, item)| place(over, item).is_none()).peekable();
    let mut merged = Vec::with_capacity(base.len() + over.len());
    for item in over {
        let Some(at) = place(base, item) else {
            merged.push(cleaned("", item));
            continue;
        };
        while let Some((_, before)) = kept.next_if(|(other, _)| *other < at) {
            merged.push(before.clone());
        }
        let mut both = base[at].clone();
        merge(&mut both, item);
        merged.push(both);
    }
    merged.extend(kept.map(|(_, item)| item.clone()));
    *base = merged;
}

/// A field's value without what says nothing in it.
fn cleaned(key: &str, value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut object = Map::new();
            merge_objects(&mut object, fields, FREE.contains(&key));
            Value::Object(object)
        }
        other => other.clone(),
    }
}

fn says_something(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag || key == "enabled",
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Number(_) | Value::Object(_) => true,
    }
}

/// Objects whose fields are names of the user's.
const FREE: [&str; 6] =
    ["labels", "annotations", "nodeSelector", "matchLabels", "limits", "requests"];

/// By which field the things of a list are told apart, if they are merged.
fn merge_key(list: &str) -> Option<&'static str> {
    match list {
        "containers" | "initContainers" | "env" | "volumes" | "imagePullSecrets" => Some("name"),
        "ports" => Some("containerPort"),
        "volumeMounts" => Some("mountPath"),
        "volumeDevices" => Some("devicePath"),
        "hostAliases" => Some("ip"),
        "topologySpreadConstraints" => Some("topologyKey"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(base: Value, over: Value, wanted: Value) {
        let mut merged = base;
        merge(&mut merged, &over);
        assert_eq!(merged, wanted);
    }

    #[test]
    fn what_says_nothing_replaces_nothing() {
        let base = json!({"a": 1, "b": "x", "c": [1], "d": true, "e": {"f": 1}});
        let over = json!({"a": null, "b": "", "c": [], "d": false, "e": {}});
        check(base.clone(), over, base);
        check(
            json!({"a": 1}),
            json!({"a": 0, "enabled": false}),
            json!({"a": 0, "enabled": false}),
        );
        check(json!({}), json!({"gateway": {}, "x": ""}), json!({"gateway": {}}));
        let labels = json!({"labels": {"a": ""}, "x": {"y": null, "z": [], "expert": false}});
        check(json!({}), labels, json!({"labels": {"a": ""}, "x": {}}));
        check(
            json!({"labels": {"a": "1"}}),
            json!({"labels": {"a": ""}}),
            json!({"labels": {"a": ""}}),
        );
    }

    #[test]
    fn lists_of_named_things_are_merged_and_others_replaced() {
        let base = json!({"containers": [
            {"name": "main", "image": "a", "args": ["x", "y"],
             "env": [{"name": "A", "value": "1"}]},
            {"name": "other"}
        ]});
        let over = json!({"containers": [
            {"name": "new", "image": ""},
            {"name": "main", "args": ["z"],
             "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "3"}]}
        ]});
        let wanted = json!({"containers": [
            {"name": "new"},
            {"name": "main", "image": "a", "args": ["z"],
             "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "3"}]},
            {"name": "other"}
        ]});
        check(base, over, wanted);
        check(
            json!({"env": [{"value": 1}]}),
            json!({"env": [{"value": 2}]}),
            json!({"env": [{"value": 2}, {"value": 1}]}),
        );
    }

    #[test]
    fn what_is_of_another_type_is_replaced() {
        check(json!({"a": [1]}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}}));
        check(json!({"a": {"b": 1}}), json!({"a": "x"}), json!({"a": "x"}));
        check(json!({"a": 1}), json!([1]), json!({"a": 1}));
        check(json!(1), json!({"a": 1}), json!({"a": 1}));
    }
}
