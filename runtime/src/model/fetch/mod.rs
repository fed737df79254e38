//! Models that are not on this machine yet: from the Hugging Face hub, a bucket or a web server
//! into the local cache.
//!
//! # Layout
//! - [`access`]: where copies are kept and what opens doors: tokens, endpoints, certificates
//! - [`origin`]: [`Origin`](origin::Origin), what every source can do: list files, read a range
//! - [`hub`]: the hub's protocol
//! - [`bucket`]: `s3://` and `gs://`; [`web`]: a folder behind `https://`
//! - [`copies`]: the caches, as they are laid out on the disk
//! - [`select`]: which of the files a model needs
//! - [`download`]: one file in parallel ranges, resumed where it was cut, checked, put in its place
//! - [`checksum`]: what a file must hash to
//! - [`client`]: the HTTP client, with one TLS provider; [`failure`]: what can go wrong, and what
//!   to do about it
//! - [`model`]: all of it put together for one model
//!
//! Everything blocks, on a thread with a reactor of its own: loading a model is nothing that an
//! actor waits for.

pub mod access;
mod bucket;
mod checksum;
mod client;
pub(crate) mod copies;
mod download;
mod failure;
mod hub;
mod model;
mod origin;
mod select;
mod web;

pub use self::{
    access::ModelAccess,
    model::{Part, Progress, fetch, fetch_adapter, model_digest},
};

#[cfg(test)]
mod tests;
