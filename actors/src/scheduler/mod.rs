//! Which sequences run in the next step, and with how many tokens each.
//!
//! One token-budget rule without phases: a sequence has `tokens` (prompt and output so far) and
//! `computed` positions, and a step gives it some of the difference. Running sequences come first,
//! in order of admission, then waiting ones; a prompt longer than the budget is computed in chunks,
//! and one that starts must find room for all of it. When blocks run out, the youngest running
//! sequence of the lowest priority is preempted: it gives its blocks back and is computed again
//! later. The oldest is never a victim of a younger one, so it always gets on.
//!
//! `computed` advances when a step is planned, not when it is done: the next step can be planned at
//! once. A sequence is in one step at a time; with several stages, sequences spread over the steps
//! in flight so that every stage has work.
//!
//! Pure: no clock, no randomness, ordered maps only.

mod compose;
mod queues;
#[cfg(test)]
mod tests;

pub use queues::{Limits, Scheduler, Sequence, SequenceSpec};
