//! What a plan costs: `cargo bench -p troupe-actors --bench controller`
//!
//! 2,000 hosts of 8 devices, 500 services of 4 groups of 4 ranks. `plan/first` is everything from
//! nothing: a controller takes office and places 2,000 groups. `plan/again` is another controller
//! that finds all of it in place. `plan/lost` is one that gives up 20 hosts and places what was on
//! them. `plan/report` is one host's report among all that, and `plan/tick` nothing at all.
//! 100 ms are the goal for the first.

use std::{collections::BTreeMap, hint::black_box, time::Duration};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use serde_json::json;
use troupe_actors::controller::{
    desired::{Desired, ServiceName, launch},
    memory::ModelFacts,
    plan::{Controller, ControllerEffect, ControllerEvent, Timing},
    wishes::Wishes,
};
use troupe_runtime::{
    discovery::directory::{GroupRecord, MemberState, MemberStatus, NodeRecord, NodeStatus},
    id::NodeId,
    spec::{EngineFlags, GroupPolicy},
    wire,
};
use uuid::Uuid;

criterion_group!(controller, plan);
criterion_main!(controller);

const NOW: Duration = Duration::from_secs(1_000_000);
const LEASE: Duration = Duration::from_secs(3);
const HOSTS: u128 = 2000;
const SERVICES: u32 = 500;
const REPLICAS: u32 = 4;

fn host(number: u128) -> NodeRecord {
    let (zone, rack) = (number % 4, number % 50);
    let labels = [
        ("topology.kubernetes.io/zone", format!("zone-{zone}")),
        ("troupe.dev/rack", format!("rack-{rack}")),
    ];
    NodeRecord {
        id: NodeId(Uuid::from_u128(number)),
        name: format!("host-{number}"),
        process: Uuid::from_u128(1),
        devices: 8,
        device_kind: "cpu".into(),
        version: "0".into(),
        wire: wire::VERSION,
        labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
        device_memory: 80 << 30,
        address: None,
        leaving: false,
    }
}

fn service(number: u32) -> Desired {
    let mut launch = launch("m".into(), "m".into(), EngineFlags::default());
    launch.tensor_parallel = 2;
    launch.pipeline_parallel = 2;
    Desired {
        name: ServiceName::new("default", &format!("service-{number}")),
        generation: 1,
        replicas: REPLICAS,
        scaling: None,
        launch,
        wishes: Wishes::default(),
        policy: GroupPolicy::default(),
        grace: None,
        cause: None,
        document: json!({"spec": {}}),
        applied: vec![],
    }
}

/// A controller that knows all hosts and services and is not in office.
fn observer() -> Controller {
    let mut controller = Controller::new(Timing { lease: LEASE, settle: Duration::ZERO }, 7);
    for number in 1..=HOSTS {
        controller.handle(NOW, ControllerEvent::NodePut(host(number)));
    }
    for number in 0..SERVICES {
        controller.handle(NOW, ControllerEvent::Declared(service(number)));
    }
    controller.handle(NOW, ControllerEvent::Synced);
    // A model of 8 billion weights: it fits everywhere, and that is looked at.
    let facts = ModelFacts {
        weight_bytes: 16_060_522_496,
        ends_bytes: 2_101_346_304,
        layers: 32,
        kv_heads: 8,
        kv_bytes_per_token: 131_072,
        hidden_size: 4096,
        intermediate_size: 14_336,
        vocab_size: 128_256,
        max_model_len: 131_072,
    };
    controller.handle(NOW, ControllerEvent::ModelKnown("m".into(), Some(facts)));
    controller
}

fn groups(effects: Vec<ControllerEffect>) -> Vec<GroupRecord> {
    let record = |effect| match effect {
        ControllerEffect::PutGroup(record) => Some(record),
        _ => None,
    };
    effects.into_iter().filter_map(record).collect()
}

/// What hosts report once all their members serve.
fn reports(groups: &[GroupRecord]) -> Vec<NodeStatus> {
    let mut reports: BTreeMap<NodeId, NodeStatus> = BTreeMap::new();
    for record in groups {
        for (index, member) in record.members.iter().enumerate() {
            let status = reports.entry(member.node).or_insert_with(|| NodeStatus {
                node: member.node,
                process: member.process,
                members: Vec::new(),
                epochs: BTreeMap::new(),
                groups: Vec::new(),
            });
            status.members.push(MemberStatus {
                group: record.group.clone(),
                epoch: record.epoch,
                member: index as u32,
                address: None,
                state: MemberState::Ready,
                blames: None,
            });
            status.epochs.insert(record.group.to_string(), record.epoch.number);
            status.groups.push(record.clone());
        }
    }
    reports.into_values().collect()
}

fn plan(c: &mut Criterion) {
    let observer = observer();
    let planned = groups(observer.clone().handle(NOW, ControllerEvent::Elected(vec![])));
    assert_eq!(planned.len() as u32, SERVICES * REPLICAS, "all have a place");
    let reports = reports(&planned);
    let mut informed = observer.clone();
    for report in &reports {
        informed.handle(NOW, ControllerEvent::StatusPut(report.clone()));
    }
    let mut settled = informed.clone();
    settled.handle(NOW, ControllerEvent::Elected(planned.clone()));
    settled.handle(NOW, ControllerEvent::Tick);
    let mut losing = settled.clone();
    for report in reports.iter().take(20) {
        losing.handle(NOW, ControllerEvent::NodeGone(report.node));
    }
    let mut group = c.benchmark_group("plan");
    group.sample_size(20);
    let mut bench = |name: &str, of: &Controller, event: ControllerEvent, now: Duration| {
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || (of.clone(), event.clone()),
                |(mut controller, event)| {
                    let effects = black_box(controller.handle(now, event));
                    (controller, effects)
                },
                BatchSize::LargeInput,
            );
        });
    };
    bench("first", &observer, ControllerEvent::Elected(vec![]), NOW);
    bench("again", &informed, ControllerEvent::Elected(planned), NOW);
    bench("lost", &losing, ControllerEvent::Tick, NOW + LEASE * 2);
    bench("report", &settled, ControllerEvent::StatusPut(reports[0].clone()), NOW);
    bench("tick", &settled, ControllerEvent::Tick, NOW);
    group.finish();
}
