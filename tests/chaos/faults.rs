//! The faults: what each does to the cluster, by which signs the cluster shows that it has noticed,
//! and how it is put right.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::{
    cluster::{Cluster, Group, NODES},
    dice::Dice,
    disk::Filler,
    memory::Starved,
    network::Ways,
    process::{freeze, is_running, kill, thaw, until},
    relay::{Relay, Weather},
    signs::{Sign, Who},
};

/// One sort of fault.
pub(crate) struct Fault {
    /// As the table calls it.
    pub(crate) name: &'static str,
    /// Plays it, for a number that says to which of those that are alike.
    pub(crate) play: fn(&mut Cluster, usize) -> Result<Played, String>,
}

/// A fault that is there.
pub(crate) struct Played {
    /// When it began, by both clocks.
    pub(crate) at: (Instant, SystemTime),
    /// What the cluster says when it has noticed; nothing where there is nothing to notice.
    pub(crate) signs: Vec<Sign>,
    /// The gateway that went, whose clients' requests break off: they notice by themselves.
    pub(crate) gateway: Option<usize>,
    /// How long it stays at least.
    pub(crate) stays: Duration,
    /// Puts it right.
    pub(crate) mend: Box<dyn FnOnce(&mut Cluster)>,
}

impl Played {
    fn new(at: (Instant, SystemTime), signs: Vec<Sign>) -> Self {
        let (gateway, stays) = (None, Duration::ZERO);
        Self { at, signs, gateway, stays, mend: Box::new(|_| {}) }
    }

    fn mended_by(self, mend: impl FnOnce(&mut Cluster) + 'static) -> Self {
        Self { mend: Box::new(mend), ..self }
    }

    fn for_at_least(self, stays: Duration) -> Self {
        Self { stays, ..self }
    }
}

/// All of them, in the order of the table.
pub(crate) const FAULTS: [Fault; 20] = [
    Fault { name: "leader killed", play: |cluster, turn| member_killed(cluster, turn, 0) },
    Fault { name: "worker killed", play: |cluster, turn| member_killed(cluster, turn, 1) },
    Fault { name: "prefill peer killed", play: prefill_killed },
    Fault { name: "node killed", play: node_killed },
    Fault { name: "gateway killed", play: gateway_killed },
    Fault { name: "controller killed", play: controller_killed },
    Fault { name: "leader frozen", play: |cluster, turn| member_frozen(cluster, turn, 0) },
    Fault { name: "worker frozen", play: |cluster, turn| member_frozen(cluster, turn, 1) },
    Fault { name: "node frozen, its member not", play: node_frozen },
    Fault { name: "whole host frozen", play: host_frozen },
    Fault { name: "controller frozen", play: controller_frozen },
    Fault { name: "host cut off", play: |cluster, turn| host_cut(cluster, turn, Ways::Both) },
    Fault { name: "host hears nothing", play: |cluster, turn| host_cut(cluster, turn, Ways::In) },
    Fault { name: "host is not heard", play: |cluster, turn| host_cut(cluster, turn, Ways::Out) },
    Fault { name: "two hosts apart", play: hosts_apart },
    Fault { name: "bad network between two hosts", play: bad_weather },
    Fault { name: "disk full, then a worker killed", play: disk_full },
    Fault { name: "worker out of memory", play: out_of_memory },
    Fault { name: "one etcd member killed", play: etcd_member_killed },
    Fault { name: "etcd's quorum killed", play: etcd_quorum_killed },
];

fn now() -> (Instant, SystemTime) {
    (Instant::now(), SystemTime::now())
}

/// The group of `x` whose turn it is.
fn group_of(cluster: &Cluster, turn: usize) -> Group {
    cluster.group(&format!("x-{}", turn % 2))
}

/// What is said of the end of a group's incarnation, which all faults of members, and of what they
/// stand on, come down to.
fn signs_of(group: &Group, members: &[usize]) -> Vec<Sign> {
    let (name, epoch) = (group.name.as_str(), group.epoch.as_str());
    let mut signs = vec![Sign::new(Who::Gateways, "endpoint is not ready", &[name, epoch])];
    for member in members {
        let lost = [&format!("member {member} is lost")[..], name];
        let number = format!("\"member\":{member}");
        signs.push(Sign::new(Who::Nodes, "the group's incarnation is over", &lost));
        signs.push(Sign::new(Who::Nodes, "the group's incarnation is over", &["hung", name]));
        signs.push(Sign::new(Who::Nodes, "member ended", &[name, epoch, &number]));
    }
    signs
}

fn member_killed(cluster: &mut Cluster, turn: usize, member: usize) -> Result<Played, String> {
    let group = group_of(cluster, turn);
    let process = cluster.process(&group, member);
    let at = now();
    kill(process);
    Ok(Played::new(at, signs_of(&group, &[member])))
}

fn prefill_killed(cluster: &mut Cluster, _: usize) -> Result<Played, String> {
    let group = cluster.prefill_group();
    let process = cluster.process(&group, 0);
    let at = now();
    kill(process);
    Ok(Played::new(at, signs_of(&group, &[0])))
}

fn node_killed(cluster: &mut Cluster, turn: usize) -> Result<Played, String> {
    let group = group_of(cluster, turn);
    let member = turn / 2 % 2;
    let host = group.hosts[member];
    let at = now();
    cluster.nodes[host].kill();
    let played = Played::new(at, signs_of(&group, &[member]));
    Ok(played.mended_by(move |cluster| cluster.nodes[host] = cluster.node(host)))
}

fn gateway_killed(cluster: &mut Cluster, turn: usize) -> Result<Played, String> {
    let gateway = turn % 2;
    let at = now();
    cluster.gateways[gateway].kill();
    let played = Played { gateway: Some(gateway), ..Played::new(at, Vec::new()) };
    let mend = move |cluster: &mut Cluster| cluster.gateways[gateway] = cluster.gateway(gateway);
    Ok(played.mended_by(mend).for_at_least(Duration::from_millis(500)))
}

fn controller_signs() -> Vec<Sign> {
    vec![Sign::new(Who::Controls, "this controller takes office", &[])]
}

fn controller_killed(cluster: &mut Cluster, _: usize) -> Result<Played, String> {
    let control = cluster.in_office();
    let at = now();
    cluster.controls[control].kill();
    let played = Played::new(at, controller_signs());
    Ok(played.mended_by(move |cluster| {
        let mut again = cluster.control(control);
        again.until_said("operators: ");
        cluster.controls[control] = again;
    }))
}

fn controller_frozen(cluster: &mut Cluster, _: usize) -> Result<Played, String> {
    let control = cluster.in_office();
    let at = now();
    cluster.controls[control].freeze();
    let played = Played::new(at, controller_signs());
    Ok(played.mended_by(move |cluster| cluster.controls[control].thaw()))
}

fn member_frozen(cluster: &mut Cluster, turn: usize, member: usize) -> Result<Played, String> {
    let group = group_of(cluster, turn);
    let process = cluster.process(&group, member);
    let at = now();
    freeze(process);
    // Its host kills it.
    Ok(Played::new(at, signs_of(&group, &[member])))
}

fn node_frozen(cluster: &mut Cluster, turn: usize) -> Result<Played, String> {
    let group = group_of(cluster, turn);
    let member = turn / 2 % 2;
    let host = group.hosts[member];
    let at = now();
    cluster.nodes[host].freeze();
    let mut signs = signs_of(&group, &[member]);
    signs.push(Sign::new(Who::Controls, "of a host", &["HostSilent"]));
    signs.push(Sign::new(Who::Nodes, "the node is silent, as if frozen", &[&group.name]));
    // Longer than its lease, and than whoever tries it waits.
    let played = Played::new(at, signs).for_at_least(Duration::from_secs(6));
    Ok(played.mended_by(move |cluster| cluster.nodes[host].thaw()))
}

fn host_frozen(cluster: &mut Cluster, turn: usize) -> Result<Played, String> {
    let group = group_of(cluster, turn);
    let member = turn / 2 % 2;
    let host = group.hosts[member];
    let mut processes = cluster.nodes[host].members();
    processes.push(cluster.nodes[host].id());
    let at = now();
    processes.iter().copied().for_each(freeze);
    let played = Played::new(at, signs_of(&group, &[member]));
    Ok(played.mended_by(move |_| processes.into_iter().for_each(thaw)))
}

fn host_cut(cluster: &mut Cluster, turn: usize, ways: Ways) -> Result<Played, String> {
    let group = group_of(cluster, turn);
    let member = turn / 2 % 2;
    let host = cluster.hosts[group.hosts[member]].clone();
    let at = now();
    host.cut(ways);
    // Whichever of them is heard says who is lost.
    let played = Played::new(at, signs_of(&group, &[0, 1]));
    Ok(played.mended_by(move |_| host.heal()))
}

fn hosts_apart(cluster: &mut Cluster, turn: usize) -> Result<Played, String> {
    let group = group_of(cluster, turn);
    let [one, other] = [0, 1].map(|member| cluster.hosts[group.hosts[member]].clone());
    let at = now();
    one.cut_off(&other);
    let played = Played::new(at, signs_of(&group, &[0, 1]));
    Ok(played.mended_by(move |_| one.heal()))
}

/// Bad, and not so bad that it is none: whoever ends a group for it would end it for nothing.
fn bad_weather(cluster: &mut Cluster, turn: usize) -> Result<Played, String> {
    let group = group_of(cluster, turn);
    let pair = [0, 1].map(|member| &cluster.hosts[group.hosts[member]]);
    let late = (Duration::from_millis(5), Duration::from_millis(25));
    let weather = Weather { lost: 20, doubled: 10, late };
    let at = now();
    let relay = Relay::lay(cluster.network.here(), pair, weather, Dice::new(turn as u64))?;
    let played = Played::new(at, signs_of(&group, &[0, 1])).for_at_least(Duration::from_secs(3));
    Ok(played.mended_by(move |_| drop(relay)))
}

/// A host that has no room to write down which incarnation it has seen may start none: it ends, and
/// its device is another host's to replace.
fn disk_full(cluster: &mut Cluster, turn: usize) -> Result<Played, String> {
    let group = group_of(cluster, turn);
    let host = group.hosts[1];
    let full = Filler::start(cluster.path(&format!("{}/full", NODES[host])))?;
    let process = cluster.process(&group, 1);
    let at = now();
    kill(process);
    let told = ["No space left on device"];
    let signs = vec![Sign::new(Who::Nodes, "the node cannot go on", &told)];
    Ok(Played::new(at, signs).mended_by(move |cluster| {
        drop(full);
        // It has ended, if it has noticed.
        if is_running(cluster.nodes[host].id()) {
            cluster.nodes[host].kill();
        }
        cluster.nodes[host] = cluster.node(host);
    }))
}

fn out_of_memory(cluster: &mut Cluster, turn: usize) -> Result<Played, String> {
    let group = group_of(cluster, turn);
    let process = cluster.process(&group, 1);
    let at = now();
    let starved = Starved::process(process)?;
    let played = Played::new(at, signs_of(&group, &[1]));
    Ok(played.mended_by(move |_| {
        until("the kernel kills it", || !is_running(process));
        assert!(starved.kills() > 0, "it was the kernel");
    }))
}

fn store_signs() -> Vec<Sign> {
    vec![
        Sign::new(Who::Gateways, "registry is away", &[]),
        Sign::new(Who::Controls, "the store does not answer: nothing is changed meanwhile", &[]),
        Sign::new(Who::Controls, "this controller is no longer in office", &[]),
        Sign::new(Who::Controls, "cannot write to the store", &[]),
    ]
}

fn etcd_member_killed(cluster: &mut Cluster, turn: usize) -> Result<Played, String> {
    let which = turn % cluster.etcd.len();
    let at = now();
    cluster.etcd[which].kill();
    let played = Played::new(at, store_signs()).for_at_least(Duration::from_secs(2));
    Ok(played.mended_by(move |cluster| cluster.etcd[which].restart()))
}

fn etcd_quorum_killed(cluster: &mut Cluster, turn: usize) -> Result<Played, String> {
    let count = cluster.etcd.len();
    let both = [turn % count, (turn + 1) % count];
    let at = now();
    both.into_iter().for_each(|which| cluster.etcd[which].kill());
    // Longer than any lease.
    let played = Played::new(at, store_signs()).for_at_least(Duration::from_secs(5));
    Ok(played.mended_by(move |cluster| {
        cluster.etcd[both[0]].launch();
        cluster.etcd[both[1]].restart();
    }))
}
