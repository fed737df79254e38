//! A list of plug-ins with their weights, and how they are run.

use super::{
    Candidate, Query,
    filter::{ExcludeFilter, Filter, ModelFilter, RoleFilter, ScopeFilter},
    picker::{BestPicker, Picker},
    scorer::{RunningLoadScorer, Scorer},
};

/// Filters, then weighted scorers, then one picker.
#[derive(Debug)]
pub(crate) struct Profile {
    filters: Vec<Box<dyn Filter>>,
    scorers: Vec<(Box<dyn Scorer>, f32)>,
    picker: Box<dyn Picker>,
}

impl Profile {
    /// The one for whole requests and for decoding.
    pub(crate) fn decode() -> Self {
        Self {
            filters: vec![
                Box::new(ModelFilter),
                Box::new(ScopeFilter),
                Box::new(RoleFilter),
                Box::new(ExcludeFilter),
            ],
            scorers: vec![(Box::new(RunningLoadScorer), 1.0)],
            picker: Box::new(BestPicker),
        }
    }

    /// The index of the candidate to use, if any will do.
    pub(crate) fn place(&self, query: &Query<'_>, candidates: &[Candidate<'_>]) -> Option<usize> {
        let fit = |candidate: &Candidate<'_>| {
            self.filters.iter().all(|filter| filter.keep(query, candidate))
        };
        let kept: Vec<usize> = (0..candidates.len()).filter(|at| fit(&candidates[*at])).collect();
        let left: Vec<Candidate<'_>> = kept.iter().map(|at| candidates[*at]).collect();
        let mut totals = vec![0.0_f32; left.len()];
        for (scorer, weight) in &self.scorers {
            let scores = scorer.score(query, &left);
            debug_assert_eq!(scores.len(), left.len(), "{} scores each", scorer.name());
            for (total, score) in totals.iter_mut().zip(scores) {
                *total += weight * score.clamp(0.0, 1.0);
            }
        }
        let picked = self.picker.pick(&totals)?;
        tracing::debug!(
            endpoint = %left[picked].info.endpoint,
            score = totals[picked],
            of = left.len(),
            picker = self.picker.name(),
            "place"
        );
        Some(kept[picked])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use troupe_runtime::{
        id::{Digest, EndpointId},
        wire::status::Load,
    };

    use super::*;
    use crate::placement::{
        GoesOn,
        endpoint::tests::{candidate, info, query},
    };

    fn asks(exclude: &BTreeSet<EndpointId>) -> Query<'_> {
        Query { exclude, ..query("a") }
    }

    #[test]
    fn an_output_goes_on_where_the_same_model_is_served() {
        let mut infos = [info("a", 0), info("a", 1), info("a", 2)];
        let origin = infos[2].fingerprint.clone();
        infos[0].fingerprint.model = Digest::of(b"another");
        infos[1].fingerprint.tensor_parallel = 2;
        let candidates = infos.each_ref().map(candidate);
        let exclude = BTreeSet::new();
        let place = |goes_on| {
            let query = Query { goes_on: Some(goes_on), ..asks(&exclude) };
            Profile::decode().place(&query, &candidates)
        };
        assert_eq!(place(GoesOn::Exactly(&origin)), Some(2));
        assert_eq!(place(GoesOn::WithModel(origin.model)), Some(1));
    }

    #[test]
    fn the_least_busy_that_fits_is_taken() {
        let infos = [info("a", 0), info("b", 1), info("a", 2), info("a", 3)];
        let busy = [5, 0, 2, 2];
        let candidates: Vec<Candidate<'_>> = infos
            .iter()
            .zip(busy)
            .map(|(info, in_flight)| Candidate { in_flight, ..candidate(info) })
            .collect();
        let profile = Profile::decode();
        let mut exclude = BTreeSet::new();
        let mut order = Vec::new();
        loop {
            let query = asks(&exclude);
            let Some(at) = profile.place(&query, &candidates) else { break };
            order.push(at);
            exclude.insert(infos[at].endpoint.clone());
        }
        assert_eq!(order, [2, 3, 0], "b serves another model; ties go to the first");
    }

    #[test]
    fn what_the_leader_says_counts_too() {
        let infos = [info("a", 0), info("a", 1)];
        let load = |running, waiting| Load { running, waiting, ..Load::default() };
        let candidates = [
            Candidate { load: load(3, 4), ..candidate(&infos[0]) },
            Candidate { load: load(3, 0), in_flight: 1, ..candidate(&infos[1]) },
        ];
        let exclude = BTreeSet::new();
        let query = asks(&exclude);
        assert_eq!(Profile::decode().place(&query, &candidates), Some(1));
    }
}
