//! What may stand where: `unsafe`, openings, unfinished code, paths of one machine.

use super::{source::has_word, tree::File};

/// The addresses of `unsafe`. In tests there is one: what calls kernels that were built as C++.
const UNSAFE: [&str; 5] = [
    "gpu/src/cpu/simd/",
    "gpu/src/cuda/",
    "gpu/tests/kernels/shim.rs",
    "gpu/src/weights/map.rs",
    "runtime/src/transport/shm.rs",
];

/// `unsafe` lives where it can be reviewed as a whole.
pub(crate) fn unsafe_has_an_address(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|file| !UNSAFE.iter().any(|place| file.path.starts_with(place)))
        .flat_map(|file| {
            (1..).zip(file.code.lines()).map(move |(number, line)| (file, number, line))
        })
        .filter(|(_, _, line)| has_word(line, "unsafe"))
        .map(|(file, number, _): (_, usize, _)| format!("{}:{number} has unsafe code", file.path))
        .collect()
}

/// Every Rust file opens by saying what it is and why.
pub(crate) fn files_open_with_a_reason(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|file| file.is_rust() && !file.text.starts_with("//! "))
        .map(|file| format!("{} does not open with `//! ` and a sentence", file.path))
        .collect()
}

/// No `todo!`, `unimplemented!`, `dbg!`: what is not there yet is an error value that says so.
pub(crate) fn nothing_unfinished(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        for (number, line) in (1..).zip(file.code.lines()) {
            for name in ["todo", "unimplemented", "dbg"] {
                if has_word(line, name) && line.contains(&format!("{name}!")) {
                    complaints.push(format!("{}:{number} has `{name}!`", file.path));
                }
            }
        }
    }
    complaints
}

/// A path that exists on one machine only means nothing on another.
pub(crate) fn no_machine_paths(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        for (number, line) in (1..).zip(file.text.lines()) {
            if MACHINE_PATHS.iter().any(|path| line.contains(path)) {
                complaints.push(format!("{}:{number} names a path of one machine", file.path));
            }
        }
    }
    complaints
}

/// Written in two parts, or this file would break its own rule.
const MACHINE_PATHS: [&str; 2] = [concat!("/wor", "k/"), concat!("/home/", "user/")];

#[test]
fn misplaced_unsafe_is_found() {
    use super::check;
    let good = ("gpu/src/cpu/simd/amx.rs", "unsafe { go() }");
    check(unsafe_has_an_address, good, ("gpu/src/cpu/mod.rs", "let x = unsafe { go() };"));
    let allowed = ("gpu/src/lib.rs", "#![deny(unsafe_op_in_unsafe_fn)] // unsafe");
    check(unsafe_has_an_address, allowed, ("runtime/tests/it/a.rs", "unsafe impl Send for X {}"));
}

#[test]
fn missing_openings_are_found() {
    use super::check;
    let good = ("a/src/b.rs", "//! What it is.\nuse x;");
    check(files_open_with_a_reason, good, ("a/src/c.rs", "// Not this.\n//! What it is."));
    check(files_open_with_a_reason, good, ("a/src/c.rs", ""));
}

#[test]
fn unfinished_code_is_found() {
    use super::check;
    let good = ("a/src/b.rs", "// todo! later\nlet s = \"dbg!\";");
    for bad in ["fn f() { todo!() }", "unimplemented!(\"x\")", "x = dbg!(y);"] {
        check(nothing_unfinished, good, ("a/src/c.rs", bad));
    }
}

#[test]
fn machine_paths_are_found() {
    use super::check;
    let path = concat!("see /wor", "k/shared");
    check(no_machine_paths, ("docs/a.md", "see work/shared"), ("docs/b.md", path));
}
