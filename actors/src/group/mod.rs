//! A group: one replica of a service, formed all or nothing.
//!
//! - [`layout`]: which member hosts which ranks (pure)
//! - [`lifecycle`]: from the first hello to serving, and when it is over (pure)

pub mod layout;
pub mod lifecycle;
