//! Which sequences run in the next step, and with how many tokens each.
//!
//! One token-budget rule without phases: a sequence has tokens (prompt and output so far) and
//! `computed` positions, and a step gives it some of the difference. Running sequences come first,
//! in order of admission, then waiting ones; a prompt longer than the budget is computed in chunks,
//! and one that starts must find room for all of it. When blocks run out, the youngest running
//! sequence of the lowest priority is preempted: it gives its blocks back and is computed again
//! later, mostly out of the prefix cache. The oldest is never a victim of a younger one, so it
//! always gets on.
//!
//! `computed` advances when a step is planned, not when it is done, so that the next step is
//! planned at once: a token that is not known yet is a placeholder, which the workers fill. With
//! several stages, sequences spread over the steps in flight so that every stage has work.
//!
//! - [`scheduler`]: the queues, and what results change
//! - [`compose`]: the next step: running sequences
//! - [`admit`]: the next step: waiting sequences
//! - [`reserve`]: sequences whose blocks are filled by another group, or from beside the device
//! - `adapters`: which LoRA adapters run, and who may begin beside them
//! - [`sequence`]: one sequence and where it stands
//! - [`waiting`]: who is next; [`ngram`]: drafts; [`arena`]: where sequences live
//!
//! Pure: no clock, no randomness, ordered maps only.

mod adapters;
mod admit;
pub(crate) mod arena;
mod compose;
pub mod ngram;
pub mod reserve;
#[expect(clippy::module_inception, reason = "the subject of the folder")]
mod scheduler;
mod sequence;
#[cfg(test)]
mod tests;
mod waiting;

pub use ngram::NgramSettings;
pub use reserve::{Kept, Reserved};
pub use scheduler::{Counters, Limits, Part, Scheduler};
pub use sequence::{Owner, Sequence, SequenceSpec};
pub use waiting::Policy;
