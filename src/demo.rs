//! The demo model, inside the binary: `troupe up` with no arguments has something to serve.
//!
//! A model is a folder, so it is written to one the first time it is used, under a name that its
//! content decides. What the model is, and how it was made, stands in `deploy/demo-model`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use troupe_runtime::id::Digest;

/// The name that requests use for it.
pub(crate) const NAME: &str = "troupe-demo";

macro_rules! file {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../deploy/demo-model/model/", $name)).as_slice())
    };
}

const FILES: [(&str, &[u8]); 6] = [
    file!("config.json"),
    file!("generation_config.json"),
    file!("model.safetensors"),
    file!("special_tokens_map.json"),
    file!("tokenizer.json"),
    file!("tokenizer_config.json"),
];

/// The folder that holds the demo model, under `cache`; written if it is not there yet.
///
/// # Errors
/// A disk that is full or read-only, with the folder's name.
pub(crate) fn folder(cache: &Path) -> io::Result<PathBuf> {
    let digests: Vec<u8> = FILES.iter().flat_map(|(_, bytes)| Digest::of(bytes).0).collect();
    let digest = Digest::of(&digests).to_string();
    let folder = cache.join(format!("demo-model-{}", digest.get(..16).unwrap_or(&digest)));
    if folder.is_dir() {
        return Ok(folder);
    }
    // Written beside and renamed, so that a folder of that name is always whole. Two processes may
    // do so at once: the second rename then fails on a folder that is as good.
    let new = cache.join(format!("demo-model-new-{}", std::process::id()));
    let write = || {
        fs::create_dir_all(&new)?;
        for (name, bytes) in FILES {
            fs::write(new.join(name), bytes)?;
        }
        fs::rename(&new, &folder)
    };
    match write() {
        Err(error) if !folder.is_dir() => {
            Err(io::Error::new(error.kind(), format!("{}: {error}", folder.display())))
        }
        _ => Ok(folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_once_and_whole() {
        let cache = tempfile::tempdir().expect("a folder");
        let first = folder(cache.path()).expect("written");
        assert!(FILES.iter().all(|(name, bytes)| {
            fs::read(first.join(name)).is_ok_and(|written| written == *bytes)
        }));
        assert_eq!(folder(cache.path()).expect("found"), first);
    }
}
