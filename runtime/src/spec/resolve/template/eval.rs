//! What a template says of a service.

use serde_json::Value;

use super::parse::{Expression, Part};

/// What fields are read from: documents with `metadata`, `spec` and `globalConfig`.
pub(super) struct Data {
    /// The service as it was declared.
    pub(super) own: Value,
    /// The same over what it starts from; a template in it is not yet known.
    pub(super) merged: Value,
}

/// The text of a template.
pub(super) fn text(parts: &[Part], data: &Data) -> Result<String, String> {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Text(plain) => text.push_str(plain),
            Part::Value(expression) => text.push_str(&shown(expression, data)?),
            Part::If(branches, otherwise) => {
                let mut taken = otherwise;
                for (condition, parts) in branches {
                    if truth(&value(condition, data)?) {
                        taken = parts;
                        break;
                    }
                }
                text.push_str(&self::text(taken, data)?);
            }
        }
    }
    Ok(text)
}

fn shown(expression: &Expression, data: &Data) -> Result<String, String> {
    match value(expression, data)? {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Null => Err(format!("asks for {}, which is not set", named(expression))),
        Value::Array(_) | Value::Object(_) => {
            Err(format!("asks for {}, which is not a text or a number", named(expression)))
        }
    }
}

fn named(expression: &Expression) -> String {
    match expression {
        Expression::Field(path) => format!("`.{}`", path.join(".")),
        Expression::Call(function, _) => format!("what `{function}` gives"),
        _ => "a value".to_owned(),
    }
}

fn value(expression: &Expression, data: &Data) -> Result<Value, String> {
    match expression {
        Expression::Field(path) => data.field(path),
        Expression::Text(text) => Ok(text.as_str().into()),
        Expression::Number(number) => Ok((*number).into()),
        Expression::Flag(flag) => Ok((*flag).into()),
        Expression::Nothing => Ok(Value::Null),
        Expression::Call(function, arguments) => call(function, arguments, data),
    }
}

fn call(function: &str, arguments: &[Expression], data: &Data) -> Result<Value, String> {
    let at_least = |count: usize| match arguments.len() >= count {
        true => Ok(()),
        false => Err(format!("gives `{function}` {} values, it needs {count}", arguments.len())),
    };
    match function {
        // As in Go: the first that decides is the answer, whatever its type.
        "or" | "and" => {
            at_least(1)?;
            let decides = function == "or";
            let mut last = Value::Null;
            for argument in arguments {
                last = value(argument, data)?;
                if truth(&last) == decides {
                    break;
                }
            }
            Ok(last)
        }
        "not" => {
            at_least(1)?;
            Ok((!truth(&value(&arguments[0], data)?)).into())
        }
        "eq" | "ne" => {
            at_least(2)?;
            let first = value(&arguments[0], data)?;
            let mut equal = false;
            for argument in &arguments[1..] {
                equal |= value(argument, data)? == first;
            }
            Ok((equal == (function == "eq")).into())
        }
        "ChildName" => {
            at_least(2)?;
            let parent = shown(&arguments[0], data)?;
            Ok(child_name(&parent, &shown(&arguments[1], data)?).into())
        }
        "shutdownTimeout" => {
            at_least(2)?;
            let pod = value(&arguments[0], data)?;
            Ok(shutdown_timeout(&pod, value(&arguments[1], data)?.as_i64()).into())
        }
        // In KServe a flag of vLLM; here `kvCacheOffloading` is read itself.
        "kvTransferConfig" => Ok("".into()),
        other => {
            let known = "or, and, not, eq, ne, ChildName, shutdownTimeout and kvTransferConfig are";
            Err(format!("has the function `{other}`, which is not known; {known}"))
        }
    }
}

/// How many seconds of a pod's grace are left for its requests, after the hook before its end and
/// up to five seconds for the end itself: KServe's rule.
fn shutdown_timeout(pod: &Value, before: Option<i64>) -> i64 {
    let grace = pod.get("terminationGracePeriodSeconds").and_then(Value::as_i64);
    let grace = grace.unwrap_or(DEFAULT_GRACE).max(0);
    grace.saturating_sub(before.unwrap_or(0)).saturating_sub(grace.min(5)).max(0)
}

/// KServe's, in seconds.
const DEFAULT_GRACE: i64 = 60;

/// Go's truth: nothing, zero and what is empty are false.
fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// A name with a suffix that is still a host name: a long one is cut, and a digest tells it from
/// others that begin alike.
pub(in crate::spec::resolve) fn child_name(parent: &str, suffix: &str) -> String {
    if parent.len() + suffix.len() <= MAX_NAME {
        return format!("{parent}{suffix}");
    }
    let whole = format!("{parent}{suffix}");
    let digest = blake3::hash(whole.as_bytes()).to_hex();
    let suffix = if suffix.len() <= MAX_SUFFIX { suffix } else { "" };
    let room = MAX_NAME - DIGEST - suffix.len();
    let cut = (0..=room.min(parent.len())).rev().find(|at| parent.is_char_boundary(*at));
    format!("{}{}{suffix}", &parent[..cut.unwrap_or(0)], &digest[..DIGEST])
}

/// The longest host name.
const MAX_NAME: usize = 63;
/// Characters of the digest.
const DIGEST: usize = 16;
/// The longest suffix that is kept.
const MAX_SUFFIX: usize = MAX_NAME - DIGEST - 1;

// === impl Data ===

impl Data {
    /// A field; `Null` if it is one of the API's and is not set.
    fn field(&self, path: &[String]) -> Result<Value, String> {
        let mut names: Vec<&str> = path.iter().map(String::as_str).collect();
        match names[0].to_ascii_lowercase().as_str() {
            "name" | "namespace" | "labels" | "annotations" => names.insert(0, "metadata"),
            "objectmeta" => names[0] = "metadata",
            _ => {}
        }
        // Go lets the fields of an embedded type be named with and without it.
        names.retain(|name| *name != "WorkloadSpec");
        let is_text = |value: &&Value| !value.as_str().is_some_and(|text| text.contains("{{"));
        let merged = find(&self.merged, &names);
        let found =
            find(&self.own, &names).or_else(|| merged.as_ref().filter(|v| is_text(v)).cloned());
        match found {
            Some(found) => Ok(found),
            None if merged.is_some() || is_known(&names) => Ok(Value::Null),
            None => {
                Err(format!("asks for `.{}`, which is no field of the service", path.join(".")))
            }
        }
    }
}

/// A field by Go's names, whatever the case of their letters.
fn find(document: &Value, names: &[&str]) -> Option<Value> {
    let mut value = document;
    for (at, name) in names.iter().enumerate() {
        if let Value::String(text) = value {
            return (at + 1 == names.len()).then(|| part_of_uri(text, name)).flatten();
        }
        let fields = value.as_object()?;
        value = fields.get(*name).or_else(|| {
            let same = |(key, _): &(&String, &Value)| key.eq_ignore_ascii_case(name);
            fields.iter().find(same).map(|(_, value)| value)
        })?;
    }
    Some(value.clone())
}

/// What Go calls the parts of a URI.
fn part_of_uri(uri: &str, name: &str) -> Option<Value> {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("", uri));
    let slash = if scheme.is_empty() { 0 } else { rest.find('/').unwrap_or(rest.len()) };
    let (host, path) = rest.split_at(slash);
    match name {
        "Scheme" => Some(scheme.into()),
        "Host" => Some(host.into()),
        "Path" => Some(path.into()),
        _ => None,
    }
}

/// Whether a field that is not there might be.
fn is_known(path: &[&str]) -> bool {
    let lower = path.join(".").to_ascii_lowercase();
    let side = lower.strip_prefix("spec.prefill.").or(lower.strip_prefix("spec."));
    side.is_some_and(|field| {
        WORKLOAD_FIELDS
            .iter()
            .any(|known| *known == field || known.starts_with(&format!("{field}.")))
    }) || SERVICE_FIELDS
        .iter()
        .any(|known| *known == lower || known.starts_with(&format!("{lower}.")))
        || lower.starts_with("metadata.labels.")
        || lower.starts_with("metadata.annotations.")
}

/// Fields of `spec` and of `spec.prefill` that a template may ask for though they are not set.
const WORKLOAD_FIELDS: [&str; 15] = [
    "replicas",
    "parallelism.tensor",
    "parallelism.pipeline",
    "parallelism.data",
    "parallelism.datalocal",
    "parallelism.datarpcport",
    "parallelism.expert",
    "scaling.minreplicas",
    "scaling.maxreplicas",
    "template.terminationgraceperiodseconds",
    "worker.terminationgraceperiodseconds",
    "kvcacheoffloading.cpu",
    "kvcacheoffloading.evictionpolicy",
    "labels",
    "annotations",
];
/// Fields of the service that a template may ask for though they are not set.
const SERVICE_FIELDS: [&str; 16] = [
    "spec.model.uri",
    "spec.model.name",
    "spec.model.criticality",
    "spec.model.lora.maxrank",
    "spec.model.lora.maxadapters",
    "spec.model.lora.maxcpuadapters",
    "spec.prefill.replicas",
    "spec.router.gateway",
    "spec.router.route.group",
    "spec.router.route.weight",
    "spec.router.scheduler.pool.ref.name",
    "spec.storageinitializer.enabled",
    "spec.tracing.exporterendpoint",
    "spec.tracing.sampler",
    "spec.tracing.samplerarg",
    "spec.tracing.exporter",
];
