//! Follows one endpoint's cache for as long as it is ready: a conversation, and the core that says
//! what to make of it.

pub(crate) mod core;

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use troupe_runtime::{
    error::chain,
    transport::{Connection, Conversation, LinkError, Stream},
    wire::cache::{CacheDown, CacheFollow, CacheUp},
};

use self::core::{Effect, Event, Follow, Refusal};
use super::super::{endpoint::Endpoint, keeper::Retry};

/// Why a conversation is over.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error("the conversation about its cache")]
    Link(#[from] LinkError),
    #[error("its leader is not believed")]
    Refused(#[source] Refusal),
}

/// Ends with its task.
pub(crate) async fn follow(endpoint: Arc<Endpoint>, connection: Arc<dyn Connection>) {
    let info = &endpoint.info;
    let hashing = endpoint.parameters().digest();
    let mut follow = Follow::new(info.endpoint.clone(), info.block_size, hashing);
    let origin = Instant::now();
    let mut retry = Retry::default();
    loop {
        let over = match converse(&endpoint, &*connection, &mut follow, origin, &mut retry).await {
            Ok(never) => never,
            Err(over) => over,
        };
        let endpoint_id = &info.endpoint;
        match &over {
            Over::Refused(_) => {
                tracing::warn!(endpoint = %endpoint_id, error = chain(&over), "prefix index");
                endpoint.cached.distrust();
            }
            // One that tells nothing, or the end of all conversations, which others log.
            Over::Link(_) => {
                tracing::debug!(endpoint = %endpoint_id, error = chain(&over), "prefix index");
            }
        }
        retry.wait().await;
    }
}

async fn converse(
    endpoint: &Endpoint,
    connection: &dyn Connection,
    follow: &mut Follow,
    origin: Instant,
    retry: &mut Retry,
) -> Result<Over, Over> {
    let Stream { mut sender, mut receiver } =
        connection.open(Conversation::Cache, DEADLINE).await?;
    let epoch = endpoint.info.endpoint.epoch;
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    let mut event = Event::Begun;
    loop {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            for effect in follow.handle(origin.elapsed(), event) {
                let cached = &endpoint.cached;
                match effect {
                    Effect::Ask(since) => {
                        let follow = CacheUp::Follow(CacheFollow { epoch, since });
                        sender.send(&follow, DEADLINE).await?;
                    }
                    Effect::Believe => {
                        cached.told();
                        retry.reset();
                    }
                    Effect::Apply(batch) => next = Some(Event::Holds(cached.apply(&batch))),
                    Effect::Begin => cached.begin(),
                    Effect::Fill(held) => cached.fill(&held),
                    Effect::Finish => next = Some(Event::Holds(cached.finish())),
                    Effect::Pause(time) => sleep(time.min(LONGEST_PAUSE)).await,
                    Effect::Refuse(refusal) => return Err(Over::Refused(refusal)),
                }
            }
        }
        // Whatever a leader says, others have their turn in between.
        tokio::task::yield_now().await;
        event = tokio::select! {
            down = timeout(SILENCE, receiver.next::<CacheDown>()) => {
                let silent = LinkError::Deadline { what: "hearing of a cache", deadline: SILENCE };
                heard = Instant::now();
                Event::Down(down.map_err(|_| silent)??.ok_or(LinkError::Ended)?)
            }
            _ = tick.tick() => {
                endpoint.cached.forget();
                if heard.elapsed() > SILENCE {
                    let deadline = SILENCE;
                    return Err(LinkError::Deadline { what: "hearing of a cache", deadline }.into());
                }
                Event::Tick
            }
        };
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
