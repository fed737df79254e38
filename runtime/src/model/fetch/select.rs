//! Which of a repository's files a model needs: not the copies in other formats that many bring.

use super::{model::Part, origin::RemoteFile};

/// Whether a file is needed for this part of a model.
pub(crate) fn is_wanted(part: Part, file: &RemoteFile) -> bool {
    let path = file.path.as_str();
    if part == Part::Adapter {
        return ADAPTER_FILES.contains(&path);
    }
    match path.rsplit_once('/') {
        // What sentence-transformers' folders hold: how states are pooled.
        Some((folder, name)) => name == "config.json" && folder.ends_with("_Pooling"),
        None if path.ends_with(".safetensors") => part == Part::All,
        None => TEXT_ENDS.iter().any(|end| path.ends_with(end)) && file.size <= MAX_TEXT_BYTES,
    }
}

/// Whether a path stays below the folder that it is put into.
pub(crate) fn is_inside(path: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0'])
    };
    path.len() <= MAX_PATH && path.split('/').all(plain)
}

/// A LoRA adapter as PEFT writes it.
pub(super) const ADAPTER_FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];
/// Config, tokenizer, templates.
const TEXT_ENDS: [&str; 5] = [".json", ".jinja", ".txt", ".model", ".tiktoken"];
/// The largest tokenizers have some tens of megabytes.
const MAX_TEXT_BYTES: u64 = 256 << 20;
const MAX_PATH: usize = 512;
