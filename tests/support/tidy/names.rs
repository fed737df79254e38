//! Names that others rely on are written in one place each: metric names and keys of the store.
//!
//! Found by how their literals begin, outside tests. A name put together from pieces goes unseen.

use super::{source::without_comments, tree::File};

/// How a literal begins, and the one file that may have it.
const HOMES: [(&str, &str); 2] = [
    ("\"vllm:", "runtime/src/telemetry/names.rs"),
    ("\"/troupe/", "runtime/src/discovery/keys.rs"),
];

/// See above.
pub(crate) fn have_one_home(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.is_rust() && !file.is_test()) {
        let text = without_comments(&file.text);
        let lines = (1..).zip(text.lines()).take(file.lines_before_tests());
        for (number, line) in lines {
            for (beginning, home) in HOMES {
                if file.path != home && line.contains(beginning) {
                    complaints.push(format!("{}:{number} belongs in {home}", file.path));
                }
            }
        }
    }
    complaints
}

#[test]
fn stray_names_are_found() {
    use super::check;
    let metrics = ("runtime/src/telemetry/names.rs", "pub const X: &str = \"vllm:x_total\";");
    check(have_one_home, metrics, ("actors/src/a.rs", "counter(\"vllm:y_total\")"));
    let keys = ("runtime/src/discovery/keys.rs", "format!(\"/troupe/{cluster}/nodes\")");
    check(have_one_home, keys, ("gateway/src/a.rs", "get(\"/troupe/x/election\") // why"));
    let quiet = ("gateway/tests/it/a.rs", "assert!(text.contains(\"vllm:x_total\"))");
    check(have_one_home, quiet, ("gateway/src/b.rs", "let name = \"vllm:z\";"));
}
