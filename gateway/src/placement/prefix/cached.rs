//! What this gateway knows of one endpoint's cache: what the leader tells, and what was sent there.
//!
//! Both are entries of the same owner in the index. Those that rest on what was sent are remembered
//! in [`Recent`], and taken back when they are no longer believed; the leader's word on a block
//! settles it either way. An endpoint whose leader tells nothing has only what was sent to it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use troupe_runtime::{prefix::Parameters, wire::cache::CacheBatch};

use super::{
    index::Runs,
    namings::{Naming, Prefixes},
    owners::Owner,
    recent::{Belief, Recent},
};
use crate::placement::cells::{Claim, Line, NOBODY};

/// One endpoint's cache, until it is dropped: then its blocks go at once.
pub(crate) struct Cached {
    prefixes: Arc<Prefixes>,
    naming: Naming,
    /// The endpoint's; for those who look up it has the index's number for it, if there is one.
    claim: Claim,
    // A std mutex: held while a batch or a prompt is entered, never across an await.
    state: Mutex<State>,
}

struct State {
    owner: Option<Owner>,
    recent: Recent,
    /// Blocks that the leader has told of.
    held: usize,
    /// An owner whose blocks do not count yet, and how many it has.
    fresh: Option<(Owner, usize)>,
}

// === impl Cached ===

impl Cached {
    /// Nothing is known yet of an endpoint that names its blocks so.
    pub(crate) fn new(prefixes: Arc<Prefixes>, parameters: &Parameters) -> Self {
        let naming = prefixes.naming(parameters);
        let owner = prefixes.index.claim();
        if let Some(owner) = owner {
            prefixes.index.show(owner);
        } else {
            tracing::warn!("too many endpoints: what one of them has cached will not be known");
        }
        let claim = prefixes.lines.claim();
        claim.own(owner.map_or(NOBODY, u32::from));
        let recent = Recent::new(Belief::GUESSED);
        let state = Mutex::new(State { owner, recent, held: 0, fresh: None });
        Self { prefixes, naming, claim, state }
    }

    /// How it names its blocks.
    pub(crate) fn naming(&self) -> Naming {
        self.naming
    }

    /// Where the endpoint's numbers are, which this keeps for it.
    pub(crate) fn line(&self) -> &Line {
        self.claim.line()
    }

    /// How many leading blocks it holds of what was looked up.
    pub(crate) fn run(&self, runs: &Runs) -> u32 {
        runs.at(self.line())
    }

    /// A prompt with these blocks is on its way there. `now` is the gateway's time.
    pub(crate) fn sent(&self, now: Duration, hashes: &[u128]) {
        let (mut state, index) = (self.state(), &self.prefixes.index);
        let Some(owner) = state.owner else { return };
        let hashes = &hashes[..hashes.len().min(MOST_SENT)];
        let mut news = Vec::with_capacity(hashes.len());
        index.add(owner, hashes, |_, is_new| news.push(is_new));
        state.recent.sent(now, hashes, &news);
        let forgotten = state.recent.forget(now);
        index.remove(owner, &forgotten);
    }

    /// Takes back what was sent so long ago that it is not believed any more.
    pub(crate) fn forget(&self, now: Duration) {
        let mut state = self.state();
        let forgotten = state.recent.forget(now);
        if let Some(owner) = state.owner {
            self.prefixes.index.remove(owner, &forgotten);
        }
    }

    /// The leader tells what it holds: guesses are only needed until it has.
    pub(crate) fn told(&self) {
        self.state().recent.believe(Belief::TOLD);
    }

    /// Enters what has changed, and returns how many blocks the leader has told of.
    pub(crate) fn apply(&self, batch: &CacheBatch) -> usize {
        if batch.cleared {
            self.begin();
            self.fill(&[]);
            self.finish();
        }
        let (mut state, index) = (self.state(), &self.prefixes.index);
        let Some(owner) = state.owner else { return 0 };
        let told = |state: &mut State, hashes: &[u128]| {
            hashes.iter().filter(|hash| state.recent.told(**hash)).count()
        };
        let guessed = told(&mut state, &batch.removed);
        let removed = index.remove(owner, &batch.removed);
        state.held = state.held.saturating_sub(removed.saturating_sub(guessed));
        state.held += told(&mut state, &batch.stored);
        index.add(owner, &batch.stored, |_, is_new| state.held += usize::from(is_new));
        state.held
    }

    /// All that the leader holds will be told anew.
    pub(crate) fn begin(&self) {
        let (mut state, index) = (self.state(), &self.prefixes.index);
        if let Some((owner, _)) = state.fresh.take() {
            index.retire(owner);
        }
        state.fresh = index.claim().map(|owner| (owner, 0));
    }

    /// A part of it.
    pub(crate) fn fill(&self, hashes: &[u128]) {
        let mut state = self.state();
        if let Some((owner, held)) = &mut state.fresh {
            let add = |_, is_new| *held += usize::from(is_new);
            self.prefixes.index.add(*owner, hashes, add);
        }
    }

    /// That was all: it replaces what was known. Returns how many blocks there are.
    pub(crate) fn finish(&self) -> usize {
        let (mut state, index) = (self.state(), &self.prefixes.index);
        let Some((fresh, held)) = state.fresh.take() else { return state.held };
        let believed: Vec<u128> = state.recent.all().collect();
        index.add(fresh, &believed, |hash, is_new| {
            if !is_new {
                state.recent.told(hash);
            }
        });
        state.held = held;
        index.show(fresh);
        self.claim.own(fresh.into());
        if let Some(old) = state.owner.replace(fresh) {
            index.retire(old);
        }
        held
    }

    /// Nothing is believed that its leader has told.
    pub(super) fn distrust(&self) {
        self.begin();
        self.finish();
        self.state().recent.believe(Belief::GUESSED);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cached {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let fresh = state.fresh.map(|(owner, _)| owner);
        state.owner.into_iter().chain(fresh).for_each(|owner| self.prefixes.index.retire(owner));
    }
}

impl fmt::Debug for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        write!(f, "Cached({} told, {} believed)", state.held, state.recent.len())
    }
}

/// Blocks of one prompt that are believed in before the leader has told of them: entering them is
/// the request's own time, and so many tell endpoints apart well enough.
const MOST_SENT: usize = 2048;

#[cfg(test)]
mod tests;
