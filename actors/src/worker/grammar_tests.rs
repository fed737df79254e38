//! Grammars of sequences: drafts, moves, failures, bounds; with a real vocabulary.

use std::path::Path;

use troupe_runtime::{
    id::StepId,
    model::{
        card::ModelCard,
        source::{ModelAccess, ModelSource},
        tokenizer::SpecialTokens,
    },
    wire::generate::{Reasoning, SamplingOptions},
};

use super::*;

fn card() -> ModelCard {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models/tiny-chat");
    let source = ModelSource::resolve(&folder.to_string_lossy(), &ModelAccess::offline("nowhere"));
    ModelCard::load(&source.expect("a folder")).expect("a model")
}

fn source() -> GrammarSource {
    Arc::new(|| {
        let card = card();
        GrammarFactory::new(&card.tokenizer, &card.stop_ids).map_err(|error| error.to_string())
    })
}

fn options(grammar: Option<Grammar>) -> SamplingOptions {
    SamplingOptions { grammar, ..SamplingOptions::default() }
}

fn request<'a>(id: u64, tokens: &'a [u32], options: &'a SamplingOptions) -> SampleRequest<'a> {
    SampleRequest {
        sequence: SequenceId(id),
        rows: (0, 1),
        sample: true,
        tokens,
        prompt_len: 2,
        computed: 0,
        options,
        seed: 0,
        choice: 0,
        mask: None,
    }
}

fn encode(text: &str) -> Vec<u32> {
    card().tokenizer.encode(text, SpecialTokens::Exclude).expect("a text")
}

fn history(output: &[u32]) -> Vec<u32> {
    [&[1, 2], output].concat()
}

fn allows(allowed: &Allowed, token: u32) -> bool {
    let words = allowed.mask().expect("a mask");
    words.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
}

#[test]
fn drafts_are_followed_and_taken_back() {
    let mut grammars = Grammars::new(Some(source()));
    let options = options(Some(Grammar::Regex("(ab|cd)*!".into())));
    let (a, b, c) = (encode("a")[0], encode("b")[0], encode("c")[0]);
    let histories = [&[][..], &[a], &[a, c], &[a, c, c]].map(history);
    let requests: Vec<_> = histories.iter().map(|tokens| request(1, tokens, &options)).collect();
    let allowed = grammars.masks(&requests);
    assert!(allows(&allowed[0], a) && allows(&allowed[0], c) && !allows(&allowed[0], b));
    assert!(allows(&allowed[1], b) && !allows(&allowed[1], c));
    // Behind the refused draft nothing is kept, so nothing is masked.
    assert_eq!(allowed[2..], [Allowed::All, Allowed::All]);
    // Rejected: the model said `c` where the draft was `a`.
    let kept = history(&[c]);
    let again = grammars.masks(&[request(1, &kept, &options)]);
    let anew = Grammars::new(Some(source())).masks(&[request(1, &kept, &options)]);
    assert_eq!(again, anew);
    assert!(!allows(&again[0], b));
}

#[test]
fn a_history_from_elsewhere_gives_the_same_mask() {
    let schema = r#"{"type": "object", "properties": {"a": {"enum": [1, 2]}}}"#;
    let options = options(Some(Grammar::JsonSchema(schema.into())));
    let output = encode(r#"{"a": 1}"#);
    let mut stepwise = Grammars::new(Some(source()));
    for len in 0..=output.len() {
        let tokens = history(&output[..len]);
        let mine = stepwise.masks(&[request(7, &tokens, &options)]);
        let moved = Grammars::new(Some(source())).masks(&[request(3, &tokens, &options)]);
        assert_eq!(mine, moved, "after {len} tokens");
    }
    let complete = stepwise.masks(&[request(7, &history(&output), &options)]);
    let ends = card().stop_ids;
    assert!(ends.iter().all(|&end| allows(&complete[0], end)));
    let words = complete[0].mask().expect("a mask");
    assert_eq!(words.iter().map(|word| word.count_ones()).sum::<u32>() as usize, ends.len());
}

#[test]
fn a_grammar_begins_behind_reasoning() {
    let token = |name: &str| card().tokenizer.id(name).expect("it has this token");
    let (open, close) = (token("<think>"), token("</think>"));
    let (a, b, c) = (encode("a")[0], encode("b")[0], encode("c")[0]);
    let held = |inside: bool| {
        let mut options = options(Some(Grammar::Regex("ab".into())));
        options.reasoning = Some(Reasoning { open, close, inside });
        options
    };
    let masks = |options: &SamplingOptions, outputs: &[&[u32]]| {
        let histories: Vec<_> = outputs.iter().map(|output| history(output)).collect();
        let requests: Vec<_> = histories.iter().map(|tokens| request(1, tokens, options)).collect();
        let together = Grammars::new(Some(source())).masks(&requests);
        // As drafts, and one after the other as a sequence that comes from elsewhere each time.
        for (request, mask) in requests.iter().zip(&together) {
            let alone = Grammars::new(Some(source())).masks(std::slice::from_ref(request));
            assert_eq!(alone[0], *mask, "{:?}", request.tokens);
        }
        together
    };
    // It may reason first, and does.
    let outputs: [&[u32]; 5] = [&[], &[open], &[open, c], &[open, c, close], &[open, c, close, a]];
    let allowed = masks(&held(false), &outputs);
    assert!(allows(&allowed[0], open) && allows(&allowed[0], a) && !allows(&allowed[0], b));
    assert_eq!(allowed[1..3], [Allowed::All, Allowed::All]);
    assert!(!allows(&allowed[3], open) && allows(&allowed[3], a) && !allows(&allowed[3], b));
    assert!(!allows(&allowed[4], a) && allows(&allowed[4], b));
    // It does not.
    let allowed = masks(&held(false), &[&[a]]);
    assert!(!allows(&allowed[0], open) && allows(&allowed[0], b));
    // The prompt has begun it.
    let allowed = masks(&held(true), &[&[], &[c], &[c, close]]);
    assert_eq!(allowed[..2], [Allowed::All, Allowed::All]);
    assert!(!allows(&allowed[2], open) && allows(&allowed[2], a));
    // Where a token is wrong is told as a place in the whole output.
    let wrong = history(&[open, c, close, b]);
    let failed = Grammars::new(Some(source())).masks(&[request(1, &wrong, &held(false))]);
    assert!(matches!(&failed[0], Allowed::Failed(why) if why.contains("position 3")), "{failed:?}");
}

#[test]
fn what_breaks_fails_alone() {
    let mut grammars = Grammars::new(Some(source()));
    let good = options(Some(Grammar::Regex("a+".into())));
    let bad = options(Some(Grammar::Regex("(".into())));
    let free = options(None);
    let (a, b) = (encode("a")[0], encode("b")[0]);
    let (fine, wrong) = (history(&[a]), history(&[b]));
    let requests = [
        request(1, &fine, &good),
        request(2, &wrong, &good),
        request(3, &fine, &bad),
        request(4, &wrong, &free),
    ];
    let allowed = grammars.masks(&requests);
    assert!(allows(&allowed[0], a));
    let Allowed::Failed(why) = &allowed[1] else { panic!("{:?}", allowed[1]) };
    assert!(why.contains(&format!("token {b}")), "{why}");
    assert!(matches!(&allowed[2], Allowed::Failed(why) if why.contains("regular expression")));
    assert_eq!(allowed[3], Allowed::All);
    let mut sampled = vec![Sampled { token: Some(a), ..Sampled::default() }; 4];
    fail(&allowed, &mut sampled);
    let failed: Vec<bool> = sampled.iter().map(|sampled| sampled.failed.is_some()).collect();
    assert_eq!(failed, [false, true, true, false]);
    assert_eq!(sampled[1].token, None);
    let without = Grammars::new(None).masks(&requests[..1]);
    assert!(matches!(&without[0], Allowed::Failed(why) if why.contains("no grammars")));
}

#[test]
fn the_finished_are_forgotten_and_grammars_are_bounded() {
    let mut grammars = Grammars::new(Some(source()));
    let tokens = history(&[]);
    for id in 0..2 * MAX_COMPILED as u64 {
        let options = options(Some(Grammar::Regex(format!("a{{{}}}", id + 1))));
        grammars.masks(&[request(id, &tokens, &options)]);
    }
    assert_eq!(grammars.compiled.len(), MAX_COMPILED);
    assert_eq!(grammars.followed.len(), 2 * MAX_COMPILED);
    let finished = (0..2 * MAX_COMPILED as u64).map(SequenceId).collect();
    grammars.begin(&StepPlan { step: StepId(1), finished, ..StepPlan::default() });
    assert!(grammars.followed.is_empty());
}
