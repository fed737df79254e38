//! What the controller knows of models without loading them, and what it has asked.
//!
//! A service's first plan waits for the answer, for otherwise nobody would look whether the model
//! fits where its groups are put. It waits for a moment only: the folder of a model may be on a
//! disk that does not answer, and a host without the model says so at once.

use std::{collections::BTreeMap, time::Duration};

use super::memory::ModelFacts;

/// All models that were asked for, by URI.
#[derive(Clone, Debug, Default)]
pub(super) struct Models(BTreeMap<String, Model>);

#[derive(Clone, Copy, Debug)]
enum Model {
    /// Since then.
    Asked(Duration),
    Known(ModelFacts),
    /// It is not here, or cannot be read.
    Unknown,
}

// === impl Models ===

impl Models {
    /// Whether to ask about a model now: nobody has.
    pub(super) fn ask(&mut self, uri: &str, now: Duration) -> bool {
        let new = !self.0.contains_key(uri);
        if new {
            self.0.insert(uri.to_owned(), Model::Asked(now));
        }
        new
    }

    /// The answer.
    pub(super) fn answer(&mut self, uri: String, facts: Option<ModelFacts>) {
        self.0.insert(uri, facts.map_or(Model::Unknown, Model::Known));
    }

    /// Another controller's questions die with it, and so do ours with the office.
    pub(super) fn ask_again(&mut self) {
        self.0.retain(|_, model| matches!(model, Model::Known(_)));
    }

    pub(super) fn facts(&self, uri: &str) -> Option<&ModelFacts> {
        match self.0.get(uri)? {
            Model::Known(facts) => Some(facts),
            Model::Asked(_) | Model::Unknown => None,
        }
    }

    /// Until when an answer is worth waiting for, if one is to come.
    pub(super) fn due(&self, uri: &str, now: Duration) -> Option<Duration> {
        match self.0.get(uri)? {
            Model::Asked(since) => Some(*since + PATIENCE).filter(|until| *until > now),
            Model::Known(_) | Model::Unknown => None,
        }
    }
}

/// Within this a model's folder is read.
const PATIENCE: Duration = Duration::from_secs(2);
