//! Operators' questions over a link, answered from an embedded store.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use troupe_actors::{
    host::{Desks, door},
    operate::OperateDesk,
};
use troupe_runtime::{
    discovery::{
        Op, Registry, Txn,
        directory::{self, NodeRecord, ServiceStatus},
        embedded::EmbeddedRegistry,
        keys::Keys,
    },
    id::NodeId,
    transport::{
        Class, Connection, Conversation, Link, LocalNetwork, PeerIdentity, PeerRole, Stream,
    },
    wire::operate::{
        Apply, ApplyHow, Change, Changed, Cordon, Label, Logs, ObjectName, OperateDown, OperateUp,
        Outcome, Planning, Reason, Refusal, Run, Scale, Selection, Undo,
    },
};
use uuid::Uuid;

use crate::support::WAIT;

/// A control host's desk, and an operator's connection to it.
struct Office {
    registry: Arc<EmbeddedRegistry>,
    keys: Keys,
    connection: Arc<dyn Connection>,
    /// Dropped, it takes the connection along.
    _link: Arc<dyn Link>,
    _door: JoinSet<()>,
}

impl Office {
    async fn open() -> Self {
        let (registry, keys) = (Arc::new(EmbeddedRegistry::new()), Keys::new("test"));
        let network = LocalNetwork::new();
        let identity = |role| PeerIdentity { cluster: "test".into(), role, node: node() };
        let server: Arc<dyn Link> = network.link(identity(PeerRole::Control));
        let desk = OperateDesk::new(registry.clone(), keys.clone(), server.clone());
        let address = server.address();
        let desks = Desks { operate: Some(Arc::new(desk)), ..Desks::default() };
        let mut door = JoinSet::new();
        door.spawn(door::keep(server, desks));
        let link = network.link(identity(PeerRole::Operator));
        let connection = link.connect(&address, Class::Control, WAIT).await.unwrap();
        Self { registry, keys, connection, _link: link, _door: door }
    }

    async fn ask(&self, question: OperateUp) -> Stream {
        let mut stream = self.connection.open(Conversation::Operate, WAIT).await.unwrap();
        stream.sender.send(&question, WAIT).await.unwrap();
        stream
    }

    async fn answers(&self, question: OperateUp) -> Vec<OperateDown> {
        let mut stream = self.ask(question).await;
        let mut answers = Vec::new();
        while let Some(answer) = next(&mut stream).await {
            answers.push(answer);
        }
        answers
    }

    async fn get(&self, kind: &str) -> Vec<Value> {
        let objects = self.answers(OperateUp::Get(selection(kind))).await.into_iter();
        let document = |answer| match answer {
            OperateDown::Object(document) => serde_json::from_str(&document).unwrap(),
            other => panic!("{other:?}"),
        };
        objects.map(document).collect()
    }

    /// Asks for a change of one object. What a dry run would come to is left out.
    async fn change(&self, what: Change, run: Run) -> Result<Changed, Refusal> {
        match self.answers(OperateUp::Change(Box::new(what), run)).await.as_slice() {
            [OperateDown::Changed(changed)] => Ok(*changed.clone()),
            [OperateDown::Changed(changed), OperateDown::Plan(_)] if run == Run::Dry => {
                Ok(*changed.clone())
            }
            [OperateDown::Refused(refusal)] => Err(refusal.clone()),
            others => panic!("{others:?}"),
        }
    }

    async fn apply(&self, document: Value) -> Result<Changed, Refusal> {
        let documents = vec![document.to_string()];
        let apply = Apply { documents, how: ApplyHow::Apply };
        self.change(Change::Apply(apply), Run::Real).await
    }

    async fn put(&self, key: String, value: Vec<u8>) {
        let txn = Txn { compare: vec![], then: vec![Op::Put(key, value)] };
        assert!(self.registry.commit(txn).await.unwrap());
    }

    async fn host(&self) {
        let record = NodeRecord {
            id: node(),
            name: "n1".into(),
            process: Uuid::now_v7(),
            devices: 2,
            device_kind: "cpu".into(),
            version: "0.1.0".into(),
            wire: 1,
            labels: Default::default(),
            device_memory: 0,
            address: None,
            leaving: false,
        };
        self.put(self.keys.node(node()), directory::to_bytes(record)).await;
    }
}

async fn next(stream: &mut Stream) -> Option<OperateDown> {
    let next = tokio::time::timeout(WAIT, stream.receiver.next());
    next.await.expect("an answer in time").unwrap()
}

fn node() -> NodeId {
    NodeId(Uuid::from_u128(7))
}

fn selection(kind: &str) -> Selection {
    Selection { kind: kind.into(), ..Selection::default() }
}

fn service(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "LLMInferenceService",
        "metadata": {"name": name},
        "spec": spec,
    })
}

fn named(name: &str) -> ObjectName {
    ObjectName::new("LLMInferenceService", "default", name)
}

#[tokio::test]
async fn an_object_is_applied_read_applied_again_and_deleted() {
    let office = Office::open().await;
    let spec = json!({"model": {"uri": "file:///m", "name": "m"}, "replicas": 2});
    let created = office.apply(service("s", spec.clone())).await.unwrap();
    assert_eq!((created.outcome, &created.object), (Outcome::Created, &named("s")));
    let status = ServiceStatus { ready: 1, replicas: 2, updated: 2, ..Default::default() };
    office.put(office.keys.service_status("default", "s"), directory::to_bytes(status)).await;

    let shown = office.get("llmisvc").await.remove(0);
    assert_eq!(shown["metadata"]["resourceVersion"], "1");
    assert_eq!(shown["metadata"]["namespace"], "default");
    assert_eq!(shown["status"]["readyReplicas"], 1);
    let again = office.apply(shown.clone()).await.unwrap();
    assert_eq!(again.outcome, Outcome::Unchanged, "what is shown can be applied");

    let mut other = shown.clone();
    other["spec"]["model"]["name"] = json!("other");
    assert_eq!(office.apply(other).await.unwrap().outcome, Outcome::Configured);
    let mut stale = shown;
    stale["spec"]["replicas"] = json!(9);
    let refusal = office.apply(stale).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::Conflict, "{}", refusal.message);

    let gone = office.change(Change::Delete(named("s")), Run::Real).await.unwrap();
    assert_eq!(gone.outcome, Outcome::Deleted);
    assert!(office.get("llmisvc").await.is_empty());
    let refusal = office.change(Change::Delete(named("s")), Run::Real).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::NotFound);
    let back = office.apply(service("s", spec)).await.unwrap();
    let back: Value = serde_json::from_str(&back.document).unwrap();
    assert_eq!(back["metadata"]["generation"], 4, "the tombstone was the third");
}

#[tokio::test]
async fn what_is_wrong_in_any_document_leaves_all_undone() {
    let office = Office::open().await;
    let documents = vec![
        service("good", json!({"model": {"uri": "file:///m"}})).to_string(),
        service("bad", json!({"model": {}, "replicas": -1})).to_string(),
        json!({"kind": "Pod"}).to_string(),
        "no JSON".to_owned(),
    ];
    let apply = Apply { documents, how: ApplyHow::Apply };
    let change = OperateUp::Change(Box::new(Change::Apply(apply)), Run::Real);
    let answers = office.answers(change).await;
    let refusals: Vec<&Refusal> = answers
        .iter()
        .map(|answer| match answer {
            OperateDown::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        })
        .collect();
    let reasons: Vec<Reason> = refusals.iter().map(|refusal| refusal.reason).collect();
    assert_eq!(reasons, [Reason::Invalid, Reason::Invalid, Reason::BadRequest]);
    let both = &refusals[0].message;
    assert!(both.contains("spec.model.uri") && both.contains("spec.replicas"), "{both}");
    assert!(office.get("llmisvc").await.is_empty());
}

#[tokio::test]
async fn what_a_service_starts_from_has_to_be_there_or_come_with_it() {
    let office = Office::open().await;
    let user = service("s", json!({"baseRefs": [{"name": "base"}]}));
    let refusal = office.apply(user.clone()).await.unwrap_err();
    assert!(refusal.message.contains("spec.baseRefs[0]"), "{}", refusal.message);
    let base = json!({
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "LLMInferenceServiceConfig",
        "metadata": {"name": "base"},
        "spec": {"model": {"uri": "file:///m", "name": "m"}},
    });
    let documents = vec![user.to_string(), base.to_string()];
    let apply = Change::Apply(Apply { documents, how: ApplyHow::Create });
    let answers = office.answers(OperateUp::Change(Box::new(apply), Run::Real)).await;
    assert!(answers.iter().all(|it| matches!(it, OperateDown::Changed(_))), "{answers:?}");
    let config = ObjectName::new("LLMInferenceServiceConfig", "default", "base");
    let gone = office.change(Change::Delete(config), Run::Dry).await.unwrap();
    assert!(gone.warnings.join("\n").contains("default/s goes on"), "{:?}", gone.warnings);
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_finds_what_a_real_one_would() {
    let office = Office::open().await;
    let apply = |spec: Value| {
        let documents = vec![service("s", spec).to_string()];
        Change::Apply(Apply { documents, how: ApplyHow::Create })
    };
    let good = || apply(json!({"model": {"uri": "file:///m"}}));
    let changed = office.change(good(), Run::Dry).await.unwrap();
    assert_eq!(changed.outcome, Outcome::Created);
    assert!(office.get("llmisvc").await.is_empty());
    office.change(good(), Run::Real).await.unwrap();
    let refusal = office.change(good(), Run::Dry).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::AlreadyExists);
    office.change(Change::Delete(named("s")), Run::Dry).await.unwrap();
    assert_eq!(office.get("llmisvc").await.len(), 1);
}

#[tokio::test]
async fn a_dry_run_tells_where_groups_would_be_and_why_not() {
    let office = Office::open().await;
    office.host().await;
    // The host has two devices.
    let spec = json!({"model": {"uri": "file:///m"}, "replicas": 3});
    let documents = vec![service("s", spec).to_string()];
    let apply = Change::Apply(Apply { documents, how: ApplyHow::Apply });
    let answers = office.answers(OperateUp::Change(Box::new(apply), Run::Dry)).await;
    let [OperateDown::Changed(_), OperateDown::Plan(lines)] = answers.as_slice() else {
        panic!("{answers:?}")
    };
    let lines = lines.join("\n");
    let wanted = ["s-0 on n1 (dp0", "s-1 on n1 (dp0", "s-2 has no place", "n1 has 0 free devices"];
    assert!(wanted.iter().all(|part| lines.contains(part)), "{lines}");
    assert!(office.get("groups").await.is_empty(), "nothing is planned");
}

#[tokio::test]
async fn a_watch_tells_what_is_there_and_then_what_changes() {
    let office = Office::open().await;
    let spec = |replicas: u32| json!({"model": {"uri": "file:///m"}, "replicas": replicas});
    office.apply(service("a", spec(1))).await.unwrap();
    let mut watch = office.ask(OperateUp::Watch(selection("llmisvc"))).await;
    assert!(matches!(next(&mut watch).await, Some(OperateDown::Object(_))));
    assert_eq!(next(&mut watch).await, Some(OperateDown::Synced));

    let scale = Scale { object: named("a"), replicas: 4, expected: None, resource_version: None };
    office.change(Change::Scale(scale), Run::Real).await.unwrap();
    let Some(OperateDown::Object(document)) = next(&mut watch).await else { panic!("no object") };
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["spec"]["replicas"], 4);
    // A status is part of what is shown.
    let status = ServiceStatus { replicas: 4, ..Default::default() };
    office.put(office.keys.service_status("default", "a"), directory::to_bytes(status)).await;
    assert!(matches!(next(&mut watch).await, Some(OperateDown::Object(_))));
    office.change(Change::Delete(named("a")), Run::Real).await.unwrap();
    assert_eq!(next(&mut watch).await, Some(OperateDown::Gone(named("a"))));

    let missing = Selection { name: Some("a".into()), ..selection("llmisvc") };
    let mut watch = office.ask(OperateUp::Watch(missing)).await;
    let Some(OperateDown::Refused(refusal)) = next(&mut watch).await else { panic!("no refusal") };
    assert_eq!(refusal.message, "llminferenceservices.serving.kserve.io \"a\" not found");
}

#[tokio::test]
async fn hosts_are_labeled_cordoned_and_drained() {
    let office = Office::open().await;
    office.host().await;
    let label = |set: &[(&str, &str)], remove: &[&str]| {
        Change::Label(Label {
            object: ObjectName::new("Node", "", "n1"),
            set: set.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            remove: remove.iter().map(|key| (*key).into()).collect(),
            overwrite: false,
        })
    };
    let labeled = office.change(label(&[("team", "a")], &[]), Run::Real).await.unwrap();
    assert_eq!(labeled.outcome, Outcome::Configured);
    let same = office.change(label(&[("team", "a")], &["none"]), Run::Real).await.unwrap();
    assert_eq!(same.outcome, Outcome::Unchanged);
    let refusal = office.change(label(&[("team", "b")], &[]), Run::Real).await.unwrap_err();
    assert!(refusal.message.contains("--overwrite is false"), "{}", refusal.message);
    assert_eq!(office.get("nodes").await[0]["metadata"]["labels"], json!({"team": "a"}));
    office.change(label(&[], &["team"]), Run::Real).await.unwrap();
    assert_eq!(office.get("nodes").await[0]["metadata"]["labels"], json!({}));

    let plan = |to| Change::Cordon(Cordon { node: "n1".into(), to });
    let steps = [
        (Planning::Open, Outcome::Unchanged, json!({"unschedulable": false})),
        (Planning::Cordoned, Outcome::Configured, json!({"unschedulable": true})),
        (Planning::Drained(30), Outcome::Configured, json!(30)),
        (Planning::Cordoned, Outcome::Unchanged, json!(30)),
        (Planning::Open, Outcome::Configured, json!({"unschedulable": false})),
    ];
    for (to, outcome, expected) in steps {
        let changed = office.change(plan(to), Run::Real).await.unwrap();
        assert_eq!(changed.outcome, outcome, "{to:?}");
        let spec = office.get("nodes").await[0]["spec"].clone();
        match expected {
            Value::Number(seconds) => assert_eq!(spec["drainSeconds"], Value::Number(seconds)),
            spec_ => assert_eq!(spec["unschedulable"], spec_["unschedulable"]),
        }
    }
    let other = Cordon { node: "n9".into(), to: Planning::Open };
    let refusal = office.change(Change::Cordon(other), Run::Real).await.unwrap_err();
    assert_eq!(refusal.message, "nodes \"n9\" not found");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_what_would() {
    let office = Office::open().await;
    office.host().await;
    let refused = |answers: Vec<OperateDown>| match answers.as_slice() {
        [OperateDown::Refused(refusal)] => refusal.clone(),
        others => panic!("{others:?}"),
    };
    let unknown = refused(office.answers(OperateUp::Get(selection("pods"))).await);
    assert_eq!(unknown.message, "the server doesn't have a resource type \"pods\"");
    let group = ObjectName::new("Group", "default", "s-0");
    let refusal = office.change(Change::Delete(group), Run::Real).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::MethodNotAllowed);
    let node = ObjectName::new("Node", "", "n1");
    let scale = Scale { object: node, replicas: 1, expected: None, resource_version: None };
    let refusal = office.change(Change::Scale(scale), Run::Real).await.unwrap_err();
    assert!(refusal.message.contains("only services can"), "{}", refusal.message);
    office.apply(service("s", json!({"model": {"uri": "file:///m"}}))).await.unwrap();
    let undo = Undo { object: named("s"), to: None };
    let refusal = office.change(Change::Undo(undo), Run::Real).await.unwrap_err();
    assert!(refusal.message.contains("no rollout history found"), "{}", refusal.message);
    let logs = Logs {
        namespace: "default".into(),
        name: "s-0".into(),
        member: None,
        tail: None,
        follow: false,
    };
    let refusal = refused(office.answers(OperateUp::Logs(logs)).await);
    assert_eq!(refusal.message, "groups \"s-0\" not found");
}

#[tokio::test]
async fn a_store_that_is_away_is_said() {
    let office = Office::open().await;
    office.registry.set_reachable(false);
    let answers = office.answers(OperateUp::Get(selection("nodes"))).await;
    let [OperateDown::Refused(refusal)] = answers.as_slice() else { panic!("{answers:?}") };
    assert_eq!(refusal.reason, Reason::ServiceUnavailable);
}
