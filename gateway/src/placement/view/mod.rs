//! Which endpoints a gateway believes in, and why it goes on believing while the store is away.
//!
//! - [`core`]: what the store's words mean, and what is left of them when it forgets (pure)
//! - [`kept`]: what was last known, on disk: with it a gateway starts while the store is away

pub(crate) mod core;
pub(crate) mod kept;
