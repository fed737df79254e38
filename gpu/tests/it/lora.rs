//! Adapters against golden values: logits and tokens of each in every layout, many of them in one
//! batch, and the same bits whatever else is in the batch.

#![allow(clippy::unwrap_used, reason = "tests may stop at the first surprise")]

mod files;

use std::{path::Path, sync::Arc};

use troupe_gpu::{
    backend::{Backend, LinearCall},
    cpu::CpuDevice,
    dtype::Dtype,
    executor::{Executor, LogitRows},
    lora::{
        Adapter, LoraLimits,
        weights::{LoraRows, LoraUp, LoraWeights},
    },
    tensor::{DenseMatrix, DensePart, LinearSource, Quantize, WeightSource},
};
use troupe_runtime::{
    id::{AdapterId, Coordinate},
    model::config::ModelConfig,
};

use crate::{
    cpu::{bits, buffer, bytes, noise},
    golden,
    ranks::{Layout, Prompt, Ranks, Sequence, golden_tensors, prompts},
};

/// (tensor ranks, stages)
const LAYOUTS: [(usize, usize); 5] = [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)];
const ROOM: LoraLimits = LoraLimits { max_loras: 3, max_cpu_loras: 3, max_rank: 16 };
const TOLERANCE: f64 = 2e-3;

/// Adapters with golden logits, and their base.
const BASE: &str = "tiny-llama-untied";
const ADAPTERS: [&str; 3] =
    ["tiny-llama-lora-a", "tiny-llama-lora-b", "tiny-llama-lora-c-rslora-qv"];
/// Adapters with golden answers, and their base.
const CHAT: &str = "tiny-chat";
const CHAT_ADAPTERS: [&str; 2] = ["tiny-chat-lora-a", "tiny-chat-lora-b"];

fn with_room(layout: Layout) -> Layout {
    Layout { dtype: Some(Dtype::F32), lora: Some(ROOM), ..layout }
}

fn config(base: &str) -> ModelConfig {
    ModelConfig::load(&golden::model(base).unwrap().join("config.json")).unwrap()
}

fn open(folder: &Path, base: &str) -> Arc<Adapter> {
    Arc::new(Adapter::open(folder, &config(base), ROOM.max_rank).unwrap())
}

/// A group that knows these adapters, numbered from 1.
fn load(base: &str, layout: Layout, adapters: &[Arc<Adapter>]) -> Ranks {
    let mut ranks = Ranks::load(&golden::model(base).unwrap(), layout).unwrap();
    for rank in ranks.stages.iter_mut().flatten() {
        for (id, adapter) in (1..).zip(adapters) {
            rank.add_adapter(AdapterId(id), Arc::clone(adapter)).unwrap();
        }
    }
    ranks
}

fn rows(logits: &troupe_gpu::executor::Logits) -> Vec<Vec<f32>> {
    logits.host_values().chunks(logits.columns).map(<[f32]>::to_vec).collect()
}

fn same_bits(what: &str, found: &[f32], expected: &[f32]) {
    let differ = found.iter().zip(expected).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert_eq!((differ, found.len()), (0, expected.len()), "{what}");
}

#[test]
fn every_adapter_agrees_with_its_golden_values_in_every_layout() {
    let Some(_) = golden::model(BASE) else { return };
    for name in ADAPTERS {
        let Some(folder) = golden::adapter(name) else { continue };
        let (golden, prompts) = (golden_tensors(name), prompts(name).unwrap());
        for (tensor, pipeline) in LAYOUTS {
            let layout = with_room(Layout::of(tensor, pipeline));
            let mut ranks = load(BASE, layout, &[open(&folder, BASE)]);
            let mut sequences = of_adapter(Some(AdapterId(1)), &prompts);
            let work: Vec<_> = prompts.iter().map(|p| (p.ids.len(), LogitRows::Last)).collect();
            let mut logits = ranks.forward(&mut sequences, &work);
            for (prompt, row) in prompts.iter().zip(rows(&logits)) {
                let expected = &golden[&format!("last_logits.{}.f64", prompt.id)];
                let worst = row.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs());
                let worst = worst.fold(0.0, f64::max);
                assert!(worst <= TOLERANCE, "{name} {}, {layout:?}: {worst}", prompt.id);
            }
            for at in 0..prompts[0].greedy_ids.len() {
                let chosen = ranks.sample_greedily(logits, &mut sequences);
                for (prompt, token) in prompts.iter().zip(chosen) {
                    let what = format!("{name} {}, token {at}, {layout:?}", prompt.id);
                    assert_eq!(token, prompt.greedy_ids[at], "{what}");
                }
                logits = ranks.forward(&mut sequences, &vec![(1, LogitRows::Last); prompts.len()]);
            }
        }
    }
}

fn of_adapter(adapter: Option<AdapterId>, prompts: &[Prompt]) -> Vec<Sequence> {
    let sequence =
        |(at, prompt): (usize, &Prompt)| Sequence { adapter, ..Sequence::new(at, &prompt.ids) };
    prompts.iter().enumerate().map(sequence).collect()
}

#[test]
fn thirty_two_of_three_adapters_and_the_base_in_one_batch_are_each_their_own() {
    let folders: Option<Vec<_>> = ADAPTERS.iter().map(|name| golden::adapter(name)).collect();
    let (Some(folders), Some(_)) = (folders, golden::model(BASE)) else { return };
    let adapters: Vec<_> = folders.iter().map(|folder| open(folder, BASE)).collect();
    let names = [BASE, ADAPTERS[0], ADAPTERS[1], ADAPTERS[2]];
    let goldens = names.map(|name| prompts(name).unwrap());
    for (tensor, pipeline) in [(1, 1), (2, 1), (2, 2)] {
        let layout = Layout { sequences: 32, ..with_room(Layout::of(tensor, pipeline)) };
        let mut ranks = load(BASE, layout, &adapters);
        // Every prompt with everything, twice, so that neighbours differ in both.
        let places: Vec<_> = (0..32).map(|at| (at % 4, (at / 4 + at) % 4)).collect();
        let mut sequences: Vec<_> = places
            .iter()
            .enumerate()
            .map(|(at, &(prompt, who))| Sequence {
                adapter: (who > 0).then_some(AdapterId(who as u32)),
                ..Sequence::among(32, at, &goldens[who][prompt].ids)
            })
            .collect();
        // A step takes 256 tokens: prompts go in four at a time, tokens all together.
        for (four, places) in sequences.chunks_mut(4).zip(places.chunks(4)) {
            let work: Vec<_> = four.iter().map(|s| (s.tokens.len(), LogitRows::Last)).collect();
            let logits = ranks.forward(four, &work);
            let chosen = ranks.sample_greedily(logits, four);
            for (token, (prompt, who)) in chosen.iter().zip(places) {
                assert_eq!(*token, goldens[*who][*prompt].greedy_ids[0], "{}", names[*who]);
            }
        }
        for at in 1..goldens[0][0].greedy_ids.len() {
            let logits = ranks.forward(&mut sequences, &[(1, LogitRows::Last); 32]);
            let chosen = ranks.sample_greedily(logits, &mut sequences);
            for (token, (prompt, who)) in chosen.iter().zip(&places) {
                let what = format!("{} prompt {prompt}, token {at}, {layout:?}", names[*who]);
                assert_eq!(*token, goldens[*who][*prompt].greedy_ids[at], "{what}");
            }
        }
    }
}

/// The golden answers of an adapter on the chat model: prompt and answer.
fn answers(name: &str) -> Vec<(Vec<u32>, Vec<u32>)> {
    let golden = golden::json(&format!("models/{name}/golden_chat.json")).unwrap();
    let ids = |value: &serde_json::Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let chats = golden["chats"].as_array().unwrap().iter();
    chats.map(|chat| (ids(&chat["prompt_ids"]), ids(&chat["completion_ids"]))).collect()
}

#[test]
fn chat_adapters_give_their_answers_word_for_word() {
    let mut checked = 0;
    for name in CHAT_ADAPTERS {
        let Some(folder) = golden::adapter(name) else { continue };
        for (tensor, pipeline) in LAYOUTS {
            let layout = with_room(Layout::of(tensor, pipeline));
            let mut ranks = load(CHAT, layout, &[open(&folder, CHAT)]);
            for (prompt, answer) in answers(name) {
                let new = Sequence::new(0, &prompt);
                let mut one = [Sequence { adapter: Some(AdapterId(1)), ..new }];
                let mut logits = ranks.forward(&mut one, &[(prompt.len(), LogitRows::Last)]);
                for (at, expected) in answer.iter().enumerate() {
                    let token = ranks.sample_greedily(logits, &mut one)[0];
                    assert_eq!(token, *expected, "{name}, {layout:?}, token {at}");
                    logits = ranks.forward(&mut one, &[(1, LogitRows::Last)]);
                }
            }
        }
        checked += 1;
    }
    assert!(checked > 0, "no adapter is in {}", golden::dir().display());
}

/// Logits of one prompt for each of `who`, together in one step.
fn together(ranks: &mut Ranks, ids: &[u32], who: &[Option<u32>]) -> Vec<Vec<f32>> {
    let sequence = |(at, id): (usize, &Option<u32>)| Sequence {
        adapter: id.map(AdapterId),
        ..Sequence::new(at, ids)
    };
    let mut sequences: Vec<_> = who.iter().enumerate().map(sequence).collect();
    rows(&ranks.forward(&mut sequences, &vec![(ids.len(), LogitRows::Last); who.len()]))
}

#[test]
fn a_row_is_the_same_to_the_bit_whatever_else_is_in_the_batch() {
    let a = open(&golden::adapter("tiny-chat-lora-a").unwrap(), CHAT);
    let other = tempfile::tempdir().unwrap();
    let b = open(&files::write(&config(CHAT), other.path(), 3, 11), CHAT);
    let ids = &prompts(CHAT).unwrap()[1].ids;
    for quantize in [None, Some(Quantize::Int8)] {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for (tensor, pipeline) in [(1, 1), (2, 2)] {
                let layout = Layout { quantize, ..Layout::of(tensor, pipeline) };
                let layout = Layout { dtype: Some(dtype), ..with_room(layout) };
                let adapters = [Arc::clone(&a), Arc::clone(&b)];
                let mut plain = load(CHAT, Layout { lora: None, ..layout }, &[]);
                let base = together(&mut plain, ids, &[None]).remove(0);
                let mut ranks = load(CHAT, layout, &adapters);
                let alone: Vec<_> = [None, Some(1), Some(2)]
                    .into_iter()
                    .map(|who| together(&mut ranks, ids, &[who]).remove(0))
                    .collect();
                same_bits(&format!("the base, {layout:?}"), &alone[0], &base);
                assert_ne!(alone[1], alone[0], "an adapter adds something");
                assert_ne!(alone[2], alone[0], "an adapter adds something");
                for who in [[2, 0, 1, 0], [0, 1, 1, 2]] {
                    let asked = who.map(|id| (id > 0).then_some(id as u32));
                    let found = together(&mut ranks, ids, &asked);
                    for (found, id) in found.iter().zip(who) {
                        same_bits(&format!("{who:?} {layout:?}"), found, &alone[id]);
                    }
                }
            }
        }
    }
}

#[test]
fn what_gives_way_on_the_device_and_on_the_host_comes_back_the_same() {
    let folders: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let of = |(seed, folder): (u64, &tempfile::TempDir)| {
        open(&files::write(&config(CHAT), folder.path(), 2, seed), CHAT)
    };
    let adapters: Vec<_> = (1..).zip(&folders).map(of).collect();
    let ids = &prompts(CHAT).unwrap()[1].ids;
    let layout = with_room(Layout::SINGLE);
    let small = LoraLimits { max_loras: 1, max_cpu_loras: 2, max_rank: 16 };
    let mut large = load(CHAT, layout, &adapters[..3]);
    let mut tight = load(CHAT, Layout { lora: Some(small), ..layout }, &adapters);
    // The files may go: they are mapped.
    drop(folders);
    for id in [1, 2, 3, 1, 3, 2, 2, 1] {
        let expected = together(&mut large, ids, &[Some(id)]).remove(0);
        let found = together(&mut tight, ids, &[Some(id)]).remove(0);
        same_bits(&format!("adapter {id}"), &found, &expected);
    }
    // Unknown ones, known ones, and more than there is room for.
    let rank = &mut tight.stages[0][0];
    assert!(rank.add_adapter(AdapterId(1), Arc::clone(&adapters[0])).is_err());
    rank.remove_adapter(AdapterId(1));
    rank.remove_adapter(AdapterId(1));
    rank.add_adapter(AdapterId(1), Arc::clone(&adapters[3])).unwrap();
    let changed = together(&mut tight, ids, &[Some(1)]).remove(0);
    assert_ne!(changed, together(&mut large, ids, &[Some(1)]).remove(0));
    for broken in [vec![Some(7)], vec![Some(1), Some(2)]] {
        let mut ranks = load(CHAT, Layout { lora: Some(small), ..layout }, &adapters);
        let error = one_step(ranks.stages[0][0].as_mut(), ids, &broken).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("not known") || said.contains("1 fit"), "{said}");
    }
    let mut without = load(CHAT, Layout { lora: None, ..layout }, &[]);
    assert!(without.stages[0][0].add_adapter(AdapterId(1), Arc::clone(&adapters[0])).is_err());
}

fn one_step(
    rank: &mut dyn Executor,
    ids: &[u32],
    who: &[Option<u32>],
) -> Result<(), troupe_gpu::error::DeviceError> {
    let sequence = |(at, id): (usize, &Option<u32>)| Sequence {
        adapter: id.map(AdapterId),
        ..Sequence::new(at, ids)
    };
    let sequences: Vec<_> = who.iter().enumerate().map(sequence).collect();
    let work = vec![(ids.len(), LogitRows::Last); who.len()];
    assert_eq!(rank.coordinate(), Coordinate::default());
    let batch = crate::ranks::batch(troupe_runtime::id::StepId(1), 1, &sequences, &work);
    rank.forward(&batch, troupe_gpu::executor::StageInput::Tokens).map(drop)
}

/// A product with a random adapter on some rows, as every path and thread count computes it.
#[test]
fn what_an_adapter_adds_is_the_same_on_every_kernel_path() {
    let (inputs, outputs, rows) = (300, 130, 9);
    let mut truth: Option<Vec<u32>> = None;
    for mut device in crate::cpu::devices() {
        let mut linear = |seed, outputs: usize, inputs: usize| {
            let values = bytes(Dtype::F32, &noise(seed, outputs * inputs));
            let weight = DenseMatrix::new(values, Dtype::F32, (outputs, inputs)).unwrap();
            let weights = WeightSource::Dense(vec![DensePart { weight, bias: None }]);
            let (storage, quantize) = (Dtype::F32, None);
            let source = LinearSource { in_features: inputs, weights, storage, quantize };
            device.prepare_linear(&source).unwrap()
        };
        let base = linear(1, outputs, inputs);
        let up = |columns: std::ops::Range<usize>, ranks, weight| LoraUp { ranks, columns, weight };
        let weights = LoraWeights {
            down: linear(2, 7, inputs),
            up: vec![up(0..40, 0..3, linear(3, 40, 3)), up(100..130, 3..7, linear(4, 30, 4))],
        };
        let x = buffer(&mut device, &noise(5, rows * inputs), inputs);
        let mut run = |own: &[u32], weights: &LoraWeights<CpuDevice>| {
            let mut out = buffer(&mut device, &vec![0.25; rows * outputs], outputs);
            let lora = &[LoraRows { rows: own, weights }];
            let done =
                device.linear(&x, &base, LinearCall { lora, ..LinearCall::ADD_TO }, &mut out);
            done.map(|()| out.values().to_vec())
        };
        let (some, none) = (run(&[1, 4, 8], &weights).unwrap(), run(&[], &weights).unwrap());
        let all = run(&[0, 1, 2, 3, 4, 5, 6, 7, 8], &weights).unwrap();
        for row in 0..rows {
            let own = row * outputs..(row + 1) * outputs;
            let like = if [1, 4, 8].contains(&row) { &all } else { &none };
            same_bits(&format!("row {row}"), &some[own.clone()], &like[own.clone()]);
            // Outputs that the adapter says nothing of are not touched.
            same_bits("others", &all[own.clone()][40..100], &none[own.clone()][40..100]);
            assert_ne!(all[own.clone()][..40], none[own.clone()][..40]);
            assert_ne!(all[own.clone()][100..], none[own][100..]);
        }
        let found = bits(&some);
        assert_eq!(*truth.get_or_insert_with(|| found.clone()), found);
        // Rows and parts that are not the product's change nothing.
        assert!(run(&[9], &weights).is_err());
        let mut broken = weights;
        broken.up[1].columns = 101..131;
        assert!(run(&[1], &broken).is_err());
        broken.up[1].columns = 100..130;
        broken.up[1].ranks = 4..8;
        assert!(run(&[1], &broken).is_err());
    }
}
