//! How a test says that it cannot run here, and why.

use std::io::Write;

/// Says that the test that calls this is skipped. Not by `eprint!`, which the harness keeps to
/// itself: what is not tested has to be seen.
pub(crate) fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let text = format!("{test} is skipped: {why}\n");
    std::io::stderr().write_all(text.as_bytes()).expect("stderr can be written");
}
