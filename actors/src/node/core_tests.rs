//! A node's core from scripts of events.

use troupe_runtime::{
    discovery::directory::{
        AfterDrain, Drain, GroupMember, Launch, MemberPer, RestartPolicy, StartupPolicy,
    },
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
        leaving: false,
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
        planned: 0,
        term: 1,
        revision: 1,
        launch: Launch {
            model_uri: "file:///m".into(),
            model_name: "m".into(),
            tensor_parallel: 1,
            pipeline_parallel: nodes.len() as u32,
            expert_parallel: false,
            member_per: MemberPer::Host,
            role: Default::default(),
            flags: EngineFlags::default(),
        },
        members,
        startup: StartupPolicy::default(),
        restart: RestartPolicy::default(),
        drain: None,
        labels: Default::default(),
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
        blames: None,
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

fn drain(seconds: u32) -> Option<Drain> {
    Some(Drain { seconds, then: AfterDrain::Leave })
}

fn told(effects: &[NodeEffect]) -> Vec<u32> {
    let drains = effects.iter().filter_map(|effect| match effect {
        NodeEffect::Tell(_, NodeToMember::Drain(seconds)) => Some(*seconds),
        _ => None,
    });
    drains.collect()
}

#[test]
fn a_drain_takes_the_endpoint_away_before_its_member_is_told_and_shorter_ones_are_told_again() {
    let mut node = node(1);
    node.handle(NodeEvent::GroupPut(record(1, &[ME])));
    node.handle(NodeEvent::Member(key(1, 0), MemberToNode::Ready(vec![1])));
    let with = |seconds| GroupRecord { drain: drain(seconds), ..record(1, &[ME]) };
    let effects = node.handle(NodeEvent::GroupPut(with(60)));
    let place = |of: &NodeEffect| effects.iter().position(|effect| effect == of);
    let deleted = place(&NodeEffect::DeleteEndpoint(key(1, 0))).expect("it is taken away");
    let tell = place(&NodeEffect::Tell(key(1, 0), NodeToMember::Drain(60))).expect("it is told");
    assert!(deleted < tell);
    assert_eq!(node.status().groups, [with(60)], "who reads the status sees that it drains");

    assert!(told(&node.handle(NodeEvent::GroupPut(with(90)))).is_empty(), "no more time");
    let effects = node.handle(NodeEvent::GroupPut(with(0)));
    assert_eq!(told(&effects), [0]);
    assert!(!effects.contains(&NodeEffect::DeleteEndpoint(key(1, 0))), "it is gone");

    node.handle(NodeEvent::Member(key(1, 0), MemberToNode::Failed("drained".into())));
    let effects = node.handle(NodeEvent::Exited(key(1, 0), "exit status: 0".into()));
    assert!(!effects.contains(&NodeEffect::DeleteEndpoint(key(1, 0))));
    assert!(node.status().members[0].state.is_drained());
}

#[test]
fn a_group_that_its_leader_drains_has_no_endpoint_and_one_that_becomes_ready_gets_none() {
    let mut node = node(1);
    node.handle(NodeEvent::GroupPut(record(1, &[ME])));
    node.handle(NodeEvent::Member(key(1, 0), MemberToNode::Ready(vec![1])));
    let effects = node.handle(NodeEvent::Member(key(1, 0), MemberToNode::Draining));
    assert_eq!(effects, [NodeEffect::DeleteEndpoint(key(1, 0))]);

    let mut late = self::node(1);
    late.handle(NodeEvent::GroupPut(record(1, &[ME])));
    let draining = GroupRecord { drain: drain(5), ..record(1, &[ME]) };
    assert_eq!(told(&late.handle(NodeEvent::GroupPut(draining))), [5]);
    let effects = late.handle(NodeEvent::Member(key(1, 0), MemberToNode::Ready(vec![1])));
    assert!(!effects.iter().any(|effect| matches!(effect, NodeEffect::PutEndpoint(..))));
}

#[test]
fn a_group_that_drains_before_it_was_started_has_drained() {
    let mut node = node(1);
    let draining = GroupRecord { drain: drain(60), ..record(1, &[ME]) };
    let effects = node.handle(NodeEvent::GroupPut(draining));
    assert!(spawned(&effects).is_empty());
    assert!(node.status().members[0].state.is_drained());
}

#[test]
fn a_host_that_leaves_starts_nothing_drains_everything_and_says_when_it_is_empty() {
    let mut node = node(2);
    node.handle(NodeEvent::GroupPut(record(1, &[ME])));
    let effects = node.handle(NodeEvent::Leave(30));
    assert!(matches!(&effects[0], NodeEffect::PutRecord(record) if record.leaving));
    assert_eq!(told(&effects), [30]);
    let mut other = record(1, &[ME]);
    other.group.index = 1;
    let effects = node.handle(NodeEvent::GroupPut(other));
    assert!(spawned(&effects).is_empty() && !effects.contains(&NodeEffect::Left));
    let effects = node.handle(NodeEvent::Exited(key(1, 0), "exit status: 0".into()));
    assert_eq!(effects.last(), Some(&NodeEffect::Left));

    let mut idle = self::node(1);
    assert_eq!(idle.handle(NodeEvent::Leave(30)).last(), Some(&NodeEffect::Left));
}

#[test]
fn with_leader_ready_others_start_when_the_leader_listens() {
    let mut node = node(2);
    let with = |startup| GroupRecord { startup, ..record(1, &[ME, ME, OTHER]) };
    let effects = node.handle(NodeEvent::GroupPut(with(StartupPolicy::LeaderReady)));
    assert_eq!(spawned(&effects), [key(1, 0)]);
    let listening = MemberToNode::Listening("quic://1.2.3.4:5".into());
    let effects = node.handle(NodeEvent::Member(key(1, 0), listening));
    assert_eq!(spawned(&effects), [key(1, 1)]);

    let mut at_once = self::node(2);
    let effects = at_once.handle(NodeEvent::GroupPut(with(StartupPolicy::LeaderCreated)));
    assert_eq!(spawned(&effects), [key(1, 0), key(1, 1)]);
}
