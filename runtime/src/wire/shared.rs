//! Tensors through memory that two processes of one host share: what travels over the network
//! instead of them.
//!
//! ```text
//! who sends                        who receives
//!   Offer(segment)           -->                  memory of mine
//!                            <--  mapped, or not
//!   Placed(message, length)  -->                  its tensor is in the next place of the ring
//!                            <--  taken: n        places before the n-th may be used again
//!   Beside(message)          -->                  its tensor follows, as over any carrier
//! ```
//! Nothing waits for the answer: until it is there, and wherever it is no, tensors travel beside
//! their messages. [`crate::transport::shm`] has both ends.

use rkyv::{Archive, Deserialize, Serialize};

use super::Message;

/// From who sends tensors.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum SharedDown {
    /// Some memory to take tensors from; at most once, before anything else.
    Offer(SegmentOffer),
    /// An encoded message, whose tensor is behind it.
    Beside(Vec<u8>),
    /// An encoded message, whose tensor are so many bytes in the next place of the ring.
    Placed(Vec<u8>, u32),
}

/// From who receives them: how it stands, whenever that has changed.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedUp {
    /// Whether it can read what was offered.
    pub mapped: bool,
    /// So many tensors were taken out of it.
    pub taken: u64,
}

/// Where a process has memory for another one of its host.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentOffer {
    /// Names the host as it runs now, and whose process numbers these are.
    pub host: u128,
    /// The process.
    pub process: u32,
    /// Which of its files it is.
    pub file: u32,
    /// Places of the ring.
    pub slots: u32,
    /// Bytes of each.
    pub slot_bytes: u32,
    /// Stands at the beginning of the memory, and nowhere else.
    pub nonce: u128,
}

impl Message for SharedDown {
    const NAME: &'static str = "SharedDown";

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Offer(offer) => offer.check(),
            Self::Beside(_) | Self::Placed(..) => Ok(()),
        }
    }
}

impl SegmentOffer {
    fn check(&self) -> Result<(), String> {
        if !(1..=MOST_SLOTS).contains(&self.slots) {
            return Err(format!("slots is {}, 1 to {MOST_SLOTS} are possible", self.slots));
        }
        if !(1..=MOST_SLOT_BYTES).contains(&self.slot_bytes) {
            let bytes = self.slot_bytes;
            return Err(format!("slot_bytes is {bytes}, 1 to {MOST_SLOT_BYTES} are possible"));
        }
        Ok(())
    }
}

impl Message for SharedUp {
    const NAME: &'static str = "SharedUp";

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Most places of a ring.
pub const MOST_SLOTS: u32 = 64;
/// Most bytes of a place.
pub const MOST_SLOT_BYTES: u32 = 16 << 20;
