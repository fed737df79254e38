//! The transport's own threads, and quinn's view of them.

use std::{
    fmt,
    future::Future,
    io,
    net::UdpSocket,
    pin::Pin,
    sync::Arc,
    time::Instant, // quinn's interface; only passed on, never asked.
};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::runtime::{Builder, Handle};

/// One or two threads on which links live, apart from everything that computes. Dropping it ends
/// them without waiting, from any context; peers notice by their keep-alives.
pub struct TransportRuntime {
    /// `None` only while it is dropped.
    runtime: Option<tokio::runtime::Runtime>,
    handle: Handle,
}

/// Lets quinn spawn on given threads whatever thread calls it.
#[derive(Debug)]
pub(super) struct OnHandle(pub(super) Handle);

// === impl TransportRuntime ===

impl TransportRuntime {
    /// Starts this many threads (at least one).
    ///
    /// # Errors
    /// What the system says if it has no more threads to give.
    pub fn new(threads: usize) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("troupe-transport")
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Some(runtime), handle })
    }

    /// For spawning what belongs to the transport, such as the pumps of [`super::super::bulk`].
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for TransportRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for TransportRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TransportRuntime")
    }
}

// === impl OnHandle ===

impl Runtime for OnHandle {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let _entered = self.0.enter();
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let _entered = self.0.enter();
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}
