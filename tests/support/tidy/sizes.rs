//! How long things may be. A limit is where a file has certainly two subjects, not what to aim at.

use super::tree::File;

const FILE_LINES: usize = 600;
const FRONT_PAGE_LINES: usize = 120;
const ACTOR_LINES: usize = 250;
const LINE_COLUMNS: usize = 100;
const LARGE_BYTES: u64 = 1 << 20;

/// Front pages over the limit: path and lines when listed. A listed file may not grow; one that is
/// short enough must leave the list.
const LONG_FRONT_PAGES: [(&str, usize); 0] = [];
/// Where large files belong: goldens and the demo model's weights.
const LARGE_FILE_FOLDERS: [&str; 2] = ["tests/golden/", "deploy/demo-model/"];

/// Rust outside tests: at most 600 lines, the test module at the bottom not counted.
pub(crate) fn files_are_short(files: &[File]) -> Vec<String> {
    product(files).filter_map(|file| too_long(file, FILE_LINES, "split it by subject")).collect()
}

/// `lib.rs` and `mod.rs` are maps: at most 120 lines.
pub(crate) fn front_pages_are_maps(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in product(files).filter(|file| ["lib.rs", "mod.rs"].contains(&file.name())) {
        let listed = LONG_FRONT_PAGES.iter().find(|(path, _)| *path == file.path);
        let limit = listed.map_or(FRONT_PAGE_LINES, |&(_, lines)| lines);
        complaints.extend(too_long(file, limit, "move items to a file of their own"));
        if listed.is_some() && file.lines_before_tests() <= FRONT_PAGE_LINES {
            complaints.push(format!("{} is short enough: take it off the list", file.path));
        }
    }
    complaints
}

/// `actor.rs` translates: at most 250 lines. If it grows, logic belongs in the core.
pub(crate) fn actors_are_short(files: &[File]) -> Vec<String> {
    product(files)
        .filter(|file| file.name() == "actor.rs")
        .filter_map(|file| too_long(file, ACTOR_LINES, "move decisions to the core"))
        .collect()
}

/// At most 100 columns, which rustfmt does not hold for comments and strings. The rows of a table
/// in a comment cannot be broken and may be longer.
pub(crate) fn lines_are_short(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        for (number, line) in (1..).zip(file.text.lines()) {
            let columns = line.chars().count();
            let is_table_row =
                ["//! |", "/// |"].iter().any(|at| line.trim_start().starts_with(at));
            if columns > LINE_COLUMNS && !is_table_row {
                complaints.push(format!("{}:{number} has {columns} columns", file.path));
            }
        }
    }
    complaints
}

/// Nothing over 1 MiB outside the folders made for it.
pub(crate) fn no_large_files(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|file| file.bytes > LARGE_BYTES)
        .filter(|file| !LARGE_FILE_FOLDERS.iter().any(|folder| file.path.starts_with(folder)))
        .map(|file| format!("{} has {} bytes", file.path, file.bytes))
        .collect()
}

fn product(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.is_rust() && !file.is_test())
}

fn too_long(file: &File, limit: usize, advice: &str) -> Option<String> {
    let lines = file.lines_before_tests();
    (lines > limit).then(|| format!("{} has {lines} lines, at most {limit}: {advice}", file.path))
}

#[test]
fn long_files_are_found() {
    use super::{check, complaints};
    let long = |lines: usize| "fn f() {}\n".repeat(lines);
    let with_tests = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", long(500), long(500));
    check(files_are_short, ("a/src/b.rs", &with_tests), ("a/src/c.rs", &long(601)));
    assert!(complaints(files_are_short, &[("a/tests/it/b.rs", &long(900))]).is_empty());
    check(front_pages_are_maps, ("a/src/lib.rs", &long(120)), ("a/src/b/mod.rs", &long(121)));
    check(actors_are_short, ("a/src/actor.rs", &long(250)), ("a/src/b/actor.rs", &long(251)));
    let (fits, too_wide) =
        (format!("{}\n//! |{}|", "ä".repeat(100), "a".repeat(100)), "a".repeat(101));
    check(lines_are_short, ("a/src/b.rs", &fits), ("a/tests/it/c.rs", &too_wide));
    let large = "x".repeat((1 << 20) + 1);
    check(no_large_files, ("tests/golden/a.bin", &large), ("docs/a.bin", &large));
}

#[test]
fn the_list_of_long_front_pages_is_short() {
    assert!(LONG_FRONT_PAGES.len() <= 3, "it may only shrink");
}
