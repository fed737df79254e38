//! Blocks, steps and books: what an engine has under way is bounded, its own bookkeeping adds up
//! after every event, and no device is given something that it cannot do. That no block is read
//! after it was given to another shows in the tokens.

use troupe_actors::leader::engine::Engine;

use super::Complaints;

/// See the file.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    /// Engine events that were looked at.
    pub(crate) looked: u64,
    /// The most that ever waited for a gateway's endpoint, and ran at an engine.
    pub(crate) most_running: u32,
    /// Sequences that lost their blocks to others.
    pub(crate) preemptions: u64,
    pub(super) complaints: Complaints,
}

// === impl Bounds ===

impl Bounds {
    /// An engine is through with an event.
    pub(crate) fn engine(&mut self, engine: &Engine, depth: u32) {
        self.looked += 1;
        if engine.steps_in_flight() > depth as usize {
            self.complaints.note(format!("{} steps in flight", engine.steps_in_flight()));
        }
        if let Err(why) = engine.check_integrity() {
            self.complaints.note(format!("an engine's books: {why}"));
        }
        let load = engine.load();
        self.most_running = self.most_running.max(load.running);
        self.preemptions = self.preemptions.max(engine.counters().preemptions);
        if load.blocks_used > load.blocks_total {
            self.complaints.note(format!("{load:?}"));
        }
    }

    /// An engine says that its books do not add up, or a device cannot have what it is to have.
    pub(crate) fn broken(&mut self, why: &str) {
        self.complaints.note(why.to_owned());
    }

    /// A device could not run a step.
    pub(crate) fn device(&mut self, why: &str) {
        self.complaints.note(format!("a device: {why}"));
    }

    /// Something is there at the end that should not be.
    pub(crate) fn left(&mut self, what: String) {
        self.complaints.note(what);
    }
}
