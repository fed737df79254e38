//! Which endpoint holds how much of a prompt already, from what leaders tell and not from guesses.
//!
//! ```text
//! leader's ledger --QUIC--> follow (core, task) --> cached --> index <-- runs() -- placement
//!                                 what was sent --> recent --^
//! ```
//!
//! - [`index`]: blocks and who holds them: written by all followers, read without waiting;
//!   `table` and `owners` are what it is made of
//! - [`cached`]: what is known of one endpoint's cache: told by its leader, or sent there just now
//! - `recent`: what was sent there, and how long that is believed (pure)
//! - [`guessed`]: foreign endpoints, whose leaders tell nothing
//! - [`follow`]: one task per endpoint that keeps up with its leader's word; its core is pure
//! - [`namings`]: the index with the ways of naming blocks; a prompt's hashes in each of them
//! - `measure`: the index alone, to be measured

pub(crate) mod cached;
pub(crate) mod follow;
pub(crate) mod guessed;
pub(crate) mod index;
pub(crate) mod measure;
pub(crate) mod namings;
mod owners;
mod recent;
mod table;
