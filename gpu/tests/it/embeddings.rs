//! Models that are run for embeddings: a BERT against golden vectors in every division, decoders
//! against the golden states of their tokens, and what cannot be pooled.

#![allow(clippy::unwrap_used, reason = "tests may stop at the first surprise")]

use troupe_gpu::executor::{LogitRows, StageInput};
use troupe_runtime::{
    id::StepId,
    model::{config::ModelConfig, pooling::PoolingKind},
};

use crate::{
    golden,
    ranks::{Layout, Ranks, SEQUENCES, Sequence, batch, embed, golden_tensors, prompts},
    skip::skipped,
};

/// (tensor ranks, stages)
const LAYOUTS: [(usize, usize); 6] = [(1, 1), (2, 1), (4, 1), (1, 2), (1, 4), (2, 2)];
const BERT: &str = "tiny-bert";
/// `[SEP]` in the vocabulary of tiny-bert and tiny-bert-cross.
const SEPARATOR: u32 = 3;

fn load(model: &str, (tensor, pipeline): (usize, usize), kind: PoolingKind) -> Ranks {
    let separator = (kind == PoolingKind::Score).then_some(SEPARATOR);
    let layout = Layout { pooling: Some(kind), separator, ..Layout::of(tensor, pipeline) };
    Ranks::load(&golden::model(model).unwrap(), layout).unwrap()
}

fn cosine(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let a: Vec<f64> = a.iter().map(|a| f64::from(*a)).collect();
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    dot(&a, b) / (dot(&a, &a) * dot(b, b)).sqrt()
}

/// The golden texts: ids and vector of length 1. Only the full set has them.
fn texts() -> Option<Vec<(Vec<u32>, Vec<f64>)>> {
    let Some(golden) = golden::json(&format!("models/{BERT}/golden.json")) else {
        skipped("tiny-bert is only in the full set of golden models (TROUPE_GOLDEN_DIR)");
        return None;
    };
    let texts = golden["sentences"].as_array().unwrap().iter();
    let text = |text: &serde_json::Value| {
        let ids = text["ids"].as_array().unwrap().iter();
        let vector = text["embedding"].as_array().unwrap().iter();
        (
            ids.map(|id| id.as_u64().unwrap() as u32).collect(),
            vector.map(|value| value.as_f64().unwrap()).collect(),
        )
    };
    Some(texts.map(text).collect())
}

#[test]
fn vectors_of_a_bert_are_golden_in_every_division() {
    let Some(texts) = texts() else { return };
    for layout in LAYOUTS {
        let mut ranks = load(BERT, layout, PoolingKind::Mean);
        for some in texts.chunks(SEQUENCES) {
            let ids: Vec<_> = some.iter().map(|(ids, _)| ids.as_slice()).collect();
            let together = embed(&mut ranks, &ids);
            for ((ids, golden), vector) in some.iter().zip(&together) {
                let alone = embed(&mut ranks, &[ids]);
                assert_eq!(&alone[0], vector, "{layout:?}: a text depends on those beside it");
                let cosine = cosine(vector, golden);
                assert!(cosine > 0.999_999, "{layout:?}: {cosine} of {} tokens", ids.len());
            }
        }
    }
}

#[test]
fn the_first_state_of_a_bert_can_be_taken() {
    let (Some(texts), mean) = (texts(), PoolingKind::Mean) else { return };
    let ids = texts[0].0.as_slice();
    let [first, last] = [PoolingKind::Cls, PoolingKind::Last]
        .map(|kind| embed(&mut load(BERT, (1, 1), kind), &[ids]));
    let mean = embed(&mut load(BERT, (1, 1), mean), &[ids]);
    assert!(first != last && first != mean && last != mean);
}

#[test]
fn decoders_give_the_states_of_their_tokens() {
    let mut checked = 0;
    for model in ["tiny-qwen2", "tiny-llama-tied", "tiny-gemma2", "tiny-deepseek-v2"] {
        let Some(prompts) = prompts(model) else { continue };
        checked += 1;
        let ids = &prompts.iter().find(|prompt| prompt.id == "p7").unwrap().ids;
        let states = &golden_tensors(model)["hidden_states.p7.f32"];
        let folder = golden::model(model).unwrap();
        let width = ModelConfig::load(&folder.join("config.json")).unwrap().hidden_size;
        // Behind the embeddings and the other layers, normed.
        let states: Vec<_> = states[states.len() - ids.len() * width..].chunks(width).collect();
        let mean: Vec<f64> =
            (0..width).map(|at| states.iter().map(|s| s[at]).sum::<f64>() / 7.0).collect();
        let expected = [
            (PoolingKind::Cls, states[0]),
            (PoolingKind::Last, states[6]),
            (PoolingKind::Mean, mean.as_slice()),
        ];
        for layout in [(1, 1), (2, 2)] {
            for (kind, expected) in expected {
                let vector = &embed(&mut load(model, layout, kind), &[ids])[0];
                let furthest = vector.iter().zip(expected).map(|(v, e)| (f64::from(*v) - e).abs());
                let furthest = furthest.fold(0.0, f64::max);
                assert!(furthest < 2e-3, "{model} {layout:?} {kind:?}: {furthest}");
            }
        }
    }
    assert!(checked > 0, "no decoder is in {}", golden::dir().display());
}

/// The state behind the last token has seen all of a text, also one that came in parts.
#[test]
fn a_cut_text_is_pooled_by_its_last_state_alone() {
    let model = "tiny-qwen2";
    let ids = prompts(model).unwrap().into_iter().find(|prompt| prompt.id == "p33").unwrap().ids;
    let whole = embed(&mut load(model, (1, 1), PoolingKind::Last), &[&ids]);
    let mut ranks = load(model, (1, 1), PoolingKind::Last);
    let mut text = [Sequence::new(0, &ids)];
    ranks.forward(&mut text, &[(20, LogitRows::None)]);
    let rest = ranks.forward(&mut text, &[(13, LogitRows::Last)]);
    assert_eq!(rest.host_values(), whole[0].as_slice());

    for (model, kind) in [(model, PoolingKind::Mean), (BERT, PoolingKind::Last)] {
        if golden::model(model).is_none() {
            continue;
        }
        let mut ranks = load(model, (1, 1), kind);
        let mut text = Sequence::new(0, &ids);
        text.computed = 20;
        let batch = batch(StepId(1), 1, &[text], &[(13, LogitRows::Last)]);
        let error = ranks.stages[0][0].forward(&batch, StageInput::Tokens).unwrap_err();
        assert!(error.to_string().contains("is pooled from position 20"), "{error}");
    }
}

#[test]
fn scores_of_pairs_are_golden_in_every_division() {
    let model = "tiny-bert-cross";
    // Only the committed set has it.
    let Some(golden) = golden::json(&format!("models/{model}/golden.json")) else { return };
    let pairs = golden["pairs"].as_array().unwrap();
    let ids = |pair: &serde_json::Value| -> Vec<u32> {
        pair["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    for layout in [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)] {
        let mut ranks = load(model, layout, PoolingKind::Score);
        for some in pairs.chunks(SEQUENCES) {
            let all: Vec<_> = some.iter().map(ids).collect();
            let all: Vec<_> = all.iter().map(Vec::as_slice).collect();
            for (found, pair) in embed(&mut ranks, &all).iter().zip(some) {
                let score = pair["score"].as_f64().unwrap();
                assert_eq!(found.len(), 1);
                assert!(
                    (f64::from(found[0]) - score).abs() < 1e-5,
                    "{layout:?}: {found:?} {score}"
                );
            }
        }
    }
    // Which text a token is of matters.
    let layout = Layout { pooling: Some(PoolingKind::Score), ..Layout::SINGLE };
    let mut blind = Ranks::load(&golden::model(model).unwrap(), layout).unwrap();
    let found = embed(&mut blind, &[&ids(&pairs[0])])[0][0];
    assert!((f64::from(found) - pairs[0]["score"].as_f64().unwrap()).abs() > 1e-3);
    if let Some(bert) = golden::model(BERT) {
        let error = Ranks::load(&bert, layout).err().unwrap();
        assert!(error.to_string().contains("no classifier"), "{error}");
    }
}
