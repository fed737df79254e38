//! How soon each endpoint would answer, learned from how soon it did.
//!
//! For every fingerprint (model, precision, ranks: what makes endpoints alike) two lines are kept
//! through what was measured: the time to the first token, by what was running, waiting and still
//! to be computed when a request was placed, and the time per token after that. A line and not a
//! forest: it is learned from the first dozens of requests on, it follows drift, it costs
//! nanoseconds, and the work of an engine is close to linear in these numbers.

mod core;
mod fit;

pub(crate) use self::core::{Features, Measured, Predictor};
use crate::ingress::hints::Hints;

/// What is expected, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Predicted {
    /// To the first token.
    pub(crate) ttft: f32,
    /// From one token to the next.
    pub(crate) tpot: f32,
}

/// Objectives less what is expected; negative is late.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headroom {
    pub(crate) ttft: f32,
    pub(crate) tpot: f32,
}

impl Predicted {
    /// Against the request's objectives. If it has only one, the other is met; if it has none,
    /// nothing is, and what is fastest is closest.
    pub(crate) fn headroom(&self, hints: &Hints) -> Headroom {
        let none = hints.ttft.is_none() && hints.tpot.is_none();
        let room = |objective: Option<std::time::Duration>, expected: f32| match objective {
            Some(objective) => objective.as_secs_f32() - expected,
            None if none => -expected,
            None => 0.0,
        };
        Headroom { ttft: room(hints.ttft, self.ttft), tpot: room(hints.tpot, self.tpot) }
    }
}

impl Headroom {
    /// Whether it is in time.
    pub(crate) fn meets(&self) -> bool {
        self.ttft >= 0.0 && self.tpot >= 0.0
    }
}
