//! A group without etcd: the pods that LeaderWorkerSet started share the store of their first one.
//!
//! - [`admission`]: whether a pod belongs to this group (pure)
//! - [`host`]: in the first pod, which has store, controller and gateway: keeps each guest's
//!   records under a lease of its own and tells it what all hosts read
//! - [`visit`]: in every other pod, whose node has a small store of its own: carries records
//!   between the two
//!
//! So the controller plans over guests as over any node, and a node is the same node everywhere. A
//! guest whose host is away keeps what it has, as a node does without etcd; when it arrives again,
//! what is no longer true goes.

pub mod admission;
pub mod host;
pub mod visit;

use std::time::Duration;

/// A peer that does not take a small frame for so long is gone.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// A peer that opened a conversation says at once what it wants, and is answered at once.
const FIRST_FRAME: Duration = Duration::from_secs(5);
