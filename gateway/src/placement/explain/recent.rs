//! The latest decisions, found by the id that the client knows, or that traces have.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use super::record::Decision;

/// So many decisions are kept. One takes some 3 KiB, so all of them 6 MiB at most.
const KEPT: usize = 2048;

/// See the file.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    decisions: Mutex<VecDeque<Arc<Decision>>>,
}

// === impl Recent ===

impl Recent {
    /// Keeps one, and forgets the oldest if there are too many.
    pub(crate) fn keep(&self, decision: &Arc<Decision>) {
        let mut decisions = self.decisions.lock().unwrap_or_else(PoisonError::into_inner);
        if decisions.len() >= KEPT {
            decisions.pop_front();
        }
        decisions.push_back(Arc::clone(decision));
    }

    /// Those of a request, in their order: one for each prompt and attempt. What the answer's id
    /// begins with may be left out or not.
    pub(crate) fn of(&self, request: &str) -> Vec<Arc<Decision>> {
        let bare = ["chatcmpl-", "cmpl-"].iter().find_map(|prefix| request.strip_prefix(prefix));
        let names = [Some(request), bare];
        let decisions = self.decisions.lock().unwrap_or_else(PoisonError::into_inner);
        let asked =
            |decision: &&Arc<Decision>| names.iter().flatten().any(|name| decision.is(name));
        decisions.iter().filter(asked).cloned().collect()
    }
}
