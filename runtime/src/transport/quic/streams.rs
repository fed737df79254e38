//! Frames on a QUIC stream, with their large tensors on a lane beside it where there is one.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use quinn::{ReadError, ResetError, StoppedError, VarInt, WriteError};
use tokio::{sync::oneshot, time::timeout};

use super::{
    connection::Held,
    lanes::{self, IncomingLane, Laying, OutgoingLane},
};
use crate::transport::{
    Frame, LinkError,
    error::Abort,
    frame::{FrameReader, Piece, chunks_apart, chunks_of, chunks_of_word},
    stream::{ReceiveFrames, SendFrames},
};

/// Chunks taken off a stream at once, one per datagram: enough that the connection's lock is taken
/// once for a small tensor.
const CHUNKS: usize = 32;
/// A lane that broke mostly broke with its conversation: so long its stream may take to say why.
const WORD_OF_IT: std::time::Duration = std::time::Duration::from_secs(1);

/// The sending direction.
pub(super) struct QuicSender {
    stream: quinn::SendStream,
    held: Arc<Held>,
    lane: Outgoing,
}

/// The receiving direction.
pub(super) struct QuicReceiver {
    stream: quinn::RecvStream,
    reader: FrameReader,
    chunks: [Bytes; CHUNKS],
    held: Arc<Held>,
    lane: Incoming,
    /// A frame whose tensor is on its way over the lane.
    apart: Option<Apart>,
}

/// How a sender stands with its lane.
enum Outgoing {
    /// None, and there will be none.
    No,
    /// So much went over the stream that might have gone over a lane.
    NotYet(usize),
    /// It is being laid.
    Coming(Laying),
    /// The peer has been told.
    There(OutgoingLane),
}

/// The same of a receiver.
enum Incoming {
    No,
    Coming(oneshot::Receiver<IncomingLane>),
    There(IncomingLane),
}

/// A frame of which only the message is here.
struct Apart {
    message: Bytes,
    length: usize,
    tensor: BytesMut,
}

// === impl QuicSender ===

impl QuicSender {
    pub(super) fn new(stream: quinn::SendStream, held: Arc<Held>) -> Self {
        let lane = if held.has_lanes() { Outgoing::NotYet(0) } else { Outgoing::No };
        Self { stream, held, lane }
    }

    async fn write(&mut self, chunks: &mut [Bytes]) -> Result<(), LinkError> {
        self.stream.write_all_chunks(chunks).await.map_err(|error| match error {
            WriteError::Stopped(code) => Abort::from_code(code.into_inner()).told(),
            WriteError::ConnectionLost(error) => self.held.over(&error),
            WriteError::ClosedStream => LinkError::Over("it was finished or given up"),
            WriteError::ZeroRttRejected => LinkError::Reset,
        })
    }

    /// Whether a tensor of this length goes over the lane. Has one laid when that is worth it, and
    /// tells the peer of it when it is there.
    async fn is_apart(&mut self, length: usize) -> Result<bool, LinkError> {
        if length < lanes::SHORTEST {
            return Ok(false);
        }
        match &mut self.lane {
            Outgoing::No => Ok(false),
            Outgoing::There(_) => Ok(true),
            Outgoing::NotYet(sent) => {
                *sent = sent.saturating_add(length);
                if *sent >= lanes::WORTH_IT {
                    self.lane = self.held.lay().map_or(Outgoing::No, Outgoing::Coming);
                }
                Ok(false)
            }
            Outgoing::Coming(laying) => match laying.try_join_next() {
                None => Ok(false),
                Some(Ok(Ok((_, lane)))) if lane.is_stale() => {
                    self.lane = Outgoing::No;
                    Ok(false)
                }
                Some(Ok(Ok((ticket, lane)))) => {
                    self.lane = Outgoing::There(lane);
                    self.write(&mut chunks_of_word(lanes::word(ticket))?).await?;
                    Ok(true)
                }
                Some(failed) => {
                    let why = failed.map_or_else(
                        |error| error.to_string(),
                        |laid| laid.err().unwrap_or_default(),
                    );
                    self.held.no_lanes(&why);
                    self.lane = Outgoing::No;
                    Ok(false)
                }
            },
        }
    }

    async fn send_apart(&mut self, Frame { message, tensor }: Frame) -> Result<(), LinkError> {
        self.write(&mut chunks_apart(message, tensor.len())?).await?;
        let Outgoing::There(lane) = &mut self.lane else {
            return Err(LinkError::Over("its lane is gone"));
        };
        let mut stopped = std::pin::pin!(self.stream.stopped());
        let over = tokio::select! {
            written = lane.write(&tensor) => match written {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::debug!(%error, "a lane broke");
                    timeout(WORD_OF_IT, stopped).await.unwrap_or(Ok(None))
                }
            },
            over = &mut stopped => over,
        };
        Err(match over {
            Ok(Some(code)) => Abort::from_code(code.into_inner()).told(),
            Err(StoppedError::ConnectionLost(error)) => self.held.over(&error),
            Ok(None) | Err(StoppedError::ZeroRttRejected) => LinkError::Reset,
        })
    }
}

#[async_trait]
impl SendFrames for QuicSender {
    async fn send(&mut self, frame: Frame) -> Result<(), LinkError> {
        match self.is_apart(frame.tensor.len()).await? {
            true => self.send_apart(frame).await,
            false => self.write(&mut chunks_of(frame)?).await,
        }
    }

    fn finish(&mut self) -> Result<(), LinkError> {
        self.stream.finish().map_err(|_| LinkError::Over("it was finished or given up"))
    }

    fn reset(&mut self, why: Abort) {
        // Fails only for a direction that is over already.
        let _ = self.stream.reset(VarInt::from_u32(why.code()));
        self.lane = Outgoing::No;
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
        let (reader, lane) = (FrameReader::default(), Incoming::No);
        Self { stream, reader, chunks, held, lane, apart: None }
    }

    /// Tells the peer that nobody reads, and why.
    pub(super) fn stop(&mut self, why: Abort) {
        // Fails only for a direction that is over already.
        let _ = self.stream.stop(VarInt::from_u32(why.code()));
        self.lane = Incoming::No;
    }

    /// The next frame out of what has come, asking for more when it is not whole.
    async fn read(&mut self) -> Result<Option<Frame>, LinkError> {
        loop {
            if self.apart.is_some() {
                return self.read_apart().await.map(Some);
            }
            match self.reader.next()? {
                Some(Piece::Frame(frame)) => return Ok(Some(frame)),
                Some(Piece::Apart(message, length)) => {
                    self.apart = Some(Apart { message, length, tensor: BytesMut::new() });
                    continue;
                }
                Some(Piece::Word(word)) => {
                    let lane = lanes::ticket(word).and_then(|ticket| self.held.lane(ticket));
                    let nowhere = || LinkError::Malformed("a lane that is not there".into());
                    self.lane = Incoming::Coming(lane.ok_or_else(nowhere)?);
                    continue;
                }
                None => {}
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

    /// The rest of a frame whose tensor comes over the lane. Safe to cancel, as all of it is.
    async fn read_apart(&mut self) -> Result<Frame, LinkError> {
        let Self { stream, held, lane, apart, .. } = self;
        let Some(Apart { length, tensor, .. }) = apart else { return Err(LinkError::Ended) };
        let came = async {
            if let Incoming::Coming(coming) = lane
                && let Ok(arrived) = coming.await
            {
                *lane = Incoming::There(arrived);
            }
            let Incoming::There(lane) = lane else { return Err(NO_LANE.to_owned()) };
            lane.read(tensor, *length).await.map_err(|error| error.to_string())
        };
        let mut over = std::pin::pin!(over(stream));
        let over = tokio::select! {
            came = came => match came {
                Ok(()) => None,
                Err(error) if error == NO_LANE => {
                    return Err(LinkError::Malformed(error));
                }
                Err(error) => {
                    tracing::debug!(error, "a lane broke");
                    Some(timeout(WORD_OF_IT, over).await.ok())
                }
            },
            over = &mut over => Some(Some(over)),
        };
        if over.is_some() {
            (*apart, *lane) = (None, Incoming::No);
        }
        match over {
            None => {
                let Apart { message, tensor, .. } = apart.take().ok_or(LinkError::Ended)?;
                Ok(Frame { message, tensor: tensor.freeze() })
            }
            Some(Some(Ok(code))) => Err(Abort::from_code(code.into_inner()).told()),
            Some(Some(Err(ResetError::ConnectionLost(error)))) => Err(held.over(&error)),
            Some(Some(Err(ResetError::ZeroRttRejected)) | None) => Err(LinkError::Reset),
        }
    }
}

/// Returns when the stream is over before its end. One that has come whole is not: what it told of
/// may still be on its way.
async fn over(stream: &mut quinn::RecvStream) -> Result<VarInt, ResetError> {
    match stream.received_reset().await {
        Ok(Some(code)) => Ok(code),
        Ok(None) => std::future::pending().await,
        Err(error) => Err(error),
    }
}

#[async_trait]
impl ReceiveFrames for QuicReceiver {
    async fn receive(&mut self) -> Result<Option<Frame>, LinkError> {
        let read = self.read().await;
        if let Err(LinkError::Malformed(_)) = read {
            // What follows cannot be understood either.
            self.reader = FrameReader::default();
            self.apart = None;
            self.stop(Abort::Malformed);
        }
        read
    }
}

const NO_LANE: &str = "a tensor is said to come over a lane, and there is none";
