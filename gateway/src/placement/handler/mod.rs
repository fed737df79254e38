//! Which profiles a request goes through, and what their picks mean together.
//!
//! - [`decider`]: whether a prompt is computed apart from where it is answered

mod decider;

use std::sync::Arc;

pub(crate) use decider::{Cost, Decider, Weighed};

use super::{
    Query,
    filter::{Filter, RoleFilter, SubsetFilter},
    profile::{Profile, Verdict},
    scene::{Row, Scene},
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
}

// === impl Placer ===

impl Placer {
    /// Whether it matters what is expected of each of these.
    pub(crate) fn predicts(&self, scene: &Scene<'_>) -> bool {
        self.wants_predicted
            || match &self.handler {
                Handler::Disagg { decider: Decider::Cost(_), both, .. } => {
                    scene.len() > 1 && scene.rows().iter().any(|row| helps(row, *both))
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

    /// What every profile that answers begins with: roles, and whom the request allows.
    pub(crate) fn answering() -> Vec<(Arc<str>, Arc<dyn Filter>)> {
        vec![
            ("destination-subset-filter".into(), Arc::new(SubsetFilter)),
            ("role-filter".into(), Arc::new(RoleFilter::Decode)),
        ]
    }
}

// === impl Outcome ===

impl Outcome {
    fn run(
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

/// Prefill and decode apart.
struct Apart<'a> {
    decode: &'a Arc<Profile>,
    prefill: &'a Arc<Profile>,
    decider: &'a Decider,
    both: bool,
}

impl Apart<'_> {
    fn decode_first(&self, query: &Query<'_>, scene: Scene<'_>, outcome: &mut Outcome) {
        let helpers = self.somebody_helps(&scene).then(|| scene.clone());
        outcome.endpoint = outcome.run(self.decode, query, scene);
        let (Some(helpers), Some(at)) = (helpers, outcome.endpoint) else { return };
        let helpers = self.helpers(&helpers, at);
        if helpers.len() == 0 {
            return;
        }
        let mut tried = Outcome::default();
        let picked = tried.run(self.prefill, query, helpers.clone());
        outcome.steps.append(&mut tried.steps);
        if let Some(helper) = picked {
            let weighed = self.decider.weigh(query, &helpers, helper);
            outcome.prefill = weighed.apart.then_some(helper);
            outcome.weighed = Some(weighed);
        }
    }

    /// The helper is chosen without knowing whom it helps, and then somebody near it answers.
    fn prefill_first(&self, query: &Query<'_>, scene: Scene<'_>, outcome: &mut Outcome) {
        let helpers = self.somebody_helps(&scene).then(|| {
            let mut helpers = scene.clone();
            helpers.retain(|row| self.helps(&scene.rows()[row]));
            helpers
        });
        let helper = helpers.and_then(|helpers| outcome.run(self.prefill, query, helpers));
        let near = helper.map_or_else(|| scene.clone(), |helper| scene.help(helper));
        let alone = near.len() == 0;
        let answering = if alone { scene.clone() } else { near };
        outcome.endpoint = outcome.run(self.decode, query, answering);
        let (Some(helper), Some(at)) = (helper, outcome.endpoint) else { return };
        let mut pair = scene.help(at);
        pair.retain_place(helper);
        let fits = pair.peer().is_some_and(|peer| pair.rows().iter().any(|row| alike(peer, row)));
        if !alone && fits {
            let weighed = self.decider.weigh(query, &pair, helper);
            outcome.prefill = weighed.apart.then_some(helper);
            outcome.weighed = Some(weighed);
        }
    }

    fn somebody_helps(&self, scene: &Scene<'_>) -> bool {
        scene.len() > 1 && scene.rows().iter().any(|row| self.helps(row))
    }

    fn helps(&self, row: &Row<'_>) -> bool {
        helps(row, self.both)
    }

    /// Those that can compute for the one at a place: who has the same model in the same way.
    fn helpers<'a>(&self, scene: &Scene<'a>, at: usize) -> Scene<'a> {
        let mut helpers = scene.help(at);
        let Some(peer) = helpers.peer().copied() else { return helpers };
        let rows = helpers.rows().to_vec();
        helpers.retain(|row| self.helps(&rows[row]) && alike(&peer, &rows[row]));
        helpers
    }
}

/// Whether one computes for others, also if it answers too.
fn helps(row: &Row<'_>, both: bool) -> bool {
    row.prefills() && (both || !row.decodes())
}

/// Whether what one computes the other can use.
fn alike(a: &Row<'_>, b: &Row<'_>) -> bool {
    let (a, b) = (&a.info.fingerprint, &b.info.fingerprint);
    a.model == b.model && a.adapter == b.adapter && a.kv_dtype == b.kv_dtype
}
