//! Bad weather between two hosts: packets are lost, late, out of order and doubled.
//!
//! ```text
//!  host  --VXLAN-->  relay (a thread of this process)  --VXLAN-->  other host
//! ```
//! The kernels that tests run on need not have netem. So the two hosts get one more cable, a VXLAN
//! tunnel whose other end both take to be this process; a route sends what is for the other host,
//! and nothing else, into it. The relay reads datagrams, rolls dice for each, and passes it on, at
//! its time. When it is dropped the cable goes, and packets take their usual way again.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::time::Instant;

use crate::{dice::Dice, network::Host};

/// What happens to packets, each way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// So many in a thousand are lost.
    pub(crate) lost: u64,
    /// So many in a thousand come twice.
    pub(crate) doubled: u64,
    /// How late each is, from the least to the most: those between overtake each other.
    pub(crate) late: (Duration, Duration),
}

/// The cable, and who shakes it.
pub(crate) struct Relay {
    hosts: [Host; 2],
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A packet that waits for its time: when, its number, for which of the hosts.
type Waiting = (Instant, u64, usize, Vec<u8>);

impl Relay {
    /// Lays the cable. `here` is this process's address on the hosts' network.
    pub(crate) fn lay(
        here: IpAddr,
        hosts: [&Host; 2],
        weather: Weather,
        dice: Dice,
    ) -> Result<Self, String> {
        let socket = UdpSocket::bind((here, PORT)).map_err(|error| format!("port: {error}"))?;
        socket.set_read_timeout(Some(TURN)).map_err(|error| error.to_string())?;
        let end = Arc::new(AtomicBool::new(false));
        let to = hosts.map(|host| SocketAddr::new(host.address(), PORT));
        let until = Arc::clone(&end);
        let relay = move || run(&socket, to, weather, dice, &until);
        let thread = std::thread::Builder::new().name("relay".into()).spawn(relay);
        let thread = Some(thread.map_err(|error| error.to_string())?);
        let relay = Self { hosts: hosts.map(Clone::clone), end, thread };
        for (host, other) in [(hosts[0], hosts[1]), (hosts[1], hosts[0])] {
            plug(host, here, other.address())?;
        }
        Ok(relay)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for host in &self.hosts {
            // One that was not laid yet is not there.
            let _ = host.run(&["ip", "link", "delete", "dev", CABLE]);
        }
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn plug(host: &Host, here: IpAddr, other: IpAddr) -> Result<(), String> {
    let (here, port, other) = (here.to_string(), PORT.to_string(), format!("{other}/32"));
    let tunnel = ["type", "vxlan", "id", "1", "remote", &here, "dstport", &port];
    host.run(&[&["ip", "link", "add", "name", CABLE][..], &tunnel].concat())?;
    // Else checksums are left to a device that there is none of at the other end.
    host.run(&["ethtool", "-K", CABLE, "tx", "off"])?;
    host.run(&["ip", "link", "set", "dev", CABLE, "mtu", "1500", "up"])?;
    host.run(&["ip", "route", "add", &other, "dev", CABLE])
}

fn run(
    socket: &UdpSocket,
    hosts: [SocketAddr; 2],
    weather: Weather,
    mut dice: Dice,
    end: &AtomicBool,
) {
    let mut waiting: BinaryHeap<Reverse<Waiting>> = BinaryHeap::new();
    let mut packet = vec![0; 1 << 16];
    let mut number = 0;
    while !end.load(Ordering::Relaxed) {
        if let Ok((len, from)) = socket.recv_from(&mut packet)
            && let Some(from) = hosts.iter().position(|host| host.ip() == from.ip())
        {
            let copies = match (dice.chance(weather.lost), dice.chance(weather.doubled)) {
                (true, _) => 0,
                (false, doubled) => 1 + usize::from(doubled),
            };
            for _ in 0..copies {
                number += 1;
                let at = Instant::now() + dice.time(weather.late.0, weather.late.1);
                // A cable holds so much; what is too much is lost, as in a switch.
                if waiting.len() < MOST {
                    waiting.push(Reverse((at, number, 1 - from, packet[..len].to_vec())));
                }
            }
        }
        let now = Instant::now();
        while waiting.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            if let Some(Reverse((_, _, to, packet))) = waiting.pop() {
                // Who cannot be reached has lost it.
                let _ = socket.send_to(&packet, hosts[to]);
            }
        }
    }
}

/// The cable's name at each host.
const CABLE: &str = "relayed";
/// Where the tunnel's packets go, here and at the hosts.
const PORT: u16 = 14_789;
/// How exactly packets are late.
const TURN: Duration = Duration::from_millis(1);
/// Packets under way: at 1,500 bytes each some 6 MB, more than two hosts here ever have.
const MOST: usize = 4096;
