//! A group's life from scripts of events.

use troupe_runtime::id::{Epoch, GroupId};
use uuid::Uuid;

use super::*;

const HERE: NodeId = NodeId(Uuid::nil());

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
        adapters: vec![],
    }
}

const AT: Duration = Duration::from_secs(1);

fn two_members() -> Group {
    Group::new(AT, hello(0), vec![vec![rank(0)], vec![rank(1)]], Deadlines::default())
}

fn serving() -> Group {
    let mut group = two_members();
    for member in [1, 0] {
        group.handle(AT, GroupEvent::Hello(door(member), HERE, hello(member)));
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
    assert!(group.handle(AT, GroupEvent::Hello(door(1), HERE, hello(1))).is_empty());
    let effects = group.handle(AT, GroupEvent::Hello(door(0), HERE, hello(0)));
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
        let effects = group.handle(AT, GroupEvent::Hello(7, HERE, stranger));
        assert!(matches!(&effects[..], [GroupEffect::Refuse(7, _)]), "{effects:?}");
        assert_eq!(group.member_at(7), None);
        assert!(group.handle(AT, GroupEvent::Loaded(7, vec![report(1, 9)])).is_empty());
        assert!(group.handle(AT, GroupEvent::Lost(7, "it left".into())).is_empty());
    }
    let mut group = serving();
    let again = group.handle(AT, GroupEvent::Hello(8, HERE, hello(1)));
    assert!(matches!(&again[..], [GroupEffect::Refuse(8, _)]));
    assert!(group.handle(AT, GroupEvent::Lost(8, "it left".into())).is_empty());
    assert_eq!((group.phase(), group.member_at(door(1))), (Phase::Serving, Some(1)));
}

#[test]
fn a_member_comes_from_its_own_host() {
    let there = NodeId(Uuid::from_u128(2));
    let mut group = two_members().on(vec![HERE, there]);
    let effects = group.handle(AT, GroupEvent::Hello(door(1), HERE, hello(1)));
    let [GroupEffect::Refuse(_, why)] = &effects[..] else { panic!("{effects:?}") };
    assert!(why.contains("member 1 is not on host"), "{why}");
    assert!(group.handle(AT, GroupEvent::Hello(door(0), HERE, hello(0))).is_empty());
    let effects = group.handle(AT, GroupEvent::Hello(7, there, hello(1)));
    assert!(matches!(&effects[..], [GroupEffect::Form(_)]), "{effects:?}");
}

#[test]
fn one_member_lost_is_all_lost_at_once() {
    let mut group = serving();
    let effects = group.handle(AT, GroupEvent::Lost(door(1), "killed".into()));
    let cause = "member 1 is lost: killed".into();
    let blame = Some((1, Fault::Ended));
    assert_eq!(effects, [GroupEffect::Over(Over { cause, blame })]);
    assert!(group.handle(AT, GroupEvent::Tick).is_empty(), "told once");
}

#[test]
fn a_step_without_end_names_the_ranks_still_at_it() {
    let mut group = serving();
    group.handle(AT, GroupEvent::Planned(StepId(1), 1));
    group.handle(AT, through(0, 1));
    assert!(group.handle(AT + Duration::from_secs(29), GroupEvent::Tick).is_empty());
    let effects = group.handle(AT + Duration::from_secs(31), GroupEvent::Tick);
    let [GroupEffect::Over(over)] = effects.as_slice() else { panic!("{effects:?}") };
    let Over { cause, blame } = over;
    assert!(cause.contains("stage1") && !cause.contains("stage0"), "{cause}");
    assert_eq!(*blame, Some((1, Fault::Hung)));
}

/// A rank is through a step, in which it was silent for 5 ms at most.
fn through(stage: u32, step: u64) -> GroupEvent {
    GroupEvent::Progress(Progress {
        rank: rank(stage),
        step: StepId(step),
        compute_us: 9_000,
        idle_us: 0,
        waited_us: 0,
        silence_us: 5_000,
    })
}

fn pulse(stage: u32, beats: u64) -> GroupEvent {
    GroupEvent::Pulse(vec![RankPulse { rank: rank(stage), beats }])
}

#[test]
fn a_rank_that_is_silent_within_a_step_is_found_in_two_seconds() {
    let mut group = serving();
    let at = |ms| AT + Duration::from_millis(ms);
    group.handle(AT, GroupEvent::Planned(StepId(1), 1));
    for stage in [0, 1] {
        group.handle(at(10), through(stage, 1));
    }
    group.handle(at(10), GroupEvent::Done(StepId(1)));
    // The next step is long: its second stage says for six seconds that it goes on.
    group.handle(at(20), GroupEvent::Planned(StepId(2), 1));
    group.handle(at(30), through(0, 2));
    for ms in (250..6000).step_by(250) {
        group.handle(at(ms), pulse(1, ms));
        assert!(group.handle(at(ms + 100), GroupEvent::Tick).is_empty(), "at {ms} ms");
    }
    // Then it says the same number again and again, which says nothing.
    let mut now = 6000;
    let over = loop {
        group.handle(at(now), pulse(1, 5750));
        let effects = group.handle(at(now), GroupEvent::Tick);
        if let [GroupEffect::Over(over)] = effects.as_slice() {
            break over.clone();
        }
        now += 100;
    };
    assert!(now < 5750 + 2000, "found after {} ms", now - 5750);
    assert!(over.cause.contains("stage1"), "{over:?}");
    assert_eq!(over.blame, Some((1, Fault::Hung)));
}

#[test]
fn of_ranks_that_wait_for_each_other_the_one_behind_is_to_blame() {
    let ranks = [0, 1, 2].map(|tp| Coordinate { dp: 0, stage: 0, tp });
    let members = ranks.map(|rank| vec![rank]).to_vec();
    let mut group = Group::new(AT, hello(0), members, Deadlines::default());
    for member in 0..3 {
        group.handle(AT, GroupEvent::Hello(door(member), HERE, hello(member)));
    }
    for (member, rank) in (0..).zip(ranks) {
        group.handle(
            AT,
            GroupEvent::Loaded(door(member), vec![RankReport { rank, ..report(0, 9) }]),
        );
    }
    let at = |ms| AT + Duration::from_millis(ms);
    group.handle(AT, GroupEvent::Planned(StepId(1), 1));
    for rank in ranks {
        let GroupEvent::Progress(progress) = through(0, 1) else { panic!() };
        group.handle(AT, GroupEvent::Progress(Progress { rank, ..progress }));
    }
    group.handle(AT, GroupEvent::Done(StepId(1)));
    group.handle(AT, GroupEvent::Planned(StepId(2), 1));
    let pulses = ranks.map(|rank| RankPulse { rank, beats: 40 - u64::from(rank.tp == 1) });
    group.handle(at(100), GroupEvent::Pulse(pulses.to_vec()));
    assert!(group.handle(at(1400), GroupEvent::Tick).is_empty());
    let effects = group.handle(at(1600), GroupEvent::Tick);
    let [GroupEffect::Over(over)] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(over.blame, Some((1, Fault::Hung)));
}

#[test]
fn a_rank_that_becomes_slow_ends_the_group_and_is_named() {
    let mut group = serving();
    let mut now = AT;
    for step in 1..1000 {
        group.handle(now, GroupEvent::Planned(StepId(step), 1));
        for stage in [0, 1] {
            let slow = stage == 1 && step > 100;
            let compute_us = if slow { 150_000 } else { 10_000 };
            now += Duration::from_micros(compute_us);
            let GroupEvent::Progress(progress) = through(stage, step) else { panic!() };
            let progress = GroupEvent::Progress(Progress { compute_us, ..progress });
            if let [GroupEffect::Over(over)] = group.handle(now, progress).as_slice() {
                assert!(over.cause.contains("stage1") && over.cause.contains("slow"), "{over:?}");
                assert_eq!(over.blame, Some((1, Fault::Slow)));
                return;
            }
        }
        group.handle(now, GroupEvent::Done(StepId(step)));
    }
    panic!("it is slow");
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
    group.handle(AT, GroupEvent::Hello(door(0), HERE, hello(0)));
    let effects = group.handle(AT + Duration::from_secs(62), GroupEvent::Tick);
    let [GroupEffect::Over(over)] = effects.as_slice() else { panic!("{effects:?}") };
    assert!(over.cause.contains("[1]"), "{over:?}");
    assert_eq!(over.blame, None);
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
