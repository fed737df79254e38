//! The engine and everything below it, as one group in one thread.
//!
//! - [`harness`]: the group; [`books`]: what requests were promised; [`turns`]: who overtook whom
//! - [`properties`]: random groups, requests and delays
//! - [`side`]: a group with all its ranks; [`transfers`]: KV blocks from one such group to another;
//!   [`tiers`]: blocks that its device gives up and its host keeps

mod books;
mod harness;
mod properties;
mod side;
mod tiers;
mod transfers;
mod turns;
