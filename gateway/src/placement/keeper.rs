//! Keeps one endpoint in the table for as long as it is ready.
//!
//! Ready means: its model's tokenizer is loaded, its connection is up, and the leader said that it
//! is the endpoint that the registry names. The status conversation then brings its load, and its
//! end (or the connection's) takes the endpoint out at once, whatever the registry still says.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use troupe_runtime::{
    backoff::Backoff,
    discovery::directory::EndpointRecord,
    error::chain,
    id::EndpointId,
    transport::{Class, Connection, Conversation, FrameReceiver, Link, PeerAddr, Stream},
    wire::{
        adapter::AdapterStatus,
        status::{EndpointInfo, StatusDown, StatusUp},
    },
};

use super::{directory::Directory, endpoint::Endpoint, prefix};
use crate::{model::Models, suspects::watch::Deaths};

/// To connect, and for the leader's first word.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// One endpoint's task.
pub(crate) struct Keeper {
    pub(crate) record: EndpointRecord,
    pub(crate) directory: Arc<Directory>,
    pub(crate) link: Arc<dyn Link>,
    pub(crate) models: Arc<Models>,
    pub(crate) deaths: Arc<Deaths>,
}

/// Growing waits between tries.
#[derive(Debug)]
pub(crate) struct Retry {
    backoff: Backoff,
    seed: u64,
    attempt: u32,
}

/// Takes the endpoint out of the table when the keeper is done with it, also when it is aborted.
struct Entered<'a> {
    directory: &'a Directory,
    endpoint: Arc<Endpoint>,
}

/// Why an endpoint is not ready.
#[derive(Debug, thiserror::Error)]
enum NotReady {
    #[error("its address: {0}")]
    Address(String),
    #[error("its model")]
    Model(#[source] crate::model::LoadError),
    #[error("its connection")]
    Link(#[from] troupe_runtime::transport::LinkError),
    #[error("it said that it is {0}")]
    Another(EndpointId),
    #[error("a member of its group has died")]
    Over,
    #[error("it did not begin with what it is and has")]
    NoInfo,
}

// === impl Keeper ===

impl Keeper {
    /// Never returns; ends with its task.
    pub(crate) async fn run(self) {
        let mut retry = Retry::default();
        loop {
            let why = match self.keep(&mut retry).await {
                Ok(never) => never,
                Err(error) => error,
            };
            let endpoint = &self.record.info.endpoint;
            tracing::warn!(%endpoint, error = chain(&why), "endpoint is not ready");
            retry.wait().await;
        }
    }

    /// Holds the endpoint ready until something ends it.
    async fn keep(&self, retry: &mut Retry) -> Result<NotReady, NotReady> {
        let peer: PeerAddr = self.record.address.parse().map_err(NotReady::Address)?;
        let info = &self.record.info;
        // Its leader may live and not know yet that its group does not.
        if self.deaths.knows(&info.endpoint) {
            return Err(NotReady::Over);
        }
        let model = self.models.get(&self.record).await.map_err(NotReady::Model)?;
        let connection = self.link.connect(&peer, Class::Control, CONNECT_DEADLINE).await?;
        let Stream { mut sender, mut receiver } =
            connection.open(Conversation::Status, CONNECT_DEADLINE).await?;
        sender.send(&StatusUp::Watch, CONNECT_DEADLINE).await?;
        let (told, adapters) = introduction(&mut receiver).await?;
        if told.endpoint != info.endpoint {
            return Err(NotReady::Another(told.endpoint));
        }
        let endpoint = Arc::new(Endpoint::new(
            told,
            Some(model),
            self.record.labels.clone(),
            self.record.address.clone(),
            Arc::clone(&connection),
            self.directory.prefixes(),
        ));
        endpoint.set_adapters(adapters);
        // So that there is something to be told when the leader does not answer a scrape in time:
        // the first one would lack its families.
        endpoint.metrics().await;
        self.directory.enter(Arc::clone(&endpoint));
        let entered = Entered { directory: &self.directory, endpoint };
        // It may have been while this connected.
        if self.deaths.knows(&info.endpoint) {
            return Err(NotReady::Over);
        }
        retry.reset();
        let mut follower = JoinSet::new();
        let (info, cached) = (entered.endpoint.info.clone(), Arc::clone(&entered.endpoint.cached));
        let (connection, born) = (&connection, self.directory.born());
        let following = prefix::follow::task::follow(info, cached, Arc::clone(connection), born);
        follower.spawn(following);
        Ok(follow(&entered, connection, receiver).await)
    }
}

/// The leader's first two words: what it is, and which adapters it has.
async fn introduction(
    receiver: &mut FrameReceiver,
) -> Result<(EndpointInfo, AdapterStatus), NotReady> {
    let StatusDown::Info(info) = receiver.expect::<StatusDown>(CONNECT_DEADLINE).await? else {
        return Err(NotReady::NoInfo);
    };
    match receiver.expect::<StatusDown>(CONNECT_DEADLINE).await? {
        StatusDown::Adapters(adapters) => Ok((*info, adapters)),
        _ => Err(NotReady::NoInfo),
    }
}

/// Keeps the load up to date until conversation or connection end.
async fn follow(
    entered: &Entered<'_>,
    connection: &Arc<dyn Connection>,
    mut receiver: FrameReceiver,
) -> NotReady {
    loop {
        tokio::select! {
            biased;
            closed = connection.closed() => return closed.into(),
            message = receiver.next::<StatusDown>() => match message {
                Ok(Some(StatusDown::Load(load))) => {
                    entered.endpoint.set_load(entered.directory.now(), load);
                }
                Ok(Some(StatusDown::Adapters(adapters))) => {
                    entered.directory.adapt(&entered.endpoint, adapters);
                }
                Ok(Some(StatusDown::Info(_) | StatusDown::Metrics(_))) => {}
                Ok(None) => return troupe_runtime::transport::LinkError::Ended.into(),
                Err(error) => return error.into(),
            },
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.directory.leave(&self.endpoint);
    }
}

// === impl Retry ===

impl Default for Retry {
    fn default() -> Self {
        Self { backoff: Backoff::default(), seed: rand::random(), attempt: 0 }
    }
}

impl Retry {
    /// Waits, each time longer.
    pub(crate) async fn wait(&mut self) {
        let wait = self.backoff.wait(self.seed, self.attempt);
        self.attempt = self.attempt.saturating_add(1);
        tokio::time::sleep(wait).await;
    }

    /// It worked: the next wait is the first again.
    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }
}
