//! What every registry promises, run against each of them.

use std::time::Duration;

use troupe_runtime::discovery::{Compare, Op, Registry, RegistryError, Txn, WatchEvent};
use uuid::Uuid;

use super::{LIFE, Mirror, delete, put, put_op, until_value, value};

const TTL: Duration = Duration::from_secs(3);

/// All of it, on an empty store.
pub(super) async fn holds(registry: &dyn Registry) {
    keys_have_versions(registry).await;
    comparisons_decide(registry).await;
    impossible_transactions_are_refused(registry).await;
    a_watch_tells_everything_in_order(registry).await;
    a_slow_reader_ends_with_the_content(registry).await;
    a_lease_owns_keys(registry).await;
    a_claim_has_one_winner(registry).await;
    an_incarnation_is_made_once(registry).await;
    a_lease_moves_into_another_life(registry).await;
}

async fn keys_have_versions(registry: &dyn Registry) {
    assert_eq!(registry.get("v/a").await.expect("it answers"), None);
    put(registry, "v/b", "1").await;
    put(registry, "v/a", "1").await;
    put(registry, "v/a", "2").await;
    put(registry, "w/c", "1").await;
    let listed = registry.list("v/").await.expect("it answers");
    let listed: Vec<_> = listed.iter().map(|entry| (entry.key.as_str(), entry.version)).collect();
    assert_eq!(listed, [("v/a", 2), ("v/b", 1)]);
    delete(registry, "v/a").await;
    delete(registry, "v/not-there").await;
    put(registry, "v/a", "3").await;
    let entry = registry.get("v/a").await.expect("it answers").expect("it was put");
    assert_eq!((entry.value.as_slice(), entry.version), (b"3".as_slice(), 1));
}

async fn comparisons_decide(registry: &dyn Registry) {
    put(registry, "c/there", "x").await;
    let there = || "c/there".to_owned();
    let not = || "c/not".to_owned();
    let cases = [
        (Compare::Absent(not()), true),
        (Compare::Absent(there()), false),
        (Compare::Value(there(), b"x".to_vec()), true),
        (Compare::Value(there(), b"y".to_vec()), false),
        (Compare::Value(not(), Vec::new()), false),
        (Compare::Version(there(), 1), true),
        (Compare::Version(there(), 2), false),
        (Compare::Version(not(), 0), true),
        (Compare::Version(not(), 1), false),
    ];
    for (compare, wanted) in cases {
        let txn = Txn { compare: vec![compare.clone()], then: vec![put_op("c/done", "1")] };
        assert_eq!(registry.commit(txn).await.expect("it answers"), wanted, "{compare:?}");
        assert_eq!(value(registry, "c/done").await.is_some(), wanted, "{compare:?}");
        delete(registry, "c/done").await;
    }
    // One that does not hold stops all of it.
    let compare = vec![Compare::Absent(not()), Compare::Absent(there())];
    let then = vec![put_op("c/1", "1"), Op::Delete(there())];
    assert!(!registry.commit(Txn { compare, then }).await.expect("it answers"));
    assert_eq!(value(registry, "c/there").await.as_deref(), Some("x"));
    assert_eq!(value(registry, "c/1").await, None);
}

async fn impossible_transactions_are_refused(registry: &dyn Registry) {
    let puts = |count: usize| (0..count).map(|n| put_op(&format!("t/{n}"), "1")).collect();
    let txn = |then| Txn { compare: vec![], then };
    assert!(registry.commit(txn(puts(128))).await.expect("128 are possible"));
    let error = registry.commit(txn(puts(129))).await.expect_err("129 are not");
    assert!(matches!(error, RegistryError::TooManyOperations(129)), "{error}");
    let compare = (0..129).map(|n| Compare::Absent(format!("u/{n}"))).collect();
    let error = registry.commit(Txn { compare, then: vec![] }).await.expect_err("nor compares");
    assert!(matches!(error, RegistryError::TooManyOperations(129)), "{error}");

    let refused = [
        vec![put_op("t/x", "1"), put_op("t/x", "2")],
        vec![put_op("t/x", "1"), Op::Delete("t/x".into())],
        vec![put_op("", "1")],
        vec![Op::Put("t/x".into(), vec![0; 2 << 20])],
    ];
    for then in refused {
        let error = registry.commit(txn(then)).await.expect_err("no store can take it");
        assert!(matches!(error, RegistryError::Refused(_)), "{error}");
    }
    assert_eq!(value(registry, "t/x").await, None);
}

async fn a_watch_tells_everything_in_order(registry: &dyn Registry) {
    put(registry, "m/b", "1").await;
    put(registry, "m/a", "1").await;
    let mut watch = registry.watch("m/").await.expect("it can be watched");
    put(registry, "other", "1").await;
    put(registry, "m/b", "2").await;
    delete(registry, "m/a").await;
    let both = vec![put_op("m/c", "1"), put_op("m/d", "1")];
    assert!(registry.commit(Txn { compare: vec![], then: both }).await.expect("it answers"));
    let mut told = Vec::new();
    while told.len() < 7 {
        let event = tokio::time::timeout(super::PATIENCE, watch.next()).await;
        told.push(match event.expect("it is told").expect("the registry is open") {
            WatchEvent::Put(entry) => format!("{} v{}", entry.key, entry.version),
            WatchEvent::Delete(key) => format!("{key} gone"),
            WatchEvent::Synced => "synced".into(),
            WatchEvent::Disconnected(why) => panic!("nothing was disconnected: {why}"),
            WatchEvent::Rewound => panic!("nothing was lost"),
        });
    }
    assert_eq!(told, ["m/a v1", "m/b v1", "synced", "m/b v2", "m/a gone", "m/c v1", "m/d v1"]);
}

/// More changes than any buffer holds, unread, while writers go on; then read.
async fn a_slow_reader_ends_with_the_content(registry: &dyn Registry) {
    let mut watch = Mirror::of(registry, "s/").await;
    for round in 0..40 {
        let then = (0..100).map(|n| put_op(&format!("s/{n:02}"), &round.to_string())).collect();
        assert!(registry.commit(Txn { compare: vec![], then }).await.expect("it answers"));
    }
    delete(registry, "s/00").await;
    put(registry, "s/last", "1").await;
    watch.until("the last write", |mirror| mirror.value("s/last").is_some()).await;
    let listed = registry.list("s/").await.expect("it answers");
    assert_eq!(watch.entries.into_values().collect::<Vec<_>>(), listed);
}

async fn a_lease_owns_keys(registry: &dyn Registry) {
    let mut watch = Mirror::of(registry, "l/").await;
    let lease = registry.lease(TTL, LIFE).await.expect("it is granted");
    lease.put("l/a", b"1".to_vec()).await.expect("it is put");
    lease.put("l/a", b"2".to_vec()).await.expect("it is put");
    lease.put("l/b", b"1".to_vec()).await.expect("it is put");
    lease.put("l/c", b"1".to_vec()).await.expect("it is put");
    assert!(lease.since_confirmed() < TTL);
    lease.delete("l/c").await.expect("it is deleted");
    assert_eq!(value(registry, "l/a").await.as_deref(), Some("2"));
    assert_eq!(value(registry, "l/c").await, None);
    let error = lease.put("l/huge", vec![0; 2 << 20]).await.expect_err("no store can take it");
    assert!(matches!(error, RegistryError::Refused(_)), "{error}");
    // Longer than the ttl: it is kept alive.
    tokio::time::sleep(TTL * 2).await;
    assert_eq!(value(registry, "l/b").await.as_deref(), Some("1"));

    lease.revoke().await.expect("it is revoked");
    assert_eq!(registry.list("l/").await.expect("it answers"), []);
    watch.until("all keys to go", |mirror| mirror.entries.is_empty()).await;
    let error = lease.put("l/a", b"3".to_vec()).await.expect_err("it is over");
    assert!(matches!(error, RegistryError::Refused(_)), "{error}");

    let dropped = registry.lease(TTL, LIFE).await.expect("it is granted");
    dropped.put("l/d", b"1".to_vec()).await.expect("it is put");
    drop(dropped);
    until_value(registry, "l/d", None).await;
}

async fn a_claim_has_one_winner(registry: &dyn Registry) {
    let first = registry.lease(TTL, LIFE).await.expect("it is granted");
    let second = registry.lease(TTL, LIFE).await.expect("it is granted");
    assert!(first.claim("e/office", b"first".to_vec()).await.expect("it answers"));
    assert!(!second.claim("e/office", b"second".to_vec()).await.expect("it answers"));
    assert!(first.holds("e/office") && !second.holds("e/office"));
    // Who has it may claim it again.
    assert!(first.claim("e/office", b"first".to_vec()).await.expect("it answers"));
    // The same identity takes over from its own earlier lease, which then has no say in it.
    let again = registry.lease(TTL, LIFE).await.expect("it is granted");
    assert!(again.claim("e/office", b"first".to_vec()).await.expect("it answers"));
    first.revoke().await.expect("it is revoked");
    assert!(!first.holds("e/office"));
    assert_eq!(value(registry, "e/office").await.as_deref(), Some("first"));

    again.delete("e/office").await.expect("it answers");
    assert!(!again.holds("e/office"));
    assert!(second.claim("e/office", b"second".to_vec()).await.expect("it answers"));
    assert_eq!(value(registry, "e/office").await.as_deref(), Some("second"));
    // What another has now is not deleted by who had it.
    again.delete("e/office").await.expect("it answers");
    assert_eq!(value(registry, "e/office").await.as_deref(), Some("second"));
}

async fn an_incarnation_is_made_once(registry: &dyn Registry) {
    let key = "i/once";
    let (a, b, c) = tokio::join!(
        registry.incarnation(key),
        registry.incarnation(key),
        registry.incarnation(key)
    );
    let made = a.expect("it answers");
    assert!(Uuid::parse_str(&made.id()).is_ok_and(|id| !id.is_nil()), "{made:?}");
    for again in [b, c, registry.incarnation(key).await] {
        assert_eq!(again.expect("it answers"), made);
    }
    assert_eq!(value(registry, key).await.as_deref(), Some(&*made.id()));

    // What was read in it is written in it, and in no other.
    let guarded = || Txn { compare: vec![made.compare()], then: vec![put_op("i/done", "1")] };
    assert!(registry.commit(guarded()).await.expect("it answers"));
    delete(registry, "i/done").await;
    for other in [Some("another"), None] {
        match other {
            Some(other) => put(registry, key, other).await,
            None => delete(registry, key).await,
        }
        assert!(!registry.commit(guarded()).await.expect("it answers"));
        assert_eq!(value(registry, "i/done").await, None);
    }
    let anew = registry.incarnation(key).await.expect("it answers");
    assert_ne!(anew, made, "a new life has a new name");
}

/// The store's content is another's from one moment to the next, though the lease lives on.
async fn a_lease_moves_into_another_life(registry: &dyn Registry) {
    let key = "i/leased";
    let lease = registry.lease(TTL, key).await.expect("it is granted");
    let first = value(registry, key).await.expect("a lease makes it");
    lease.put("o/a", b"1".to_vec()).await.expect("it is put");
    assert!(lease.claim("o/b", b"ours".to_vec()).await.expect("it answers"));
    assert!(lease.claim("o/c", b"ours".to_vec()).await.expect("it answers"));

    // Filled by others: the record is gone, one name is taken and one is free.
    let others = vec![
        put_op(key, "another"),
        Op::Delete("o/a".into()),
        put_op("o/b", "theirs"),
        Op::Delete("o/c".into()),
    ];
    assert!(registry.commit(Txn { compare: vec![], then: others }).await.expect("it answers"));
    lease.put("o/d", b"1".to_vec()).await.expect("it is put");
    for (key, wanted) in [(key, "another"), ("o/a", "1"), ("o/b", "theirs"), ("o/c", "ours")] {
        assert_eq!(value(registry, key).await.as_deref(), Some(wanted), "{key}");
    }
    assert!(!lease.holds("o/b") && lease.holds("o/c"));

    // Emptied, with a key that is to go at this very moment.
    let gone = ["o/a", "o/c", key].map(|key| Op::Delete(key.into()));
    assert!(registry.commit(Txn { compare: vec![], then: gone.into() }).await.expect("it answers"));
    lease.delete("o/d").await.expect("it is deleted");
    assert_eq!(value(registry, "o/d").await, None);
    assert_eq!(value(registry, "o/a").await.as_deref(), Some("1"));
    assert!(lease.holds("o/c"));
    let made = value(registry, key).await.expect("whoever finds it absent makes it");
    assert!(Uuid::parse_str(&made).is_ok() && made != first, "{made}");
}
