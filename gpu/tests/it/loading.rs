//! Loading: what each rank comes to hold, and what is said when a model cannot be loaded.

#![allow(clippy::unwrap_used, reason = "tests may stop at the first surprise")]

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use troupe_gpu::{
    collective::Alone,
    error::DeviceError,
    executor::{Executor, HiddenStates, LogitRows, MemoryReport, StageInput, StepBatch},
};
use troupe_runtime::{
    id::{Coordinate, StepId},
    model::config::{AttentionSpan, ModelConfig},
    wire::kv::WireDtype,
};

use crate::{
    golden,
    ranks::{EXPERT_MODELS, F32_MODELS, Layout, Ranks, Sequence, batch, request},
};

fn models() -> impl Iterator<Item = std::path::PathBuf> {
    let names = F32_MODELS.iter().chain(&EXPERT_MODELS);
    let mut models = names.filter_map(|model| golden::model(model)).peekable();
    assert!(models.peek().is_some(), "no model is in {}", golden::dir().display());
    models
}

fn any_model() -> std::path::PathBuf {
    models().find(|folder| folder.join("model.safetensors").is_file()).expect("a model in one file")
}

fn config(folder: &Path) -> ModelConfig {
    ModelConfig::load(&folder.join("config.json")).unwrap()
}

fn memory(folder: &Path, layout: Layout) -> Vec<Vec<MemoryReport>> {
    let ranks = Ranks::load(folder, layout).unwrap();
    let stage = |stage: &Vec<Box<dyn Executor>>| stage.iter().map(|rank| rank.memory()).collect();
    ranks.stages.iter().map(stage).collect()
}

#[test]
fn each_rank_holds_its_share() {
    for folder in models() {
        let whole = memory(&folder, Layout::SINGLE)[0][0].weight_bytes_sharded;
        for tensor in [2, 4] {
            let reports = memory(&folder, Layout::of(tensor, 1));
            for report in &reports[0] {
                assert!(report.weight_bytes_replicated > 0, "norms");
                assert!(report.replicated.contains(&"norm.weight".to_owned()));
                let replicated_kv = report.replicated.iter().any(|name| name.ends_with("k_proj"));
                assert_eq!(replicated_kv, config(&folder).num_kv_heads < tensor);
                if replicated_kv {
                    continue;
                }
                let share = (whole - report.weight_bytes_replicated) as f64 / tensor as f64;
                let held = report.weight_bytes_sharded as f64;
                assert!((held / share - 1.0).abs() < 0.05, "{folder:?}: {held} of {share}");
            }
        }
        let tied = config(&folder).tie_word_embeddings;
        let stages = memory(&folder, Layout::of(1, 4));
        let sum: u64 = stages.iter().flatten().map(|report| report.weight_bytes_sharded).sum();
        assert_eq!(sum > whole, tied, "a tied embedding is at both ends");
    }
}

#[test]
fn progress_ends_at_one() {
    let folder = any_model();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let report = seen.clone();
    let mut request =
        request(&folder, &config(&folder), Layout::SINGLE, Coordinate::default(), Box::new(Alone));
    request.progress = Some(Arc::new(move |share| report.lock().unwrap().push(share)));
    troupe_gpu::load(request).unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!((seen.first(), seen.last()), (Some(&0.0), Some(&1.0)));
}

#[test]
fn sizes_that_do_not_work_are_refused_with_those_that_do() {
    let folder = any_model();
    let refused = |layout| match Ranks::load(&folder, layout) {
        Err(DeviceError::Unsupported(why)) => why,
        other => panic!("{:?}", other.err()),
    };
    let why = refused(Layout::of(3, 1));
    assert!(why.contains('3') && why.contains("1, 2, 4"), "{why}");
    let layers = config(&folder).num_layers;
    let why = refused(Layout::of(1, layers + 1));
    assert!(why.contains(&format!("1 to {layers}")), "{why}");
}

/// Loads a damaged copy of a model; gives the path and the reason of the error.
fn damaged(damage: impl FnOnce(&Path, &mut ModelConfig)) -> (String, String) {
    let source = any_model();
    let folder = tempfile::tempdir().unwrap();
    fs::copy(source.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let weights = folder.path().join("model.safetensors");
    let mut permissions = fs::metadata(&weights).unwrap().permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "a copy in a folder of our own")]
    permissions.set_readonly(false);
    fs::set_permissions(&weights, permissions).unwrap();
    let mut config = config(&source);
    damage(folder.path(), &mut config);
    match Ranks::load_as(folder.path(), &config, Layout::SINGLE) {
        Err(DeviceError::Weights { path, why }) => {
            let path = path.strip_prefix(folder.path()).unwrap_or(&path);
            (path.to_str().unwrap().to_owned(), why)
        }
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn a_file_that_is_cut_short_is_named_with_the_tensor() {
    let (path, why) = damaged(|folder, _| {
        let file = fs::OpenOptions::new().write(true).open(folder.join("model.safetensors"));
        let file = file.unwrap();
        file.set_len(file.metadata().unwrap().len() - 100).unwrap();
    });
    assert_eq!(path, "model.safetensors");
    assert!(why.contains("cut short") && why.contains("tensor `"), "{why}");
}

#[test]
fn a_missing_shard_is_named() {
    let (path, why) = damaged(|folder, _| {
        let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors",
                                       "b": "model-00002-of-00002.safetensors"}}"#;
        fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    });
    assert_eq!(path, "model-00001-of-00002.safetensors");
    assert!(why.contains("cannot be read"), "{why}");
}

#[test]
fn an_index_that_is_wrong_about_a_file_is_an_error() {
    let (path, why) = damaged(|folder, _| {
        let index = r#"{"weight_map": {"no.such.tensor": "model.safetensors"}}"#;
        fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    });
    assert_eq!(path, "model.safetensors");
    assert!(why.contains("no.such.tensor"), "{why}");
}

#[test]
fn a_wrong_shape_is_named_with_both() {
    let (_, why) = damaged(|_, config| config.intermediate_size += 1);
    assert!(why.contains("gate_proj.weight") && why.contains("shape"), "{why}");
    let (_, why) = damaged(|_, config| {
        config.num_layers += 1;
        config.attention.push(AttentionSpan::Full);
    });
    assert!(why.contains("is missing") && why.contains("layers."), "{why}");
}

#[test]
fn everything_that_does_not_fit_is_listed_at_once() {
    // A layer's product by another name, one that is too long, and a bias that nobody knows.
    let (_, why) = damaged(|folder, config| {
        let path = folder.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let renamed = [
            ("layers.1.self_attn.o_proj.weight", "layers.1.self_attn.out_pro.weight"),
            ("layers.2.mlp.down_proj.weight", "layers.2.mlp.down_projs.bias"),
        ];
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
        for (from, to) in renamed {
            assert!(header.contains(from), "{from}");
            header = header.replace(from, to);
        }
        let mut written = (header.len() as u64).to_le_bytes().to_vec();
        written.extend(header.into_bytes());
        written.extend(&bytes[8 + length..]);
        fs::write(path, written).unwrap();
        config.vocab_size += 1;
    });
    for part in [
        "5 tensors do not fit",
        "`model.layers.1.self_attn.o_proj.weight` is missing",
        "`model.layers.1.self_attn.out_pro.weight` has no use",
        "`model.layers.2.mlp.down_proj.weight` is missing",
        "`model.layers.2.mlp.down_projs.bias` has no use",
        "embed_tokens.weight` has shape",
    ] {
        assert!(why.contains(part), "{why} does not say {part}");
    }
}

#[test]
fn layers_of_two_kv_groups_may_lie_on_any_stage() {
    // No golden model of this family mixes spans; what counts here is that stages agree.
    let folder = any_model();
    let mut config = config(&folder);
    for (layer, span) in config.attention.iter_mut().enumerate() {
        *span = if layer < 2 { AttentionSpan::Full } else { AttentionSpan::Window(8) };
    }
    let prompt: Vec<u32> = (3..43).collect();
    let logits = |pipeline: usize| {
        let mut ranks = Ranks::load_as(&folder, &config, Layout::of(1, pipeline)).unwrap();
        let mut sequence = [Sequence::new(0, &prompt)];
        let work = [(40, LogitRows::Last)];
        ranks.forward(&mut sequence, &work).host_values().to_vec()
    };
    let whole = logits(1);
    assert!(whole.iter().all(|value| value.is_finite()));
    assert_eq!(logits(2), whole);
    assert_eq!(logits(4), whole);
}

#[test]
fn a_stage_refuses_what_another_stage_wants() {
    let folder = any_model();
    let mut ranks = Ranks::load(&folder, Layout::of(1, 2)).unwrap();
    let batch = StepBatch::default();
    let hidden =
        HiddenStates { rows: 0, columns: 1, dtype: WireDtype::F32, bytes: bytes::Bytes::new() };
    let first = ranks.stages[0][0].forward(&batch, StageInput::Hidden(hidden.clone()));
    assert!(matches!(first, Err(DeviceError::Contract(_))), "{first:?}");
    let second = ranks.stages[1][0].forward(&batch, StageInput::Tokens);
    assert!(matches!(second, Err(DeviceError::Contract(_))), "{second:?}");
    let third = ranks.stages[1][0].forward(&batch, StageInput::Hidden(hidden));
    assert!(third.is_err(), "an executor that failed stays failed");
}

#[test]
fn a_step_that_fails_on_one_rank_fails_on_all_at_once() {
    let mut ranks = Ranks::load(&any_model(), Layout::of(2, 1)).unwrap();
    let [healthy, failing] = &mut ranks.stages[0][..] else { panic!("two ranks") };
    let sequence = [Sequence::new(0, &[5, 6, 7])];
    let batch = batch(StepId(1), 1, &sequence, &[(3, LogitRows::Last)]);
    let broken = StepBatch { positions: vec![9; 3], ..batch.clone() };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| healthy.forward(&batch, StageInput::Tokens));
        let own = failing.forward(&broken, StageInput::Tokens);
        assert!(matches!(own, Err(DeviceError::Contract(_))), "{own:?}");
        // Not after the deadline, which would say how many ranks had come.
        match other.join().unwrap() {
            Err(DeviceError::Collective(why)) => assert!(why.contains("is gone"), "{why}"),
            other => panic!("{other:?}"),
        }
    });
}
