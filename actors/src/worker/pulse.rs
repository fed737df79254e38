//! Signs of life of a device thread, as others see them.
//!
//! The thread beats after every layer and every exchange with the other ranks of its stage. Who
//! watches it reads how often it has; a thread that hangs in a kernel or waits for a rank that does
//! is silent, whatever else its process still answers. The thread also notes how long it was silent
//! at most, which is what its silence is measured by later, and how long it waited for other ranks,
//! which says nothing about its own device.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use troupe_gpu::{
    collective::Collective,
    error::DeviceError,
    executor::{KvReader, KvTap},
    shape::KvAt,
};
use troupe_runtime::id::StepId;

/// One thread's.
#[derive(Clone, Debug)]
pub struct Pulse {
    origin: Instant,
    shared: Arc<Shared>,
}

/// The thread alone writes; nothing follows from the order of two of these.
#[derive(Debug, Default)]
struct Shared {
    beats: AtomicU64,
    /// When it last beat, in microseconds since the origin.
    last: AtomicU64,
    /// The longest silence of this step, in microseconds.
    silence: AtomicU64,
    /// Waited for other ranks in this step, in microseconds.
    waited: AtomicU64,
}

/// A tap that beats, and passes on what it sees.
pub struct Beating<'a> {
    /// Beats.
    pub pulse: &'a Pulse,
    /// Sees what there is to see.
    pub tap: &'a mut dyn KvTap,
}

/// A rank's end of its stage's collectives that beats, and counts how long it waits.
pub struct Watched {
    pulse: Pulse,
    inner: Box<dyn Collective>,
}

// === impl Pulse ===

impl Default for Pulse {
    fn default() -> Self {
        Self { origin: Instant::now(), shared: Arc::default() }
    }
}

impl Pulse {
    /// How often it has beaten.
    pub fn beats(&self) -> u64 {
        self.shared.beats.load(Ordering::Relaxed)
    }

    /// A step begins: what was before it was no silence.
    pub fn begin(&self) {
        self.shared.last.store(self.now(), Ordering::Relaxed);
        self.shared.silence.store(0, Ordering::Relaxed);
        self.shared.waited.store(0, Ordering::Relaxed);
    }

    /// The thread goes on.
    pub fn beat(&self) {
        let now = self.now();
        let last = self.shared.last.swap(now, Ordering::Relaxed);
        self.shared.silence.fetch_max(now.saturating_sub(last), Ordering::Relaxed);
        self.shared.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// The longest silence since the step began.
    pub fn silence(&self) -> Duration {
        Duration::from_micros(self.shared.silence.load(Ordering::Relaxed))
    }

    /// How long the thread has waited for other ranks since the step began.
    pub fn waited(&self) -> Duration {
        Duration::from_micros(self.shared.waited.load(Ordering::Relaxed))
    }

    fn now(&self) -> u64 {
        // Half a million years fit.
        self.origin.elapsed().as_micros() as u64
    }
}

// === impl Beating ===

impl KvTap for Beating<'_> {
    fn layer(&mut self, at: KvAt, kv: &mut dyn KvReader) {
        self.pulse.beat();
        self.tap.layer(at, kv);
    }

    fn watches(&self) -> bool {
        self.tap.watches()
    }
}

// === impl Watched ===

impl Watched {
    /// Watches what a rank does there.
    pub fn new(pulse: Pulse, inner: Box<dyn Collective>) -> Self {
        Self { pulse, inner }
    }

    fn watch<T>(&mut self, operation: impl FnOnce(&mut dyn Collective) -> T) -> T {
        let began = self.pulse.now();
        let done = operation(self.inner.as_mut());
        let waited = self.pulse.now().saturating_sub(began);
        self.pulse.shared.waited.fetch_add(waited, Ordering::Relaxed);
        self.pulse.beat();
        done
    }
}

impl Collective for Watched {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn ranks(&self) -> usize {
        self.inner.ranks()
    }

    fn begin_step(&mut self, step: StepId) {
        self.inner.begin_step(step);
    }

    fn all_reduce(&mut self, values: &mut [f32]) -> Result<(), DeviceError> {
        self.watch(|inner| inner.all_reduce(values))
    }

    fn gather(&mut self, values: &[f32], into: &mut Vec<f32>) -> Result<(), DeviceError> {
        self.watch(|inner| inner.gather(values, into))
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<(), DeviceError> {
        self.watch(|inner| inner.broadcast(bytes))
    }

    fn barrier(&mut self) -> Result<(), DeviceError> {
        self.watch(|inner| inner.barrier())
    }
}

#[cfg(test)]
mod tests {
    use troupe_gpu::collective::Alone;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_and_waiting_are_counted_within_a_step() {
        let pulse = Pulse::default();
        let mut collective = Watched::new(pulse.clone(), Box::new(Alone));
        tokio::time::advance(Duration::from_secs(9)).await;
        pulse.begin();
        tokio::time::advance(Duration::from_millis(30)).await;
        pulse.beat();
        tokio::time::advance(Duration::from_millis(70)).await;
        collective.barrier().expect("alone");
        pulse.beat();
        assert_eq!((pulse.beats(), pulse.silence()), (3, Duration::from_millis(70)));
        assert_eq!(pulse.waited(), Duration::ZERO, "alone nobody waits");
        pulse.begin();
        assert_eq!((pulse.beats(), pulse.silence()), (3, Duration::ZERO));
    }
}
