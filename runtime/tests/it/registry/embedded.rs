//! The embedded store, on a clock that stands still until all wait.

use std::time::Duration;

use troupe_runtime::discovery::{Registry, RegistryError, embedded::EmbeddedRegistry};

use super::{LIFE, Mirror, contract, put, value};

#[tokio::test(start_paused = true)]
async fn the_contract_holds() {
    contract::holds(&EmbeddedRegistry::new()).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_cut_off_loses_its_keys_after_the_ttl_and_puts_them_again() {
    let ttl = Duration::from_secs(9);
    let registry = EmbeddedRegistry::new();
    let host = registry.connect();
    let mut watch = Mirror::of(&registry, "n/").await;
    let mut hosts_watch = Mirror::of(&host, "n/").await;
    let lease = host.lease(ttl, LIFE).await.expect("it is granted");
    lease.put("n/host", b"here".to_vec()).await.expect("it is put");
    assert!(lease.claim("n/name", b"host".to_vec()).await.expect("it answers"));
    watch.until("the host", |mirror| mirror.entries.len() == 2).await;

    host.set_reachable(false);
    let cut = tokio::time::Instant::now();
    hosts_watch.until("the cut", |mirror| mirror.disconnected.len() == 1).await;
    let error = lease.put("n/more", b"1".to_vec()).await.expect_err("it is cut off");
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error}");
    let error = lease.claim("n/more-names", b"1".to_vec()).await.expect_err("it is cut off");
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error}");
    watch.until("the keys to go", |mirror| mirror.entries.is_empty()).await;
    let silent = cut.elapsed();
    assert!(silent <= ttl && silent > ttl * 2 / 3, "renewed each third of {ttl:?}: {silent:?}");
    assert!(lease.since_confirmed() >= ttl, "its owner can tell that it is over");

    // Meanwhile another takes the name.
    let other = registry.lease(ttl, LIFE).await.expect("it is granted");
    assert!(other.claim("n/name", b"other".to_vec()).await.expect("it answers"));
    host.set_reachable(true);
    watch.until("the host again", |mirror| mirror.entries.len() == 3).await;
    assert_eq!(watch.value("n/host").as_deref(), Some("here"));
    assert_eq!(watch.value("n/more").as_deref(), Some("1"), "it stayed owned");
    assert_eq!(watch.value("n/name").as_deref(), Some("other"));
    assert_eq!(watch.value("n/more-names"), None, "a claim that failed is not ours");
    assert!(!lease.holds("n/name"));
    assert!(lease.since_confirmed() < ttl);
    hosts_watch.until("the same view", |mirror| mirror.entries == watch.entries).await;
    assert_eq!((hosts_watch.disconnected.len(), hosts_watch.rewound), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_wiped_store_is_told_and_filled_again() {
    let registry = EmbeddedRegistry::new();
    let lease = registry.lease(Duration::from_secs(9), LIFE).await.expect("it is granted");
    lease.put("k/leased", b"1".to_vec()).await.expect("it is put");
    put(&registry, "k/for-good", "1").await;
    let mut watch = Mirror::of(&registry, "k/").await;
    let lost = registry.incarnation(LIFE).await.expect("it answers");
    registry.wipe();
    watch.until("the wipe", |mirror| mirror.entries.is_empty()).await;
    assert_eq!(watch.rewound, 1);
    watch.until("the lease's key", |mirror| mirror.value("k/leased").is_some()).await;
    assert_eq!(watch.entries.len(), 1);
    assert_eq!(value(&registry, "k/leased").await.as_deref(), Some("1"));
    assert_ne!(registry.incarnation(LIFE).await.expect("it answers"), lost);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_may_come_late_is_there_as_soon_as_the_store_is() {
    let registry = EmbeddedRegistry::new();
    let host = registry.connect();
    host.set_reachable(false);
    let lease = host.lease_late(Duration::from_secs(9), LIFE);
    let error = lease.put("n/host", b"here".to_vec()).await.expect_err("it is cut off");
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error}");
    let mut watch = Mirror::of(&registry, "n/").await;
    host.set_reachable(true);
    watch.until("the host", |mirror| mirror.value("n/host").is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_with_its_registry() {
    let registry = EmbeddedRegistry::new();
    let mut watch = registry.watch("").await.expect("it can be watched");
    assert!(watch.next().await.is_some(), "synced");
    drop(registry);
    assert_eq!(watch.next().await, None);
}
