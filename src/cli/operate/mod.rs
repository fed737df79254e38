//! The operator's commands: what people know from `kubectl`, asked of any control host.
//!
//! One file per verb: its arguments and the questions that they become. Flags, tables, messages and
//! exit codes (0 or 1) are `kubectl`'s where it has the same; what they share is in
//! [`crate::client::operate`].

mod apply;
mod delete;
mod describe;
mod drain;
mod events;
mod get;
mod label;
mod logs;
mod preflight;
mod reach;
mod rollout;
mod scale;
mod top;

pub(crate) use apply::{Apply, Create};
pub(crate) use delete::Delete;
pub(crate) use describe::Describe;
pub(crate) use drain::{Cordon, Drain, Uncordon};
pub(crate) use events::EventsCommand;
pub(crate) use get::Get;
pub(crate) use label::LabelCommand;
pub(crate) use logs::LogsCommand;
pub(crate) use preflight::Preflight;
pub(crate) use reach::{DryRun, Reach, Tally, change};
pub(crate) use rollout::{Rollout, patience};
pub(crate) use scale::ScaleCommand;
pub(crate) use top::Top;
