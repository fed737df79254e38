//! Names of objects: parts of keys, host names and labels, so they are what all of those allow.

use super::finding::Findings;

/// The longest name of what has groups: `<name>-<group>-<worker>` is a host name of at most 63, and
/// 12 of them are left for two numbers of up to five digits with their hyphens.
const MAX_GROUP_OWNER: usize = 63 - 12;

/// What a name has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// DNS-1123 label: a namespace.
    Label,
    /// DNS-1123 label that leaves room for the numbers of group and worker.
    GroupOwner,
    /// The same, not beginning with a digit (DNS-1035): `LeaderWorkerSet` names a service by it.
    Host,
    /// DNS-1123 subdomain: labels with dots between them.
    Subdomain,
}

impl Rule {
    /// Notes what is wrong with a name.
    pub(super) fn check(self, name: &str, path: String, findings: &Findings) {
        if findings.is_template(name) {
            return;
        }
        if !self.is_met(name) {
            findings.problem(path, format!("{}, got {name}", self.wanted()));
        } else if matches!(self, Self::GroupOwner | Self::Host) && name.len() > MAX_GROUP_OWNER {
            let why = "so that <name>-<group>-<worker> is a host name";
            let message = format!(
                "must have at most {MAX_GROUP_OWNER} characters, {why}, has {}",
                name.len()
            );
            findings.problem(path, message);
        }
    }

    fn is_met(self, name: &str) -> bool {
        match self {
            Self::Label | Self::GroupOwner => is_label(name),
            Self::Host => {
                is_label(name) && name.starts_with(|first: char| first.is_ascii_lowercase())
            }
            Self::Subdomain => name.len() <= 253 && name.split('.').all(is_label),
        }
    }

    fn wanted(self) -> &'static str {
        match self {
            Self::Label | Self::GroupOwner => {
                "must be 1 to 63 of a-z, 0-9 and -, a letter or digit at both ends"
            }
            Self::Host => {
                "must be 1 to 63 of a-z, 0-9 and -, a letter first and a letter or digit last"
            }
            Self::Subdomain => {
                "must be 1 to 253 of a-z, 0-9, - and ., a letter or digit at both ends of each part"
            }
        }
    }
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ends = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| inner(*byte))
        && ends(bytes.first())
        && ends(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(rule: Rule, name: &str) -> Option<String> {
        let findings = Findings::default();
        rule.check(name, "name".into(), &findings);
        findings.into_parts().0.first().map(ToString::to_string)
    }

    #[test]
    fn each_rule_takes_what_it_says() {
        for good in ["a", "0", "a-b", "2cube"] {
            assert_eq!(problem(Rule::Label, good), None, "{good}");
            assert_eq!(problem(Rule::Subdomain, good), None, "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "ä", "a.b", &"a".repeat(64)] {
            assert!(problem(Rule::Label, bad).is_some(), "{bad}");
        }
        assert_eq!(problem(Rule::Subdomain, "llama-3.1-8b"), None);
        for bad in [".", "..", "a..b", ".a", "a.-b", &["a"; 128].join(".")] {
            assert!(problem(Rule::Subdomain, bad).is_some(), "{bad}");
        }
        assert!(problem(Rule::Host, "2cube").is_some());
    }

    #[test]
    fn names_of_members_fit() {
        let longest = "a".repeat(MAX_GROUP_OWNER);
        assert!(format!("{longest}-99999-99999").len() <= 63);
        assert_eq!(problem(Rule::GroupOwner, &longest), None);
        let longer = problem(Rule::GroupOwner, &"a".repeat(MAX_GROUP_OWNER + 1));
        assert!(longer.expect("a problem").contains("at most 51 characters"));
    }
}
