//! Models come from servers that speak as the hub, a bucket and a web server do, whole, over cuts,
//! and never other than promised.

#[path = "../../../../tests/support/stand.rs"]
mod stand;

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use self::stand::{Fault, Stand};
use super::{access::Network, *};
use crate::model::source::{ModelFiles, ModelSource};

const MODEL: &str = "org/name";
/// Three ranges.
const LARGE: usize = 40 << 20;

fn network(stand: &Stand) -> Network {
    let clouds = [
        ("AWS_ENDPOINT_URL", stand.url()),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_SKIP_SIGNATURE", "true".to_owned()),
        ("AWS_REGION", "here".to_owned()),
    ];
    Network {
        hub: stand.url(),
        hub_token: None,
        authorities: None,
        clouds: clouds.into_iter().collect(),
    }
}

fn files(large: usize) -> Vec<(&'static str, Vec<u8>)> {
    let header = br#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    let mut weights = (header.len() as u64).to_le_bytes().to_vec();
    weights.extend_from_slice(header);
    weights.extend((0..large).map(|index| (index as u32).wrapping_mul(2_654_435_761) as u8));
    vec![
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", br#"{"model":{}}"#.to_vec()),
        ("model.safetensors", weights),
        ("pytorch_model.bin", b"not asked for".to_vec()),
        ("original/consolidated.safetensors", b"nor this".to_vec()),
        ("1_Pooling/config.json", b"{}".to_vec()),
    ]
}

fn bring(model: &str, cache: &Path, network: Network, part: Part) -> Result<ModelSource, String> {
    let access = ModelAccess::of(cache, network);
    fetch(model, &access, part, &|_| {}).map_err(|error| error.to_string())
}

fn same(folder: &Path, stand: &Stand, name: &str) -> bool {
    fs::read(folder.join(name)).is_ok_and(|bytes| bytes == *stand.file(name))
}

#[test]
fn a_model_comes_from_the_hub_once() {
    let (cache, stand) = (tempfile::tempdir().unwrap(), Stand::hub(MODEL, files(LARGE)));
    let text = bring(MODEL, cache.path(), network(&stand), Part::Text).unwrap();
    assert!(same(&text.folder, &stand, "tokenizer.json"));
    assert!(!text.folder.join("model.safetensors").exists(), "a gateway needs no weights");
    // Before the weights are here, their digest is what it will be.
    let access = ModelAccess::of(cache.path(), network(&stand));
    let before = model_digest(&text, &access).unwrap();
    let told = Mutex::new(Vec::new());
    let whole = fetch(MODEL, &access, Part::All, &|it| told.lock().unwrap().push(it)).unwrap();
    let last = *told.lock().unwrap().last().unwrap();
    assert_eq!(last.done, last.total);
    assert_eq!(whole.folder, text.folder);
    for name in ["config.json", "model.safetensors", "1_Pooling/config.json"] {
        assert!(same(&whole.folder, &stand, name), "{name}");
    }
    for name in ["pytorch_model.bin", "original"] {
        assert!(!whole.folder.join(name).exists(), "{name}");
    }
    assert_eq!(model_digest(&whole, &access).unwrap(), before);
    assert_eq!(ModelFiles::find(&whole.folder).unwrap().model_digest().unwrap(), before);
    // As the hub's own tools lay it out, so that they find it too.
    let repository = cache.path().join("models--org--name");
    let commit = fs::read_to_string(repository.join("refs/main")).unwrap();
    assert_eq!(repository.join("snapshots").join(&commit), whole.folder);
    let link = fs::read_link(whole.folder.join("model.safetensors")).unwrap();
    assert!(link.starts_with("../../blobs"), "{link:?}");
    assert!(fs::read_dir(repository.join("blobs")).unwrap().all(|file| {
        let name = file.unwrap().file_name().into_string().unwrap();
        !name.contains('.')
    }));
    // From now on nobody is asked.
    let asked = stand.asked();
    bring(MODEL, cache.path(), network(&stand), Part::All).unwrap();
    assert_eq!(stand.asked(), asked);
    drop(stand);
    let offline = ModelAccess::offline(cache.path());
    assert_eq!(fetch(MODEL, &offline, Part::All, &|_| {}).unwrap(), whole);
}

#[test]
fn of_an_adapters_repository_the_adapter_comes() {
    let files = ["adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer.json"];
    let files = files.map(|name| (name, name.as_bytes().to_vec()));
    let (cache, stand) = (tempfile::tempdir().unwrap(), Stand::hub(MODEL, files.into()));
    let access = ModelAccess::of(cache.path(), network(&stand));
    let folder = fetch_adapter(MODEL, &access).unwrap();
    assert!(same(&folder, &stand, "adapter_config.json"));
    assert!(same(&folder, &stand, "adapter_model.safetensors"));
    assert!(!folder.join("tokenizer.json").exists());
    assert_eq!(fetch_adapter(MODEL, &ModelAccess::offline(cache.path())).unwrap(), folder);
    // A folder is what it is, and a web server cannot say what it has.
    assert_eq!(fetch_adapter("file:///a", &access).unwrap(), Path::new("/a"));
    let error = fetch_adapter("https://nowhere/a", &access).unwrap_err().to_string();
    assert!(error.contains("hf://, s3:// and gs://"), "{error}");
}

#[test]
fn what_is_cut_goes_on_where_it_was_cut() {
    let (cache, stand) = (tempfile::tempdir().unwrap(), Stand::hub(MODEL, files(LARGE)));
    stand.fault(Fault::Cut { after: 5 << 20, times: 6 });
    stand.fault(Fault::Status { status: 503, times: 2 });
    let whole = bring(MODEL, cache.path(), network(&stand), Part::All).unwrap();
    assert!(same(&whole.folder, &stand, "model.safetensors"));
    assert!(stand.sent() < 2 * LARGE as u64, "{} bytes were sent", stand.sent());
}

#[test]
fn a_process_that_starts_again_fetches_the_rest() {
    let (cache, stand) = (tempfile::tempdir().unwrap(), Stand::hub(MODEL, files(LARGE)));
    // What a process leaves that was killed when two of three parts were there, and a third half.
    let (whole, blobs) =
        (stand.file("model.safetensors"), cache.path().join("models--org--name/blobs"));
    let mut left = whole.to_vec();
    left[38 << 20..].fill(0);
    fs::create_dir_all(&blobs).unwrap();
    let blob = |end: &str| blobs.join(format!("{}{end}", stand.sha256("model.safetensors")));
    fs::write(blob(".incomplete"), left).unwrap();
    fs::write(blob(".parts"), "1\n0\n2").unwrap();
    let model = bring(MODEL, cache.path(), network(&stand), Part::All).unwrap();
    assert!(same(&model.folder, &stand, "model.safetensors"));
    assert!(stand.sent() < 9 << 20, "{} bytes were sent", stand.sent());
    assert!(!blob(".parts").exists() && !blob(".incomplete").exists());
}

#[test]
fn two_processes_fetch_a_model_once() {
    let (cache, stand) = (tempfile::tempdir().unwrap(), Stand::hub(MODEL, files(LARGE)));
    std::thread::scope(|scope| {
        let bring = || bring(MODEL, cache.path(), network(&stand), Part::All).unwrap();
        let (one, other) = (scope.spawn(bring), scope.spawn(bring));
        assert_eq!(one.join().unwrap(), other.join().unwrap());
    });
    assert!(stand.sent() < LARGE as u64 + (1 << 20), "{} bytes were sent", stand.sent());
}

#[test]
fn another_file_than_promised_is_refused() {
    let (cache, stand) = (tempfile::tempdir().unwrap(), Stand::hub(MODEL, files(100)));
    stand.fault(Fault::Flip { times: 1 });
    let whole = bring(MODEL, cache.path(), network(&stand), Part::All).unwrap();
    assert!(same(&whole.folder, &stand, "model.safetensors"), "it was fetched again");

    let cache = tempfile::tempdir().unwrap();
    stand.fault(Fault::Flip { times: 1000 });
    let error = bring(MODEL, cache.path(), network(&stand), Part::All).unwrap_err();
    assert!(error.contains("is not the file that it should be"), "{error}");
    let blobs = fs::read_dir(cache.path().join("models--org--name/blobs")).unwrap();
    let weights = stand.sha256("model.safetensors");
    let mut names = blobs.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert!(names.all(|name| !name.starts_with(&weights)), "nothing wrong is kept");
}

#[test]
fn the_hub_is_understood_when_it_says_no() {
    let cases = [
        (401, None, "set HF_TOKEN to a token that may read it"),
        (401, Some("t0"), "does not accept the token"),
        (403, Some("t0"), "ask for access at"),
        (404, None, "has no org/name at revision main"),
        (418, None, "answers 418"),
    ];
    for (status, token, says) in cases {
        let (cache, stand) = (tempfile::tempdir().unwrap(), Stand::hub(MODEL, files(10)));
        stand.fault(Fault::Status { status, times: 1000 });
        let network = Network { hub_token: token.map(str::to_owned), ..network(&stand) };
        let error = bring(MODEL, cache.path(), network, Part::All).unwrap_err();
        assert!(error.contains(says), "{status}: {error}");
        assert!(!error.contains("t0"), "{error}");
    }
}

#[test]
fn a_token_is_for_the_hub_alone() {
    let (cache, stand) = (tempfile::tempdir().unwrap(), Stand::hub(MODEL, files(10)));
    stand.fault(Fault::NeedsToken);
    assert!(bring(MODEL, cache.path(), network(&stand), Part::All).is_err());
    let other = Stand::hub(MODEL, files(10));
    stand.fault(Fault::RedirectTo(other.url()));
    let network = Network { hub_token: Some("t0".into()), ..network(&stand) };
    let whole = bring(MODEL, cache.path(), network, Part::All).unwrap();
    assert!(same(&whole.folder, &stand, "model.safetensors"));
    assert!(other.asked() > 0 && !other.saw_token(), "the bytes come from elsewhere");
}

#[test]
fn a_hub_that_lies_reaches_nothing_outside_the_cache() {
    let (cache, stand) = (tempfile::tempdir().unwrap(), Stand::hub(MODEL, files(10)));
    for path in ["../../x.json", "/etc/x.json", "a//x.json"] {
        stand.fault(Fault::Listing(format!(
            r#"{{"sha":"abc","siblings":[{{"rfilename":"{path}","size":2,"blobId":"{}"}}]}}"#,
            "0".repeat(40)
        )));
        let error = bring(MODEL, cache.path(), network(&stand), Part::All).unwrap_err();
        assert!(error.contains("cannot be read"), "{error}");
    }
    for listing in ["{", "[]", r#"{"sha":"../x"}"#, r#"{"sha":""}"#] {
        stand.fault(Fault::Listing(listing.to_owned()));
        assert!(bring(MODEL, cache.path(), network(&stand), Part::All).is_err(), "{listing}");
    }
}

#[test]
fn a_folder_comes_from_a_web_server_and_from_a_bucket() {
    let stand = Arc::new(Stand::web("models/tiny", files(LARGE)));
    for model in [format!("{}/models/tiny/", stand.url()), "s3://models/tiny".to_owned()] {
        let cache = tempfile::tempdir().unwrap();
        let text = bring(&model, cache.path(), network(&stand), Part::Text).unwrap();
        let access = ModelAccess::of(cache.path(), network(&stand));
        let digest = model_digest(&text, &access).unwrap();
        stand.fault(Fault::Cut { after: 5 << 20, times: 3 });
        let whole = bring(&model, cache.path(), network(&stand), Part::All).unwrap();
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            assert!(same(&whole.folder, &stand, name), "{model} {name}");
        }
        assert_eq!(ModelFiles::find(&whole.folder).unwrap().model_digest().unwrap(), digest);
        // Its source is asked whether it changed, and does not have to answer.
        stand.fault(Fault::Status { status: 503, times: 1000 });
        assert_eq!(bring(&model, cache.path(), network(&stand), Part::All).unwrap(), whole);
        stand.mend();
        let here = ModelSource::resolve(&model, &ModelAccess::offline(cache.path())).unwrap();
        assert_eq!(here, whole);
    }
    let cache = tempfile::tempdir().unwrap();
    for (model, says) in [("s3://", "a bucket looks like"), ("s3://models/none", "has no files")] {
        let error = bring(model, cache.path(), network(&stand), Part::All).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_disk_without_room_is_said_before_it_is_full() {
    let (cache, stand) = (tempfile::tempdir().unwrap(), Stand::hub(MODEL, files(10)));
    let id = "0".repeat(64);
    stand.fault(Fault::Listing(format!(
        r#"{{"sha":"abc","siblings":[{{"rfilename":"a.safetensors","lfs":
        {{"sha256":"{id}","size":{}}}}}]}}"#,
        1_u64 << 60
    )));
    let error = bring(MODEL, cache.path(), network(&stand), Part::All).unwrap_err();
    assert!(error.contains("make room"), "{error}");
}
