//! The door of a process: the one port where other hosts, newcomers and operators knock.
//!
//! - [`door`]: takes every connection and hands each conversation to the desk that answers it
//! - [`desk`]: answers control hosts: logs, [`facts`], [`measure`]
//! - [`facts`]: what this host is and has
//! - [`probe`]: answers how far away this host is; [`measure`] asks that of another
//! - [`preflight`]: whether the cluster is fit, for operators: asks every host; `rounds` says who
//!   measures when, [`fit`] judges (both pure), `report` is what people read, in [`show`]'s words
//! - [`join`]: makes and renews identities; `admission`: who is let in (pure); [`tokens`]: join
//!   tokens in the store; [`revoked`]: who is let in no more

pub mod admission;
pub mod desk;
pub mod door;
pub mod facts;
pub mod fit;
pub mod join;
pub mod measure;
pub mod preflight;
pub mod probe;
mod report;
pub mod revoked;
mod rounds;
pub mod show;
pub mod tokens;

pub use desk::HostDesk;
pub use door::{Desk, Desks};
pub use facts::{About, Facts};
pub use preflight::PreflightDesk;
