//! One object for reading: what it is, how it is, what happened to it.

use serde_json::Value;
use troupe_actors::operate::Resource;
use troupe_runtime::wire::operate::{ObjectName, Selection};

use super::{
    age::age,
    columns::{at, bytes, service_status, since},
    print,
    table::{Table, Titles},
};

/// An object with the events about it, at a time in seconds since 1970.
pub(crate) fn describe(resource: Resource, object: &Value, events: &[Value], now: u64) -> String {
    let mut page = Page::default();
    page.field("Name", at(object, "/metadata/name"));
    if resource.namespaced() {
        page.field("Namespace", at(object, "/metadata/namespace"));
    }
    page.list("Labels", pairs(object, "/metadata/labels"));
    page.list("Annotations", pairs(object, "/metadata/annotations"));
    match resource {
        Resource::SERVICE => service(&mut page, object, now),
        Resource::Node => node(&mut page, object, now),
        Resource::Group => group(&mut page, object),
        _ => other(&mut page, object),
    }
    page.events(events, now);
    page.text
}

/// The events of an object's namespace; which are about it, [`about`] says.
pub(crate) fn events_near(object: &ObjectName) -> Selection {
    let namespace = match object.namespace.as_str() {
        "" => "default",
        namespace => namespace,
    };
    Selection {
        kind: Resource::Event.kind().into(),
        namespace: Some(namespace.into()),
        ..Selection::default()
    }
}

/// Whether an event is about an object; of a service also whether it is about one of its groups.
pub(crate) fn about(event: &Value, object: &ObjectName) -> bool {
    let involved = |field: &str| at(event, &format!("/involvedObject/{field}"));
    if involved("namespace") != object.namespace {
        return false;
    }
    let name = involved("name");
    if involved("kind") == object.kind {
        return name == object.name;
    }
    let of_group = involved("kind") == Resource::Group.kind();
    of_group
        && object.kind == Resource::SERVICE.kind()
        && name.rsplit_once('-').is_some_and(|(service, _)| service == object.name)
}

fn service(page: &mut Page, object: &Value, now: u64) {
    let count = |pointer: &str| {
        let count = at(object, pointer);
        if count.is_empty() { "0".to_owned() } else { count }
    };
    page.field("Created", since(object, "/metadata/creationTimestamp", now) + " ago");
    page.field("Generation", at(object, "/metadata/generation"));
    page.field("Model", at(object, "/spec/model/name"));
    page.field("Model URI", at(object, "/spec/model/uri"));
    page.field("Status", service_status(object));
    page.field(
        "Replicas",
        format!(
            "{} desired | {} updated | {} ready",
            count("/status/replicas"),
            count("/status/updatedReplicas"),
            count("/status/readyReplicas")
        ),
    );
    page.field("Revision", at(object, "/status/revision"));
    page.field("URL", at(object, "/status/url"));
    page.field_if("Message", at(object, "/status/message"));
    let mut conditions = Table::new(["Type", "Status", "Reason", "Age", "Message"]);
    for condition in items(object, "/status/conditions") {
        let age = since(condition, "/lastTransitionTime", now);
        let cell = |field: &str| at(condition, &format!("/{field}"));
        conditions.add([cell("type"), cell("status"), cell("reason"), age, cell("message")]);
    }
    page.table("Conditions", &conditions);
    let mut groups = Table::new(["Index", "Phase", "Revision", "Restarts", "Epoch", "Members"]);
    for group in items(object, "/status/groups") {
        let cell = |field: &str| at(group, &format!("/{field}"));
        let members = items(group, "/members")
            .map(|member| format!("{} ({})", at(member, "/node"), at(member, "/state")));
        let members = members.collect::<Vec<_>>().join(", ");
        let numbers = [cell("index"), cell("phase"), cell("revision"), cell("restarts")];
        groups.add(numbers.into_iter().chain([cell("epoch"), members]));
    }
    page.table("Groups", &groups);
    for group in items(object, "/status/groups") {
        page.field_if(&format!("Group {}", at(group, "/index")), at(group, "/message"));
    }
}

fn node(page: &mut Page, object: &Value, now: u64) {
    page.field("Started", since(object, "/metadata/creationTimestamp", now) + " ago");
    page.field("Unschedulable", at(object, "/spec/unschedulable"));
    page.field_if("Drain seconds", at(object, "/spec/drainSeconds"));
    page.field("Address", at(object, "/status/address"));
    page.field("Version", at(object, "/status/version"));
    page.field("Wire", at(object, "/status/wire"));
    let devices = |field: &str| at(object, &format!("/status/devices/{field}"));
    page.field(
        "Devices",
        format!("{} {}, {} used", devices("count"), devices("kind"), devices("used")),
    );
    page.field("Memory", bytes(object.pointer("/status/devices/memory")));
    let mut members = Table::new(["Namespace", "Name", "State", "Epoch", "Cause"]);
    for member in items(object, "/status/members") {
        let cell = |field: &str| at(member, &format!("/{field}"));
        let name = [cell("namespace"), cell("name"), cell("state")];
        members.add(name.into_iter().chain([cell("epoch"), cell("cause")]));
    }
    page.table("Members", &members);
}

fn group(page: &mut Page, object: &Value) {
    page.field("Service", at(object, "/spec/service"));
    page.field("Model", at(object, "/spec/model/name"));
    page.field("Epoch", at(object, "/spec/epoch"));
    page.field("Revision", at(object, "/spec/revision"));
    page.field_if("Phase", at(object, "/status/phase"));
    page.field_if("Restarts", at(object, "/status/restarts"));
    page.field_if("Drain seconds", at(object, "/spec/drainSeconds"));
    page.field_if("Message", at(object, "/status/message"));
    let mut members = Table::new(["Name", "Node", "State", "Address", "Ranks", "Cause"]);
    for member in items(object, "/status/members") {
        let cell = |field: &str| at(member, &format!("/{field}"));
        let ranks: Vec<&str> = items(member, "/ranks").filter_map(Value::as_str).collect();
        let name = [cell("name"), cell("node"), cell("state"), cell("address")];
        members.add(name.into_iter().chain([ranks.join(","), cell("cause")]));
    }
    page.table("Members", &members);
}

/// An object of which nothing more is known than its document.
fn other(page: &mut Page, object: &Value) {
    for part in ["spec", "status"] {
        let Some(value) =
            object.get(part).filter(|value| value.as_object().is_some_and(|it| !it.is_empty()))
        else {
            continue;
        };
        page.line(&format!("{}:", title(part)));
        for line in print::document(print::Format::Yaml, value).lines() {
            page.line(&format!("  {line}"));
        }
    }
}

/// A page of fields, lists and tables.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn field(&mut self, name: &str, value: String) {
        let value = if value.is_empty() { "<none>".to_owned() } else { value };
        self.line(&format!("{:FIELD$}{value}", format!("{name}:")));
    }

    fn field_if(&mut self, name: &str, value: String) {
        if !value.is_empty() {
            self.field(name, value);
        }
    }

    fn list(&mut self, name: &str, values: Vec<String>) {
        let mut values = values.into_iter();
        self.field(name, values.next().unwrap_or_default());
        for value in values {
            self.line(&format!("{:FIELD$}{value}", ""));
        }
    }

    fn table(&mut self, name: &str, table: &Table) {
        if table.is_empty() {
            return self.field(name, String::new());
        }
        self.line(&format!("{name}:"));
        for line in table.print(Titles::Shown).lines() {
            self.line(&format!("  {line}"));
        }
    }

    fn events(&mut self, events: &[Value], now: u64) {
        let mut table = Table::new(["Type", "Reason", "Age", "Object", "Message"]);
        for event in events {
            let last = since(event, "/lastTimestamp", now);
            let count = at(event, "/count");
            let first = troupe_runtime::clock::from_rfc3339(&at(event, "/firstTimestamp"));
            let seen = match (count.as_str(), first) {
                ("" | "1", _) | (_, None) => last,
                (count, Some(first)) => format!("{last} (x{count} over {})", age(first, now)),
            };
            let object = at(event, "/involvedObject/name");
            let what = [at(event, "/type"), at(event, "/reason"), seen, object];
            table.add(what.into_iter().chain([at(event, "/message")]));
        }
        self.table("Events", &table);
    }
}

fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// `key=value` or, of what is long, its key and that it is.
fn pairs(object: &Value, pointer: &str) -> Vec<String> {
    let pairs = object.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
    let mut pairs: Vec<String> = pairs
        .map(|(key, value)| match value.as_str() {
            Some(value) if value.len() <= LONG => format!("{key}={value}"),
            Some(value) => format!("{key}: {} bytes", value.len()),
            None => format!("{key}={value}"),
        })
        .collect();
    pairs.sort();
    pairs
}

fn title(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Where values begin.
const FIELD: usize = 16;
/// An annotation that is longer is not for reading.
const LONG: usize = 120;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_770_091_506;

    #[test]
    fn a_service() {
        let object = json!({
            "metadata": {
                "name": "llama", "namespace": "default", "generation": 2,
                "creationTimestamp": "2026-02-03T04:00:00Z", "labels": {"b": "2", "a": "1"},
                "annotations": {"long": "x".repeat(200)},
            },
            "spec": {"model": {"uri": "file:///m", "name": "demo"}},
            "status": {
                "replicas": 2, "updatedReplicas": 2, "readyReplicas": 1, "revision": 2,
                "message": "default/llama-1: no devices",
                "conditions": [{
                    "type": "Ready", "status": "False", "reason": "Pending", "message": "1 of 2",
                    "lastTransitionTime": "2026-02-03T04:05:00Z",
                }],
                "groups": [
                    {"index": 0, "phase": "Ready", "revision": 2, "restarts": 0, "epoch": "1-ab",
                     "members": [{"node": "n1", "state": "Ready"}]},
                    {"index": 1, "phase": "Pending", "revision": 2, "restarts": 0, "members": [],
                     "message": "no devices"},
                ],
            },
        });
        let event = json!({
            "type": "Warning", "reason": "FailedScheduling", "count": 3, "message": "no devices",
            "involvedObject": {"kind": "Group", "namespace": "default", "name": "llama-1"},
            "firstTimestamp": "2026-02-03T04:00:06Z", "lastTimestamp": "2026-02-03T04:05:00Z",
        });
        let text = "\
Name:           llama
Namespace:      default
Labels:         a=1
                b=2
Annotations:    long: 200 bytes
Created:        5m6s ago
Generation:     2
Model:          demo
Model URI:      file:///m
Status:         Pending
Replicas:       2 desired | 2 updated | 1 ready
Revision:       2
URL:            <none>
Message:        default/llama-1: no devices
Conditions:
  Type    Status   Reason    Age   Message
  Ready   False    Pending   6s    1 of 2
Groups:
  Index   Phase     Revision   Restarts   Epoch    Members
  0       Ready     2          0          1-ab     n1 (Ready)
  1       Pending   2          0          <none>   <none>
Group 1:        no devices
Events:
  Type      Reason             Age               Object    Message
  Warning   FailedScheduling   6s (x3 over 5m)   llama-1   no devices
";
        let described = describe(Resource::SERVICE, &object, std::slice::from_ref(&event), NOW);
        assert_eq!(described, text);
        let named = |kind: &str, name: &str| ObjectName::new(kind, "default", name);
        assert!(about(&event, &named("LLMInferenceService", "llama")));
        assert!(about(&event, &named("Group", "llama-1")));
        assert!(!about(&event, &named("Group", "llama-0")));
        assert!(!about(&event, &named("LLMInferenceService", "llam")));
    }

    #[test]
    fn what_has_no_page_of_its_own_shows_its_document() {
        let object = json!({"metadata": {"name": "p", "namespace": "x"}, "spec": {"a": [1]}});
        let pool = Resource::find("infpool").expect("a kind");
        let text = "\
Name:           p
Namespace:      x
Labels:         <none>
Annotations:    <none>
Spec:
  a:
  - 1
Events:         <none>
";
        assert_eq!(describe(pool, &object, &[], NOW), text);
    }
}
