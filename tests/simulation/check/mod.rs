//! What must hold whatever goes wrong. Each check sees only what processes do, not what they think,
//! and knows nothing of the faults of its run.
//!
//! - [`tokens`]: every request ends once, with the tokens of a run in which nothing goes wrong
//! - [`epochs`]: nobody goes back to an incarnation older than the newest that it has seen
//! - [`bounds`]: blocks, steps and books
//! - [`rest`]: what is left when faults are over

pub(crate) mod bounds;
pub(crate) mod epochs;
pub(crate) mod rest;
pub(crate) mod tokens;

use std::collections::BTreeMap;

use self::{bounds::Bounds, epochs::Epochs, tokens::Tokens};

/// All checks of a run.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    pub(crate) tokens: Tokens,
    pub(crate) epochs: Epochs,
    pub(crate) bounds: Bounds,
}

/// What is wrong, and how often; the first few of each kind are enough.
#[derive(Debug, Default)]
pub(crate) struct Complaints(BTreeMap<String, u32>);

// === impl Checks ===

impl Checks {
    /// Everything that was wrong so far.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let all = [&self.tokens.complaints, &self.epochs.complaints, &self.bounds.complaints];
        let all = all.into_iter().flat_map(|complaints| &complaints.0);
        all.map(|(what, count)| format!("{what} ({count} times)")).collect()
    }

    /// Whether nothing was.
    pub(crate) fn is_content(&self) -> bool {
        [&self.tokens.complaints, &self.epochs.complaints, &self.bounds.complaints]
            .iter()
            .all(|complaints| complaints.0.is_empty())
    }
}

// === impl Complaints ===

impl Complaints {
    pub(crate) fn note(&mut self, what: String) {
        if self.0.len() < MOST {
            *self.0.entry(what).or_default() += 1;
        }
    }
}

/// More is not read by anybody.
const MOST: usize = 20;
