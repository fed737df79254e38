//! Hosts and a store that loses its content, in a few words each.

use serde_json::json;

use super::*;

fn document(generation: u64, name: &str) -> Vec<u8> {
    json!({"kind": "LLMInferenceService", "metadata": {"name": name, "generation": generation}})
        .to_string()
        .into_bytes()
}

fn entry(key: &str, value: Vec<u8>, version: i64) -> Entry {
    Entry { key: key.into(), value, version }
}

/// A host that has seen `k` with this value in the life `one`.
fn host_with(value: Vec<u8>) -> Specs {
    let mut host = Specs::default();
    assert_eq!(host.handle(Event::Put(entry("k", value, 1)), "one"), []);
    assert_eq!(host.handle(Event::Synced, "one"), [Effect::Persist]);
    host
}

fn offer(value: Vec<u8>, seen: Compare) -> Effect {
    Effect::Offer { key: "k".into(), value, seen }
}

fn absent() -> Compare {
    Compare::Absent("k".into())
}

#[test]
fn a_store_that_was_wiped_is_given_back_what_it_had() {
    let mut host = host_with(document(4, "s"));
    // The deletions of a wipe are told like others, but by then the store lives anew.
    assert_eq!(host.handle(Event::Deleted("k".into()), "two"), []);
    let wanted = [Effect::Persist, offer(document(4, "s"), absent())];
    assert_eq!(host.handle(Event::Synced, "two"), wanted);
    assert_eq!(host.handle(Event::Put(entry("k", document(4, "s"), 1)), "two"), []);
    assert!(host.offering.is_empty());
}

#[test]
fn the_highest_generation_wins_whoever_comes_first() {
    let (mut newer, mut older) = (host_with(document(4, "new")), host_with(document(3, "old")));
    for host in [&mut newer, &mut older] {
        host.handle(Event::Deleted("k".into()), "two");
        host.handle(Event::Synced, "two");
    }
    // The older word was first: the newer is offered over it, and nobody offers the older again.
    let first = || Event::Put(entry("k", document(3, "old"), 1));
    let over = Compare::Version("k".into(), 1);
    assert_eq!(newer.handle(first(), "two"), [offer(document(4, "new"), over)]);
    assert_eq!(older.handle(first(), "two"), []);
    let second = || Event::Put(entry("k", document(4, "new"), 2));
    assert_eq!(newer.handle(second(), "two"), []);
    assert_eq!(older.handle(second(), "two"), [Effect::Persist]);
    assert_eq!(newer.book, older.book);
}

#[test]
fn what_was_deleted_leaves_a_tombstone_that_stale_hosts_cannot_pass() {
    let mut stale = host_with(document(4, "s"));
    let mut host = host_with(document(4, "s"));
    let wanted = [Effect::Persist, offer(tombstone(5), absent())];
    assert_eq!(host.handle(Event::Deleted("k".into()), "one"), wanted);
    assert_eq!(host.handle(Event::Put(entry("k", tombstone(5), 1)), "one"), []);
    // The store is wiped; the host that was away comes first.
    host.handle(Event::Deleted("k".into()), "two");
    let wanted = [Effect::Persist, offer(tombstone(5), absent())];
    assert_eq!(host.handle(Event::Synced, "two"), wanted);
    stale.handle(Event::Put(entry("k", tombstone(5), 1)), "two");
    assert_eq!(stale.handle(Event::Synced, "two"), [Effect::Persist]);
    assert_eq!(stale.book, host.book);
}

#[test]
fn a_host_that_was_away_learns_of_a_deletion_in_the_same_life() {
    let mut host = Specs::new(host_with(document(4, "s")).book);
    let wanted = [Effect::Persist, offer(tombstone(5), absent())];
    assert_eq!(host.handle(Event::Synced, "one"), wanted);
    // A tombstone that is removed is forgotten, not put again for ever.
    host.handle(Event::Put(entry("k", tombstone(5), 1)), "one");
    assert_eq!(host.handle(Event::Deleted("k".into()), "one"), [Effect::Persist]);
    assert!(host.book.objects.is_empty());
}

#[test]
fn within_a_life_the_store_is_right_even_with_a_lower_generation() {
    let mut host = host_with(document(4, "s"));
    let lower = Event::Put(entry("k", document(1, "again"), 2));
    assert_eq!(host.handle(lower, "one"), [Effect::Persist]);
    assert_eq!(host.book.objects["k"].generation, 1);
}

#[test]
fn what_cannot_be_read_is_neither_kept_nor_overwritten() {
    let mut host = host_with(document(4, "s"));
    let book = host.book.objects.clone();
    host.handle(Event::Put(entry("k", b"nonsense".to_vec(), 2)), "two");
    assert_eq!(host.handle(Event::Synced, "two"), [Effect::Persist], "the life is new");
    assert_eq!(host.book.objects, book);
}

#[test]
fn there_is_room_for_so_much_and_tombstones_go_first() {
    let mut host = host_with(tombstone(2));
    for n in 1..MOST_OBJECTS {
        host.handle(Event::Put(entry(&format!("o/{n}"), document(1, "s"), 1)), "one");
    }
    assert_eq!(host.book.objects.len(), MOST_OBJECTS);
    let more = Event::Put(entry("p", document(1, "s"), 1));
    assert_eq!(host.handle(more, "one"), [Effect::Persist]);
    assert!(!host.book.objects.contains_key("k"));
    let more = Event::Put(entry("q", document(1, "s"), 1));
    assert_eq!(host.handle(more, "one"), [Effect::Full("q".into())]);
    let huge = document(2, &"x".repeat(MOST_BYTES));
    let more = host.handle(Event::Put(entry("p", huge, 2)), "one");
    assert_eq!(more, [Effect::Persist, Effect::Full("p".into())]);
}
