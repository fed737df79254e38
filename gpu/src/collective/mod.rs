//! Collectives: how the tensor-parallel ranks of a stage add and exchange what each has computed.
//!
//! # The contract, for every carrier
//! - Every rank calls the same operations in the same order with the same sizes, each from its one
//!   device thread. A call returns when this rank may go on.
//! - [`Collective::all_reduce`] adds in rank order: element `i` becomes
//!   `((part 0 + part 1) + part 2) + ...` in `f32`, whatever the size of the message, on every rank
//!   the same bits. So a row's bits do not depend on the batch that it was computed in.
//! - Every wait has the deadline that the carrier was made with. A rank that dies, or drops its
//!   handle, makes the others fail with [`DeviceError::Collective`], which is final: the rank is
//!   unusable afterwards.
//!
//! # Carriers
//! - [`local`]: ranks are threads of one process
//! - [`bulk`]: ranks are processes, over the transport's bulk handles
//! - [`Alone`]: one rank, nothing to do

pub mod bulk;
pub mod local;

use troupe_runtime::id::StepId;

use crate::error::DeviceError;

pub use self::{bulk::BulkCollective, local::LocalCollective};

#[cfg(test)]
mod tests;

/// One rank's end of a stage's collectives. See the module for what all operations share.
pub trait Collective: Send {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn ranks(&self) -> usize;

    /// Names the step that the following operations belong to. Ranks that are in different steps
    /// must not add up each other's numbers: where the carrier can tell, that is an error.
    fn begin_step(&mut self, step: StepId);

    /// Replaces `values` by the sum over all ranks, in rank order.
    ///
    /// # Errors
    /// [`DeviceError::Collective`].
    fn all_reduce(&mut self, values: &mut [f32]) -> Result<(), DeviceError>;

    /// At rank 0, fills `into` (cleared first) with the ranks' values one after the other, which
    /// may differ in length; elsewhere leaves it empty.
    ///
    /// # Errors
    /// [`DeviceError::Collective`].
    fn gather(&mut self, values: &[f32], into: &mut Vec<f32>) -> Result<(), DeviceError>;

    /// Replaces `bytes` by rank 0's, which may be of another length.
    ///
    /// # Errors
    /// [`DeviceError::Collective`].
    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<(), DeviceError>;

    /// Returns once every rank has called it.
    ///
    /// # Errors
    /// [`DeviceError::Collective`].
    fn barrier(&mut self) -> Result<(), DeviceError>;
}

/// The collective of a stage with one rank.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        1
    }

    fn begin_step(&mut self, _step: StepId) {}

    fn all_reduce(&mut self, _values: &mut [f32]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn gather(&mut self, values: &[f32], into: &mut Vec<f32>) -> Result<(), DeviceError> {
        into.clear();
        into.extend_from_slice(values);
        Ok(())
    }

    fn broadcast(&mut self, _bytes: &mut Vec<u8>) -> Result<(), DeviceError> {
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}
