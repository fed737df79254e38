//! What goes wrong, and how it is put right again; and builds in which something is missing that
//! the checks are to notice.

use std::time::Duration;

use troupe_actors::node::core::MemberKey;
use troupe_runtime::{
    id::{Digest, EndpointId, Epoch, RequestId},
    wire::{
        generate::{Choice, Generate, GenerateUp, OutputKind, SamplingOptions},
        group::{Hello, MemberUp},
    },
};

use super::{
    control::Control,
    gateway::Gateway,
    net::LineId,
    node::Node,
    scenario::MODEL_URI,
    store::Store,
    words::{Frame, Purpose, Word},
    world::{CLIENTS, Event, HostId, Kind, Pid, Role, STORE, World},
};

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// A process is killed; what starts it starts it again.
    Kill(Kind),
    /// All processes of a host are gone at once, and nobody hears of it.
    PowerCut,
    /// A process stands still for a while.
    Freeze(Kind),
    /// Two hosts do not hear each other.
    Partition,
    /// One host does not hear another.
    OneWay,
    /// A host hears nobody, and nobody hears it.
    Isolation,
    /// Everything takes ten times as long on a host.
    SlowHost,
    /// Everything takes twenty times as long between hosts.
    SlowNet,
    /// Questions to the store, and its answers, are lost.
    Loss,
    /// The store is away, and comes back with what it held.
    StoreAway,
    /// The store has lost everything.
    StoreWiped,
    /// The store is put back to what it held some seconds ago.
    StoreRestored,
    /// A new revision is declared.
    Rollout,
    /// Another number of groups is declared.
    Scale,
    /// A host is stopped in order, and comes back.
    Leave,
    /// A member of an incarnation that is over calls at its group's leader.
    StrayMember,
    /// A request for an incarnation that is over comes to its group's leader.
    StrayRequest,
}

/// What is done when its time has come.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This goes wrong, for so long.
    Begin(Trouble, Duration),
    Wake(Pid),
    /// What the store holds is copied.
    Backup,
    Heal(HostId, HostId),
    Speed(HostId),
    CalmNet,
    CalmStore,
    Start(Kind, HostId),
    HangUp(LineId),
    DeclareAll,
    /// From now on nothing goes wrong any more, and what did is put right.
    Calm,
}

/// A build in which something is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// The one that is shipped.
    #[default]
    None,
    /// Leaders take requests for other incarnations.
    EpochUnchecked,
    /// Engines free blocks that are still read.
    BlockFreedEarly,
    /// Gateways begin a stream anew when they go on elsewhere, and take whatever position comes.
    PositionUnchecked,
    /// Controllers write whether they are in office or not, and do not hear that they are not.
    OfficeUnchecked,
    /// Hosts forget which incarnations they have seen.
    FenceForgotten,
}

/// All of the broken ones.
pub(crate) const BROKEN: [Sabotage; 5] = [
    Sabotage::EpochUnchecked,
    Sabotage::BlockFreedEarly,
    Sabotage::PositionUnchecked,
    Sabotage::OfficeUnchecked,
    Sabotage::FenceForgotten,
];

/// Everything that can go wrong, and how much more often than others.
pub(crate) const TROUBLES: [(Trouble, u64); 23] = [
    (Trouble::Kill(Kind::Member), 8),
    (Trouble::Kill(Kind::Node), 4),
    (Trouble::Kill(Kind::Control), 3),
    (Trouble::Kill(Kind::Gateway), 2),
    (Trouble::PowerCut, 4),
    (Trouble::Freeze(Kind::Member), 5),
    (Trouble::Freeze(Kind::Node), 3),
    (Trouble::Freeze(Kind::Control), 2),
    (Trouble::Freeze(Kind::Gateway), 1),
    (Trouble::Partition, 4),
    (Trouble::OneWay, 4),
    (Trouble::Isolation, 4),
    (Trouble::SlowHost, 3),
    (Trouble::SlowNet, 2),
    (Trouble::Loss, 2),
    (Trouble::StoreAway, 3),
    (Trouble::StoreWiped, 2),
    (Trouble::StoreRestored, 3),
    (Trouble::Rollout, 4),
    (Trouble::Scale, 3),
    (Trouble::Leave, 2),
    (Trouble::StrayMember, 3),
    (Trouble::StrayRequest, 3),
];

/// What happens now.
pub(crate) fn happen(world: &mut World, fault: Fault) {
    match fault {
        Fault::Begin(trouble, time) => begin(world, trouble, time),
        Fault::Wake(pid) => world.thaw(pid),
        Fault::Backup => back_up(world),
        Fault::Heal(from, to) => world.heal(from, to),
        Fault::Speed(host) => world.hosts[host].slow = 1,
        Fault::CalmNet => world.net.slowness = 1,
        Fault::CalmStore => world.net.loss = 0,
        Fault::Start(kind, host) => start(world, kind, host),
        Fault::HangUp(line) => {
            for pid in world.all(Kind::Client) {
                world.hang_up(pid, line, "it was a stray");
            }
        }
        Fault::DeclareAll => {
            for pid in world.all(Kind::Client) {
                world.give(pid, Word::DeclareAll);
            }
        }
        Fault::Calm => calm(world),
    }
}

/// Starts a process on a host, if it has none of its kind.
pub(crate) fn start(world: &mut World, kind: Kind, host: HostId) {
    let there = world.all(kind).into_iter().any(|pid| world.host_of(pid) == host);
    if there {
        return;
    }
    let role = match kind {
        Kind::Store => {
            Role::Store(Box::new(Store::new(std::mem::take(&mut world.hosts[host].data))))
        }
        Kind::Control => Role::Control(Box::new(Control::new(world, host))),
        Kind::Node => Role::Node(Box::new(Node::new(world, host))),
        Kind::Gateway => Role::Gateway(Box::new(Gateway::new(world, host))),
        Kind::Member | Kind::Client => return,
    };
    world.spawn(host, None, Duration::from_millis(5), role);
}

fn begin(world: &mut World, trouble: Trouble, time: Duration) {
    let done = match trouble {
        Trouble::Kill(kind) => kill(world, kind),
        Trouble::PowerCut => power_cut(world, time),
        Trouble::Freeze(kind) => freeze(world, kind, time),
        Trouble::Partition | Trouble::OneWay => partition(world, trouble, time),
        Trouble::Isolation => isolate(world, time),
        Trouble::SlowHost => {
            let host = world.dice.between(2, world.hosts.len() as u64 - 1) as HostId;
            world.hosts[host].slow = 10;
            undo(world, time, Fault::Speed(host));
            true
        }
        Trouble::SlowNet => {
            world.net.slowness = 20;
            undo(world, time, Fault::CalmNet);
            true
        }
        Trouble::Loss => {
            world.net.loss = world.dice.between(50, 500);
            undo(world, time, Fault::CalmStore);
            true
        }
        Trouble::StoreAway => {
            let stores = world.all(Kind::Store);
            stores.iter().for_each(|store| world.kill(*store, "killed"));
            undo(world, time, Fault::Start(Kind::Store, STORE));
            !stores.is_empty()
        }
        Trouble::StoreWiped => wipe(world, time),
        Trouble::StoreRestored => restore(world, time),
        Trouble::Rollout => {
            world.service.restarted += 1;
            declare(world);
            true
        }
        Trouble::Scale => {
            world.service.replicas = world.dice.between(1, world.service.most.into()) as u32;
            declare(world);
            true
        }
        Trouble::Leave => leave(world, time),
        Trouble::StrayMember => stray(world, time, stray_member),
        Trouble::StrayRequest => stray(world, time, stray_request),
    };
    if done {
        *world.faults.entry(trouble.name()).or_default() += 1;
    }
}

/// Declares the service as it is to be now.
pub(crate) fn declare(world: &mut World) {
    world.service.generation += 1;
    let (key, value) = world.service.declaration(&world.keys);
    for pid in world.all(Kind::Client) {
        world.give(pid, Word::Declare(key.clone(), value.clone()));
    }
}

fn undo(world: &mut World, after: Duration, fault: Fault) {
    world.enter_at(world.now + after, Event::Fault(fault));
}

fn victim(world: &mut World, kind: Kind) -> Option<Pid> {
    let all = world.all(kind);
    world.dice.pick(&all)
}

fn kill(world: &mut World, kind: Kind) -> bool {
    let Some(pid) = victim(world, kind) else { return false };
    let host = world.host_of(pid);
    world.kill(pid, "killed by a signal");
    let after = world.dice.time(Duration::from_millis(200), Duration::from_secs(5));
    undo(world, after, Fault::Start(kind, host));
    true
}

fn power_cut(world: &mut World, time: Duration) -> bool {
    let Some(node) = victim(world, Kind::Node) else { return false };
    let host = world.host_of(node);
    for pid in world.on(host) {
        world.kill(pid, "no power");
    }
    undo(world, time, Fault::Start(Kind::Node, host));
    true
}

fn freeze(world: &mut World, kind: Kind, time: Duration) -> bool {
    let Some(pid) = victim(world, kind).filter(|pid| !world.is_frozen(*pid)) else { return false };
    world.freeze(pid);
    undo(world, time, Fault::Wake(pid));
    true
}

fn partition(world: &mut World, trouble: Trouble, time: Duration) -> bool {
    let hosts = world.hosts.len() as u64;
    let (a, b) = (world.dice.roll(hosts) as HostId, world.dice.roll(hosts) as HostId);
    if a == b || [a, b].contains(&CLIENTS) {
        return false;
    }
    world.cut(a, b);
    undo(world, time, Fault::Heal(a, b));
    if trouble == Trouble::Partition {
        world.cut(b, a);
        undo(world, time, Fault::Heal(b, a));
    }
    true
}

fn isolate(world: &mut World, time: Duration) -> bool {
    let host = world.dice.between(2, world.hosts.len() as u64 - 1) as HostId;
    for other in (0..world.hosts.len()).filter(|other| ![host, CLIENTS].contains(other)) {
        world.cut(host, other);
        world.cut(other, host);
        undo(world, time, Fault::Heal(host, other));
        undo(world, time, Fault::Heal(other, host));
    }
    true
}

fn wipe(world: &mut World, time: Duration) -> bool {
    let Some(store) = victim(world, Kind::Store) else { return false };
    world.with_store(store, Store::wipe);
    // Somebody notices, and declares again what is to be there.
    undo(world, time.min(Duration::from_secs(4)), Fault::DeclareAll);
    true
}

/// Copies what the store holds, every few seconds until nothing goes wrong any more.
fn back_up(world: &mut World) {
    let stores = world.all(Kind::Store);
    if let Some(Role::Store(store)) = stores.first().and_then(|pid| world.role(*pid)) {
        let copy = store.core().clone();
        world.backups.push_back(copy);
        if world.backups.len() > BACKUPS {
            world.backups.pop_front();
        }
    }
    if !world.calm {
        undo(world, Duration::from_secs(2), Fault::Backup);
    }
}

fn restore(world: &mut World, time: Duration) -> bool {
    let Some(store) = victim(world, Kind::Store) else { return false };
    let Some(backup) = world.backups.front().cloned() else { return false };
    let now = world.now;
    world.with_store(store, |store| store.restore(now, &backup));
    // Somebody notices, and declares again what is to be there.
    undo(world, time.min(Duration::from_secs(4)), Fault::DeclareAll);
    true
}

fn leave(world: &mut World, time: Duration) -> bool {
    let Some(node) = victim(world, Kind::Node) else { return false };
    let host = world.host_of(node);
    world.give(node, Word::Leave(5));
    undo(world, time + Duration::from_secs(12), Fault::Start(Kind::Node, host));
    true
}

fn stray(
    world: &mut World,
    time: Duration,
    said: fn(&mut World, Pid, &MemberKey) -> (Purpose, Frame),
) -> bool {
    let Some(client) = victim(world, Kind::Client) else { return false };
    let leaders = world.all(Kind::Member).into_iter().filter_map(|pid| match world.role(pid) {
        Some(Role::Member(member)) if member.leader().is_some() => {
            Some((pid, member.key().clone()))
        }
        _ => None,
    });
    let leaders: Vec<(Pid, MemberKey)> = leaders.collect();
    let Some((leader, key)) = world.dice.pick(&leaders) else { return false };
    let number = key.epoch.number.saturating_sub(1);
    let old = MemberKey { epoch: Epoch { number, nonce: world.dice.next() }, ..key };
    let (purpose, frame) = said(world, client, &old);
    let line = world.dial(client, leader, purpose, Duration::from_secs(5));
    world.say(client, line, frame);
    undo(world, time, Fault::HangUp(line));
    true
}

fn stray_member(world: &mut World, client: Pid, old: &MemberKey) -> (Purpose, Frame) {
    let member = world.dice.roll(3) as u32;
    let (group, epoch, address) = (old.group.clone(), old.epoch, format!("quic://sim:{client}"));
    (Purpose::Group, Frame::Up(MemberUp::Hello(Hello { group, epoch, member, address })))
}

fn stray_request(world: &mut World, _: Pid, old: &MemberKey) -> (Purpose, Frame) {
    let endpoint = EndpointId { group: old.group.clone(), revision: 1, epoch: old.epoch, dp: 0 };
    let generate = Generate {
        request: RequestId(world.dice.id()),
        attempt: 0,
        alone: false,
        endpoint,
        tenant: String::new(),
        priority: 0,
        time_left_ms: 60_000,
        prompt: vec![1, 2, 3],
        block_hashes: Vec::new(),
        hash_block_size: 0,
        hash_seed: 0,
        adapter: None,
        cache_salt: None,
        output: OutputKind::Tokens,
        options: SamplingOptions::default(),
        seed: 1,
        choices: vec![Choice::default()],
        kv_source: None,
        traceparent: None,
        model: Digest::of(MODEL_URI.as_bytes()),
        tokenizer: Digest::of(b"none"),
    };
    (Purpose::Generate, Frame::Generate(GenerateUp::Start(Box::new(generate))))
}

fn calm(world: &mut World) {
    world.calm = true;
    for (from, to) in world.net.all_cuts() {
        world.heal(from, to);
    }
    (world.net.slowness, world.net.loss) = (1, 0);
    for host in 0..world.hosts.len() {
        world.hosts[host].slow = 1;
        for pid in world.on(host) {
            world.thaw(pid);
        }
        if let Some(kind) = world.hosts[host].runs {
            start(world, kind, host);
        }
    }
}

// === impl Trouble ===

impl Trouble {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill(Kind::Member) => "member killed",
            Self::Kill(Kind::Node) => "node killed",
            Self::Kill(Kind::Control) => "controller killed",
            Self::Kill(_) => "gateway killed",
            Self::PowerCut => "host without power",
            Self::Freeze(Kind::Member) => "member frozen",
            Self::Freeze(Kind::Node) => "node frozen",
            Self::Freeze(Kind::Control) => "controller frozen",
            Self::Freeze(_) => "gateway frozen",
            Self::Partition => "two hosts apart",
            Self::OneWay => "one direction cut",
            Self::Isolation => "host cut off",
            Self::SlowHost => "slow host",
            Self::SlowNet => "slow network",
            Self::Loss => "answers of the store lost",
            Self::StoreAway => "store away",
            Self::StoreWiped => "store wiped",
            Self::StoreRestored => "store put back",
            Self::Rollout => "rollout",
            Self::Scale => "other number of groups",
            Self::Leave => "host stopped in order",
            Self::StrayMember => "stray member",
            Self::StrayRequest => "stray request",
        }
    }
}

/// Copies of the store that are kept.
const BACKUPS: usize = 4;
