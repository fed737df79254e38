//! Groups and hosts that go without losing a request.

use troupe_actors::{
    controller::desired::launch,
    node::{actor::NodeMsg, core::NodeEvent},
};
use troupe_runtime::{
    discovery::{
        WatchEvent,
        directory::{self, EndpointRecord, Launch, MemberPer, NodeStatus},
    },
    error::ErrorKind,
    id::NodeId,
    spec::EngineFlags,
    wire::generate::{GenerateDown, KvSource},
};
use uuid::Uuid;

use super::support::{Cluster, WAIT, expected};

/// Two stages on two hosts, so slow that a request is still under way when something else happens.
fn service() -> Launch {
    let flags =
        EngineFlags { block_size: Some(4), stage_time_min_ms: Some(5), ..EngineFlags::default() };
    let mut launch = launch("fake:model".into(), "m".into(), flags);
    launch.pipeline_parallel = 2;
    launch.member_per = MemberPer::Host;
    launch
}

fn id(number: u128) -> NodeId {
    NodeId(Uuid::from_u128(number))
}

async fn refused(cluster: &Cluster, endpoint: &EndpointRecord) -> ErrorKind {
    match cluster.ask(endpoint, &[9], 5).await.next().await {
        GenerateDown::Refused(error) => error.kind,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_drains_finishes_what_it_has_and_sends_the_rest_elsewhere() {
    let cluster = Cluster::start().await;
    let _hosts = (cluster.host(id(1), 1).await, cluster.host(id(2), 1).await);
    cluster.declare("s", &service()).await;
    let endpoint = cluster.endpoint(1).await;
    let group = &endpoint.info.endpoint.group;
    let mut asked = cluster.ask(&endpoint, &[1], 60).await;
    let first = asked.chunk().await.tokens;
    // Whoever ends first says that it was no failure. By then another incarnation may be planned,
    // and what was before it forgotten: so the statuses are watched from before.
    let statuses = cluster.keys.node_statuses();
    let told = cluster.until(&statuses, |event| {
        let WatchEvent::Put(entry) = event else { return false };
        let status: NodeStatus = directory::from_bytes(&entry.key, &entry.value).unwrap();
        status
            .members
            .iter()
            .any(|member| member.epoch == endpoint.info.endpoint.epoch && member.state.is_drained())
    });
    let finishes = async {
        cluster.drain(group, 60).await;
        let key = cluster.keys.endpoint(group, endpoint.info.endpoint.epoch);
        cluster.until_gone(&key).await;
        assert_eq!(refused(&cluster, &endpoint).await, ErrorKind::Unavailable);

        assert_eq!(asked.rest(first.to_vec()).await, expected(&[1], 60), "all of it");
    };
    tokio::join!(told, finishes);
    cluster.endpoint(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_drain_will_not_finish_goes_on_elsewhere_with_its_kv() {
    let cluster = Cluster::start().await;
    let mut hosts = Vec::new();
    for number in 1..=4 {
        hosts.push(cluster.host(id(number), 1).await);
    }
    let mut slow = service();
    slow.flags.stage_time_min_ms = Some(25);
    cluster.declare("from", &slow).await;
    let from = cluster.endpoint_of("from").await;
    cluster.declare("to", &service()).await;
    let to = cluster.endpoint_of("to").await;
    let mut asked = cluster.ask(&from, &[1], 100_000).await;
    let mut told = vec![1];
    told.extend(asked.chunk().await.tokens);
    cluster.drain(&from.info.endpoint.group, 8).await;
    loop {
        match asked.next().await {
            GenerateDown::Chunk(chunk) => told.extend(chunk.tokens),
            GenerateDown::Moved(error) => break assert_eq!(error.kind, ErrorKind::Unavailable),
            other => panic!("{other:?}"),
        }
    }
    // As a gateway does: it is through with the one and goes to the other.
    drop(asked);
    let source = KvSource {
        endpoint: from.info.endpoint.clone(),
        address: from.address.clone(),
        cached: Some(told.len() as u32),
    };
    let more = cluster.ask_with(&to, &told, 20, Some(source)).await.tokens().await;
    assert_eq!(more, expected(&told, 20));
    let came = cluster.counted(&to, "troupe:kv_transfer_tokens_total", "").await;
    assert_eq!(came, f64::from(told.len() as u32 - 1).div_euclid(4.0) * 4.0, "all whole blocks");
    let key = cluster.keys.endpoint(&from.info.endpoint.group, from.info.endpoint.epoch);
    cluster.until_gone(&key).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_whose_time_is_over_ends_what_is_left_with_a_word() {
    let cluster = Cluster::start().await;
    let _hosts = (cluster.host(id(1), 1).await, cluster.host(id(2), 1).await);
    cluster.declare("s", &service()).await;
    let endpoint = cluster.endpoint(1).await;
    let mut asked = cluster.ask(&endpoint, &[1], 500).await;
    asked.chunk().await;
    cluster.drain(&endpoint.info.endpoint.group, 0).await;
    let told = async {
        loop {
            if let Some(why) = asked.broke().await {
                return why;
            }
        }
    };
    let why = tokio::time::timeout(WAIT, told).await.expect("an error, not silence");
    assert!(why.contains("its time is over"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_stopped_finishes_what_its_groups_have_wherever_their_leaders_are() {
    let cluster = Cluster::start().await;
    let mut hosts = [cluster.host(id(1), 1).await, cluster.host(id(2), 1).await];
    cluster.declare("s", &service()).await;
    let endpoint = cluster.endpoint(1).await;
    let leads = cluster.leader_host(&endpoint).await;
    let worker = hosts.iter_mut().find(|host| host.id != leads).expect("the other");
    let mut asked = cluster.ask(&endpoint, &[1], 60).await;
    // What the leader has answered once, it has taken; before, the drain may be heard first.
    let first = asked.chunk().await.tokens;
    worker.node.actor().cast(NodeMsg::Event(NodeEvent::Leave(60))).expect("it lives");
    assert_eq!(asked.rest(first.to_vec()).await, expected(&[1], 60), "all of it");
    tokio::time::timeout(WAIT, worker.node.ended()).await.expect("it ends by itself");
}
