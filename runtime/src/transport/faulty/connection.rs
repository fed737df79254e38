//! Connections and conversations under faults. Faults strike where frames are received, so each
//! direction meets each of them once, whichever side opened it.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep_until};

use super::plan::{Fate, Path, Plan, Route};
use crate::transport::{
    Class, Connection, Conversation, Frame, FrameReceiver, FrameSender, LinkError, PeerIdentity,
    Stream,
    error::Abort,
    stream::{ReceiveFrames, SendFrames},
};

/// See [`Connection`].
pub(super) struct FaultyConnection {
    inner: Arc<dyn Connection>,
    wire: Wire,
    opened: AtomicU64,
    accepted: AtomicU64,
}

/// What a connection and its conversations know of the faults between their ends.
#[derive(Clone)]
struct Wire {
    plan: Arc<Plan>,
    route: Route,
}

struct FaultySender {
    inner: FrameSender,
    wire: Wire,
}

struct FaultyReceiver {
    /// `None` once a fault has struck it.
    inner: Option<FrameReceiver>,
    /// To break the whole connection.
    connection: Arc<dyn Connection>,
    wire: Wire,
    random: ChaCha8Rng,
    /// A frame on its way, with the time of its arrival.
    held: Option<(Instant, Frame)>,
    /// What a fault left behind.
    broken: Option<LinkError>,
}

// === impl FaultyConnection ===

impl FaultyConnection {
    pub(super) fn new(inner: Arc<dyn Connection>, plan: Arc<Plan>, route: Route) -> Self {
        let (opened, accepted) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { inner, wire: Wire { plan, route }, opened, accepted }
    }

    fn under_faults(&self, stream: Stream, opened: bool) -> Stream {
        let counter = if opened { &self.opened } else { &self.accepted };
        let number = counter.fetch_add(1, Ordering::Relaxed);
        let route = &self.wire.route;
        let sender = FaultySender { inner: stream.sender, wire: self.wire.clone() };
        let receiver = FaultyReceiver {
            inner: Some(stream.receiver),
            connection: self.inner.clone(),
            wire: self.wire.clone(),
            random: self.wire.plan.read(|state| state.random(route, opened, number)),
            held: None,
            broken: None,
        };
        Stream {
            sender: FrameSender::new(Box::new(sender)),
            receiver: FrameReceiver::new(Box::new(receiver)),
        }
    }
}

#[async_trait]
impl Connection for FaultyConnection {
    fn peer(&self) -> &PeerIdentity {
        self.inner.peer()
    }

    fn class(&self) -> Class {
        self.inner.class()
    }

    async fn open(&self, what: Conversation, deadline: Duration) -> Result<Stream, LinkError> {
        let stream = self.wire.until_dead(self.inner.open(what, deadline)).await??;
        Ok(self.under_faults(stream, true))
    }

    async fn accept(&self) -> Result<(Conversation, Stream), LinkError> {
        let (what, stream) = self.wire.while_open(|| self.inner.accept()).await??;
        Ok((what, self.under_faults(stream, false)))
    }

    async fn closed(&self) -> LinkError {
        match self.wire.while_open(|| self.inner.closed()).await {
            Ok(error) | Err(error) => error,
        }
    }

    fn close(&self, reason: &str) {
        self.inner.close(reason);
    }
}

impl fmt::Debug for FaultyConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyConnection({:?})", self.inner)
    }
}

// === impl Wire ===

impl Wire {
    fn path(&self) -> Path {
        self.plan.read(|state| state.path(&self.route, Instant::now()))
    }

    fn over(&self, why: &str) -> LinkError {
        LinkError::Closed { peer: self.route.there.to_string(), why: why.to_owned() }
    }

    /// Waits for something that travels: begins anew after every silence, so what is waited for
    /// must be safe to cancel.
    async fn while_open<F: Future>(&self, wait: impl Fn() -> F) -> Result<F::Output, LinkError> {
        loop {
            self.until_open().await?;
            tokio::select! {
                biased;
                () = self.until_shut() => {}
                output = wait() => return Ok(output),
            }
        }
    }

    /// Waits for something that happens at this end, whether the wire is silent or not.
    async fn until_dead<F: Future>(&self, wait: F) -> Result<F::Output, LinkError> {
        tokio::select! {
            biased;
            error = self.until_gone() => Err(error),
            output = wait => Ok(output),
        }
    }

    async fn until_open(&self) -> Result<(), LinkError> {
        let mut bell = self.plan.bell();
        loop {
            match self.path() {
                Path::Open => return Ok(()),
                Path::Dead(why) => return Err(self.over(why)),
                Path::Silent(until) => tokio::select! {
                    _ = bell.changed() => {}
                    () = sleep_until(until) => {}
                },
            }
        }
    }

    async fn until_shut(&self) {
        let mut bell = self.plan.bell();
        while self.path() == Path::Open {
            // Fails only without a plan, and we are part of it.
            let _ = bell.changed().await;
        }
    }

    async fn until_gone(&self) -> LinkError {
        loop {
            self.until_shut().await;
            if let Err(error) = self.until_open().await {
                return error;
            }
        }
    }
}

// === impl FaultySender ===

#[async_trait]
impl SendFrames for FaultySender {
    async fn send(&mut self, frame: Frame) -> Result<(), LinkError> {
        self.wire.until_dead(self.inner.carrier.send(frame)).await?
    }

    fn finish(&mut self) -> Result<(), LinkError> {
        self.inner.finish()
    }

    fn reset(&mut self, why: Abort) {
        self.inner.carrier.reset(why);
    }

    async fn stopped(&mut self) {
        loop {
            if self.wire.until_open().await.is_err() {
                return;
            }
            tokio::select! {
                biased;
                () = self.wire.until_shut() => {}
                () = self.inner.stopped() => return,
            }
        }
    }
}

// === impl FaultyReceiver ===

#[async_trait]
impl ReceiveFrames for FaultyReceiver {
    async fn receive(&mut self) -> Result<Option<Frame>, LinkError> {
        loop {
            if let Some(error) = &self.broken {
                return Err(error.clone());
            }
            self.wire.until_open().await?;
            if let Some((arrival, _)) = &self.held {
                let arrival = *arrival;
                tokio::select! {
                    biased;
                    () = self.wire.until_shut() => continue,
                    () = sleep_until(arrival) => {
                        return Ok(self.held.take().map(|(_, frame)| frame));
                    }
                }
            }
            let Some(inner) = &mut self.inner else { return Err(LinkError::Reset) };
            let frame = tokio::select! {
                biased;
                () = self.wire.until_shut() => continue,
                frame = inner.carrier.receive() => frame?,
            };
            let Some(frame) = frame else { return Ok(None) };
            self.meet(frame);
        }
    }
}

impl FaultyReceiver {
    /// Decides what becomes of a frame that the carrier delivered.
    fn meet(&mut self, frame: Frame) {
        match self.wire.plan.read(|state| state.profile.clone()).draw(&mut self.random) {
            Fate::Arrive(delay) => self.held = Some((Instant::now() + delay, frame)),
            Fate::Reset => {
                self.inner = None;
                self.broken = Some(LinkError::Reset);
            }
            Fate::Break => {
                self.inner = None;
                self.broken = Some(self.wire.over("a fault broke it"));
                self.connection.close("a fault broke it");
            }
        }
    }
}
