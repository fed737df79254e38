//! Weights and configs that an enemy wrote: refused, or read as what they say. Nothing panics,
//! nothing is allocated for what is only claimed.

use std::fs;

use rand::RngExt;
use troupe_gpu::{lora::Adapter, weights::safetensors::TensorFile};
use troupe_runtime::model::config::ModelConfig;

use crate::{
    fuzz_inputs::{change_bytes, changed, each},
    golden,
    ranks::{Layout, Ranks},
};

/// The header as JSON with things changed in it, as long as it says, and sometimes a length that it
/// has not.
#[test]
fn headers_of_weights_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let good =
        fs::read(golden::model("tiny-llama-tied").unwrap().join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let (header, data) = good[8..].split_at(length);
    let corpus =
        [header.to_vec(), br#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#.to_vec()];
    let (read, of) = each(3000, |random| {
        let header = changed(random, &corpus);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        if random.random_bool(0.1) {
            change_bytes(random, &mut bytes);
            bytes.resize(8, 0xff);
        }
        bytes.extend(&header);
        let kept =
            if random.random_bool(0.9) { data.len() } else { random.random_range(0..data.len()) };
        // A few thousand bytes are as good as all of them where they belong to nobody.
        bytes.extend(&data[..kept]);
        fs::write(&path, bytes).unwrap();
        let Ok(file) = TensorFile::open(path.clone()) else { return false };
        for name in file.names() {
            if let Ok(tensor) = file.tensor(name) {
                let _ = tensor.bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            }
        }
        true
    });
    assert!(of == 1 || (1..of).contains(&read), "{read} of {of} are read");
}

/// An adapter's files with things changed in them; what is read has only what its model has.
#[test]
fn files_of_adapters_are_read_or_refused() {
    let model = ModelConfig::load(&golden::model("tiny-chat").unwrap().join("config.json"));
    let (model, good) = (model.unwrap(), golden::adapter("tiny-chat-lora-a").unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (config, weights) = ("adapter_config.json", "adapter_model.safetensors");
    let [config_bytes, bytes] = [config, weights].map(|name| fs::read(good.join(name)).unwrap());
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let (header, data) = bytes[8..].split_at(length);
    let (configs, headers) = ([config_bytes.clone()], [header.to_vec()]);
    let (read, of) = each(600, |random| {
        let of_config = random.random_bool(0.7);
        let own = if of_config { changed(random, &configs) } else { config_bytes.clone() };
        fs::write(folder.path().join(config), own).unwrap();
        let header = if of_config { header.to_vec() } else { changed(random, &headers) };
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend(data);
        fs::write(folder.path().join(weights), bytes).unwrap();
        Adapter::open(folder.path(), &model, 64).is_ok()
    });
    assert!(of == 1 || (1..of).contains(&read), "{read} of {of} are read");
}

/// A config that is right by itself and does not belong to these weights.
#[test]
fn a_config_of_other_weights_is_refused() {
    let folder = golden::model("tiny-qwen2").unwrap();
    let good = [fs::read(folder.join("config.json")).unwrap()];
    let (loaded, of) = each(400, |random| {
        let bytes = changed(random, &good);
        let Ok(config) = ModelConfig::parse(&folder.join("config.json"), &bytes) else {
            return false;
        };
        let layout = if random.random_bool(0.5) { Layout::SINGLE } else { Layout::of(2, 1) };
        Ranks::load_as(&folder, &config, layout).is_ok()
    });
    assert!(of == 1 || (1..of).contains(&loaded), "{loaded} of {of} load");
}
