//! What was decided for each request, and why: the latest decisions, in memory.
//!
//! - [`record`]: one decision, as it is told
//! - [`recent`]: the latest of them, by the request's name

pub(crate) mod recent;
pub(crate) mod record;
