//! Work that somebody else's program does, such as a chat template: on threads where waiting hurts
//! nobody, few at a time, with a deadline.
//!
//! A thread cannot be stopped. One whose time is over is left to itself and keeps its lane until it
//! ends, so whatever it does, it takes no more than these few threads.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use crate::error::ApiError;

/// Turns for such work.
#[derive(Debug)]
pub(crate) struct Lanes {
    free: Arc<Semaphore>,
    patience: Duration,
}

impl Lanes {
    /// So many at a time; each waits so long for its turn, and then for its end.
    pub(crate) fn new(lanes: usize, patience: Duration) -> Self {
        Self { free: Arc::new(Semaphore::new(lanes)), patience }
    }

    /// Does the work when it is its turn.
    ///
    /// # Errors
    /// 503 if it is never its turn, 400 if it takes too long.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = Arc::clone(&self.free).acquire_owned();
        let turn = timeout_at(Instant::now() + self.patience, turn).await;
        // The semaphore is never closed.
        let turn = turn.map_err(|_| ApiError::busy())?;
        let task = tokio::task::spawn_blocking(move || {
            // The turn lasts as long as the work, not as its waiter.
            let _turn = turn;
            work()
        });
        match timeout_at(Instant::now() + self.patience, task).await {
            Ok(done) => done.map_err(|_| ApiError::internal("Rendering was interrupted.")),
            Err(_) => {
                let message = "The chat template takes too long to render this conversation.";
                Err(ApiError::bad_request(message).at("messages"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_does_not_end_is_left_and_keeps_its_lane() {
        let lanes = Lanes::new(1, Duration::from_millis(20));
        assert_eq!(lanes.run(|| 3).await, Ok(3));
        let (let_go, held) = mpsc::sync_channel::<()>(1);
        let endless = lanes.run(move || held.recv()).await.expect_err("it takes too long");
        assert_eq!(endless.body().error.code, 400);
        assert_eq!(lanes.run(|| 3).await, Err(ApiError::busy()));
        let_go.send(()).expect("it waits");
        while lanes.free.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(lanes.run(|| 4).await, Ok(4));
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_work() {
        let lanes = Lanes::new(1, Duration::from_secs(60));
        let work = || -> u8 { panic!("as told") };
        assert_eq!(lanes.run(work).await.expect_err("it panics").body().error.code, 500);
        assert_eq!(lanes.run(|| 5).await, Ok(5));
    }
}
