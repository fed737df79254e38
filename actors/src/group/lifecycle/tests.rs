//! A group's life from scripts of events.

use troupe_runtime::id::{Epoch, GroupId};

use super::*;

fn hello(member: u32) -> Hello {
    Hello {
        group: GroupId { namespace: "default".into(), service: "s".into(), index: 0 },
        epoch: Epoch { number: 3, nonce: 1 },
        member,
        address: format!("local://{member}"),
    }
}

/// The door through which a member comes.
fn door(member: u32) -> Door {
    100 + u64::from(member)
}

fn rank(stage: u32) -> Coordinate {
    Coordinate { dp: 0, stage, tp: 0 }
}

fn report(stage: u32, blocks: u32) -> RankReport {
    RankReport {
        rank: rank(stage),
        weight_bytes_sharded: 0,
        weight_bytes_replicated: 0,
        replicated: vec![],
        blocks: vec![blocks],
        block_bytes: vec![1],
        kernel_path: String::new(),
        kv: vec![],
    }
}

const AT: Duration = Duration::from_secs(1);

fn two_members() -> Group {
    Group::new(AT, hello(0), vec![vec![rank(0)], vec![rank(1)]], Deadlines::default())
}

fn serving() -> Group {
    let mut group = two_members();
    for member in [1, 0] {
        group.handle(AT, GroupEvent::Hello(door(member), hello(member)));
    }
    for member in [0, 1] {
        group.handle(AT, GroupEvent::Loaded(door(member), vec![report(member, 9)]));
    }
    assert_eq!(group.phase(), Phase::Serving);
    group
}

#[test]
fn forms_when_all_are_there_and_starts_with_the_least_room() {
    let mut group = two_members();
    assert!(group.handle(AT, GroupEvent::Hello(door(1), hello(1))).is_empty());
    let effects = group.handle(AT, GroupEvent::Hello(door(0), hello(0)));
    let [GroupEffect::Form(formation)] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(formation.members[1].address, "local://1");
    assert!(group.handle(AT, GroupEvent::Loaded(door(1), vec![report(1, 7)])).is_empty());
    let effects = group.handle(AT, GroupEvent::Loaded(door(0), vec![report(0, 9)]));
    assert!(matches!(&effects[..], [GroupEffect::Start(blocks, _)] if *blocks == [7]));
}

#[test]
fn turns_away_who_does_not_belong_and_what_it_says_afterwards() {
    let mut group = two_members();
    let old = Hello { epoch: Epoch { number: 2, nonce: 1 }, ..hello(1) };
    for stranger in [old, hello(5)] {
        let effects = group.handle(AT, GroupEvent::Hello(7, stranger));
        assert!(matches!(&effects[..], [GroupEffect::Refuse(7, _)]), "{effects:?}");
        assert_eq!(group.member_at(7), None);
        assert!(group.handle(AT, GroupEvent::Loaded(7, vec![report(1, 9)])).is_empty());
        assert!(group.handle(AT, GroupEvent::Lost(7, "it left".into())).is_empty());
    }
    let mut group = serving();
    let again = group.handle(AT, GroupEvent::Hello(8, hello(1)));
    assert!(matches!(&again[..], [GroupEffect::Refuse(8, _)]));
    assert!(group.handle(AT, GroupEvent::Lost(8, "it left".into())).is_empty());
    assert_eq!((group.phase(), group.member_at(door(1))), (Phase::Serving, Some(1)));
}

#[test]
fn one_member_lost_is_all_lost_at_once() {
    let mut group = serving();
    let effects = group.handle(AT, GroupEvent::Lost(door(1), "killed".into()));
    assert_eq!(effects, [GroupEffect::Over("member 1 is lost: killed".into())]);
    assert!(group.handle(AT, GroupEvent::Tick).is_empty(), "told once");
}

#[test]
fn a_step_without_end_names_the_ranks_still_at_it() {
    let mut group = serving();
    group.handle(AT, GroupEvent::Planned(StepId(1), 1));
    let progress = Progress { rank: rank(0), step: StepId(1), compute_us: 5, idle_us: 0 };
    group.handle(AT, GroupEvent::Progress(progress));
    assert!(group.handle(AT + Duration::from_secs(29), GroupEvent::Tick).is_empty());
    let effects = group.handle(AT + Duration::from_secs(31), GroupEvent::Tick);
    let [GroupEffect::Over(cause)] = effects.as_slice() else { panic!("{effects:?}") };
    assert!(cause.contains("stage1") && !cause.contains("stage0"), "{cause}");
}

#[test]
fn a_step_that_is_done_is_not_late() {
    let mut group = serving();
    group.handle(AT, GroupEvent::Planned(StepId(1), 1));
    group.handle(AT, GroupEvent::Done(StepId(1)));
    assert!(group.handle(AT + Duration::from_secs(99), GroupEvent::Tick).is_empty());
}

#[test]
fn forming_has_a_deadline_that_names_who_is_missing() {
    let mut group = two_members();
    group.handle(AT, GroupEvent::Hello(door(0), hello(0)));
    let effects = group.handle(AT + Duration::from_secs(62), GroupEvent::Tick);
    let [GroupEffect::Over(cause)] = effects.as_slice() else { panic!("{effects:?}") };
    assert!(cause.contains("[1]"), "{cause}");
}

#[test]
fn a_long_prompt_is_no_hang() {
    let mut group = serving();
    group.handle(AT, GroupEvent::Planned(StepId(1), 2000));
    let after = |seconds| AT + Duration::from_secs(seconds);
    assert!(group.handle(after(900), GroupEvent::Tick).is_empty(), "nothing was measured yet");
    group.handle(after(900), GroupEvent::Done(StepId(1)));
    group.handle(after(900), GroupEvent::Planned(StepId(2), 2000));
    let measured = 900 * 20;
    assert!(group.handle(after(900 + measured - 1), GroupEvent::Tick).is_empty());
    let over = group.handle(after(900 + measured + 1), GroupEvent::Tick);
    assert!(matches!(over.as_slice(), [GroupEffect::Over(_)]), "{over:?}");
}
