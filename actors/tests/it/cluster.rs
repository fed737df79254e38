//! A cluster in one process, from a declared service to tokens, and through the loss of its parts.

use std::sync::{Arc, atomic::Ordering};

use troupe_actors::controller::desired::launch;
use troupe_runtime::{
    discovery::{
        WatchEvent,
        directory::{self, GroupRecord, Launch, MemberPer},
        embedded::EmbeddedRegistry,
        keys::Keys,
    },
    id::NodeId,
    spec::EngineFlags,
    wire::generate::GenerateDown,
};
use uuid::Uuid;

use super::{
    overtaken::Overtaken,
    support::{Cluster, WAIT, expected},
};

fn service(tensor: u32, pipeline: u32, per: MemberPer, stage_ms: u32) -> Launch {
    let flags = EngineFlags {
        block_size: Some(4),
        stage_time_min_ms: (stage_ms > 0).then_some(stage_ms),
        ..EngineFlags::default()
    };
    let mut launch = launch("fake:model".into(), "m".into(), flags);
    launch.tensor_parallel = tensor;
    launch.pipeline_parallel = pipeline;
    launch.member_per = per;
    launch
}

fn id(number: u128) -> NodeId {
    NodeId(Uuid::from_u128(number))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_service_answers() {
    let cluster = Cluster::start().await;
    let _host = cluster.host(id(1), 1).await;
    cluster.declare("s", &service(1, 1, MemberPer::Host, 0)).await;
    let endpoint = cluster.endpoint(1).await;
    let asked = cluster.ask(&endpoint, &[3, 1, 4], 40).await;
    assert_eq!(asked.tokens().await, expected(&[3, 1, 4], 40));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_division_over_members_gives_the_same_tokens() {
    for (tensor, pipeline, per) in [
        (1, 2, MemberPer::Host),
        (1, 4, MemberPer::Stage),
        (2, 2, MemberPer::Rank),
        (2, 1, MemberPer::Host),
    ] {
        let cluster = Cluster::start().await;
        let _hosts = (cluster.host(id(1), 2).await, cluster.host(id(2), 2).await);
        cluster.declare("s", &service(tensor, pipeline, per, 0)).await;
        let endpoint = cluster.endpoint(1).await;
        let mut all = Vec::new();
        for number in 0..8 {
            all.push(cluster.ask(&endpoint, &[number, 7], 20).await);
        }
        for (number, asked) in (0..).zip(all) {
            assert_eq!(asked.tokens().await, expected(&[number, 7], 20), "{tensor} {pipeline}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_host_dies_its_requests_are_told_and_the_group_forms_elsewhere() {
    let cluster = Cluster::start().await;
    let first = cluster.host(id(1), 1).await;
    cluster.declare("s", &service(1, 1, MemberPer::Host, 5)).await;
    let endpoint = cluster.endpoint(1).await;
    let mut asked = cluster.ask(&endpoint, &[1], 500).await;
    asked.chunk().await;
    let _second = cluster.host(id(2), 1).await;
    drop(first);
    // In this process a host's death closes its links, as a reset would.
    let told = tokio::time::timeout(WAIT, async { while asked.broke().await.is_none() {} });
    told.await.expect("an error, not silence");
    let again = cluster.endpoint(2).await;
    assert_eq!(again.info.endpoint.epoch.number, 2);
    let asked = cluster.ask(&again, &[1], 10).await;
    assert_eq!(asked.tokens().await, expected(&[1], 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_lost_ends_the_incarnation_with_an_error_on_the_stream() {
    let cluster = Cluster::start().await;
    let _leader = cluster.host(id(1), 1).await;
    let worker = cluster.host(id(2), 1).await;
    let _spare = cluster.host(id(3), 1).await;
    cluster.declare("s", &service(1, 2, MemberPer::Host, 5)).await;
    let endpoint = cluster.endpoint(1).await;
    let mut asked = cluster.ask(&endpoint, &[1], 500).await;
    asked.chunk().await;
    drop(worker);
    let failed = loop {
        match asked.next().await {
            GenerateDown::Chunk(_) => {}
            GenerateDown::Failed(error) | GenerateDown::Moved(error) => break error,
            GenerateDown::Refused(error) => panic!("{error}"),
        }
    };
    assert!(!failed.message.is_empty());
    let again = cluster.endpoint(2).await;
    assert_eq!(cluster.ask(&again, &[9], 10).await.tokens().await, expected(&[9], 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_wiped_ends_nothing_and_takes_up_what_runs_as_it_runs() {
    let cluster = Cluster::start_patient().await;
    let _host = cluster.host(id(1), 1).await;
    let launch = service(1, 1, MemberPer::Host, 5);
    cluster.declare("s", &launch).await;
    let first = cluster.endpoint(1).await;
    let asked = cluster.ask(&first, &[1], 200).await;
    cluster.registry.wipe();
    cluster.declare("s", &launch).await;
    let group = &first.info.endpoint.group;
    let epoch = first.info.endpoint.epoch;
    let taken_up = |event: &WatchEvent| {
        let WatchEvent::Put(entry) = event else { return false };
        let record: GroupRecord = directory::from_bytes(&entry.key, &entry.value).unwrap();
        assert_eq!(record.epoch, epoch, "as it runs");
        true
    };
    cluster.until(&cluster.keys.group(group), taken_up).await;
    assert_eq!(asked.tokens().await, expected(&[1], 200), "nobody noticed");
    let again = cluster.endpoint(1).await;
    assert_eq!(again, first);
    assert_eq!(cluster.ask(&again, &[2], 5).await.tokens().await, expected(&[2], 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_planned_in_one_life_of_the_store_is_not_written_in_the_next() {
    let store = Arc::new(EmbeddedRegistry::new());
    let overtaken = Overtaken::on_the_way_to(&store, Keys::new("test").incarnation());
    let cluster = Cluster::start_with(store, overtaken.clone()).await;
    let _host = cluster.host(id(1), 1).await;
    cluster.declare("s", &service(1, 1, MemberPer::Host, 0)).await;
    // It plans once more from what the store holds now.
    let endpoint = cluster.endpoint(1).await;
    assert!(overtaken.happened() && !overtaken.was_done.load(Ordering::SeqCst));
    assert_eq!(cluster.ask(&endpoint, &[1], 10).await.tokens().await, expected(&[1], 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_request_frees_its_place_for_others() {
    let cluster = Cluster::start().await;
    let _host = cluster.host(id(1), 1).await;
    let mut launch = service(1, 1, MemberPer::Host, 2);
    launch.flags.max_num_seqs = Some(1);
    cluster.declare("s", &launch).await;
    let endpoint = cluster.endpoint(1).await;
    let mut first = cluster.ask(&endpoint, &[1], 400).await;
    first.chunk().await;
    let second = cluster.ask(&endpoint, &[2], 5).await;
    drop(first);
    assert_eq!(second.tokens().await, expected(&[2], 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_the_store_goes_on_serving_until_it_hears_of_a_higher_epoch() {
    let cluster = Cluster::start().await;
    let cut = cluster.host(id(1), 1).await;
    cluster.declare("s", &service(1, 1, MemberPer::Host, 1)).await;
    let endpoint = cluster.endpoint(1).await;
    cut.registry.set_reachable(false);
    let asked = cluster.ask(&endpoint, &[1], 10).await;
    assert_eq!(asked.tokens().await, expected(&[1], 10), "its requests do not need the store");
    let _other = cluster.host(id(2), 1).await;
    let again = cluster.endpoint(2).await;
    assert_eq!(cluster.ask(&again, &[2], 10).await.tokens().await, expected(&[2], 10));
    // Back in touch, the old incarnation ends: a stream that it still runs is told.
    let mut late = cluster.ask(&endpoint, &[3], 500).await;
    late.chunk().await;
    cut.registry.set_reachable(true);
    let told = tokio::time::timeout(WAIT, async { while late.broke().await.is_none() {} });
    told.await.expect("the old incarnation is over");
}
