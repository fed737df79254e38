//! What operators ask and control hosts answer: `get`, `apply`, `scale`, `logs` and the rest.
//!
//! - [`desk`]: answers one question per conversation; reads and watches
//! - `write`: changes, as compare-and-swap on the store
//! - `plan`: what would become of services, for a dry run
//! - `change`: what a change makes of a stored object; `merge`: what applying a document means
//!   (pure)
//! - `access`: join tokens and identities, made and revoked
//! - `advice`: what is odd about an object among the others; `configs`: what services start from;
//!   `history`: which revision to go back to (pure)
//! - `view`: the documents that people see; `contents`: what of the store they are made of (pure)
//! - [`resource`]: the kinds of objects and their names; [`labels`]: selections by label (pure)
//! - `busy`: how busy leaders are; `logs`: what members said
//!
//! The command line uses the names and selections too, so that both ends mean the same.

mod access;
mod advice;
mod busy;
mod change;
mod configs;
mod contents;
pub mod desk;
mod history;
pub mod labels;
mod logs;
mod merge;
mod plan;
pub mod resource;
mod view;
mod write;

pub use desk::OperateDesk;
pub use resource::Resource;
