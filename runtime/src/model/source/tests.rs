//! What `MODEL` may be, and which files a folder gives.

use std::{ffi::OsString, fs};

use super::*;

fn resolve(model: &str, cache: &Path) -> Result<PathBuf, String> {
    let source = ModelSource::resolve(model, &ModelAccess::offline(cache));
    source.map(|found| found.folder).map_err(|error| error.to_string())
}

fn write(folder: &Path, name: &str, text: &str) {
    let file = folder.join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

#[test]
fn folders_and_uris_are_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let text = path.to_str().unwrap();
    for model in [text.to_owned(), format!("file://{text}"), format!("file://localhost{text}")] {
        assert_eq!(resolve(&model, Path::new("nowhere")).unwrap(), path);
    }
    write(path, "weights.gguf", "");
    assert_eq!(resolve(&format!("{text}/weights.gguf"), path).unwrap(), path.join("weights.gguf"));
    write(path, "weights.bin", "");
    let error = resolve(&format!("{text}/weights.bin"), path).unwrap_err();
    assert!(error.contains("is a file") && error.contains(".gguf"), "{error}");
    let error = resolve("ftp://host/model", path).unwrap_err();
    assert!(error.contains("ftp://") && error.contains("s3://"), "{error}");
    let error = resolve("s3://bucket/model", path).unwrap_err();
    assert!(error.contains("s3://bucket/model is not on this machine"), "{error}");
    assert!(resolve("/no/such/folder", path).unwrap_err().contains("no folder"));
}

#[test]
fn names_are_found_in_the_hubs_cache() {
    let cache = tempfile::tempdir().unwrap();
    write(cache.path(), "models--org--name/refs/main", "abc123\n");
    write(cache.path(), "models--org--name/snapshots/abc123/config.json", "{}");
    let snapshot = cache.path().join("models--org--name/snapshots/abc123");
    for model in ["org/name", "hf://org/name", "org/name@main", "hf://org/name@abc123"] {
        assert_eq!(resolve(model, cache.path()).unwrap(), snapshot, "{model}");
    }
    let error = resolve("org/other", cache.path()).unwrap_err();
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    for model in ["hf://../..", "hf://org/name@../../x", "hf://org", "hf://a/b/c", "hf:///etc"] {
        let error = resolve(model, cache.path()).unwrap_err();
        assert!(error.contains("no name on the hub"), "{model}: {error}");
    }
}

#[test]
fn the_cache_is_where_the_hubs_tools_have_it() {
    let from = |set: &[(&str, &str)]| {
        ModelAccess::from_variables(|name| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
    };
    let hub = |set| from(set).hub_cache().display().to_string();
    assert_eq!(hub(&[("HOME", "/h")]), "/h/.cache/huggingface/hub");
    assert_eq!(hub(&[("HOME", "/h"), ("HF_HOME", "/x")]), "/x/hub");
    assert_eq!(hub(&[("HF_HUB_CACHE", "/y"), ("HF_HOME", "/x")]), "/y");
}

#[test]
fn weights_are_those_of_the_index_and_stay_in_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let find = || ModelFiles::find(path).map_err(|error| error.to_string());
    assert!(find().unwrap_err().contains("`config.json`"));
    write(path, "config.json", "{}");
    assert!(find().unwrap_err().contains("`tokenizer.json`"));
    write(path, "tokenizer.json", "{}");
    assert!(find().unwrap_err().contains("weights"));
    write(path, "part.safetensors", "");
    assert_eq!(find().unwrap().weights, [path.join("part.safetensors")]);
    let index = |map: &str| {
        write(path, "model.safetensors.index.json", &format!("{{\"weight_map\": {map}}}"));
    };
    index(r#"{"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}"#);
    write(path, "1.safetensors", "");
    assert!(find().unwrap_err().contains("2.safetensors"));
    write(path, "2.safetensors", "");
    let names = ["1.safetensors", "2.safetensors"].map(|name| path.join(name));
    assert_eq!(find().unwrap().weights, names);
    for map in [r#"{"a": "../x.safetensors"}"#, r#"{"a": "/x.safetensors"}"#, "{}", "[]"] {
        index(map);
        assert!(find().unwrap_err().contains("weight_map"), "{map}");
    }
}

#[test]
fn digests_tell_fine_tunes_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(path, "config.json", "{}");
    write(path, "tokenizer.json", "{}");
    let mut weights = vec![7; 1 << 20];
    weights[..8].copy_from_slice(&2u64.to_le_bytes());
    let digest = |weights: &[u8]| {
        fs::write(path.join("model.safetensors"), weights).unwrap();
        ModelFiles::find(path).unwrap().model_digest().unwrap()
    };
    let first = digest(&weights);
    assert_eq!(first, digest(&weights));
    let end = weights.len() / 16 * 15 + 100;
    weights[end] = 8;
    assert_ne!(first, digest(&weights));
    // A file that is cut short, or has no room for a header, has a digest all the same.
    assert_ne!(digest(&weights[..100]), digest(&[]));
}
