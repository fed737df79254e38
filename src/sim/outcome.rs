//! What came of a run, before it is made figures.

use std::time::Duration;

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Run {
    /// Requests that were answered, in the order in which they were.
    pub(crate) answered: Vec<Answered>,
    /// Requests that no endpoint would take, with those that would have come after them.
    pub(crate) refused: u64,
    /// Why the first of them was not taken.
    pub(crate) refusal: Option<String>,
    /// When the last answer ended.
    pub(crate) ended: Duration,
    /// For each endpoint, how long its device computed.
    pub(crate) busy: Vec<Duration>,
    /// Sequences that lost their blocks.
    pub(crate) preemptions: u64,
    /// Of all that happened, in order: equal for equal runs.
    pub(crate) trace: Trace,
}

/// A request that was answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Answered {
    pub(crate) conversation: u32,
    pub(crate) prompt: u32,
    /// Tokens of the prompt whose KV was there already.
    pub(crate) cached: u32,
    pub(crate) output: u32,
    /// From its asking to its first token.
    pub(crate) first: Duration,
    /// From its first token to its last.
    pub(crate) rest: Duration,
}

/// A hash of events (FNV-1a, over numbers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trace(pub(crate) u64);

// === impl Trace ===

impl Default for Trace {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Trace {
    /// More happened.
    pub(super) fn add(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.0 = (self.0 ^ number).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
