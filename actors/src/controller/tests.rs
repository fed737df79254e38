//! The planner from scripts of what it observes.

mod rollouts;
mod scaling;
mod scripts;
mod sim;

use std::time::Duration;

use troupe_runtime::{
    discovery::directory::{
        GroupRecord, Launch, MemberPer, MemberState, MemberStatus, NodeRecord, NodeStatus,
    },
    id::NodeId,
    spec::{EngineFlags, GroupPolicy},
    wire::member::{Blame, Fault},
};
use uuid::Uuid;

use super::{
    desired::{Desired, ServiceName},
    memory::ModelFacts,
    plan::{Controller, ControllerEffect, ControllerEvent, Timing},
    wishes::Wishes,
};

const LEASE: Duration = Duration::from_secs(5);
const AT: Duration = Duration::from_secs(100);

fn node(number: u128, process: u128, devices: u32) -> NodeRecord {
    NodeRecord {
        id: NodeId(Uuid::from_u128(number)),
        name: format!("n{number}"),
        process: Uuid::from_u128(process),
        devices,
        device_kind: "cpu".into(),
        version: "0".into(),
        wire: 1,
        labels: Default::default(),
        device_memory: 0,
        address: None,
        leaving: false,
    }
}

fn service(pipeline_parallel: u32) -> Desired {
    Desired {
        name: ServiceName::new("default", "s"),
        generation: 1,
        replicas: 1,
        scaling: None,
        launch: Launch {
            model_uri: "file:///m".into(),
            model_name: "m".into(),
            tensor_parallel: 1,
            pipeline_parallel,
            expert_parallel: false,
            member_per: MemberPer::Host,
            role: Default::default(),
            flags: EngineFlags::default(),
        },
        wishes: Wishes::default(),
        policy: GroupPolicy::default(),
        grace: None,
        cause: None,
        document: serde_json::Value::Null,
        applied: vec![],
    }
}

fn controller(nodes: &[NodeRecord]) -> Controller {
    let mut controller = Controller::new(Timing { lease: LEASE, settle: Duration::ZERO }, 42);
    for node in nodes {
        controller.handle(AT, ControllerEvent::NodePut(node.clone()));
    }
    controller.handle(AT, ControllerEvent::Synced);
    controller.handle(AT, known());
    assert!(controller.handle(AT, ControllerEvent::Elected(vec![])).is_empty());
    controller
}

/// The model is known, so that nothing waits for it.
fn known() -> ControllerEvent {
    let facts = ModelFacts {
        weight_bytes: 1,
        ends_bytes: 0,
        layers: 1,
        kv_heads: 1,
        kv_bytes_per_token: 1,
        hidden_size: 1,
        intermediate_size: 1,
        vocab_size: 1,
        max_model_len: 1,
    };
    ControllerEvent::ModelKnown("file:///m".into(), Some(facts))
}

/// Effects without what is written for people alone, and what is asked of others.
fn deeds(effects: Vec<ControllerEffect>) -> Vec<ControllerEffect> {
    let deed = |effect: &ControllerEffect| {
        let group = matches!(effect, ControllerEffect::PutGroup(_));
        group || matches!(effect, ControllerEffect::DeleteGroup(_))
    };
    effects.into_iter().filter(deed).collect()
}

fn put(effects: &[ControllerEffect]) -> Option<&GroupRecord> {
    effects.iter().find_map(|effect| match effect {
        ControllerEffect::PutGroup(record) => Some(record),
        _ => None,
    })
}

fn message(effects: &[ControllerEffect]) -> Option<&str> {
    effects.iter().find_map(|effect| match effect {
        ControllerEffect::PutServiceStatus(_, status) => Some(status.message.as_str()),
        _ => None,
    })
}

fn status(node: &NodeRecord, record: &GroupRecord, member: u32, state: MemberState) -> NodeStatus {
    NodeStatus {
        node: node.id,
        process: node.process,
        members: vec![MemberStatus {
            group: record.group.clone(),
            epoch: record.epoch,
            member,
            address: None,
            state,
            blames: None,
        }],
        epochs: [(record.group.to_string(), record.epoch.number)].into(),
        groups: vec![],
    }
}

#[test]
fn a_group_is_planned_whole_or_not_at_all() {
    let mut controller = controller(&[node(1, 1, 1)]);
    let effects = controller.handle(AT, ControllerEvent::Declared(service(2)));
    assert!(put(&effects).is_none());
    assert!(message(&effects).is_some_and(|m| m.contains("needs 2 devices")), "{effects:?}");
    let effects = controller.handle(AT, ControllerEvent::NodePut(node(2, 1, 1)));
    let record = put(&effects).expect("now there is room");
    assert_eq!(record.members.len(), 2);
    assert_eq!(record.epoch.number, 1);
    assert!(deeds(controller.handle(AT, ControllerEvent::Tick)).is_empty(), "planned once");
}

#[test]
fn a_member_that_ends_means_a_new_incarnation_with_a_higher_epoch() {
    let nodes = [node(1, 1, 1), node(2, 1, 1)];
    let mut controller = controller(&nodes);
    let effects = controller.handle(AT, ControllerEvent::Declared(service(2)));
    let first = put(&effects).expect("planned").clone();
    let ended = MemberState::Exited("killed by signal 9".into());
    let report = status(&nodes[1], &first, 1, ended);
    let effects = controller.handle(AT, ControllerEvent::StatusPut(report));
    let second = put(&effects).expect("planned again");
    assert_eq!(second.epoch.number, 2);
    assert_ne!(second.epoch.nonce, first.epoch.nonce);
    assert!(message(&effects).is_some_and(|m| m.contains("signal 9")));
}

#[test]
fn a_host_on_which_a_member_hung_is_taken_last_until_its_time_is_over() {
    let nodes = [1, 2, 3].map(|number| node(number, 1, 1));
    let mut controller = controller(&nodes);
    let effects = controller.handle(AT, ControllerEvent::Declared(service(2)));
    let first = put(&effects).expect("planned").clone();
    let [home, bad] = [0, 1].map(|member: usize| first.members[member].node);
    let of = |id| nodes.iter().find(|node| node.id == id).expect("a host").clone();
    let mut report = status(&of(home), &first, 0, MemberState::Ready);
    let why = "step 7 makes no progress".into();
    report.members[0].blames = Some(Blame { member: 1, fault: Fault::Hung, why });
    let effects = controller.handle(AT, ControllerEvent::StatusPut(report.clone()));
    let second = put(&effects).expect("nobody waits for it to end").clone();
    assert!(second.members.iter().all(|member| member.node != bad), "{second:?}");
    let told = |effects: &[ControllerEffect], reason: &str| {
        effects.iter().any(|effect| match effect {
            ControllerEffect::PutEvent(_, event) => {
                event.reason == reason && event.object.name == of(bad).name
            }
            _ => false,
        })
    };
    assert!(told(&effects, "Quarantined"), "{effects:?}");
    let effects = controller.handle(AT + Duration::from_secs(29), ControllerEvent::Tick);
    assert!(!told(&effects, "Returned"));
    let effects = controller.handle(AT + Duration::from_secs(31), ControllerEvent::Tick);
    assert!(told(&effects, "Returned"), "{effects:?}");
}

#[test]
fn a_restarted_host_forms_its_groups_again_at_once() {
    let mut controller = controller(&[node(1, 1, 1)]);
    controller.handle(AT, ControllerEvent::Declared(service(1)));
    let gone = ControllerEvent::NodeGone(node(1, 1, 1).id);
    assert!(deeds(controller.handle(AT, gone)).is_empty());
    let effects = controller.handle(AT, ControllerEvent::NodePut(node(1, 2, 1)));
    let record = put(&effects).expect("planned again");
    assert_eq!(record.members[0].process, Uuid::from_u128(2));
}

#[test]
fn a_host_is_given_up_after_one_more_lease_and_its_group_moves() {
    let nodes = [node(1, 1, 1), node(2, 1, 1), node(3, 1, 1)];
    let mut controller = controller(&nodes);
    let effects = controller.handle(AT, ControllerEvent::Declared(service(1)));
    let home = put(&effects).expect("planned").members[0].node;
    controller.handle(AT, ControllerEvent::NodeGone(home));
    assert!(put(&controller.handle(AT + LEASE / 2, ControllerEvent::Tick)).is_none());
    let effects = controller.handle(AT + LEASE, ControllerEvent::Tick);
    assert_ne!(put(&effects).expect("moved").members[0].node, home);
}

#[test]
fn when_most_hosts_vanish_together_nothing_is_torn_down() {
    let nodes = [node(1, 1, 1), node(2, 1, 1), node(3, 1, 1)];
    let mut controller = controller(&nodes);
    controller.handle(AT, ControllerEvent::Declared(service(3)));
    for node in &nodes {
        controller.handle(AT, ControllerEvent::NodeGone(node.id));
    }
    let effects = controller.handle(AT + LEASE * 10, ControllerEvent::Tick);
    assert_eq!(deeds(effects), []);
}

#[test]
fn a_group_that_never_serves_is_tried_less_and_less_often() {
    let nodes = [node(1, 1, 1)];
    let mut controller = controller(&nodes);
    let effects = controller.handle(AT, ControllerEvent::Declared(service(1)));
    let mut record = put(&effects).expect("planned").clone();
    let mut now = AT;
    let mut waits = Vec::new();
    for _ in 0..6 {
        let ended = MemberState::Exited("no such model".into());
        let report = status(&nodes[0], &record, 0, ended);
        let mut effects = controller.handle(now, ControllerEvent::StatusPut(report));
        let failed_at = now;
        while put(&effects).is_none() {
            now += Duration::from_millis(100);
            effects = controller.handle(now, ControllerEvent::Tick);
        }
        record = put(&effects).expect("tried again").clone();
        waits.push((now - failed_at).as_secs());
    }
    assert_eq!(waits, [0, 1, 2, 4, 8, 16]);
}

#[test]
fn an_empty_store_counts_on_from_what_the_nodes_have_seen() {
    let nodes = [node(1, 1, 1)];
    let mut controller = controller(&nodes);
    let report = NodeStatus {
        node: nodes[0].id,
        process: nodes[0].process,
        members: vec![],
        epochs: [("default/s-0".to_owned(), 41)].into(),
        groups: vec![],
    };
    controller.handle(AT, ControllerEvent::StatusPut(report));
    let effects = controller.handle(AT, ControllerEvent::Declared(service(1)));
    assert_eq!(put(&effects).expect("planned").epoch.number, 42);
}

#[test]
fn a_group_that_only_the_store_forgot_is_taken_up_again() {
    let nodes = [node(1, 1, 1)];
    let mut controller = controller(&nodes);
    let effects = controller.handle(AT, ControllerEvent::Declared(service(1)));
    let record = put(&effects).expect("planned").clone();
    let mut report = status(&nodes[0], &record, 0, MemberState::Ready);
    report.groups = vec![record.clone()];
    controller.handle(AT, ControllerEvent::StatusPut(report));
    controller.handle(AT, ControllerEvent::GroupGone(record.group.clone()));
    let effects = controller.handle(AT + Duration::from_secs(3), ControllerEvent::Tick);
    assert_eq!(put(&effects), Some(&record), "as it runs, and no other incarnation");
}

#[test]
fn an_incarnation_that_others_have_outlived_is_not_taken_up_again() {
    let nodes = [node(1, 1, 1), node(2, 2, 1)];
    let mut controller = controller(&nodes);
    let effects = controller.handle(AT, ControllerEvent::Declared(service(1)));
    let record = put(&effects).expect("planned").clone();
    let is_its = |node: &&NodeRecord| record.members.iter().any(|member| member.node == node.id);
    let (its, other) = (nodes.iter().find(is_its), nodes.iter().find(|node| !is_its(node)));
    let (its, other) = (its.expect("planned on one"), other.expect("and not on the other"));
    let mut report = status(its, &record, 0, MemberState::Ready);
    report.groups = vec![record.clone()];
    let later = NodeStatus {
        node: other.id,
        process: other.process,
        members: vec![],
        epochs: [(record.group.to_string(), 5)].into(),
        groups: vec![],
    };
    // Another controller was in office meanwhile, and the store has no such group now.
    controller.handle(AT, ControllerEvent::Deposed);
    controller.handle(AT, ControllerEvent::StatusPut(report));
    controller.handle(AT, ControllerEvent::StatusPut(later));
    let effects = controller.handle(AT, ControllerEvent::Elected(vec![]));
    assert_eq!(put(&effects).expect("planned anew").epoch.number, 6);
}

#[test]
fn a_service_that_is_gone_takes_its_groups_along() {
    let mut controller = controller(&[node(1, 1, 1)]);
    let effects = controller.handle(AT, ControllerEvent::Declared(service(1)));
    let group = put(&effects).expect("planned").group.clone();
    let gone = ControllerEvent::Undeclared(ServiceName::new("default", "s"));
    let deeds = deeds(controller.handle(AT, gone));
    assert_eq!(deeds, [ControllerEffect::DeleteGroup(group)], "it never served: at once");
}

#[test]
fn a_controller_that_takes_office_waits_for_the_hosts_to_report() {
    let timing = Timing { lease: LEASE, settle: LEASE };
    let mut controller = Controller::new(timing, 1);
    controller.handle(AT, ControllerEvent::NodePut(node(1, 1, 1)));
    controller.handle(AT, ControllerEvent::Synced);
    controller.handle(AT, known());
    controller.handle(AT, ControllerEvent::Elected(vec![]));
    assert!(controller.handle(AT, ControllerEvent::Declared(service(1))).is_empty());
    let effects = controller.handle(AT + LEASE, ControllerEvent::Tick);
    assert!(put(&effects).is_some() && effects.contains(&ControllerEffect::Settle));

    // Who follows it in this life of the store need not wait once more.
    controller.handle(AT + LEASE, ControllerEvent::Deposed);
    assert!(controller.handle(AT + LEASE, ControllerEvent::Elected(vec![])).is_empty());
    let effects = controller.handle(AT + LEASE, ControllerEvent::Settled);
    assert!(put(&effects).is_some() && !effects.contains(&ControllerEffect::Settle));
}

#[test]
fn out_of_office_it_plans_nothing_and_back_in_it_takes_the_stores_word() {
    let mut controller = controller(&[node(1, 1, 1)]);
    controller.handle(AT, ControllerEvent::Deposed);
    assert!(controller.handle(AT, ControllerEvent::Declared(service(1))).is_empty());
    let effects = controller.handle(AT, ControllerEvent::Elected(vec![]));
    let record = put(&effects).expect("planned").clone();
    controller.handle(AT, ControllerEvent::Deposed);
    let again = controller.handle(AT, ControllerEvent::Elected(vec![]));
    assert!(put(&again).is_some(), "the write had failed, so it is planned again");
    controller.handle(AT, ControllerEvent::Deposed);
    let kept = controller.handle(AT, ControllerEvent::Elected(vec![record]));
    assert!(put(&kept).is_none(), "the store has it");
}
