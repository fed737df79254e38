//! Texts of metrics as one text.
//!
//! A gateway and an engine in one process both know, say, how long requests took. A scraper accepts
//! each family once, so the first text that has a family is the one that tells it.

use std::{collections::BTreeSet, fmt::Write};

use troupe_runtime::{telemetry::names, wire::status::Load};

use crate::placement::directory::Table;

/// The families of all texts; of one that several have, the first text's.
pub(super) fn merge(texts: &[&str]) -> String {
    let mut merged = String::new();
    let mut told = BTreeSet::new();
    for text in texts {
        let mut own: BTreeSet<&str> = BTreeSet::new();
        let mut telling = true;
        for line in text.lines().filter(|line| !line.is_empty() && *line != "# EOF") {
            if let Some(family) = family(line) {
                telling = !told.contains(family);
                own.insert(family);
            }
            if telling {
                merged.push_str(line);
                merged.push('\n');
            }
        }
        told.extend(own);
    }
    merged
}

/// The family that a `# HELP` or `# TYPE` line begins or goes on with; the samples follow it.
fn family(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "))?;
    rest.split(' ').next()
}

/// The loads that leaders push, per endpoint.
pub(super) fn loads(table: &Table) -> String {
    type Value = fn(&Load) -> f64;
    let gauges: [(names::MetricName, Value); 3] = [
        (names::NUM_REQUESTS_RUNNING, |load| load.running.into()),
        (names::NUM_REQUESTS_WAITING, |load| load.waiting.into()),
        (names::KV_CACHE_USAGE_PERC, |load| {
            f64::from(load.blocks_used) / f64::from(load.blocks_total.max(1))
        }),
    ];
    let mut text = String::new();
    for (names::MetricName { name, help, .. }, value) in gauges {
        // Writing to memory cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} gauge");
        for endpoint in table.values() {
            let model = endpoint.info.model_names.first().map_or("", String::as_str);
            let model = model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let (group, value) = (&endpoint.info.endpoint.group, value(&endpoint.load()));
            let _ = writeln!(text, "{name}{{model_name=\"{model}\",engine=\"{group}\"}} {value}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_told_once() {
        let one = "# HELP a first.\n# TYPE a gauge\na{x=\"1\"} 1\n";
        let two =
            "# HELP b b.\n# TYPE b counter\nb 2\n# HELP a other.\n# TYPE a gauge\na 3\n# EOF\n";
        let merged = merge(&[one, two, "# TYPE c gauge\nc 4"]);
        assert_eq!(
            merged,
            format!("{one}# HELP b b.\n# TYPE b counter\nb 2\n# TYPE c gauge\nc 4\n")
        );
    }
}
