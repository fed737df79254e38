//! Collectives of ranks in different processes, over the transport's bulk handles.
//!
//! Each pair of ranks has a stream in each direction. Short messages go from everyone to everyone
//! and each rank adds up all parts itself: one trip. Long ones are cut into one slice per rank: its
//! owner gets that slice of every part, adds in rank order and sends the sum to all: two trips, and
//! no rank carries more than twice the message. Which way is taken changes no bit of the result.
//!
//! Sending never waits for a peer that is alive: between two operations that both take part in, at
//! most two tensors are on their way in one direction ([`DEPTH`]).

use std::{fmt, ops::Range, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use troupe_runtime::{
    error::chain,
    id::StepId,
    transport::{
        LinkError,
        bulk::{BulkReceiver, BulkSender},
    },
    wire::kv::{TensorHeader, WireDtype},
};

use super::Collective;
use crate::{error::DeviceError, weights::Shard};

/// Tensors that may wait in one direction between two ranks: the sums of one operation, which a
/// slow peer has not taken yet, and the parts of the next.
pub const DEPTH: usize = 2;

/// One rank's streams to all others. Dropping it fails every operation of the others.
pub struct BulkCollective {
    rank: usize,
    /// One per rank, `None` at this rank's own place.
    peers: Vec<Option<Peer>>,
    deadline: Duration,
    step: StepId,
    /// Operations of this step so far, which numbers their tensors.
    operation: u32,
}

/// The two ends that lead to another rank.
#[derive(Debug)]
pub struct Peer {
    /// Towards it.
    pub sender: BulkSender,
    /// From it.
    pub receiver: BulkReceiver,
}

// === impl BulkCollective ===

impl BulkCollective {
    /// `peers` holds the streams to every other rank, `None` at place `rank`. Each has room for at
    /// least [`DEPTH`] tensors. No wait is longer than `deadline`.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if exactly that is not what `peers` is.
    pub fn new(
        rank: usize,
        peers: Vec<Option<Peer>>,
        deadline: Duration,
    ) -> Result<Self, DeviceError> {
        let own = |(at, peer): (usize, &Option<Peer>)| peer.is_none() == (at == rank);
        if rank >= peers.len() || !peers.iter().enumerate().all(own) {
            let why = format!("rank {rank} needs streams to all of {} others", peers.len());
            return Err(DeviceError::Contract(why));
        }
        let peers = peers
            .into_iter()
            .map(|peer| {
                peer.map(|Peer { sender, receiver }| Peer {
                    sender: sender.with_deadline(deadline),
                    receiver,
                })
            })
            .collect();
        Ok(Self { rank, peers, deadline, step: StepId::default(), operation: 0 })
    }

    fn send(&mut self, to: usize, payload: Payload) -> Result<(), DeviceError> {
        let (step, index) = (self.step, self.operation);
        let Some(peer) = &mut self.peers[to] else {
            return Ok(());
        };
        let elements = payload.bytes.len() / payload.dtype.size();
        let columns = u32::try_from(elements).map_err(|_| {
            DeviceError::Collective(format!("{elements} values are too many for one message"))
        })?;
        let header = TensorHeader { step, index, rows: 1, columns, dtype: payload.dtype };
        peer.sender.send(header, payload.bytes).map_err(|error| lost(to, &error))
    }

    fn send_to_all(&mut self, payload: &Payload) -> Result<(), DeviceError> {
        (0..self.peers.len()).try_for_each(|to| self.send(to, payload.clone()))
    }

    /// The next message of `from`, of the given type and, if it is known, number of elements.
    fn receive(
        &mut self,
        from: usize,
        (dtype, elements): (WireDtype, Option<usize>),
    ) -> Result<Bytes, DeviceError> {
        let (step, index, deadline) = (self.step, self.operation, self.deadline);
        let Some(peer) = &mut self.peers[from] else {
            return Ok(Bytes::new());
        };
        let received = peer.receiver.receive(step, index, deadline);
        let (header, bytes) = received.map_err(|error| lost(from, &error))?;
        let found = header.columns as usize;
        if header.dtype != dtype || elements.is_some_and(|expected| expected != found) {
            return Err(DeviceError::Collective(format!(
                "rank {from} sent {found} elements of {:?}, expected {elements:?} of {dtype:?}",
                header.dtype
            )));
        }
        Ok(bytes)
    }

    /// `sums` becomes the sum over the ranks' parts of it, added in rank order as they come.
    fn add_in_order(&mut self, sums: &mut [f32]) -> Result<(), DeviceError> {
        let own = sums.to_vec();
        for rank in 0..self.peers.len() {
            let other = rank != self.rank;
            let part = if other {
                self.receive(rank, (WireDtype::F32, Some(own.len())))?
            } else {
                Bytes::new()
            };
            match (rank, other) {
                (0, true) => copy_decoded(&part, sums),
                (0, false) => {}
                (_, true) => {
                    sums.iter_mut().zip(decoded(&part)).for_each(|(sum, part)| *sum += part);
                }
                (_, false) => sums.iter_mut().zip(&own).for_each(|(sum, part)| *sum += part),
            }
        }
        Ok(())
    }

    /// The slice of `len` elements that each rank adds up.
    fn slices(&self, len: usize) -> Vec<Range<usize>> {
        let ranks = self.peers.len();
        Shard::new(0, ranks).map_or_else(|_| Vec::new(), |shard| shard.split_all(len).collect())
    }
}

impl Collective for BulkCollective {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.peers.len()
    }

    fn begin_step(&mut self, step: StepId) {
        self.step = step;
        self.operation = 0;
    }

    fn all_reduce(&mut self, values: &mut [f32]) -> Result<(), DeviceError> {
        if values.len() <= ONE_TRIP_ELEMENTS {
            self.send_to_all(&Payload::floats(values))?;
            self.add_in_order(values)?;
            self.operation += 1;
            return Ok(());
        }
        let slices = self.slices(values.len());
        for (owner, slice) in slices.iter().enumerate() {
            if owner != self.rank {
                self.send(owner, Payload::floats(&values[slice.clone()]))?;
            }
        }
        let own = slices[self.rank].clone();
        self.add_in_order(&mut values[own.clone()])?;
        self.operation += 1;
        self.send_to_all(&Payload::floats(&values[own]))?;
        for (owner, slice) in slices.into_iter().enumerate() {
            if owner != self.rank {
                let sums = self.receive(owner, (WireDtype::F32, Some(slice.len())))?;
                copy_decoded(&sums, &mut values[slice]);
            }
        }
        self.operation += 1;
        Ok(())
    }

    fn gather(&mut self, values: &[f32], into: &mut Vec<f32>) -> Result<(), DeviceError> {
        into.clear();
        if self.rank != 0 {
            self.send(0, Payload::floats(values))?;
        } else {
            into.extend_from_slice(values);
            for from in 1..self.peers.len() {
                let part = self.receive(from, (WireDtype::F32, None))?;
                into.extend(decoded(&part));
            }
        }
        self.operation += 1;
        Ok(())
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<(), DeviceError> {
        if self.rank == 0 {
            let bytes = Bytes::copy_from_slice(bytes);
            self.send_to_all(&Payload { dtype: WireDtype::U8, bytes })?;
        } else {
            let from_first = self.receive(0, (WireDtype::U8, None))?;
            bytes.clear();
            bytes.extend_from_slice(&from_first);
        }
        self.operation += 1;
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), DeviceError> {
        let nothing = Payload { dtype: WireDtype::U8, bytes: Bytes::new() };
        self.send_to_all(&nothing)?;
        for from in 0..self.peers.len() {
            self.receive(from, (WireDtype::U8, Some(0)))?;
        }
        self.operation += 1;
        Ok(())
    }
}

impl fmt::Debug for BulkCollective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BulkCollective({} of {})", self.rank, self.peers.len())
    }
}

/// What goes behind a header.
#[derive(Clone)]
struct Payload {
    dtype: WireDtype,
    bytes: Bytes,
}

impl Payload {
    fn floats(values: &[f32]) -> Self {
        let mut bytes = BytesMut::with_capacity(values.len() * 4);
        for value in values {
            bytes.put_slice(&value.to_le_bytes());
        }
        Self { dtype: WireDtype::F32, bytes: bytes.freeze() }
    }
}

fn decoded(bytes: &[u8]) -> impl Iterator<Item = f32> {
    let (chunks, _) = bytes.as_chunks::<4>();
    chunks.iter().map(|chunk| f32::from_le_bytes(*chunk))
}

fn copy_decoded(bytes: &[u8], into: &mut [f32]) {
    into.iter_mut().zip(decoded(bytes)).for_each(|(value, decoded)| *value = decoded);
}

fn lost(rank: usize, error: &LinkError) -> DeviceError {
    DeviceError::Collective(format!("rank {rank}: {}", chain(error)))
}

/// Up to this many values one trip with more bytes is quicker than two with fewer: 64 KiB take
/// about as long on the way as a message takes to be delivered at all.
const ONE_TRIP_ELEMENTS: usize = 16 * 1024;
