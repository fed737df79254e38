//! Sizes that operations are described with: heads, attention, one group's KV.
//!
//! They come from a model's config and this rank's share of it, never from a batch, so a reduction
//! order may depend on them.

use crate::{error::DeviceError, kv::KvDtype};

/// This rank's heads in a fused row `[query heads | key heads | value heads]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads of this rank; a multiple of `kv_heads`.
    pub query_heads: usize,
    /// Key heads of this rank, and as many value heads.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
}

/// How rows attend to positions, the same for every step of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Heads of the query rows and of the KV.
    pub heads: HeadShape,
    /// Scores are multiplied by this before softmax; usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Which positions a row sees.
    pub mask: AttentionMask,
    /// Scores become `cap * tanh(score / cap)` then.
    pub soft_cap: Option<f32>,
}

/// This rank's heads of latent attention. What a position leaves behind is one row
/// `[compressed | rotated]` for all heads; a query head is `[without position | rotated]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentShape {
    /// Query heads of this rank.
    pub heads: usize,
    /// Elements of the compressed part of a row.
    pub rank: usize,
    /// Elements of a query head without position.
    pub nope_dim: usize,
    /// Elements that are rotated, of a row and of a query head.
    pub rope_dim: usize,
    /// Elements of a value head.
    pub value_dim: usize,
    /// Whether rotation pairs neighbors (`2i` with `2i + 1`), and not halves.
    pub interleaved: bool,
}

/// Which positions a row sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// All positions that have KV once this step's rows are written (pooling models).
    Bidirectional,
    /// Positions `0..=i` for the row at position `i`.
    Causal,
    /// Positions `i - W + 1 ..= i` (from 0) for the row at position `i`; `W` is at least 1.
    Window(u32),
}

/// What one KV group stores for this rank's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvSpec {
    /// This rank's layers that belong to the group.
    pub layers: usize,
    /// What one position of one layer is.
    pub kind: KvKind,
    /// Positions per block.
    pub block_size: usize,
    /// How elements are stored; keys and values are rounded to it when written.
    pub dtype: KvDtype,
    /// The most that any layer of the group sees: what is outside may have been freed.
    pub mask: AttentionMask,
}

/// What one position of one layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvKind {
    /// A key and a value for each head of this rank.
    Heads {
        /// Key heads of this rank.
        kv_heads: usize,
        /// Elements per head.
        head_dim: usize,
    },
    /// One compressed row shared by all heads.
    Latent {
        /// Elements per row.
        width: usize,
    },
}

/// Which layer's KV an operation works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvAt {
    /// Index of the KV group: selects the block tables in the step's metadata.
    pub group: usize,
    /// Index of the layer within the group on this rank, from 0.
    pub layer: usize,
}

impl HeadShape {
    /// Columns of the query part, which comes first in a fused row.
    pub const fn query_columns(&self) -> usize {
        self.query_heads * self.head_dim
    }

    /// Columns of the key part, and of the value part.
    pub const fn kv_columns(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Columns of a fused row.
    pub const fn fused_columns(&self) -> usize {
        self.query_columns() + 2 * self.kv_columns()
    }

    /// Fails unless every size is positive and query heads divide evenly over KV heads.
    ///
    /// # Errors
    /// [`DeviceError::Contract`].
    pub fn check(&self) -> Result<(), DeviceError> {
        let Self { query_heads, kv_heads, head_dim } = *self;
        if query_heads == 0 || kv_heads == 0 || head_dim == 0 || query_heads % kv_heads != 0 {
            return Err(DeviceError::Contract(format!("impossible heads: {self:?}")));
        }
        Ok(())
    }
}

impl LatentShape {
    /// Elements of a row.
    pub const fn width(&self) -> usize {
        self.rank + self.rope_dim
    }

    /// Elements of a query head.
    pub const fn query_dim(&self) -> usize {
        self.nope_dim + self.rope_dim
    }

    /// Fails unless every size is positive and an even number of elements is rotated.
    ///
    /// # Errors
    /// [`DeviceError::Contract`].
    pub fn check(&self) -> Result<(), DeviceError> {
        let sizes = [self.heads, self.rank, self.nope_dim, self.rope_dim, self.value_dim];
        if sizes.contains(&0) || !self.rope_dim.is_multiple_of(2) {
            return Err(DeviceError::Contract(format!("impossible heads: {self:?}")));
        }
        Ok(())
    }
}

impl AttentionMask {
    /// Whether every row sees at most what it would see through `other`.
    pub const fn within(self, other: Self) -> bool {
        match (self, other) {
            (_, Self::Bidirectional) => true,
            (Self::Bidirectional, _) => false,
            (_, Self::Causal) => true,
            (Self::Causal, Self::Window(_)) => false,
            (Self::Window(width), Self::Window(limit)) => width <= limit,
        }
    }

    /// The positions that a row at `position` sees when `end` positions have KV: first and one past
    /// the last.
    pub const fn visible(self, position: u32, end: u32) -> (u32, u32) {
        match self {
            Self::Bidirectional => (0, end),
            Self::Causal => (0, position + 1),
            Self::Window(width) => ((position + 1).saturating_sub(width), position + 1),
        }
    }
}
