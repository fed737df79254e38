//! The bounded queue behind bulk handles: each end may be a thread or a task.
//!
//! A mutex and a condition variable, with two additions: a spin before parking, on a counter that
//! is read without the lock, and a waker for a task at the other end. A waiting thread says so
//! under the lock, so that nobody makes a system call to wake a thread that is not asleep.

use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};

use crate::{transport::LinkError, wire::kv::TensorHeader};

/// How long a waiting device thread spins before it parks: longer than a hop between two cores,
/// shorter than what anyone would miss of a core.
pub const SPIN: Duration = Duration::from_micros(20);

/// A tensor with its header.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) header: TensorHeader,
    pub(super) bytes: Bytes,
}

/// See the top of this file.
pub(super) struct Queue {
    state: Mutex<State>,
    depth: usize,
    /// Bumped at every change, for spinning without the lock.
    changes: AtomicUsize,
    /// A parked thread; there is one thread at most at each end.
    to_sender: Condvar,
    to_receiver: Condvar,
    /// A waiting task, likewise.
    sender_task: Notify,
    receiver_task: Notify,
}

struct State {
    tensors: VecDeque<Tensor>,
    /// No more will be pushed; what is queued is still good.
    finished: bool,
    /// Everything has left the queue's other end in order (only where a pump empties it).
    handed_on: bool,
    failed: Option<LinkError>,
    sender_parked: bool,
    receiver_parked: bool,
}

/// Who waits.
#[derive(Clone, Copy)]
enum End {
    Sender,
    Receiver,
}

// === impl Queue ===

impl Queue {
    pub(super) fn new(depth: usize) -> Self {
        let state = State {
            tensors: VecDeque::with_capacity(depth.max(1)),
            finished: false,
            handed_on: false,
            failed: None,
            sender_parked: false,
            receiver_parked: false,
        };
        Self {
            state: Mutex::new(state),
            depth: depth.max(1),
            changes: AtomicUsize::new(0),
            to_sender: Condvar::new(),
            to_receiver: Condvar::new(),
            sender_task: Notify::new(),
            receiver_task: Notify::new(),
        }
    }

    // --- for threads ---

    /// Waits for room.
    pub(super) fn push(&self, tensor: Tensor, deadline: Duration) -> Result<(), LinkError> {
        let what = "sending a tensor";
        let mut state = self.wait(End::Sender, what, deadline, |state| {
            state.failed.is_some() || state.finished || state.tensors.len() < self.depth
        })?;
        state.push(tensor)?;
        self.changed(state);
        Ok(())
    }

    /// Waits for a tensor.
    pub(super) fn pop(&self, deadline: Duration) -> Result<Tensor, LinkError> {
        let what = "waiting for a tensor";
        let mut state = self.wait(End::Receiver, what, deadline, State::has_news)?;
        let popped = state.pop();
        self.changed(state);
        popped?.ok_or(LinkError::Ended)
    }

    /// Waits until a pump has emptied a finished queue.
    pub(super) fn wait_handed_on(&self, deadline: Duration) -> Result<(), LinkError> {
        let what = "finishing a stream of tensors";
        let state = self
            .wait(End::Sender, what, deadline, |state| state.failed.is_some() || state.handed_on)?;
        state.failed.clone().map_or(Ok(()), Err)
    }

    // --- for tasks ---

    /// Waits for room, as long as it takes: the thread at the other end has the deadline.
    pub(super) async fn push_async(&self, tensor: Tensor) -> Result<(), LinkError> {
        loop {
            {
                let mut state = self.locked();
                if state.failed.is_some() || state.finished || state.tensors.len() < self.depth {
                    state.push(tensor)?;
                    self.changed(state);
                    return Ok(());
                }
            }
            self.sender_task.notified().await;
        }
    }

    /// The next tensor, or `None` when the queue is finished and empty. Safe to cancel.
    pub(super) async fn pop_async(&self) -> Result<Option<Tensor>, LinkError> {
        loop {
            {
                let mut state = self.locked();
                if state.has_news() {
                    let popped = state.pop();
                    self.changed(state);
                    return popped;
                }
            }
            self.receiver_task.notified().await;
        }
    }

    /// Returns once the queue failed. For the task that pushes.
    pub(super) async fn over_async(&self) {
        while self.locked().failed.is_none() {
            self.sender_task.notified().await;
        }
    }

    // --- for both ---

    /// Nothing more will be pushed.
    pub(super) fn finish(&self) {
        let mut state = self.locked();
        state.finished = true;
        self.changed(state);
    }

    /// Ends both sides with an error; the first one stays. What is queued is still given out.
    pub(super) fn fail(&self, error: LinkError) {
        let mut state = self.locked();
        state.failed.get_or_insert(error);
        self.changed(state);
    }

    /// The pump that empties this queue is done, in order or not.
    pub(super) fn handed_on(&self, error: Option<LinkError>) {
        let mut state = self.locked();
        match error {
            Some(error) => state.failed = Some(state.failed.take().unwrap_or(error)),
            None => state.handed_on = true,
        }
        self.changed(state);
    }

    /// Lets whoever waits look again.
    fn changed(&self, state: MutexGuard<'_, State>) {
        let (sender_parked, receiver_parked) = (state.sender_parked, state.receiver_parked);
        drop(state);
        self.changes.fetch_add(1, Ordering::Release);
        if sender_parked {
            self.to_sender.notify_one();
        }
        if receiver_parked {
            self.to_receiver.notify_one();
        }
        self.sender_task.notify_one();
        self.receiver_task.notify_one();
    }

    /// Spins, then parks, until `ready`.
    fn wait(
        &self,
        end: End,
        what: &'static str,
        deadline: Duration,
        ready: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'_, State>, LinkError> {
        let start = Instant::now();
        loop {
            let seen = self.changes.load(Ordering::Acquire);
            let state = self.locked();
            if ready(&state) {
                return Ok(state);
            }
            drop(state);
            while self.changes.load(Ordering::Acquire) == seen && start.elapsed() < SPIN {
                std::hint::spin_loop();
            }
            if start.elapsed() >= SPIN {
                break;
            }
        }
        let mut state = self.locked();
        while !ready(&state) {
            let Some(left) = deadline.checked_sub(start.elapsed()).filter(|d| !d.is_zero()) else {
                return Err(LinkError::Deadline { what, deadline });
            };
            state = self.park(state, end, left);
        }
        Ok(state)
    }

    fn park<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        end: End,
        left: Duration,
    ) -> MutexGuard<'a, State> {
        let condvar = match end {
            End::Sender => &self.to_sender,
            End::Receiver => &self.to_receiver,
        };
        *state.parked(end) = true;
        let (mut state, _) =
            condvar.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        *state.parked(end) = false;
        state
    }

    /// No code that may panic runs under the lock, so a poisoned one is whole.
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// There is something to tell a receiver.
    fn has_news(&self) -> bool {
        !self.tensors.is_empty() || self.finished || self.failed.is_some()
    }

    fn push(&mut self, tensor: Tensor) -> Result<(), LinkError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.finished {
            return Err(LinkError::Over("it was finished"));
        }
        self.tensors.push_back(tensor);
        Ok(())
    }

    /// `None` is the orderly end. Only to be called with news.
    fn pop(&mut self) -> Result<Option<Tensor>, LinkError> {
        match (self.tensors.pop_front(), &self.failed) {
            (Some(tensor), _) => Ok(Some(tensor)),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Ok(None),
        }
    }

    fn parked(&mut self, end: End) -> &mut bool {
        match end {
            End::Sender => &mut self.sender_parked,
            End::Receiver => &mut self.receiver_parked,
        }
    }
}
