//! Processes of this host, found by where they listen, and signals to them.
//!
//! Linux says of every process which sockets it has open, and of every network namespace where its
//! sockets are bound. So a process is found from an address alone, in whichever namespace it is.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use tokio::time::Instant;

/// How a process is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// By HTTP.
    Tcp,
    /// By QUIC.
    Udp,
}

/// What is done to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// It ends as by a power cut.
    Kill,
    /// It stands still and does not know.
    Stop,
    /// It goes on.
    Continue,
}

/// A process of this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its number.
    pub(crate) id: u32,
    /// When it was started, in the kernel's ticks: numbers are used again, this is not.
    started: u64,
}

// === impl Process ===

impl Process {
    /// The one that listens at an address.
    ///
    /// # Errors
    /// Why none is found, or that several are.
    pub(crate) fn listening(at: SocketAddr, reached: Reached) -> Result<Self, String> {
        let ours = is_ours(at.ip());
        let mut found: Vec<Self> = Vec::new();
        for id in all().map_err(|error| format!("/proc: {error}"))? {
            if name(id).as_deref() != Some(PROGRAM) {
                continue;
            }
            // One that ends meanwhile is none.
            let Ok(sockets) = sockets(id, reached) else { continue };
            let is_there = |socket: &&Socket| socket.is(at, ours);
            let bound: Vec<u64> = sockets.iter().filter(is_there).map(|s| s.inode).collect();
            if !bound.is_empty() && has_open(id, &bound) {
                found.extend(Self::of(id));
            }
        }
        match found.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(format!(
                "no process of {PROGRAM} on this host that may be looked at listens at {at}"
            )),
            several => {
                let ids: Vec<String> = several.iter().map(|one| one.id.to_string()).collect();
                Err(format!("several processes listen at {at}: {}", ids.join(", ")))
            }
        }
    }

    fn of(id: u32) -> Option<Self> {
        Some(Self { id, started: stat(id)?.started })
    }

    /// Whether it has not ended; one that its parent has not looked at yet has.
    pub(crate) fn is_there(&self) -> bool {
        let ended = |state| ['Z', 'X'].contains(&state);
        stat(self.id).is_some_and(|stat| stat.started == self.started && !ended(stat.state))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// Why it cannot be sent.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), String> {
        if !self.is_there() {
            return Err(format!("process {} has ended", self.id));
        }
        // The shell's own, so that no other program is needed.
        let sent = Command::new("sh")
            .args(["-c", r#"kill -s "$0" "$1""#, signal.name(), &self.id.to_string()])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("sh: {error}"))?;
        if sent.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&sent.stderr).trim().to_owned();
        Err(format!("process {}: {why}", self.id))
    }

    /// Waits until it has ended; whether it did in time.
    pub(crate) async fn ended(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.is_there() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        true
    }
}

// === impl Signal ===

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }
}

/// A socket that waits for whoever comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    bound: SocketAddr,
    inode: u64,
}

impl Socket {
    /// Whether it is what is meant by an address, which is this host's own or not. One that is
    /// bound to every address of its host is meant only by those that this host has.
    fn is(&self, at: SocketAddr, ours: bool) -> bool {
        let bound = self.bound.ip().to_canonical();
        let every = bound.is_unspecified() && ours;
        self.bound.port() == at.port() && (every || bound == at.ip().to_canonical())
    }

    /// A line of the kernel's table.
    fn read(line: &str, reached: Reached) -> Option<Self> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = fields.get(1)?.split_once(':')?;
        if reached == Reached::Tcp && fields.get(3) != Some(&LISTENS) {
            return None;
        }
        let port = u16::from_str_radix(port, 16).ok()?;
        Some(Self { bound: (ip(address)?, port).into(), inode: fields.get(9)?.parse().ok()? })
    }
}

/// The kernel writes addresses as words of its machine.
fn ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// The networks that processes of the program are in, and this one's: each once, as a file.
pub(super) fn namespaces() -> Vec<String> {
    let ours =
        all().unwrap_or_default().into_iter().filter(|id| name(*id).as_deref() == Some(PROGRAM));
    let mut seen = BTreeSet::new();
    let files = ["/proc/self/ns/net".to_owned()];
    let files = files.into_iter().chain(ours.map(|id| format!("/proc/{id}/ns/net")));
    // Of one that may not be looked at nothing can be undone either.
    files.filter(|file| fs::read_link(file).is_ok_and(|network| seen.insert(network))).collect()
}

/// Where sockets of a process's network namespace are bound.
fn sockets(id: u32, reached: Reached) -> io::Result<Vec<Socket>> {
    let name = match reached {
        Reached::Tcp => "tcp",
        Reached::Udp => "udp",
    };
    let table = |name: &str| fs::read_to_string(format!("/proc/{id}/net/{name}"));
    let mut text = table(name)?;
    // A kernel without IPv6 has no such table.
    text.push_str(&table(&format!("{name}6")).unwrap_or_default());
    Ok(text.lines().filter_map(|line| Socket::read(line, reached)).collect())
}

/// Whether a process has one of these sockets open.
fn has_open(id: u32, inodes: &[u64]) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{id}/fd")) else { return false };
    open.flatten().any(|file| {
        let socket = fs::read_link(file.path()).ok();
        let inode = socket
            .as_deref()
            .and_then(Path::to_str)
            .and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        inode.is_some_and(|inode: u64| inodes.contains(&inode))
    })
}

/// Whether an address is this host's: it can be bound.
fn is_ours(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

fn all() -> io::Result<Vec<u32>> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

fn name(id: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

struct Stat {
    state: char,
    started: u64,
}

fn stat(id: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // Behind the name, which may hold anything: the state first, and when it was started as the
    // twentieth.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some(Stat { state, started: fields.nth(18)?.parse().ok()? })
}

/// What every process of a cluster is called.
const PROGRAM: &str = "troupe";
/// The state of a TCP socket that listens.
const LISTENS: &str = "0A";
const LOOK_AGAIN: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let word = |text: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(text));
        assert_eq!(ip(&word([127, 0, 0, 1])), Some(Ipv4Addr::LOCALHOST.into()));
        let last = [word([0; 4]), word([0; 4]), word([0; 4]), word([0, 0, 0, 1])].concat();
        assert_eq!(ip(&last), Some(Ipv6Addr::LOCALHOST.into()));
        for wrong in ["", "0100007", "0100007F0", "ZZZZZZZZ"] {
            assert_eq!(ip(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sockets_of_this_process_are_found_by_where_they_are_bound() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let udp = UdpSocket::bind("0.0.0.0:0").expect("a port");
        let id = std::process::id();
        for (reached, bound) in [(Reached::Tcp, tcp.local_addr()), (Reached::Udp, udp.local_addr())]
        {
            let bound = bound.expect("it is bound");
            let at = (Ipv4Addr::LOCALHOST, bound.port()).into();
            let all = sockets(id, reached).expect("tables");
            let found: Vec<u64> =
                all.iter().filter(|socket| socket.is(at, true)).map(|s| s.inode).collect();
            assert!(has_open(id, &found), "{all:?}");
            assert!(!has_open(1, &[]), "nobody has nothing open");
        }
    }

    #[test]
    fn every_address_of_a_host_is_not_every_address_there_is() {
        let bound = Socket { bound: "0.0.0.0:7443".parse().expect("an address"), inode: 1 };
        let elsewhere = "10.9.8.7:7443".parse().expect("an address");
        assert!(bound.is(elsewhere, true));
        assert!(!bound.is(elsewhere, false), "it is another host's");
        let one = Socket { bound: elsewhere, inode: 1 };
        assert!(one.is(elsewhere, false), "whichever namespace it is in");
    }

    #[test]
    fn a_process_is_told_from_a_later_one_of_its_number() {
        let me = Process::of(std::process::id()).expect("it runs");
        assert!(me.is_there());
        assert!(!Process { started: me.started + 1, ..me }.is_there());
    }
}
