//! An actor that does not outlive its owner.
//!
//! ractor links children to the actor that spawns them; an actor that is owned by something that is
//! no actor (a process's main task, a guard in a map) needs the same: dropping [`Owned`] kills it
//! and everything that it supervises.

use ractor::{ActorRef, Message};
use tokio::task::JoinHandle;

/// An actor and its task.
#[derive(Debug)]
pub struct Owned<M: Message> {
    actor: ActorRef<M>,
    task: JoinHandle<()>,
}

impl<M: Message> Owned<M> {
    /// Owns what `Actor::spawn` gave.
    pub fn new((actor, task): (ActorRef<M>, JoinHandle<()>)) -> Self {
        Self { actor, task }
    }

    /// The actor.
    pub fn actor(&self) -> &ActorRef<M> {
        &self.actor
    }

    /// Returns when the actor has ended by itself. Safe to cancel.
    pub async fn ended(&mut self) {
        // A task that panicked has ended as well.
        let _ = (&mut self.task).await;
    }
}

impl<M: Message> Drop for Owned<M> {
    fn drop(&mut self) {
        self.actor.kill();
    }
}
