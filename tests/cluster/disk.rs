//! What happens when the disk below a data directory is full: it is said, and nothing else is
//! disturbed.
//!
//! A full disk is a small tmpfs, mounted in a namespace of the process's own, which takes no
//! privileges where such namespaces are allowed and leaves nothing behind. Where they are not, a
//! test says so and ends. One file that cannot be written is the link `/dev/full`, for which
//! nothing is needed.

use std::{
    fs,
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

use serde_json::json;

use crate::{
    etcd_process::EtcdProcess,
    golden, http,
    process::{Ended, Troupe, completion, until},
};

#[test]
fn a_data_directory_without_room_is_told_by_name() {
    let Some(disk) = Disk::new() else { return };
    // No room for any file; for the CA's second file; for the identity's second file.
    for (room, file) in [
        ("nr_inodes=1", "cannot use the data directory"),
        ("size=4k", "ca/ca.pem"),
        ("size=12k", "control/"),
    ] {
        let ended = disk.run(room, "exec \"$@\"", &up(&disk.path()));
        check(&ended, &[file, &disk.path(), "No space left on device"]);
    }
}

#[test]
fn a_data_directory_that_was_full_can_be_used_once_there_is_room() {
    let Some(disk) = Disk::new() else { return };
    // The first ends before its CA is whole, the second goes on to look for etcd.
    let twice = "{ \"$@\"; mount -o remount,size=1m,nr_inodes=100 none \"$0\"; exec \"$@\"; }";
    for room in ["nr_inodes=1", "size=4k", "size=12k"] {
        let ended = disk.run(room, twice, &up(&disk.path()));
        check(&ended, &["No space left on device", "127.0.0.1:1"]);
    }
}

#[test]
fn a_cache_without_room_for_the_demo_model() {
    let Some(disk) = Disk::new() else { return };
    let cache = "XDG_CACHE_HOME=\"$0\" exec \"$@\"";
    let args = ["up", "--host", "127.0.0.1", "--port", "0"].map(str::to_owned);
    let ended = disk.run("size=16k", cache, &args);
    check(&ended, &[&disk.path(), "No space left on device"]);
}

#[test]
fn a_node_that_cannot_save_its_epochs_ends_and_another_takes_over() {
    let etcd = EtcdProcess::start();
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (endpoint, service, ca) = (etcd.endpoint(), path("service.json"), path("control/ca"));
    fs::write(&service, one_stage()).expect("it can be written");
    let data = path("control");
    let mut args = vec!["up", "--roles", "controller,gateway", "--etcd", &endpoint, "-f", &service];
    args.extend(["--data-dir", &data, "--listen", "127.0.0.1:0"]);
    args.extend(["--host", "127.0.0.1", "--port", "0"]);
    let mut control = Troupe::start(&args);
    let address = control.address("gateway on ");
    let node = |name: &str| {
        let args = ["node", "--etcd", &endpoint, "--name", name, "--data-dir", &path(name)];
        let more = ["--ca", &ca, "--listen", "127.0.0.1:0"];
        args.into_iter().chain(more).map(str::to_owned).collect::<Vec<_>>()
    };

    fs::create_dir(path("full")).expect("it can be made");
    symlink("/dev/full", path("full/epochs.json.new")).expect("it can be made");
    let ended = Troupe::run(&node("full"));
    check(&ended, &[&path("full/epochs.json"), "No space left on device"]);

    let _sound = Troupe::start(&node("sound"));
    until("the other node serves", || {
        let answer = http::post(address, "/v1/completions", &completion(&[1, 2, 3], 2));
        answer.expect("the gateway answers whatever happens behind it").status == 200
    });
}

fn one_stage() -> String {
    let model = golden::model("tiny-qwen2").expect("both sets have it");
    json!({
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "LLMInferenceService",
        "metadata": {"name": "one-stage"},
        "spec": {
            "model": {"uri": format!("file://{}", model.display()), "name": "m"},
            "replicas": 1,
        },
    })
    .to_string()
}

fn up(dir: &str) -> Vec<String> {
    // Nobody listens there.
    let args = ["up", "--etcd", "127.0.0.1:1", "--port", "0", "--data-dir", dir];
    args.map(str::to_owned).to_vec()
}

fn check(ended: &Ended, words: &[&str]) {
    assert!(ended.code.is_some_and(|code| code > 0), "{ended:?}");
    for word in words {
        assert!(ended.log.contains(word), "`{word}` is not said:\n{}", ended.log);
    }
    assert!(!ended.log.contains("panicked"), "{}", ended.log);
}

/// A folder on which a small disk can be mounted for one process.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// None, having said why, where this is not allowed.
    fn new() -> Option<Self> {
        let disk = Self { folder: tempfile::tempdir().expect("a folder") };
        let mut command = Command::new(UNSHARE[0]);
        command.args(&UNSHARE[1..]).arg(mount("size=4k", "true")).arg(disk.folder.path());
        match command.stdin(Stdio::null()).output() {
            Ok(done) if done.status.success() => Some(disk),
            Ok(done) => skip(&String::from_utf8_lossy(&done.stderr)),
            Err(error) => skip(&error.to_string()),
        }
    }

    fn path(&self) -> String {
        self.folder.path().to_str().expect("a path that can be written").to_owned()
    }

    /// Runs `script` on a new disk; in it `$0` is the disk and `$@` is `troupe` with `args`.
    fn run(&self, room: &str, script: &str, args: &[String]) -> Ended {
        let (script, path) = (mount(room, script), self.path());
        let program = [&UNSHARE[..], &[&script, &path]].concat();
        Troupe::run_under(&program, args)
    }
}

fn mount(room: &str, script: &str) -> String {
    format!("mount -t tmpfs -o {room} none \"$0\" && {script}")
}

#[expect(clippy::print_stderr, reason = "whoever runs the tests has to know")]
fn skip(why: &str) -> Option<Disk> {
    eprintln!("skipped: no disk of its own can be mounted here: {}", why.trim());
    None
}

const UNSHARE: [&str; 6] = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"];
