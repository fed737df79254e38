//! What is known of a model without loading it: from its folder, if this host has it.
//!
//! The controller need not have the models that it plans; then nothing is known here and the ranks
//! find out when they load.

use std::path::Path;

use troupe_runtime::model::{
    config::ModelConfig,
    gguf,
    source::{ModelAccess, ModelFiles, ModelSource},
};

use super::memory::ModelFacts;

/// The facts of the model of this URI.
pub(crate) fn of(uri: &str, hub: &ModelAccess) -> Option<ModelFacts> {
    let source = ModelSource::resolve(uri, hub).ok()?;
    let files = ModelFiles::find(&source.folder).ok()?;
    let config = ModelConfig::load(&files.config).ok()?;
    Some(of_config(&config, weight_bytes(&source.folder)?))
}

fn of_config(config: &ModelConfig, weight_bytes: u64) -> ModelFacts {
    let number = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
    let embedding = (config.vocab_size * config.hidden_size) as u64;
    let ends = if config.tie_word_embeddings { embedding } else { 2 * embedding };
    // What the files hold of layers, up to norms and biases.
    let feed_forward = |layer| config.feed_forward_elements(layer).0;
    let layers = config.num_layers * config.attention_elements()
        + (0..config.num_layers).map(feed_forward).sum::<usize>();
    let all = ends + layers as u64;
    // Whatever type the weights are stored in, the ends have their share of the bytes.
    let share = u128::from(weight_bytes) * u128::from(ends) / u128::from(all.max(1));
    let values = config.num_layers * config.kv_elements();
    ModelFacts {
        weight_bytes,
        ends_bytes: share as u64,
        layers: number(config.num_layers),
        // A latent row is one head's, which every rank has whole.
        kv_heads: config.latent.map_or(number(config.num_kv_heads), |_| 1),
        kv_bytes_per_token: values as u64 * KV_VALUE_BYTES,
        hidden_size: number(config.hidden_size),
        intermediate_size: number(config.intermediate_size),
        vocab_size: number(config.vocab_size),
        max_model_len: number(config.max_position_embeddings),
    }
}

/// What all weight files of a folder hold.
fn weight_bytes(folder: &Path) -> Option<u64> {
    if gguf::is_gguf(folder) {
        return std::fs::metadata(folder).ok().map(|file| file.len());
    }
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).ok()? {
        let path = entry.ok()?.path();
        if path.extension().is_some_and(|end| end == "safetensors") {
            bytes += std::fs::metadata(&path).ok()?.len();
        }
    }
    (bytes > 0).then_some(bytes)
}

/// At most: float32 is the widest that keys and values are stored in, whatever a service's flags
/// say.
const KV_VALUE_BYTES: u64 = 4;
