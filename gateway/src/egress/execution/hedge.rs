//! A second attempt beside a first one that says nothing: whoever speaks first answers.
//!
//! Off unless a time is configured. It costs the work of the attempt that loses, so it is made once
//! for each prompt, and only as long as nothing was told to the client. Both attempts are the same
//! to the stream's core; it only learns who it goes on with.

use tokio::time::{Instant, timeout_at};
use troupe_runtime::{
    id::EndpointId,
    transport::LinkError,
    wire::{generate::GenerateDown, status::Fingerprint},
};

use super::Execution;
use crate::{
    client::{Attempt, Fate},
    egress::stream::Event,
};

/// The second attempt.
pub(super) struct Second {
    endpoint: EndpointId,
    fingerprint: Fingerprint,
    attempt: Attempt,
}

/// What was heard, and of whom.
enum Heard {
    First(Result<GenerateDown, LinkError>),
    Second(Result<GenerateDown, LinkError>),
}

impl Execution {
    /// What the endpoint says next that the stream goes on with; none if its time is over.
    pub(super) async fn hear(&mut self) -> Option<Result<GenerateDown, LinkError>> {
        let deadline = self.core.deadline();
        loop {
            let hedge_at = self.hedge_at().filter(|at| *at < deadline);
            let Some(first) = &mut self.attempt else { return Some(Err(LinkError::Ended)) };
            let said = async {
                match &mut self.second {
                    None => Heard::First(first.next().await),
                    Some(second) => tokio::select! {
                        biased;
                        said = first.next() => Heard::First(said),
                        said = second.attempt.next() => Heard::Second(said),
                    },
                }
            };
            match timeout_at(hedge_at.unwrap_or(deadline), said).await {
                Err(_) if hedge_at.is_some() => self.hedge().await,
                Err(_) => return None,
                Ok(Heard::First(said)) if self.second.is_none() => return Some(said),
                Ok(Heard::First(Ok(said @ GenerateDown::Chunk(_)))) => {
                    self.second = None;
                    self.meter.hedged("first");
                    return Some(Ok(said));
                }
                Ok(Heard::First(said)) => {
                    // The other one is on its way already.
                    first.note(fate(&said));
                    self.go_on_with_second();
                }
                Ok(Heard::Second(Ok(said @ GenerateDown::Chunk(_)))) => {
                    self.go_on_with_second();
                    return Some(Ok(said));
                }
                Ok(Heard::Second(said)) => {
                    if let Some(second) = self.second.take() {
                        second.attempt.note(fate(&said));
                    }
                }
            }
        }
    }

    /// When a second attempt is to be made. Never of what processes may have died of.
    fn hedge_at(&self) -> Option<Instant> {
        let after = self.places.hedge_after?;
        (!self.hedged && !self.alone && self.core.is_untold()).then(|| self.opened + after)
    }

    async fn hedge(&mut self) {
        self.hedged = true;
        let mut tried = self.excluded();
        tried.extend(self.attempt.as_ref().map(|first| first.endpoint().info.endpoint.clone()));
        let (prompt, hashes) = (&self.prompt, &self.hashes);
        let placed = self.places.choose(&self.request, (prompt, hashes), &tried, None);
        let Some(placed) = placed else { return };
        let info = &placed.endpoint.info;
        let (endpoint, fingerprint) = (info.endpoint.clone(), info.fingerprint.clone());
        tracing::debug!(endpoint = %endpoint, "a second attempt beside the first");
        match self.attempt_at(&placed).await {
            Ok(attempt) => self.second = Some(Second { endpoint, fingerprint, attempt }),
            Err(error) => tracing::debug!(%error, "the second attempt could not be made"),
        }
    }

    /// The first attempt is dropped, which tells its leader.
    fn go_on_with_second(&mut self) {
        let Some(Second { endpoint, fingerprint, attempt }) = self.second.take() else { return };
        self.attempt = Some(attempt);
        self.meter.hedged("second");
        // It says what to do about events that change something for the client; this does not.
        let _ = self.core.handle(Instant::now(), Event::Instead(endpoint, fingerprint));
    }
}

fn fate(said: &Result<GenerateDown, LinkError>) -> Fate {
    match said {
        Ok(GenerateDown::Refused(_) | GenerateDown::Moved(_)) => Fate::Refused,
        Ok(GenerateDown::Chunk(_) | GenerateDown::Failed(_)) | Err(_) => Fate::Broke,
    }
}
