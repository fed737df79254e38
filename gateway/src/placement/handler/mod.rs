//! Which profiles a request goes through, and what their picks mean together.
//!
//! - [`placer`]: runs them
//! - [`apart`]: one that answers, and one that computes its prompt
//! - [`decider`]: whether a prompt is computed apart from where it is answered

mod apart;
mod decider;
mod placer;

pub(crate) use decider::{Cost, Decider, Weighed};
pub(crate) use placer::{Handler, Order, Outcome, Placer};

use super::{
    Query,
    scene::{Row, Scene},
};
