//! The rules, one subject per file, and how a rule is tried on a made-up tree.

pub(crate) mod actors;
pub(crate) mod cores;
pub(crate) mod floors;
pub(crate) mod names;
pub(crate) mod sizes;
pub(crate) mod source;
pub(crate) mod tree;
pub(crate) mod words;

use tree::File;

/// A rule: complaints, each naming a path, a line where there is one, and what to do instead.
pub(crate) type Rule = fn(&[File]) -> Vec<String>;

/// All of them.
pub(crate) const RULES: [(&str, Rule); 13] = [
    ("floors", floors::depend_downwards),
    ("file length", sizes::files_are_short),
    ("front page", sizes::front_pages_are_maps),
    ("actor length", sizes::actors_are_short),
    ("line length", sizes::lines_are_short),
    ("large file", sizes::no_large_files),
    ("core", cores::are_pure),
    ("actor", actors::hold_no_decision),
    ("unsafe", words::unsafe_has_an_address),
    ("opening", words::files_open_with_a_reason),
    ("unfinished", words::nothing_unfinished),
    ("machine path", words::no_machine_paths),
    ("names", names::have_one_home),
];

/// What `rule` says about files made of (path, text).
#[cfg(test)]
pub(crate) fn complaints(rule: Rule, files: &[(&str, &str)]) -> Vec<String> {
    let files: Vec<File> = files.iter().map(|(path, text)| File::new(path, text)).collect();
    rule(&files)
}

/// Holds that `good` passes and `bad` gives exactly one complaint, about `bad`'s path.
#[cfg(test)]
pub(crate) fn check(rule: Rule, good: (&str, &str), bad: (&str, &str)) {
    assert_eq!(complaints(rule, &[good]), Vec::<String>::new(), "{good:?}");
    let said = complaints(rule, &[good, bad]);
    assert_eq!(said.len(), 1, "{bad:?} gave {said:?}");
    assert!(said[0].contains(bad.0), "{said:?} does not name {}", bad.0);
}
