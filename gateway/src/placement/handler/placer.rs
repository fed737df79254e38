//! All that decides where the requests of a service go.

use std::sync::Arc;

use super::{
    apart::Apart,
    decider::{Decider, Weighed},
};
use crate::placement::{
    Query,
    filter::{Filter, FreePlaceFilter, RoleFilter, SubsetFilter},
    profile::{Profile, Verdict},
    scene::Scene,
};

/// All that decides where requests go.
#[derive(Clone, Debug)]
pub(crate) struct Placer {
    pub(crate) handler: Handler,
    /// Whether some plug-in asks what is expected of each candidate.
    pub(crate) wants_predicted: bool,
    /// Whether answers say with what token their session comes back.
    pub(crate) tokens: bool,
}

/// How profiles are run.
#[derive(Clone, Debug)]
pub(crate) enum Handler {
    /// One that answers, and one that computes its prompt if that is worth it.
    Disagg {
        decode: Arc<Profile>,
        prefill: Arc<Profile>,
        decider: Decider,
        order: Order,
        /// Whether endpoints that answer may compute for others too.
        both: bool,
    },
    /// The one that a header names, else the default one, which is first.
    Header { header: String, profiles: Vec<Arc<Profile>> },
    /// This one.
    Single(Arc<Profile>),
}

/// Who is looked for first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    DecodeFirst,
    PrefillFirst,
}

/// What was decided; rows are places among all candidates.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Who answers.
    pub(crate) endpoint: Option<usize>,
    /// Who computes its prompt.
    pub(crate) prefill: Option<usize>,
    /// The profiles that were run, in order.
    pub(crate) steps: Vec<(Arc<Profile>, Verdict)>,
    /// Why the prompt is computed elsewhere or not, where that was a question.
    pub(crate) weighed: Option<Weighed>,
    /// Whether it would be computed elsewhere if there were anybody.
    pub(crate) misses_prefill: bool,
}

// === impl Placer ===

impl Placer {
    /// Whether it matters what is expected of each of these.
    pub(crate) fn predicts(&self, scene: &Scene<'_>) -> bool {
        self.wants_predicted
            || match &self.handler {
                Handler::Disagg { decider: Decider::Cost(_), both, .. } => {
                    scene.len() > 1 && scene.somebody_helps(*both)
                }
                Handler::Disagg { .. } | Handler::Header { .. } | Handler::Single(_) => false,
            }
    }

    /// Where the request goes.
    pub(crate) fn place(&self, query: &Query<'_>, scene: Scene<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        match &self.handler {
            Handler::Single(profile) => {
                outcome.endpoint = outcome.run(profile, query, scene);
            }
            Handler::Header { header, profiles } => {
                let named = match header.as_str() {
                    "epp-profile" => query.hints.profile.as_deref(),
                    other => query.hints.header(other),
                };
                let profile = profiles.iter().find(|profile| Some(&*profile.name) == named);
                if let Some(profile) = profile.or(profiles.first()) {
                    outcome.endpoint = outcome.run(profile, query, scene);
                }
            }
            Handler::Disagg { decode, prefill, decider, order, both } => {
                let apart = Apart { decode, prefill, decider, both: *both };
                match order {
                    Order::DecodeFirst => apart.decode_first(query, scene, &mut outcome),
                    Order::PrefillFirst => apart.prefill_first(query, scene, &mut outcome),
                }
            }
        }
        outcome
    }

    /// A profile with what every one has that answers: before its own filters whom the request
    /// allows, and roles; behind them who has a place.
    pub(crate) fn answering(profile: Profile) -> Profile {
        let mut filters: Vec<(Arc<str>, Arc<dyn Filter>)> =
            vec![("destination-subset-filter".into(), Arc::new(SubsetFilter))];
        // Whoever asks for a profile of the prefill side by name means that side.
        if !profile.says_who_helps() {
            filters.push(("role-filter".into(), Arc::new(RoleFilter::Decode)));
        }
        filters.extend(profile.filters);
        filters.push(("free-place-filter".into(), Arc::new(FreePlaceFilter)));
        Profile { filters, ..profile }
    }
}

// === impl Outcome ===

impl Outcome {
    /// Runs a profile, and keeps how it decided.
    pub(super) fn run(
        &mut self,
        profile: &Arc<Profile>,
        query: &Query<'_>,
        mut scene: Scene<'_>,
    ) -> Option<usize> {
        let verdict = profile.place(query, &mut scene);
        let picked = verdict.picked;
        self.steps.push((Arc::clone(profile), verdict));
        picked
    }
}
