//! How many requests this gateway holds at once.
//!
//! A permit is taken before anything costly and lives as long as the answer does, streams included;
//! it frees itself when dropped. There is no queue here: waiting happens where it can be scheduled,
//! at the leader, and what is beyond the bound is told so at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{error::ApiError, flow::gate::Pass};

/// The bound.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    free: Arc<Semaphore>,
    limit: usize,
}

/// The right to be worked on.
#[derive(Debug)]
pub(crate) struct Permit {
    _slot: OwnedSemaphorePermit,
    /// The right to an endpoint's room, once it has that too.
    pass: Option<Pass>,
}

impl Admission {
    /// At most `limit` at a time.
    pub(crate) fn new(limit: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(limit)), limit }
    }

    /// A permit, if one is free.
    ///
    /// # Errors
    /// 503 otherwise.
    pub(crate) fn admit(&self) -> Result<Permit, ApiError> {
        let slot = Arc::clone(&self.free).try_acquire_owned().map_err(|_| ApiError::busy())?;
        Ok(Permit { _slot: slot, pass: None })
    }

    /// Requests admitted and not yet over.
    pub(crate) fn in_flight(&self) -> usize {
        self.limit - self.free.available_permits()
    }
}

// === impl Permit ===

impl Permit {
    /// The same, with a pass that lives as long.
    pub(crate) fn with(mut self, pass: Pass) -> Self {
        self.pass = Some(pass);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_frees_itself() {
        let admission = Admission::new(1);
        let permit = admission.admit().expect("one is free");
        assert_eq!(admission.in_flight(), 1);
        assert_eq!(admission.admit().expect_err("full"), ApiError::busy());
        drop(permit);
        assert_eq!(admission.in_flight(), 0);
        assert!(admission.admit().is_ok());
    }
}
