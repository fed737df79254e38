//! What the filters leave, against goldens, and the small laws of each part.

use proptest::prelude::*;
use troupe_runtime::{id::SequenceId, wire::generate::SamplingOptions};

use super::*;

/// A request for the next token after `tokens`.
fn request<'a>(
    options: &'a SamplingOptions,
    tokens: &'a [u32],
    prompt_len: usize,
) -> SampleRequest<'a> {
    SampleRequest {
        sequence: SequenceId::default(),
        rows: (0, 1),
        sample: true,
        tokens,
        prompt_len,
        computed: tokens.len().saturating_sub(1),
        options,
        seed: 1,
        choice: 0,
        mask: None,
    }
}

/// What would be drawn from, as (id, probability) with the likeliest first.
fn survivors(request: &SampleRequest<'_>, logits: &[f32]) -> Vec<(u32, f64)> {
    let mut row = logits.to_vec();
    let mut scratch = Scratch::default();
    if adjust::needed(request) {
        adjust::apply(request, &mut row, &mut scratch);
    }
    let max = scan::maximum(&row).expect("usable logits");
    if max == f32::NEG_INFINITY {
        return Vec::new();
    }
    choose::weigh(request, &mut row, max, &mut scratch);
    let total: f64 = row.iter().map(|&weight| f64::from(weight)).sum();
    let mut kept: Vec<(u32, f64)> = (0..)
        .zip(&row)
        .filter(|(_, weight)| **weight > 0.0)
        .map(|(token, &weight)| (token, f64::from(weight) / total))
        .collect();
    kept.sort_by(|a, b| b.1.total_cmp(&a.1));
    kept
}

fn golden() -> serde_json::Value {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/sampling_golden.json");
    let text = std::fs::read_to_string(file).expect("the sampling goldens are committed");
    serde_json::from_str(&text).expect("they are JSON")
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("token ids")
}

fn options(params: &serde_json::Value) -> SamplingOptions {
    let number = |name: &str, default: f32| params[name].as_f64().map_or(default, |x| x as f32);
    let bias = params["logit_bias"].as_object().into_iter().flatten();
    SamplingOptions {
        temperature: number("temperature", 1.0),
        top_p: number("top_p", 1.0),
        top_k: number("top_k", 0.0) as u32,
        min_p: number("min_p", 0.0),
        presence_penalty: number("presence_penalty", 0.0),
        frequency_penalty: number("frequency_penalty", 0.0),
        repetition_penalty: number("repetition_penalty", 1.0),
        logit_bias: bias
            .map(|(id, x)| (id.parse().expect("an id"), x.as_f64().expect("a bias") as f32))
            .collect(),
        ..SamplingOptions::default()
    }
}

#[test]
fn golden_cases_leave_the_same_tokens_with_the_same_probabilities() {
    let golden = golden();
    let mut cases = 0;
    for entry in golden["entries"].as_array().expect("entries") {
        let mut tokens = ids(&entry["prompt_ids"]);
        let prompt_len = tokens.len();
        tokens.extend(ids(&entry["output_ids_so_far"]));
        let logits: Vec<f32> = serde_json::from_value(entry["logits"].clone()).expect("logits");
        for case in entry["cases"].as_array().expect("cases") {
            let what = format!("{} {} {}", entry["model"], entry["prompt"], case["params"]);
            let options = options(&case["params"]);
            let request = request(&options, &tokens, prompt_len);
            let listed: Vec<(u32, f64)> =
                serde_json::from_value(case["probs"].clone()).expect("probs");
            if options.temperature == 0.0 {
                let sampled = sample(&request, &mut logits.clone(), &mut Scratch::default());
                assert_eq!(sampled.token, Some(listed[0].0), "{what}");
            } else {
                let kept = survivors(&request, &logits);
                assert_eq!(kept.len() as u64, case["kept"].as_u64().expect("kept"), "{what}");
                for (&(token, probability), &(wanted, reference)) in kept.iter().zip(&listed) {
                    assert_eq!(token, wanted, "{what}");
                    assert!((probability / reference - 1.0).abs() < 1e-5, "{what}: token {token}");
                }
            }
            cases += 1;
        }
    }
    assert!(cases >= 100, "only {cases} cases");
}

#[test]
fn equal_tokens_at_the_kth_place_all_stay() {
    let options = SamplingOptions { top_k: 2, ..SamplingOptions::default() };
    let kept = survivors(&request(&options, &[0], 1), &[1.0, 3.0, 2.0, 2.0, 0.0]);
    assert_eq!(kept.iter().map(|&(token, _)| token).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn equal_tokens_enter_a_nucleus_by_id() {
    let options = SamplingOptions { top_p: 0.5, ..SamplingOptions::default() };
    let kept = survivors(&request(&options, &[0], 1), &[1.0; 8]);
    assert_eq!(kept.iter().map(|&(token, _)| token).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn extreme_options_keep_the_likeliest() {
    let base = SamplingOptions::default();
    let extremes = [
        SamplingOptions { top_p: 0.0, ..base.clone() },
        SamplingOptions { top_p: -1.0, ..base.clone() },
        SamplingOptions { min_p: 1.0, ..base.clone() },
        SamplingOptions { min_p: 7.0, ..base.clone() },
        SamplingOptions { top_k: 1, ..base.clone() },
        SamplingOptions { temperature: 1.1e-5, ..base },
    ];
    for options in extremes {
        let kept = survivors(&request(&options, &[0], 1), &[0.5, -3.0, 2.0, f32::NEG_INFINITY]);
        assert_eq!(kept[0].0, 2, "{options:?}");
        let others: f64 = kept[1..].iter().map(|&(_, probability)| probability).sum();
        assert!(others < 1e-30, "{options:?}");
    }
}

#[test]
fn bans_leave_what_is_allowed() {
    let base = SamplingOptions {
        eos_token_ids: vec![0],
        stop_token_ids: vec![1],
        ..SamplingOptions::default()
    };
    let logits = [9.0, 8.0, 7.0, 6.0, 5.0];
    let kept = |options: &SamplingOptions, tokens: &[u32], mask: Option<&[u32]>| {
        let request = SampleRequest { mask, ..request(options, tokens, 1) };
        let mut ids: Vec<u32> = survivors(&request, &logits).iter().map(|kept| kept.0).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(kept(&base, &[4], None), [0, 1, 2, 3, 4]);

    let min_tokens = SamplingOptions { min_tokens: 2, ..base.clone() };
    assert_eq!(kept(&min_tokens, &[4, 4], None), [2, 3, 4]);
    assert_eq!(kept(&min_tokens, &[4, 4, 4], None), [0, 1, 2, 3, 4]);

    let allowed = SamplingOptions { allowed_token_ids: vec![3, 1, 3, 99], ..base.clone() };
    assert_eq!(kept(&allowed, &[4], None), [1, 3]);

    let words = vec![vec![2], vec![4, 3], vec![1, 2, 0], vec![], vec![99]];
    let bad_words = SamplingOptions { bad_words: words, ..base.clone() };
    assert_eq!(kept(&bad_words, &[4], None), [0, 1, 3, 4], "the prompt does not count");
    assert_eq!(kept(&bad_words, &[4, 4], None), [0, 1, 4]);
    assert_eq!(kept(&bad_words, &[4, 1, 2], None), [1, 3, 4]);

    assert_eq!(kept(&base, &[4], Some(&[0b10110])), [1, 2, 4]);
    assert_eq!(kept(&base, &[4], Some(&[])), Vec::<u32>::new());
}

#[test]
fn penalties_leave_no_trace_in_the_scratch() {
    let options = SamplingOptions {
        repetition_penalty: 1.5,
        frequency_penalty: 0.5,
        presence_penalty: 0.25,
        ..SamplingOptions::default()
    };
    let request = request(&options, &[0, 1, 1, 2, 2, 77], 2);
    let mut scratch = Scratch::default();
    for _ in 0..2 {
        let mut row = [3.0, 3.0, -3.0, 3.0];
        adjust::apply(&request, &mut row, &mut scratch);
        assert_eq!(row, [2.0, 2.0 - 0.75, -4.5 - 1.25, 3.0]);
        assert!(scratch.seen.iter().all(|&mark| mark == 0));
    }
}

#[test]
fn plain_greedy_needs_no_memory() {
    let options = SamplingOptions { temperature: 0.0, ..SamplingOptions::default() };
    let mut scratch = Scratch::default();
    let sampled = sample(&request(&options, &[0, 1], 1), &mut [1.0, 2.0, 0.0], &mut scratch);
    assert_eq!(sampled.token, Some(1));
    let Scratch { raw, seen, maxima, values, bins, keys, sums } = scratch;
    assert_eq!(raw.capacity() + maxima.capacity() + values.capacity(), 0);
    assert_eq!(seen.capacity() + bins.capacity() + keys.capacity() + sums.capacity(), 0);
}

// === against plain versions ===

/// The definition of the filters by sorting everything, in double precision.
fn sorted_survivors(options: &SamplingOptions, logits: &[f32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let logit = |token: u32| logits[token as usize];
    order.sort_by(|&a, &b| logit(b).total_cmp(&logit(a)).then(a.cmp(&b)));
    let max = f64::from(logit(order[0]));
    let weight =
        |token: u32| ((f64::from(logit(token)) - max) / f64::from(options.temperature)).exp();
    if options.top_k > 0 && (options.top_k as usize) < order.len() {
        let smallest = logit(order[options.top_k as usize - 1]);
        order.retain(|&token| logit(token) >= smallest);
    }
    order.retain(|&token| weight(token) >= f64::from(options.min_p));
    if options.top_p < 1.0 {
        let total: f64 = order.iter().map(|&token| weight(token)).sum();
        let mut sum = 0.0;
        let reached = order.iter().position(|&token| {
            sum += weight(token);
            sum >= f64::from(options.top_p) * total
        });
        order.truncate(reached.map_or(order.len(), |last| last + 1));
    }
    order.sort_unstable();
    order
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Quarters as logits make ties frequent; the shares avoid sums that rounding could decide.
    #[test]
    fn filters_match_their_definition(
        quarters in prop::collection::vec(-40..40_i32, 1..600),
        temperature in 0.3_f32..2.0,
        top_k in 0_u32..700,
        top_p in prop_oneof![Just(1.0_f32), 0.0123_f32..0.9876],
        min_p in prop_oneof![Just(0.0_f32), 0.001_f32..0.9],
    ) {
        let options = SamplingOptions { temperature, top_k, top_p, min_p, ..Default::default() };
        let logits: Vec<f32> = quarters.iter().map(|&quarter| quarter as f32 / 4.0).collect();
        let kept = survivors(&request(&options, &[0], 1), &logits);
        let mut ids: Vec<u32> = kept.iter().map(|&(token, _)| token).collect();
        ids.sort_unstable();
        prop_assert_eq!(ids, sorted_survivors(&options, &logits));
    }

    #[test]
    fn scans_match_their_definition(
        logits in prop::collection::vec((-9..9).prop_map(|x| x as f32), 1..400),
        k in 1_usize..400,
    ) {
        let max = scan::maximum(&logits).expect("finite");
        let mut sorted = logits.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        prop_assert_eq!(max, sorted[0]);
        let first = logits.iter().position(|&x| x == max);
        prop_assert_eq!(Some(scan::first_equal(&logits, max)), first);
        let k = k.min(logits.len());
        prop_assert_eq!(scan::kth_largest(&logits, k, &mut Scratch::default()), sorted[k - 1]);
    }
}
