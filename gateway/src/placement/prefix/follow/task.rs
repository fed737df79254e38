//! One endpoint's conversation about its cache, for as long as the endpoint is ready.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use troupe_runtime::{
    error::chain,
    id::Epoch,
    prefix::Parameters,
    transport::{Connection, Conversation, FrameSender, LinkError},
    wire::{
        cache::{CacheDown, CacheFollow, CacheUp},
        status::EndpointInfo,
    },
};

use super::{
    super::super::keeper::Retry,
    super::cached::Cached,
    core::{Effect, Event, Follow, Refusal},
};

/// Why a conversation is over.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error("the conversation about its cache")]
    Link(#[from] LinkError),
    #[error("its leader is not believed")]
    Refused(#[source] Refusal),
}

/// Ends with its task. The gateway's time counts from `origin`.
pub(crate) async fn follow(
    info: EndpointInfo,
    cached: Arc<Cached>,
    connection: Arc<dyn Connection>,
    origin: Instant,
) {
    let (endpoint, hashing) = (&info.endpoint, Parameters::of(&info).digest());
    let mut follow = Follow::new(endpoint.clone(), info.block_size, hashing);
    let mut retry = Retry::default();
    loop {
        let mut told = Told { epoch: endpoint.epoch, cached: &cached, origin, retry: &mut retry };
        let Err(over) = told.converse(&*connection, &mut follow).await;
        match &over {
            Over::Refused(_) => {
                tracing::warn!(%endpoint, error = chain(&over), "prefix index");
                cached.distrust();
            }
            // One that tells nothing, or the end of all conversations, which others log.
            Over::Link(_) => tracing::debug!(%endpoint, error = chain(&over), "prefix index"),
        }
        retry.wait().await;
    }
}

/// One conversation.
struct Told<'a> {
    epoch: Epoch,
    cached: &'a Cached,
    /// What the gateway's time counts from.
    origin: Instant,
    retry: &'a mut Retry,
}

impl Told<'_> {
    async fn converse(
        &mut self,
        connection: &dyn Connection,
        follow: &mut Follow,
    ) -> Result<Infallible, Over> {
        let mut stream = connection.open(Conversation::Cache, DEADLINE).await?;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut event = Event::Begun;
        loop {
            let mut next = Some(event);
            while let Some(event) = next.take() {
                for effect in follow.handle(self.origin.elapsed(), event) {
                    next = next.or(self.act(effect, &mut stream.sender).await?);
                }
            }
            // Whatever a leader says, others have their turn in between.
            tokio::task::yield_now().await;
            event = tokio::select! {
                down = stream.receiver.next::<CacheDown>() => {
                    heard = Instant::now();
                    Event::Down(down?.ok_or(LinkError::Ended)?)
                }
                _ = tick.tick() => {
                    self.cached.forget(self.origin.elapsed());
                    if heard.elapsed() > SILENCE {
                        let (what, deadline) = ("hearing of a cache", SILENCE);
                        return Err(LinkError::Deadline { what, deadline }.into());
                    }
                    Event::Tick
                }
            };
        }
    }

    /// Does what the core says, and returns what it must be told of that.
    async fn act(
        &mut self,
        effect: Effect,
        sender: &mut FrameSender,
    ) -> Result<Option<Event>, Over> {
        match effect {
            Effect::Ask(since) => {
                let follow = CacheUp::Follow(CacheFollow { epoch: self.epoch, since });
                sender.send(&follow, DEADLINE).await?;
            }
            Effect::Believe => {
                self.cached.told();
                self.retry.reset();
            }
            Effect::Apply(batch) => return Ok(Some(Event::Holds(self.cached.apply(&batch)))),
            Effect::Begin => self.cached.begin(),
            Effect::Fill(held) => self.cached.fill(&held),
            Effect::Finish => return Ok(Some(Event::Holds(self.cached.finish()))),
            Effect::Pause(time) => sleep(time.min(LONGEST_PAUSE)).await,
            Effect::Refuse(refusal) => return Err(Over::Refused(refusal)),
        }
        Ok(None)
    }
}

/// To open, and for a word of ours.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often it is looked for what is late, and what is not believed any more.
const TICK: Duration = Duration::from_millis(500);
/// A leader says at least each second that it has nothing to say.
const SILENCE: Duration = Duration::from_secs(10);
/// Of a leader that floods.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
