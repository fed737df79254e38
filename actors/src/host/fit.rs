//! Judges what was found of a cluster: what cannot work, what works badly, what is right, and for
//! everything that is not right what helps. Pure: facts in, findings out.
//!
//! *Refused* is what makes a group, a conversation or a start fail. *Warning* is what costs speed or
//! will cost somebody an evening. Every limit is a constant at the end, with its reason.

use std::{collections::BTreeMap, fmt, time::Duration};

use troupe_runtime::{
    clock::approximately,
    id::Digest,
    transport::quic::SOCKET_BYTES,
    wire::host::{DiskUse, HostFacts, ModelDigests, ModelFound, Way},
};

use super::show::{bytes, micros, rate};

/// What was found of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The model that was asked for.
    pub model: Option<String>,
    /// Who was asked. The first is the control host that asks.
    pub hosts: Vec<Surveyed>,
    /// Who measured the way to whom.
    pub ways: Vec<Measured>,
}

/// A host, and what it said of itself.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub door: String,
    /// What it said, or why it said nothing.
    pub facts: Result<HostFacts, String>,
}

/// A way that was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The index of the host that measured.
    pub from: usize,
    /// The index of the other.
    pub to: usize,
    /// What it is, or why there is none.
    pub way: Result<Way, String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It cannot work.
    Refused,
    /// It works, but.
    Warning,
    /// It is right.
    Ok,
}

/// One thing that is right or is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: `ways`, `versions`, `clocks`, `model`, `devices`, `limits`, `disks`.
    pub topic: &'static str,
    /// The host, or both ends of the way; empty for the cluster.
    pub about: String,
    /// What was found.
    pub what: String,
    /// What helps; empty if nothing need.
    pub fix: String,
}

/// Collects findings on one topic.
struct Topic<'a> {
    name: &'static str,
    findings: &'a mut Vec<Finding>,
    before: usize,
}

/// The worst of many ways that are not good: among all pairs of hosts there can be thousands.
#[derive(Default)]
struct Worst {
    about: String,
    value: f64,
    count: usize,
}

/// What comes of a survey, the worst first.
pub fn judge(survey: &Survey) -> Vec<Finding> {
    let mut findings = Vec::new();
    type Judge = fn(&Survey, &mut Topic<'_>);
    let judges: [(&'static str, Judge); 7] = [
        ("ways", ways),
        ("versions", versions),
        ("clocks", clocks),
        ("model", model),
        ("devices", devices),
        ("limits", limits),
        ("disks", disks),
    ];
    for (name, judge) in judges {
        let before = findings.len();
        judge(survey, &mut Topic { name, findings: &mut findings, before });
    }
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// Everybody answers, everybody reaches everybody, and that fast enough.
fn ways(survey: &Survey, topic: &mut Topic<'_>) {
    for host in &survey.hosts {
        if let Err(why) = &host.facts {
            let what = format!("does not answer the control host at {}: {why}", host.door);
            topic.refuse(&host.name, what, opening(&survey.hosts[0], host));
        }
    }
    let works = |from, to| {
        let ways = survey.ways.iter();
        ways.filter(|way| (way.from, way.to) == (from, to)).any(|way| way.way.is_ok())
    };
    let (mut far, mut thin) = (Worst::default(), Worst::default());
    for Measured { from, to, way } in &survey.ways {
        let (one, other) = (&survey.hosts[*from], &survey.hosts[*to]);
        let about = format!("{} -> {}", one.name, other.name);
        match way {
            Err(why) => {
                let back = if works(*to, *from) { "; the other way works" } else { "" };
                let what = format!("cannot be reached at {}: {why}{back}", other.door);
                topic.refuse(&about, what, opening(one, other));
            }
            Ok(way) => {
                far.add(about.clone(), way.rtt_median_us > RTT_US, way.rtt_median_us as f64);
                thin.add(about, way.rate() < RATE, -way.rate());
            }
        }
    }
    let (most, least) = (micros(RTT_US), rate(RATE));
    if let Some((about, others)) = far.worst(&format!("take more than {most}")) {
        let rtt = micros(far.value as u64);
        let fix = "keep groups inside of a zone: give each host its --zone";
        topic.warn(&about, format!("a round trip takes {rtt}{others}"), fix.into());
    }
    if let Some((about, others)) = thin.worst(&format!("carry less than {least}")) {
        let rate = rate(-thin.value);
        let fix = "let stages of a group meet over a network of 10 Gbit/s: see its cables, its \
                   duplex, who else uses it";
        topic.warn(&about, format!("carries {rate} only{others}"), fix.into());
    }
    let right = match survey.ways.len() {
        0 => "there is one host only".to_owned(),
        count => format!("every host reaches every other, {count} ways"),
    };
    topic.close(right);
}

/// What makes a host reachable from another.
fn opening(from: &Surveyed, to: &Surveyed) -> String {
    let address = |host: &Surveyed| {
        let address = host.door.strip_prefix("quic://").unwrap_or(&host.door);
        address.rsplit_once(':').map_or(address, |(address, _)| address).to_owned()
    };
    let (here, there) = (address(from), address(to));
    let is_loopback = |address: &str| address.starts_with("127.") || address == "[::1]";
    if is_loopback(&there) {
        let name = &to.name;
        let runs = if is_loopback(&here) { "see that troupe runs there; " } else { "" };
        return format!(
            "{runs}{there} is {name} to nobody but its own machine: on another, start it with \
             --listen ADDR, an address that the others reach"
        );
    }
    format!(
        "let UDP from {here} to {there} through every firewall, all ports (members take free \
         ones), and see that troupe runs there"
    )
}

/// All speak the same wire, and are the same program.
fn versions(survey: &Survey, topic: &mut Topic<'_>) {
    let Some((_, first)) = answers(survey).next() else { return };
    let ours = &first.version;
    for (host, facts) in answers(survey) {
        let (theirs, fix) = (&facts.version, format!("install troupe {ours} there"));
        if facts.wire.abs_diff(first.wire) > 1 {
            let (a, b) = (facts.wire, first.wire);
            let what = format!("speaks version {a} of the wire, {b} is too far from it");
            topic.refuse(&host.name, what, fix);
        } else if theirs != ours {
            let what = format!("runs {theirs}, the control host {ours}");
            topic.warn(&host.name, what, fix);
        }
    }
    topic.close(format!("all run {ours}"));
}

/// No clock is far from the others'. The middle one is taken for right, so that one that is wrong
/// is named and not all others.
fn clocks(survey: &Survey, topic: &mut Topic<'_>) {
    let control = survey.ways.iter().filter(|measured| measured.from == 0);
    let ways = control.filter_map(|measured| Some((measured.to, measured.way.as_ref().ok()?)));
    let mut ahead: Vec<(usize, i64, u64)> =
        ways.map(|(to, way)| (to, way.clock_ahead_us, way.rtt_min_us / 2)).collect();
    if ahead.is_empty() {
        return;
    }
    ahead.insert(0, (0, 0, 0));
    let mut order: Vec<i64> = ahead.iter().map(|(_, ahead, _)| *ahead).collect();
    order.sort_unstable();
    let middle = order[(order.len() - 1) / 2];
    let mut most = 0;
    for (host, ahead, error) in ahead {
        let (name, off) = (&survey.hosts[host].name, ahead.saturating_sub(middle));
        // What it is wrong by at least.
        let least = off.unsigned_abs().saturating_sub(error);
        most = most.max(off.unsigned_abs().saturating_add(error));
        let side = if off > 0 { "ahead of" } else { "behind" };
        let length = match least {
            ..10_000_000 => micros(least),
            _ => approximately(Duration::from_micros(least)),
        };
        let what = format!("its clock is {length} {side} the others'");
        let fix = "set it, and let chrony or systemd-timesyncd keep it right";
        if least > CLOCK_MOST_US {
            let what = format!("{what}: certificates made now are not valid everywhere");
            topic.refuse(name, what, fix.into());
        } else if least > CLOCK_US {
            topic.warn(name, format!("{what}: logs and events do not line up"), fix.into());
        }
    }
    // Below that it says nothing to anybody.
    topic.close(format!("none is more than {} from the middle one", micros(most.max(1000))));
}

/// Everybody finds the model, and it is the same.
fn model(survey: &Survey, topic: &mut Topic<'_>) {
    let Some(model) = &survey.model else { return };
    let found = || answers(survey).filter_map(|(host, facts)| Some((host, facts.model.as_ref()?)));
    let mut copies: BTreeMap<ModelDigests, usize> = BTreeMap::new();
    let here = || {
        found().filter_map(|(host, found)| match found {
            ModelFound::Here(digests) => Some((host, *digests)),
            ModelFound::Missing(_) => None,
        })
    };
    here().for_each(|(_, digests)| *copies.entry(digests).or_default() += 1);
    // Of two that as many have, that of the first host.
    let most = copies.values().max();
    let right = here().find(|(_, digests)| copies.get(digests) == most);
    for (host, found) in found() {
        let theirs = match found {
            ModelFound::Here(theirs) => theirs,
            ModelFound::Missing(why) => {
                let fix = format!("put {model} there: copy its folder, or mount the same storage");
                topic.refuse(&host.name, why.clone(), fix);
                continue;
            }
        };
        let Some((example, right)) = &right else { continue };
        if theirs != right {
            let example = &example.name;
            let part =
                if theirs.model == right.model { "the tokenizer" } else { "config or weights" };
            let what = format!("its copy of {model} differs from that of {example} in {part}");
            topic.refuse(&host.name, what, format!("copy the folder of {example} over it"));
        }
    }
    if let Some((_, digests)) = right {
        topic.close(format!("all have {model}, {}", short(digests.model)));
    }
}

/// There is something to compute on.
fn devices(survey: &Survey, topic: &mut Topic<'_>) {
    let mut count = 0;
    for (host, facts) in answers(survey).skip(1) {
        count += u64::from(facts.devices);
        if facts.devices > 0 && facts.device_memory == 0 {
            let fix = "see whether /proc/meminfo can be read; until then say \
                       --kv-cache-memory-bytes in its services";
            topic.warn(&host.name, "does not say how much memory it has".into(), fix.into());
        }
    }
    if survey.hosts.len() > 1 && count == 0 {
        let fix = "start `troupe node` where devices are".to_owned();
        topic.refuse("", "no host offers a device".into(), fix);
    }
    topic.close(format!("{count} on offer"));
}

/// What the kernel allows a process.
fn limits(survey: &Survey, topic: &mut Topic<'_>) {
    for (index, (host, facts)) in answers(survey).enumerate() {
        let wanted = if index == 0 { FILES_OF_GATEWAY } else { FILES };
        if let Some(files) = facts.open_files.filter(|files| *files < wanted) {
            let what = format!("may have {files} files and connections open");
            let fix = "ulimit -n 65536 before it starts (LimitNOFILE=65536 in a systemd unit)";
            match files < FILES_LEAST {
                true => topic.refuse(&host.name, what, fix.into()),
                false => topic.warn(&host.name, what, fix.into()),
            }
        }
        let locked = facts.locked_memory.filter(|bytes| *bytes < u64::MAX);
        if let Some(locked) = locked.filter(|_| facts.device_kind == "cuda") {
            let what = format!("may lock {} of memory for its devices to read", bytes(locked));
            let fix = "ulimit -l unlimited before it starts (LimitMEMLOCK=infinity in a systemd \
                       unit)";
            topic.warn(&host.name, what, fix.into());
        }
        let sockets =
            [("rmem_max", facts.socket_receive), ("wmem_max", facts.socket_send)].into_iter();
        let small = |(name, most): (&'static str, Option<u64>)| {
            Some((name, most.filter(|most| *most < SOCKET_BYTES as u64)?))
        };
        let small: Vec<_> = sockets.filter_map(small).collect();
        if let Some(least) = small.iter().map(|(_, most)| *most).min() {
            let what = format!("its sockets may hold {}: bursts are lost", bytes(least));
            let settings = small.iter().map(|(name, _)| format!("net.core.{name}={SOCKET_BYTES}"));
            let fix = format!("sysctl -w {}", settings.collect::<Vec<_>>().join(" "));
            topic.warn(&host.name, what, fix);
        }
    }
    topic.close("the kernel allows what is needed".into());
}

/// There is room to write.
fn disks(survey: &Survey, topic: &mut Topic<'_>) {
    for (host, facts) in answers(survey) {
        for disk in &facts.disks {
            let Some(free) = disk.free.filter(|free| *free < DISK) else { continue };
            let (use_, other) = match disk.what {
                DiskUse::Data => ("data directory", "give it another --data-dir"),
                DiskUse::Cache => ("cache", "set XDG_CACHE_HOME to another disk"),
            };
            let what = format!("{} are free for its {use_} {}", bytes(free), disk.path);
            let fix = format!("make room there, or {other}");
            match free < DISK_LEAST && disk.what == DiskUse::Data {
                true => topic.refuse(&host.name, what, fix),
                false => topic.warn(&host.name, what, fix),
            }
        }
    }
    topic.close("there is room on all disks".into());
}

/// Hosts that answered, the asking one first.
fn answers(survey: &Survey) -> impl Iterator<Item = (&Surveyed, &HostFacts)> {
    survey.hosts.iter().filter_map(|host| Some((host, host.facts.as_ref().ok()?)))
}

/// Enough of a digest to compare by eye.
fn short(digest: Digest) -> String {
    digest.to_string().chars().take(12).collect()
}

// === impl Topic ===

impl Topic<'_> {
    fn add(&mut self, severity: Severity, about: &str, what: String, fix: String) {
        let about = about.to_owned();
        self.findings.push(Finding { severity, topic: self.name, about, what, fix });
    }

    fn refuse(&mut self, about: &str, what: String, fix: String) {
        self.add(Severity::Refused, about, what, fix);
    }

    fn warn(&mut self, about: &str, what: String, fix: String) {
        self.add(Severity::Warning, about, what, fix);
    }

    /// What is to be said if nothing was wrong.
    fn close(&mut self, right: String) {
        if self.findings.len() == self.before {
            self.add(Severity::Ok, "", right, String::new());
        }
    }
}

// === impl Worst ===

impl Worst {
    /// Takes one that is bad; the larger the worse.
    fn add(&mut self, about: String, is_bad: bool, value: f64) {
        if !is_bad {
            return;
        }
        if self.count == 0 || value > self.value {
            (self.about, self.value) = (about, value);
        }
        self.count += 1;
    }

    /// Which it is, and that there are others, which `do` the same.
    fn worst(&self, others: &str) -> Option<(String, String)> {
        let others = match self.count {
            0 => return None,
            1 => String::new(),
            count => format!(", the worst of {count} ways that {others}"),
        };
        Some((self.about.clone(), others))
    }
}

// === impl Severity ===

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Warning => "warning",
            Self::Ok => "ok",
        })
    }
}

/// A new certificate is valid from an hour ago, as the clock of who makes it says.
const CLOCK_MOST_US: u64 = 3600 * 1_000_000;
/// Logs and events are read by the second.
const CLOCK_US: u64 = 1_000_000;
/// A step of a small model takes some milliseconds; each stage on another host adds half of this.
const RTT_US: u64 = 2_000;
/// A Gbit network carries a little more; an activation of 512 tokens takes 40 ms on it.
const RATE: f64 = 100e6;
/// What the units in `deploy/systemd` allow: each client of a gateway takes one.
const FILES_OF_GATEWAY: u64 = 65_536;
/// Weight files, pipes and sockets of some members.
const FILES: u64 = 1024;
/// A process that has less fails while it starts.
const FILES_LEAST: u64 = 128;
/// Logs of some members; a model of the demo's size.
const DISK: u64 = 1 << 30;
/// Epochs and certificates, with a margin: a host that cannot write those must not start members.
const DISK_LEAST: u64 = 64 << 20;

#[cfg(test)]
mod tests;
