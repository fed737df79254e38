//! Sampling on the device chooses what sampling on the host chooses, token for token.

use troupe_gpu::{
    dtype::Dtype,
    executor::{SampleRequest, Sampled},
    sampling::{Scratch, sample},
};
use troupe_runtime::{id::SequenceId, wire::generate::SamplingOptions};

use crate::{
    shim::{self, Arg, Launch, Memory},
    values::{self, bytes, unsigned, words},
};

fn on_host(
    options: &SamplingOptions,
    tokens: &[u32],
    mask: Option<&[u32]>,
    logits: &[f32],
) -> Sampled {
    let request = SampleRequest {
        sequence: SequenceId::default(),
        rows: (0, 1),
        sample: true,
        tokens,
        prompt_len: 2,
        computed: tokens.len() - 1,
        options,
        seed: SEED,
        choice: CHOICE,
        mask,
    };
    sample(&request, &mut logits.to_vec(), &mut Scratch::default())
}

const SEED: u64 = 0x0123_4567_89ab_cdef;
const CHOICE: u32 = 3;

/// Rows of every kind: smooth, with many equals, with little else than what is banned.
fn rows(vocabulary: usize) -> Vec<Vec<f32>> {
    let smooth: Vec<f32> = values::noise(7, vocabulary).iter().map(|x| x * 9.0).collect();
    let equals = (0..vocabulary).map(|id| (id * 7919 % 5) as f32 - 2.0).collect();
    let mut few = vec![f32::NEG_INFINITY; vocabulary];
    for (at, value) in [(3, 0.5), (vocabulary / 2, -0.0), (vocabulary - 1, 0.0)] {
        few[at] = value;
    }
    let flat = vec![-0.25; vocabulary];
    vec![smooth, equals, few, flat]
}

fn launch(kernel: &str, grid: [usize; 3], threads: u32) -> Launch<'_> {
    Launch { file: "sample", kernel, grid, threads, shared: 0 }
}

/// `Sampling` of sample.cu.
fn sampling(options: &SamplingOptions, position: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(SEED.to_le_bytes());
    bytes.extend(position.to_le_bytes());
    bytes.extend(CHOICE.to_le_bytes());
    bytes.extend(options.temperature.to_le_bytes());
    bytes.extend(options.top_k.to_le_bytes());
    bytes.extend(options.top_p.to_le_bytes());
    bytes.extend(options.min_p.to_le_bytes());
    bytes.extend([0; 4]);
    bytes
}

/// What the device chooses for rows, each with its own options.
fn on_device(
    memory: &mut Memory,
    logits: u64,
    samplings: &[Vec<u8>],
    vocabulary: usize,
) -> Vec<u32> {
    let count = samplings.len();
    let samplings = memory.put(&samplings.concat());
    let numbers: Vec<u32> = (0..count as u32).collect();
    let numbers = memory.put(&words(&numbers));
    let tokens = memory.put(&words(&vec![77; count]));
    let args = [
        Arg::Wide(logits),
        Arg::Word(vocabulary as u32),
        Arg::Wide(samplings),
        Arg::Wide(numbers),
        Arg::Wide(tokens),
    ];
    memory.launch(launch("sample", [count, 1, 1], 512), &args);
    unsigned(memory.at(tokens))
}

#[test]
fn tokens_are_those_of_the_host() {
    if shim::is_missing() {
        return;
    }
    let mut cases = Vec::new();
    for temperature in [0.0, 0.7, 1.5] {
        for top_k in [0, 1, 40] {
            for (top_p, min_p) in [(1.0, 0.0), (0.9, 0.0), (0.3, 0.05), (1.0, 0.2)] {
                cases.push(SamplingOptions {
                    temperature,
                    top_k,
                    top_p,
                    min_p,
                    ..SamplingOptions::default()
                });
            }
        }
    }
    for vocabulary in [5, 3000] {
        for row in rows(vocabulary) {
            let history: Vec<u32> = vec![1; 2 + cases.len()];
            let mut memory = Memory::default();
            let all: Vec<f32> = cases.iter().flat_map(|_| row.iter().copied()).collect();
            let logits = memory.put(&bytes(Dtype::F32, &all));
            let positions = cases.iter().enumerate();
            let samplings: Vec<Vec<u8>> =
                positions.map(|(at, options)| sampling(options, at as u64)).collect();
            let found = on_device(&mut memory, logits, &samplings, vocabulary);
            for (at, (options, token)) in cases.iter().zip(found).enumerate() {
                let expected = on_host(options, &history[..2 + at], None, &row).token;
                assert_eq!(Some(token), expected, "{vocabulary}, position {at}: {options:?}");
            }
        }
    }
}

#[test]
fn rows_that_cannot_be_used_say_so_and_padding_is_left_alone() {
    if shim::is_missing() {
        return;
    }
    let (vocabulary, options) = (600, SamplingOptions { temperature: 0.5, ..Default::default() });
    let mut bad =
        [vec![0.0; vocabulary], vec![f32::NEG_INFINITY; vocabulary], vec![1.0; vocabulary]];
    bad[0][599] = f32::NAN;
    bad[2][0] = f32::INFINITY;
    let mut memory = Memory::default();
    let logits = memory.put(&bytes(Dtype::F32, &bad.concat()));
    let each = vec![sampling(&options, 0); 3];
    let found = on_device(&mut memory, logits, &each, vocabulary);
    assert_eq!(found, [u32::MAX, u32::MAX - 1, u32::MAX]);

    let samplings = memory.put(&each[0]);
    let numbers = memory.put(&words(&[u32::MAX, u32::MAX, u32::MAX]));
    let tokens = memory.put(&words(&[77, 78, 79]));
    let args = [logits, 0, samplings, numbers, tokens].map(Arg::Wide);
    let args = [&args[..1], &[Arg::Word(vocabulary as u32)], &args[2..]].concat();
    memory.launch(launch("sample", [3, 1, 1], 512), &args);
    assert_eq!(unsigned(memory.at(tokens)), [77, 78, 79]);
}

#[test]
fn adjusted_rows_give_the_tokens_of_the_host() {
    if shim::is_missing() {
        return;
    }
    let vocabulary = 70;
    let history = [5u32, 9, 7, 9, 9, 60];
    let options = SamplingOptions {
        temperature: 0.8,
        repetition_penalty: 1.3,
        presence_penalty: 0.4,
        frequency_penalty: 0.2,
        logit_bias: vec![(9, 1.5), (11, -2.0), (30, 100.0)],
        ..SamplingOptions::default()
    };
    // 30 would win by far, but the grammar forbids it; tokens past the mask are not allowed.
    let mask = [!(1u32 << 30), 0x0fff_ffff];
    let row: Vec<f32> = values::noise(17, vocabulary).iter().map(|x| x * 3.0).collect();
    let expected = on_host(&options, &history, Some(&mask), &row);

    let mut memory = Memory::default();
    let logits = memory.put(&bytes(Dtype::F32, &[row.clone(), row.clone()].concat()));
    let mut edits = Vec::new();
    let edit = |token: u32, bias: f32, seen: u32, repeats: u32| {
        let mut bytes = words(&[1, token]);
        bytes.extend(bias.to_le_bytes());
        bytes.extend(words(&[seen, repeats]));
        [1.3f32, 0.2, 0.4].iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        bytes.extend(words(&[0, 0]));
        bytes
    };
    for (token, bias, seen, repeats) in [
        (5, 0.0, 1, 0),
        (9, 1.5, 1, 2),
        (7, 0.0, 1, 1),
        (60, 0.0, 1, 1),
        (11, -2.0, 0, 0),
        (30, 100.0, 0, 0),
        (70, 5.0, 0, 0),
    ] {
        edits.extend(edit(token, bias, seen, repeats));
    }
    let edits_at = memory.put(&edits);
    let args = [Arg::Wide(edits_at), Arg::Word(7), Arg::Word(vocabulary as u32), Arg::Wide(logits)];
    memory.launch(launch("edit_logits", [1, 1, 1], 256), &args);
    let masks = memory.put(&words(&mask));
    let mask_of = memory.put(&words(&[u32::MAX, 0]));
    let args = [
        Arg::Wide(masks),
        Arg::Wide(mask_of),
        Arg::Word(2),
        Arg::Word(vocabulary as u32),
        Arg::Wide(logits),
    ];
    memory.launch(launch("mask_logits", [2, 2, 1], 256), &args);
    let left = values::values(Dtype::F32, memory.at(logits));
    values::same("another row", &left[..vocabulary], &row);
    let each = vec![sampling(&options, 4); 2];
    let found = on_device(&mut memory, logits, &each, vocabulary);
    assert_eq!(Some(found[1]), expected.token);
}

#[test]
fn log_probabilities_are_those_of_the_host() {
    if shim::is_missing() {
        return;
    }
    let (vocabulary, top) = (700, 6);
    let options = SamplingOptions { logprobs: Some(top as u32), ..SamplingOptions::default() };
    let rows = rows(vocabulary);
    let expected: Vec<Sampled> =
        rows.iter().map(|row| on_host(&options, &[1, 2, 3], None, row)).collect();
    let tokens: Vec<u32> = expected.iter().map(|sampled| sampled.token.unwrap()).collect();
    let mut memory = Memory::default();
    let count = rows.len();
    let logits = memory.put(&bytes(Dtype::F32, &rows.concat()));
    let tokens = memory.put(&words(&tokens));
    let (logprobs, ranks) = (memory.room(count * 4), memory.room(count * 4));
    let (top_tokens, top_logprobs) = (memory.room(count * top * 4), memory.room(count * top * 4));
    let args = [
        Arg::Wide(logits),
        Arg::Word(vocabulary as u32),
        Arg::Wide(tokens),
        Arg::Word(top as u32),
        Arg::Wide(logprobs),
        Arg::Wide(ranks),
        Arg::Wide(top_tokens),
        Arg::Wide(top_logprobs),
    ];
    memory.launch(launch("logprobs", [count, 1, 1], 512), &args);
    let found = values::values(Dtype::F32, memory.at(logprobs));
    let ranks = unsigned(memory.at(ranks));
    let top_tokens = unsigned(memory.at(top_tokens));
    let top_logprobs = values::values(Dtype::F32, memory.at(top_logprobs));
    let close = |a: f32, b: f32| a == b || (a - b).abs() <= 1e-6 * b.abs().max(1.0);
    for (row, sampled) in expected.iter().enumerate() {
        let own = sampled.logprobs.as_ref().unwrap();
        assert!(close(found[row], own.logprob), "{row}: {} not {}", found[row], own.logprob);
        assert_eq!(ranks[row], own.rank, "{row}");
        for (place, (token, logprob)) in own.top.iter().enumerate() {
            assert_eq!(top_tokens[row * top + place], *token, "{row}, place {place}");
            let found = top_logprobs[row * top + place];
            assert!(close(found, *logprob), "{row}, place {place}: {found} not {logprob}");
        }
    }
}
