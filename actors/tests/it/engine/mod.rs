//! The engine and everything below it, as one group in one thread.
//!
//! - [`harness`]: the group; [`books`]: what requests were promised; [`turns`]: who overtook whom
//! - [`properties`]: random groups, requests and delays
//! - [`side`]: a group with all its ranks; [`transfers`]: KV blocks from one such group to another

mod books;
mod harness;
mod properties;
mod side;
mod transfers;
mod turns;
