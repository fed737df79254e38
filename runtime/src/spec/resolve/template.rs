//! Templates in a specification: the part of Go's language that configurations use.
//!
//! Every text may hold actions between `{{` and `}}`: fields (`.Name`, `.Namespace`,
//! `.Spec.Parallelism.Tensor`, `.GlobalConfig.EnableTLS`), texts, whole numbers, `true`, `false`
//! and `nil`; the functions `or`, `and`, `not`, `eq`, `ne`, `ChildName` and `shutdownTimeout`, with
//! parentheses and pipes; `if`, `else if`, `else` and `end`; comments; `-` trims spaces at that
//! side. There are no loops, variables or other functions: whoever uses one is told so, with the
//! place.
//!
//! Fields are those of the service under Go's names, upper or lower case: its own first, then the
//! merged ones. One that is not set is false in a condition and an error where its text is wanted.

mod eval;
mod parse;

use serde_json::{Value, json};

use self::eval::Data;
pub(super) use self::eval::child_name;
use super::SYSTEM_NAMESPACE;
use crate::spec::{Finding, metadata::Metadata};

/// Fills in every template below `spec`, or says why not. `own` is the `spec` that was declared.
pub(super) fn fill(document: &mut Value, own: &Value, metadata: &Metadata) -> Vec<Finding> {
    let whole = |spec: &Value| {
        json!({
            "metadata": {
                "name": metadata.name,
                "namespace": metadata.namespace,
                "labels": metadata.labels,
                "annotations": metadata.annotations,
            },
            "spec": spec,
            "globalConfig": {
                "systemNamespace": SYSTEM_NAMESPACE,
                "ingressGatewayName": "troupe",
                "ingressGatewayNamespace": SYSTEM_NAMESPACE,
                "enableTLS": false,
                "modelBasedRoutingHeaderName": "X-Gateway-Model-Name",
                "inferencePoolNamespacedName": pool_name(&document["spec"], metadata),
            },
        })
    };
    let (mut own, merged) = (whole(own), whole(&document["spec"]));
    // The model's name is the service's, unless one of the two says another.
    let named = |whole: &Value| {
        let name = whole.pointer("/spec/model/name").and_then(Value::as_str);
        name.is_some_and(|name| !name.is_empty() && !name.contains("{{"))
    };
    if !named(&own) && !named(&merged) {
        own["spec"]["model"]["name"] = json!(metadata.name);
    }
    let data = Data { own, merged };
    let mut problems = Vec::new();
    fill_value(&mut document["spec"], "spec", &data, &mut problems);
    problems
}

fn pool_name(spec: &Value, metadata: &Metadata) -> String {
    let named = spec.pointer("/router/scheduler/pool/ref/name").and_then(Value::as_str);
    let own = super::shape::own_pool(&metadata.name);
    format!("{}/{}", metadata.namespace, named.unwrap_or(&own))
}

fn fill_value(value: &mut Value, path: &str, data: &Data, problems: &mut Vec<Finding>) {
    match value {
        Value::String(text) if text.contains("{{") => {
            match parse::parse(text).and_then(|parts| eval::text(&parts, data)) {
                Ok(filled) => *text = filled,
                Err(why) => problems.push(Finding::new(path, why)),
            }
        }
        Value::Array(list) => {
            for (at, value) in list.iter_mut().enumerate() {
                fill_value(value, &format!("{path}[{at}]"), data, problems);
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields.iter_mut() {
                fill_value(value, &format!("{path}.{key}"), data, problems);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
