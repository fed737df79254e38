//! How a host comes to its identity, once: by a token it knocks at a control host's door; ever
//! after, its data directory says who it is.
//!
//! The key is made here and never leaves. It is kept before the question is asked, so that a host
//! whose answer was lost asks again as the same. What it learns (`cluster.json`) is all that it
//! needs to start without any control host: the store's address, and where control hosts are.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use troupe_runtime::{
    clock::approximately,
    error::chain,
    transport::{
        Conversation, LinkError, PeerRole, TransportRuntime, knock,
        tls::{ClusterAuthority, Identity, JoinToken, LEAF_LIFETIME, SigningKey, files},
    },
    wire::{
        self,
        join::{JoinDown, JoinPart, JoinUp, Welcome},
    },
};

use super::{identity::DataDir, listen::Door};
use crate::cli::Failure;

/// What a process knows of its cluster without asking anybody.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cluster {
    /// Its name.
    pub(crate) cluster: String,
    /// etcd's client URLs.
    pub(crate) etcd: Vec<String>,
    /// Where control hosts' doors are.
    pub(crate) control: Vec<String>,
    /// For how long identities are believed, in seconds.
    #[serde(default = "usual_lifetime")]
    pub(crate) lifetime: u64,
}

/// What a person says to join.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// As what.
    pub(crate) part: JoinPart,
    /// A control host.
    pub(crate) at: Option<&'a Door>,
    /// What it lets in.
    pub(crate) token: Option<&'a JoinToken>,
    /// What this host calls itself.
    pub(crate) name: String,
}

/// Who a process is in its cluster.
#[derive(Debug)]
pub(crate) struct Joined {
    /// Its identity.
    pub(crate) identity: Identity,
    /// Where that is kept.
    pub(crate) dir: PathBuf,
    /// What it knows.
    pub(crate) cluster: Cluster,
    /// The CA with its key, if it is a control host.
    pub(crate) authority: Option<Arc<ClusterAuthority>>,
    /// What it was told when it joined just now; none if it has joined before.
    pub(crate) new: Option<News>,
}

/// What is only known to who has just joined.
#[derive(Debug)]
pub(crate) struct News {
    /// An identity for whoever sits at this host.
    pub(crate) operator: Option<Identity>,
    /// Whether a controller is in office.
    pub(crate) controller: bool,
}

fn usual_lifetime() -> u64 {
    LEAF_LIFETIME.as_secs()
}

// === impl Cluster ===

impl Cluster {
    /// What a data directory knows; none if it has joined nothing.
    pub(crate) fn load(dir: &DataDir) -> Result<Option<Self>, Failure> {
        let path = dir.path().join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = files::read(&path).map_err(|error| Failure::of(&error))?;
        let read = serde_json::from_str(&text);
        read.map(Some).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
    }

    /// Keeps it.
    pub(crate) fn save(&self, dir: &Path) -> Result<(), Failure> {
        // Names and numbers can be written as JSON.
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        files::write(&dir.join(FILE), &text, files::Access::Everyone)
            .map_err(|error| Failure::of(&error))
    }
}

/// Who this process is: as its data directory says, or else as a control host makes it by a token.
pub(crate) async fn join(dir: &DataDir, request: &Request<'_>) -> Result<Joined, Failure> {
    let known = known(dir, request.part)?;
    let former = match known {
        Some(known) => match still_good(&known, dir, request.token)? {
            true => return rejoin(dir, known),
            false => Some(known.identity),
        },
        None => None,
    };
    let (Some(token), Some(at)) = (request.token, request.at) else {
        return Err(Failure::usage(match former {
            Some(former) => format!(
                "{}; join with a new token, `troupe join ADDR --token T`: this host stays who it \
                 is",
                expired(&former)
            ),
            None => format!(
                "{} has joined no cluster yet: give a control host's address and a token, `troupe \
                 join ADDR --token T`, as `troupe token create` prints it",
                dir.path().display()
            ),
        }));
    };
    let key = match &former {
        Some(former) => SigningKey::from_pem(former.to_pem().1),
        None => kept_key(dir),
    };
    let key = key.map_err(|error| Failure::of(&error))?;
    let operator = SigningKey::generate().map_err(|error| Failure::of(&error))?;
    let up = up(request, token, &key, &operator, former.as_ref())?;
    let welcome = ask(at, token, &up).await?;
    settle(dir, &key, &operator, welcome)
}

/// What a data directory has of an earlier time.
struct Known {
    identity: Identity,
    dir: PathBuf,
    control: bool,
}

fn known(dir: &DataDir, part: JoinPart) -> Result<Option<Known>, Failure> {
    let roles: &[PeerRole] = match part {
        JoinPart::Host => &[PeerRole::Control, PeerRole::Node],
        JoinPart::Gateway => &[PeerRole::Gateway],
    };
    for role in roles {
        let dir = dir.path().join(role.to_string());
        if dir.join("identity.pem").exists() {
            let identity = Identity::load(&dir).map_err(|error| Failure::of(&error))?;
            return Ok(Some(Known { identity, dir, control: *role == PeerRole::Control }));
        }
    }
    Ok(None)
}

/// Whether what a directory has can be used on; false if it has only expired.
fn still_good(known: &Known, dir: &DataDir, token: Option<&JoinToken>) -> Result<bool, Failure> {
    let identity = &known.identity;
    if token.is_some_and(|token| token.pin != identity.ca_pin()) {
        return Err(Failure::usage(format!(
            "{} belongs to the cluster {}, and the token is of another one. Give this host a new \
             --data-dir to join that one",
            dir.path().display(),
            identity.name().cluster
        )));
    }
    let now = SystemTime::now();
    // A control host makes itself a new one.
    if known.control || identity.check_time(now).is_ok() {
        return Ok(true);
    }
    if now >= identity.expires() {
        return Ok(false);
    }
    identity.check_time(now).map(|()| true).map_err(|error| Failure::of(&error))
}

fn expired(identity: &Identity) -> String {
    let since = SystemTime::now().duration_since(identity.expires()).unwrap_or_default();
    format!(
        "the certificate of this host, {}, expired {} ago",
        identity.name(),
        approximately(since)
    )
}

fn rejoin(dir: &DataDir, known: Known) -> Result<Joined, Failure> {
    let name = &known.identity.name().cluster;
    let cluster = Cluster::load(dir)?.unwrap_or_else(|| Cluster {
        // Made by `up`, `node` or `gateway`, which are told these each time.
        cluster: name.clone(),
        etcd: Vec::new(),
        control: Vec::new(),
        lifetime: usual_lifetime(),
    });
    if cluster.cluster != *name {
        return Err(Failure::usage(format!(
            "{} holds an identity of the cluster {name} and the addresses of {}: files of two \
             data directories are mixed",
            dir.path().display(),
            cluster.cluster
        )));
    }
    if !known.control {
        let Known { identity, dir, .. } = known;
        return Ok(Joined { identity, dir, cluster, authority: None, new: None });
    }
    let authority = dir.authority(name)?.lasting(Duration::from_secs(cluster.lifetime));
    let (identity, dir) = dir.identity(PeerRole::Control, &authority)?;
    Ok(Joined { identity, dir, cluster, authority: Some(Arc::new(authority)), new: None })
}

/// The key that a question went out with whose answer was lost, or a new one.
fn kept_key(dir: &DataDir) -> Result<SigningKey, troupe_runtime::transport::tls::TlsError> {
    let path = dir.path().join(KEY);
    if path.exists() {
        return SigningKey::from_pem(&files::read(&path)?);
    }
    let key = SigningKey::generate()?;
    files::write(&path, &key.to_pem(), files::Access::Owner)?;
    Ok(key)
}

fn up(
    request: &Request<'_>,
    token: &JoinToken,
    key: &SigningKey,
    operator: &SigningKey,
    former: Option<&Identity>,
) -> Result<JoinUp, Failure> {
    let signed = |key: &SigningKey| key.request().map_err(|error| Failure::of(&error));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(JoinUp {
        token: token.id.clone(),
        secret: token.secret.clone(),
        part: request.part,
        request: signed(key)?,
        operator: Some(signed(operator)?),
        former: former.map(|former| former.certificate().to_vec()),
        name: request.name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        wire: wire::VERSION,
        now_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
    })
}

/// Asks at each address that the door's name stands for until one answers.
async fn ask(at: &Door, token: &JoinToken, up: &JoinUp) -> Result<Welcome, Failure> {
    let addresses = at.addresses().map_err(Failure::usage)?;
    let threads = TransportRuntime::new(1)
        .map_err(|error| Failure::run(format!("cannot start threads: {error}")))?;
    let mut tried = Vec::new();
    for address in addresses {
        match converse(address, token, up, &threads).await {
            Ok(JoinDown::Welcome(welcome)) => return Ok(*welcome),
            Ok(JoinDown::Refused(why)) => {
                return Err(Failure::run(format!("the control host {at} refuses: {why}")));
            }
            Err(error) => tried.push(explain(address, &error)),
        }
    }
    Err(Failure::run(tried.join("\n")))
}

async fn converse(
    address: SocketAddr,
    token: &JoinToken,
    up: &JoinUp,
    threads: &TransportRuntime,
) -> Result<JoinDown, LinkError> {
    let connection = knock(address, token.pin, DEADLINE, threads).await?;
    let mut stream = connection.open(Conversation::Join, DEADLINE).await?;
    stream.sender.send(up, DEADLINE).await?;
    stream.sender.finish()?;
    stream.receiver.expect(ANSWER).await
}

/// Why a control host cannot be asked, and what helps.
fn explain(address: SocketAddr, error: &LinkError) -> String {
    let why = chain(error);
    let helps = if why.contains("of another cluster") {
        "a control host of another cluster than the token is for: take the address that `troupe \
         token create` printed with it"
    } else if why.contains("no protocol version is common") {
        "a troupe there, but none that lets newcomers in as this one does: it is no control host, \
         or its version is too far from this one"
    } else {
        "no control host answers there: is it running, is that its --listen address, and does UDP \
         get through to that port?"
    };
    format!("{address}: {helps} ({why})")
}

/// Keeps what was given.
fn settle(
    dir: &DataDir,
    key: &SigningKey,
    operator: &SigningKey,
    welcome: Welcome,
) -> Result<Joined, Failure> {
    let of = |error| Failure::of(&error);
    let identity = key.identity(welcome.certificate, welcome.ca.clone()).map_err(of)?;
    let role = identity.name().role;
    let cluster = Cluster {
        cluster: welcome.cluster,
        etcd: welcome.etcd,
        control: welcome.control,
        lifetime: welcome.lifetime,
    };
    cluster.save(dir.path())?;
    let authority = match welcome.ca_key {
        Some(ca_key) => {
            let authority = ClusterAuthority::from_pem(welcome.ca.clone(), ca_key).map_err(of)?;
            authority.save(&dir.authority_dir()).map_err(of)?;
            let lifetime = Duration::from_secs(cluster.lifetime);
            Some(Arc::new(authority.lasting(lifetime)))
        }
        None => None,
    };
    let folder = dir.path().join(role.to_string());
    identity.save(&folder).map_err(of)?;
    // It has done what it was kept for, or was not there.
    let _ = fs::remove_file(dir.path().join(KEY));
    let operator = welcome.operator.map(|pem| operator.identity(pem, welcome.ca));
    let operator = operator.transpose().map_err(of)?;
    let new = Some(News { operator, controller: welcome.controller });
    Ok(Joined { identity, dir: folder, cluster, authority, new })
}

/// What a process knows of its cluster.
const FILE: &str = "cluster.json";
/// The key of a host that is joining.
const KEY: &str = "joining-key.pem";
/// How long a control host may take to be reached.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long it may take to answer: it asks the store some times.
const ANSWER: Duration = Duration::from_secs(30);
