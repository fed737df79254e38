//! How a process, or a part of it, is told to end: one owner, any number of listeners.
//!
//! Told once, told to everyone, also to whoever starts to listen later. Waiting until the listeners
//! are done is not part of it: whoever owns their tasks joins them.

use tokio::sync::watch;

/// The owner's half. Dropping it counts as telling.
#[derive(Debug)]
pub struct ShutdownOwner(watch::Sender<bool>);

/// A listener's half; clones hear the same.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Both halves.
pub fn shutdown() -> (ShutdownOwner, Shutdown) {
    let (owner, listener) = watch::channel(false);
    (ShutdownOwner(owner), Shutdown(listener))
}

// === impl ShutdownOwner ===

impl ShutdownOwner {
    /// Tells every listener. Repeating it does nothing.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    /// One more listener.
    pub fn listener(&self) -> Shutdown {
        Shutdown(self.0.subscribe())
    }
}

// === impl Shutdown ===

impl Shutdown {
    /// Whether it was told.
    pub fn is_begun(&self) -> bool {
        // An owner that is gone cannot tell any more, so its going is the telling.
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Returns once it is told. Safe to cancel.
    pub async fn begun(&mut self) {
        let _ = self.0.wait_for(|begun| *begun).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everyone_is_told_and_latecomers_too() {
        let (owner, mut early) = shutdown();
        assert!(!early.is_begun());
        let waiting = tokio::spawn(async move { early.begun().await });
        owner.begin();
        waiting.await.unwrap();
        let mut late = owner.listener();
        late.begun().await;
        assert!(late.is_begun());
    }

    #[tokio::test]
    async fn a_dropped_owner_has_told() {
        let (owner, mut listener) = shutdown();
        drop(owner);
        listener.begun().await;
        assert!(listener.is_begun());
    }
}
