//! A node's core from scripts of events.

use troupe_runtime::{
    discovery::directory::{GroupMember, Launch, MemberPer, RestartPolicy, StartupPolicy},
    id::Coordinate,
    spec::EngineFlags,
};
use uuid::Uuid;

use super::*;

const ME: NodeId = NodeId(Uuid::from_u128(1));
const OTHER: NodeId = NodeId(Uuid::from_u128(2));
const PROCESS: Uuid = Uuid::from_u128(7);

fn node(devices: u32) -> Node {
    let record = NodeRecord {
        id: ME,
        name: "a".into(),
        process: PROCESS,
        devices,
        device_kind: "cpu".into(),
        version: "0".into(),
        wire: 1,
        labels: Default::default(),
        device_memory: 0,
        address: None,
    };
    Node::new(record, BTreeMap::new())
}

fn group_id() -> GroupId {
    GroupId { namespace: "default".into(), service: "s".into(), index: 0 }
}

fn record(number: u64, nodes: &[NodeId]) -> GroupRecord {
    let members = nodes
        .iter()
        .enumerate()
        .map(|(stage, node)| GroupMember {
            node: *node,
            process: PROCESS,
            ranks: vec![Coordinate { dp: 0, stage: stage as u32, tp: 0 }],
        })
        .collect();
    GroupRecord {
        group: group_id(),
        epoch: Epoch { number, nonce: number },
        term: 1,
        revision: 1,
        launch: Launch {
            model_uri: "file:///m".into(),
            model_name: "m".into(),
            tensor_parallel: 1,
            pipeline_parallel: nodes.len() as u32,
            member_per: MemberPer::Host,
            flags: EngineFlags::default(),
        },
        members,
        startup: StartupPolicy::default(),
        restart: RestartPolicy::default(),
        drain: None,
    }
}

fn key(number: u64, member: u32) -> MemberKey {
    MemberKey { group: group_id(), epoch: Epoch { number, nonce: number }, member }
}

fn spawned(effects: &[NodeEffect]) -> Vec<MemberKey> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            NodeEffect::Spawn(key, _) => Some(key.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn starts_its_own_members_only_and_keeps_the_epoch_first() {
    let mut node = node(1);
    let effects = node.handle(NodeEvent::GroupPut(record(1, &[ME, OTHER])));
    assert!(matches!(&effects[0], NodeEffect::Persist(epochs) if epochs.values().eq([&1])));
    assert_eq!(spawned(&effects), [key(1, 0)]);
    assert!(spawned(&node.handle(NodeEvent::GroupPut(record(1, &[ME, OTHER])))).is_empty());
}

#[test]
fn a_higher_epoch_ends_the_old_member_and_waits_for_its_devices() {
    let mut node = node(1);
    node.handle(NodeEvent::GroupPut(record(1, &[ME])));
    let effects = node.handle(NodeEvent::GroupPut(record(2, &[ME])));
    assert!(effects.contains(&NodeEffect::End(key(1, 0))));
    assert!(spawned(&effects).is_empty(), "the device is still held");
    let effects = node.handle(NodeEvent::Exited(key(1, 0), "killed".into()));
    assert_eq!(spawned(&effects), [key(2, 0)]);
}

#[test]
fn an_epoch_from_the_past_is_refused() {
    let mut node = node(1);
    node.handle(NodeEvent::GroupPut(record(5, &[ME])));
    let effects = node.handle(NodeEvent::GroupPut(record(4, &[ME])));
    assert!(effects.is_empty(), "{effects:?}");
}

#[test]
fn a_worker_is_told_where_its_leader_listens_once() {
    let mut node = node(1);
    node.handle(NodeEvent::GroupPut(record(1, &[OTHER, ME])));
    let leader = MemberStatus {
        group: group_id(),
        epoch: Epoch { number: 1, nonce: 1 },
        member: 0,
        address: Some("quic://1.2.3.4:5".into()),
        state: MemberState::Listening,
    };
    let status = NodeStatus {
        node: OTHER,
        process: PROCESS,
        members: vec![leader],
        epochs: BTreeMap::new(),
        groups: vec![],
    };
    let effects = node.handle(NodeEvent::StatusPut(status.clone()));
    let tell = NodeToMember::Leader("quic://1.2.3.4:5".into());
    assert_eq!(effects, [NodeEffect::Tell(key(1, 1), tell)]);
    assert!(node.handle(NodeEvent::StatusPut(status)).is_empty());
}

#[test]
fn an_endpoint_appears_when_ready_and_goes_with_its_member() {
    let mut node = node(1);
    node.handle(NodeEvent::GroupPut(record(1, &[ME])));
    let effects = node.handle(NodeEvent::Member(key(1, 0), MemberToNode::Ready(vec![1])));
    assert!(effects.contains(&NodeEffect::PutEndpoint(key(1, 0), vec![1])));
    node.handle(NodeEvent::Member(key(1, 0), MemberToNode::Failed("out of memory".into())));
    let effects = node.handle(NodeEvent::Exited(key(1, 0), "exit code 1".into()));
    assert!(effects.contains(&NodeEffect::DeleteEndpoint(key(1, 0))));
    let state = &node.status().members[0].state;
    assert_eq!(*state, MemberState::Exited("out of memory".into()), "the cause, not the code");
}

#[test]
fn a_group_that_is_gone_ends_its_members() {
    let mut node = node(1);
    node.handle(NodeEvent::GroupPut(record(1, &[ME])));
    let effects = node.handle(NodeEvent::GroupGone(group_id()));
    assert_eq!(effects, [NodeEffect::End(key(1, 0))]);
    node.handle(NodeEvent::Exited(key(1, 0), "stopped".into()));
    assert!(node.status().members.is_empty());
}

#[test]
fn a_restarted_process_leaves_members_of_the_old_one_alone() {
    let mut node = node(1);
    let mut old = record(1, &[ME]);
    old.members[0].process = Uuid::from_u128(99);
    assert!(spawned(&node.handle(NodeEvent::GroupPut(old))).is_empty());
}
