//! What one proxy's connection may cost: a place among so many, no more of HTTP/2's control frames
//! than a proxy has reason for, and no place for ever without a question.
//!
//! HTTP/2 answers pings and settings at once, whoever sends them, so that a peer may keep a
//! processor busy with what asks nothing. The frames are counted where they are read, by their
//! heads alone: nine bytes say how long a frame is and of which kind. How many conversations a
//! connection has is told here by those who hold them ([`Activity`]): a proxy that only answers
//! pings is alive, and has its place until it has been of no use for a while.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep},
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// A connection under watch.
pub(super) struct Guarded<T> {
    inner: T,
    frames: Frames,
    activity: Arc<Activity>,
    idle: Pin<Box<Sleep>>,
    limit: Duration,
    _place: OwnedSemaphorePermit,
}

/// What handlers know of the connection that they are asked on.
#[derive(Clone)]
pub(super) struct Peer {
    /// Where it came to.
    pub(super) local: Option<SocketAddr>,
    activity: Arc<Activity>,
}

/// What is asked on a connection.
#[derive(Debug, Default)]
struct Activity {
    open: AtomicUsize,
    /// Since the last look.
    stirred: AtomicBool,
}

/// A question, until it is dropped.
#[derive(Debug)]
pub(super) struct Asked(Arc<Activity>);

/// Where in the frames a connection is, and how many of them it may still send (pure).
#[derive(Debug)]
struct Frames {
    /// Bytes to pass over: the preface at first, later what frames carry.
    skip: usize,
    head: [u8; HEAD],
    filled: usize,
    allowed: f64,
    at: Instant,
}

// === impl Guarded ===

impl<T> Guarded<T> {
    /// Ends after `limit` without a question.
    pub(super) fn new(inner: T, place: OwnedSemaphorePermit, limit: Duration) -> Self {
        let frames = Frames::new(Instant::now());
        let (activity, idle) = (Arc::default(), Box::pin(sleep(limit)));
        Self { inner, frames, activity, idle, limit, _place: place }
    }

    /// Whether it has been of no use for long enough.
    fn is_idle(&mut self, context: &mut Context<'_>) -> bool {
        while self.idle.as_mut().poll(context).is_ready() {
            let activity = &self.activity;
            let stirred = activity.stirred.swap(false, Ordering::Relaxed);
            if activity.open.load(Ordering::Relaxed) == 0 && !stirred {
                return true;
            }
            self.idle.as_mut().reset(Instant::now() + self.limit);
        }
        false
    }
}

impl<T: Connected<ConnectInfo = TcpConnectInfo>> Connected for Guarded<T> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        let local = self.inner.connect_info().local_addr();
        Peer { local, activity: Arc::clone(&self.activity) }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        match &polled {
            Poll::Ready(Ok(())) => {
                let news = buffer.filled().get(before..).unwrap_or_default();
                if let Err(why) = self.frames.watch(news, Instant::now()) {
                    tracing::warn!(why, "a proxy's connection is cut");
                    return Poll::Ready(Err(io::Error::other(why)));
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending if self.is_idle(context) => {
                tracing::debug!("a proxy has asked nothing for long, its connection is closed");
                // As if it had closed it.
                return Poll::Ready(Ok(()));
            }
            Poll::Pending => {}
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

// === impl Peer ===

impl Peer {
    /// Something is asked on it.
    pub(super) fn asks(&self) -> Asked {
        self.activity.open.fetch_add(1, Ordering::Relaxed);
        Asked(Arc::clone(&self.activity))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.stirred.store(true, Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Frames ===

impl Frames {
    fn new(now: Instant) -> Self {
        Self { skip: PREFACE, head: [0; HEAD], filled: 0, allowed: BURST, at: now }
    }

    /// Goes through what was read.
    fn watch(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            let passed = self.skip.min(bytes.len());
            self.skip -= passed;
            bytes = bytes.get(passed..).unwrap_or_default();
            let taken = bytes.len().min(HEAD - self.filled);
            if let (Some(to), Some(from)) =
                (self.head.get_mut(self.filled..self.filled + taken), bytes.get(..taken))
            {
                to.copy_from_slice(from);
            }
            self.filled += taken;
            bytes = bytes.get(taken..).unwrap_or_default();
            if self.filled == HEAD {
                self.filled = 0;
                self.frame(now)?;
            }
        }
        Ok(())
    }

    /// A frame's head is there.
    fn frame(&mut self, now: Instant) -> Result<(), &'static str> {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
        let asks_nothing = match kind {
            // A part of a body that is empty and not the last.
            DATA => self.skip == 0 && flags & END_STREAM == 0,
            // What acknowledges was asked for.
            SETTINGS | PING => flags & ACK == 0,
            PRIORITY | CONTINUATION => true,
            _ => false,
        };
        if !asks_nothing {
            return Ok(());
        }
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * A_SECOND;
        (self.allowed, self.at) = ((self.allowed + gained).min(BURST), now);
        self.allowed -= 1.0;
        match self.allowed >= 0.0 {
            true => Ok(()),
            false => Err("it floods pings, settings or empty frames"),
        }
    }
}

/// A frame's head (RFC 9113, 4.1).
const HEAD: usize = 9;
/// What a client says first.
const PREFACE: usize = 24;
const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
/// Control frames that a connection may send at once, and in a second from then on. Proxies send a
/// ping every few seconds, and one with each window at most where they measure a way's width.
const BURST: f64 = 1000.0;
const A_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, sync::Semaphore};

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_control_frames_is_found_however_it_is_cut() {
        for flood in [
            frame(PING, 0, &[7; 8]),
            frame(SETTINGS, 0, &[]),
            frame(PRIORITY, 0, &[0; 5]),
            frame(DATA, 0, &[]),
            frame(CONTINUATION, 0, &[1; 3]),
        ] {
            for cut in [1, 7, 4096] {
                let mut bytes = vec![b'x'; PREFACE];
                bytes.extend(flood.repeat(BURST as usize));
                let mut frames = Frames::new(Instant::now());
                for part in bytes.chunks(cut) {
                    assert_eq!(frames.watch(part, Instant::now()), Ok(()));
                }
                assert!(frames.watch(&flood, Instant::now()).is_err(), "{flood:?}");
                // After a second, some more.
                let later = Instant::now() + Duration::from_secs(1);
                for _ in 0..A_SECOND as usize - 2 {
                    assert_eq!(frames.watch(&flood, later), Ok(()));
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_and_what_is_acknowledged_is_not_counted() {
        let mut frames = Frames::new(Instant::now());
        let mut bytes = vec![b'x'; PREFACE];
        // A payload that looks like pings is none.
        let looks_so = frame(PING, 0, &[7; 8]).repeat(100);
        for _ in 0..2 * BURST as usize {
            bytes.extend(frame(1, 4, &[0; 20]));
            bytes.extend(frame(DATA, 0, &looks_so[..50]));
            bytes.extend(frame(DATA, END_STREAM, &[]));
            bytes.extend(frame(PING, ACK, &[7; 8]));
            bytes.extend(frame(8, 0, &[0; 4]));
        }
        bytes.extend(frame(DATA, 0, &looks_so));
        assert_eq!(frames.watch(&bytes, Instant::now()), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_gives_its_place_back() {
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
        let (ours, _theirs) = tokio::io::duplex(64);
        let limit = Duration::from_secs(60);
        let mut guarded = Guarded::new(ours, place, limit);
        let began = Instant::now();
        let activity = Arc::clone(&guarded.activity);
        let peer = Peer { local: None, activity };
        // One that asks for two minutes and a half, and then has not.
        let asked = peer.asks();
        let asks = async move {
            sleep(Duration::from_secs(150)).await;
            drop(asked);
        };
        let (read, ()) = tokio::join!(guarded.read_u8(), asks);
        assert_eq!(read.expect_err("an end").kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(began.elapsed(), Duration::from_secs(240));
        assert_eq!(places.available_permits(), 0);
        drop(guarded);
        assert_eq!(places.available_permits(), 1);
    }
}
