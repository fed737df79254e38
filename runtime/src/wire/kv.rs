//! Tensors between ranks: activations from stage to stage, partial sums from rank to rank. (KV
//! blocks between groups have frames of their own: [`super::transfer`].)
//!
//! A tensor travels as raw bytes behind this header, so that it is never copied into an archive.
//! The header says what it belongs to; a receiver that expected something else fails the step
//! rather than compute with it.

use rkyv::{Archive, Deserialize, Serialize};

use super::Message;
use crate::id::{Coordinate, Epoch, StepId};

/// Opens a one-way stream of tensors from one rank to another.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub struct BulkOpen {
    /// The group's incarnation.
    pub epoch: Epoch,
    /// Who sends.
    pub from: Coordinate,
    /// Who receives.
    pub to: Coordinate,
    /// What for.
    pub channel: BulkChannel,
}

/// What a stream of tensors is for.
#[derive(
    Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub enum BulkChannel {
    /// Hidden states, stage to next stage.
    Activation,
    /// Parts of a collective, rank to rank of one stage.
    Collective,
    /// Sampled tokens, from where sampling happens to where the next step begins.
    Tokens,
}

/// Element type of a tensor on the wire.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WireDtype {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// Brain float.
    Bf16,
    /// Raw bytes.
    U8,
    /// Signed bytes.
    I8,
    /// Token ids.
    U32,
}

impl WireDtype {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::U8 | Self::I8 => 1,
        }
    }
}

/// Goes before each tensor.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorHeader {
    /// The step that it belongs to.
    pub step: StepId,
    /// Position in the sequence of tensors of this step on this stream, from 0.
    pub index: u32,
    /// Rows.
    pub rows: u32,
    /// Elements per row.
    pub columns: u32,
    /// Element type.
    pub dtype: WireDtype,
}

impl TensorHeader {
    /// Bytes that must follow.
    pub fn bytes(&self) -> usize {
        self.rows as usize * self.columns as usize * self.dtype.size()
    }
}

impl Message for BulkOpen {
    const NAME: &'static str = "BulkOpen";

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Message for TensorHeader {
    const NAME: &'static str = "TensorHeader";

    fn check(&self) -> Result<(), String> {
        let bytes = u64::from(self.rows) * u64::from(self.columns) * self.dtype.size() as u64;
        let limit = crate::transport::MAX_TENSOR_BYTES as u64;
        if bytes > limit {
            return Err(format!("a tensor of {bytes} bytes, at most {limit} is possible"));
        }
        Ok(())
    }
}
