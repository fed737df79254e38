//! What a person types, and what is printed and returned for it.

use std::process::{Command, Output, Stdio};

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a command as somebody who has just come to this machine.
pub(crate) fn troupe(words: &[&str]) -> Said {
    let home = tempfile::tempdir().expect("a folder");
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_troupe"))
        .args(words)
        .env_clear()
        .env("HOME", home.path())
        .stdin(Stdio::null())
        .output()
        .expect("the binary can be started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Said { code: status.code(), out: text(stdout), err: text(stderr) }
}

/// The same in an operator's context.
pub(crate) fn troupe_in(context: &str, words: &[&str]) -> Said {
    troupe(&[words, &["--context", context]].concat())
}
