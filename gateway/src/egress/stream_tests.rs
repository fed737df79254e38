//! The stream's core, event by event.

use std::time::Duration;

use super::*;
use crate::placement::endpoint::tests::info;

/// Every token is a letter; one of `@` and more is held back as if it began a character.
#[derive(Default)]
struct Letters(String);

impl Decode for Letters {
    fn push(&mut self, token: u32) -> String {
        self.0.push(char::from(token as u8));
        if token == u32::from(b'@') { String::new() } else { std::mem::take(&mut self.0) }
    }

    fn finish(&mut self) -> String {
        std::mem::take(&mut self.0)
    }
}

struct Rig {
    core: StreamCore<Letters>,
    now: Instant,
    request: RequestId,
}

fn rig(n: usize, adjust: impl FnOnce(&mut StreamOptions)) -> Rig {
    let request = RequestId::new();
    let now = Instant::now();
    let mut options = StreamOptions {
        request,
        prompt_tokens: 3,
        stop: StopRules::default(),
        end_tokens: BTreeSet::from([u32::from(b'.')]),
        prompt_only: false,
        deadline: now + Duration::from_secs(60),
        resumable: true,
    };
    adjust(&mut options);
    let decoders = std::iter::repeat_with(Letters::default).take(n);
    let mut rig = Rig { core: StreamCore::new(options, decoders), now, request };
    rig.placed(0);
    rig
}

fn endpoint(index: u32) -> EndpointId {
    info("m", index).endpoint
}

fn fingerprint() -> Fingerprint {
    info("m", 0).fingerprint
}

fn tokens(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

impl Rig {
    fn event(&mut self, event: Event) -> Effects {
        self.core.handle(self.now, event)
    }

    fn placed(&mut self, index: u32) {
        self.placed_at(index, fingerprint());
    }

    fn placed_at(&mut self, index: u32, fingerprint: Fingerprint) {
        assert_eq!(self.event(Event::Placed(endpoint(index), fingerprint)).then, Then::Open);
        assert_eq!(self.event(Event::Opened).then, Then::Read);
    }

    fn says(&mut self, choice: u32, position: u32, text: &str) -> Effects {
        self.ends(choice, position, text, None)
    }

    fn ends(
        &mut self,
        choice: u32,
        position: u32,
        text: &str,
        reason: Option<FinishReason>,
    ) -> Effects {
        let usage = Usage { prompt_tokens: 3, cached_tokens: 2, completion_tokens: 9 };
        let chunk = Chunk {
            request: self.request,
            attempt: self.core.attempt(),
            choice,
            position,
            tokens: tokens(text).into(),
            logprobs: vec![],
            prompt_logprobs: vec![],
            cached_tokens: 2,
            embedding: vec![],
            finish: reason.map(|reason| Finished { reason, stop_token: None, usage }),
        };
        self.event(Event::Down(GenerateDown::Chunk(chunk)))
    }

    fn down_failed(&mut self, kind: ErrorKind) -> Effects {
        let error = PublicError::new(kind, "said the leader");
        self.event(Event::Down(GenerateDown::Failed(error)))
    }

    fn fails(&mut self, kind: ErrorKind) -> Effects {
        let error = PublicError::new(kind, "said the leader");
        self.event(Event::Down(GenerateDown::Refused(error)))
    }
}

fn text(effects: &Effects) -> String {
    effects.deltas.iter().map(|delta| delta.text.as_str()).collect()
}

#[test]
fn only_the_next_position_is_taken() {
    let mut rig = rig(1, |_| {});
    assert_eq!(text(&rig.says(0, 0, "ab")), "ab");
    assert_eq!(rig.says(0, 0, "ab").deltas, [], "a repeat");
    assert_eq!(rig.says(0, 1, "bc").deltas, [], "overlaps");
    assert_eq!(text(&rig.says(0, 2, "c")), "c");
    assert_eq!(rig.says(0, 4, "e").then, Then::Place, "what is missing may come from elsewhere");
}

#[test]
fn what_is_held_back_comes_at_the_end() {
    let mut rig = rig(1, |_| {});
    assert_eq!(text(&rig.says(0, 0, "a@")), "a");
    let end = rig.ends(0, 2, "@", Some(FinishReason::Length));
    assert_eq!(text(&end), "@@");
    assert_eq!(end.then, Then::Done);
    let usage = end.deltas[0].end.as_ref().unwrap().usage;
    assert_eq!((usage.completion_tokens, usage.cached_tokens), (3, 2));
}

#[test]
fn an_end_token_counts_but_does_not_show() {
    for (include, shown) in [(false, "a"), (true, "a.")] {
        let mut rig = rig(1, |options| options.stop.include = include);
        assert_eq!(text(&rig.says(0, 0, ".")), ".", "not the end, so it is text");
        let end = rig.ends(0, 1, "a.", Some(FinishReason::Stop));
        assert_eq!(text(&end), shown);
        assert_eq!(end.deltas[0].tokens, tokens("a."));
    }
}

#[test]
fn a_stop_string_ends_its_choice_and_tells_the_leader() {
    let mut rig = rig(2, |options| options.stop.strings = vec!["xy".into()]);
    assert_eq!(text(&rig.says(0, 0, "ax")), "a");
    let stop = rig.says(0, 2, "ybc");
    assert_eq!(text(&stop), "");
    assert_eq!(stop.deltas[0].tokens, tokens("y"), "what follows is not counted");
    let finish = Finish { choice: 0, reason: FinishReason::Stop, tokens_kept: 3 };
    assert_eq!(stop.finishes, [finish]);
    assert_eq!(stop.then, Then::Read, "the other choice goes on");
    assert_eq!(rig.says(0, 5, "d").deltas, [], "the choice is over");
    assert_eq!(rig.core.choices_so_far().len(), 1);
    let last = rig.ends(1, 0, "xy", Some(FinishReason::Length));
    assert_eq!(last.finishes, [], "the leader ended it already");
    assert_eq!(last.deltas[0].end.as_ref().unwrap().reason, FinishReason::Stop);
    assert_eq!(last.then, Then::Done);
}

#[test]
fn a_prompt_by_itself_has_no_output() {
    let mut rig = rig(1, |options| options.prompt_only = true);
    let end = rig.says(0, 0, "a");
    assert_eq!(end.deltas[0].tokens, tokens(""));
    assert_eq!(end.deltas[0].end.as_ref().unwrap().reason, FinishReason::Length);
    assert_eq!(end.finishes[0].tokens_kept, 0);
    assert_eq!(end.then, Then::Done);
}

#[test]
fn before_the_first_token_another_endpoint_is_tried() {
    let mut rig = rig(1, |_| {});
    assert_eq!(rig.fails(ErrorKind::Overloaded).then, Then::Place);
    rig.placed(1);
    assert_eq!(rig.event(Event::Broken("gone".into())).then, Then::Place);
    assert_eq!(rig.core.tried(), &BTreeSet::from([endpoint(0), endpoint(1)]));
    rig.placed(2);
    assert_eq!(rig.core.attempt(), 2);
    assert_eq!(rig.fails(ErrorKind::Overloaded).then, Then::Place);
    rig.placed(3);
    // The one that was lost does not count among those that refused.
    assert_eq!(rig.fails(ErrorKind::Overloaded).then, Then::Place);
    rig.placed(4);
    let last = rig.fails(ErrorKind::Overloaded);
    assert!(matches!(last.then, Then::Fail(error) if error.kind == ErrorKind::Overloaded));
}

#[test]
fn endpoints_that_are_no_longer_the_ones_to_ask_cost_no_attempt() {
    let mut rig = rig(1, |_| {});
    for index in 1..20 {
        assert_eq!(rig.fails(ErrorKind::Unavailable).then, Then::Place);
        rig.placed(index);
    }
    assert_eq!(rig.core.tried().len(), 19);
    assert_eq!(text(&rig.says(0, 0, "a")), "a");
}

#[test]
fn with_nowhere_left_it_waits_for_somebody_who_is_not_full() {
    let mut rig = rig(1, |_| {});
    rig.fails(ErrorKind::Unavailable);
    let nowhere = || Event::Nowhere(PublicError::new(ErrorKind::Unavailable, "no endpoint"));
    assert!(
        matches!(rig.event(nowhere()).then, Then::Hold(why) if why.message == "said the leader")
    );
    rig.placed(1);
    assert_eq!(rig.event(Event::Broken("gone".into())).then, Then::Place);
    assert!(matches!(rig.event(nowhere()).then, Then::Hold(_)));
    let late = PublicError::new(ErrorKind::Unavailable, "nobody came");
    assert_eq!(rig.event(Event::Unheld(late.clone())).then, Then::Fail(late));
}

#[test]
fn with_nobody_else_left_who_was_lost_is_waited_for_too_and_not_for_ever() {
    let mut rig = rig(1, |_| {});
    let nowhere = || Event::Nowhere(PublicError::new(ErrorKind::Unavailable, "no endpoint"));
    rig.says(0, 0, "a");
    for _ in 1..MAX_LOST_IN_VAIN {
        assert_eq!(rig.event(Event::Broken("silent".into())).then, Then::Place);
        assert!(rig.core.tried().contains(&endpoint(0)), "others are asked first");
        assert!(matches!(rig.event(nowhere()).then, Then::Hold(_)));
        assert!(rig.core.tried().is_empty(), "it may come back");
        rig.placed(0);
    }
    assert!(matches!(rig.event(Event::Broken("silent".into())).then, Then::Fail(_)));
}

#[test]
fn with_nowhere_left_the_refusal_is_told() {
    let mut rig = rig(1, |_| {});
    rig.fails(ErrorKind::Overloaded);
    let nowhere = PublicError::new(ErrorKind::Unavailable, "no endpoint");
    let told = rig.event(Event::Nowhere(nowhere)).then;
    assert!(matches!(told, Then::Fail(error) if error.kind == ErrorKind::Overloaded));
}

#[test]
fn what_cannot_help_is_not_tried_again() {
    for kind in [ErrorKind::BadRequest, ErrorKind::DeadlineExceeded] {
        let told = rig(1, |_| {}).fails(kind).then;
        assert!(matches!(told, Then::Fail(error) if error.kind == kind));
    }
    let mut begun = rig(2, |options| options.resumable = false);
    begun.says(1, 0, "a");
    assert!(matches!(begun.event(Event::Broken("gone".into())).then, Then::Fail(_)));
}

#[test]
fn an_output_goes_on_elsewhere_with_what_was_told() {
    let mut rig = rig(3, |options| options.stop.strings = vec!["xy".into()]);
    assert_eq!(rig.core.origin(), None);
    assert_eq!(text(&rig.says(0, 0, "ax")), "a", "the x may begin a stop string");
    rig.ends(1, 0, "b", Some(FinishReason::Length));
    assert_eq!(rig.core.origin(), Some(&fingerprint()));
    assert_eq!(rig.event(Event::Broken("gone".into())).then, Then::Place);
    let choice = |index, output: &str| Choice { index, output: tokens(output) };
    assert_eq!(rig.core.choices_so_far(), [choice(0, "ax"), choice(2, "")], "the open ones");

    rig.placed(1);
    let first = rig.says(2, 0, "c");
    assert_eq!(first.deltas[0].resumed, Some(Fidelity::Exact));
    let stop = rig.says(0, 2, "y");
    assert_eq!((text(&stop).as_str(), stop.deltas[0].resumed), ("", None), "it is told once");
    let end = stop.deltas[0].end.as_ref().unwrap();
    assert_eq!((end.usage.completion_tokens, end.usage.cached_tokens), (3, 2));
    assert_eq!(rig.ends(2, 1, "d", Some(FinishReason::Length)).then, Then::Done);
}

#[test]
fn what_may_differ_from_then_on_is_said() {
    let mut other = fingerprint();
    other.tensor_parallel = 2;
    let mut loose = fingerprint();
    loose.batch_invariant = false;
    for (before, after) in [(fingerprint(), other), (loose.clone(), loose)] {
        let mut rig = rig(1, |_| {});
        rig.event(Event::Placed(endpoint(0), before));
        rig.says(0, 0, "a");
        rig.event(Event::Broken("gone".into()));
        rig.placed_at(1, after);
        assert_eq!(rig.says(0, 1, "b").deltas[0].resumed, Some(Fidelity::Approximate));
    }
}

#[test]
fn the_prompt_is_told_once() {
    let mut rig = rig(1, |_| {});
    let told = |rig: &mut Rig, position| {
        let chunk = Chunk {
            request: rig.request,
            attempt: rig.core.attempt(),
            choice: 0,
            position,
            tokens: tokens("a").into(),
            logprobs: vec![],
            prompt_logprobs: vec![TokenLogprobs::default()],
            cached_tokens: 7 * position,
            embedding: vec![],
            finish: None,
        };
        rig.event(Event::Down(GenerateDown::Chunk(chunk))).deltas[0].prompt_logprobs.len()
    };
    assert_eq!(told(&mut rig, 0), 1);
    rig.event(Event::Broken("gone".into()));
    rig.placed(1);
    assert_eq!(told(&mut rig, 1), 0);
    let end = rig.ends(0, 2, "b", Some(FinishReason::Length));
    assert_eq!(end.deltas[0].end.as_ref().unwrap().usage.cached_tokens, 0);
}

#[test]
fn a_request_that_breaks_every_endpoint_ends() {
    let unavailable = |then| matches!(then, Then::Fail(e) if e.kind == ErrorKind::Unavailable);
    let mut fruitless = rig(1, |_| {});
    for attempt in 1..MAX_LOST_IN_VAIN {
        assert_eq!(fruitless.event(Event::Broken("gone".into())).then, Then::Place);
        fruitless.placed(attempt);
    }
    assert!(unavailable(fruitless.event(Event::Broken("gone".into())).then));

    // However far it comes each time.
    let mut far = rig(1, |_| {});
    for attempt in 1..MAX_LOST {
        far.says(0, attempt - 1, "a");
        assert_eq!(far.event(Event::Broken("gone".into())).then, Then::Place);
        far.placed(attempt);
    }
    far.says(0, MAX_LOST - 1, "a");
    assert!(unavailable(far.event(Event::Broken("gone".into())).then));
}

#[test]
fn endpoints_that_are_lost_after_they_brought_something_are_not_held_against_it() {
    let mut rig = rig(1, |_| {});
    let count = 2 * MAX_LOST_IN_VAIN;
    for attempt in 1..=count {
        rig.says(0, attempt - 1, "a");
        // The leader is gone, or says that one of its members is.
        let lost = match attempt % 2 {
            0 => rig.event(Event::Broken("gone".into())),
            _ => rig.down_failed(ErrorKind::Unavailable),
        };
        assert_eq!(lost.then, Then::Place);
        rig.placed(attempt);
    }
    // What is its own fault counts all the same.
    for attempt in 1..MAX_ATTEMPTS {
        rig.says(0, count + attempt - 1, "a");
        assert_eq!(rig.down_failed(ErrorKind::Internal).then, Then::Place);
        rig.placed(count + attempt);
    }
    assert!(matches!(rig.down_failed(ErrorKind::Internal).then, Then::Fail(_)));
}

#[test]
fn chunks_of_older_attempts_are_dropped() {
    let mut rig = rig(1, |_| {});
    let mut old = Chunk {
        request: rig.request,
        attempt: 0,
        choice: 0,
        position: 0,
        tokens: tokens("z").into(),
        logprobs: vec![],
        prompt_logprobs: vec![],
        cached_tokens: 0,
        embedding: vec![],
        finish: None,
    };
    rig.fails(ErrorKind::Overloaded);
    rig.placed(1);
    assert_eq!(rig.event(Event::Down(GenerateDown::Chunk(old.clone()))).deltas, []);
    old.attempt = 1;
    old.request = RequestId::new();
    assert_eq!(rig.event(Event::Down(GenerateDown::Chunk(old))).deltas, []);
    assert_eq!(text(&rig.says(0, 0, "a")), "a");
}

#[test]
fn time_ends_it_whatever_happens() {
    let mut rig = rig(1, |_| {});
    assert_eq!(rig.event(Event::Tick).then, Then::Read);
    rig.now += Duration::from_secs(60);
    let told = rig.says(0, 0, "a");
    assert_eq!(told.deltas, []);
    assert!(matches!(told.then, Then::Fail(error) if error.kind == ErrorKind::DeadlineExceeded));
}

#[test]
fn a_fault_is_never_an_answer() {
    let mut rig = rig(1, |_| {});
    rig.says(0, 0, "a");
    let told = rig.ends(0, 1, "", Some(FinishReason::Error)).then;
    assert!(matches!(told, Then::Fail(error) if error.kind == ErrorKind::Internal));
}
