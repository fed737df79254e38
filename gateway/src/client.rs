//! One attempt: a `Generate` conversation with a leader.
//!
//! Dropping an [`Attempt`] is the abort: its stream resets, and the leader frees what it held. An
//! attempt that ended in order should be [`Attempt::close`]d instead, so that the leader sees an
//! end.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use troupe_runtime::{
    transport::{Conversation, LinkError, Stream},
    wire::generate::{Finish, Generate, GenerateDown, GenerateUp},
};

use crate::placement::{endpoint::Endpoint, underway::Underway};

/// How long handing one frame to a leader may take. Leaders read at once, so a full window for so
/// long means that nobody is there.
const SEND_DEADLINE: Duration = Duration::from_secs(5);

/// A request under way at one endpoint.
pub(crate) struct Attempt {
    stream: Stream,
    underway: Underway,
}

/// What became of an attempt that brought no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The endpoint would not.
    Refused,
    /// It ended by the endpoint's doing.
    Broke,
    /// Its time is over.
    Late,
}

impl Attempt {
    /// Hands the request to the endpoint.
    ///
    /// # Errors
    /// [`LinkError`] within twice [`SEND_DEADLINE`]; the leader may have seen the request even so.
    pub(crate) async fn open(
        endpoint: &Arc<Endpoint>,
        generate: Generate,
        underway: Underway,
    ) -> Result<Self, LinkError> {
        let mut stream = endpoint.connection.open(Conversation::Generate, SEND_DEADLINE).await?;
        stream.sender.send(&GenerateUp::Start(Box::new(generate)), SEND_DEADLINE).await?;
        Ok(Self { stream, underway })
    }

    /// What the leader says next. Waits without limit: the caller has the deadline. Safe to cancel.
    ///
    /// # Errors
    /// [`LinkError`]; also for an end in order, because a leader ends only after the gateway does.
    pub(crate) async fn next(&mut self) -> Result<GenerateDown, LinkError> {
        self.stream.receiver.next().await?.ok_or(LinkError::Ended)
    }

    /// Whom it was made at.
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        self.underway.endpoint()
    }

    /// Notes what the endpoint's breaker is to know: it refused, it broke, it never answered.
    pub(crate) fn note(&self, of: Fate) {
        match of {
            Fate::Refused => self.underway.answered(),
            Fate::Broke => self.underway.broke(),
            Fate::Late => self.underway.late(),
        }
    }

    /// So many tokens of it came.
    pub(crate) fn tokens(&mut self, now: Instant, count: usize) {
        self.underway.tokens(now, count);
    }

    /// Tells the leader that a choice is over.
    ///
    /// # Errors
    /// [`LinkError`].
    pub(crate) async fn finish(&mut self, finish: Finish) -> Result<(), LinkError> {
        self.stream.sender.send(&GenerateUp::Finish(finish), SEND_DEADLINE).await
    }

    /// Ends the conversation in order.
    pub(crate) fn close(mut self) {
        if let Err(error) = self.stream.sender.finish() {
            tracing::debug!(%error, "end attempt");
        }
    }
}
