//! `troupe join`: makes this host a part of a cluster, for good, and starts it.

use clap::Args;
use troupe_runtime::{
    transport::{DOOR_PORT, tls::JoinToken},
    wire::join::JoinPart,
};

use super::{
    Failure,
    args::{HostArgs, HttpArgs},
    control::{ControlHost, Role},
    node::{Certifier, NodeProcess},
    say,
};
use crate::stack::{
    identity::DataDir,
    join::{self, Cluster, Joined, News, Request},
    listen::{Door, Listen, are_loopback},
    operator,
};

/// Make this host a part of a cluster, and start it.
///
/// ADDR and --token are what `troupe token create` (or the first `troupe up`) printed. A token lets
/// a host in once; after that its data directory says who it is, and `troupe join` alone starts it
/// again. What the token is of decides what the host becomes: a node, or a control host with
/// controller, gateway and node.
#[derive(Args, Debug)]
pub(crate) struct Join {
    /// Where a control host is: HOST or HOST:PORT [default port: 7443].
    #[arg(value_name = "ADDR")]
    at: Option<Door>,
    /// What lets this host in; not needed by one that has joined.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Address that other hosts reach this one at, and the UDP port of its door [default: the
    /// address from which it reaches the control host, 7443].
    #[arg(long, value_name = "ADDR[:PORT]")]
    listen: Option<Listen>,
    /// Where this host keeps its identity and what it must not forget [default: for root
    /// /var/lib/troupe, else ~/.local/state/troupe].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<std::path::PathBuf>,
    /// etcd's client URLs, if they are others than the cluster says.
    #[arg(long, value_delimiter = ',', value_name = "URLS")]
    etcd: Vec<String>,
    #[command(flatten)]
    host: HostArgs,
    #[command(flatten)]
    http: HttpArgs,
}

impl Join {
    /// Runs until the process is asked to end; its members log as `logging` says.
    pub(crate) async fn run(self: Box<Self>, logging: Vec<String>) -> Result<(), Failure> {
        let token = token(self.token.as_deref())?;
        let dir = DataDir::take_or_default(self.data_dir.as_deref())?;
        let request = Request {
            part: JoinPart::Host,
            at: self.at.as_ref(),
            token: token.as_ref(),
            name: self.host.name(),
        };
        let joined = join::join(&dir, &request).await?;
        report(&joined, &request, &dir)?;
        let Joined { identity, dir: identity_dir, cluster, authority, .. } = joined;
        let etcd = store(&self.etcd, &cluster, &dir)?;
        let listen = Listen::or_towards(self.listen, others(&request, &cluster, &etcd), DOOR_PORT);
        if let Some(authority) = authority {
            let host = ControlHost {
                dir: &dir,
                authority,
                etcd: &etcd,
                listen,
                roles: &[Role::Controller, Role::Gateway, Role::Node],
                http: &self.http,
                host: &self.host,
                services: Vec::new(),
                invites: false,
            };
            return host.run(logging).await;
        }
        let process = NodeProcess {
            dir: &dir,
            identity,
            identity_dir,
            etcd: &etcd,
            listen,
            host: &self.host,
            certifier: Certifier::Control(cluster.control),
        };
        process.run(logging).await
    }
}

/// Reads a token. Not by the parser of the command line, whose errors repeat what is wrong: what is
/// nearly a token may be a secret.
pub(super) fn token(text: Option<&str>) -> Result<Option<JoinToken>, Failure> {
    text.map(str::parse).transpose().map_err(|why: String| Failure::usage(why))
}

/// Says what became of it, and keeps an operator's context if the token brought one.
pub(super) fn report(joined: &Joined, request: &Request<'_>, dir: &DataDir) -> Result<(), Failure> {
    let name = joined.identity.name();
    let Some(News { operator, controller }) = &joined.new else {
        if request.token.is_some() {
            say(&format!(
                "this host is {name} already, as {} says: the token is not used",
                dir.path().display()
            ));
        }
        return Ok(());
    };
    say(&format!("joined the cluster {} as {name}", name.cluster));
    if let Some(operator) = operator {
        let servers = joined.cluster.control.iter().filter_map(|server| server.parse().ok());
        let folder = dir.path().join("operator");
        operator::write(operator, &folder, &servers.collect::<Vec<_>>())?;
        say(&format!("operators: troupe get nodes --context {}", folder.display()));
    }
    if !controller {
        say("no controller is in office: this host gets work as soon as one is");
    }
    Ok(())
}

/// Where the store is: as a person says, and else as the cluster did.
pub(super) fn store(
    said: &[String],
    cluster: &Cluster,
    dir: &DataDir,
) -> Result<Vec<String>, Failure> {
    let etcd = if said.is_empty() { &cluster.etcd } else { said };
    if etcd.is_empty() {
        return Err(Failure::usage(format!(
            "{} was made with the CA at hand and does not know where the cluster's store is: give \
             --etcd URLS",
            dir.path().display()
        )));
    }
    if said.is_empty() && are_loopback(etcd) && !are_loopback(&cluster.control) {
        return Err(Failure::usage(format!(
            "the cluster's store is at {}, as its control hosts say, which only they reach: start \
             them with an --etcd that every host reaches, or give this one --etcd URLS",
            etcd.join(",")
        )));
    }
    Ok(etcd.to_vec())
}

/// Others of the cluster, by which a host finds its own address: the control host that was named
/// first.
pub(super) fn others(request: &Request<'_>, cluster: &Cluster, etcd: &[String]) -> Vec<String> {
    let named = request.at.map(ToString::to_string);
    named.into_iter().chain(cluster.control.iter().cloned()).chain(etcd.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_only_its_own_host_reaches_is_not_taken_elsewhere() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::take(folder.path()).expect("a data directory");
        let cluster = |etcd: &[&str], control: &str| Cluster {
            cluster: "troupe".into(),
            etcd: etcd.iter().map(ToString::to_string).collect(),
            control: vec![control.into()],
            lifetime: 60,
        };
        let near = cluster(&["http://127.0.0.1:2379"], "quic://10.0.0.1:7443");
        let error = store(&[], &near, &dir).expect_err("it is another host's");
        assert!(error.message().contains("which only they reach"), "{}", error.message());
        let said = ["http://10.0.0.1:2379".to_owned()];
        assert_eq!(store(&said, &near, &dir).ok().as_deref(), Some(&said[..]));
        let alone = cluster(&["http://127.0.0.1:2379"], "quic://127.0.0.1:7443");
        assert_eq!(store(&[], &alone, &dir).ok(), Some(alone.etcd.clone()));
        let unknown = store(&[], &cluster(&[], "quic://10.0.0.1:7443"), &dir);
        assert!(unknown.expect_err("nobody said").message().contains("--etcd URLS"));
    }

    #[test]
    fn what_is_nearly_a_token_is_not_repeated() {
        let error = token(Some("troupe1.mistyped.secret")).expect_err("it is none").message();
        assert!(error.contains("join token") && !error.contains("mistyped"), "{error}");
        assert!(token(None).is_ok_and(|token| token.is_none()));
    }
}
