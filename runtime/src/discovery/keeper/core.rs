//! The lease keeper's core: which keys are owned, and what the store must be asked for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::discovery::{
    Incarnation,
    store::{BACKOFF, By, Held, Hold, LeaseId, Released, Renewed},
};

/// Renewals per ttl: two may be lost before the lease is.
const RENEWALS_PER_TTL: u32 = 3;

/// Which keys are owned, and under which lease.
#[derive(Debug)]
pub(in crate::discovery) struct Core {
    pub(in crate::discovery) ttl: Duration,
    /// For the jitter of waits.
    seed: u64,
    lease: Option<LeaseId>,
    /// Leases of a store that went back in time. What is under one is what was there before, keys
    /// that were deleted since among it: all that is owned is put under another, and then they end
    /// with what is left.
    former: BTreeSet<LeaseId>,
    /// The life of the store that the keys are in. Read anew with each lease, because a lease that
    /// was lost may be a store that was.
    pub(in crate::discovery) life: Option<Incarnation>,
    pub(in crate::discovery) owned: BTreeMap<String, Owned>,
    /// Keys that may still be under the lease and must not be.
    leaving: BTreeSet<String>,
    pub(in crate::discovery) failures: u32,
}

#[derive(Debug)]
pub(in crate::discovery) struct Owned {
    hold: Hold,
    /// The store is known to have it as it should.
    stored: bool,
    /// It was ours when the store last said anything of it.
    pub(in crate::discovery) ours: bool,
}

/// What happens to a lease.
#[derive(Debug)]
pub(in crate::discovery) enum Event {
    Hold(Hold),
    Delete(String),
    /// It is time to look after the lease.
    Due,
    Granted(LeaseId),
    /// The store lives this life.
    Opened(Incarnation),
    Renewed(Renewed),
    Ensured(String, Held),
    Released(String, Released),
    /// The store will never take this key.
    Refused(String),
    /// Something was not done, or it is not known whether it was.
    Failed,
    Revoke,
    Revoked(LeaseId),
}

/// What is to be done, in this order. After a failure the rest is forgotten: the core knows what is
/// missing and asks for it again when it is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::discovery) enum Effect {
    Grant,
    /// Read the store's incarnation, or make it.
    Open,
    Renew(LeaseId),
    Ensure(LeaseId, Hold),
    Release(LeaseId, String),
    Revoke(LeaseId),
}

// === impl Core ===

impl Core {
    pub(in crate::discovery) fn new(ttl: Duration, seed: u64) -> Self {
        Self {
            ttl,
            seed,
            lease: None,
            former: BTreeSet::new(),
            life: None,
            owned: BTreeMap::new(),
            leaving: BTreeSet::new(),
            failures: 0,
        }
    }

    pub(in crate::discovery) fn handle(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Hold(hold) => self.hold(hold),
            Event::Delete(key) => {
                self.owned.remove(&key);
                self.leaving.insert(key.clone());
                let lease = self.lease.filter(|_| self.life.is_some());
                lease.map(|lease| Effect::Release(lease, key)).into_iter().collect()
            }
            Event::Due => vec![self.lease.map_or(Effect::Grant, Effect::Renew)],
            Event::Granted(lease) => {
                self.failures = 0;
                self.lease = Some(lease);
                // They went with the lease that they were under.
                self.leaving.clear();
                self.life = None;
                self.missing()
            }
            Event::Opened(life) => {
                self.life = Some(life);
                self.missing()
            }
            Event::Renewed(Renewed::Lost) | Event::Ensured(_, Held::NoLease) => {
                self.lease = None;
                self.lose();
                vec![Effect::Grant]
            }
            Event::Ensured(_, Held::OtherLife) | Event::Released(_, Released::OtherLife) => {
                self.life = None;
                self.lose();
                vec![Effect::Open]
            }
            Event::Renewed(renewed) => {
                self.failures = 0;
                if renewed != Renewed::Kept {
                    self.owned.values_mut().for_each(|owned| owned.stored = false);
                }
                if renewed == Renewed::Rewound {
                    self.former.extend(self.lease.take());
                    return vec![Effect::Grant];
                }
                self.missing()
            }
            Event::Ensured(key, Held::Ours) => {
                if let Some(owned) = self.owned.get_mut(&key) {
                    (owned.stored, owned.ours) = (true, true);
                    if owned.hold.by == By::Term {
                        owned.hold.by = By::Kept;
                    }
                }
                Vec::new()
            }
            Event::Ensured(key, Held::Theirs) | Event::Refused(key) => {
                self.owned.remove(&key);
                Vec::new()
            }
            Event::Released(key, Released::Done) => {
                self.leaving.remove(&key);
                Vec::new()
            }
            Event::Failed => {
                self.failures = self.failures.saturating_add(1);
                Vec::new()
            }
            Event::Revoke => {
                self.owned.clear();
                self.leaving.clear();
                let all = std::mem::take(&mut self.former).into_iter().chain(self.lease.take());
                all.map(Effect::Revoke).collect()
            }
            Event::Revoked(lease) => {
                self.former.remove(&lease);
                Vec::new()
            }
        }
    }

    fn hold(&mut self, hold: Hold) -> Vec<Effect> {
        let key = hold.key.clone();
        let owned = Owned { hold: hold.clone(), stored: false, ours: false };
        let before = self.owned.insert(key.clone(), owned);
        if hold.by == By::Put {
            self.leaving.remove(&key);
        } else if before.is_some_and(|before| before.hold.value != hold.value) {
            // What this lease has put there itself would stand in its way.
            self.leaving.insert(key.clone());
        }
        let (lease, life) = (self.lease, self.life.is_some());
        let Some(lease) = lease.filter(|_| life) else {
            return vec![lease.map_or(Effect::Grant, |_| Effect::Open)];
        };
        let release = self.leaving.contains(&key).then_some(Effect::Release(lease, key));
        release.into_iter().chain([Effect::Ensure(lease, hold)]).collect()
    }

    /// How long until the lease is due, if nothing else happens.
    pub(in crate::discovery) fn due_after(&self) -> Duration {
        let renewal = self.ttl / RENEWALS_PER_TTL;
        match self.failures {
            0 => renewal,
            failures => BACKOFF.wait(self.seed, failures - 1).min(renewal),
        }
    }

    /// Nothing is known to be stored, and nothing is ours, until the store says so again; and a
    /// term is over.
    fn lose(&mut self) {
        self.owned.retain(|_, owned| !owned.hold.by.is_term());
        for owned in self.owned.values_mut() {
            (owned.stored, owned.ours) = (false, false);
        }
    }

    /// What the store does not have as it should.
    fn missing(&self) -> Vec<Effect> {
        let Some(lease) = self.lease else {
            return Vec::new();
        };
        if self.life.is_none() {
            return vec![Effect::Open];
        }
        let leaving = self.leaving.iter().map(|key| Effect::Release(lease, key.clone()));
        let missing = self.owned.values().filter(|owned| !owned.stored);
        let missing = missing.map(|owned| Effect::Ensure(lease, owned.hold.clone()));
        let former = self.former.iter().map(|former| Effect::Revoke(*former));
        leaving.chain(missing).chain(former).collect()
    }

    /// Whether a key is ours now that all was done to hold it, or was not. One that was claimed in
    /// vain may have been written all the same: it goes at the next renewal.
    pub(in crate::discovery) fn held_after(&mut self, hold: &Hold, done: bool) -> bool {
        if !done && hold.by != By::Put {
            self.handle(Event::Delete(hold.key.clone()));
        }
        self.owned.get(&hold.key).is_some_and(|owned| owned.ours)
    }

    /// The keys that were ours when the store last said something of them.
    pub(in crate::discovery) fn held(&self) -> BTreeSet<String> {
        let held = self.owned.values().filter(|owned| owned.ours);
        held.map(|owned| owned.hold.key.clone()).collect()
    }
}

// === impl Event ===

impl Event {
    /// What was planned under the lost lease, or for the lost store, is pointless.
    pub(in crate::discovery) fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::Renewed(Renewed::Lost)
                | Self::Ensured(_, Held::NoLease | Held::OtherLife)
                | Self::Released(_, Released::OtherLife)
        )
    }

    pub(in crate::discovery) fn confirms_lease(&self) -> bool {
        matches!(
            self,
            Self::Granted(_) | Self::Renewed(Renewed::Kept | Renewed::Suspect | Renewed::Rewound)
        )
    }
}

#[cfg(test)]
mod tests;
