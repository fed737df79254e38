//! Where a group's members go, or why they go nowhere.
//!
//! All or nothing: every rank has a device or there is no place. First a host is asked whether it
//! may be taken at all (its lease, a cordon, its wire, labels, memory, domains that others have for
//! themselves), then how many devices it has free. Among those that may: one host that can take the
//! whole group, and else the hosts of one rack, of one zone, of anywhere. Groups of one service are
//! spread: hosts and zones with the fewest of them come first; after that the host that is left
//! with the least, so that large groups find room too.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use troupe_runtime::{
    discovery::directory::GroupMember,
    id::{GroupId, NodeId},
};

use super::{
    hosts::{Closed, Host, Hosts},
    memory::{Need, human},
    wishes::Wishes,
};
use crate::group::layout::Division;

/// A group that wants a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    /// Which.
    pub(super) group: &'a GroupId,
    /// Its ranks.
    pub(super) division: Division,
    /// Where it may be.
    pub(super) wishes: &'a Wishes,
    /// What each rank needs of its device's memory, if that is known.
    pub(super) need: Option<Need>,
    /// Where the service's other groups are.
    pub(super) beside: &'a Beside,
    /// Hosts that are taken last: what ran there ended by itself, again and again.
    pub(super) avoid: &'a BTreeSet<NodeId>,
}

/// Where the groups of a service are: how many members on each host, in each zone, and at each
/// value of the labels that its wishes name.
#[derive(Clone, Debug, Default)]
pub(super) struct Beside {
    hosts: BTreeMap<NodeId, u32>,
    zones: BTreeMap<u32, u32>,
}

/// Why a host may not be taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Refusal {
    Closed(Closed),
    Wish(String),
    Claimed,
    Taken(String),
    Memory(u64),
    Devices(u32),
}

// === impl Beside ===

impl Beside {
    /// Counts one more member.
    pub(super) fn add(&mut self, hosts: &Hosts, node: NodeId) {
        *self.hosts.entry(node).or_default() += 1;
        if let Some(host) = hosts.host(node) {
            *self.zones.entry(host.zone).or_default() += 1;
        }
    }

    fn on(&self, host: &Host) -> u32 {
        self.hosts.get(&host.record.id).copied().unwrap_or(0)
    }

    fn in_zone(&self, zone: u32) -> u32 {
        self.zones.get(&zone).copied().unwrap_or(0)
    }
}

/// Finds a place.
///
/// # Errors
/// Why there is none, counted over all hosts.
pub(super) fn place(hosts: &Hosts, ask: &Ask<'_>) -> Result<Vec<GroupMember>, String> {
    let filter = Filter::new(hosts, ask);
    let unit = ask.division.unit();
    let able: Vec<&Host> = hosts
        .all()
        .filter(|host| host.free >= unit && host.closed.is_none())
        .filter(|host| filter.refusal(host).is_none())
        .collect();
    let chosen = on_one_host(ask, &able).or_else(|| on_several(ask, &able));
    let Some((chosen, places)) = chosen else {
        return Err(reasons(hosts, ask, &filter, &able));
    };
    let members = places.into_iter().filter_map(|(at, ranks)| {
        let record = &chosen.get(at)?.record;
        Some(GroupMember { node: record.id, process: record.process, ranks })
    });
    Ok(members.collect())
}

type Chosen<'a> = (Vec<&'a Host>, Vec<crate::group::layout::Place>);

/// The host that is best for the whole group.
fn on_one_host<'a>(ask: &Ask<'_>, able: &[&'a Host]) -> Option<Chosen<'a>> {
    let devices = ask.division.parallel.devices();
    if !ask.division.fits_one_host() {
        return None;
    }
    let best = able.iter().filter(|host| host.free >= devices).min_by_key(|host| {
        let spread = (ask.beside.on(host), ask.beside.in_zone(host.zone));
        (ask.avoid.contains(&host.record.id), spread, host.free, host.record.id)
    })?;
    Some((vec![*best], ask.division.deal(&[best.free])?))
}

/// The hosts of the smallest domain that has room.
fn on_several<'a>(ask: &Ask<'_>, able: &[&'a Host]) -> Option<Chosen<'a>> {
    if let Some(label) = &ask.wishes.exclusive_topology {
        let value = |host: &Host| host.record.labels.get(label).cloned();
        return in_best_domain(ask, able, value);
    }
    in_best_domain(ask, able, |host| (host.rack > 0).then_some((host.zone, host.rack)))
        .or_else(|| in_best_domain(ask, able, |host| (host.zone > 0).then_some(host.zone)))
        .or_else(|| in_domain(ask, able.to_vec()))
}

/// Of the domains that have room, the one with the fewest groups of the service in its zone, and
/// then the one that takes the fewest members.
fn in_best_domain<'a, D: Ord>(
    ask: &Ask<'_>,
    able: &[&'a Host],
    domain: impl Fn(&Host) -> Option<D>,
) -> Option<Chosen<'a>> {
    let mut domains: BTreeMap<D, Vec<&Host>> = BTreeMap::new();
    for host in able {
        if let Some(domain) = domain(host) {
            domains.entry(domain).or_default().push(host);
        }
    }
    let with_room = domains.into_values().filter_map(|hosts| in_domain(ask, hosts));
    with_room.min_by_key(|(hosts, places)| {
        let zone = hosts.first().map_or(0, |host| host.zone);
        (ask.beside.in_zone(zone), places.len())
    })
}

fn in_domain<'a>(ask: &Ask<'_>, mut hosts: Vec<&'a Host>) -> Option<Chosen<'a>> {
    let (division, unit) = (ask.division, ask.division.unit().max(1));
    // With a number of members every host takes one; without, as few hosts as can be.
    let spare = |host: &Host| match division.members {
        Some(_) => Reverse(unit),
        None => Reverse(host.free / unit),
    };
    hosts.sort_by_key(|host| {
        let avoid = ask.avoid.contains(&host.record.id);
        (avoid, spare(host), ask.beside.on(host), host.free, host.record.id)
    });
    let free: Vec<_> = hosts.iter().map(|host| host.free).collect();
    let places = division.deal(&free)?;
    Some((hosts, places))
}

/// What is asked of a host beside its devices.
struct Filter<'a> {
    hosts: &'a Hosts,
    ask: &'a Ask<'a>,
    /// Of the topology that it wants for itself: values that others have.
    taken: Option<(&'a str, BTreeSet<&'a str>)>,
    /// Values of a label at which one more member would be one too many, and the label.
    crowded: Vec<(&'a str, BTreeSet<&'a str>)>,
}

impl<'a> Filter<'a> {
    fn new(hosts: &'a Hosts, ask: &'a Ask<'a>) -> Self {
        let label = ask.wishes.exclusive_topology.as_deref();
        let taken = label.map(|label| (label, hosts.occupied(label, ask.group)));
        let required = ask.wishes.spread.iter().filter(|spread| spread.required);
        let crowded = required
            .map(|spread| (spread.key.as_str(), crowded(hosts, ask, &spread.key, spread.max_skew)));
        Self { hosts, ask, taken, crowded: crowded.collect() }
    }

    fn refusal(&self, host: &Host) -> Option<Refusal> {
        if let Some(closed) = host.closed {
            return Some(Refusal::Closed(closed));
        }
        if let Some(why) = self.ask.wishes.refusal(&host.record) {
            return Some(Refusal::Wish(why));
        }
        let labels = &host.record.labels;
        let alone = self.taken.as_ref().map(|(label, values)| (*label, values));
        for (label, values) in alone.into_iter().chain(self.crowded.iter().map(|(l, v)| (*l, v))) {
            match labels.get(label) {
                None => return Some(Refusal::Wish(format!("does not have the label {label}"))),
                Some(value) if values.contains(value.as_str()) => {
                    return Some(Refusal::Taken(label.to_owned()));
                }
                Some(_) => {}
            }
        }
        if self.hosts.is_claimed(host, self.ask.group) {
            return Some(Refusal::Claimed);
        }
        let memory = host.record.device_memory;
        let too_little = self.ask.need.is_some_and(|need| memory > 0 && memory < need.total());
        too_little.then_some(Refusal::Memory(memory))
    }
}

/// Values of a label that have more members of the service than others, by so many that one more
/// would be too uneven.
fn crowded<'a>(hosts: &'a Hosts, ask: &Ask<'_>, label: &str, max_skew: u32) -> BTreeSet<&'a str> {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for host in hosts.all().filter(|host| ask.wishes.refusal(&host.record).is_none()) {
        if let Some(value) = host.record.labels.get(label) {
            *counts.entry(value).or_default() += ask.beside.on(host);
        }
    }
    let least = counts.values().min().copied().unwrap_or(0);
    counts.retain(|_, count| *count + 1 > least + max_skew.max(1));
    counts.into_keys().collect()
}

/// Why there is no place: how many hosts refuse for which reason, most frequent first.
fn reasons(hosts: &Hosts, ask: &Ask<'_>, filter: &Filter<'_>, able: &[&Host]) -> String {
    let unit = ask.division.unit();
    let mut counts: BTreeMap<Refusal, usize> = BTreeMap::new();
    for host in hosts.all() {
        let few = || (host.free < unit).then_some(Refusal::Devices(host.free));
        if let Some(refusal) = filter.refusal(host).or_else(few) {
            *counts.entry(refusal).or_default() += 1;
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| Reverse(*count));
    let others = counts.iter().skip(MOST_REASONS).map(|(_, count)| count).sum::<usize>();
    let mut told: Vec<_> = counts
        .iter()
        .take(MOST_REASONS)
        .map(|(refusal, count)| refusal.told(*count, ask))
        .collect();
    if others > 0 {
        told.push(format!("{others} for other reasons"));
    }
    let parallel = ask.division.parallel;
    let mut text = format!("{}/{} hosts fit", able.len(), hosts.len());
    if !told.is_empty() {
        text.push_str(": ");
        text.push_str(&told.join(", "));
    }
    let devices = parallel.devices();
    let free: u32 = able.iter().map(|host| host.free).sum();
    let of = format!("{} of {}", count(parallel.pipeline, "stage"), count(parallel.tensor, "rank"));
    let members = ask.division.members.filter(|members| *members > 1);
    let on = members.map_or_else(String::new, |members| format!(" on {members} hosts"));
    format!("needs {}{on} ({of}), {free} may be had; {text}", count(devices, "device"))
}

/// What each host says to this alone, by its name: why it may not be taken, or what it has.
pub(super) fn by_host(hosts: &Hosts, ask: &Ask<'_>) -> Vec<(String, String)> {
    let filter = Filter::new(hosts, ask);
    let unit = ask.division.unit();
    let says = |host: &Host| {
        let few = || (host.free < unit).then_some(Refusal::Devices(host.free));
        match filter.refusal(host).or_else(few) {
            Some(refusal) => {
                let told = refusal.told(1, ask);
                told.strip_prefix("1 ").map_or(told.clone(), str::to_owned)
            }
            None => format!("may be had, with {}", count(host.free, "free device")),
        }
    };
    hosts.all().map(|host| (host.record.name.clone(), says(host))).collect()
}

impl Refusal {
    fn told(&self, count: usize, ask: &Ask<'_>) -> String {
        let (is, has, does) =
            if count == 1 { ("is", "has", "does") } else { ("are", "have", "do") };
        match self {
            Self::Closed(Closed::Lost) => format!("{count} {has} no lease"),
            Self::Closed(Closed::Cordoned) => format!("{count} {is} cordoned"),
            Self::Closed(Closed::Leaving) => format!("{count} {is} leaving"),
            Self::Closed(Closed::Wire) => {
                format!("{count} {is} two or more versions of the wire apart")
            }
            Self::Wish(why) if count == 1 => format!("1 {why}"),
            Self::Wish(why) => {
                let rest = why.strip_prefix("does ").map(|rest| format!("{does} {rest}"));
                let rest =
                    rest.or_else(|| why.strip_prefix("is ").map(|rest| format!("{is} {rest}")));
                let rest = rest.or_else(|| why.strip_prefix("has ").map(|r| format!("{has} {r}")));
                format!("{count} {}", rest.unwrap_or_else(|| why.clone()))
            }
            Self::Claimed => format!("{count} {is} in a domain that another group has for itself"),
            Self::Taken(label) => format!("{count} {has} a {label} that is taken"),
            Self::Memory(memory) => {
                let need = ask.need.map_or(0, |need| need.total());
                let (memory, need) = (human(*memory), human(need));
                format!("{count} {has} {memory} per device of {need} needed")
            }
            Self::Devices(free) => {
                let unit = ask.division.unit();
                format!("{count} {has} {free} free devices of {unit} needed")
            }
        }
    }
}

fn count(number: u32, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Reasons told one by one; the rest are counted together.
const MOST_REASONS: usize = 6;
