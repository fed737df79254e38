//! Quantized checkpoints: products of codes on every kernel path, models in each format against
//! their dequantized twins to the bit, golden values, and what is said of files that are wrong.

#![allow(clippy::unwrap_used, reason = "tests may stop at the first surprise")]

mod files;
mod gguf;
mod products;

use troupe_gpu::{
    dtype::Dtype, error::DeviceError, executor::LogitRows, kv::KvDtype, tensor::Quantize,
};

use self::files::{FORMATS, Format, write_model, write_model_of};
use crate::{
    golden,
    ranks::{Layout, Prompt, Ranks, SEQUENCES, Sequence, golden_tensors, prompts},
};

/// Those of the full golden set; the committed one has none, and the tests below write their own.
const MODELS: [&str; 10] = [
    "tiny-llama-gptq-int4-g64",
    "tiny-llama-gptq-int4-g64-asym",
    "tiny-llama-gptq-int4-g128-actorder",
    "tiny-llama-awq-int4-g64",
    "tiny-llama-ct-w4a16-g64",
    "tiny-llama-ct-w8a16",
    "tiny-llama-ct-w8a8-int8",
    "tiny-llama-ct-fp8-dynamic",
    "tiny-llama-ct-fp8-static",
    "tiny-llama-fp8-block",
];
const LAYOUTS: [(usize, usize); 5] = [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)];

/// Last logits of prompts, all in one step.
fn last_logits(ranks: &mut Ranks, sequences: &mut [Sequence]) -> Vec<Vec<f32>> {
    let work: Vec<_> = sequences.iter().map(|s| (s.tokens.len(), LogitRows::Last)).collect();
    let logits = ranks.forward(sequences, &work);
    logits.host_values().chunks(logits.columns).map(<[f32]>::to_vec).collect()
}

fn sequences(prompts: &[Prompt]) -> Vec<Sequence> {
    assert!(prompts.len() <= SEQUENCES);
    prompts.iter().enumerate().map(|(at, prompt)| Sequence::new(at, &prompt.ids)).collect()
}

fn worst(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let apart = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs());
    apart.fold(0.0, |worst, apart| if apart > worst || apart.is_nan() { apart } else { worst })
}

#[test]
fn golden_tokens_and_logits_in_float32() {
    for model in MODELS {
        let Some(prompts) = prompts(model) else { continue };
        let golden = golden_tensors(model);
        for (tensor, pipeline) in LAYOUTS {
            let layout = Layout { dtype: Some(Dtype::F32), ..Layout::of(tensor, pipeline) };
            let mut ranks = Ranks::load(&golden::model(model).unwrap(), layout).unwrap();
            let mut sequences = sequences(&prompts);
            let work: Vec<_> = prompts.iter().map(|p| (p.ids.len(), LogitRows::Last)).collect();
            let mut logits = ranks.forward(&mut sequences, &work);
            for (prompt, row) in prompts.iter().zip(logits.host_values().chunks(logits.columns)) {
                let off = worst(row, &golden[&format!("last_logits.{}.f64", prompt.id)]);
                assert!(off <= 5e-3, "{model} {} {layout:?}: off by {off}", prompt.id);
            }
            for at in 0..prompts[0].greedy_ids.len() {
                let chosen = ranks.sample_greedily(logits, &mut sequences);
                for (prompt, token) in prompts.iter().zip(chosen) {
                    assert_eq!(token, prompt.greedy_ids[at], "{model} {} {layout:?}", prompt.id);
                }
                let work = vec![(1, LogitRows::Last); prompts.len()];
                logits = ranks.forward(&mut sequences, &work);
            }
        }
    }
}

#[test]
fn inputs_are_rounded_as_the_checkpoint_says_by_default() {
    for model in MODELS {
        let Some(prompts) = prompts(model) else { continue };
        let golden = golden_tensors(model);
        if !golden.contains_key("last_logits.p7.act_quant.f32") {
            continue;
        }
        for (tensor, pipeline) in LAYOUTS {
            // As it is served: keys and values in full precision.
            let kv_dtype = Some(KvDtype::F32);
            let layout = Layout { kv_dtype, ..Layout::of(tensor, pipeline) };
            let mut ranks = Ranks::load(&golden::model(model).unwrap(), layout).unwrap();
            let found = last_logits(&mut ranks, &mut sequences(&prompts));
            let golden =
                |prompt: &Prompt, kind: &str| &golden[&format!("last_logits.{}.{kind}", prompt.id)];
            if !model.contains("fp8") {
                for (prompt, found) in prompts.iter().zip(&found) {
                    let off = worst(found, golden(prompt, "act_quant.f32"));
                    assert!(off <= 0.3, "{model} {} {layout:?}: off by {off}", prompt.id);
                }
                continue;
            }
            // Steps of eight-bit floats are so wide that inputs which differ by 1e-6 round to other
            // neighbors and move a logit by up to 0.6 (the simulation behind the golden values,
            // repeated in f64 with norms 1e-6 larger), where not rounding at all moves one by 0.6
            // to 1.3. So over all prompts together it must be clearly nearer to the former.
            let distance = |kind: &str| -> f64 {
                let pairs = prompts.iter().zip(&found);
                let squares = pairs.flat_map(|(prompt, found)| {
                    found.iter().zip(golden(prompt, kind)).map(|(a, b)| (f64::from(*a) - b).powi(2))
                });
                squares.sum::<f64>().sqrt()
            };
            let (rounded, exact) = (distance("act_quant.f32"), distance("f64"));
            assert!(rounded <= 0.7 * exact, "{model} {layout:?}: {rounded} and {exact}");
        }
    }
}

/// Products of single heads, of which some are of transposed weights, and products of experts.
#[test]
fn latent_attention_and_experts_take_quantized_weights_too() {
    let source = golden::model("tiny-deepseek-v2").unwrap();
    let prompt: Vec<u32> = (5..45).collect();
    for format in [Format::Fp8Block, Format::Int8] {
        let folder = tempfile::tempdir().unwrap();
        let (coded, twin) = (folder.path().join("coded"), folder.path().join("twin"));
        write_model_of(&source, format, &coded, &twin);
        for (tensor, pipeline) in [(1, 1), (2, 2)] {
            let layout = Layout { dtype: Some(Dtype::F32), ..Layout::of(tensor, pipeline) };
            let logits = |folder: &std::path::Path| {
                let mut ranks = Ranks::load(folder, layout).unwrap();
                last_logits(&mut ranks, &mut [Sequence::new(0, &prompt)]).remove(0)
            };
            let (found, expected) = (logits(&coded), logits(&twin));
            let differ = found.iter().zip(&expected).filter(|(a, b)| a.to_bits() != b.to_bits());
            assert_eq!(differ.count(), 0, "{format:?} {layout:?}");
        }
    }
}

/// A format's model and its twin whose weights were dequantized: in float32 their products round
/// the same numbers in the same order.
#[test]
fn every_format_gives_the_bits_of_its_dequantized_twin() {
    let prompt: Vec<u32> = (5..45).collect();
    for format in FORMATS {
        let folder = tempfile::tempdir().unwrap();
        let (coded, twin) = (folder.path().join("coded"), folder.path().join("twin"));
        write_model(format, &coded, &twin);
        for (tensor, pipeline) in [(1, 1), (4, 1), (2, 2)] {
            let layout = Layout { dtype: Some(Dtype::F32), ..Layout::of(tensor, pipeline) };
            let logits = |folder: &std::path::Path| {
                let mut ranks = Ranks::load(folder, layout).unwrap();
                last_logits(&mut ranks, &mut [Sequence::new(0, &prompt)]).remove(0)
            };
            let (found, expected) = (logits(&coded), logits(&twin));
            assert!(found.iter().all(|value| value.is_finite()), "{format:?}");
            let differ = found.iter().zip(&expected).filter(|(a, b)| a.to_bits() != b.to_bits());
            assert_eq!(differ.count(), 0, "{format:?} {layout:?}");
        }
    }
}

/// Rounded inputs move logits a little, by the same however the model is divided.
#[test]
fn rounded_inputs_stay_near_and_are_the_same_on_every_number_of_ranks() {
    let prompt: Vec<u32> = (5..45).collect();
    for format in [Format::Int8, Format::Fp8Channel, Format::Fp8Static, Format::Fp8Block] {
        let folder = tempfile::tempdir().unwrap();
        let (coded, twin) = (folder.path().join("coded"), folder.path().join("twin"));
        write_model(format, &coded, &twin);
        let logits = |folder: &std::path::Path, dtype, tensor| {
            let kv_dtype = Some(KvDtype::F32);
            let layout = Layout { dtype, kv_dtype, ..Layout::of(tensor, 1) };
            let mut ranks = Ranks::load(folder, layout).unwrap();
            last_logits(&mut ranks, &mut [Sequence::new(0, &prompt)]).remove(0)
        };
        let exact: Vec<f64> =
            logits(&twin, Some(Dtype::F32), 1).into_iter().map(f64::from).collect();
        let alone = logits(&coded, None, 1);
        let off = worst(&alone, &exact);
        assert!(off > 0.0 && off < 2.5, "{format:?}: {off}");
        let alone: Vec<f64> = alone.into_iter().map(f64::from).collect();
        for tensor in [2, 4] {
            // Sums in another order may round an input to its other neighbor, no more.
            let apart = worst(&logits(&coded, None, tensor), &alone);
            assert!(apart <= 0.3, "{format:?} over {tensor}: {apart}");
        }
    }
}

/// Writes a model, damages it, loads it; the error's text.
fn refused(format: Format, damage: impl FnOnce(&mut files::Tensors)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (coded, twin) = (folder.path().join("coded"), folder.path().join("twin"));
    let mut tensors = write_model(format, &coded, &twin);
    damage(&mut tensors);
    files::write_tensors(&coded, &tensors);
    match Ranks::load(&coded, Layout::SINGLE) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{format:?} loads"),
    }
}

#[test]
fn files_that_are_wrong_are_named_with_what_would_be_right() {
    const DOWN: &str = "model.layers.1.mlp.down_proj";
    let name = |suffix: &str| format!("{DOWN}.{suffix}");
    let why = refused(Format::GptqOrdered, |tensors| {
        tensors.get_mut(&name("g_idx")).unwrap().bytes[..4].copy_from_slice(&[9, 0, 0, 0]);
    });
    assert!(why.contains("g_idx") && why.contains("group 9"), "{why}");
    let why = refused(Format::Gptq, |tensors| drop(tensors.remove(&name("scales"))));
    assert!(why.contains(&name("scales")) && why.contains("missing"), "{why}");
    let why = refused(Format::Awq, |tensors| {
        let qzeros = tensors.get_mut(&name("qzeros")).unwrap();
        qzeros.shape.reverse();
    });
    assert!(why.contains("qzeros") && why.contains("the config implies"), "{why}");
    let why = refused(Format::Int8, |tensors| {
        tensors.get_mut(&name("weight")).unwrap().dtype = "U8";
    });
    assert!(why.contains("U8") && why.contains("I8 is expected"), "{why}");
    let why = refused(Format::Fp8Static, |tensors| {
        let scale = tensors.get_mut(&name("input_scale")).unwrap();
        scale.bytes.fill(0);
    });
    assert!(why.contains("input_scale") && why.contains("no scale"), "{why}");
    let why = refused(Format::Fp8Channel, |tensors| {
        let q = "model.layers.1.self_attn.q_proj";
        let shape = tensors[&format!("{q}.weight")].shape.clone();
        let bytes = vec![0; shape.iter().product::<usize>() * 2];
        let float = files::Tensor { dtype: "BF16", shape, bytes };
        tensors.insert(format!("{q}.weight"), float);
    });
    assert!(why.contains("q_proj` is not quantized"), "{why}");
}

#[test]
fn weights_are_not_quantized_twice() {
    let folder = tempfile::tempdir().unwrap();
    let coded = folder.path().join("coded");
    write_model(Format::Gptq, &coded, &folder.path().join("twin"));
    let layout = Layout { quantize: Some(Quantize::Int4), ..Layout::SINGLE };
    match Ranks::load(&coded, layout) {
        Err(DeviceError::Unsupported(why)) => {
            assert!(why.contains("gptq") && why.contains("--quantization int4"), "{why}");
        }
        other => panic!("{:?}", other.err()),
    }
}
