//! Latent attention: what a position leaves behind is one short row for all heads, from which each
//! head's keys and values are products.
//!
//! The row is `[compressed | rotated]`: the first part is normed and has no position, the second
//! is a key that all heads share and that rotary embedding turns. Query heads have the same two
//! parts, the one without position first.

use super::parse::{MAX_HEAD_DIM, MAX_WIDTH};
use crate::model::{error::ModelError, json::Fields};

/// How keys and values are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latent {
    /// Width that queries are compressed to on their way, if they are.
    pub query_rank: Option<usize>,
    /// Elements of the compressed part of a row.
    pub rank: usize,
    /// Elements of a query head without position.
    pub nope_dim: usize,
    /// Elements that are rotated, even: of a query head, and of the row.
    pub rope_dim: usize,
    /// Elements of a value head.
    pub value_dim: usize,
    /// Whether rotation pairs neighbors (`2i` with `2i + 1`), and not halves.
    pub interleaved: bool,
}

impl Latent {
    /// Elements of a row.
    pub const fn width(&self) -> usize {
        self.rank + self.rope_dim
    }

    /// Elements of a query head.
    pub const fn query_dim(&self) -> usize {
        self.nope_dim + self.rope_dim
    }

    pub(super) fn parse(config: &Fields<'_>) -> Result<Self, ModelError> {
        let rope_dim = config.size("qk_rope_head_dim", 2..=MAX_HEAD_DIM)?;
        if !rope_dim.is_multiple_of(2) {
            return Err(config.wrong("qk_rope_head_dim", "it must be even to be rotated"));
        }
        Ok(Self {
            query_rank: config.integer("q_lora_rank", 1..=MAX_WIDTH)?.map(|rank| rank as usize),
            rank: config.size("kv_lora_rank", 1..=MAX_WIDTH)?,
            nope_dim: config.size("qk_nope_head_dim", 1..=MAX_HEAD_DIM)?,
            rope_dim,
            value_dim: config.size("v_head_dim", 1..=MAX_HEAD_DIM)?,
            interleaved: config.flag("rope_interleave")?.unwrap_or(true),
        })
    }
}
