//! Which part of a tensor a tensor-parallel rank has: a run of rows, columns or heads.
//!
//! Any width can be divided: where it does not divide evenly, the first ranks have one more. Heads
//! are whole: query heads must divide by the number of ranks, key and value heads divide or, where
//! there are fewer than ranks, are held by several. (Which sizes work is the config's knowledge.)

use std::ops::Range;

use crate::error::DeviceError;

/// One rank among the tensor-parallel ranks of its stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    rank: usize,
    ranks: usize,
}

/// A rank's heads, as ranges over the model's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadShare {
    /// Query heads.
    pub query: Range<usize>,
    /// Key heads, and the same value heads.
    pub kv: Range<usize>,
    /// Whether another rank has the same key and value heads.
    pub kv_replicated: bool,
}

impl Shard {
    /// The only rank.
    pub const WHOLE: Self = Self { rank: 0, ranks: 1 };

    /// Rank `rank` of `ranks`.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if there is no such rank.
    pub fn new(rank: usize, ranks: usize) -> Result<Self, DeviceError> {
        if rank >= ranks {
            return Err(DeviceError::Contract(format!("rank {rank} of {ranks}")));
        }
        Ok(Self { rank, ranks })
    }

    /// This rank, from 0.
    pub const fn rank(self) -> usize {
        self.rank
    }

    /// How many ranks there are.
    pub const fn ranks(self) -> usize {
        self.ranks
    }

    /// Whether there are others.
    pub const fn is_divided(self) -> bool {
        self.ranks > 1
    }

    /// Whether this is rank 0, which adds what must be added once (biases of summed products).
    pub const fn is_first(self) -> bool {
        self.rank == 0
    }

    /// This rank's run of `size` things.
    pub fn split(self, size: usize) -> Range<usize> {
        let start = |rank: usize| rank * (size / self.ranks) + rank.min(size % self.ranks);
        start(self.rank)..start(self.rank + 1)
    }

    /// The runs of all ranks, in rank order.
    pub fn split_all(self, size: usize) -> impl Iterator<Item = Range<usize>> {
        (0..self.ranks).map(move |rank| Self { rank, ..self }.split(size))
    }

    /// This rank's heads of a model with so many query heads and key and value heads.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if heads would have to be cut.
    pub fn heads(self, query: usize, kv: usize) -> Result<HeadShare, DeviceError> {
        let ranks = self.ranks;
        let kv_divides = kv.is_multiple_of(ranks);
        if !query.is_multiple_of(ranks) || !(kv_divides || ranks.is_multiple_of(kv)) {
            return Err(DeviceError::Unsupported(format!(
                "{query} query heads and {kv} key/value heads cannot be divided over {ranks} ranks"
            )));
        }
        let kv_range = if kv_divides {
            self.split(kv)
        } else {
            // The head that this rank's query heads belong to.
            let head = self.rank / (ranks / kv);
            head..head + 1
        };
        Ok(HeadShare { query: self.split(query), kv: kv_range, kv_replicated: !kv_divides })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(ranks: usize) -> impl Iterator<Item = Shard> {
        (0..ranks).map(move |rank| Shard::new(rank, ranks).unwrap())
    }

    #[test]
    fn uneven_widths_cover_everything_once() {
        for (size, ranks) in [(172, 4), (172, 3), (519, 2), (519, 4), (2, 4), (0, 2), (7, 1)] {
            let runs: Vec<_> = shards(ranks).map(|shard| shard.split(size)).collect();
            assert_eq!(runs[0].start, 0);
            assert_eq!(runs[ranks - 1].end, size);
            assert!(runs.windows(2).all(|pair| pair[0].end == pair[1].start));
            let (least, most) = (size / ranks, size.div_ceil(ranks));
            assert!(runs.iter().all(|run| (least..=most).contains(&run.len())), "{runs:?}");
            assert!(shards(ranks).all(|shard| shard.split_all(size).eq(runs.iter().cloned())));
        }
    }

    #[test]
    fn kv_heads_follow_their_query_heads() {
        for (query, kv, ranks) in [(8, 4, 2), (8, 4, 4), (8, 2, 4), (8, 1, 8), (8, 2, 8), (6, 3, 3)]
        {
            for shard in shards(ranks) {
                let share = shard.heads(query, kv).unwrap();
                assert_eq!(share.kv_replicated, kv < ranks);
                let needed =
                    share.query.start / (query / kv)..=(share.query.end - 1) / (query / kv);
                assert_eq!(*needed.start(), share.kv.start);
                assert_eq!(*needed.end() + 1, share.kv.end);
            }
        }
        assert!(Shard::new(0, 3).unwrap().heads(8, 4).is_err());
        assert!(Shard::new(0, 2).unwrap().heads(6, 3).is_err());
        assert!(Shard::new(2, 2).is_err());
    }
}
