//! Requests for a service that is declared and has no endpoint right now: held, not refused.
//!
//! A service that was scaled to zero has nobody until somebody asks; one whose only group drains or
//! forms anew has nobody for some seconds. A request that comes meanwhile waits here, costs an
//! entry in a table, and is placed the moment that an endpoint is ready. How many wait is told to
//! the controller, which then knows that there is somebody to scale for.
//!
//! - [`core`]: how many are held and what is told of it (pure)
//! - [`catalog`]: which names belong to which declared services; [`declared`]: as the store says
//! - [`hold`]: one request's wait
//! - [`desk`]: tells the controller

pub(crate) mod catalog;
pub(crate) mod core;
pub(crate) mod declared;
pub(crate) mod desk;
pub(crate) mod hold;

pub(crate) use hold::{Holding, Wait};
