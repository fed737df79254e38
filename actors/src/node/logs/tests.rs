//! Logs that turn over, grow old, and are read while they are written.

use troupe_runtime::id::{Epoch, GroupId};

use super::{sink::PART_BYTES, *};
use crate::node::core::MemberKey;

fn key(service: &str, epoch: u64, member: u32) -> MemberKey {
    let group = GroupId { namespace: "default".into(), service: service.into(), index: 0 };
    MemberKey { group, epoch: Epoch { number: epoch, nonce: 0xabc }, member }
}

fn shelf() -> (tempfile::TempDir, Shelf) {
    let dir = tempfile::tempdir().expect("a folder");
    let shelf = Shelf::new(dir.path());
    (dir, shelf)
}

#[tokio::test]
async fn what_a_member_says_is_read_from_the_last_lines_on() {
    let (_dir, shelf) = shelf();
    let key = key("a-b", 3, 1);
    let mut own = Vec::new();
    let said = b"one\ntwo\nthree\nunfinished";
    copy(&said[..], Some(shelf.begin(&key).expect("begun")), &mut own);
    assert_eq!(own, b"one\ntwo\nthree\nunfinished\n", "and the node's own log has it too");

    let logs = shelf.list().await.expect("listed");
    assert_eq!(logs.len(), 1);
    assert_eq!((&logs[0].key, logs[0].bytes), (&key, own.len() as u64));

    let (last, mut follow) = shelf.open(&key, 2).await.expect("opened");
    assert_eq!(last, ["three", "unfinished"]);
    let mut sink = shelf.begin(&key).expect("gone on with");
    sink.add(b"four\n").expect("added");
    assert_eq!(follow.next().await.expect("read"), Some(vec!["four".to_owned()]));
    let (all, _) = shelf.open(&key, 100).await.expect("opened");
    assert_eq!(all, ["one", "two", "three", "unfinished", "four"]);
    let (none, _) = shelf.open(&key, 0).await.expect("opened");
    assert!(none.is_empty());
}

#[tokio::test]
async fn a_full_part_turns_over_under_a_reader_that_misses_nothing() {
    let (_dir, shelf) = shelf();
    let key = key("s", 1, 0);
    let mut sink = shelf.begin(&key).expect("begun");
    sink.add(b"first\n").expect("added");
    let (last, mut follow) = shelf.open(&key, 10).await.expect("opened");
    assert_eq!(last, ["first"]);
    let line = vec![b'x'; 1 << 20];
    let lines = 2 * PART_BYTES / (1 << 20) + 3;
    let mut read = 0;
    for number in 0..lines {
        let mut line = line.clone();
        line.extend(format!("{number}\n").bytes());
        sink.add(&line).expect("added");
        for line in follow.next().await.expect("read").expect("it is there") {
            assert!(line.ends_with(&format!("x{read}")), "line {read}");
            read += 1;
        }
    }
    while read < lines {
        let more = follow.next().await.expect("read").expect("it is there");
        read += more.len() as u64;
    }
    let bytes = shelf.list().await.expect("listed")[0].bytes;
    assert!(bytes > PART_BYTES && bytes <= 2 * PART_BYTES, "{bytes}");
    let (last, _) = shelf.open(&key, PART_BYTES as usize).await.expect("opened");
    assert!(last.len() > 8 && last.last().is_some_and(|line| line.ends_with("x18")));
}

#[tokio::test]
async fn old_incarnations_go_and_others_stay() {
    let (_dir, shelf) = shelf();
    for epoch in 1..=9 {
        for member in 0..2 {
            shelf.begin(&key("s", epoch, member)).expect("begun").add(b"x\n").expect("added");
        }
    }
    shelf.begin(&key("other", 1, 0)).expect("begun");
    let logs = shelf.list().await.expect("listed");
    let epochs = |service: &str| {
        let of = logs.iter().filter(|log| log.key.group.service == service);
        of.map(|log| (log.key.epoch.number, log.key.member)).collect::<Vec<_>>()
    };
    assert_eq!(epochs("s"), [(6, 0), (6, 1), (7, 0), (7, 1), (8, 0), (8, 1), (9, 0), (9, 1)]);
    assert_eq!(epochs("other"), [(1, 0)]);

    // Whatever else there is goes when all of it is too much.
    shelf.drop_old(&key("other", 1, 0), 0).expect("dropped");
    let logs = shelf.list().await.expect("listed");
    assert!(logs.iter().all(|log| log.key.group.service == "other"), "{logs:?}");
}

#[tokio::test]
async fn what_is_no_log_is_no_log() {
    let (dir, shelf) = shelf();
    assert!(shelf.list().await.expect("nothing there yet").is_empty());
    shelf.begin(&key("s", 1, 0)).expect("begun");
    let folder = dir.path().join("logs/default/s-0");
    std::fs::write(folder.join("notes.txt"), "x").expect("written");
    std::fs::write(folder.join("1-zz-0.log"), "x").expect("written");
    std::fs::write(dir.path().join("logs/stray"), "x").expect("written");
    assert_eq!(shelf.list().await.expect("listed").len(), 1);
    for name in ["..", "a/b", "", ".hidden"] {
        let error = shelf.open(&key(name, 1, 0), 1).await.expect_err("no name of a folder");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{name}");
    }
    let error = shelf.open(&key("s", 2, 0), 1).await.expect_err("there is none");
    assert!(error.to_string().contains("2-abc-0.log"), "{error}");
}
