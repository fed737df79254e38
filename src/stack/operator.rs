//! The operator's way to a cluster: a context on disk, and a connection to a control host.
//!
//! A context is a folder with an operator's certificate and the addresses of control hosts. `up`
//! writes one below its data directory, and the same where the command line looks for it by itself.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::Args;
use serde::{Deserialize, Serialize};
use troupe_runtime::{
    error::chain,
    transport::{Class, Connection, Link, LinkError, PeerAddr, TransportRuntime, tls::Identity},
    wire,
};

use super::{roles, upkeep, variable};
use crate::cli::Failure;

/// Where the cluster is.
#[derive(Args, Clone, Debug)]
pub(crate) struct OperatorArgs {
    /// The folder with an operator's certificate and the control hosts' addresses, such as
    /// `operator` in a control host's data directory [default: as `troupe up` left it].
    #[arg(long, value_name = "DIR")]
    context: Option<PathBuf>,
    /// The control host to ask, as quic://HOST:PORT, instead of those of the context.
    #[arg(long, value_name = "ADDR")]
    server: Option<PeerAddr>,
}

/// A connection to a control host.
#[derive(Debug)]
pub(crate) struct Operator {
    /// The control host that answered.
    pub(crate) server: PeerAddr,
    /// All that the context names, or the one that was asked for.
    pub(crate) servers: Vec<PeerAddr>,
    // In the order in which they go.
    pub(crate) connection: Arc<dyn Connection>,
    _link: Arc<dyn Link>,
    _threads: TransportRuntime,
}

/// What a context says beside its certificate.
#[derive(Serialize, Deserialize, Debug)]
struct Servers {
    cluster: String,
    servers: Vec<String>,
}

// === impl Operator ===

impl Operator {
    /// Connects to the first control host that answers.
    pub(crate) async fn connect(args: &OperatorArgs) -> Result<Self, Failure> {
        let dir = args.context.clone().map_or_else(default_context, Ok)?;
        let (identity, mut servers) = read(&dir)?;
        if let Some(server) = &args.server {
            servers = vec![server.clone()];
        }
        let mut tried = Vec::new();
        for server in servers.clone() {
            let listen = match server {
                PeerAddr::Quic(SocketAddr::V6(_)) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                PeerAddr::Quic(SocketAddr::V4(_)) | PeerAddr::Local(_) => {
                    (Ipv4Addr::UNSPECIFIED, 0).into()
                }
            };
            let (link, threads) = roles::quic(&identity, listen, &[])?;
            match link.connect(&server, Class::Control, DEADLINE).await {
                Ok(connection) => {
                    if SystemTime::now() >= identity.renew_at() {
                        renew(&identity, &dir, &*connection).await;
                    }
                    return Ok(Self {
                        server,
                        servers,
                        connection,
                        _link: link,
                        _threads: threads,
                    });
                }
                Err(error) => tried.push(format!("{server}: {}", explain(&error))),
            }
        }
        Err(Failure::told(format!(
            "error: no control host answers; tried\n  {}\nThe addresses are from {}",
            tried.join("\n  "),
            match args.server {
                Some(_) => "--server".to_owned(),
                None => dir.join(SERVERS).display().to_string(),
            }
        )))
    }
}

/// Has a context's certificate made anew, which nothing depends on yet.
async fn renew(identity: &Identity, dir: &Path, connection: &dyn Connection) {
    let renewed = async {
        let request = identity.signing_request().map_err(|error| chain(&error))?;
        let renewed = upkeep::ask(connection, request).await?;
        let identity = identity.renewed(renewed.certificate).map_err(|error| chain(&error))?;
        let servers = renewed.control.iter().filter_map(|server| server.parse().ok());
        write_to(&identity, dir, &servers.collect::<Vec<_>>()).map_err(|why| why.message())
    };
    if let Err(why) = renewed.await {
        tracing::warn!(why, "the operator's certificate is not renewed");
    }
}

/// Writes a context to a folder of a control host, and to where the command line looks by itself.
pub(crate) fn write(identity: &Identity, dir: &Path, servers: &[PeerAddr]) -> Result<(), Failure> {
    write_to(identity, dir, servers)?;
    write_default(identity, servers);
    Ok(())
}

/// Writes a context to where the command line looks by itself, if there is such a place: a process
/// without a home, or that may not write there, serves all the same.
pub(crate) fn write_default(identity: &Identity, servers: &[PeerAddr]) {
    let written = default_context().and_then(|dir| write_to(identity, &dir, servers));
    if let Err(failure) = written {
        tracing::debug!(why = failure.message(), "leave no context for the command line");
    }
}

fn write_to(identity: &Identity, dir: &Path, servers: &[PeerAddr]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::usage(format!("{}: {error}", dir.display()));
    fs::create_dir_all(dir).map_err(failed)?;
    identity.save(dir).map_err(|error| Failure::of(&error))?;
    let servers = Servers {
        cluster: identity.name().cluster.clone(),
        servers: servers.iter().map(ToString::to_string).collect(),
    };
    // Two lists of text can be written as JSON.
    let text = serde_json::to_string_pretty(&servers).unwrap_or_default();
    fs::write(dir.join(SERVERS), text).map_err(failed)
}

fn read(dir: &Path) -> Result<(Identity, Vec<PeerAddr>), Failure> {
    let file = dir.join(SERVERS);
    let text = fs::read_to_string(&file).map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::NotFound => "it is not there".to_owned(),
            _ => error.to_string(),
        };
        Failure::told(format!(
            "error: no cluster is known here: {}: {why}. `troupe up --etcd URLS`, `troupe join` \
             with an operator's token and `troupe serve` write it; or give --context DIR, which is \
             `operator` in a control host's data directory",
            file.display()
        ))
    })?;
    let broken = |why: String| Failure::told(format!("error: {}: {why}", file.display()));
    let servers: Servers =
        serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
    let servers = servers.servers.iter().map(|server| server.parse());
    let servers =
        servers.collect::<Result<Vec<PeerAddr>, _>>().map_err(|why| broken(why.to_string()))?;
    let identity = Identity::load(dir)
        .map_err(|error| Failure::told(format!("error: {}: {}", dir.display(), chain(&error))))?;
    Ok((identity, servers))
}

/// Why a control host cannot be reached, and what helps.
fn explain(error: &LinkError) -> String {
    let why = chain(error);
    if why.contains("application protocol") || why.contains("ALPN") {
        let version = wire::VERSION;
        return format!(
            "{why}: it speaks another version of the wire than this command, which speaks \
             {version}; use the command of the control host's version"
        );
    }
    why
}

/// Where the command line looks for a context.
fn default_context() -> Result<PathBuf, Failure> {
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let config =
        config.or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".config")));
    let config = config.ok_or_else(|| {
        Failure::told("error: no cluster is known here, where HOME is not set: give --context DIR")
    })?;
    Ok(config.join("troupe").join("context"))
}

/// The file with the control hosts' addresses.
const SERVERS: &str = "servers.json";
/// How long a control host may take to answer.
const DEADLINE: Duration = Duration::from_secs(5);
