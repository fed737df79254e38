//! How near two endpoints are, by the labels of the hosts of their leaders.

use super::scene::Row;

/// The tightest thing that two share; what is greater is nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Region,
    Zone,
    Rack,
    Host,
}

impl Level {
    /// By name, and the labels that say where an endpoint is; the first that it has counts.
    pub(crate) const ALL: [(&'static str, Self, &'static [&'static str]); 4] = [
        ("host", Self::Host, &["kubernetes.io/hostname", "troupe.dev/host"]),
        ("rack", Self::Rack, &["troupe.dev/rack", "topology.kubernetes.io/rack"]),
        ("zone", Self::Zone, &["topology.kubernetes.io/zone", "troupe.dev/zone"]),
        ("region", Self::Region, &["topology.kubernetes.io/region", "troupe.dev/region"]),
    ];
}

/// What they share; `None` if nothing, or it is not known.
pub(crate) fn nearness(a: &Row<'_>, b: &Row<'_>) -> Option<Level> {
    let place = |row: &Row<'_>, labels: &[&str]| {
        labels
            .iter()
            .find_map(|label| row.labels.get(*label))
            .filter(|place| !place.is_empty())
            .cloned()
    };
    let shares = |labels: &[&str]| {
        let (a, b) = (place(a, labels), place(b, labels));
        a.is_some() && a == b
    };
    Level::ALL.iter().find(|(_, _, labels)| shares(labels)).map(|(_, level, _)| *level)
}
