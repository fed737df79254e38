//! The desks where identities are made: newcomers join by a token, and who is one of us renews its
//! certificate. Only control hosts have them, because only they hold the CA's key.
//!
//! What a newcomer says is checked before the store is asked: a request that nobody signed costs
//! no write. Then its token is used ([`super::tokens`]), and only then a certificate made.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use troupe_runtime::{
    discovery::{
        Registry, RegistryError,
        directory::{self, ControlRecord, RevokedRecord},
        keys::Keys,
    },
    error::chain,
    id::NodeId,
    transport::{
        EncodeMessage, LinkError, PeerIdentity, PeerRole, Stream,
        tls::{ClusterAuthority, JoinToken, SigningKey, TlsError},
    },
    wire::join::{JoinDown, JoinUp, RenewDown, RenewUp, Renewed, Welcome},
};
use uuid::Uuid;

use super::{
    Desk,
    admission::{Admission, Newcomer},
    tokens::{NotAdmitted, Tokens},
};

/// What a control host needs to make identities.
#[derive(Clone, Debug)]
pub struct Registrar {
    /// The CA with its key.
    pub authority: Arc<ClusterAuthority>,
    /// The cluster's store.
    pub registry: Arc<dyn Registry>,
    /// Its keys.
    pub keys: Keys,
    /// Where newcomers find the store.
    pub etcd: Vec<String>,
    /// Where this control host's door is.
    pub address: String,
}

/// Answers [`troupe_runtime::transport::Conversation::Join`].
pub struct JoinDesk(pub Registrar);

/// Answers [`troupe_runtime::transport::Conversation::Renew`].
pub struct RenewDesk(pub Registrar);

// === the desks ===

#[async_trait]
impl Desk for JoinDesk {
    async fn answer(&self, peer: &PeerIdentity, mut stream: Stream) {
        let registrar = &self.0;
        let answered = async {
            let asked = stream.receiver.expect::<JoinUp>(PATIENCE).await?;
            let name = asked.name.clone();
            let answer = match registrar.join(asked).await {
                Ok(welcome) => JoinDown::Welcome(Box::new(welcome)),
                Err(why) => {
                    tracing::warn!(name, why, "a newcomer is not let in");
                    JoinDown::Refused(why)
                }
            };
            say(&mut stream, &answer).await
        };
        if let Err(error) = answered.await {
            tracing::debug!(%peer, %error, "a newcomer went away");
        }
    }
}

#[async_trait]
impl Desk for RenewDesk {
    async fn answer(&self, peer: &PeerIdentity, mut stream: Stream) {
        let answered = async {
            let asked = stream.receiver.expect::<RenewUp>(PATIENCE).await?;
            let answer = match self.0.renew(peer, &asked).await {
                Ok(renewed) => RenewDown::Renewed(Box::new(renewed)),
                Err(why) => {
                    tracing::warn!(%peer, why, "a certificate is not renewed");
                    RenewDown::Refused(why)
                }
            };
            say(&mut stream, &answer).await
        };
        if let Err(error) = answered.await {
            tracing::debug!(%peer, %error, "who wanted a new certificate went away");
        }
    }
}

async fn say<T: EncodeMessage>(stream: &mut Stream, answer: &T) -> Result<(), LinkError> {
    stream.sender.send(answer, PATIENCE).await?;
    stream.sender.finish()
}

// === impl Registrar ===

impl Registrar {
    async fn join(&self, asked: JoinUp) -> Result<Welcome, String> {
        let key = SigningKey::digest_of(&asked.request).map_err(said)?;
        let former = match &asked.former {
            Some(former) => Some(self.authority.former(former, &asked.request).map_err(said)?),
            None => None,
        };
        if let Some(former) = &former {
            self.check_revoked(former.node).await?;
        }
        let newcomer = Newcomer {
            token: asked.token,
            secret: JoinToken::hash(&asked.secret),
            part: asked.part,
            name: asked.name,
            key,
            former: former.map(|former| former.node),
            fresh: NodeId(Uuid::now_v7()),
            wire: asked.wire,
            now_ms: asked.now_ms,
        };
        let tokens = Tokens::new(self.registry.clone(), self.keys.clone());
        let admission = match tokens.admit(&newcomer, now_ms()).await {
            Ok(admission) => admission,
            Err(NotAdmitted::Refused(why)) => return Err(why),
            Err(NotAdmitted::Store(error)) => return Err(away(&error)),
        };
        // One that asks again may have been revoked since.
        self.check_revoked(admission.id).await?;
        let (name, version) = (&newcomer.name, &asked.version);
        let Admission { id, role, .. } = admission;
        tracing::info!(%id, %role, name, version, token = newcomer.token, "a newcomer joins");
        let operator = asked.operator.filter(|_| admission.operator);
        self.welcome(&admission, &asked.request, operator.as_deref()).await
    }

    async fn welcome(
        &self,
        admission: &Admission,
        request: &[u8],
        operator: Option<&[u8]>,
    ) -> Result<Welcome, String> {
        let Admission { id, role, .. } = *admission;
        let sign = |request: &[u8], role| {
            self.authority.sign(request, role, id, SystemTime::now()).map_err(said)
        };
        let (ca, ca_key) = self.authority.to_pem();
        let election = self.registry.get(&self.keys.election()).await.map_err(|e| away(&e))?;
        Ok(Welcome {
            certificate: sign(request, role)?,
            ca: ca.to_owned(),
            ca_key: (role == PeerRole::Control).then(|| ca_key.to_owned()),
            operator: operator.map(|request| sign(request, PeerRole::Operator)).transpose()?,
            cluster: self.authority.cluster().to_owned(),
            etcd: self.etcd.clone(),
            control: self.control().await.map_err(|error| away(&error))?,
            controller: election.is_some(),
            lifetime: self.authority.lifetime().as_secs(),
        })
    }

    async fn renew(&self, peer: &PeerIdentity, asked: &RenewUp) -> Result<Renewed, String> {
        self.check_revoked(peer.node).await?;
        let now = SystemTime::now();
        let certificate = self.authority.sign(&asked.request, peer.role, peer.node, now);
        Ok(Renewed {
            certificate: certificate.map_err(said)?,
            control: self.control().await.map_err(|error| away(&error))?,
        })
    }

    /// Where control hosts are reached, this one first.
    async fn control(&self) -> Result<Vec<String>, RegistryError> {
        let mut all = control_hosts(&*self.registry, &self.keys).await?;
        all.retain(|address| *address != self.address);
        all.insert(0, self.address.clone());
        Ok(all)
    }

    async fn check_revoked(&self, id: NodeId) -> Result<(), String> {
        let key = self.keys.revoked(id);
        let Some(entry) = self.registry.get(&key).await.map_err(|error| away(&error))? else {
            return Ok(());
        };
        let record = directory::from_bytes::<RevokedRecord>(&key, &entry.value);
        let why = record.map_or_else(|_| "revoked".into(), |record| record.reason);
        Err(format!(
            "this host was taken out of the cluster ({why}): its identity {id} is revoked. To \
             bring it back, join it with an empty --data-dir and a new token"
        ))
    }
}

/// Where the control hosts' doors are, as they say themselves.
///
/// # Errors
/// [`RegistryError`].
pub async fn control_hosts(
    registry: &dyn Registry,
    keys: &Keys,
) -> Result<Vec<String>, RegistryError> {
    let entries = registry.list(&keys.all_control()).await?;
    let records = entries
        .iter()
        .filter_map(|entry| directory::from_bytes::<ControlRecord>(&entry.key, &entry.value).ok());
    Ok(records.map(|record| record.address).collect())
}

fn said(error: TlsError) -> String {
    chain(&error)
}

/// The store is away: the newcomer may come again.
fn away(error: &dyn std::error::Error) -> String {
    format!("the cluster's store is away, without which nobody joins; try again: {error}")
}

/// This host's clock, in milliseconds since 1970.
fn now_ms() -> u64 {
    super::probe::now_us() / 1000
}

/// How long a peer may take to ask, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(10);
