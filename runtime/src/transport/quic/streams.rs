//! Frames on a QUIC stream.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use quinn::{ReadError, VarInt, WriteError};

use super::connection::Held;
use crate::transport::{
    Frame, LinkError,
    error::Abort,
    frame::{FrameReader, chunks_of},
    stream::{ReceiveFrames, SendFrames},
};

/// Chunks taken off a stream at once, one per datagram: enough that the connection's lock is taken
/// once for a small tensor.
const CHUNKS: usize = 32;

/// The sending direction.
pub(super) struct QuicSender {
    stream: quinn::SendStream,
    held: Arc<Held>,
}

/// The receiving direction.
pub(super) struct QuicReceiver {
    stream: quinn::RecvStream,
    reader: FrameReader,
    chunks: [Bytes; CHUNKS],
    held: Arc<Held>,
}

// === impl QuicSender ===

impl QuicSender {
    pub(super) fn new(stream: quinn::SendStream, held: Arc<Held>) -> Self {
        Self { stream, held }
    }
}

#[async_trait]
impl SendFrames for QuicSender {
    async fn send(&mut self, frame: Frame) -> Result<(), LinkError> {
        let mut chunks = chunks_of(frame)?;
        self.stream.write_all_chunks(&mut chunks).await.map_err(|error| match error {
            WriteError::Stopped(code) => Abort::from_code(code.into_inner()).told(),
            WriteError::ConnectionLost(error) => self.held.over(&error),
            WriteError::ClosedStream => LinkError::Over("it was finished or given up"),
            WriteError::ZeroRttRejected => LinkError::Reset,
        })
    }

    fn finish(&mut self) -> Result<(), LinkError> {
        self.stream.finish().map_err(|_| LinkError::Over("it was finished or given up"))
    }

    fn reset(&mut self, why: Abort) {
        // Fails only for a direction that is over already.
        let _ = self.stream.reset(VarInt::from_u32(why.code()));
    }

    async fn stopped(&mut self) {
        // Whatever it returns, nobody reads any more.
        let _ = self.stream.stopped().await;
    }
}

// === impl QuicReceiver ===

impl QuicReceiver {
    pub(super) fn new(stream: quinn::RecvStream, held: Arc<Held>) -> Self {
        let chunks = std::array::from_fn(|_| Bytes::new());
        Self { stream, reader: FrameReader::default(), chunks, held }
    }

    /// Tells the peer that nobody reads, and why.
    pub(super) fn stop(&mut self, why: Abort) {
        // Fails only for a direction that is over already.
        let _ = self.stream.stop(VarInt::from_u32(why.code()));
    }

    /// The next frame out of what has come, asking for more when it is not whole.
    async fn read(&mut self) -> Result<Option<Frame>, LinkError> {
        loop {
            if let Some(frame) = self.reader.next()? {
                return Ok(Some(frame));
            }
            let read = self.stream.read_chunks(&mut self.chunks).await;
            let count = read.map_err(|error| match error {
                ReadError::Reset(code) => Abort::from_code(code.into_inner()).told(),
                ReadError::ConnectionLost(error) => self.held.over(&error),
                ReadError::ClosedStream => LinkError::Ended,
                ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => LinkError::Reset,
            })?;
            let Some(count) = count else {
                return match self.reader.is_between_frames() {
                    true => Ok(None),
                    false => Err(LinkError::Malformed("the stream ends within a frame".into())),
                };
            };
            for chunk in &mut self.chunks[..count] {
                self.reader.feed(std::mem::take(chunk));
            }
        }
    }
}

#[async_trait]
impl ReceiveFrames for QuicReceiver {
    async fn receive(&mut self) -> Result<Option<Frame>, LinkError> {
        let read = self.read().await;
        if let Err(LinkError::Malformed(_)) = read {
            // What follows cannot be understood either.
            self.reader = FrameReader::default();
            self.stop(Abort::Malformed);
        }
        read
    }
}
