//! Keeps endpoints whose labels are as a selector of Kubernetes' kind says.

use super::{Filter, Mask, Query, Scene};
use crate::placement::scene::Row;

/// See the file. Everything must hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct LabelFilter {
    pub(crate) requirements: Vec<Requirement>,
}

/// What a label must be like.
#[derive(Clone, Debug)]
pub(crate) enum Requirement {
    /// It is not there.
    Absent(String),
    /// It is one of these.
    In(String, Vec<String>),
    /// It is one of these, or not there.
    InIfThere(String, Vec<String>),
    /// It is none of these, or not there.
    NotIn(String, Vec<String>),
    /// It is there.
    Present(String),
}

impl Filter for LabelFilter {
    fn filter(&self, _: &Query<'_>, scene: &Scene<'_>, mask: &mut Mask) {
        let rows = scene.rows();
        mask.retain(|row| self.requirements.iter().all(|needed| needed.holds(&rows[row])));
    }
}

impl Requirement {
    fn holds(&self, row: &Row<'_>) -> bool {
        let is_one = |value: Option<&str>, values: &[String]| {
            value.is_some_and(|value| values.iter().any(|one| one == value))
        };
        match self {
            Self::Absent(key) => row.label(key).is_none(),
            Self::In(key, values) => is_one(row.label(key), values),
            Self::InIfThere(key, values) => {
                row.label(key).is_none() || is_one(row.label(key), values)
            }
            Self::NotIn(key, values) => !is_one(row.label(key), values),
            Self::Present(key) => row.label(key).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::placement::{
        Candidate,
        endpoint::tests::{candidate, info, query},
        filter::tests::left,
    };

    #[test]
    fn each_operator_means_what_kubernetes_says() {
        let infos = [info("a", 0), info("a", 1), info("a", 2)];
        let label = |value: &str| BTreeMap::from([("gpu".to_owned(), value.to_owned())]);
        let labels = [label("h100"), label("a100"), BTreeMap::new()];
        let h100 = || vec!["h100".to_owned()];
        let gpu = || "gpu".to_owned();
        for (requirement, expected) in [
            (Requirement::In(gpu(), h100()), vec![0]),
            (Requirement::InIfThere(gpu(), h100()), vec![0, 2]),
            (Requirement::NotIn(gpu(), h100()), vec![1, 2]),
            (Requirement::Present(gpu()), vec![0, 1]),
            (Requirement::Absent(gpu()), vec![2]),
        ] {
            let candidates = infos
                .iter()
                .zip(&labels)
                .map(|(info, labels)| Candidate { labels, ..candidate(info) });
            let filter = LabelFilter { requirements: vec![requirement.clone()] };
            assert_eq!(left(&filter, &query("a"), candidates), expected, "{requirement:?}");
        }
    }
}
