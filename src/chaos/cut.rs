//! Hosts that hear nothing of each other: packets that the kernel drops, in a process's network.
//!
//! The rules are a table of their own in `nft`, so that undoing them touches no other. They are
//! made where the process is: it may have a network namespace of its own, as in a container. What
//! they drop is the cluster's traffic and nothing else (UDP to and from its hosts, or TCP to etcd),
//! so that whoever is logged in on the host stays so.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    process::{Command, Output, Stdio},
};

use super::process::{Process, namespaces};

/// What is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The ways to and from these hosts.
    Hosts(BTreeSet<IpAddr>),
    /// The ways to an etcd at these addresses.
    Etcd(BTreeSet<SocketAddr>),
}

// === impl Cut ===

impl Cut {
    /// Whether nothing would be cut.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Hosts(hosts) => hosts.is_empty(),
            Self::Etcd(members) => members.is_empty(),
        }
    }

    /// Drops the packets of a process's host.
    ///
    /// # Errors
    /// Why it cannot be done, and who can.
    pub(crate) fn make(&self, process: &Process) -> Result<(), String> {
        let network = format!("/proc/{}/ns/net", process.id);
        nft(&network, &["-f", "-"], &self.rules())
    }

    /// The table. It is made anew, so that the last cut is the one that counts.
    fn rules(&self) -> String {
        let mut rules =
            format!("table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
        for (hook, device, side) in [("input", "iifname", 's'), ("output", "oifname", 'd')] {
            let _ = write!(
                rules,
                "  chain {hook} {{\n    type filter hook {hook} priority 0; policy accept;\n    \
                 {device} \"lo\" accept\n"
            );
            for (ip, ports) in self.matched() {
                let family = if ip.is_ipv4() { "ip" } else { "ip6" };
                let _ = match ports {
                    None => writeln!(rules, "    {family} {side}addr {ip} meta l4proto udp drop"),
                    Some(port) => {
                        writeln!(rules, "    {family} {side}addr {ip} tcp {side}port {port} drop")
                    }
                };
            }
            rules.push_str("  }\n");
        }
        rules.push_str("}\n");
        rules
    }

    fn matched(&self) -> Vec<(IpAddr, Option<u16>)> {
        match self {
            Self::Hosts(hosts) => hosts.iter().map(|ip| (*ip, None)).collect(),
            Self::Etcd(members) => members.iter().map(|at| (at.ip(), Some(at.port()))).collect(),
        }
    }
}

/// Undoes every cut of this host, in all networks that processes of the cluster are in, and in this
/// one; how many there were.
///
/// # Errors
/// Why one cannot be undone.
pub(crate) fn heal() -> Result<usize, String> {
    let mut healed = 0;
    for network in namespaces() {
        let list = ["list", "table", "inet", TABLE];
        match nft(&network, &list, "") {
            Ok(()) => {
                nft(&network, &["delete", "table", "inet", TABLE], "")?;
                healed += 1;
            }
            // There is none.
            Err(why) if why.contains("No such file or directory") && why.contains(TABLE) => {}
            Err(why) => return Err(why),
        }
    }
    Ok(healed)
}

/// Runs `nft` in a network.
fn nft(network: &str, words: &[&str], input: &str) -> Result<(), String> {
    let net = format!("--net={network}");
    // Where administrators' programs are need not be on the path of whoever became root.
    let child = Command::new("sh")
        .args(["-c", r#"PATH="$PATH:/usr/sbin:/sbin" exec nsenter "$@""#, "sh", &net, "nft"])
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| format!("nsenter: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ended before it read all says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let said = child.wait_with_output().map_err(|error| format!("nsenter: {error}"))?;
    told(&said)
}

fn told(said: &Output) -> Result<(), String> {
    if said.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&said.stderr).trim().to_owned();
    Err(match why {
        why if ["not permitted", "ermission denied"].iter().any(|word| why.contains(word)) => {
            format!("only root may cut a host off and heal it ({why})")
        }
        why if why.contains("failed to execute nft") => {
            format!("nft is missing (Debian: nftables) ({why})")
        }
        why => format!("nft and table {TABLE}: {why}"),
    })
}

/// A name that nobody else gives a table.
const TABLE: &str = "troupe_chaos";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_cluster_is_cut_and_never_the_host_from_itself() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let hosts = Cut::Hosts([ip("10.0.0.2"), ip("fd00::2")].into());
        let rules = hosts.rules();
        for rule in [
            "iifname \"lo\" accept\n    ip saddr 10.0.0.2 meta l4proto udp drop\n    \
             ip6 saddr fd00::2 meta l4proto udp drop",
            "oifname \"lo\" accept\n    ip daddr 10.0.0.2 meta l4proto udp drop\n",
            "delete table inet troupe_chaos\ntable inet troupe_chaos {",
        ] {
            assert!(rules.contains(rule), "{rules}");
        }
        let etcd = Cut::Etcd(["10.0.0.9:2379".parse().expect("an address")].into());
        let rules = etcd.rules();
        assert!(rules.contains("ip saddr 10.0.0.9 tcp sport 2379 drop"), "{rules}");
        assert!(rules.contains("ip daddr 10.0.0.9 tcp dport 2379 drop"), "{rules}");
        assert!(!rules.contains("udp"), "{rules}");
        assert!(Cut::Hosts(BTreeSet::new()).is_empty() && !etcd.is_empty());
    }
}
