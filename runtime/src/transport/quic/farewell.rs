//! A connection's last word leaves whatever is on its way.
//!
//! quinn sends a close when congestion control lets it send anything, if there is data, or only a
//! sign of life, that waits to be sent too. And it takes no acknowledgements any more once it is
//! closing: if what is on its way fills the window, because the peer is silent or much has just
//! been sent, the close is never sent, and the peer finds out by waiting. So the window of a
//! connection opens when it is about to be closed: one small packet follows, and after it none.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

/// Makes the controllers of connections that may say farewell.
#[derive(Debug, Default)]
pub(super) struct Factory {
    inner: Arc<CubicConfig>,
}

/// quinn's own congestion control until the connection ends.
struct UntilTheEnd {
    inner: Box<dyn Controller>,
    /// Shared by all clones, of which the connection has one.
    ends: Arc<AtomicBool>,
}

/// Pacing is off above what this is, and nobody has so much on its way.
const OPEN: u64 = 1 << 33;

/// Opens the window of a connection: it is about to be closed, or dropped.
pub(super) fn begin(connection: &quinn::Connection) {
    if let Ok(own) = connection.congestion_state().into_any().downcast::<UntilTheEnd>() {
        own.ends.store(true, Ordering::Relaxed);
    }
}

// === impl Factory ===

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = self.inner.clone().build(now, current_mtu);
        Box::new(UntilTheEnd { inner, ends: Arc::default() })
    }
}

// === impl UntilTheEnd ===

impl Controller for UntilTheEnd {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.ends.load(Ordering::Relaxed) { OPEN } else { self.inner.window() }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { inner: self.inner.clone_box(), ends: self.ends.clone() })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
