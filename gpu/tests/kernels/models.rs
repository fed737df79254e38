//! Whole models on a CUDA device, and without one: there the host side is over the fake driver,
//! whose kernels the shim runs on the CPU. Logits and tokens are held against the golden values, so
//! launches, layouts and kernels are tested together.

use std::{path::Path, sync::Arc};

use troupe_gpu::{
    LoadRequest,
    cuda::{
        CudaDevice, CudaOptions,
        driver::{Arg, Driver, Geometry},
        fake::{Execute, FakeDriver},
        images::Images,
        nvidia::{self, Nvidia},
    },
    dtype::Dtype,
    error::DeviceError,
    executor::{Executor, LogitRows},
    kv::KvDtype,
    stage::RankExecutor,
    tensor::Quantize,
};
use troupe_runtime::model::config::ModelConfig;

use crate::{
    golden,
    ranks::{EXPERT_MODELS, F32_MODELS, Layout, Prompt, Ranks, Sequence, golden_tensors, prompts},
    shim,
};

/// Some hundred times what `f32` and `f64` differ by, as for the CPU device.
const TOLERANCE: f64 = 2e-3;
/// Golden tokens that are followed; each is a pass through all layers.
const TOKENS: usize = 4;

#[derive(Debug)]
struct Shim;

impl Execute for Shim {
    fn run(
        &self,
        source: &str,
        name: &str,
        geometry: &Geometry,
        args: &[Arg],
    ) -> Result<(), String> {
        let launch = shim::Launch {
            file: source,
            kernel: name,
            grid: geometry.grid.map(|size| size as usize),
            threads: geometry.block[0],
            shared: geometry.shared as usize,
        };
        let words: Vec<Vec<u64>> = args.iter().map(Arg::words).collect();
        shim::run_words(launch, &words, false)
    }
}

/// What runs kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    /// The shim, on the CPU.
    Shim,
    /// The first device of this machine, by our kernels alone.
    Device,
    /// The same, with the vendor's products.
    DeviceWithLibrary,
}

impl On {
    /// Whether that is not here; says so.
    pub(crate) fn is_missing(self) -> bool {
        match (self, nvidia::devices()) {
            (Self::Shim, _) => shim::is_missing(),
            (_, Ok(_)) => false,
            (_, Err(absent)) => {
                crate::skip::skipped(&format!("no device: {absent}"));
                true
            }
        }
    }

    pub(crate) fn load(self, model: &str, layout: Layout, activations: Dtype) -> Ranks {
        let kernels = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cubins");
        match self {
            Self::Shim => {
                let driver = FakeDriver::new(4 << 30).with_execution(Arc::new(Shim));
                load(&Arc::new(driver), (Images::Blank, model), (layout, activations), true)
            }
            Self::Device | Self::DeviceWithLibrary => {
                let is_own = self == Self::Device;
                let driver = Arc::new(Nvidia::open(0, !is_own).unwrap());
                load(&driver, (Images::Real(kernels), model), (layout, activations), is_own)
            }
        }
    }
}

fn load<D: Driver>(
    driver: &Arc<D>,
    (images, model): (Images, &str),
    (layout, activations): (Layout, Dtype),
    batch_invariant: bool,
) -> Ranks {
    let folder = golden::model(model).unwrap();
    let config = ModelConfig::load(&folder.join("config.json")).unwrap();
    let rank = |request: LoadRequest| -> Result<Box<dyn Executor>, DeviceError> {
        let options = CudaOptions { activations, batch_invariant, graphs: true, threads: 1 };
        let device = CudaDevice::new(Arc::clone(driver), images.clone(), options)?;
        Ok(Box::new(RankExecutor::load(device, request)?))
    };
    Ranks::load_on(&folder, &config, layout, rank).unwrap()
}

fn load_on_cpu(model: &str, layout: Layout) -> Ranks {
    Ranks::load(&golden::model(model).unwrap(), layout).unwrap()
}

fn sequences(prompts: &[Prompt]) -> Vec<Sequence> {
    prompts.iter().enumerate().map(|(at, prompt)| Sequence::new(at, &prompt.ids)).collect()
}

/// Logits of prompts in one step, then of `tokens` further ones that are those of `golden`.
fn logits(ranks: &mut Ranks, prompts: &[Prompt], tokens: usize) -> Vec<Vec<f32>> {
    let mut sequences = sequences(prompts);
    let work: Vec<_> = prompts.iter().map(|p| (p.ids.len(), LogitRows::Last)).collect();
    let mut rows = vec![ranks.forward(&mut sequences, &work).host_values().to_vec()];
    for at in 0..tokens {
        for (sequence, prompt) in sequences.iter_mut().zip(prompts) {
            sequence.tokens.push(prompt.greedy_ids[at]);
        }
        let work = vec![(1, LogitRows::Last); prompts.len()];
        rows.push(ranks.forward(&mut sequences, &work).host_values().to_vec());
    }
    rows
}

/// The root of the mean square of what logits differ by, as a share of that of the logits. Logits
/// of another computation have 1.4.
fn share_off(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f64 {
    assert_eq!(
        found.iter().map(Vec::len).sum::<usize>(),
        expected.iter().map(Vec::len).sum::<usize>()
    );
    let square = |value: f32| f64::from(value) * f64::from(value);
    let pairs = found.iter().flatten().zip(expected.iter().flatten());
    let off: f64 = pairs.map(|(a, b)| square(a - b)).sum();
    (off / expected.iter().flatten().map(|b| square(*b)).sum::<f64>()).sqrt()
}

fn check_float32(on: On) {
    if on.is_missing() {
        return;
    }
    let mut checked = 0;
    for model in F32_MODELS.into_iter().chain(EXPERT_MODELS) {
        let Some(prompts) = prompts(model) else { continue };
        let golden = golden_tensors(model);
        let layout = Layout { dtype: Some(Dtype::F32), ..Layout::SINGLE };
        let mut ranks = on.load(model, layout, Dtype::F32);
        let rows = logits(&mut ranks, &prompts, TOKENS);
        let columns = rows[0].len() / prompts.len();
        for (prompt, row) in prompts.iter().zip(rows[0].chunks(columns)) {
            let expected = &golden[&format!("last_logits.{}.f64", prompt.id)];
            let off = row.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs());
            let off = off.fold(0.0, f64::max);
            assert!(off <= TOLERANCE, "{model} {}: off by {off}", prompt.id);
        }
        for (at, logits) in rows[..TOKENS].iter().enumerate() {
            for (prompt, row) in prompts.iter().zip(logits.chunks(columns)) {
                let best = (0..columns).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
                assert_eq!(best as u32, prompt.greedy_ids[at], "{model} {}, {at}", prompt.id);
            }
        }
        checked += 1;
    }
    assert!(checked > 0);
}

fn check_half_precision(on: On) {
    if on.is_missing() {
        return;
    }
    // Both round activations, but not in the same places, and models of random weights make much of
    // little.
    let mut wrong = Vec::new();
    for (model, dtype, allowed) in [
        ("tiny-llama-tied", Dtype::Bf16, 0.1),
        ("tiny-qwen3", Dtype::Bf16, 0.1),
        ("tiny-gemma3", Dtype::Bf16, 0.1),
        ("tiny-llama-tied", Dtype::F16, 0.02),
        ("tiny-deepseek-v2-lite", Dtype::F16, 0.05),
    ] {
        let Some(prompts) = prompts(model) else { continue };
        let layout = Layout { dtype: Some(dtype), ..Layout::SINGLE };
        let found = logits(&mut on.load(model, layout, dtype), &prompts, TOKENS);
        let expected = logits(&mut load_on_cpu(model, layout), &prompts, TOKENS);
        let off = share_off(&found, &expected);
        eprintln!("{model} in {dtype}: off by {off}");
        if off > allowed {
            wrong.push((model, dtype, off));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

fn check_few_bits(on: On) {
    if on.is_missing() {
        return;
    }
    let of_kv = Layout { kv_dtype: Some(KvDtype::Int8), ..Layout::SINGLE };
    let of = |quantize| Layout { quantize: Some(quantize), ..Layout::SINGLE };
    // Where activations are rounded too, a last bit of difference may round one another way.
    let mut wrong = Vec::new();
    for (model, layout, allowed) in [
        ("tiny-llama-tied", of(Quantize::Int8), 0.1),
        ("tiny-llama-tied", of(Quantize::Int4), 0.1),
        ("tiny-mixtral", of(Quantize::Int8), 0.2),
        ("tiny-qwen3-moe", of(Quantize::Int4), 0.2),
        ("tiny-llama-tied", of_kv, 0.05),
        ("tiny-llama-gptq-int4-g64", Layout::SINGLE, 0.001),
        ("tiny-llama-gptq-int4-g128-actorder", Layout::SINGLE, 0.001),
        ("tiny-llama-awq-int4-g64", Layout::SINGLE, 0.001),
        ("tiny-llama-fp8-block", Layout::SINGLE, 0.001),
        ("tiny-llama-ct-fp8-dynamic", Layout::SINGLE, 0.001),
        ("tiny-llama-ct-w8a8-int8", Layout::SINGLE, 0.001),
    ] {
        let Some(prompts) = prompts(model) else { continue };
        let layout = Layout { dtype: Some(Dtype::F32), ..layout };
        let found = logits(&mut on.load(model, layout, Dtype::F32), &prompts, 1);
        let expected = logits(&mut load_on_cpu(model, layout), &prompts, 1);
        let off = share_off(&found, &expected);
        eprintln!("{model} {:?} {:?}: off by {off}", layout.quantize, layout.kv_dtype);
        if off > allowed {
            wrong.push((model, layout, off));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

fn check_batch_invariance(on: On) {
    if on.is_missing() {
        return;
    }
    for (model, dtype) in [("tiny-llama-tied", Dtype::Bf16), ("tiny-mixtral", Dtype::F32)] {
        let Some(prompts) = prompts(model) else { continue };
        let layout = Layout { dtype: Some(dtype), ..Layout::SINGLE };
        let together = logits(&mut on.load(model, layout, dtype), &prompts, 2);
        for (at, prompt) in prompts.iter().enumerate() {
            // Alone, and token by token instead of at once.
            let mut ranks = on.load(model, layout, dtype);
            let mut sequence = [Sequence::new(0, &prompt.ids)];
            let mut last = Vec::new();
            for _ in 0..prompt.ids.len() {
                let row = ranks.forward(&mut sequence, &[(1, LogitRows::Last)]);
                last = row.host_values().to_vec();
            }
            let columns = last.len();
            let row = &together[0][at * columns..][..columns];
            assert!(row == last, "{model} {}: other bits alone", prompt.id);
        }
    }
}

#[test]
fn float32_models_agree_with_the_golden_values() {
    check_float32(On::Shim);
}

#[test]
fn half_precision_stays_near_the_cpu() {
    check_half_precision(On::Shim);
}

#[test]
fn quantized_weights_and_a_kv_of_bytes_stay_near_the_cpu() {
    check_few_bits(On::Shim);
}

#[test]
fn bits_do_not_depend_on_the_step_that_they_are_computed_in() {
    check_batch_invariance(On::Shim);
}

#[test]
fn a_device_agrees_with_the_golden_values() {
    check_float32(On::Device);
    check_float32(On::DeviceWithLibrary);
}

#[test]
fn a_device_stays_near_the_cpu_in_half_precision() {
    check_half_precision(On::Device);
    check_half_precision(On::DeviceWithLibrary);
}

#[test]
fn a_device_stays_near_the_cpu_with_few_bits() {
    check_few_bits(On::Device);
}

#[test]
fn a_device_computes_the_same_bits_in_every_step() {
    check_batch_invariance(On::Device);
}
