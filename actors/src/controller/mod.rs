//! The controller: makes declared services real on the nodes, and keeps them so.
//!
//! - [`actor`]: watches the store, carries events in and effects out
//! - [`office`]: what it takes to plan, and what a plan needs to be written (pure)
//! - [`acts`]: effects as transactions; `errands`: what others find out; `facts`: a model's size
//! - `observed`: what the store's watch tells, as the planner's events (pure)
//! - `declared`: services with the configurations and the set that make them whole (pure)
//! - [`desired`]: from a declared service to what its groups are to run; `offload`: of that, what
//!   is kept beside devices (pure)
//! - [`plan`]: the planner's front, what is observed in, what is to be done out (pure, as all
//!   below)
//! - `service`: one service's groups, as wanted; `tend`: each as it is; `moves`: away from hosts
//! - [`forecast`]: the same, only thought of
//! - `form`: a group finds its place; `place`: which hosts; [`wishes`]: which may be; [`memory`]:
//!   what a device has to have; `models`: what is known of models
//! - [`rollout`]: how many at a time; `revisions`: what was declared before; [`restart`]: how often
//! - `scale`: how many groups by load; `autoscale`: that of a service; `loads`: the way to the load
//! - `hosts`: who is there; `vigil`: who is heard no more; `posts`: one task for each of
//!   those and of the followed; `quarantine`: who is taken last for a
//!   while; `adopt`: what runs already
//! - `status`, `journal`: what people are told

pub mod actor;
pub mod acts;
mod adopt;
mod autoscale;
mod declared;
pub mod desired;
mod errands;
pub(crate) mod facts;
pub mod forecast;
mod form;
mod hosts;
mod journal;
mod loads;
pub mod memory;
mod models;
mod moves;
mod observed;
pub mod office;
mod offload;
mod place;
pub mod plan;
mod posts;
mod quarantine;
pub mod restart;
mod revisions;
pub mod rollout;
mod scale;
mod service;
mod status;
mod tend;
#[cfg(test)]
mod tests;
mod vigil;
pub mod wishes;
mod world;
