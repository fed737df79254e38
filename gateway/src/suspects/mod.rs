//! Requests that processes may have died of.
//!
//! A request that crashes whoever executes it would go from endpoint to endpoint and take each one
//! down with all that runs there. So nodes tell which requests were in the step of a process that
//! died by its own fault. After two such deaths a request goes on, but alone; if a process dies of
//! it then as well, it was this one, and it ends with an error.
//!
//! - [`core`]: who is suspected of what (pure)
//! - [`watch`]: what nodes tell, and waiting for it

pub(crate) mod core;
pub(crate) mod watch;
