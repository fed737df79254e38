//! One go of the lease keeper: what its core wants, and all that follows from that, one request at
//! a time, up to the first failure. After that the rest is forgotten, because the core knows what
//! is missing and asks for it again when it is due.

use std::collections::VecDeque;

use super::core::{Core, Effect, Event};
use crate::discovery::RegistryError;

/// What is still to be done.
#[derive(Debug)]
pub(in crate::discovery) struct Course {
    pending: VecDeque<Effect>,
    /// Each grant is followed by one.
    starts: u32,
    outcome: Result<(), RegistryError>,
}

/// Leases, or lives of the store, that may be lost one after the other in one go: more is a store
/// gone wrong.
const MOST_STARTS: u32 = 3;

// === impl Course ===

impl Course {
    /// Begins with what the core has asked for.
    pub(in crate::discovery) fn new(effects: Vec<Effect>) -> Self {
        Self { pending: effects.into(), starts: 0, outcome: Ok(()) }
    }

    /// What is to be asked of the store now; nothing once it is through.
    pub(in crate::discovery) fn next(&mut self, core: &mut Core) -> Option<Effect> {
        let effect = self.pending.pop_front()?;
        self.starts += u32::from(effect == Effect::Open);
        if effect == Effect::Open && self.starts > MOST_STARTS {
            let why = "the store forgets each lease, or its incarnation, at once";
            self.failed(core, RegistryError::Refused(why.into()));
            return None;
        }
        Some(effect)
    }

    /// The store has answered, or has not. Says whether that confirms the lease. A key that the
    /// store refuses is no failure of the lease, or it would hold up all others.
    pub(in crate::discovery) fn performed(
        &mut self,
        core: &mut Core,
        effect: Effect,
        performed: Result<Option<Event>, RegistryError>,
    ) -> bool {
        let event = match (performed, effect) {
            (Ok(None), _) => return false,
            (Ok(Some(event)), _) => event,
            (Err(error @ RegistryError::Refused(_)), Effect::Ensure(_, hold)) => {
                self.outcome = Err(error);
                Event::Refused(hold.key)
            }
            (Err(error), _) => {
                self.failed(core, error);
                return false;
            }
        };
        let confirms = event.confirms_lease();
        if event.is_loss() {
            // The rest is pointless now; what comes after brings it all.
            self.pending.clear();
        }
        self.pending.extend(core.handle(event));
        confirms
    }

    /// Whether all was done.
    pub(in crate::discovery) fn outcome(self) -> Result<(), RegistryError> {
        self.outcome
    }

    fn failed(&mut self, core: &mut Core, error: RegistryError) {
        core.handle(Event::Failed);
        self.pending.clear();
        self.outcome = Err(error);
    }
}
