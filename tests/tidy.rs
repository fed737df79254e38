//! House rules, held by a test: what a reviewer would otherwise have to look for in every change.
//!
//! Each rule is a function from the tree's files to complaints, so that a broken example can be fed
//! to it: beside every rule stands a test that breaks it. The rules read text, not syntax trees;
//! what that cannot see is said where it matters. To change a rule, change its file and say why; an
//! allow-list only ever gets shorter.

#[path = "support/tidy/mod.rs"]
mod rules;

use rules::{RULES, tree};

#[test]
fn the_tree_keeps_every_rule() {
    let files = tree::read();
    let complaints: Vec<String> = RULES
        .iter()
        .flat_map(|(name, rule)| {
            rule(&files).into_iter().map(move |text| format!("{name}: {text}"))
        })
        .collect();
    assert!(complaints.is_empty(), "{} complaints\n{}", complaints.len(), complaints.join("\n"));
}

/// Rules over an empty list hold trivially, so the list must be the tree.
#[test]
fn the_tree_is_really_read() {
    let files = tree::read();
    for path in ["Cargo.toml", "runtime/src/lib.rs", "gpu/src/executor.rs", "tests/tidy.rs"] {
        assert!(files.iter().any(|file| file.path == path), "{path} was not read");
    }
    assert!(!files.iter().any(|file| file.path.starts_with("target/")));
}
