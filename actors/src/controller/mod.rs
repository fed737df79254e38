//! The controller: makes declared services real on the nodes, and keeps them so.
//!
//! - [`plan`]: what is observed in, what should be written out (pure)
//! - [`actor`]: watches the store, carries events in and effects out, while it holds the office
//! - [`desired`]: from a declared service to what its groups are to run (pure)

pub mod actor;
pub mod desired;
pub mod plan;
#[cfg(test)]
mod tests;
