//! What starts Troupe elsewhere: the image and its compose file, the install script and its units,
//! the manifests for Kubernetes. What a machine lacks is said, and that test skipped.

#[path = "deploy/images.rs"]
mod images;
#[path = "deploy/manifests.rs"]
mod manifests;
#[path = "deploy/scripts.rs"]
mod scripts;

#[allow(dead_code)]
#[path = "support/http.rs"]
mod http;
#[allow(dead_code)]
#[path = "support/process.rs"]
mod process;
#[path = "support/skip.rs"]
mod skip;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tokio::time::Instant;

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What a command said that ended by itself.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    text: String,
}

/// Runs a command to its end, which has to come within `limit`; both of its outputs together.
fn run(command: &mut Command, limit: Duration) -> Result<Said, String> {
    let what = words(command);
    let folder = tempfile::tempdir().expect("a folder");
    let said = std::fs::File::create(folder.path().join("said")).expect("a file");
    let errors = said.try_clone().expect("a second handle");
    let child = command.stdin(Stdio::null()).stdout(said).stderr(errors).spawn();
    let mut child = child.map_err(|error| format!("`{what}`: {error}"))?;
    let deadline = Instant::now() + limit;
    let status = loop {
        match child.try_wait().expect("its status can be read") {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => break None,
            None => pause(),
        }
    };
    let killed = status.is_none();
    if killed {
        child.kill().expect("it can be killed");
        child.wait().expect("it is reaped");
    }
    let text = std::fs::read(folder.path().join("said")).expect("what it said");
    let text = String::from_utf8_lossy(&text).into_owned();
    match status {
        Some(status) => Ok(Said { code: status.code(), text }),
        None => Err(format!("`{what}` does not end within {limit:?}:\n{text}")),
    }
}

/// The same of one that has to succeed; what it said.
fn succeed(command: &mut Command, limit: Duration) -> Result<String, String> {
    let what = words(command);
    match run(command, limit)? {
        Said { code: Some(0), text } => Ok(text),
        Said { code, text } => Err(format!("`{what}` ended with {code:?}:\n{text}")),
    }
}

fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[expect(clippy::disallowed_methods, reason = "spaces looks at another process, with a deadline")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}
