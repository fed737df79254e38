//! The controller's way to the load of endpoints: one conversation with each leader whose service's
//! size follows its load, for as long as this controller is in office.
//!
//! Leaders push their load when it changes, and here at most one word a second goes on to the
//! planner. A load holds until the next one comes or the conversation breaks: then the planner is
//! told that nothing is known, and it is tried again, less and less often.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ractor::ActorRef;
use tokio::{sync::watch, time::sleep};
use troupe_runtime::{
    backoff::Backoff,
    id::EndpointId,
    transport::{Class, Conversation, FrameReceiver, Link, LinkError, PeerAddr, Stream},
    wire::status::{EndpointInfo, Load, StatusDown, StatusUp},
};

use super::{actor::ControllerMsg, plan::ControllerEvent, posts::Posts};

/// Follows loads.
pub(super) struct Loads {
    link: Option<Arc<dyn Link>>,
    controller: ActorRef<ControllerMsg>,
    followed: Posts<EndpointId>,
}

/// One endpoint's task.
struct Follower {
    link: Arc<dyn Link>,
    controller: ActorRef<ControllerMsg>,
    endpoint: EndpointId,
    address: String,
}

/// Why an endpoint's load is not known.
#[derive(Debug, thiserror::Error)]
enum Unknown {
    #[error("its address: {0}")]
    Address(String),
    #[error("its connection")]
    Link(#[from] LinkError),
    #[error("another endpoint answers there: {0}")]
    Another(EndpointId),
    #[error("it began with its load, not with what it is")]
    NoInfo,
}

// === impl Loads ===

impl Loads {
    pub(super) fn new(link: Option<Arc<dyn Link>>, controller: ActorRef<ControllerMsg>) -> Self {
        Self { link, controller, followed: Posts::new() }
    }

    /// Follows these, by where they are reached, and no others. One task for each.
    pub(super) fn follow(&mut self, wanted: BTreeMap<EndpointId, String>) {
        let Some(link) = &self.link else { return };
        self.followed.keep(wanted, |endpoint, address| {
            let (link, controller) = (Arc::clone(link), self.controller.clone());
            Follower { link, controller, endpoint, address }.run()
        });
    }
}

// === impl Follower ===

impl Follower {
    /// Ends with its controller.
    async fn run(self) {
        let backoff = Backoff::default();
        let mut attempt = 0;
        loop {
            let (load, told) = watch::channel(None);
            let why = tokio::select! {
                why = self.listen(load) => why.err(),
                () = self.pass_on(told) => None,
            };
            if let Some(why) = &why {
                let (endpoint, error) = (&self.endpoint, troupe_runtime::error::chain(why));
                tracing::info!(%endpoint, error, "the load is not known");
            }
            let lost = ControllerEvent::LoadLost(self.endpoint.clone());
            if self.controller.cast(ControllerMsg::Found(lost)).is_err() {
                return;
            }
            sleep(backoff.wait(self.endpoint.epoch.nonce, attempt)).await;
            attempt = attempt.saturating_add(1);
        }
    }

    /// Takes whatever the leader says, so that it never waits for us.
    async fn listen(&self, load: watch::Sender<Option<Load>>) -> Result<(), Unknown> {
        let peer: PeerAddr = self.address.parse().map_err(Unknown::Address)?;
        let connection = self.link.connect(&peer, Class::Control, DEADLINE).await?;
        let stream = connection.open(Conversation::Status, DEADLINE).await?;
        let Stream { mut sender, mut receiver } = stream;
        sender.send(&StatusUp::Watch, DEADLINE).await?;
        let info = introduction(&mut receiver).await?;
        if info.endpoint != self.endpoint {
            return Err(Unknown::Another(info.endpoint));
        }
        while let Some(down) = receiver.next::<StatusDown>().await? {
            if let StatusDown::Load(now) = down {
                load.send_replace(Some(now));
            }
        }
        Ok(())
    }

    /// Passes on the newest, at most once a second.
    async fn pass_on(&self, mut told: watch::Receiver<Option<Load>>) {
        while told.changed().await.is_ok() {
            let newest = *told.borrow_and_update();
            if let Some(load) = newest {
                let event = ControllerEvent::LoadTold(self.endpoint.clone(), Box::new(load));
                if self.controller.cast(ControllerMsg::Found(event)).is_err() {
                    return;
                }
            }
            sleep(PAUSE).await;
        }
    }
}

/// The leader's first word: what it is.
async fn introduction(receiver: &mut FrameReceiver) -> Result<EndpointInfo, Unknown> {
    match receiver.expect::<StatusDown>(DEADLINE).await? {
        StatusDown::Info(info) => Ok(*info),
        StatusDown::Load(_) | StatusDown::Adapters(_) | StatusDown::Metrics(_) => {
            Err(Unknown::NoInfo)
        }
    }
}

/// To connect, and for the leader's first word.
const DEADLINE: Duration = Duration::from_secs(5);
/// The least time between two words on one endpoint.
const PAUSE: Duration = Duration::from_secs(1);
