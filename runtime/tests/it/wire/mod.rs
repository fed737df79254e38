//! Wire messages: what is sent is what arrives, garbage never panics, and the layout of `troupe/1`
//! does not move.
//!
//! `troupe-1.hex` holds the bytes of every sample as this version's first release wrote them. If a
//! test here fails because a message changed, that is a new wire version (ALPN, and the previous
//! one kept); before a first release, `UPDATE=1` writes the file anew and the diff is reviewed.

mod operate;
mod samples;
mod transfers;

use std::{fmt::Write as _, path::Path};

use proptest::prelude::*;
use rand::RngExt;
use samples::Sample;
use troupe_runtime::wire::{
    self, MAX_MESSAGE_BYTES, WireError,
    generate::{GenerateDown, GenerateUp},
    group::{MemberDown, MemberUp},
    operate::{Change, ObjectName, OperateDown, OperateUp, Run},
};

use crate::fuzz_inputs::{change_bytes, each};

/// Every message of every conversation.
fn samples() -> Vec<Sample> {
    let mut all = samples::samples();
    all.extend(operate::samples());
    all
}

#[test]
fn what_is_sent_is_what_arrives() {
    for sample in samples() {
        sample.round_trip();
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "whoever runs it says whether to write the file")]
fn the_layout_of_this_version_does_not_move() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/wire/troupe-1.hex");
    let mut text = String::new();
    for sample in samples() {
        let _ = write!(text, "{} ", sample.name());
        for byte in sample.bytes() {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap();
    for (ours, theirs) in text.lines().zip(golden.lines()) {
        assert_eq!(ours, theirs, "the layout of a message moved: that is a new wire version");
    }
    assert_eq!(text.lines().count(), golden.lines().count());
}

#[test]
fn lengths_that_validate_but_cannot_be_are_refused() {
    let mut start = samples::generate();
    start.prompt = Vec::new();
    let bytes = wire::encode(&GenerateUp::Start(Box::new(start))).unwrap();
    let error = wire::decode::<GenerateUp>(&bytes).unwrap_err();
    assert!(matches!(&error, WireError::Impossible { why, .. } if why.contains("prompt")));

    let mut plan = samples::plan();
    plan.new[0].span.count = u32::MAX;
    let bytes = wire::encode(&MemberDown::Step(plan)).unwrap();
    assert!(matches!(
        wire::decode::<MemberDown>(&bytes),
        Err(WireError::Impossible { why, .. }) if why.contains("span")
    ));

    let mut start = samples::generate();
    start.options.temperature = f32::NAN;
    let bytes = wire::encode(&GenerateUp::Start(Box::new(start))).unwrap();
    assert!(matches!(wire::decode::<GenerateUp>(&bytes), Err(WireError::Impossible { .. })));
}

#[test]
fn a_name_longer_than_any_is_refused() {
    let object = ObjectName::new("Node", "", "n".repeat(254));
    let what = Box::new(Change::Delete(object));
    let bytes = wire::encode(&OperateUp::Change(what, Run::Real)).unwrap();
    let error = wire::decode::<OperateUp>(&bytes).unwrap_err();
    assert!(matches!(&error, WireError::Impossible { why, .. } if why.contains("object.name")));
}

#[test]
fn a_message_beyond_the_bound_is_refused_unread() {
    let bytes = vec![0; MAX_MESSAGE_BYTES + 1];
    assert!(matches!(wire::decode::<MemberUp>(&bytes), Err(WireError::TooLong { .. })));
}

#[test]
fn a_message_that_an_enemy_changed_is_an_error_or_a_message() {
    let with_bytes = |sample: Sample| {
        let bytes = sample.bytes();
        (sample, bytes)
    };
    let good: Vec<(Sample, Vec<u8>)> = samples().into_iter().map(with_bytes).collect();
    each(30_000, |random| {
        let (sample, bytes) = &good[random.random_range(0..good.len())];
        let mut bytes = bytes.clone();
        for _ in 0..random.random_range(1..6) {
            change_bytes(random, &mut bytes);
        }
        sample.decode_any(&bytes);
        true
    });
}

proptest! {
    #[test]
    fn garbage_is_an_error_or_a_message_and_never_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let _ = wire::decode::<GenerateUp>(&bytes);
        let _ = wire::decode::<GenerateDown>(&bytes);
        let _ = wire::decode::<MemberUp>(&bytes);
        let _ = wire::decode::<MemberDown>(&bytes);
        let _ = wire::decode::<OperateUp>(&bytes);
        let _ = wire::decode::<OperateDown>(&bytes);
    }

    #[test]
    fn a_true_message_with_bytes_changed_never_panics(
        at in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let samples = samples();
        let sample: &Sample = &samples[at.index(samples.len())];
        let mut bytes = sample.bytes();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(1 + cut.index(bytes.len()));
        sample.decode_any(&bytes);
    }
}
