//! Where a process stands on the network: its address, and its one door.
//!
//! Nobody has to type an address: the one that other hosts reach this one at is, unless said
//! otherwise, the one from which it reaches them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    str::FromStr,
    sync::Arc,
};

use tokio::task::JoinSet;
use troupe_actors::host::{self, Desks};
use troupe_runtime::transport::{
    DOOR_PORT, Link, PeerAddr, QuicConfig, QuicError, QuicLink, TransportRuntime,
    tls::{Guests, Identity},
};

use crate::cli::Failure;

/// What `--listen` says: an address of this host or a name that stands for it, and perhaps a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    ip: IpAddr,
    port: Option<u16>,
}

/// Where a control host is said to be: `HOST` or `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Door {
    /// A name or an address.
    host: String,
    port: u16,
}

/// A process's end of the network, with the door at it. Dropping it closes both.
pub(crate) struct Place {
    // In the order in which they go.
    tasks: JoinSet<()>,
    link: Arc<QuicLink>,
    _threads: TransportRuntime,
}

// === impl Listen ===

impl Listen {
    /// Where to listen: as was said, and else at the address from which these others are reached.
    pub(crate) fn or_towards<T: AsRef<str>>(
        listen: Option<Self>,
        others: impl IntoIterator<Item = T>,
        port: u16,
    ) -> SocketAddr {
        let ip = match listen {
            Some(listen) => listen.ip,
            None => {
                let mut others = others.into_iter();
                let found = others.find_map(|other| towards(other.as_ref()));
                found.unwrap_or(Ipv4Addr::LOCALHOST.into())
            }
        };
        (ip, listen.and_then(|listen| listen.port).unwrap_or(port)).into()
    }
}

impl FromStr for Listen {
    type Err = String;

    /// A container knows its own name, not its address.
    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = split(text)?;
        let ip = match host.parse() {
            Ok(ip) => ip,
            Err(_) => addresses(host, 0)?.first().map(SocketAddr::ip).ok_or("it has no address")?,
        };
        if ip.is_unspecified() {
            return Err(format!(
                "others are to reach this host there, and {ip} is no host's address; leave the \
                 flag out to take the address from which this host reaches the cluster"
            ));
        }
        Ok(Self { ip, port })
    }
}

/// Whether all of these can be reached on their own host only.
pub(crate) fn are_loopback(doors: &[String]) -> bool {
    let loopback = |door: &String| {
        let addresses = door.parse::<Door>().ok().and_then(|door| door.addresses().ok());
        addresses.is_some_and(|all| all.iter().all(|address| address.ip().is_loopback()))
    };
    !doors.is_empty() && doors.iter().all(loopback)
}

/// The address of this host from which packets to another one go; nothing is sent to find it.
fn towards(other: &str) -> Option<IpAddr> {
    let address = *other.parse::<Door>().ok()?.addresses().ok()?.first()?;
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(address).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

// === impl Door ===

impl Door {
    /// All addresses that its name stands for now.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        addresses(&self.host, self.port)
    }
}

impl FromStr for Door {
    type Err = String;

    /// Takes URLs too: `quic://HOST:PORT`, as control hosts call themselves, and etcd's.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.split_once("://").map_or(text, |(_, rest)| rest).trim_end_matches('/');
        let (host, port) = split(text)?;
        if host.is_empty() {
            return Err("it names no host; HOST or HOST:PORT is right".into());
        }
        Ok(Self { host: host.to_owned(), port: port.unwrap_or(DOOR_PORT) })
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = &self.host;
        match host.contains(':') {
            true => write!(f, "[{host}]:{}", self.port),
            false => write!(f, "{host}:{}", self.port),
        }
    }
}

fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found = (host, port).to_socket_addrs();
    found.map(Iterator::collect).map_err(|error| format!("`{host}` stands for no address: {error}"))
}

/// `HOST`, `HOST:PORT`, `[V6]:PORT`; an IPv6 address alone needs no brackets.
fn split(text: &str) -> Result<(&str, Option<u16>), String> {
    let port = |text: &str| {
        text.parse().map(Some).map_err(|_| format!("`{text}` is no port, 0 to 65535 are"))
    };
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text, None));
    }
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        return match rest.strip_prefix(':') {
            Some(number) => Ok((host, port(number)?)),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(format!("`{rest}` behind the address is no `:PORT`")),
        };
    }
    match text.rsplit_once(':') {
        Some((host, number)) => Ok((host, port(number)?)),
        None => Ok((text, None)),
    }
}

// === impl Place ===

impl Place {
    /// Takes its address; nobody is let in before the door is opened.
    pub(crate) fn take(
        identity: &Identity,
        listen: SocketAddr,
        guests: Guests,
    ) -> Result<Self, Failure> {
        let threads = TransportRuntime::new(1)
            .map_err(|error| Failure::run(format!("cannot start threads: {error}")))?;
        let config = QuicConfig { listen, guests, ..QuicConfig::default() };
        let link = QuicLink::bind(identity, &config, &threads).map_err(|error| taken(&error))?;
        Ok(Self { tasks: JoinSet::new(), link, _threads: threads })
    }

    /// Opens the door: each conversation goes to its desk.
    pub(crate) fn open(&mut self, desks: Desks) {
        self.tasks.spawn(host::door::keep(self.link.clone(), desks));
    }

    /// Its end of the network.
    pub(crate) fn link(&self) -> Arc<dyn Link> {
        self.link.clone()
    }

    /// The same, to change what it shows and whom it turns away.
    pub(crate) fn quic(&self) -> Arc<QuicLink> {
        self.link.clone()
    }

    /// Where others reach it.
    pub(crate) fn address(&self) -> PeerAddr {
        self.link.address()
    }
}

fn taken(error: &QuicError) -> Failure {
    let why = troupe_runtime::error::chain(error);
    match error {
        QuicError::Bind { source, .. } => match source.kind() {
            std::io::ErrorKind::AddrInUse => Failure::usage(format!(
                "{why}: another process of this host has that UDP port. Each process needs its \
                 own: --listen ADDR:PORT, where port 0 takes any free one"
            )),
            std::io::ErrorKind::AddrNotAvailable => {
                Failure::usage(format!("{why}: --listen has to be an address of this host"))
            }
            _ => Failure::usage(why),
        },
        _ => Failure::usage(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart() {
        for (text, host, port) in [
            ("10.0.0.1", "10.0.0.1", None),
            ("10.0.0.1:0", "10.0.0.1", Some(0)),
            ("control-1:7000", "control-1", Some(7000)),
            ("::1", "::1", None),
            ("[::1]:7000", "::1", Some(7000)),
            ("[::1]", "::1", None),
        ] {
            assert_eq!(split(text), Ok((host, port)), "{text}");
        }
        for bad in ["a:b", "a:70000", "[::1]7000"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_door_is_at_the_known_port_unless_said_otherwise() {
        let door = |text: &str| text.parse::<Door>().map(|door| door.to_string());
        assert_eq!(door("host-1"), Ok("host-1:7443".into()));
        assert_eq!(door("quic://10.0.0.1:7000"), Ok("10.0.0.1:7000".into()));
        assert_eq!(door("http://10.0.0.1:2379/"), Ok("10.0.0.1:2379".into()));
        assert_eq!(door("[::1]"), Ok("[::1]:7443".into()));
        assert!(door("").is_err());
    }

    #[test]
    fn without_a_word_it_is_the_address_from_which_others_are_reached() {
        let here = Listen::or_towards(None, ["http://127.0.0.1:2379"], 1);
        assert_eq!(here.to_string(), "127.0.0.1:1");
        let given = "127.0.0.2".parse().expect("an address");
        let said = Listen::or_towards(Some(given), ["10.0.0.1"], 2);
        assert_eq!(said.to_string(), "127.0.0.2:2");
        assert!("0.0.0.0".parse::<Listen>().is_err());
    }

    #[test]
    fn what_only_its_own_host_reaches_is_told_from_the_rest() {
        let all = |doors: &[&str]| doors.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(are_loopback(&all(&["http://127.0.0.1:2379", "quic://[::1]:7443"])));
        assert!(!are_loopback(&all(&["http://127.0.0.1:2379", "http://10.0.0.1:2379"])));
        assert!(!are_loopback(&[]));
    }
}
