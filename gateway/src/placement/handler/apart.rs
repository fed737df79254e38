//! Prefill and decode apart: one endpoint answers, and another computes its prompt if that pays.

use std::sync::Arc;

use super::{Decider, Outcome, Query, Row, Scene};
use crate::placement::profile::Profile;

/// The two profiles, and what decides between them.
pub(super) struct Apart<'a> {
    pub(super) decode: &'a Arc<Profile>,
    pub(super) prefill: &'a Arc<Profile>,
    pub(super) decider: &'a Decider,
    pub(super) both: bool,
}

impl Apart<'_> {
    pub(super) fn decode_first(&self, query: &Query<'_>, scene: Scene<'_>, outcome: &mut Outcome) {
        let is_question = self.somebody_helps(&scene) || scene.somebody_only_answers();
        let all = is_question.then(|| scene.clone());
        outcome.endpoint = outcome.run(self.decode, query, scene);
        let (Some(all), Some(at)) = (all, outcome.endpoint) else { return };
        let helpers = self.helpers(&all, at);
        if helpers.len() == 0 {
            outcome.misses_prefill = self.misses(query, &all, at);
            return;
        }
        let mut tried = Outcome::default();
        let picked = tried.run(self.prefill, query, helpers.clone());
        outcome.steps.append(&mut tried.steps);
        if let Some(helper) = picked {
            let weighed = self.decider.weigh(query, &helpers, Some(helper));
            outcome.prefill = weighed.apart.then_some(helper);
            outcome.weighed = Some(weighed);
        }
    }

    /// The helper is chosen without knowing whom it helps, and then somebody near it answers.
    pub(super) fn prefill_first(&self, query: &Query<'_>, scene: Scene<'_>, outcome: &mut Outcome) {
        let helpers = self.somebody_helps(&scene).then(|| {
            let mut helpers = scene.clone();
            helpers.retain(|row| self.helps(&scene.rows()[row]));
            helpers
        });
        let helper = helpers.and_then(|helpers| outcome.run(self.prefill, query, helpers));
        let is_question = helper.is_none() && scene.somebody_only_answers();
        let all = is_question.then(|| scene.clone());
        let near = helper.map_or_else(|| scene.clone(), |helper| scene.help(helper));
        let alone = near.len() == 0;
        let answering = if alone { scene.clone() } else { near };
        outcome.endpoint = outcome.run(self.decode, query, answering);
        let Some(at) = outcome.endpoint else { return };
        let Some(helper) = helper else {
            outcome.misses_prefill = all.is_some_and(|all| self.misses(query, &all, at));
            return;
        };
        let mut pair = scene.help(at);
        pair.retain_place(helper);
        let fits = pair.peer().is_some_and(|peer| pair.rows().iter().any(|row| alike(peer, row)));
        if !alone && fits {
            let weighed = self.decider.weigh(query, &pair, Some(helper));
            outcome.prefill = weighed.apart.then_some(helper);
            outcome.weighed = Some(weighed);
        }
    }

    /// Whether the one at a place, whom nobody can help, would be helped if its service had
    /// somebody for that.
    fn misses(&self, query: &Query<'_>, scene: &Scene<'_>, at: usize) -> bool {
        let mut alone = scene.help(at);
        alone.retain(|_| false);
        alone.peer().is_some_and(only_answers) && self.decider.weigh(query, &alone, None).apart
    }

    fn somebody_helps(&self, scene: &Scene<'_>) -> bool {
        scene.len() > 1 && scene.somebody_helps(self.both)
    }

    /// Whether one computes for others, also if it answers too.
    fn helps(&self, row: &Row<'_>) -> bool {
        row.prefills() && (self.both || !row.decodes())
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

/// Whether it is of a service whose prompts are computed by others.
fn only_answers(row: &Row<'_>) -> bool {
    row.decodes() && !row.prefills()
}

/// Whether what one computes the other can use.
fn alike(a: &Row<'_>, b: &Row<'_>) -> bool {
    let (a, b) = (&a.info.fingerprint, &b.info.fingerprint);
    a.model == b.model && a.adapter == b.adapter && a.kv_dtype == b.kv_dtype
}
