//! Tables as they are printed, beside the documents that they are made of.

use super::{super::table::Titles, *};

/// 2026-02-03T04:05:06Z.
const NOW: u64 = 1_770_091_506;

fn printed(kind: &str, objects: &[Value], look: Look) -> String {
    let resource = Resource::find(kind).expect("a kind");
    let text = table(resource, objects, look, NOW).print(Titles::Shown);
    format!("\n{text}")
}

fn service(name: &str, status: Value) -> Value {
    json!({
        "kind": "LLMInferenceService",
        "metadata": {
            "name": name, "namespace": "default", "labels": {"team": "a", "env": "x"},
            "creationTimestamp": "2026-02-03T03:00:00Z",
        },
        "spec": {"model": {"uri": "file:///m", "name": "demo"}, "parallelism": {"tensor": 2}},
        "status": status,
    })
}

#[test]
fn services() {
    let ready = json!({
        "readyReplicas": 2, "replicas": 2, "updatedReplicas": 2, "revision": 4,
        "url": "http://10.0.0.1:8000/default/llama",
        "conditions": [{"type": "Ready", "status": "True", "reason": "Ready"}],
    });
    let stuck = json!({
        "readyReplicas": 0, "replicas": 1, "updatedReplicas": 1, "revision": 1,
        "conditions": [{"type": "Ready", "status": "False", "reason": "NoDevices"}],
    });
    let mut young = service("new", json!({}));
    young.as_object_mut().expect("an object").shift_remove("status");
    let objects = [service("llama", ready), service("other", stuck), young];
    let text = "
NAME    READY   UP-TO-DATE   STATUS      URL                                  AGE
llama   2/2     2            Ready       http://10.0.0.1:8000/default/llama   65m
other   0/1     1            NoDevices   <none>                               65m
new     0/0     <none>       Pending     <none>                               65m
";
    assert_eq!(printed("llmisvc", &objects, Look::default()), text);
    let titles = "NAMESPACE NAME READY UP-TO-DATE STATUS URL AGE MODEL PARALLELISM REVISION LABELS";
    let row = "default llminferenceservice.serving.kserve.io/llama 2/2 2 Ready \
               http://10.0.0.1:8000/default/llama 65m demo tp=2,pp=1 4 env=x,team=a";
    let all = Look { wide: true, namespaces: true, kinds: true, labels: true };
    let wide = printed("llmisvc", &objects[..1], all);
    let lines: Vec<String> = wide
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(lines, [titles, row]);
}

#[test]
fn groups_and_hosts() {
    let member = |node: &str| json!({"node": node, "state": "Ready"});
    let group = json!({
        "kind": "Group",
        "metadata": {"name": "llama-0", "namespace": "default"},
        "spec": {"epoch": "3-ab", "revision": 4},
        "status": {
            "ready": 1, "size": 2, "phase": "Starting", "restarts": 3,
            "members": [member("n1"), member("n1"), member("n2")],
        },
    });
    let text = "
NAME      READY   STATUS     RESTARTS   AGE         EPOCH   REVISION   NODES
llama-0   1/2     Starting   3          <unknown>   3-ab    4          n1,n2
";
    assert_eq!(printed("groups", &[group], Look { wide: true, ..Look::default() }), text);
    let node = json!({
        "kind": "Node",
        "metadata": {"name": "n1", "creationTimestamp": "2026-02-03T04:05:00Z"},
        "spec": {"unschedulable": true},
        "status": {
            "version": "0.1.0", "address": "quic://10.0.0.1:7400",
            "devices": {"kind": "cpu", "count": 4, "used": 1, "memory": 3_221_225_472_u64},
        },
    });
    let text = "
NAME   STATUS                     DEVICES   AGE   VERSION   KIND   MEMORY   ADDRESS
n1     Ready,SchedulingDisabled   1/4       6s    0.1.0     cpu    3.0Gi    quic://10.0.0.1:7400
";
    assert_eq!(printed("nodes", &[node], Look { wide: true, ..Look::default() }), text);
}

#[test]
fn events() {
    let event = json!({
        "kind": "Event", "metadata": {"name": "x.0.1"}, "type": "Warning",
        "reason": "MemberExited", "message": "llama-0-1 on n2:\n  exit status: 101", "count": 4,
        "involvedObject": {"kind": "Group", "namespace": "default", "name": "llama-0"},
        "firstTimestamp": "2026-02-03T04:00:00Z", "lastTimestamp": "2026-02-03T04:05:00Z",
    });
    let text = "
LAST SEEN   TYPE      REASON         OBJECT          MESSAGE
6s          Warning   MemberExited   group/llama-0   llama-0-1 on n2: exit status: 101
";
    assert_eq!(printed("events", &[event], Look::default()), text);
}

#[test]
fn tokens() {
    let token = |name: &str, expires: &str, used: Value| {
        json!({
            "kind": "Token",
            "metadata": {"name": name, "creationTimestamp": "2026-02-03T04:05:00Z"},
            "spec": {"kind": "node", "uses": 2, "operator": false, "expires": expires},
            "status": {"used": used, "createdBy": "troupe://troupe/control/1"},
        })
    };
    let open = token("a", "2026-02-03T05:05:06Z", json!([{"name": "n1"}]));
    let late = token("b", "2026-02-03T04:05:00Z", json!([]));
    let mut revoked = token("c", "2026-02-03T05:05:06Z", json!([]));
    revoked["status"]["revoked"] = json!("2026-02-03T04:05:01Z");
    let text = "
NAME   KIND   USED   OPERATOR   EXPIRES   AGE
a      node   1/2    no         in 60m    6s
b      node   0/2    no         6s ago    6s
c      node   0/2    no         revoked   6s
";
    assert_eq!(printed("tokens", &[open, late, revoked], Look::default()), text);
}

#[test]
fn documents_are_yaml_or_json() {
    let object = json!({"kind": "Node", "metadata": {"name": "n1"}, "spec": {"a": [1, "2"]}});
    let yaml = "kind: Node\nmetadata:\n  name: n1\nspec:\n  a:\n  - 1\n  - '2'\n";
    assert_eq!(document(Format::Yaml, &object), yaml);
    let json = document(Format::Json, &object);
    assert_eq!(serde_json::from_str::<Value>(&json).expect("it is JSON"), object);
    assert!(json.starts_with("{\n  \"kind\": \"Node\",\n"), "{json}");
    assert_eq!(list(vec![object.clone()])["items"], json!([object]));
    assert!("xml".parse::<Format>().expect_err("no format").contains("json,name,wide,yaml"));
}
