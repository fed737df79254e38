//! Texts of metrics as one text.
//!
//! A scraper accepts each family once, so the samples that several texts have of one family are put
//! together behind its first header. Leaders label theirs, so that no two samples are alike.

use std::collections::BTreeMap;

/// The families of all texts, each with the samples of all texts.
pub(super) fn merge<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut families: Vec<(Vec<&str>, Vec<&str>)> = Vec::new();
    let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
    for text in texts {
        // The family whose samples follow, and whether its header is this text's.
        let mut current: Option<(usize, bool)> = None;
        for line in text.lines().filter(|line| !line.is_empty() && *line != "# EOF") {
            if let Some(name) = family(line) {
                let known = by_name.get(name).copied();
                let is_own = current.is_some_and(|(at, own)| own && known == Some(at));
                let at = known.unwrap_or_else(|| {
                    families.push((Vec::new(), Vec::new()));
                    families.len() - 1
                });
                by_name.insert(name, at);
                current = Some((at, known.is_none() || is_own));
            }
            let Some((at, own)) = current else { continue };
            match family(line) {
                Some(_) if own => families[at].0.push(line),
                Some(_) => {}
                None => families[at].1.push(line),
            }
        }
    }
    let lines = families.iter().flat_map(|(header, samples)| header.iter().chain(samples));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The family that a `# HELP` or `# TYPE` line begins or goes on with; the samples follow it.
fn family(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "))?;
    rest.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_told_once_with_the_samples_of_all() {
        let one = "# HELP a first.\n# TYPE a gauge\na{x=\"1\"} 1\n";
        let two =
            "# HELP b b.\n# TYPE b counter\nb 2\n# HELP a other.\n# TYPE a gauge\na 3\n# EOF\n";
        let merged = merge([one, two, "# TYPE c gauge\nc 4"].into_iter());
        let expected = "# HELP a first.\n# TYPE a gauge\na{x=\"1\"} 1\na 3\n\
                        # HELP b b.\n# TYPE b counter\nb 2\n# TYPE c gauge\nc 4\n";
        assert_eq!(merged, expected);
    }
}
