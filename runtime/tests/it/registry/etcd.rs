//! etcd's traps, each against the real thing.

use std::time::Duration;

use troupe_runtime::discovery::{
    Registry, RegistryError, Txn,
    etcd::{EtcdConfig, EtcdRegistry},
};

use super::{LIFE, Mirror, contract, delete, put, put_op, until_value, value};
use crate::etcd_process::EtcdProcess;

const TTL: Duration = Duration::from_secs(5);

async fn connect(endpoints: impl IntoIterator<Item = String>) -> EtcdRegistry {
    EtcdRegistry::new(EtcdConfig::new(endpoints)).await.expect("these are endpoints")
}

/// An operator's client, for what the registry has no business doing.
async fn operator(etcd: &EtcdProcess) -> etcd_client::Client {
    etcd_client::Client::connect([etcd.endpoint()], None).await.expect("this is an endpoint")
}

#[tokio::test]
async fn the_contract_holds() {
    let etcd = EtcdProcess::start();
    contract::holds(&connect([etcd.endpoint()]).await).await;
}

#[tokio::test]
async fn a_restart_under_a_watch_and_a_lease_loses_nothing() {
    let mut etcd = EtcdProcess::start();
    let registry = connect([etcd.endpoint()]).await;
    let mut watch = Mirror::of(&registry, "k/").await;
    let lease = registry.lease(TTL, LIFE).await.expect("it is granted");
    lease.put("k/leased", b"1".to_vec()).await.expect("it is put");
    put(&registry, "k/a", "1").await;
    watch.until("both", |mirror| mirror.entries.len() == 2).await;

    etcd.kill();
    watch.until("the outage", |mirror| mirror.disconnected.len() == 1).await;
    assert!(watch.disconnected[0].contains(&etcd.endpoint()), "{:?}", watch.disconnected);
    let error = registry.get("k/a").await.expect_err("nobody answers");
    let RegistryError::Unreachable { endpoints, why } = &error else { panic!("{error}") };
    assert_eq!(*endpoints, etcd.endpoint());
    assert!(why.contains("refused"), "{error}");
    // Put while it is away: an error now, and there all the same once it is back.
    let error = lease.put("k/late", b"1".to_vec()).await.expect_err("nobody answers");
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error}");

    etcd.restart();
    watch.until("the late key", |mirror| mirror.value("k/late").is_some()).await;
    delete(&registry, "k/a").await;
    watch.until("a change", |mirror| mirror.value("k/a").is_none()).await;
    assert_eq!(watch.value("k/leased").as_deref(), Some("1"));
    assert_eq!((watch.synced, watch.rewound), (2, 0), "listed once more, and nothing was lost");
    let leased = registry.get("k/leased").await.expect("it answers").expect("it is there");
    assert_eq!(leased.version, 1, "what the store still has is not written again");
}

#[tokio::test]
async fn what_was_compacted_while_a_watch_was_away_is_told_as_a_difference() {
    let mut etcd = EtcdProcess::start();
    let registry = connect([etcd.endpoint()]).await;
    put(&registry, "k/goes", "1").await;
    put(&registry, "k/stays", "1").await;
    let mut watch = Mirror::of(&registry, "k/").await;
    // The watching client sleeps through an outage, a deletion and the loss of its record.
    etcd.freeze();
    watch.until("the silence", |mirror| mirror.disconnected.len() == 1).await;
    etcd.thaw();
    let writer = connect([etcd.endpoint()]).await;
    until_value(&writer, "k/goes", Some("1")).await;
    delete(&writer, "k/goes").await;
    put(&writer, "k/new", "1").await;
    let mut operator = operator(&etcd).await;
    let newest = operator.get("k/new", None).await.expect("it answers");
    let revision = newest.header().expect("an answer has a header").revision();
    let physical = etcd_client::CompactionOptions::new().with_physical();
    operator.compact(revision, Some(physical)).await.expect("it can be compacted");
    etcd.kill();
    etcd.restart();
    watch.until("the new key", |mirror| mirror.value("k/new").is_some()).await;
    let listed = registry.list("k/").await.expect("it answers");
    watch.until("all of it", |mirror| mirror.entries.values().eq(&listed)).await;
    assert_eq!((watch.value("k/goes"), watch.rewound), (None, 0), "what is gone was deleted");
}

#[tokio::test]
async fn a_wiped_store_is_told_and_its_leases_granted_anew() {
    let mut etcd = EtcdProcess::start();
    let registry = connect([etcd.endpoint()]).await;
    let lease = registry.lease(TTL, LIFE).await.expect("it is granted");
    lease.put("k/leased", b"1".to_vec()).await.expect("it is put");
    assert!(lease.claim("k/claimed", b"1".to_vec()).await.expect("it answers"));
    // The revision is far ahead of anything that the new life will see.
    for n in 0..50 {
        put(&registry, "k/for-good", &n.to_string()).await;
    }
    let mut watch = Mirror::of(&registry, "k/").await;
    let lost = registry.incarnation(LIFE).await.expect("it answers");
    etcd.kill();
    etcd.wipe();
    etcd.restart();
    watch.until("the wipe", |mirror| mirror.value("k/for-good").is_none()).await;
    assert_eq!(watch.rewound, 1, "and told before the deletions");
    until_value(&registry, "k/leased", Some("1")).await;
    until_value(&registry, "k/claimed", Some("1")).await;
    watch.until("the lease's keys", |mirror| mirror.entries.len() == 2).await;
    assert_ne!(registry.incarnation(LIFE).await.expect("it answers"), lost);
    let stale = Txn { compare: vec![lost.compare()], then: vec![put_op("k/stale", "1")] };
    assert!(!registry.commit(stale).await.expect("it answers"), "it was read before the wipe");
    put(&registry, "k/after", "1").await;
    watch.until("a change", |mirror| mirror.value("k/after").is_some()).await;
}

#[tokio::test]
async fn a_store_that_was_restored_to_an_older_revision_is_told_and_filled_again() {
    let mut etcd = EtcdProcess::start();
    let registry = connect([etcd.endpoint()]).await;
    let lease = registry.lease(Duration::from_secs(30), LIFE).await.expect("it is granted");
    lease.put("k/old", b"1".to_vec()).await.expect("it is put");
    put(&registry, "k/for-good", "old").await;
    etcd.kill();
    let copy = etcd.back_up();
    etcd.restart();
    until_value(&registry, "k/for-good", Some("old")).await;
    // The copy knows the lease, but neither this key nor this value.
    lease.put("k/newer", b"1".to_vec()).await.expect("it is put");
    lease.put("k/old", b"2".to_vec()).await.expect("it is put");
    put(&registry, "k/for-good", "new").await;
    let mut watch = Mirror::of(&registry, "k/").await;
    assert_eq!(watch.entries.len(), 3);

    etcd.kill();
    etcd.restore(&copy);
    etcd.restart();
    watch.until("the old value", |m| m.value("k/for-good").as_deref() == Some("old")).await;
    assert_eq!(watch.rewound, 1);
    until_value(&registry, "k/newer", Some("1")).await;
    until_value(&registry, "k/old", Some("2")).await;
    watch
        .until("the same", |m| m.entries.len() == 3 && m.value("k/old").as_deref() == Some("2"))
        .await;
}

#[tokio::test]
async fn a_lease_that_was_lost_is_granted_anew() {
    let etcd = EtcdProcess::start();
    let registry = connect([etcd.endpoint()]).await;
    let lease = registry.lease(TTL, LIFE).await.expect("it is granted");
    lease.put("k/a", b"1".to_vec()).await.expect("it is put");
    let mut watch = Mirror::of(&registry, "k/").await;
    let mut operator = operator(&etcd).await;
    let leases = operator.leases().await.expect("it answers");
    let [lost] = leases.leases() else { panic!("one lease is listed") };
    operator.lease_revoke(lost.id()).await.expect("it can be revoked");
    watch.until("the key to go", |mirror| mirror.entries.is_empty()).await;
    watch.until("the key again", |mirror| mirror.entries.len() == 1).await;
}

#[tokio::test]
async fn an_etcd_that_does_not_answer_costs_one_timeout_and_says_so() {
    let etcd = EtcdProcess::start();
    let mut config = EtcdConfig::new([etcd.endpoint()]);
    config.request_timeout = Duration::from_millis(700);
    let registry = EtcdRegistry::new(config).await.expect("this is an endpoint");
    put(&registry, "k", "1").await;
    let lease = registry.lease(TTL, LIFE).await.expect("it is granted");
    etcd.freeze();
    let asking = async {
        [
            registry.get("k").await.expect_err("it is frozen"),
            registry.list("k").await.expect_err("it is frozen"),
            registry.commit(Default::default()).await.expect_err("it is frozen"),
            registry.watch("k").await.expect_err("it is frozen"),
            registry.lease(TTL, LIFE).await.expect_err("it is frozen"),
            lease.put("l", b"1".to_vec()).await.expect_err("it is frozen"),
        ]
    };
    let errors = tokio::time::timeout(super::PATIENCE, asking).await.expect("each ends by itself");
    for error in errors {
        let RegistryError::Unreachable { endpoints, why } = &error else { panic!("{error}") };
        assert_eq!(*endpoints, etcd.endpoint());
        assert!(why.contains("no answer in 0.7 s"), "{error}");
    }
    etcd.thaw();
    until_value(&registry, "l", Some("1")).await;
}

#[tokio::test]
async fn one_dead_endpoint_among_several_is_passed_over() {
    let mut dead = EtcdProcess::start();
    dead.kill();
    let etcd = EtcdProcess::start();
    let registry = connect([dead.endpoint(), etcd.endpoint()]).await;
    for n in 0..10 {
        put(&registry, "k/a", &n.to_string()).await;
    }
    let mut watch = Mirror::of(&registry, "k/").await;
    let lease = registry.lease(TTL, LIFE).await.expect("it is granted");
    lease.put("k/leased", b"1".to_vec()).await.expect("it is put");
    watch.until("the leased key", |mirror| mirror.value("k/leased").is_some()).await;
    assert_eq!(watch.value("k/a").as_deref(), Some("9"));
}

#[tokio::test]
async fn a_member_without_quorum_takes_no_writes_and_the_watch_says_so() {
    let mut members = EtcdProcess::start_cluster(2);
    let registry = connect(members.iter().map(EtcdProcess::endpoint)).await;
    put(&registry, "k/a", "1").await;
    let mut watch = Mirror::of(&registry, "k/").await;
    members[1].kill();
    watch.until("the lost quorum", |mirror| !mirror.disconnected.is_empty()).await;
    // Until the member notices, a request only times out.
    let asking = async {
        loop {
            let commit = registry.commit(Default::default()).await;
            match commit.expect_err("one of two is no majority") {
                RegistryError::ReadOnly { why, .. } => return why,
                RegistryError::Unreachable { .. } => {}
                error => panic!("{error}"),
            }
        }
    };
    let why = tokio::time::timeout(super::PATIENCE, asking).await.expect("the member notices");
    assert!(why.contains("no leader"), "{why}");
    members[1].restart();
    until_value(&registry, "k/a", Some("1")).await;
    put(&registry, "k/b", "1").await;
    watch.until("a change", |mirror| mirror.value("k/b").is_some()).await;
}

#[tokio::test]
async fn a_full_store_says_how_to_make_room() {
    let etcd = EtcdProcess::start_with(&["--quota-backend-bytes", "1000000"]);
    let registry = connect([etcd.endpoint()]).await;
    let text = "x".repeat(200_000);
    let mut outcome = Ok(true);
    for n in 0..100 {
        let then = vec![put_op(&format!("k/{n}"), &text)];
        outcome = registry.commit(Txn { compare: vec![], then }).await;
        if outcome.is_err() {
            break;
        }
    }
    let error = outcome.expect_err("the quota is reached");
    let RegistryError::ReadOnly { endpoints, why } = &error else { panic!("{error}") };
    assert_eq!(*endpoints, etcd.endpoint());
    assert!(why.contains("alarm disarm"), "{error}");
    assert_eq!(value(&registry, "k/0").await.map(|value| value.len()), Some(text.len()));
}

#[tokio::test]
async fn what_is_no_endpoint_is_refused() {
    for endpoints in [vec![], vec!["not an address".to_owned()]] {
        let error = EtcdRegistry::new(EtcdConfig::new(endpoints)).await.expect_err("no endpoint");
        assert!(matches!(error, RegistryError::Refused(_)), "{error}");
    }
}
