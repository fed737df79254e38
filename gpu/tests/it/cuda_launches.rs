//! Whole models on the CUDA device's host side, over the fake driver: every launch of a pass is one
//! that its kernel declares, with pointers that stay within live allocations. What is computed is
//! not looked at here, because nothing is.

#![allow(clippy::unwrap_used, reason = "tests may stop at the first surprise")]

use std::{collections::BTreeSet, sync::Arc};

use troupe_gpu::{
    LoadRequest,
    choose::load_onto,
    collective::Alone,
    cuda::{
        CudaDevice, CudaOptions,
        driver::Fault,
        fake::{Call, FakeDriver, Work},
        images::Images,
    },
    dtype::Dtype,
    error::DeviceError,
    executor::{Executor, LogitRows},
    kv::KvDtype,
    stage::RankExecutor,
    tensor::Quantize,
};
use troupe_runtime::{id::Coordinate, model::config::ModelConfig};

use crate::{
    golden,
    ranks::{
        BF16_MODELS, EXPERT_MODELS, F32_MODELS, Layout, Ranks, SEQUENCES, Sequence, prompts,
        request,
    },
};

const QUANTIZED: [&str; 10] = [
    "tiny-llama-awq-int4-g64",
    "tiny-llama-ct-fp8-dynamic",
    "tiny-llama-ct-fp8-static",
    "tiny-llama-ct-w4a16-g64",
    "tiny-llama-ct-w8a16",
    "tiny-llama-ct-w8a8-int8",
    "tiny-llama-fp8-block",
    "tiny-llama-gptq-int4-g128-actorder",
    "tiny-llama-gptq-int4-g64",
    "tiny-llama-gptq-int4-g64-asym",
];

fn fake() -> Arc<FakeDriver> {
    Arc::new(FakeDriver::new(4 << 30))
}

fn options(activations: Dtype) -> CudaOptions {
    CudaOptions { activations, batch_invariant: false, graphs: true, threads: 1 }
}

fn load(
    driver: &Arc<FakeDriver>,
    model: &str,
    layout: Layout,
    activations: Dtype,
) -> Result<Ranks, DeviceError> {
    let folder = golden::model(model).unwrap();
    let config = ModelConfig::load(&folder.join("config.json")).unwrap();
    let rank = |request: LoadRequest| -> Result<Box<dyn Executor>, DeviceError> {
        let device = CudaDevice::new(Arc::clone(driver), Images::Blank, options(activations))?;
        Ok(Box::new(RankExecutor::load(device, request)?))
    };
    Ranks::load_on(&folder, &config, layout, rank)
}

/// A prompt step, one of prompts and single tokens, and steps of single tokens.
fn run(ranks: &mut Ranks, prompts: &[crate::ranks::Prompt]) {
    let new = |(at, prompt): (usize, &crate::ranks::Prompt)| Sequence::new(at, &prompt.ids);
    let mut sequences: Vec<Sequence> = prompts.iter().enumerate().map(new).collect();
    assert!(sequences.len() <= SEQUENCES);
    let work: Vec<_> = sequences.iter().map(|s| (s.tokens.len(), LogitRows::All)).collect();
    let rows: usize = work.iter().map(|(rows, _)| rows).sum();
    assert_eq!(ranks.forward(&mut sequences, &work).rows, rows);
    let work = vec![(1, LogitRows::Last); sequences.len()];
    for _ in 0..3 {
        sequences.iter_mut().for_each(|sequence| sequence.tokens.push(1));
        let logits = ranks.forward(&mut sequences, &work);
        assert_eq!(logits.host_values().len(), sequences.len() * logits.columns);
    }
    // A sequence that goes on between prompts that begin.
    let mut mixed: Vec<Sequence> = sequences[..1].to_vec();
    mixed[0].tokens.push(2);
    mixed.extend((1..sequences.len()).map(|at| new((at, &prompts[at]))));
    let work: Vec<_> =
        mixed.iter().map(|s| (s.tokens.len() - s.computed, LogitRows::Last)).collect();
    ranks.forward(&mut mixed, &work);
}

fn kernels(driver: &FakeDriver) -> BTreeSet<String> {
    let names = driver.take().into_iter().filter_map(|work| match work {
        Work::Kernel { name, .. } => Some(name),
        _ => None,
    });
    names.collect()
}

#[test]
fn every_model_enqueues_launches_that_its_kernels_declare() {
    let models = F32_MODELS.iter().chain(&EXPERT_MODELS).chain(&BF16_MODELS);
    let mut seen = BTreeSet::new();
    for model in models {
        let Some(prompts) = prompts(model) else { continue };
        for (dtype, products) in
            [(Dtype::F32, false), (Dtype::Bf16, false), (Dtype::F16, true), (Dtype::Bf16, true)]
        {
            let driver = match products {
                true => Arc::new(FakeDriver::new(4 << 30).with_products()),
                false => fake(),
            };
            let layout = Layout { dtype: Some(dtype), ..Layout::SINGLE };
            let mut ranks = load(&driver, model, layout, dtype).unwrap();
            run(&mut ranks, &prompts);
            let found = kernels(&driver);
            assert!(found.iter().any(|name| name.contains("norm")), "{model}: {found:?}");
            seen.extend(found);
            drop(ranks);
            assert_eq!(driver.allocated(), 0, "{model} leaves memory behind");
        }
    }
    for name in ["attention_any", "product_any", "embed_f32", "rope_write_kv_bf16"] {
        assert!(seen.contains(name), "{name} is not among {seen:?}");
    }
}

#[test]
fn quantized_models_do_too() {
    let mut checked = 0;
    for model in QUANTIZED {
        let Some(prompts) = prompts(model) else { continue };
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let driver = fake();
            let layout = Layout { dtype: Some(dtype), ..Layout::SINGLE };
            let mut ranks = load(&driver, model, layout, dtype).unwrap();
            run(&mut ranks, &prompts);
            let found = kernels(&driver);
            let is_quantized = |name: &String| {
                name.contains("coded") || name.contains("decode_") || name.contains("_int")
            };
            assert!(found.iter().any(is_quantized), "{model}: {found:?}");
            checked += 1;
        }
    }
    for (model, quantize) in [
        ("tiny-llama-tied", Quantize::Int8),
        ("tiny-llama-tied", Quantize::Int4),
        ("tiny-mixtral", Quantize::Int8),
        ("tiny-qwen3-moe", Quantize::Int4),
    ] {
        let Some(prompts) = prompts(model) else { continue };
        let driver = fake();
        let layout = Layout { quantize: Some(quantize), ..Layout::SINGLE };
        let mut ranks = load(&driver, model, layout, Dtype::Bf16).unwrap();
        run(&mut ranks, &prompts);
        assert!(kernels(&driver).iter().any(|name| name.contains("_int")));
    }
    eprintln!("{checked} quantized checkpoints");
}

#[test]
fn ranks_and_stages_share_a_model() {
    for (tensor, pipeline) in [(2, 1), (1, 2), (2, 2)] {
        for model in ["tiny-llama-tied", "tiny-mixtral", "tiny-deepseek-v2"] {
            let Some(prompts) = prompts(model) else { continue };
            let driver = fake();
            let layout = Layout { dtype: Some(Dtype::Bf16), ..Layout::of(tensor, pipeline) };
            let mut ranks = load(&driver, model, layout, Dtype::Bf16).unwrap();
            run(&mut ranks, &prompts);
        }
    }
}

#[test]
fn a_kv_of_bytes_has_scales() {
    let prompts = prompts("tiny-llama-tied").unwrap();
    let driver = fake();
    let layout = Layout { kv_dtype: Some(KvDtype::Int8), ..Layout::SINGLE };
    let mut ranks = load(&driver, "tiny-llama-tied", layout, Dtype::Bf16).unwrap();
    run(&mut ranks, &prompts);
    assert!(kernels(&driver).iter().any(|name| name.starts_with("attention")));
}

#[test]
fn decode_steps_are_captured_once_and_launched_as_graphs() {
    let prompts = prompts("tiny-llama-tied").unwrap();
    let driver = fake();
    let mut ranks = load(&driver, "tiny-llama-tied", Layout::SINGLE, Dtype::Bf16).unwrap();
    let prompt = prompts.iter().find(|prompt| prompt.ids.len() > 1).unwrap();
    let mut sequences = vec![Sequence::new(0, &prompt.ids)];
    let work = [(prompt.ids.len(), LogitRows::Last)];
    ranks.forward(&mut sequences, &work);
    let launches = |ranks: &mut Ranks, sequences: &mut Vec<Sequence>| {
        driver.take();
        sequences[0].tokens.push(1);
        ranks.forward(sequences, &[(1, LogitRows::Last)]);
        let all = driver.take();
        let kernels = all.iter().filter(|work| matches!(work, Work::Kernel { .. })).count();
        (kernels, all.iter().filter(|work| matches!(work, Work::Graph(_))).count())
    };
    let (eager, graphs) = launches(&mut ranks, &mut sequences);
    assert!(eager > 20 && graphs == 0, "{eager} launches, {graphs} graphs");
    // The second is captured, and from then on layers are one launch; embedding and head are not
    // layers.
    for _ in 0..3 {
        let (rest, graphs) = launches(&mut ranks, &mut sequences);
        assert!(rest < 6 && graphs == 1, "{rest} launches, {graphs} graphs");
    }
}

#[test]
fn a_step_that_cannot_be_captured_runs_all_the_same() {
    let prompts = prompts("tiny-llama-tied").unwrap();
    let driver = fake();
    let mut ranks = load(&driver, "tiny-llama-tied", Layout::SINGLE, Dtype::Bf16).unwrap();
    driver.fail(Call::Capture, 0, Fault::Other);
    run(&mut ranks, &prompts);
    let graphs = driver.take().into_iter().filter(|work| matches!(work, Work::Graph(_)));
    assert_eq!(graphs.count(), 0);
}

#[test]
fn memory_is_planned_before_anything_is_loaded() {
    let folder = golden::model("tiny-llama-tied").unwrap();
    let config = ModelConfig::load(&folder.join("config.json")).unwrap();
    let load = |driver: &Arc<FakeDriver>, kv_bytes| {
        let (layout, coordinate) = (Layout::SINGLE, Coordinate::default());
        let mut request = request(&folder, &config, layout, coordinate, Box::new(Alone));
        request.device.cuda.kv_bytes = kv_bytes;
        load_onto(Arc::clone(driver), (Images::Blank, None), request)
    };
    let driver = fake();
    let loaded = load(&driver, None).unwrap().memory();
    let kv = u64::from(loaded.blocks[0]) * loaded.block_bytes[0];
    assert!(kv > 2 << 30, "most of the share is left for KV: {loaded:?}");
    assert_eq!(loaded.kernel_path, "cuda/sm_90a");
    let asked = load(&driver, Some(1 << 20)).unwrap().memory();
    assert!(u64::from(asked.blocks[0]) * asked.block_bytes[0] <= 1 << 20);

    for (driver, kv_bytes) in [(Arc::new(FakeDriver::new(64 << 20)), None), (fake(), Some(1 << 40))]
    {
        let error = load(&driver, kv_bytes).err().unwrap();
        let said = error.to_string();
        assert!(matches!(error, DeviceError::OutOfMemory(_)), "{said}");
        assert!(said.contains("weights") && said.contains("What helps"), "{said}");
        assert!(driver.take().is_empty(), "nothing was put onto the device");
    }
}

#[test]
fn a_full_device_says_what_helps() {
    let driver = Arc::new(FakeDriver::new(1 << 20));
    let error = load(&driver, "tiny-llama-tied", Layout::SINGLE, Dtype::F32).err().unwrap();
    let said = error.to_string();
    assert!(matches!(error, DeviceError::OutOfMemory(_)), "{said}");
    assert!(said.contains("--gpu-memory-utilization") && said.contains("are free"), "{said}");
}

#[test]
fn a_device_that_is_lost_fails_the_rank_for_good() {
    let prompts = prompts("tiny-llama-tied").unwrap();
    for call in [Call::Launch, Call::Wait] {
        let driver = fake();
        let mut ranks = load(&driver, "tiny-llama-tied", Layout::SINGLE, Dtype::F32).unwrap();
        driver.fail(call, 0, Fault::Lost);
        let rank = &mut ranks.stages[0][0];
        let mut forward = |ranks_step: u64| {
            let sequence = Sequence::new(0, &prompts[0].ids);
            let work = [(prompts[0].ids.len(), LogitRows::Last)];
            let step = troupe_runtime::id::StepId(ranks_step);
            let batch = crate::ranks::batch(step, 1, &[sequence], &work);
            rank.forward(&batch, troupe_gpu::executor::StageInput::Tokens).unwrap_err().to_string()
        };
        let said = forward(1);
        assert!(said.contains("the device is lost") && said.contains("nvidia-smi"), "{said}");
        assert!(forward(2).contains("an earlier step failed"));
    }
}
