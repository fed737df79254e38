//! What people see of what the store holds.

use serde_json::json;
use troupe_runtime::{
    discovery::{
        Entry, declared,
        directory::{
            self, AfterDrain, CordonRecord, Drain, EventKind, EventRecord, GroupMember, GroupPhase,
            GroupRecord, GroupStatus, MemberState, MemberStatus, NodeLabelsRecord, NodeRecord,
            NodeStatus, ObjectRef, RestartPolicy, ServiceStatus, StartupPolicy,
        },
        keys::Keys,
    },
    id::{Coordinate, Epoch, GroupId, NodeId},
    spec::EngineFlags,
};
use uuid::Uuid;

use super::*;
use crate::controller::desired::launch;

const SERVICE: &str = "LLMInferenceService";

/// A store with these values under their keys, each written for the second time.
fn contents(values: impl FnOnce(&Keys) -> Vec<(String, Vec<u8>)>) -> Contents {
    let keys = Keys::new("test");
    let entries = values(&keys);
    let mut contents = Contents::new(keys);
    contents.add(entries.into_iter().map(|(key, value)| Entry { key, value, version: 2 }));
    contents
}

fn chosen(contents: &Contents, kind: &str, change: impl FnOnce(&mut Selection)) -> Objects {
    let mut selection = Selection { kind: kind.into(), ..Selection::default() };
    change(&mut selection);
    Choice::new(&selection).expect("a good selection").of(contents)
}

fn names(objects: &Objects) -> Vec<&str> {
    objects.keys().map(|object| object.name.as_str()).collect()
}

fn group(index: u32) -> GroupId {
    GroupId { namespace: "default".into(), service: "s".into(), index }
}

fn epoch() -> Epoch {
    Epoch { number: 3, nonce: 0xab }
}

fn node(number: u128) -> NodeId {
    NodeId(Uuid::from_u128(number))
}

fn node_record(number: u128) -> NodeRecord {
    NodeRecord {
        id: node(number),
        name: format!("n{number}"),
        // Version 7, of 2026-02-03T04:05:06Z.
        process: Uuid::parse_str("019c21ac-e950-7000-8000-000000000000").expect("an id"),
        devices: 2,
        device_kind: "cpu".into(),
        version: "0.1.0".into(),
        wire: 1,
        labels: BTreeMap::from([("zone".into(), "a".into())]),
        device_memory: 1 << 30,
        address: Some("quic://10.0.0.1:7400".into()),
        leaving: false,
    }
}

fn group_record(index: u32) -> GroupRecord {
    let rank = |stage| Coordinate { dp: 0, stage, tp: 0 };
    let member = |number, stage| GroupMember {
        node: node(number),
        process: Uuid::nil(),
        ranks: vec![rank(stage)],
    };
    GroupRecord {
        group: group(index),
        epoch: epoch(),
        planned: 1_700_000_000,
        term: 1,
        revision: 4,
        launch: launch("file:///m".into(), "m".into(), EngineFlags::default()),
        members: vec![member(1, 0), member(2, 1)],
        startup: StartupPolicy::default(),
        restart: RestartPolicy::default(),
        drain: Some(Drain { seconds: 30, then: AfterDrain::default() }),
        labels: BTreeMap::new(),
    }
}

fn node_status(number: u128, member: u32, state: MemberState) -> NodeStatus {
    let (group, epoch) = (group(0), epoch());
    let status = MemberStatus { group, epoch, member, address: None, state, blames: None };
    NodeStatus {
        node: node(number),
        process: Uuid::nil(),
        members: vec![status],
        epochs: BTreeMap::new(),
        groups: vec![group_record(0)],
    }
}

fn service(name: &str, labels: Value) -> Vec<u8> {
    let document = json!({
        "kind": SERVICE,
        "apiVersion": "serving.kserve.io/v1alpha1",
        "spec": {"model": {"uri": "file:///m"}},
        "metadata": {"name": name, "namespace": "default", "generation": 5, "labels": labels},
    });
    document.to_string().into_bytes()
}

#[test]
fn a_declared_object_says_its_version_and_what_became_of_it() {
    let contents = contents(|keys| {
        let status = ServiceStatus { ready: 1, replicas: 2, revision: 4, ..Default::default() };
        vec![
            (keys.spec(SERVICE, "default", "s"), service("s", json!({"team": "a"}))),
            (keys.spec(SERVICE, "default", "other"), service("other", json!({}))),
            (keys.spec(SERVICE, "default", "gone"), declared::tombstone(9)),
            (keys.service_status("default", "s"), directory::to_bytes(status)),
        ]
    });
    let all = chosen(&contents, "llmisvc", |_| {});
    assert_eq!(names(&all), ["other", "s"]);
    let document = all.values().last().expect("two");
    assert_eq!(document["metadata"]["resourceVersion"], "5");
    assert_eq!(document["status"]["readyReplicas"], 1);
    let order: Vec<&String> = document.as_object().expect("an object").keys().collect();
    assert_eq!(order, ["apiVersion", "kind", "metadata", "spec", "status"]);

    let labeled = chosen(&contents, "llmisvc", |it| it.labels = "team=a".into());
    assert_eq!(names(&labeled), ["s"]);
    let elsewhere = chosen(&contents, "llmisvc", |it| it.namespace = Some("x".into()));
    assert!(elsewhere.is_empty());
    let one = chosen(&contents, "llmisvc", |it| it.name = Some("other".into()));
    assert_eq!(names(&one), ["other"]);
}

#[test]
fn a_group_is_shown_with_its_members_or_with_why_it_has_none() {
    let contents = contents(|keys| {
        let pending = GroupStatus {
            index: 1,
            epoch: None,
            revision: 4,
            phase: GroupPhase::Pending,
            restarts: 0,
            members: vec![],
            message: "no devices".into(),
        };
        let status = ServiceStatus { groups: vec![pending], ..Default::default() };
        let exited = MemberState::Exited("out of memory".into());
        vec![
            (keys.group(&group(0)), directory::to_bytes(group_record(0))),
            (keys.node(node(1)), directory::to_bytes(node_record(1))),
            (keys.node_status(node(1)), directory::to_bytes(node_status(1, 0, MemberState::Ready))),
            (keys.node_status(node(2)), directory::to_bytes(node_status(2, 1, exited))),
            (keys.service_status("default", "s"), directory::to_bytes(status)),
        ]
    });
    let all = chosen(&contents, "groups", |_| {});
    assert_eq!(names(&all), ["s-0", "s-1"]);
    let documents: Vec<&Value> = all.values().collect();
    let (formed, pending) = (documents[0], documents[1]);
    assert_eq!(formed["spec"]["epoch"], "3-ab");
    assert_eq!(formed["spec"]["drainSeconds"], 30);
    assert_eq!((&formed["status"]["ready"], &formed["status"]["size"]), (&json!(1), &json!(2)));
    let members = &formed["status"]["members"];
    assert_eq!((&members[0]["node"], &members[0]["state"]), (&json!("n1"), &json!("Ready")));
    assert_eq!((&members[1]["node"], &members[1]["name"]), (&json!("(gone)"), &json!("s-0-1")));
    assert_eq!(members[1]["cause"], "out of memory");
    assert_eq!(pending["status"]["phase"], "Pending");
    assert_eq!(pending["status"]["message"], "no devices");
    let of_service = chosen(&contents, "groups", |it| it.labels = "troupe.dev/service=s".into());
    assert_eq!(of_service.len(), 2);
}

#[test]
fn members_that_listen_are_ready_once_their_leader_is() {
    let shown = |leader| {
        let contents = contents(|keys| {
            let worker = node_status(2, 1, MemberState::Listening);
            vec![
                (keys.group(&group(0)), directory::to_bytes(group_record(0))),
                (keys.node_status(node(1)), directory::to_bytes(node_status(1, 0, leader))),
                (keys.node_status(node(2)), directory::to_bytes(worker)),
            ]
        });
        let all = chosen(&contents, "groups", |_| {});
        all.values().next().expect("a group")["status"]["ready"].clone()
    };
    assert_eq!(shown(MemberState::Listening), 0);
    assert_eq!(shown(MemberState::Ready), 2);
}

#[test]
fn a_host_is_shown_with_its_labels_and_whether_it_is_cordoned() {
    let contents = contents(|keys| {
        let labels = NodeLabelsRecord {
            node: node(1),
            set: BTreeMap::from([("team".into(), "a".into())]),
            removed: ["zone".into()].into(),
        };
        let cordon = CordonRecord { node: node(1), drain: Some(60), since: 0 };
        vec![
            (keys.node(node(1)), directory::to_bytes(node_record(1))),
            (keys.node(node(2)), directory::to_bytes(node_record(2))),
            (keys.node_labels(node(1)), directory::to_bytes(labels)),
            (keys.cordon(node(1)), directory::to_bytes(cordon)),
            (keys.node_status(node(1)), directory::to_bytes(node_status(1, 0, MemberState::Ready))),
        ]
    });
    // Hosts are in no namespace, whatever is asked for.
    let all = chosen(&contents, "no", |it| it.namespace = Some("default".into()));
    assert_eq!(names(&all), ["n1", "n2"]);
    let documents: Vec<&Value> = all.values().collect();
    assert_eq!(documents[0]["metadata"]["labels"], json!({"team": "a"}));
    assert_eq!(documents[0]["metadata"]["creationTimestamp"], "2026-02-03T04:05:06Z");
    assert_eq!(documents[0]["spec"]["unschedulable"], true);
    assert_eq!(documents[0]["spec"]["drainSeconds"], 60);
    assert_eq!(documents[0]["status"]["devices"]["used"], 1);
    assert_eq!(documents[1]["spec"]["unschedulable"], false);
    assert_eq!(documents[1]["status"]["devices"]["used"], 0);
    assert_eq!(names(&chosen(&contents, "nodes", |it| it.labels = "zone".into())), ["n2"]);
}

#[test]
fn an_event_is_one_of_its_objects_namespace() {
    let event = |kind: &str, namespace: &str, first| EventRecord {
        object: ObjectRef { kind: kind.into(), namespace: namespace.into(), name: "x".into() },
        kind: EventKind::Warning,
        reason: "MemberExited".into(),
        message: "why".into(),
        count: 2,
        first,
        last: first + 5,
    };
    let contents = contents(|keys| {
        vec![
            (keys.event(0), directory::to_bytes(event("Group", "prod", 0))),
            (keys.event(1), directory::to_bytes(event("Node", "", 16))),
            (keys.event(2), b"nonsense".to_vec()),
        ]
    });
    let all = chosen(&contents, "events", |_| {});
    assert_eq!(all.len(), 2, "what cannot be read is left out");
    let prod = chosen(&contents, "events", |it| it.namespace = Some("prod".into()));
    let document = prod.values().next().expect("one");
    assert_eq!(document["type"], "Warning");
    assert_eq!(document["lastTimestamp"], "1970-01-01T00:00:05Z");
    let hosts = chosen(&contents, "events", |it| it.namespace = Some("default".into()));
    assert_eq!(hosts.values().next().expect("one")["involvedObject"]["kind"], "Node");
}

#[test]
fn what_cannot_be_selected_is_named() {
    let unknown = Selection { kind: "pods".into(), ..Selection::default() };
    let error = Choice::new(&unknown).expect_err("no such kind");
    assert_eq!(error, "the server doesn't have a resource type \"pods\"");
    let labels =
        Selection { kind: "nodes".into(), labels: "a in b".into(), ..Selection::default() };
    assert!(Choice::new(&labels).expect_err("no selector").contains("`b`"));
}
