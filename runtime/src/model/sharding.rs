//! Whether a model can be divided over tensor-parallel ranks, and over which numbers of them; and
//! whether those can divide its experts.
//!
//! Query heads are divided, so their number must be a multiple of the size. Key and value heads are
//! divided where there are enough and replicated where there are fewer than ranks, so one number
//! must divide the other. Vocabulary and feed-forward widths are padded or split unevenly, so they
//! forbid nothing.

use super::config::ModelConfig;

/// A tensor-parallel size that does not work, and those that do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a tensor-parallel size of {size} does not divide {num_heads} query heads and {num_kv_heads} \
     key/value heads evenly; sizes that work: {}",
    list(works)
)]
pub struct ShardingError {
    /// What was asked for.
    pub size: usize,
    /// The model's query heads.
    pub num_heads: usize,
    /// The model's key and value heads.
    pub num_kv_heads: usize,
    /// Every size that works, ascending.
    pub works: Vec<usize>,
}

/// Why ranks cannot divide a model's experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpertsError {
    /// There are none.
    #[error(
        "this model has no experts: expert parallelism (--enable-expert-parallel, \
         parallelism.expert) is for models that have, without it every layer is divided"
    )]
    None,
    /// Some ranks would have none.
    #[error("{count} experts cannot be divided over {ranks} ranks: at most {count} ranks")]
    TooFew {
        /// The model's experts, in each layer that has any.
        count: usize,
        /// Ranks of a stage.
        ranks: usize,
    },
}

impl ModelConfig {
    /// Checks that so many ranks can divide the experts.
    ///
    /// # Errors
    /// [`ExpertsError`].
    pub fn check_expert_parallel(&self, ranks: usize) -> Result<(), ExpertsError> {
        match self.experts.as_ref().map(|experts| experts.count) {
            None => Err(ExpertsError::None),
            Some(count) if count < ranks => Err(ExpertsError::TooFew { count, ranks }),
            Some(_) => Ok(()),
        }
    }

    /// Checks a tensor-parallel size.
    ///
    /// # Errors
    /// [`ShardingError`], which lists the sizes that work.
    pub fn check_tensor_parallel(&self, size: usize) -> Result<(), ShardingError> {
        if self.divides(size) {
            return Ok(());
        }
        Err(ShardingError {
            size,
            num_heads: self.num_heads,
            num_kv_heads: self.num_kv_heads,
            works: self.tensor_parallel_sizes(),
        })
    }

    /// Every tensor-parallel size that works, ascending; the first is 1.
    pub fn tensor_parallel_sizes(&self) -> Vec<usize> {
        (1..=self.num_heads).filter(|size| self.divides(*size)).collect()
    }

    fn divides(&self, size: usize) -> bool {
        let kv = self.num_kv_heads;
        size > 0
            && self.num_heads.is_multiple_of(size)
            && (kv.is_multiple_of(size) || size.is_multiple_of(kv))
    }
}

fn list(sizes: &[usize]) -> String {
    sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}
