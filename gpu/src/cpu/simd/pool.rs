//! The threads of one CPU device: fork, take tasks off one counter, join.
//!
//! Several devices share a machine (ranks in one process, other processes), so nobody ever waits
//! for a thread that has not started: the caller works through the tasks itself and at the end
//! waits only for those workers that had joined in. A worker that finds nothing spins for some
//! twenty microseconds, enough to catch the next operation of a step, and parks. Which thread does
//! which task is left to chance; no result depends on it.
//!
//! It lives among the kernels because it lends a borrowed closure to threads that outlive it.

use std::{
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use crate::error::DeviceError;

/// Threads owned by one device. Dropping it ends and joins them.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Workers wait here for a job.
    posted: Condvar,
    /// The caller waits here for the last worker to leave a job.
    left: Condvar,
    /// Counts jobs; spinning workers watch it.
    job_number: AtomicU64,
    /// The next task of the job.
    next: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    job: Option<Job>,
    /// Workers inside the job.
    inside: usize,
    parked: usize,
    stop: bool,
    panicked: bool,
}

/// What [`Pool::chunks_of_two`] calls: with a number and a piece of each buffer.
pub(crate) type OnTwo<'a, T, U> = dyn Fn(usize, &mut [T], &mut [U]) + Sync + 'a;

/// A closure borrowed from the caller of [`Pool::run`], its lifetime erased.
#[derive(Clone, Copy)]
struct Job {
    call: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

// SAFETY: the closure is `Sync`, and `Pool::run` does not return, normally or by unwinding, before
// every worker that copied the job has left it.
unsafe impl Send for Job {}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Job({} tasks)", self.tasks)
    }
}

// === impl Pool ===

impl Pool {
    /// A pool of `threads`, the caller's included.
    pub(crate) fn new(threads: usize) -> Result<Self, DeviceError> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            posted: Condvar::new(),
            left: Condvar::new(),
            job_number: AtomicU64::new(0),
            next: AtomicUsize::new(0),
        });
        let mut pool = Self { shared, workers: Vec::new() };
        for number in 1..threads.max(1) {
            let shared = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new()
                .name(format!("cpu-{number}"))
                .spawn(move || shared.work())
                .map_err(|error| DeviceError::Failed(format!("start a thread: {error}")))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `call` once for each number below `tasks`, on any threads, and returns when all calls
    /// have returned. Panics if a call did.
    pub(crate) fn run(&mut self, tasks: usize, call: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(call);
            return;
        }
        let pointer: *const (dyn Fn(usize) + Sync + '_) = call;
        // SAFETY: only the lifetime changes. `Leave` below keeps this frame alive until no worker
        // holds the pointer; see `Job`.
        let pointer = unsafe {
            std::mem::transmute::<
                *const (dyn Fn(usize) + Sync + '_),
                *const (dyn Fn(usize) + Sync + 'static),
            >(pointer)
        };
        let leave = Leave(&self.shared);
        self.shared.post(Job { call: pointer, tasks });
        self.shared.take_tasks(tasks, call);
        drop(leave);
        if std::mem::take(&mut self.shared.lock().panicked) {
            resume_unwind(Box::new("a compute thread panicked"));
        }
    }

    /// Calls `call` with each piece of `data` of `chunk` elements (the last may be shorter) and its
    /// number.
    pub(crate) fn chunks<T: Send>(
        &mut self,
        data: &mut [T],
        chunk: usize,
        call: &(dyn Fn(usize, &mut [T]) + Sync),
    ) {
        let chunk = chunk.max(1);
        let tasks = data.len().div_ceil(chunk);
        let pieces = Pieces::new(data);
        self.run(tasks, &|task| {
            let start = task * chunk;
            // SAFETY: tasks have disjoint ranges and each runs once.
            call(task, unsafe { pieces.piece(start, chunk.min(pieces.len - start)) });
        });
    }

    /// As [`Pool::chunks`] over two buffers cut at the same places.
    pub(crate) fn chunks_of_two<T: Send, U: Send>(
        &mut self,
        (first, first_chunk): (&mut [T], usize),
        (second, second_chunk): (&mut [U], usize),
        call: &OnTwo<'_, T, U>,
    ) {
        let tasks = first.len().div_ceil(first_chunk.max(1));
        assert_eq!(tasks, second.len().div_ceil(second_chunk.max(1)));
        let (first, second) = (Pieces::new(first), Pieces::new(second));
        self.run(tasks, &|task| {
            let (a, b) = (task * first_chunk, task * second_chunk);
            // SAFETY: tasks have disjoint ranges in both and each runs once.
            let (a, b) = unsafe {
                (
                    first.piece(a, first_chunk.min(first.len - a)),
                    second.piece(b, second_chunk.min(second.len - b)),
                )
            };
            call(task, a, b);
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.job_number.fetch_add(1, Ordering::Release);
        self.shared.posted.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks, so that joining can tell nothing new.
            let _ = worker.join();
        }
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is plain counters, whole at every unlock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, job: Job) {
        let mut state = self.lock();
        self.next.store(0, Ordering::Relaxed);
        state.job = Some(job);
        self.job_number.fetch_add(1, Ordering::Release);
        let parked = state.parked;
        drop(state);
        if parked > 0 {
            self.posted.notify_all();
        }
    }

    fn take_tasks(&self, tasks: usize, call: &(dyn Fn(usize) + Sync)) {
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                return;
            }
            call(task);
        }
    }

    /// A worker's life.
    fn work(&self) {
        let mut seen = 0;
        while let Some(job) = self.enter(&mut seen) {
            // SAFETY: `enter` counted this worker in, so the caller waits until `leave`.
            let call = unsafe { &*job.call };
            let outcome = catch_unwind(AssertUnwindSafe(|| self.take_tasks(job.tasks, call)));
            let mut state = self.lock();
            state.panicked |= outcome.is_err();
            state.inside -= 1;
            if state.inside == 0 {
                self.left.notify_one();
            }
        }
    }

    /// Waits for a job that is open and not seen yet; `None` when the pool ends.
    fn enter(&self, seen: &mut u64) -> Option<Job> {
        loop {
            for _ in 0..SPINS {
                if self.job_number.load(Ordering::Acquire) != *seen {
                    break;
                }
                std::hint::spin_loop();
            }
            let mut state = self.lock();
            while self.job_number.load(Ordering::Acquire) == *seen && !state.stop {
                state.parked += 1;
                state = self.posted.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.parked -= 1;
            }
            *seen = self.job_number.load(Ordering::Acquire);
            if state.stop {
                return None;
            }
            // The job may be over already; then there is nothing to do but wait for the next.
            if let Some(job) = state.job {
                state.inside += 1;
                return Some(job);
            }
        }
    }
}

/// Closes the job and waits until no worker is inside, also when the caller's own task panics.
struct Leave<'a>(&'a Shared);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        // Nobody need start what is left after a panic.
        self.0.next.store(usize::MAX / 2, Ordering::Relaxed);
        self.0.lock().job = None;
        for _ in 0..JOIN_SPINS {
            if self.0.lock().inside == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        let mut state = self.0.lock();
        while state.inside > 0 {
            state = self.0.left.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A slice that tasks cut disjoint pieces from.
pub(crate) struct Pieces<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: a piece is `&mut [T]` for one thread at a time, as the contract of `piece` asks.
unsafe impl<T: Send> Sync for Pieces<'_, T> {}

impl<'a, T> Pieces<'a, T> {
    pub(crate) fn new(data: &'a mut [T]) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
    }

    /// Elements `start..start + len`. Panics if there are not so many.
    ///
    /// # Safety
    /// No two pieces that live at the same time may overlap.
    #[expect(clippy::mut_from_ref, reason = "disjoint pieces are the caller's promise")]
    pub(crate) unsafe fn piece(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: inside the slice by the assertion, unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

/// How often a worker looks for a job before it parks: some twenty microseconds, which is more than
/// a step spends between two shared operations.
const SPINS: usize = 1500;
/// How often the caller looks for the last worker to leave before it parks. A look takes the lock.
const JOIN_SPINS: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        let mut pool = Pool::new(3).unwrap();
        for tasks in [0, 1, 2, 7, 100] {
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..200 {
                pool.run(tasks, &|task| {
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 200));
        }
    }

    #[test]
    fn chunks_cover_the_data() {
        let mut pool = Pool::new(2).unwrap();
        let mut data = vec![0usize; 103];
        pool.chunks(&mut data, 10, &|number, piece| piece.fill(number + 1));
        assert!(data.iter().enumerate().all(|(at, &value)| value == at / 10 + 1));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = Pool::new(2).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.run(64, &|task| assert!(task != 13, "thirteen"));
        }));
        assert!(outcome.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(10, &|task| {
            sum.fetch_add(task, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }

    #[test]
    fn many_pools_share_few_cores() {
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let mut pool = Pool::new(2).unwrap();
                    let sum = AtomicUsize::new(0);
                    for _ in 0..500 {
                        pool.run(8, &|task| {
                            sum.fetch_add(task, Ordering::Relaxed);
                        });
                    }
                    assert_eq!(sum.into_inner(), 500 * 28);
                });
            }
        });
    }
}
