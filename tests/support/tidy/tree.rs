//! The tree's files, read once per test.
//!
//! Everything below the repository's root counts, tracked or not, but build output and what tools
//! leave behind.

use std::{fs, path::Path};

use super::source;

/// A file and the views of it that rules look at.
pub(crate) struct File {
    /// From the repository's root, with `/`.
    pub(crate) path: String,
    /// Its length in bytes.
    pub(crate) bytes: u64,
    /// Its text; empty if it is no UTF-8.
    pub(crate) text: String,
    /// Rust: the text with comments and literals blanked, line by line the same.
    pub(crate) code: String,
}

/// Reads the repository.
pub(crate) fn read() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(root, root, &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<File>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository can be read") {
        let entry = entry.expect("an entry can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().expect("an entry has a type");
        let path = entry.path();
        if kind.is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                collect(root, &path, files);
            }
        } else if kind.is_file() {
            let relative = path.strip_prefix(root).expect("it is below the root");
            let relative = relative.to_string_lossy().replace('\\', "/");
            // A file may vanish between listing and reading: editors write through temporary ones.
            if let Ok(content) = fs::read(&path) {
                files.push(File::of_bytes(relative, content));
            }
        }
    }
}

// === impl File ===

impl File {
    /// A file with this text.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self::of_bytes(path.into(), text.into())
    }

    fn of_bytes(path: String, content: Vec<u8>) -> Self {
        let bytes = content.len() as u64;
        let text = String::from_utf8(content).unwrap_or_default();
        let is_rust = path.ends_with(".rs");
        let code = if is_rust { source::code_only(&text) } else { String::new() };
        Self { path, bytes, text, code }
    }

    /// Whether it is Rust.
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The last part of its path.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Whether all of it is test or benchmark.
    pub(crate) fn is_test(&self) -> bool {
        let folders = format!("/{}", self.path);
        self.name() == "tests.rs" || ["/tests/", "/benches/"].iter().any(|at| folders.contains(at))
    }

    /// How many lines come before the test module at the file's bottom.
    pub(crate) fn lines_before_tests(&self) -> usize {
        let lines: Vec<&str> = self.code.lines().collect();
        lines
            .windows(2)
            .position(|pair| {
                pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
            })
            .unwrap_or(lines.len())
    }

    /// Its code without tests, with line numbers from 1.
    pub(crate) fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let count = if self.is_test() { 0 } else { self.lines_before_tests() };
        (1..).zip(self.code.lines()).take(count)
    }
}

const SKIPPED: [&str; 6] = [".git", ".idea", ".venv", ".vscode", "__pycache__", "target"];
