//! Adapters written by tests, right and wrong ones.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use troupe_gpu::lora::{Adapter, targets};
use troupe_runtime::model::config::ModelConfig;

use super::{CHAT, config};
use crate::golden;

/// A tensor by name: its shape and its values.
type Tensors = Vec<(String, [usize; 2], Vec<f32>)>;

/// An adapter of random values on all that a model has; its folder.
pub(super) fn write(model: &ModelConfig, folder: &Path, rank: usize, seed: u64) -> PathBuf {
    let tensors = tensors(model, rank, seed);
    save(folder, &json!({}), rank, &tensors);
    folder.to_owned()
}

fn tensors(model: &ModelConfig, rank: usize, seed: u64) -> Tensors {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut tensors = Tensors::new();
    for layer in 0..model.num_layers {
        for target in targets::of_layer(model, layer) {
            let name = format!("base_model.model.model.layers.{layer}.{}", target.module);
            for (factor, shape) in
                [("lora_A", [rank, target.inputs]), ("lora_B", [target.outputs, rank])]
            {
                let count = shape[0] * shape[1];
                let values = (0..count).map(|_| random.random_range(-0.1..0.1)).collect();
                tensors.push((format!("{name}.{factor}.weight"), shape, values));
            }
        }
    }
    tensors
}

/// Writes both files; `changes` are made to a config that is right.
fn save(folder: &Path, changes: &Value, rank: usize, tensors: &Tensors) {
    let mut config = json!({
        "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none",
        "target_modules": "all-linear", "base_model_name_or_path": "org/the-base",
    });
    let changes = changes.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(changes);
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(data);
    fs::write(folder.join("adapter_model.safetensors"), bytes).unwrap();
}

/// What is said of an adapter after `change`.
fn refusal(changes: &Value, change: impl FnOnce(&mut Tensors)) -> String {
    let (model, folder) = (config(CHAT), tempfile::tempdir().unwrap());
    let mut tensors = tensors(&model, 4, 1);
    change(&mut tensors);
    save(folder.path(), changes, 4, &tensors);
    Adapter::open(folder.path(), &model, 8).unwrap_err().to_string()
}

#[test]
fn all_that_is_wrong_with_an_adapter_is_said_at_once() {
    let said = refusal(&json!({}), |tensors| {
        // Renamed, of another shape, of another rank, not finite, of a layer that is not there, of
        // something that has no adapters; and one half is missing.
        tensors.remove(0);
        tensors[0].0 = tensors[0].0.replace("self_attn.q_proj.lora_B", "self_attn.q_proj.lora_C");
        tensors[1].1 = [2, 256];
        tensors[2].1 = [32, 8];
        tensors[4].2[3] = f32::NAN;
        let base = "base_model.model.model";
        let rest = ["layers.9.mlp.up_proj.lora_A.weight", "embed_tokens.lora_embedding_A"];
        tensors.extend(rest.map(|name| (format!("{base}.{name}"), [1, 1], vec![0.0])));
    });
    for part in [
        "layers.0.self_attn.q_proj.lora_C.weight` is no factor of an adapter",
        "the factors of layers.0.self_attn.q_proj are missing",
        "k_proj.lora_A.weight` has shape [2, 256], rank and model imply [4, 128]",
        "layers.0.self_attn.k_proj.lora_B.weight` has shape [32, 8]",
        "layers.0.self_attn.v_proj.lora_B.weight` has values that are no finite numbers",
        "there is no layer 9, the model has 4",
        "adapters on embeddings are not served",
        "(it was made for org/the-base)",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn rank_targets_and_halves_must_be_those_of_the_config() {
    let said = refusal(&json!({"r": 16}), |_| {});
    assert!(said.contains("its rank is 16, --max-lora-rank allows up to 8"), "{said}");
    assert!(said.contains("has shape [4, 128], rank and model imply [16, 128]"), "{said}");
    let said = refusal(&json!({"target_modules": ["q_proj", "lm_head"]}), |_| {});
    assert!(said.contains("layers.0.mlp.up_proj has tensors, but is not among"), "{said}");
    assert!(said.contains("target module lm_head is none that adapters can be on"), "{said}");
    let said = refusal(&json!({}), |tensors| {
        tensors[1].0 = tensors[1].0.replace("base_model.model.model.", "base_model.model.");
    });
    assert!(said.contains("layers.0.self_attn.q_proj is there by two names"), "{said}");
    let said = refusal(&json!({}), |tensors| drop(tensors.remove(1)));
    assert!(said.contains("layers.0.self_attn.q_proj.lora_B.weight` is missing"), "{said}");
    assert!(!said.contains("lora_A.weight` is missing"), "{said}");
}

#[test]
fn files_that_are_not_there_or_no_adapters_are_said_so() {
    let (model, folder) = (config(CHAT), tempfile::tempdir().unwrap());
    let open = || Adapter::open(folder.path(), &model, 8).unwrap_err().to_string();
    assert!(open().contains("adapter_config.json"), "{}", open());
    save(folder.path(), &json!({}), 4, &Tensors::new());
    assert!(open().contains("are missing"), "{}", open());
    let weights = folder.path().join("adapter_model.safetensors");
    fs::write(&weights, [7; 64]).unwrap();
    assert!(open().contains("adapter_model.safetensors"), "{}", open());
    fs::remove_file(&weights).unwrap();
    assert!(open().contains("there is no adapter_model.safetensors"), "{}", open());
    fs::write(folder.path().join("adapter_model.bin"), "").unwrap();
    assert!(open().contains("there is adapter_model.bin, but only"), "{}", open());
    fs::write(folder.path().join("adapter_config.json"), "[").unwrap();
    assert!(open().contains("is no JSON object"), "{}", open());
}

#[test]
fn an_adapter_of_another_base_is_refused_by_that_base() {
    let folder = golden::adapter("tiny-chat-lora-a").unwrap();
    for other in ["tiny-llama-tied", "tiny-gemma2", "tiny-qwen2"] {
        let error = Adapter::open(&folder, &config(other), 16).unwrap_err().to_string();
        assert!(error.contains("rank and model imply"), "{other}: {error}");
        assert!(error.contains("made for tiny-chat"), "{other}: {error}");
    }
    // One of a model with latent attention has none of these products.
    let error = Adapter::open(&folder, &config("tiny-deepseek-v2"), 16).unwrap_err().to_string();
    assert!(error.contains("none that adapters can be on"), "{error}");
}

#[test]
fn the_digest_is_that_of_both_files() {
    let (model, folder) = (config(CHAT), tempfile::tempdir().unwrap());
    let open = |folder: &Path| Adapter::open(folder, &model, 16).unwrap().digest();
    let first = open(&write(&model, folder.path(), 4, 1));
    assert_eq!(first, open(&write(&model, folder.path(), 4, 1)));
    assert_ne!(first, open(&write(&model, folder.path(), 4, 2)));
    save(folder.path(), &json!({"lora_alpha": 5}), 4, &tensors(&model, 4, 1));
    assert_ne!(first, open(folder.path()));
}
