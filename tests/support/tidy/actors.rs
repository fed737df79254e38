//! Actors hold no decision: beside every `actor.rs` stands a core that decides, and the actor turns
//! messages into its events and its effects into sends, spawns and timers.
//!
//! No test can see whether a branch is a decision of the domain. This is a stand-in: branches do
//! not nest deeper than translation needs (which message, did the call succeed), there are not many
//! of them, and nothing is ordered or selected from a collection. A decision can hide below these
//! limits, so reviewers still look; but a scheduler, a policy or a retry loop does not fit.

use super::{
    source::{has_word, tokens},
    tree::File,
};

/// A match over the messages, and one question in an arm.
const DEEPEST: usize = 2;
/// `if`, `match` and guards of one file.
const MOST_BRANCHES: usize = 30;
/// Choosing among domain objects.
const SELECTING: [&str; 12] = [
    "binary_search",
    "dedup",
    "filter",
    "max_by",
    "max_by_key",
    "min_by",
    "min_by_key",
    "partition",
    "retain",
    "sort",
    "sort_by",
    "sort_by_key",
];

/// See above.
pub(crate) fn hold_no_decision(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.name() == "actor.rs" && !file.is_test()) {
        let lines: Vec<&str> = file.product_lines().map(|(_, line)| line).collect();
        let code = lines.join("\n");
        let path = &file.path;
        let (branches, depth) = branches(&code);
        if branches > MOST_BRANCHES {
            complaints.push(format!("{path} has {branches} branches, at most {MOST_BRANCHES}"));
        }
        if depth > DEEPEST {
            complaints.push(format!("{path} nests branches {depth} deep, at most {DEEPEST}"));
        }
        for (number, line) in (1..).zip(lines) {
            for word in SELECTING.into_iter().filter(|word| has_word(line, word)) {
                complaints.push(format!("{path}:{number} calls `{word}`: let the core choose"));
            }
        }
    }
    complaints
}

/// How many branches, and how deep the blocks of `if`, `else` and `match` lie in each other.
fn branches(code: &str) -> (usize, usize) {
    let (mut count, mut depth, mut deepest) = (0, 0, 0);
    // Open brackets; true for the blocks of branches.
    let mut open: Vec<bool> = Vec::new();
    // A branch whose block has not opened yet: the brackets around it, and whether it is in a
    // pattern, whose braces are no block.
    let mut pending: Option<(usize, bool)> = None;
    let tokens = tokens(code);
    for (at, &token) in tokens.iter().enumerate() {
        match token {
            "if" | "match" => {
                count += 1;
                pending = Some((open.len(), false));
            }
            "let" => pending = pending.map(|(level, _)| (level, true)),
            "=" => pending = pending.map(|(level, _)| (level, false)),
            // A guard in a match arm has no block of its own.
            "=>" => pending = None,
            "else" if tokens.get(at + 1) == Some(&"{") => pending = Some((open.len(), false)),
            "{" => {
                let is_block = pending == Some((open.len(), false));
                if is_block {
                    pending = None;
                    depth += 1;
                    deepest = deepest.max(depth);
                }
                open.push(is_block);
            }
            "(" | "[" => open.push(false),
            ")" | "]" | "}" if open.pop() == Some(true) => depth -= 1,
            _ => {}
        }
    }
    (count, deepest)
}

#[test]
fn branches_are_counted_and_measured() {
    assert_eq!(branches("fn f() { g(); }"), (0, 0));
    assert_eq!(branches("if a { b } else if c { d } else { e }"), (2, 1));
    assert_eq!(branches("match a { B if c => { d } E => f }"), (2, 1));
    assert_eq!(branches("match a { B => { if let C { d } = e { f } } }"), (2, 2));
    assert_eq!(branches("if f(|x| { x }) { if y { match z {} } }"), (3, 3));
    assert_eq!(branches("let Some(x) = y else { return }; if a {}"), (1, 1));
}

#[test]
fn deciding_actors_are_found() {
    use super::check;
    let good =
        ("a/src/actor.rs", "match message { A(x) => { if let Err(e) = core(x) { log(e) } } }");
    let nested = "match m { A => { if x { match y { B => {} } } } }";
    check(hold_no_decision, good, ("b/src/actor.rs", nested));
    check(hold_no_decision, good, ("b/src/actor.rs", &"if a { b() }\n".repeat(31)));
    check(hold_no_decision, good, ("b/src/actor.rs", "let best = peers.iter().min_by_key(load);"));
}
