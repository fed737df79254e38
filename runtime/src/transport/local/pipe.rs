//! One direction of an in-process conversation: a bounded queue with four ways to end.
//!
//! The sender may finish (what is queued still arrives) or abort (what is queued is discarded, as
//! QUIC does); the receiver may stop; the connection may close (what is queued still arrives).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use tokio::sync::{Notify, watch};

use super::{Side, locked};
use crate::transport::{
    Frame, LinkError,
    error::Abort,
    stream::{ReceiveFrames, SendFrames},
};

/// Frames on their way in one direction: twice the steps that a group of 31 stages has in flight.
const WINDOW_FRAMES: usize = 64;
/// Bytes on their way in one direction; a frame larger than that passes when it is alone. Two
/// activations of a step of 8192 tokens with 8192 half-precision elements would not fit, so such
/// steps wait for each other, as they do on a network.
const WINDOW_BYTES: usize = 64 << 20;

/// The queue between one sender and one receiver.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    state: Mutex<PipeState>,
    /// The sender waits for room or for the receiver's stop.
    for_sender: Notify,
    /// The receiver waits for a frame or for the end.
    for_receiver: Notify,
}

#[derive(Debug, Default)]
struct PipeState {
    frames: VecDeque<Frame>,
    bytes: usize,
    end: Option<End>,
    stopped: Option<Abort>,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Finished,
    Aborted(Abort),
}

/// The sending end.
pub(super) struct LocalSender {
    pipe: Arc<Pipe>,
    side: Arc<Side>,
    over: watch::Receiver<Option<String>>,
}

/// The receiving end.
pub(super) struct LocalReceiver {
    pipe: Arc<Pipe>,
    side: Arc<Side>,
    over: watch::Receiver<Option<String>>,
}

// === impl Pipe ===

impl Pipe {
    /// Ends the direction from the sending side.
    pub(super) fn abort(&self, why: Abort) {
        let mut state = locked(&self.state);
        if state.end.is_none() {
            state.end = Some(End::Aborted(why));
            state.frames.clear();
            state.bytes = 0;
        }
        drop(state);
        self.for_receiver.notify_one();
    }

    /// Ends the direction from the receiving side.
    pub(super) fn stop(&self, why: Abort) {
        let mut state = locked(&self.state);
        state.stopped.get_or_insert(why);
        state.frames.clear();
        state.bytes = 0;
        drop(state);
        self.for_sender.notify_one();
    }

    /// Queues the frame, or gives it back when there is no room.
    fn push(&self, frame: Frame) -> Result<Option<Frame>, LinkError> {
        let mut state = locked(&self.state);
        if let Some(why) = state.stopped {
            return Err(why.told());
        }
        let bytes = frame.message.len() + frame.tensor.len();
        let alone = state.frames.is_empty();
        let fits = state.frames.len() < WINDOW_FRAMES && state.bytes + bytes <= WINDOW_BYTES;
        if !alone && !fits {
            return Ok(Some(frame));
        }
        state.bytes += bytes;
        state.frames.push_back(frame);
        drop(state);
        self.for_receiver.notify_one();
        Ok(None)
    }

    /// The next frame or the end, if either is there.
    fn pop(&self) -> Option<Result<Option<Frame>, LinkError>> {
        let mut state = locked(&self.state);
        if let Some(frame) = state.frames.pop_front() {
            state.bytes -= frame.message.len() + frame.tensor.len();
            drop(state);
            self.for_sender.notify_one();
            return Some(Ok(Some(frame)));
        }
        match state.end? {
            End::Finished => Some(Ok(None)),
            End::Aborted(why) => Some(Err(why.told())),
        }
    }
}

// === impl LocalSender ===

impl LocalSender {
    pub(super) fn new(pipe: Arc<Pipe>, side: Arc<Side>) -> Self {
        let over = side.over.subscribe();
        Self { pipe, side, over }
    }
}

#[async_trait]
impl SendFrames for LocalSender {
    async fn send(&mut self, mut frame: Frame) -> Result<(), LinkError> {
        loop {
            if let Some(error) = self.side.error() {
                return Err(error);
            }
            match self.pipe.push(frame)? {
                None => return Ok(()),
                Some(back) => frame = back,
            }
            tokio::select! {
                () = self.pipe.for_sender.notified() => {}
                _ = self.over.wait_for(Option::is_some) => {}
            }
        }
    }

    fn finish(&mut self) -> Result<(), LinkError> {
        if let Some(error) = self.side.error() {
            return Err(error);
        }
        locked(&self.pipe.state).end.get_or_insert(End::Finished);
        self.pipe.for_receiver.notify_one();
        Ok(())
    }

    fn reset(&mut self, why: Abort) {
        self.pipe.abort(why);
    }

    async fn stopped(&mut self) {
        while self.side.error().is_none() && locked(&self.pipe.state).stopped.is_none() {
            tokio::select! {
                () = self.pipe.for_sender.notified() => {}
                _ = self.over.wait_for(Option::is_some) => {}
            }
        }
    }
}

// === impl LocalReceiver ===

impl LocalReceiver {
    pub(super) fn new(pipe: Arc<Pipe>, side: Arc<Side>) -> Self {
        let over = side.over.subscribe();
        Self { pipe, side, over }
    }
}

#[async_trait]
impl ReceiveFrames for LocalReceiver {
    async fn receive(&mut self) -> Result<Option<Frame>, LinkError> {
        loop {
            if let Some(next) = self.pipe.pop() {
                return next;
            }
            if let Some(error) = self.side.error() {
                return Err(error);
            }
            tokio::select! {
                () = self.pipe.for_receiver.notified() => {}
                _ = self.over.wait_for(Option::is_some) => {}
            }
        }
    }
}

impl Drop for LocalReceiver {
    fn drop(&mut self) {
        self.pipe.stop(Abort::Dropped);
    }
}
