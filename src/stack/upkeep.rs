//! What a process does for its identity while it runs: renews certificates before they expire, and
//! turns away identities that are revoked, its own included.
//!
//! A certificate is renewed at two thirds of its life, so that a control host may be away for a
//! third of it. Connections that are there stay; new ones show the new certificate. What was
//! revoked stays so for the life of the process, whatever a store that was wiped says; control
//! hosts write it there again.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, task::JoinSet};
use troupe_actors::{
    host::{join::control_hosts, revoked},
    node::child::TurnedAway,
};
use troupe_runtime::{
    discovery::{
        Registry, WatchEvent,
        directory::{self, RevokedRecord},
        keys::Keys,
    },
    error::chain,
    id::NodeId,
    transport::{
        Class, Connection, Conversation, Link, LinkError, PeerAddr, QuicLink,
        tls::{ClusterAuthority, Identity},
    },
    wire::join::{RenewDown, RenewUp, Renewed},
};

use super::membership::Membership;
use crate::cli::Failure;

/// The upkeep of a process. Dropping it ends it.
pub(crate) struct Upkeep {
    tasks: JoinSet<()>,
    away: watch::Receiver<TurnedAway>,
    me: NodeId,
}

/// An identity that is kept valid.
pub(crate) struct Kept {
    /// The one that is there now.
    pub(crate) identity: Identity,
    /// Where it is kept, for members and for the next start.
    pub(crate) dir: PathBuf,
    /// The link that shows it, if one does.
    pub(crate) link: Option<Arc<QuicLink>>,
}

/// Where new certificates come from.
#[derive(Clone)]
pub(crate) enum Source {
    /// The CA, which is here.
    Here(Arc<ClusterAuthority>),
    /// A control host, over this link; sought in the store, and else at these addresses.
    Control { link: Arc<dyn Link>, store: Store, known: Vec<String> },
}

/// The cluster's store.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) keys: Keys,
}

// === impl Upkeep ===

impl Upkeep {
    /// Starts it: `link` turns away who is revoked.
    pub(crate) fn start(
        membership: &Membership,
        link: Arc<QuicLink>,
        me: NodeId,
        source: &Source,
        identities: Vec<Kept>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        for kept in identities {
            tasks.spawn(renew(kept, source.clone()));
        }
        let (tell, away) = watch::channel(TurnedAway::default());
        let store = Store::of(membership);
        let restores = matches!(source, Source::Here(_));
        tasks.spawn(turn_away(store, link, restores, tell));
        Self { tasks, away, me }
    }

    /// Does one more thing for as long as this does.
    pub(crate) fn and(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Who is turned away by now.
    pub(crate) fn away(&self) -> watch::Receiver<TurnedAway> {
        self.away.clone()
    }

    /// Returns when this process is not to be here any more.
    pub(crate) async fn revoked(&self) -> Failure {
        let mut away = self.away.clone();
        let why = match away.wait_for(|away| away.contains_key(&self.me)).await {
            Ok(away) => away.get(&self.me).cloned().unwrap_or_default(),
            // The upkeep has ended, which nobody revoked.
            Err(_) => std::future::pending().await,
        };
        Failure::run(format!(
            "this host was taken out of the cluster ({why}): its identity {} is revoked",
            self.me
        ))
    }
}

impl Store {
    /// The one that a process takes part in.
    pub(crate) fn of(membership: &Membership) -> Self {
        Self { registry: membership.registry.clone(), keys: membership.keys.clone() }
    }
}

// === renewal ===

/// Keeps one identity valid for as long as it is polled.
async fn renew(kept: Kept, source: Source) {
    let Kept { mut identity, dir, link } = kept;
    loop {
        until(identity.renew_at()).await;
        let renewed = match source.renewed(&identity).await {
            Ok(renewed) => renewed,
            Err(why) => {
                let left = identity.expires().duration_since(SystemTime::now());
                let seconds = left.unwrap_or_default().as_secs();
                tracing::warn!(why, seconds_left = seconds, "the certificate is not renewed yet");
                tokio::time::sleep(pause(&identity)).await;
                continue;
            }
        };
        let shown = link.as_ref().map_or(Ok(()), |link| link.present(&renewed));
        if let Err(error) = shown {
            tracing::error!(why = chain(&error), "the new certificate cannot be shown");
        }
        if let Err(error) = renewed.save(&dir) {
            tracing::error!(why = chain(&error), "the new certificate cannot be kept");
        }
        tracing::info!(identity = %renewed.name(), "the certificate is renewed");
        identity = renewed;
    }
}

/// Follows an identity that another process keeps valid, in its folder.
pub(crate) async fn follow(mut identity: Identity, dir: PathBuf, link: Arc<QuicLink>) {
    loop {
        until(identity.renew_at()).await;
        tokio::time::sleep(pause(&identity)).await;
        match Identity::load(&dir) {
            Ok(newer) if newer.expires() > identity.expires() => {
                if let Err(error) = link.present(&newer) {
                    tracing::error!(why = chain(&error), "the new certificate cannot be shown");
                }
                identity = newer;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(why = chain(&error), "the node's certificate is gone"),
        }
    }
}

/// Waits for a time of day, which a host's clock may jump towards or away from.
async fn until(time: SystemTime) {
    while let Ok(left) = time.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

/// Between two tries: thirty in the third of its life that is left.
fn pause(identity: &Identity) -> Duration {
    let third = identity.expires().duration_since(identity.renew_at()).unwrap_or_default();
    (third / 30).clamp(SHORTEST_PAUSE, LOOK)
}

impl Source {
    async fn renewed(&self, identity: &Identity) -> Result<Identity, String> {
        let said = |error| chain(&error);
        let request = identity.signing_request().map_err(said)?;
        let certificate = match self {
            Self::Here(authority) => {
                let name = identity.name();
                authority.sign(&request, name.role, name.node, SystemTime::now()).map_err(said)?
            }
            Self::Control { link, store, known } => {
                let Store { registry, keys } = store;
                let mut doors = control_hosts(&**registry, keys).await.unwrap_or_default();
                doors.extend(known.iter().cloned());
                ask_any(&**link, &doors, request).await?
            }
        };
        identity.renewed(certificate).map_err(said)
    }
}

/// Asks control hosts one after the other until one answers.
async fn ask_any(link: &dyn Link, doors: &[String], request: Vec<u8>) -> Result<String, String> {
    let mut why = "no control host is known".to_owned();
    for door in doors {
        let asked = async {
            let address: PeerAddr = door.parse()?;
            let connected = link.connect(&address, Class::Control, PATIENCE).await;
            let connection = connected.map_err(|error| chain(&error))?;
            ask(&*connection, request.clone()).await
        };
        match asked.await {
            Ok(renewed) => return Ok(renewed.certificate),
            Err(error) => why = format!("{door}: {error}"),
        }
    }
    Err(why)
}

/// Asks a control host for a new certificate.
pub(crate) async fn ask(connection: &dyn Connection, request: Vec<u8>) -> Result<Renewed, String> {
    let converse = async {
        let mut stream = connection.open(Conversation::Renew, PATIENCE).await?;
        stream.sender.send(&RenewUp { request }, PATIENCE).await?;
        stream.sender.finish()?;
        stream.receiver.expect::<RenewDown>(PATIENCE).await
    };
    match converse.await.map_err(|error: LinkError| chain(&error))? {
        RenewDown::Renewed(renewed) => Ok(*renewed),
        RenewDown::Refused(why) => Err(why),
    }
}

// === revocation ===

/// Turns away who is revoked, for as long as it is polled.
async fn turn_away(
    store: Store,
    link: Arc<QuicLink>,
    restores: bool,
    tell: watch::Sender<TurnedAway>,
) {
    let Store { registry, keys } = store;
    let mut known: BTreeMap<NodeId, RevokedRecord> = BTreeMap::new();
    let mut lost = false;
    loop {
        let Ok(mut watch) = registry.watch(&keys.all_revoked()).await else {
            // The store has never answered this process; it can start without.
            tokio::time::sleep(PATIENCE).await;
            continue;
        };
        while let Some(event) = watch.next().await {
            match event {
                WatchEvent::Put(entry) => {
                    match directory::from_bytes::<RevokedRecord>(&entry.key, &entry.value) {
                        Ok(record) => drop(known.insert(record.id, record)),
                        Err(error) => tracing::warn!(%error, "a revoked identity is left out"),
                    }
                    let away: BTreeMap<NodeId, String> =
                        known.values().map(|record| (record.id, record.reason.clone())).collect();
                    link.turn_away(away.clone());
                    tell.send_replace(Arc::new(away));
                }
                // Nobody takes a revocation back: the store has lost it.
                WatchEvent::Delete(_) | WatchEvent::Rewound => lost = true,
                WatchEvent::Synced if lost && restores => {
                    lost = false;
                    if let Err(error) = revoked::restore(&*registry, &keys, &known).await {
                        tracing::warn!(%error, "what was revoked is not written again yet");
                    }
                }
                WatchEvent::Synced | WatchEvent::Disconnected(_) => {}
            }
        }
        // The store's handle was shut down, and this process is ending.
        return;
    }
}

/// How often a time of day is looked at while it is waited for.
const LOOK: Duration = Duration::from_secs(600);
/// Certificates of tests live for seconds.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
/// How long a control host may take for each step.
const PATIENCE: Duration = Duration::from_secs(5);
