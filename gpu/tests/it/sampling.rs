//! Sampling through its public face: goldens, distributions, invariances, failures.

use troupe_gpu::{
    executor::{SampleRequest, Sampled},
    sampling::{Scratch, sample},
};
use troupe_runtime::{id::SequenceId, wire::generate::SamplingOptions};

use crate::golden;

fn request<'a>(options: &'a SamplingOptions, tokens: &'a [u32]) -> SampleRequest<'a> {
    SampleRequest {
        sequence: SequenceId::default(),
        rows: (0, 1),
        sample: true,
        tokens,
        prompt_len: 1,
        computed: tokens.len().saturating_sub(1),
        options,
        seed: 0x5eed,
        choice: 0,
        mask: None,
    }
}

fn run(request: &SampleRequest<'_>, logits: &[f32]) -> Sampled {
    sample(request, &mut logits.to_vec(), &mut Scratch::default())
}

/// Tokens for output positions 0, 1, 2 ... from the same row.
fn draws(
    options: &SamplingOptions,
    seed: u64,
    choice: u32,
    logits: &[f32],
    count: usize,
) -> Vec<u32> {
    let tokens = vec![0; count + 1];
    (0..count)
        .map(|position| {
            let request = SampleRequest { seed, choice, ..request(options, &tokens[..=position]) };
            run(&request, logits).token.expect("a token")
        })
        .collect()
}

/// Logits with a long tail, by a formula.
fn logits(vocabulary: usize) -> Vec<f32> {
    (0..vocabulary).map(|id| ((id * 7919 % 1009) as f32 / 1009.0 - 0.5) * 16.0).collect()
}

// === goldens ===

#[test]
fn greedy_and_drawn_tokens_are_golden_survivors() {
    let golden = golden::json("sampling_golden.json").expect("the sampling goldens");
    for entry in golden["entries"].as_array().expect("entries") {
        let logits: Vec<f32> = serde_json::from_value(entry["logits"].clone()).expect("logits");
        for case in entry["cases"].as_array().expect("cases") {
            let params = &case["params"];
            let Some(only) = filters(params) else {
                continue;
            };
            let survivors: Vec<(u32, f64)> =
                serde_json::from_value(case["probs"].clone()).expect("probs");
            if case["kept"].as_u64() != Some(survivors.len() as u64) {
                continue;
            }
            for token in draws(&only, 3, 0, &logits, 50) {
                assert!(survivors.iter().any(|&(id, _)| id == token), "{params}: {token}");
            }
        }
    }
}

/// The options of a case that has filters only (no history needed).
fn filters(params: &serde_json::Value) -> Option<SamplingOptions> {
    let mut options = SamplingOptions::default();
    for (name, value) in params.as_object().expect("params") {
        match (name.as_str(), value.as_f64()) {
            ("temperature", Some(x)) => options.temperature = x as f32,
            ("top_p", Some(x)) => options.top_p = x as f32,
            ("min_p", Some(x)) => options.min_p = x as f32,
            ("top_k", Some(x)) => options.top_k = x as u32,
            _ => return None,
        }
    }
    Some(options)
}

// === distribution ===

#[test]
fn draws_follow_the_probabilities() {
    let probabilities = [0.4_f64, 0.25, 0.15, 0.1, 0.05, 0.03, 0.015, 0.005];
    let logits: Vec<f32> = probabilities.iter().map(|p| p.ln() as f32 + 3.0).collect();
    let options = SamplingOptions::default();
    for (seed, choice) in [(1, 0), (2, 0), (2, 1), (u64::MAX, 7)] {
        let drawn = draws(&options, seed, choice, &logits, 20_000);
        assert_fits(&drawn, &probabilities);
    }
}

/// Neighbouring keys must be as independent as distant ones: the draw's key walks over seeds,
/// choices and positions in turn, all other parts fixed.
#[test]
fn draws_of_neighbouring_seeds_and_choices_follow_them_too() {
    let probabilities = [0.25_f64; 4];
    let options = SamplingOptions::default();
    let by_seed: Vec<u32> =
        (0..20_000).map(|seed| draws(&options, seed, 0, &[1.0; 4], 1)[0]).collect();
    assert_fits(&by_seed, &probabilities);
    let by_choice: Vec<u32> =
        (0..20_000).map(|choice| draws(&options, 1, choice, &[1.0; 4], 1)[0]).collect();
    assert_fits(&by_choice, &probabilities);
    // Pairs of consecutive positions: sixteen equally likely values.
    let drawn = draws(&options, 9, 0, &[1.0; 4], 40_000);
    let pairs: Vec<u32> = drawn.chunks_exact(2).map(|pair| pair[0] * 4 + pair[1]).collect();
    assert_fits(&pairs, &[1.0 / 16.0; 16]);
}

/// Pearson's chi-square. The bound is the mean plus six standard deviations of the statistic, which
/// a right sampler with these fixed seeds meets always and a wrong one misses by far.
fn assert_fits(drawn: &[u32], probabilities: &[f64]) {
    let mut counts = vec![0_u32; probabilities.len()];
    for &token in drawn {
        counts[token as usize] += 1;
    }
    let statistic: f64 = counts
        .iter()
        .zip(probabilities)
        .map(|(&count, p)| {
            let expected = p * drawn.len() as f64;
            (f64::from(count) - expected).powi(2) / expected
        })
        .sum();
    let freedom = (probabilities.len() - 1) as f64;
    assert!(statistic < freedom + 6.0 * (2.0 * freedom).sqrt(), "{statistic} for {counts:?}");
}

// === invariances ===

/// What a later version may not change: these tokens are in somebody's stream, half delivered.
#[test]
fn the_same_key_gives_the_same_token_for_ever() {
    let options =
        SamplingOptions { temperature: 0.8, top_p: 0.95, top_k: 200, ..Default::default() };
    let drawn = draws(&options, 42, 1, &logits(5000), 8);
    assert_eq!(drawn, EXPECTED);
}

const EXPECTED: [u32; 8] = [620, 4966, 620, 3403, 2882, 4834, 2295, 1596];

#[test]
fn nothing_but_its_own_key_and_row_matters() {
    let options = SamplingOptions { top_p: 0.9, logprobs: Some(3), ..Default::default() };
    let penalized = SamplingOptions { repetition_penalty: 1.4, top_k: 9, ..options.clone() };
    let rows = [logits(700), logits(1500), logits(300)];
    let mut scratch = Scratch::default();
    for tokens in [&[0, 5, 5, 7][..], &[3], &[2, 2]] {
        for row in &rows {
            for options in [&options, &penalized] {
                let request = request(options, tokens);
                let alone = run(&request, row);
                let among_others = sample(&request, &mut row.clone(), &mut scratch);
                assert_eq!(alone, among_others);
                let elsewhere =
                    SampleRequest { sequence: SequenceId(99), rows: (40, 1), ..request };
                assert_eq!(run(&elsewhere, row), alone);
            }
        }
    }
}

#[test]
fn a_masked_token_takes_no_part() {
    let options = SamplingOptions::default();
    let mut with = logits(64);
    let mask = [u32::MAX, !1];
    let masked = SampleRequest { mask: Some(&mask), ..request(&options, &[0]) };
    let from_mask = run(&masked, &with);
    with[32] = f32::NEG_INFINITY;
    assert_eq!(run(&request(&options, &[0]), &with), from_mask);
}

#[test]
fn adding_a_constant_to_all_logits_changes_no_greedy_token_and_no_rank() {
    let options = SamplingOptions { temperature: 0.0, logprobs: Some(2), ..Default::default() };
    let plain = logits(2000);
    let shifted: Vec<f32> = plain.iter().map(|x| x + 4.0).collect();
    let (a, b) = (run(&request(&options, &[0]), &plain), run(&request(&options, &[0]), &shifted));
    assert_eq!(a.token, b.token);
    assert_eq!(a.logprobs.expect("asked for").rank, b.logprobs.expect("asked for").rank);
}

// === greedy ===

#[test]
fn greedy_takes_the_lowest_of_equals() {
    let options = SamplingOptions { temperature: 0.0, ..Default::default() };
    for (len, at) in [(1, 0), (17, 3), (1000, 63), (1000, 64), (1003, 1001)] {
        let mut row = vec![-1.0; len];
        row[at] = 2.0;
        row[len - 1] = 2.0;
        assert_eq!(run(&request(&options, &[0]), &row).token, Some(at as u32), "{len} {at}");
    }
}

// === log-probabilities ===

#[test]
fn logprobs_are_the_models_before_any_option() {
    let options = SamplingOptions {
        temperature: 0.0,
        logit_bias: vec![(2, 50.0)],
        logprobs: Some(2),
        ..Default::default()
    };
    let row: Vec<f32> = [0.5_f32, 0.25, 0.125, 0.125].iter().map(|p| p.ln()).collect();
    let sampled = run(&request(&options, &[0]), &row);
    assert_eq!(sampled.token, Some(2));
    let logprobs = sampled.logprobs.expect("asked for");
    assert_eq!((logprobs.token, logprobs.rank), (2, 3));
    assert!((logprobs.logprob - 0.125_f32.ln()).abs() < 1e-6);
    let top: Vec<u32> = logprobs.top.iter().map(|&(token, _)| token).collect();
    assert_eq!(top, [0, 1]);
    assert!((logprobs.top[0].1 - 0.5_f32.ln()).abs() < 1e-6);
}

#[test]
fn logprobs_of_a_whole_vocabulary_sum_to_one() {
    let options = SamplingOptions { logprobs: Some(u32::MAX), ..Default::default() };
    let logprobs = run(&request(&options, &[0]), &logits(3001)).logprobs.expect("asked for");
    assert_eq!(logprobs.top.len(), 3001);
    let sum: f64 = logprobs.top.iter().map(|&(_, x)| f64::from(x).exp()).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    let place = logprobs.top[logprobs.rank as usize - 1];
    assert_eq!(place, (logprobs.token, logprobs.logprob));
}

#[test]
fn prompt_logprobs_belong_to_the_next_position() {
    let options = SamplingOptions { prompt_logprobs: Some(1), ..Default::default() };
    let prompt = [4, 1, 2, 3, 0];
    let row = [0.0_f32, 1.0, 2.0, 3.0, 4.0];
    let mut chunk: Vec<f32> = row.repeat(3);
    let first = SampleRequest {
        rows: (7, 3),
        sample: false,
        computed: 0,
        prompt_len: 5,
        ..request(&options, &prompt)
    };
    let sampled = sample(&first, &mut chunk, &mut Scratch::default());
    let tokens: Vec<u32> = sampled.prompt_logprobs.iter().map(|entry| entry.token).collect();
    assert_eq!((tokens, sampled.token), (vec![1, 2, 3], None));
    assert_eq!(sampled.prompt_logprobs[2].rank, 2);
    assert_eq!(sampled.prompt_logprobs[2].top[0].0, 4);

    // The last chunk: its last row foretells the first output token, which is sampled.
    let mut chunk: Vec<f32> = row.repeat(2);
    let last = SampleRequest { rows: (0, 2), sample: true, computed: 3, ..first };
    let sampled = sample(&last, &mut chunk, &mut Scratch::default());
    assert_eq!(sampled.prompt_logprobs.len(), 1);
    assert_eq!(sampled.prompt_logprobs[0].token, 0);
    assert!(sampled.token.is_some());
}

// === failures ===

#[test]
fn unusable_logits_fail_and_are_named() {
    let greedy = SamplingOptions { temperature: 0.0, ..Default::default() };
    let biased = SamplingOptions { allowed_token_ids: vec![1], ..Default::default() };
    for options in [&SamplingOptions::default(), &greedy, &biased] {
        for (value, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            for at in [3, 77, 99] {
                let mut row = logits(100);
                row[at] = value;
                let sampled = run(&request(options, &[0]), &row);
                let why = sampled.failed.expect("a failure");
                assert!(why.contains(&format!("token {at} is {name}")), "{why}");
                assert_eq!(sampled.token, None);
            }
        }
    }
}

#[test]
fn no_allowed_token_is_a_failure_and_not_a_panic() {
    let options = SamplingOptions::default();
    let masked = SampleRequest { mask: Some(&[0, 0]), ..request(&options, &[0]) };
    assert!(run(&masked, &logits(40)).failed.is_some());
    assert!(run(&request(&options, &[0]), &[f32::NEG_INFINITY; 9]).failed.is_some());
    assert!(run(&request(&options, &[0]), &[]).failed.is_some());
    let uneven = SampleRequest { rows: (0, 3), ..request(&options, &[0]) };
    assert!(run(&uneven, &logits(40)).failed.is_some());
    for temperature in [f32::NAN, f32::INFINITY] {
        let options = SamplingOptions { temperature, top_p: 0.5, ..Default::default() };
        assert!(run(&request(&options, &[0]), &logits(40)).failed.is_some());
    }
    let no_history = SampleRequest { prompt_len: 5, ..request(&options, &[]) };
    assert!(run(&no_history, &logits(40)).token.is_some());
}
