//! Several hosts on one machine: network namespaces on a switch, each with an address of its own.
//!
//! ```text
//!  this process     etcd-0        a         b
//!  198.18.N.254   198.18.N.1  198.18.N.2  198.18.N.3
//!       |______________|__________|_________|        the switch: a bridge in its own namespace
//! ```
//! `ip` makes them, so whoever runs the tests has to be root; where that does not work the tests
//! say why they are skipped. A test reaches every host by its address as if it were one more host.
//! 198.18.0.0/15 is set aside for tests of networks, and N is ours alone as long as we hold its
//! lock, so tests run side by side; what a killed one left behind goes when its N is taken again.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::{
    process::{self, Troupe},
    skip::skipped,
};

/// A network with nobody else on it. Dropping it ends whatever runs on its hosts.
pub(crate) struct Network {
    index: u8,
    hosts: Vec<Host>,
    _lock: File,
}

/// A host on a network.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    name: String,
    index: u8,
    address: Ipv4Addr,
}

/// Which packets of a host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ways {
    In,
    Out,
    Both,
}

impl Network {
    /// A network, or `None` where there can be none, after saying why.
    pub(crate) fn new() -> Option<Self> {
        let (index, lock) = take_index();
        remove_leftovers(index);
        let network = Self { index, hosts: Vec::new(), _lock: lock };
        if let Err(why) = network.make_switch() {
            skipped(&format!("no hosts can be made here: {why}"));
            return None;
        }
        Some(network)
    }

    fn make_switch(&self) -> Result<(), String> {
        let switch = namespace(self.index, SWITCH);
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "dev", "bridge", "up"])?;
        let here = here(self.index);
        ip(&["link", "add", &here, "type", "veth", "peer", "name", "here", "netns", &switch])?;
        self.plug("here")?;
        let address = format!("{}/24", self.address(HERE));
        ip(&["address", "add", &address, "dev", &here])?;
        ip(&["link", "set", &here, "up"])
    }

    /// Plugs the switch's end of a cable in.
    fn plug(&self, port: &str) -> Result<(), String> {
        let switch = namespace(self.index, SWITCH);
        ip(&["-n", &switch, "link", "set", "dev", port, "master", "bridge", "up"])
    }

    /// This process's own address on it.
    pub(crate) fn here(&self) -> IpAddr {
        self.address(HERE).into()
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.index, last)
    }

    /// One more host, with a name of at most 15 letters that no other has.
    pub(crate) fn host(&mut self, name: &str) -> Host {
        assert!(self.hosts.iter().all(|host| host.name != name), "there is a host named {name}");
        let last = u8::try_from(self.hosts.len() + 1).ok().filter(|last| *last < HERE);
        let address = self.address(last.expect("a network has room for 253 hosts"));
        let host = Host { name: name.to_owned(), index: self.index, address };
        let (space, switch) = (host.namespace(), namespace(self.index, SWITCH));
        let made = ip(&["netns", "add", &space])
            .and_then(|()| {
                let mut words = vec!["-n", &switch, "link", "add", "name", name, "type", "veth"];
                words.extend(["peer", "name", "eth0", "netns", &space]);
                ip(&words)
            })
            .and_then(|()| self.plug(name))
            .and_then(|()| ip(&["-n", &space, "link", "set", "lo", "up"]))
            .and_then(|()| {
                ip(&["-n", &space, "address", "add", &format!("{address}/24"), "dev", "eth0"])
            })
            .and_then(|()| ip(&["-n", &space, "link", "set", "eth0", "up"]));
        made.unwrap_or_else(|why| panic!("the host {name} cannot be made: {why}"));
        self.hosts.push(host.clone());
        host
    }

    /// What each host's resolver knows from now on, and nothing else: names of hosts.
    pub(crate) fn name_hosts(&self, names: &[(&str, &Host)]) {
        let known: String =
            names.iter().map(|(name, host)| format!("{} {name}\n", host.address)).collect();
        for host in &self.hosts {
            fs::create_dir_all(host.settings()).expect("its settings can be made");
            // Written in place: processes that run there have this very file as their /etc/hosts.
            fs::write(host.settings().join("hosts"), &known).expect("its hosts can be written");
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove_leftovers(self.index);
    }
}

impl Host {
    /// Its address.
    pub(crate) fn address(&self) -> IpAddr {
        self.address.into()
    }

    /// What goes before a program's name to run it on this host, which it then is the process of.
    pub(crate) fn words(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.namespace()].map(str::to_owned).into()
    }

    /// Starts `troupe` here.
    pub(crate) fn start<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Troupe {
        let words = self.words();
        Troupe::start_under(&words.iter().map(String::as_str).collect::<Vec<_>>(), args)
    }

    /// Pulls the cable: nobody reaches it any more, nor it them, and nobody is told.
    pub(crate) fn disconnect(&self) {
        self.set_port("down");
    }

    /// Plugs it in again.
    pub(crate) fn reconnect(&self) {
        self.set_port("up");
    }

    fn set_port(&self, state: &str) {
        let switch = namespace(self.index, SWITCH);
        let set = ip(&["-n", &switch, "link", "set", "dev", &self.name, state]);
        set.unwrap_or_else(|why| panic!("{} cannot be set {state}: {why}", self.name));
    }

    /// Loses every packet between this host and that one, both ways; all others reach both.
    pub(crate) fn cut_off(&self, other: &Self) {
        let it = other.address;
        self.filter(&format!(
            "table inet cut {{\n\
             chain in {{\ntype filter hook input priority 0\nip saddr {it} drop\n}}\n\
             chain out {{\ntype filter hook output priority 0\nip daddr {it} drop\n}}\n}}\n"
        ));
    }

    /// Loses every packet that comes to this host, that leaves it, or both.
    pub(crate) fn cut(&self, ways: Ways) {
        let chain = |hook: &str, device: &str| {
            format!(
                "chain {hook} {{\ntype filter hook {hook} priority 0\n{device} != lo drop\n}}\n"
            )
        };
        let (inward, outward) = (chain("input", "iifname"), chain("output", "oifname"));
        let chains = match ways {
            Ways::In => inward,
            Ways::Out => outward,
            Ways::Both => inward + &outward,
        };
        self.filter(&format!("table inet cut {{\n{chains}}}\n"));
    }

    /// Undoes every `cut_off` and `cut` of this host.
    pub(crate) fn heal(&self) {
        self.filter("table inet cut\ndelete table inet cut\n");
    }

    fn filter(&self, rules: &str) {
        self.run(&["nft", rules])
            .unwrap_or_else(|why| panic!("{} cannot filter: {why}", self.name));
    }

    /// Runs a program here that ends by itself.
    pub(crate) fn run(&self, words: &[&str]) -> Result<(), String> {
        let under = self.words();
        let output = Command::new(&under[0]).args(&under[1..]).args(words).output();
        said(output, &words.join(" "))
    }

    /// Files that `ip netns exec` puts in the place of those in /etc.
    fn settings(&self) -> PathBuf {
        settings(&self.namespace())
    }

    fn namespace(&self) -> String {
        namespace(self.index, &self.name)
    }
}

/// The first number that no other process uses, and the lock that keeps it so.
fn take_index() -> (u8, File) {
    for index in 0..=u8::MAX {
        let path = std::env::temp_dir().join(format!("troupe-network-{index}.lock"));
        // Another user's cannot be opened; theirs it is.
        let Ok(lock) = File::create(path) else { continue };
        if lock.try_lock().is_ok() {
            return (index, lock);
        }
    }
    panic!("256 networks are in use");
}

/// Removes every namespace of a number, and whatever runs in one.
fn remove_leftovers(index: u8) {
    // A namespace's own devices go some time after it, and this one's name is needed again.
    let _ = ip(&["link", "delete", &here(index)]);
    let prefix = namespace(index, "");
    let Ok(spaces) = fs::read_dir("/run/netns") else { return };
    for space in spaces.flatten() {
        let Ok(space) = space.file_name().into_string() else { continue };
        if !space.starts_with(&prefix) {
            continue;
        }
        let pids = Command::new("ip").args(["netns", "pids", &space]).output();
        let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let pids = pids.unwrap_or_default();
        pids.lines().filter_map(|line| line.trim().parse().ok()).for_each(process::kill);
        let _ = ip(&["netns", "delete", &space]);
        let _ = fs::remove_dir_all(settings(&space));
    }
}

fn namespace(index: u8, name: &str) -> String {
    format!("troupe-{index}-{name}")
}

/// This process's end of its own cable.
fn here(index: u8) -> String {
    format!("troupe{index}")
}

fn settings(namespace: &str) -> PathBuf {
    Path::new("/etc/netns").join(namespace)
}

fn ip(words: &[&str]) -> Result<(), String> {
    said(Command::new("ip").args(words).output(), &format!("ip {}", words.join(" ")))
}

fn said(output: std::io::Result<Output>, what: &str) -> Result<(), String> {
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let error = String::from_utf8_lossy(&output.stderr);
            Err(format!("`{what}`: {}", error.trim()))
        }
        Err(error) => Err(format!("`{what}`: {error}")),
    }
}

/// Nobody calls a host this.
const SWITCH: &str = "switch";
/// The last number of this process's own address on the network.
const HERE: u8 = 254;
