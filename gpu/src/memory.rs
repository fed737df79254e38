//! How much a device must hold: the limits that size every buffer once, and how many KV blocks fit
//! into what is left.

use crate::error::DeviceError;

/// What bounds a step; every step buffer is sized from this once, at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows of one step at most.
    pub max_batched_tokens: usize,
    /// Sequences in one step at most.
    pub max_sequences: usize,
    /// Positions of one sequence at most.
    pub max_model_len: usize,
    /// Token ids are below this.
    pub vocab_size: usize,
    /// KV groups of the model; each sequence has so many block tables.
    pub kv_groups: usize,
}

impl Limits {
    /// Fails unless every limit is positive and positions fit the device's 32-bit counters.
    ///
    /// # Errors
    /// [`DeviceError::Contract`].
    pub fn check(&self) -> Result<(), DeviceError> {
        let all = [
            self.max_batched_tokens,
            self.max_sequences,
            self.max_model_len,
            self.vocab_size,
            self.kv_groups,
        ];
        if all.iter().any(|&limit| limit == 0 || limit > u32::MAX as usize / 2) {
            return Err(DeviceError::Contract(format!("impossible limits: {self:?}")));
        }
        Ok(())
    }
}

/// How many KV blocks of each group fit into `budget` bytes, if every group gets room for the same
/// number of positions. `block_bytes` is one block's size per group, over this rank's layers.
///
/// # Errors
/// [`DeviceError::OutOfMemory`] if not even one block fits.
pub fn blocks_that_fit(budget: u64, block_bytes: &[u64]) -> Result<u32, DeviceError> {
    let row: u64 = block_bytes.iter().sum();
    let blocks = budget.checked_div(row).unwrap_or(0).min(u64::from(u32::MAX - 1));
    match u32::try_from(blocks) {
        Ok(blocks) if blocks > 0 => Ok(blocks),
        _ => Err(DeviceError::OutOfMemory(format!(
            "{budget} bytes are left for KV, one block takes {row}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_share_the_budget() {
        assert_eq!(blocks_that_fit(1000, &[60, 40]).unwrap(), 10);
        assert!(blocks_that_fit(99, &[60, 40]).is_err());
        assert!(blocks_that_fit(99, &[]).is_err());
    }
}
