//! A group: one replica of a service, formed all or nothing.
//!
//! - [`layout`]: which member hosts which ranks (pure)
//! - [`lifecycle`]: from the first hello to serving, and when it is over (pure)
//! - [`pace`]: how long steps may take, and ranks be silent (pure); [`straggler`]: the rank that
//!   has become slow (pure)

pub mod layout;
pub mod lifecycle;
pub mod pace;
mod straggler;
