//! The mirror alone: rows, placeholders, drafts, and what does not fit.

use troupe_runtime::wire::step::BlockSwap;

use super::*;

fn new(id: u64, tokens: &[u32], span: Span) -> NewSequence {
    NewSequence {
        sequence: SequenceId(id),
        request: RequestId(uuid::Uuid::from_u128(id.into())),
        tokens: tokens.to_vec(),
        prompt_len: tokens.len() as u32,
        choice: 0,
        seed: 1,
        options: SamplingOptions::default(),
        adapter: None,
        traceparent: None,
        block_tables: vec![vec![BlockId(3), BlockId(1)]],
        span,
    }
}

fn running(appended: &[u32], placeholder: Option<u64>, computed: u32) -> RunningSequence {
    RunningSequence {
        sequence: SequenceId(1),
        appended: appended.into(),
        placeholder: placeholder.map(StepId),
        swaps: vec![],
        new_blocks: vec![vec![]],
        drafts: vec![].into(),
        span: Span { computed, count: 1, sample: true },
    }
}

fn plan(step: u64, running: RunningSequence) -> StepPlan {
    StepPlan { step: StepId(step), running: vec![running], ..StepPlan::default() }
}

/// A mirror that has computed a prompt of three tokens in step 1.
fn with_a_prompt() -> Mirror {
    let mut mirror = Mirror::new(Epoch::default(), 4);
    let span = Span { computed: 0, count: 3, sample: true };
    let new = vec![new(1, &[5, 6, 7], span)];
    let plan = StepPlan { step: StepId(1), new, ..StepPlan::default() };
    let batch = mirror.apply(&plan).expect("fits");
    assert_eq!(
        (batch.tokens.as_slice(), batch.positions.as_slice()),
        (&[5, 6, 7][..], &[0, 1, 2][..])
    );
    assert_eq!(mirror.requests(&plan, &batch)[0].rows, (0, 1));
    mirror
}

fn learned(position: u32, token: u32) -> [SampledAt; 1] {
    [SampledAt { sequence: SequenceId(1), position, token }]
}

#[test]
fn a_new_sequence_then_a_decode_make_the_right_rows() {
    let mut mirror = with_a_prompt();
    let plan = plan(2, running(&[9], None, 3));
    let batch = mirror.apply(&plan).expect("fits");
    assert_eq!((batch.tokens[0], batch.positions[0]), (9, 3));
    assert_eq!(mirror.requests(&plan, &batch)[0].tokens, [5, 6, 7, 9]);
}

#[test]
fn a_placeholder_is_learned_first_and_confirmed_later() {
    let mut mirror = with_a_prompt();
    mirror.learn(&learned(3, 9));
    mirror.learn(&learned(3, 9));
    let batch = mirror.apply(&plan(2, running(&[], Some(1), 3))).expect("fits");
    assert_eq!(batch.tokens, [9]);
    mirror.learn(&learned(4, 10));
    let batch = mirror.apply(&plan(3, running(&[9], Some(2), 4))).expect("fits");
    assert_eq!(batch.tokens, [10]);
    let error = mirror.apply(&plan(4, running(&[11], None, 5))).expect_err("it was 10");
    assert!(error.contains("10 here and 11"), "{error}");
}

#[test]
fn a_rank_that_looks_at_no_tokens_needs_none() {
    let mut mirror = with_a_prompt();
    let batch = mirror.apply(&plan(2, running(&[], Some(1), 3))).expect("fits");
    assert_eq!((batch.tokens.as_slice(), batch.positions.as_slice()), (&[0][..], &[3][..]));
    mirror.apply(&plan(3, running(&[9], Some(2), 4))).expect("the leader's word is enough");
}

#[test]
fn drafts_are_rows_that_leave_no_trace() {
    let mut mirror = with_a_prompt();
    let mut step = running(&[9], None, 3);
    step.drafts = vec![10, 11].into();
    step.span.count = 3;
    let drafted = plan(2, step);
    let batch = mirror.apply(&drafted).expect("fits");
    assert_eq!(
        (batch.tokens.as_slice(), batch.sequences[0].logits),
        (&[9, 10, 11][..], LogitRows::Tail(3))
    );
    let requests = mirror.requests(&drafted, &batch);
    let histories: Vec<_> = requests.iter().map(|request| request.tokens.len()).collect();
    assert_eq!(histories, [4, 5, 6]);
    mirror.drop_drafts(&drafted);
    // Only the first draft was right: the next step begins behind it and what was sampled there.
    let batch = mirror.apply(&plan(3, running(&[10, 12], None, 5))).expect("fits");
    assert_eq!((batch.tokens[0], batch.positions[0]), (12, 5));
}

#[test]
fn a_block_that_gives_way_is_replaced_before_others_are_appended() {
    let mut mirror = with_a_prompt();
    let mut step = running(&[9], None, 3);
    step.swaps = vec![BlockSwap { group: 0, index: 1, block: BlockId(8) }];
    step.new_blocks = vec![vec![BlockId(2)]];
    let batch = mirror.apply(&plan(2, step)).expect("fits");
    assert_eq!(batch.sequences[0].block_tables[0], [BlockId(3), BlockId(8), BlockId(2)]);
    let mut step = running(&[], None, 3);
    step.swaps = vec![BlockSwap { group: 0, index: 9, block: BlockId(8) }];
    assert!(mirror.apply(&plan(3, step)).expect_err("no such place").contains("index: 9"));
}

#[test]
fn what_does_not_fit_is_named() {
    let mut mirror = Mirror::new(Epoch::default(), 4);
    let gap = StepPlan { step: StepId(2), ..StepPlan::default() };
    assert!(mirror.apply(&gap).expect_err("a gap").contains("step 2 after step 0"));
    let epoch = Epoch { number: 9, nonce: 0 };
    let old = StepPlan { epoch, step: StepId(1), ..StepPlan::default() };
    assert!(mirror.apply(&old).expect_err("another epoch").contains("epoch"));
    let span = Span { computed: 0, count: 9, sample: true };
    let plan = StepPlan { step: StepId(1), new: vec![new(1, &[5], span)], ..StepPlan::default() };
    assert!(mirror.apply(&plan).expect_err("too many").contains("0..9"));
}
