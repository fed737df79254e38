//! `troupe chaos cut` and `heal`: a host that hears nothing of the others, or of etcd.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use clap::{Args, ValueEnum};
use troupe_actors::operate::Resource;
use troupe_runtime::{transport::PeerAddr, wire::operate::Selection};

use crate::{
    chaos::{
        cut::{self, Cut},
        target::Found,
    },
    cli::{Failure, print, say},
    client::operate::{columns::at, session::Session},
};

/// What a host is cut off from.
#[derive(Args, Debug)]
pub(super) struct Cutting {
    /// What its host is cut off from.
    #[arg(long, value_enum, value_name = "WHOM", default_value = "others")]
    from: Whom,
    /// With --from etcd: etcd's client URLs, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "URLS")]
    etcd: Vec<String>,
}

/// Whom a host does not hear any more, and who does not hear it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Whom {
    /// Every other host of the cluster.
    Others,
    /// The store.
    Etcd,
}

// === impl Cutting ===

impl Cutting {
    /// Whether something is said that only `cut` takes.
    pub(super) fn is_said(&self) -> bool {
        self.from != Whom::Others || !self.etcd.is_empty()
    }

    /// What is to be cut around a host.
    ///
    /// # Errors
    /// What is not said, or that there is nobody to be cut off from.
    pub(super) async fn around(&self, session: &Session) -> Result<Cut, Failure> {
        let cut = match self.from {
            Whom::Others => Cut::Hosts(hosts(session).await?),
            Whom::Etcd if self.etcd.is_empty() => {
                return Err(Failure::usage("--from etcd needs --etcd URLS: where etcd is"));
            }
            Whom::Etcd => Cut::Etcd(members(&self.etcd)?),
        };
        match cut.is_empty() {
            true => Err(Failure::told("error: there is nobody to be cut off from")),
            false => Ok(cut),
        }
    }

    /// What is asked before it is done.
    pub(super) fn question(&self, found: &Found) -> String {
        let (what, pid) = (&found.what, found.process.id);
        format!("cut the host of {what}, pid {pid}, off from {}", self.whom())
    }

    /// As a person says it.
    pub(super) fn whom(&self) -> &'static str {
        match self.from {
            Whom::Others => "the other hosts",
            Whom::Etcd => "etcd",
        }
    }

    /// Cuts, and heals when the time is over, if there is one.
    pub(super) async fn act(
        &self,
        found: &Found,
        cut: &Cut,
        period: Option<Duration>,
    ) -> Result<(), Failure> {
        let what = &found.what;
        let failed = |why| Failure::told(format!("error: {what}: {why}"));
        cut.make(&found.process).map_err(failed)?;
        print(&format!("the host of {what} is cut off from {}\n", self.whom()));
        if let Some(period) = period {
            // Whoever cannot wait heals it too.
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            return heal();
        }
        say("`troupe chaos heal` on this host undoes it");
        Ok(())
    }
}

/// Undoes every cut of this host. Nobody is asked anything: the cluster may be out of reach.
pub(super) fn heal() -> Result<(), Failure> {
    match cut::heal().map_err(|why| Failure::told(format!("error: {why}")))? {
        0 => Err(Failure::told("error: nothing is cut off on this host")),
        _ => {
            print("healed: nothing is cut off on this host any more\n");
            Ok(())
        }
    }
}

/// The addresses of all hosts that the cluster knows. A host's own is among them, and harmless:
/// what it says to itself goes another way.
async fn hosts(session: &Session) -> Result<BTreeSet<std::net::IpAddr>, Failure> {
    let all = async |resource: Resource| {
        let kind = resource.kind().into();
        session.objects(Selection { kind, ..Selection::default() }).await
    };
    let quic = |text: &str| match text.parse() {
        Ok(PeerAddr::Quic(address)) => Some(address.ip()),
        _ => None,
    };
    let mut hosts = BTreeSet::new();
    for node in all(Resource::Node).await? {
        hosts.extend(quic(&at(&node, "/status/address")));
    }
    for gateway in all(Resource::Gateway).await? {
        let url = at(&gateway, "/status/url");
        let address = url.strip_prefix("http://").and_then(|rest| rest.parse().ok());
        hosts.extend(address.map(|address: SocketAddr| address.ip()));
    }
    hosts.extend(session.servers().iter().filter_map(|server| quic(&server.to_string())));
    hosts.retain(|ip| !ip.is_loopback() && !ip.is_unspecified());
    Ok(hosts)
}

/// Where etcd's members are, by their URLs.
fn members(urls: &[String]) -> Result<BTreeSet<SocketAddr>, Failure> {
    let mut members = BTreeSet::new();
    for url in urls {
        let place = url.rsplit("://").next().unwrap_or(url).trim_end_matches('/');
        let found = place.to_socket_addrs();
        let wrong = |why| Failure::usage(format!("--etcd {url}: must be HOST:PORT: {why}"));
        members.extend(found.map_err(wrong)?);
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_by_url_and_without() {
        let urls = ["http://10.0.0.1:2379/", "10.0.0.2:2379"].map(str::to_owned);
        let found = members(&urls).expect("both are right");
        let right = ["10.0.0.1:2379", "10.0.0.2:2379"].map(|at| at.parse().expect("an address"));
        assert_eq!(found, right.into());
        assert!(members(&["10.0.0.1".to_owned()]).is_err(), "no port");
    }
}
