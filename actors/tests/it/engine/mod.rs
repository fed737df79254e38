//! The engine and everything below it, as one group in one thread.
//!
//! - [`harness`]: the group; [`books`]: what requests were promised; [`turns`]: who overtook whom
//! - [`properties`]: random groups, requests and delays

mod books;
mod harness;
mod properties;
mod turns;
