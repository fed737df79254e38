//! What happens next: events in the order of their times, and of equal times in the order in which
//! they were entered. Its clock is the time of the last event that was taken.

use std::{collections::BTreeMap, time::Duration};

/// See the file.
#[derive(Debug)]
pub(super) struct Queue<E> {
    events: BTreeMap<(Duration, u64), E>,
    entered: u64,
    now: Duration,
}

// === impl Queue ===

impl<E> Queue<E> {
    /// An empty one, at time 0.
    pub(super) fn new() -> Self {
        Self { events: BTreeMap::new(), entered: 0, now: Duration::ZERO }
    }

    /// Enters an event; what should have been before now is now.
    pub(super) fn enter(&mut self, at: Duration, event: E) {
        self.events.insert((at.max(self.now), self.entered), event);
        self.entered += 1;
    }

    /// Takes the next event, with its time.
    pub(super) fn next(&mut self) -> Option<(Duration, E)> {
        let ((at, _), event) = self.events.pop_first()?;
        self.now = at;
        Some((at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_as_they_were_entered() {
        let at = Duration::from_millis;
        let mut queue = Queue::new();
        for (time, name) in [(5, "c"), (1, "a"), (5, "d"), (3, "b")] {
            queue.enter(at(time), name);
        }
        let mut order = Vec::new();
        while let Some((now, name)) = queue.next() {
            if name == "c" {
                queue.enter(at(2), "late");
            }
            order.push((now, name));
        }
        let expected = [(1, "a"), (3, "b"), (5, "c"), (5, "d"), (5, "late")];
        assert_eq!(order, expected.map(|(time, name)| (at(time), name)));
    }
}
