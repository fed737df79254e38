//! A frame as bytes on a stream, and back.
//!
//! ```text
//! u32 message length | u32 tensor length | u32 where the tensor is | message | tensor
//! ```
//! Numbers are little-endian. A tensor is behind its message (0), or comes by another way that the
//! carrier has beside the stream (1); that there is such a way is told by a message of the
//! carrier's own (2). Only one that laid such a way speaks of it, so whoever has none sees nothing
//! but 0. Lengths are checked before anything is kept, and memory for a frame grows with the bytes
//! that have come: a claim of 256 MiB costs its sender 256 MiB, and us nothing until then. Nothing
//! here reads or writes: the carrier feeds chunks and takes frames.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Frame, LinkError, MAX_TENSOR_BYTES};
use crate::wire::MAX_MESSAGE_BYTES;

/// Bytes before each frame.
pub(super) const HEADER_BYTES: usize = 12;
/// The first buffer of a part that came in several chunks; doubled when it is full.
const FIRST_BUFFER_BYTES: usize = 64 << 10;

/// What goes before a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    message: usize,
    tensor: usize,
    place: Place,
}

/// Where a frame's tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Behind = 0,
    Apart = 1,
    /// There is no tensor: the message is the carrier's own.
    Word = 2,
}

/// What comes off a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A whole frame.
    Frame(Frame),
    /// A frame's message, whose tensor of so many bytes comes by the carrier's other way.
    Apart(Bytes, usize),
    /// What the carrier itself says.
    Word(Bytes),
}

/// Turns chunks of a stream into frames.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    /// Fed and not used yet.
    chunks: VecDeque<Bytes>,
    /// Bytes in `chunks`.
    available: usize,
    /// The frame that is being read.
    header: Option<Header>,
    message: Option<Bytes>,
    /// A part that came in several chunks, so far.
    part: BytesMut,
}

/// The chunks to write for a frame, in order.
///
/// # Errors
/// [`LinkError::Malformed`] if no receiver would take it.
pub(super) fn chunks_of(frame: Frame) -> Result<[Bytes; 3], LinkError> {
    let (message, tensor) = (frame.message.len(), frame.tensor.len());
    let header = Header { message, tensor, place: Place::Behind };
    Ok([header.to_bytes()?, frame.message, frame.tensor])
}

/// The chunks to write for a message whose tensor, of so many bytes, goes by another way.
///
/// # Errors
/// As [`chunks_of`].
pub(super) fn chunks_apart(message: Bytes, tensor: usize) -> Result<[Bytes; 2], LinkError> {
    let header = Header { message: message.len(), tensor, place: Place::Apart };
    Ok([header.to_bytes()?, message])
}

/// The chunks to write for a word of the carrier's own.
///
/// # Errors
/// As [`chunks_of`].
pub(super) fn chunks_of_word(word: Bytes) -> Result<[Bytes; 2], LinkError> {
    let header = Header { message: word.len(), tensor: 0, place: Place::Word };
    Ok([header.to_bytes()?, word])
}

// === impl Header ===

impl Header {
    fn check(self) -> Result<Self, LinkError> {
        for (what, bytes, limit) in [
            ("message", self.message, MAX_MESSAGE_BYTES),
            ("tensor", self.tensor, MAX_TENSOR_BYTES),
        ] {
            if bytes > limit {
                let why = format!("a {what} of {bytes} bytes is over the limit of {limit}");
                return Err(LinkError::Malformed(why));
            }
        }
        match self.place {
            Place::Word if self.tensor > 0 => {
                Err(LinkError::Malformed("a word of the carrier's has a tensor".into()))
            }
            _ => Ok(self),
        }
    }

    fn to_bytes(self) -> Result<Bytes, LinkError> {
        self.check()?;
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES);
        // Checked to be far below 4 GiB.
        bytes.put_u32_le(self.message as u32);
        bytes.put_u32_le(self.tensor as u32);
        bytes.put_u32_le(self.place as u32);
        Ok(bytes.freeze())
    }

    fn parse(mut bytes: Bytes) -> Result<Self, LinkError> {
        let (message, tensor) = (bytes.get_u32_le() as usize, bytes.get_u32_le() as usize);
        let place = match bytes.get_u32_le() {
            0 => Place::Behind,
            1 => Place::Apart,
            2 => Place::Word,
            place => {
                let why = format!("a tensor at {place:#x}: no such place is known here");
                return Err(LinkError::Malformed(why));
            }
        };
        Self { message, tensor, place }.check()
    }
}

// === impl FrameReader ===

impl FrameReader {
    /// Takes the next chunk of the stream.
    pub(super) fn feed(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.available += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// The next piece that is whole, or `None` until more is fed.
    pub(super) fn next(&mut self) -> Result<Option<Piece>, LinkError> {
        let header = match self.header {
            Some(header) => header,
            None => {
                let Some(bytes) = self.take(HEADER_BYTES) else { return Ok(None) };
                *self.header.insert(Header::parse(bytes)?)
            }
        };
        if self.message.is_none() {
            let Some(message) = self.take(header.message) else { return Ok(None) };
            self.message = Some(message);
        }
        let behind = if header.place == Place::Behind { header.tensor } else { 0 };
        let Some(tensor) = self.take(behind) else { return Ok(None) };
        self.header = None;
        let message = self.message.take().unwrap_or_default();
        Ok(Some(match header.place {
            Place::Behind => Piece::Frame(Frame { message, tensor }),
            Place::Apart => Piece::Apart(message, header.tensor),
            Place::Word => Piece::Word(message),
        }))
    }

    /// Whether the stream may end here: not within a frame.
    pub(super) fn is_between_frames(&self) -> bool {
        self.header.is_none() && self.part.is_empty() && self.available == 0
    }

    /// Exactly `len` bytes, or `None` until they are there. What came in one chunk is not copied.
    fn take(&mut self, len: usize) -> Option<Bytes> {
        if self.part.is_empty() {
            if len == 0 {
                return Some(Bytes::new());
            }
            if let Some(front) = self.chunks.front_mut()
                && front.len() >= len
            {
                self.available -= len;
                let bytes = front.split_to(len);
                if front.is_empty() {
                    self.chunks.pop_front();
                }
                return Some(bytes);
            }
        }
        while self.part.len() < len {
            let missing = len - self.part.len();
            let mut chunk = self.chunks.pop_front()?;
            let bytes = chunk.split_to(missing.min(chunk.len()));
            if !chunk.is_empty() {
                self.chunks.push_front(chunk);
            }
            self.available -= bytes.len();
            if self.part.capacity() - self.part.len() < bytes.len() {
                // As much again as has come, but never more than what is claimed.
                let more = self.part.len().max(FIRST_BUFFER_BYTES).min(missing);
                self.part.reserve(more.max(bytes.len()));
            }
            self.part.extend_from_slice(&bytes);
        }
        Some(std::mem::take(&mut self.part).freeze())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_of(frames: &[Frame]) -> Vec<u8> {
        frames.iter().flat_map(|frame| chunks_of(frame.clone()).unwrap().concat()).collect()
    }

    proptest! {
        #[test]
        fn frames_come_back_however_the_stream_was_cut(
            frames in prop::collection::vec((0_usize..300, 0_usize..300), 1..8),
            cut in 1_usize..97,
        ) {
            let frames: Vec<Frame> = frames
                .into_iter()
                .map(|(message, tensor)| Frame {
                    message: vec![message as u8; message].into(),
                    tensor: vec![tensor as u8; tensor].into(),
                })
                .collect();
            let mut reader = FrameReader::default();
            let mut got = Vec::new();
            for chunk in bytes_of(&frames).chunks(cut) {
                reader.feed(Bytes::copy_from_slice(chunk));
                while let Some(piece) = reader.next().unwrap() {
                    got.push(piece);
                }
            }
            let frames: Vec<Piece> = frames.into_iter().map(Piece::Frame).collect();
            prop_assert_eq!(got, frames);
            prop_assert!(reader.is_between_frames());
        }

        #[test]
        fn garbage_is_refused_or_waited_for_and_never_panics(
            garbage in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut reader = FrameReader::default();
            reader.feed(garbage.into());
            while let Ok(Some(_)) = reader.next() {}
        }
    }

    #[test]
    fn lengths_over_the_limit_are_refused_on_both_sides() {
        for (message, tensor) in
            [(MAX_MESSAGE_BYTES + 1, 0), (0, MAX_TENSOR_BYTES + 1), (u32::MAX as usize, 0)]
        {
            let mut header = BytesMut::new();
            header.put_u32_le(message as u32);
            header.put_u32_le(tensor as u32);
            header.put_u32_le(0);
            let mut reader = FrameReader::default();
            reader.feed(header.freeze());
            assert!(matches!(reader.next(), Err(LinkError::Malformed(_))));
            assert!(Header { message, tensor, place: Place::Behind }.check().is_err());
        }
    }

    #[test]
    fn a_claim_costs_nothing_until_its_bytes_come() {
        let mut header = BytesMut::new();
        header.put_u32_le(0);
        header.put_u32_le(MAX_TENSOR_BYTES as u32);
        header.put_u32_le(0);
        let mut reader = FrameReader::default();
        reader.feed(header.freeze());
        assert!(reader.next().unwrap().is_none());
        assert_eq!(reader.part.capacity(), 0);
        for _ in 0..100 {
            reader.feed(Bytes::from(vec![0; 1000]));
            assert!(reader.next().unwrap().is_none());
        }
        let kept = reader.part.capacity();
        assert!(kept <= 4 * 100_000, "{kept} bytes kept for 100000");
        assert!(!reader.is_between_frames());
    }

    #[test]
    fn tensors_that_go_apart_are_told_of_and_not_waited_for() {
        let mut bytes = chunks_of_word(Bytes::from_static(b"way")).unwrap().concat();
        bytes.extend(chunks_apart(Bytes::from_static(b"frame"), 1 << 20).unwrap().concat());
        let mut reader = FrameReader::default();
        reader.feed(bytes.into());
        assert_eq!(reader.next().unwrap(), Some(Piece::Word(Bytes::from_static(b"way"))));
        let apart = Piece::Apart(Bytes::from_static(b"frame"), 1 << 20);
        assert_eq!(reader.next().unwrap(), Some(apart));
        assert!(reader.is_between_frames());
        assert!(chunks_apart(Bytes::new(), MAX_TENSOR_BYTES + 1).is_err());
        // A place that is none, and a word with a tensor.
        for (tensor, place) in [(0, 3_u32), (1, 2)] {
            let mut header = BytesMut::new();
            header.put_u32_le(0);
            header.put_u32_le(tensor);
            header.put_u32_le(place);
            let mut reader = FrameReader::default();
            reader.feed(header.freeze());
            assert!(matches!(reader.next(), Err(LinkError::Malformed(_))));
        }
    }

    #[test]
    fn a_part_in_one_chunk_is_not_copied() {
        let frame = Frame { message: Bytes::from(vec![1; 50]), tensor: Bytes::from(vec![2; 500]) };
        let whole = Bytes::from(bytes_of(std::slice::from_ref(&frame)));
        let mut reader = FrameReader::default();
        reader.feed(whole.clone());
        let Some(Piece::Frame(got)) = reader.next().unwrap() else { panic!("another piece") };
        assert_eq!(got, frame);
        assert_eq!(got.tensor.as_ptr(), whole[HEADER_BYTES + 50..].as_ptr());
    }
}
