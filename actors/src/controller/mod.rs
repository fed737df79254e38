//! The controller: makes declared services real on the nodes, and keeps them so.
//!
//! - [`plan`]: what is observed in, what should be written out (pure)
//! - [`actor`]: watches the store, carries events in and effects out, while it holds the office
//! - `observed`: what the store's watch tells, as the planner's events (pure)
//! - [`desired`]: from a declared service to what its groups are to run (pure)

pub mod actor;
pub mod desired;
mod observed;
pub mod plan;
#[cfg(test)]
mod tests;
