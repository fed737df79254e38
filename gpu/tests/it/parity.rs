//! Models against golden values: logits, greedy tokens, and the same bits however a sequence is cut
//! into steps and a model into stages.

#![allow(clippy::unwrap_used, reason = "tests may stop at the first surprise")]

use std::{fs, path::Path};

use troupe_gpu::{dtype::Dtype, executor::LogitRows, kv::KvDtype, tensor::Quantize};

use crate::{
    golden,
    ranks::{
        BF16_MODELS, EXPERT_MODELS, F32_MODELS, Layout, Prompt, Ranks, SEQUENCES, Sequence,
        golden_tensors, prompts,
    },
};

/// (tensor ranks, stages)
const LAYOUTS: [(usize, usize); 6] = [(1, 1), (2, 1), (4, 1), (1, 2), (1, 4), (2, 2)];
/// Some hundred times what `f32` and `f64` differ by, far less than any missing feature changes.
const TOLERANCE: f64 = 2e-3;

/// All that are compared in float32.
fn exact_models() -> Vec<&'static str> {
    F32_MODELS.into_iter().chain(EXPERT_MODELS).collect()
}

/// In float32, also where weights are stored as something smaller.
fn exact(tensor: usize, pipeline: usize) -> Layout {
    Layout { dtype: Some(Dtype::F32), ..Layout::of(tensor, pipeline) }
}

/// Calls `check` for each model that this golden set has; at least one must be there.
fn for_each(models: &[&str], check: impl Fn(&str, &[Prompt])) {
    let mut checked = 0;
    for model in models {
        if let Some(prompts) = prompts(model) {
            check(model, &prompts);
            checked += 1;
        }
    }
    assert!(checked > 0, "none of {models:?} is in {}", golden::dir().display());
}

fn load(model: &str, layout: Layout) -> Ranks {
    Ranks::load(&golden::model(model).unwrap(), layout).unwrap()
}

fn sequences(prompts: &[Prompt]) -> Vec<Sequence> {
    assert!(prompts.len() <= SEQUENCES);
    prompts.iter().enumerate().map(|(at, prompt)| Sequence::new(at, &prompt.ids)).collect()
}

/// Logits after each whole prompt, all prompts in one step.
fn prefill(ranks: &mut Ranks, sequences: &mut [Sequence]) -> Vec<Vec<f32>> {
    let work: Vec<_> = sequences.iter().map(|s| (s.tokens.len(), LogitRows::Last)).collect();
    rows(&ranks.forward(sequences, &work))
}

fn rows(logits: &troupe_gpu::executor::Logits) -> Vec<Vec<f32>> {
    logits.host_values().chunks(logits.columns).map(<[f32]>::to_vec).collect()
}

fn assert_close(what: &str, found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs());
    let worst = worst.fold(0.0, f64::max);
    assert!(worst <= TOLERANCE, "{what}: off by {worst}");
}

/// Last logits of all prompts against golden tensors of `kind`, then 48 greedy tokens, decoded
/// together through the block tables.
fn check_generation(model: &str, prompts: &[Prompt], layout: Layout, kind: &str) {
    check_tokens(model, prompts, (load(model, layout), layout), kind);
}

fn check_tokens(model: &str, prompts: &[Prompt], (mut ranks, layout): (Ranks, Layout), kind: &str) {
    let golden = golden_tensors(model);
    let mut sequences = sequences(prompts);
    let what = |prompt: &Prompt| format!("{model} {}, {layout:?}", prompt.id);
    let work: Vec<_> = prompts.iter().map(|p| (p.ids.len(), LogitRows::Last)).collect();
    let mut logits = ranks.forward(&mut sequences, &work);
    for (prompt, row) in prompts.iter().zip(rows(&logits)) {
        assert_close(&what(prompt), &row, &golden[&format!("last_logits.{}.{kind}", prompt.id)]);
    }
    let tokens = prompts[0].greedy_ids.len();
    for at in 0..tokens {
        let chosen = ranks.sample_greedily(logits, &mut sequences);
        for (prompt, token) in prompts.iter().zip(chosen) {
            assert_eq!(token, prompt.greedy_ids[at], "{}, token {at}", what(prompt));
        }
        logits = ranks.forward(&mut sequences, &vec![(1, LogitRows::Last); prompts.len()]);
    }
}

#[test]
fn f32_models_agree_with_the_golden_values_in_every_layout() {
    for_each(&exact_models(), |model, prompts| {
        for (tensor, pipeline) in LAYOUTS {
            check_generation(model, prompts, exact(tensor, pipeline), "f64");
        }
    });
}

#[test]
fn experts_divided_over_ranks_agree_with_the_golden_values() {
    for_each(&EXPERT_MODELS, |model, prompts| {
        for (tensor, pipeline) in [(2, 1), (4, 1), (2, 2)] {
            let layout = Layout { experts: true, ..exact(tensor, pipeline) };
            check_generation(model, prompts, layout, "f64");
        }
    });
}

#[test]
fn bf16_checkpoints_stored_as_float32_agree_with_exact_arithmetic() {
    // Its tokens are the same in bfloat16; the committed set has nothing that is stored so.
    let folder = golden::model("tiny-chat").unwrap();
    let copy = tempfile::tempdir().unwrap();
    in_bf16(&folder, copy.path());
    let prompts = prompts("tiny-chat").unwrap();
    for (tensor, pipeline) in [(1, 1), (2, 2)] {
        let layout = Layout { dtype: Some(Dtype::F32), ..Layout::of(tensor, pipeline) };
        let ranks = Ranks::load(copy.path(), layout).unwrap();
        check_tokens("tiny-chat", &prompts, (ranks, layout), "bf16_weights_f32_math");
    }
    for model in BF16_MODELS {
        let Some(prompts) = self::prompts(model) else { continue };
        for (tensor, pipeline) in [(1, 1), (2, 2)] {
            let layout = Layout { dtype: Some(Dtype::F32), ..Layout::of(tensor, pipeline) };
            check_generation(model, &prompts, layout, "bf16_weights_f32_math");
        }
    }
}

/// Writes a model of one file again, its weights rounded to bfloat16.
fn in_bf16(from: &Path, to: &Path) {
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: serde_json::Value = serde_json::from_slice(header).unwrap();
    let halve = |offset: &serde_json::Value| serde_json::json!(offset.as_u64().unwrap() / 2);
    for (name, tensor) in header.as_object_mut().unwrap() {
        if name != "__metadata__" {
            assert_eq!(tensor["dtype"], "F32");
            tensor["dtype"] = "BF16".into();
            let ends = [0, 1].map(|at| halve(&tensor["data_offsets"][at]));
            tensor["data_offsets"] = ends.to_vec().into();
        }
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut written = (header.len() as u64).to_le_bytes().to_vec();
    written.extend(header);
    (0..data.len() / 4).for_each(|at| Dtype::Bf16.write(&mut written, Dtype::F32.read(data, at)));
    fs::write(to.join("model.safetensors"), written).unwrap();
    fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
}

/// Products round their input to bfloat16 then; everything else is `f32`, so that logits are nearer
/// to exact arithmetic than those of a run that rounds every activation, which the golden values
/// have.
#[test]
fn bf16_weights_stay_nearer_to_exact_arithmetic_than_a_bf16_run() {
    let models: Vec<_> = F32_MODELS.into_iter().chain(BF16_MODELS).collect();
    for_each(&models, |model, prompts| {
        for (tensor, pipeline, kv_dtype) in
            [(1, 1, KvDtype::F32), (2, 2, KvDtype::F32), (1, 1, KvDtype::Bf16)]
        {
            let (dtype, kv_dtype) = (Some(Dtype::Bf16), Some(kv_dtype));
            let layout = Layout { dtype, kv_dtype, ..Layout::of(tensor, pipeline) };
            check_bf16(model, prompts, layout);
        }
    });
}

/// Last logits, then the golden tokens, each a greedy choice where that is not within the error;
/// with keys and values in `f32` always, for the models whose tokens agree in bfloat16.
fn check_bf16(model: &str, prompts: &[Prompt], layout: Layout) {
    let golden = golden_tensors(model);
    let allowed = prompts[0].bf16_run;
    let is_exact = layout.kv_dtype == Some(KvDtype::F32)
        && (model == "tiny-chat" || model.starts_with("stories260k"));
    let mut ranks = load(model, layout);
    let mut sequences = sequences(prompts);
    let mut found = rows(&ranks.forward(
        &mut sequences,
        &prompts.iter().map(|p| (p.ids.len(), LogitRows::Last)).collect::<Vec<_>>(),
    ));
    for (prompt, row) in prompts.iter().zip(&found) {
        let expected = &golden[&format!("last_logits.{}.bf16_weights_f32_math", prompt.id)];
        let worst = row.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs());
        let worst = worst.fold(0.0, f64::max);
        assert!(worst <= allowed, "{model} {}, {layout:?}: {worst} of {allowed}", prompt.id);
    }
    let mut compared = 0;
    for at in 0..prompts[0].greedy_ids.len() {
        for ((prompt, row), sequence) in prompts.iter().zip(&found).zip(&mut sequences) {
            let token = prompt.greedy_ids[at];
            if is_exact || prompt.greedy_margins[at] > 3.0 * allowed {
                let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
                assert_eq!(best as u32, token, "{model} {}, token {at}, {layout:?}", prompt.id);
                compared += 1;
            }
            sequence.tokens.push(token);
        }
        let work = vec![(1, LogitRows::Last); prompts.len()];
        found = rows(&ranks.forward(&mut sequences, &work));
    }
    assert!(compared > 0, "{model}: no margin is large enough");
}

/// Rounded weights and activations move the logits of these models, which are made to be sensitive,
/// by a share of how far they lie apart. How much is a figure, not a promise; twice as much is a
/// mistake.
#[test]
fn integers_stay_near_to_exact_arithmetic_however_the_model_is_divided() {
    for_each(&F32_MODELS, |model, prompts| {
        let golden = golden_tensors(model);
        // Gemma's norms multiply by more than others'.
        let int8 = if model == "tiny-gemma3" { 0.3 } else { 0.15 };
        for (quantize, allowed) in [(Quantize::Int8, int8), (Quantize::Int4, 0.9)] {
            for (tensor, pipeline) in [(1, 1), (2, 2)] {
                let quantize = Some(quantize);
                let layout = Layout { quantize, ..Layout::of(tensor, pipeline) };
                let mut ranks = load(model, layout);
                let found = prefill(&mut ranks, &mut sequences(prompts));
                for (prompt, found) in prompts.iter().zip(&found) {
                    let expected = &golden[&format!("last_logits.{}.f64", prompt.id)];
                    let off = relative(found, expected);
                    assert!(off <= allowed, "{model} {} {layout:?}: {off}", prompt.id);
                }
            }
        }
    });
}

/// The distance between two lists as a share of how far the second's values lie apart.
fn relative(found: &[f32], expected: &[f64]) -> f64 {
    let mean = expected.iter().sum::<f64>() / expected.len() as f64;
    let apart: f64 = expected.iter().map(|value| (value - mean).powi(2)).sum();
    let off: f64 = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    (off / apart).sqrt()
}

#[test]
fn every_position_has_its_logits() {
    // The committed set has these of one model.
    let all = "all_logits.p33.f64";
    let has_all =
        |model: &&str| golden::model(model).is_some() && golden_tensors(model).contains_key(all);
    let models: Vec<_> = exact_models().into_iter().filter(has_all).collect();
    for_each(&models, |model, prompts| {
        let golden = golden_tensors(model);
        let prompt = prompts.iter().find(|prompt| prompt.id == "p33").unwrap();
        for layout in [exact(1, 1), exact(2, 2)] {
            let mut ranks = load(model, layout);
            // Beside others, one without logits; 33 rows are more than are computed at once.
            let mut sequences: Vec<_> = (0..3).map(|at| Sequence::new(at, &prompt.ids)).collect();
            let rows = [(9, LogitRows::None), (33, LogitRows::All), (33, LogitRows::Last)];
            let logits = ranks.forward(&mut sequences, &rows);
            let values = logits.host_values();
            assert_eq!((logits.rows, values.len()), (34, 34 * logits.columns));
            assert_close(model, &values[..33 * logits.columns], &golden[all]);
            assert_eq!(
                values[32 * logits.columns..33 * logits.columns],
                values[33 * logits.columns..]
            );
        }
    });
}

#[test]
fn chunks_of_any_size_give_the_same_bits() {
    for_each(&exact_models(), |model, prompts| {
        for layout in [Layout::SINGLE, Layout::of(2, 2)] {
            let mut at_once = sequences(prompts);
            let expected = prefill(&mut load(model, layout), &mut at_once);
            for sizes in [&[1, 7, 13, 3, 29][..], &[64], &[17, 1]] {
                let mut ranks = load(model, layout);
                for (prompt, expected) in prompts.iter().zip(&expected) {
                    let found = in_chunks(&mut ranks, &prompt.ids, sizes);
                    assert_same_bits(&format!("{model} {layout:?} {sizes:?}"), &found, expected);
                }
            }
        }
    });
}

/// The last logits of one sequence alone, its prompt cut into chunks of these sizes in turn.
fn in_chunks(ranks: &mut Ranks, ids: &[u32], sizes: &[usize]) -> Vec<f32> {
    let mut sequence = [Sequence::new(1, ids)];
    for size in sizes.iter().cycle() {
        let left = ids.len() - sequence[0].computed;
        if *size >= left {
            let logits = ranks.forward(&mut sequence, &[(left, LogitRows::Last)]);
            return logits.host_values().to_vec();
        }
        ranks.forward(&mut sequence, &[(*size, LogitRows::None)]);
    }
    unreachable!("the cycle ends with the prompt")
}

#[test]
fn stages_change_no_bit() {
    let all: Vec<_> = exact_models().into_iter().chain(BF16_MODELS).collect();
    for_each(&all, |model, prompts| {
        for tensor in [1, 2] {
            let mut whole = load(model, Layout::of(tensor, 1));
            let expected = prefill(&mut whole, &mut sequences(prompts));
            for pipeline in [2, 3, 4] {
                let mut divided = load(model, Layout::of(tensor, pipeline));
                let found = prefill(&mut divided, &mut sequences(prompts));
                for (found, expected) in found.iter().zip(&expected) {
                    assert_same_bits(&format!("{model}, {pipeline} stages"), found, expected);
                }
            }
        }
    });
}

#[test]
fn recomputing_a_moved_sequence_gives_the_same_bits() {
    for_each(&exact_models(), |model, prompts| {
        for layout in [Layout::SINGLE, Layout::of(4, 1)] {
            let mut ranks = load(model, layout);
            let mut decoded = sequences(prompts);
            let mut logits = Some(prefill_only(&mut ranks, &mut decoded));
            for _ in 0..20 {
                ranks.sample_greedily(logits.take().unwrap(), &mut decoded);
                let one = vec![(1, LogitRows::Last); prompts.len()];
                logits = Some(ranks.forward(&mut decoded, &one));
            }
            let expected = rows(&logits.unwrap());
            let mut elsewhere = load(model, layout);
            for (sequence, expected) in decoded.iter().zip(&expected) {
                let mut moved = [Sequence::new(3, &sequence.tokens)];
                let found = prefill(&mut elsewhere, &mut moved);
                assert_same_bits(&format!("{model} {layout:?}"), &found[0], expected);
            }
        }
    });
}

fn prefill_only(ranks: &mut Ranks, sequences: &mut [Sequence]) -> troupe_gpu::executor::Logits {
    let work: Vec<_> = sequences.iter().map(|s| (s.tokens.len(), LogitRows::Last)).collect();
    ranks.forward(sequences, &work)
}

fn assert_same_bits(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let differ = found.iter().zip(expected).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert_eq!(differ, 0, "{what}: {differ} of {} logits differ", found.len());
}
