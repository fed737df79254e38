//! KV bookkeeping at the leader: which block is whose. Ids only; the bytes are in `troupe_gpu`.
//!
//! - [`blocks`]: the pools of all KV groups as sequences use them: take, grow, release
//! - [`findable`]: what is there to be found, for those who are told of it
//! - [`hit`]: what of a sequence is there already
//! - [`pool`]: the blocks of one group: who holds each, what it contains, which is reused next
//! - [`tiers`]: which blocks are kept beside the device, and where; `tiered`: how pools use that;
//!   `evict`: what makes room there
//! - [`transfer`]: which rank sends what to which rank of another group
//! - [`lru`]: the order of reuse; `index`: blocks by what they contain

pub mod blocks;
mod evict;
pub mod findable;
pub mod hit;
mod index;
pub mod lru;
pub mod pool;
mod tiered;
pub mod tiers;
pub mod transfer;
