//! Collectives of ranks that are threads of one process: shared memory and a barrier.
//!
//! Each rank puts its part into its own slot, all meet, and each adds up all slots in rank order by
//! itself: for the sizes of a decode step that is far cheaper than a second meeting. Slots exist
//! twice and operations alternate between them, so one meeting per operation is enough: who writes
//! a slot again has met the others once more since they read it.
//!
//! A rank that drops its handle breaks the meeting point for good, and so does a missed deadline.

use std::{
    fmt,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use troupe_runtime::id::StepId;

use super::Collective;
use crate::error::DeviceError;

/// One rank's handle. Dropping it fails every operation of the others.
pub struct LocalCollective {
    shared: Arc<Shared>,
    rank: usize,
    /// Operations done, which says whose turn the two sets of slots are.
    operations: u64,
    step: StepId,
    deadline: Duration,
}

struct Shared {
    /// Two sets, one slot for each rank in both.
    slots: [Vec<RwLock<Slot>>; 2],
    meeting: Meeting,
}

#[derive(Default)]
struct Slot {
    step: StepId,
    values: Vec<f32>,
    bytes: Vec<u8>,
}

/// Where ranks wait for each other.
struct Meeting {
    ranks: usize,
    state: Mutex<MeetingState>,
    /// Meetings held; read without the lock while spinning.
    held: AtomicU64,
    changed: Condvar,
}

#[derive(Default)]
struct MeetingState {
    arrived: usize,
    /// Why there will be no more meetings.
    broken: Option<String>,
}

// === impl LocalCollective ===

impl LocalCollective {
    /// The connected handles of `ranks` ranks, in rank order. No wait is longer than `deadline`.
    pub fn group(ranks: usize, deadline: Duration) -> Vec<Self> {
        let slots = || (0..ranks).map(|_| RwLock::default()).collect();
        let shared = Arc::new(Shared { slots: [slots(), slots()], meeting: Meeting::new(ranks) });
        (0..ranks)
            .map(|rank| Self {
                shared: shared.clone(),
                rank,
                operations: 0,
                step: StepId::default(),
                deadline,
            })
            .collect()
    }

    /// Puts this rank's part where the others will read it, meets them, and gives all parts.
    fn exchange(&mut self, fill: impl FnOnce(&mut Slot)) -> Result<&[RwLock<Slot>], DeviceError> {
        let slots = &self.shared.slots[(self.operations % 2) as usize];
        self.operations += 1;
        {
            let mut own = slots[self.rank].write().unwrap_or_else(PoisonError::into_inner);
            own.step = self.step;
            fill(&mut own);
        }
        self.shared.meeting.meet(self.deadline)?;
        Ok(slots)
    }
}

impl Collective for LocalCollective {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.shared.meeting.ranks
    }

    fn begin_step(&mut self, step: StepId) {
        self.step = step;
    }

    fn all_reduce(&mut self, values: &mut [f32]) -> Result<(), DeviceError> {
        let step = self.step;
        let slots = self.exchange(|slot| replace(&mut slot.values, values))?;
        for (rank, slot) in slots.iter().enumerate() {
            let slot = read(slot);
            slot.expect(rank, step, Some(values.len()))?;
            if rank == 0 {
                values.copy_from_slice(&slot.values);
                continue;
            }
            for (sum, part) in values.iter_mut().zip(&slot.values) {
                *sum += part;
            }
        }
        Ok(())
    }

    fn gather(&mut self, values: &[f32], into: &mut Vec<f32>) -> Result<(), DeviceError> {
        let (rank, step) = (self.rank, self.step);
        let slots = self.exchange(|slot| replace(&mut slot.values, values))?;
        into.clear();
        if rank == 0 {
            for (rank, slot) in slots.iter().enumerate() {
                let slot = read(slot);
                slot.expect(rank, step, None)?;
                into.extend_from_slice(&slot.values);
            }
        }
        Ok(())
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<(), DeviceError> {
        let (rank, step) = (self.rank, self.step);
        let slots = self.exchange(|slot| {
            if rank == 0 {
                slot.bytes.clone_from(bytes);
            }
        })?;
        let first = read(&slots[0]);
        first.expect(0, step, None)?;
        if rank != 0 {
            bytes.clone_from(&first.bytes);
        }
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), DeviceError> {
        self.exchange(|_| ()).map(|_| ())
    }
}

impl Drop for LocalCollective {
    fn drop(&mut self) {
        self.shared.meeting.leave(format!("rank {} is gone", self.rank));
    }
}

impl fmt::Debug for LocalCollective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalCollective({} of {})", self.rank, self.ranks())
    }
}

fn replace(slot: &mut Vec<f32>, values: &[f32]) {
    slot.clear();
    slot.extend_from_slice(values);
}

fn read(slot: &RwLock<Slot>) -> std::sync::RwLockReadGuard<'_, Slot> {
    slot.read().unwrap_or_else(PoisonError::into_inner)
}

// === impl Slot ===

impl Slot {
    /// Fails unless the rank that filled it was in the same step, with as many values.
    fn expect(&self, rank: usize, step: StepId, len: Option<usize>) -> Result<(), DeviceError> {
        if self.step == step && len.is_none_or(|len| len == self.values.len()) {
            return Ok(());
        }
        Err(DeviceError::Collective(format!(
            "rank {rank} brought {} values of step {}, expected {} of step {step}",
            self.values.len(),
            self.step,
            len.unwrap_or(self.values.len()),
        )))
    }
}

// === impl Meeting ===

impl Meeting {
    fn new(ranks: usize) -> Self {
        Self { ranks, state: Mutex::default(), held: AtomicU64::new(0), changed: Condvar::new() }
    }

    /// Returns once every rank has called it as often as this one.
    fn meet(&self, deadline: Duration) -> Result<(), DeviceError> {
        let mut state = self.lock();
        if let Some(why) = &state.broken {
            return Err(DeviceError::Collective(why.clone()));
        }
        state.arrived += 1;
        // Nobody can finish this meeting before it is held, so the number cannot have moved on.
        let held = self.held.load(Ordering::Acquire);
        if state.arrived == self.ranks {
            state.arrived = 0;
            self.held.store(held + 1, Ordering::Release);
            drop(state);
            self.changed.notify_all();
            return Ok(());
        }
        drop(state);
        for _ in 0..SPINS {
            if self.held.load(Ordering::Acquire) != held {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        self.park(held, deadline)
    }

    fn park(&self, held: u64, deadline: Duration) -> Result<(), DeviceError> {
        let waiting = |state: &mut MeetingState| {
            state.broken.is_none() && self.held.load(Ordering::Acquire) == held
        };
        let (mut state, timeout) = self
            .changed
            .wait_timeout_while(self.lock(), deadline, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        // A meeting that was held counts, even if somebody left right after it.
        if self.held.load(Ordering::Acquire) != held {
            return Ok(());
        }
        if timeout.timed_out() {
            let (arrived, ranks) = (state.arrived, self.ranks);
            let why = format!("{arrived} of {ranks} ranks had come after {deadline:?}");
            state.broken.get_or_insert(why);
            self.changed.notify_all();
        }
        Err(DeviceError::Collective(state.broken.clone().unwrap_or_default()))
    }

    /// Breaks the meeting point; the first reason stays.
    fn leave(&self, why: String) {
        self.lock().broken.get_or_insert(why);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, MeetingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a waiting rank looks before it parks: some microseconds, about what waking a parked
/// thread costs, so that ranks which share cores give way to the one that all wait for.
const SPINS: u32 = 500;
