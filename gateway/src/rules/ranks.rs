//! Which priority a request has by what it names: an objective, or a model.
//!
//! `InferenceObjective.priority` is what counts today; `InferenceModel.criticality` and the
//! service's own are what it was called before. A number above zero goes before others, one below
//! may be shed.

use std::collections::BTreeMap;

use troupe_runtime::spec::service::Criticality;

use crate::holding::catalog::ServiceName;

/// Priorities by name, and which models are meant by which names.
#[derive(Debug, Default)]
pub(crate) struct Ranks {
    /// `InferenceObjective`s.
    pub(super) objectives: BTreeMap<ServiceName, i32>,
    /// `InferenceModel`s, by the name that requests use.
    pub(super) models: BTreeMap<String, Model>,
    /// Services' own, by the names that requests use for their models.
    pub(super) services: BTreeMap<String, Criticality>,
}

/// What is declared of a model's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) criticality: Option<Criticality>,
    /// Which models are meant, with their shares; none is the one of that name.
    pub(super) targets: Vec<(String, u32)>,
}

// === impl Ranks ===

impl Ranks {
    /// The priority of a request for a model that names an objective, or not. An objective that is
    /// not there ranks nothing.
    pub(crate) fn priority(&self, objective: Option<&str>, model: &str) -> Option<i32> {
        let by_objective = objective.and_then(|name| self.objective(name));
        let by_model = || self.models.get(model).and_then(|model| model.criticality);
        let by_service = || self.services.get(model).copied();
        by_objective.or_else(|| by_model().or_else(by_service).map(number))
    }

    /// `name` or `namespace/name`; a bare one is that of the namespace `default` before others'.
    fn objective(&self, name: &str) -> Option<i32> {
        let (namespace, bare) = match name.split_once('/') {
            Some((namespace, bare)) => (Some(namespace), bare),
            None => (None, name),
        };
        let of = |namespace: &str| {
            let name = ServiceName { namespace: namespace.into(), name: bare.into() };
            self.objectives.get(&name).copied()
        };
        match namespace {
            Some(namespace) => of(namespace),
            None => of("default").or_else(|| {
                let mut all = self.objectives.iter();
                all.find(|(known, _)| known.name == bare).map(|(_, priority)| *priority)
            }),
        }
    }

    /// The model that is meant by a name; `draw` decides between shares, and is only asked if there
    /// are any.
    pub(crate) fn target(&self, model: &str, draw: impl FnOnce() -> u64) -> Option<&str> {
        let targets = &self.models.get(model)?.targets;
        pick(targets.iter().map(|(name, weight)| (name.as_str(), *weight)), draw)
    }

    /// Names that requests may use though no endpoint has them.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let with_targets = self.models.iter().filter(|(_, model)| !model.targets.is_empty());
        with_targets.map(|(name, _)| name.as_str())
    }
}

/// One of several by their shares; nothing if no share is above zero.
pub(super) fn pick<T>(
    shares: impl Iterator<Item = (T, u32)> + Clone,
    draw: impl FnOnce() -> u64,
) -> Option<T> {
    let all: u64 = shares.clone().map(|(_, weight)| u64::from(weight)).sum();
    if all == 0 {
        return None;
    }
    let mut left = draw() % all;
    for (one, weight) in shares {
        match left.checked_sub(weight.into()) {
            Some(rest) => left = rest,
            None => return Some(one),
        }
    }
    None
}

fn number(criticality: Criticality) -> i32 {
    match criticality {
        Criticality::Critical => 1,
        Criticality::Standard => 0,
        Criticality::Sheddable => -1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(namespace: &str, name: &str) -> ServiceName {
        ServiceName { namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn an_objective_counts_before_a_model_and_that_before_a_service() {
        let criticality = Some(Criticality::Critical);
        let ranks = Ranks {
            objectives: [(name("a", "batch"), -5), (name("default", "chat"), 7)].into(),
            models: [
                ("m".to_owned(), Model { criticality, targets: vec![] }),
                ("n".to_owned(), Model::default()),
            ]
            .into(),
            services: [
                ("m".to_owned(), Criticality::Sheddable),
                ("n".to_owned(), Criticality::Sheddable),
            ]
            .into(),
        };
        assert_eq!(ranks.priority(Some("chat"), "m"), Some(7));
        assert_eq!(ranks.priority(Some("batch"), "m"), Some(-5), "of whatever namespace");
        assert_eq!(ranks.priority(Some("b/batch"), "m"), Some(1), "it is not there");
        assert_eq!(ranks.priority(Some("a/batch"), "x"), Some(-5));
        assert_eq!(ranks.priority(None, "n"), Some(-1));
        assert_eq!(ranks.priority(None, "x"), None);
    }

    #[test]
    fn shares_are_what_they_say() {
        let targets = vec![("a".to_owned(), 3), ("b".to_owned(), 1), ("c".to_owned(), 0)];
        let model = Model { criticality: None, targets };
        let ranks = Ranks { models: [("m".to_owned(), model)].into(), ..Ranks::default() };
        let drawn: Vec<_> = (0..8).map(|draw| ranks.target("m", || draw).expect("one")).collect();
        assert_eq!(drawn, ["a", "a", "a", "b", "a", "a", "a", "b"]);
        assert_eq!(ranks.target("other", || 1), None);
        assert_eq!(pick([("a", 0)].into_iter(), || 3), None);
    }
}
