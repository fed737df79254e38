//! Scripts: commands in text files, and below each what came of it.
//!
//! `UPDATE=1` writes what comes of the commands into the files; the difference is for a person to
//! judge.

use std::{fmt::Write as _, path::Path};

/// The words of a command behind the first: names, and `key=value` pairs.
pub(crate) struct Words<'a>(pub(crate) Vec<&'a str>);

impl<'a> Words<'a> {
    pub(crate) fn get(&self, key: &str) -> Option<&'a str> {
        let pairs = self.0.iter().filter_map(|word| word.split_once('='));
        pairs.filter(|(own, _)| *own == key).map(|(_, value)| value).next()
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        let text = self.get(key)?;
        Some(text.parse().unwrap_or_else(|_| panic!("{key}={text}: a number")))
    }

    /// Words that are no pairs.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.0.iter().copied().filter(|word| !word.contains('='))
    }

    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        self.0.iter().filter_map(|word| word.split_once('='))
    }
}

/// Plays all scripts of a folder of this crate, and says how many there are; `start` gives what
/// runs the commands of one.
#[expect(clippy::disallowed_methods, reason = "whoever runs it says whether to write the files")]
pub(crate) fn play_all<R>(
    folder: &str,
    start: impl Fn() -> R,
    run: impl Fn(&mut R, &str) -> String,
) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the folder of scripts") {
        let path = entry.expect("a script").path();
        if path.extension().is_none_or(|end| end != "txt") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("it can be read");
        assert!(text.starts_with("# "), "{}: says first what it shows", path.display());
        let mut runner = start();
        let now = play(&text, |line| run(&mut runner, line));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &now).expect("it can be written");
        } else {
            let differs = text.lines().zip(now.lines()).find(|(was, is)| was != is);
            assert_eq!(text, now, "{}: {differs:?}; UPDATE=1 writes it", path.display());
        }
        seen += 1;
    }
    assert!(seen > 0, "no scripts");
    seen
}

/// The text again, with what comes of each command now.
fn play(text: &str, mut run: impl FnMut(&str) -> String) -> String {
    let mut now = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let _ = writeln!(now, "{line}");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if lines.next_if_eq(&"----").is_some() {
            while lines.next_if(|line| !line.is_empty()).is_some() {}
        }
        while lines.next_if_eq(&"").is_some() {}
        let _ = writeln!(now, "----\n{}", run(line).trim_end());
        if lines.peek().is_some() {
            now.push('\n');
        }
    }
    now
}
