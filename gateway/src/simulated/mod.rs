//! A gateway's cores without HTTP, network and clock: for simulators.
//!
//! Everything here is what a gateway runs but for what carries it. Times are the caller's, nobody
//! is connected, and the same calls have the same results. Left out is what costs no request:
//! routes, admission, flow control, and the word to the controller on how many wait.
//!
//! - [`places`]: which endpoints are believed in and which are ready, and which of them is taken
//! - [`stream`]: one prompt's stream, with what becomes of it when an endpoint is lost

pub(crate) mod places;
pub(crate) mod stream;
