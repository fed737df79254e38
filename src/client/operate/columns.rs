//! Which columns each kind of object is shown with.

use std::fmt::Write;

use serde_json::Value;
use troupe_actors::operate::Resource;
use troupe_runtime::{clock::from_rfc3339, spec::Kind};

use super::age::age;

/// A column: its title, whether only `-o wide` shows it, and an object's cell.
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) wide: bool,
    cell: Cell,
}

/// Where a cell comes from.
enum Cell {
    /// A place in the document.
    At(&'static str),
    /// How long ago the time at that place is.
    Since(&'static str),
    /// How long it is until then.
    Until(&'static str),
    /// What has to be put together.
    Of(fn(&Value) -> String),
}

// === impl Column ===

impl Column {
    const fn at(title: &'static str, pointer: &'static str) -> Self {
        Self { title, wide: false, cell: Cell::At(pointer) }
    }

    const fn of(title: &'static str, cell: fn(&Value) -> String) -> Self {
        Self { title, wide: false, cell: Cell::Of(cell) }
    }

    const fn since(title: &'static str, pointer: &'static str) -> Self {
        Self { title, wide: false, cell: Cell::Since(pointer) }
    }

    const fn until(title: &'static str, pointer: &'static str) -> Self {
        Self { title, wide: false, cell: Cell::Until(pointer) }
    }

    const fn wide(mut self) -> Self {
        self.wide = true;
        self
    }

    /// An object's cell, at a time in seconds since 1970.
    pub(crate) fn cell(&self, object: &Value, now: u64) -> String {
        match self.cell {
            Cell::At(pointer) => at(object, pointer),
            Cell::Since(pointer) => since(object, pointer, now),
            Cell::Until(pointer) => until(object, pointer, now),
            Cell::Of(cell) => cell(object),
        }
    }
}

/// The columns of a kind.
pub(crate) fn columns(resource: Resource) -> &'static [Column] {
    match resource {
        Resource::Declared(Kind::LlmInferenceService) => SERVICE,
        Resource::Declared(Kind::LeaderWorkerSet) => SET,
        Resource::Declared(Kind::LlmInferenceServiceConfig | Kind::InferencePool) => PLAIN,
        Resource::Declared(Kind::InferenceModel) => MODEL,
        Resource::Declared(Kind::InferenceObjective) => OBJECTIVE,
        Resource::Declared(Kind::HttpRoute) => ROUTE,
        Resource::Node => NODE,
        Resource::Group => GROUP,
        Resource::Gateway => GATEWAY,
        Resource::Endpoint => ENDPOINT,
        Resource::Event => EVENT,
        Resource::Revision => REVISION,
        Resource::Token => TOKEN,
    }
}

const NAME: Column = Column::at("NAME", "/metadata/name");
const AGE: Column = Column::since("AGE", "/metadata/creationTimestamp");

const SERVICE: &[Column] = &[
    NAME,
    Column::of("READY", |it| of(it, "/status/readyReplicas", "/status/replicas")),
    Column::at("UP-TO-DATE", "/status/updatedReplicas"),
    Column::of("STATUS", service_status),
    Column::at("URL", "/status/url"),
    AGE,
    Column::of("MODEL", |it| {
        let name = at(it, "/spec/model/name");
        if name.is_empty() { at(it, "/metadata/name") } else { name }
    })
    .wide(),
    Column::of("PARALLELISM", |it| {
        let size = |what: &str| {
            let size = at(it, &format!("/spec/parallelism/{what}"));
            if size.is_empty() { "1".to_owned() } else { size }
        };
        format!("tp={},pp={}", size("tensor"), size("pipeline"))
    })
    .wide(),
    Column::at("REVISION", "/status/revision").wide(),
];

const SET: &[Column] = &[
    NAME,
    Column::at("READY", "/status/readyReplicas"),
    Column::at("DESIRED", "/status/replicas"),
    Column::at("UP-TO-DATE", "/status/updatedReplicas"),
    AGE,
];

const PLAIN: &[Column] = &[NAME, AGE];

const MODEL: &[Column] = &[
    NAME,
    Column::at("MODEL NAME", "/spec/modelName"),
    Column::at("INFERENCE POOL", "/spec/poolRef/name"),
    Column::at("CRITICALITY", "/spec/criticality"),
    AGE,
];

const OBJECTIVE: &[Column] = &[
    NAME,
    Column::at("INFERENCE POOL", "/spec/poolRef/name"),
    Column::at("PRIORITY", "/spec/priority"),
    AGE,
];

const ROUTE: &[Column] = &[NAME, Column::of("HOSTNAMES", |it| list(it, "/spec/hostnames")), AGE];

const NODE: &[Column] = &[
    NAME,
    Column::of("STATUS", |it| {
        let closed = it.pointer("/spec/unschedulable") == Some(&Value::Bool(true));
        if closed { "Ready,SchedulingDisabled".into() } else { "Ready".into() }
    }),
    Column::of("DEVICES", |it| of(it, "/status/devices/used", "/status/devices/count")),
    AGE,
    Column::at("VERSION", "/status/version"),
    Column::at("KIND", "/status/devices/kind").wide(),
    Column::of("MEMORY", |it| bytes(it.pointer("/status/devices/memory"))).wide(),
    Column::at("ADDRESS", "/status/address").wide(),
];

const GROUP: &[Column] = &[
    NAME,
    Column::of("READY", |it| of(it, "/status/ready", "/status/size")),
    Column::of("STATUS", group_status),
    Column::at("RESTARTS", "/status/restarts"),
    AGE,
    Column::at("EPOCH", "/spec/epoch").wide(),
    Column::at("REVISION", "/spec/revision").wide(),
    Column::of("NODES", |it| {
        let members = it.pointer("/status/members").and_then(Value::as_array);
        let mut nodes: Vec<String> =
            members.into_iter().flatten().map(|member| at(member, "/node")).collect();
        nodes.dedup();
        nodes.join(",")
    })
    .wide(),
];

const GATEWAY: &[Column] =
    &[NAME, Column::at("URL", "/status/url"), Column::at("VERSION", "/status/version")];

const ENDPOINT: &[Column] = &[
    NAME,
    Column::at("GROUP", "/status/group"),
    Column::at("ROLE", "/status/role"),
    Column::of("MODELS", |it| list(it, "/status/modelNames")),
    Column::at("ADDRESS", "/status/address"),
    Column::at("REVISION", "/status/revision").wide(),
    Column::at("MAX-LEN", "/status/maxModelLen").wide(),
    Column::at("BLOCKS", "/status/blocks/count").wide(),
    Column::at("DTYPE", "/status/dtype").wide(),
    Column::at("KERNELS", "/status/kernelPath").wide(),
];

const EVENT: &[Column] = &[
    Column::since("LAST SEEN", "/lastTimestamp"),
    Column::at("TYPE", "/type"),
    Column::at("REASON", "/reason"),
    Column::of("OBJECT", |it| {
        let kind = at(it, "/involvedObject/kind").to_ascii_lowercase();
        format!("{kind}/{}", at(it, "/involvedObject/name"))
    }),
    Column::at("COUNT", "/count").wide(),
    Column::since("FIRST SEEN", "/firstTimestamp").wide(),
    Column::at("MESSAGE", "/message"),
];

const REVISION: &[Column] = &[
    NAME,
    Column::at("SERVICE", "/spec/service"),
    Column::at("REVISION", "/spec/revision"),
    Column::at("CHANGE-CAUSE", "/spec/cause"),
    AGE,
];

const TOKEN: &[Column] = &[
    NAME,
    Column::at("KIND", "/spec/kind"),
    Column::of("USED", |it| {
        let used = it.pointer("/status/used").and_then(Value::as_array).map_or(0, Vec::len);
        format!("{used}/{}", at(it, "/spec/uses"))
    }),
    Column::of("OPERATOR", |it| {
        let operator = it.pointer("/spec/operator") == Some(&Value::Bool(true));
        if operator { "yes".into() } else { "no".into() }
    }),
    Column::until("EXPIRES", "/spec/expires"),
    AGE,
    Column::of("USED BY", |it| {
        let used = it.pointer("/status/used").and_then(Value::as_array).into_iter().flatten();
        used.map(|used| at(used, "/name")).collect::<Vec<_>>().join(",")
    })
    .wide(),
    Column::at("CREATED BY", "/status/createdBy").wide(),
];

/// `Ready`, or why not in a word.
pub(crate) fn service_status(service: &Value) -> String {
    let conditions = service.pointer("/status/conditions").and_then(Value::as_array);
    let mut conditions = conditions.into_iter().flatten();
    let ready = conditions.find(|condition| at(condition, "/type") == "Ready");
    match ready {
        Some(ready) if at(ready, "/status") == "True" => "Ready".into(),
        Some(ready) if !at(ready, "/reason").is_empty() => at(ready, "/reason"),
        Some(_) => "NotReady".into(),
        None if service.get("status").is_none() => "Pending".into(),
        None => {
            let count = |what: &str| service.pointer(what).and_then(Value::as_u64);
            let all = count("/status/readyReplicas") == count("/status/replicas");
            if all { "Ready".into() } else { "NotReady".into() }
        }
    }
}

/// How far a group is: what the controller says, or what its members show.
fn group_status(group: &Value) -> String {
    let phase = at(group, "/status/phase");
    if !phase.is_empty() {
        return phase;
    }
    let count = |what: &str| group.pointer(what).and_then(Value::as_u64).unwrap_or_default();
    match (count("/status/ready"), count("/status/size")) {
        (_, 0) => "Pending".into(),
        (ready, size) if ready == size => "Ready".into(),
        _ => "Starting".into(),
    }
}

/// A place in a document as text; empty if there is nothing.
pub(crate) fn at(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// How long ago the time at a place is.
pub(crate) fn since(object: &Value, pointer: &str, now: u64) -> String {
    let then = from_rfc3339(&at(object, pointer));
    then.map_or_else(|| "<unknown>".into(), |then| age(then, now))
}

/// How long it is until the time at a place; of one that was revoked, that it was.
fn until(object: &Value, pointer: &str, now: u64) -> String {
    if object.pointer("/status/revoked").is_some() {
        return "revoked".into();
    }
    match from_rfc3339(&at(object, pointer)) {
        Some(then) if then > now => format!("in {}", age(now, then)),
        Some(then) => format!("{} ago", age(then, now)),
        None => "<unknown>".into(),
    }
}

fn of(object: &Value, part: &str, whole: &str) -> String {
    let count = |pointer: &str| object.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    format!("{}/{}", count(part), count(whole))
}

fn list(object: &Value, pointer: &str) -> String {
    let items = object.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

/// Bytes in the largest unit that leaves at least one.
pub(crate) fn bytes(value: Option<&Value>) -> String {
    let Some(bytes) = value.and_then(Value::as_u64) else { return String::new() };
    let units = [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];
    let unit = units.into_iter().find(|(shift, _)| bytes >> shift > 0);
    let mut text = String::new();
    match unit {
        Some((shift, unit)) => {
            let _ = write!(text, "{:.1}{unit}", bytes as f64 / f64::from(1 << 10).powi(shift / 10));
        }
        None => text.push_str(&bytes.to_string()),
    }
    text
}
