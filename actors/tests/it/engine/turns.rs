//! Who overtook whom: the bound on starvation, seen from the plans alone.
//!
//! A sequence that waits sees at most two full batches admitted before it has the next place but
//! one. What began to wait before it may still go first then, each time with one more in between,
//! and a step may have admitted several when its turn came. A preempted sequence cannot start while
//! steps in flight hold it. So younger ones overtake it at most `2 * sequences`, plus twice as many
//! as waited already and once more, plus `sequences` for each of those steps and one more. Further
//! choices of a request wait for the first one on purpose: not counted.

use std::collections::BTreeMap;

use troupe_runtime::{
    id::SequenceId,
    wire::{generate::Generate, step::StepPlan},
};

/// Age: order of arrival, then of choices.
type Age = u64;

pub(super) struct Turns {
    sequences: u64,
    depth: u64,
    next: Age,
    ages: BTreeMap<(u64, u32), Age>,
    ids: BTreeMap<SequenceId, (u64, u32)>,
    waiting: BTreeMap<Age, Waits>,
}

struct Waits {
    counted: bool,
    overtaken: u64,
    most: u64,
}

impl Turns {
    pub(super) fn new(sequences: u32, depth: u32) -> Self {
        Self {
            sequences: sequences.into(),
            depth: depth.into(),
            next: 0,
            ages: BTreeMap::new(),
            ids: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    pub(super) fn asked(&mut self, generate: &Generate) {
        for (at, choice) in generate.choices.iter().enumerate() {
            self.next += 1;
            self.ages.insert((generate.seed, choice.index), self.next);
            self.wait(self.next, at == 0);
        }
    }

    /// The sequence of this seed and choice waits and runs no more.
    pub(super) fn ended(&mut self, seed: u64, choice: u32) {
        if let Some(age) = self.ages.remove(&(seed, choice)) {
            self.waiting.remove(&age);
        }
    }

    pub(super) fn planned(&mut self, plan: &StepPlan) {
        for id in &plan.preempted {
            if let Some(&age) = self.ids.get(id).and_then(|own| self.ages.get(own)) {
                self.wait(age, true);
            }
        }
        for new in &plan.new {
            self.ids.insert(new.sequence, (new.seed, new.choice));
        }
        let new = plan.new.iter().map(|new| new.sequence);
        for id in new.chain(plan.resumed.iter().map(|resumed| resumed.sequence)) {
            let own = self.ids.get(&id).expect("it was new once");
            let Some(&age) = self.ages.get(own) else { continue };
            self.waiting.remove(&age);
            for (_, waits) in self.waiting.range_mut(..age) {
                waits.overtaken += 1;
                let Waits { counted, overtaken, most } = *waits;
                assert!(
                    !counted || overtaken <= most,
                    "overtaken {overtaken} times, {most} may be"
                );
            }
        }
        plan.finished.iter().for_each(|id| _ = self.ids.remove(id));
    }

    fn wait(&mut self, age: Age, counted: bool) {
        let most = PATIENCE * self.sequences
            + 2 * (self.waiting.len() as u64 + 1)
            + self.sequences * (self.depth + 1);
        self.waiting.insert(age, Waits { counted, overtaken: 0, most });
    }
}

/// Full batches that may be admitted before a sequence that waits.
const PATIENCE: u64 = 2;
