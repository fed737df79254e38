//! KV bookkeeping: block *ids* and who holds them. Block bytes live in `gpu`.
//!
//! - [`blocks`]: the pool of one KV group, and the tables of sequences

pub mod blocks;
