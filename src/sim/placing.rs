//! A profile at work: the real placement, or the one way that has no plug-in.

use std::time::Duration;

use troupe_gateway::{PickerConfig, Rehearsal, Rehearsed, Sent};
use troupe_runtime::wire::status::{EndpointInfo, Load};

use super::{
    endpoint::Told,
    profiles::{How, Profile},
};

/// See the file.
#[derive(Debug)]
pub(super) enum Placing {
    Real(Box<Rehearsal>),
    RoundRobin { next: usize, count: usize },
}

// === impl Placing ===

impl Placing {
    /// Among these endpoints. What its plug-ins remember begins anew.
    ///
    /// # Errors
    /// A configuration that is wrong; no endpoints.
    pub(super) fn new(profile: &Profile, endpoints: Vec<EndpointInfo>) -> Result<Self, String> {
        let picker = match &profile.how {
            How::Default => None,
            How::Config(text) => Some(PickerConfig::read(text).map_err(|error| error.to_string())?),
            How::RoundRobin => {
                return Ok(Self::RoundRobin { next: 0, count: endpoints.len() });
            }
        };
        let rehearsal = Rehearsal::new(endpoints, picker.as_ref());
        rehearsal.map(|real| Self::Real(Box::new(real))).ok_or("there are no endpoints".into())
    }

    /// Where a request goes, and what counts it there.
    pub(super) fn place(
        &mut self,
        now: Duration,
        prompt: Rehearsed<'_>,
    ) -> Option<(usize, Option<Sent>)> {
        match self {
            Self::Real(rehearsal) => {
                rehearsal.place(now, prompt).map(|sent| (sent.endpoint, Some(sent)))
            }
            Self::RoundRobin { next, count } => {
                let endpoint = *next;
                *next = (endpoint + 1) % (*count).max(1);
                Some((endpoint, None))
            }
        }
    }

    /// A leader says how busy it is.
    pub(super) fn set_load(&self, now: Duration, endpoint: usize, load: Load) {
        if let Self::Real(rehearsal) = self {
            rehearsal.set_load(now, endpoint, load);
        }
    }

    /// A leader says what it has cached.
    pub(super) fn tell(&self, endpoint: usize, told: &Told) {
        let Self::Real(rehearsal) = self else { return };
        match told {
            Told::Batches(batches) => {
                batches.iter().for_each(|batch| rehearsal.tell(endpoint, batch));
            }
            Told::All(held) => rehearsal.tell_all(endpoint, held),
        }
    }

    /// A gateway takes back what it no longer believes.
    pub(super) fn forget(&self, now: Duration) {
        if let Self::Real(rehearsal) = self {
            rehearsal.forget(now);
        }
    }
}
