//! What is left when faults are over: the cluster becomes what was declared, everybody agrees on
//! it, and nothing is held for requests that have ended.

use std::collections::{BTreeMap, BTreeSet};

use troupe_actors::{leader::engine::Engine, node::core::MemberKey};
use troupe_runtime::{
    discovery::directory::{self, EndpointRecord, GroupRecord, MemberState, NodeStatus},
    id::{Epoch, GroupId},
};

use crate::simulation::world::{Kind, Pid, Role, World};

/// Endpoints without their revisions, whose numbers may change while they serve.
type Incarnations = BTreeSet<(GroupId, Epoch)>;

/// Whether the cluster is as it was declared, with so many groups, and all requests have ended; if
/// not, what is missing.
pub(crate) fn is_there(world: &World, replicas: u32) -> Result<(), String> {
    let groups = records(world)?;
    if groups.len() != replicas as usize {
        return Err(format!("{} groups are planned, not {replicas}", groups.len()));
    }
    if let Some(record) = groups.iter().find(|record| record.drain.is_some()) {
        return Err(format!("{} drains", record.group));
    }
    let wanted = members(&groups);
    let running: BTreeSet<MemberKey> = processes(world).into_values().collect();
    if running != wanted {
        return Err(format!("members {running:?} run, not {wanted:?}"));
    }
    let ready = ready(world)?;
    if let Some(record) = groups.iter().find(|record| !ready.contains(&leader_of(record))) {
        return Err(format!("{} does not serve", record.group));
    }
    let endpoints: Incarnations = groups.iter().map(|r| (r.group.clone(), r.epoch)).collect();
    let stored = endpoints_stored(world)?;
    if stored != endpoints {
        return Err(format!("the store has endpoints {stored:?}, not {endpoints:?}"));
    }
    for pid in world.all(Kind::Gateway) {
        let Some(Role::Gateway(gateway)) = world.role(pid) else { continue };
        let known: Incarnations = gateway.ready().into_iter().map(|e| (e.group, e.epoch)).collect();
        if known != endpoints {
            return Err(format!("gateway {pid} has {known:?}, not {endpoints:?}"));
        }
        if gateway.carries() > 0 {
            return Err(format!("gateway {pid} carries {} requests", gateway.carries()));
        }
    }
    let waits = world.check.tokens.ends().find(|(_, end)| end.is_none());
    waits.map_or(Ok(()), |(number, _)| Err(format!("wish {number} has no end")))
}

/// What engines hold though nobody asks for anything, and what holds an office twice.
pub(crate) fn leftovers(world: &World) -> Vec<String> {
    let mut left = Vec::new();
    for pid in world.all(Kind::Member) {
        let Some(engine) = engine_of(world, pid) else { continue };
        let load = engine.load();
        let held = (load.running, load.waiting, load.blocks_used, engine.open_requests());
        if held != (0, 0, 0, 0) {
            left.push(format!("an idle engine has {load:?}"));
        }
    }
    let in_office = world.all(Kind::Control).into_iter().filter(
        |pid| matches!(world.role(*pid), Some(Role::Control(control)) if control.is_in_office()),
    );
    let in_office = in_office.count();
    if in_office != 1 {
        left.push(format!("{in_office} controllers are in office"));
    }
    left
}

fn engine_of(world: &World, pid: Pid) -> Option<&Engine> {
    match world.role(pid)? {
        Role::Member(member) => member.leader()?.engine(),
        _ => None,
    }
}

fn leader_of(record: &GroupRecord) -> MemberKey {
    MemberKey { group: record.group.clone(), epoch: record.epoch, member: 0 }
}

fn members(groups: &[GroupRecord]) -> BTreeSet<MemberKey> {
    let all = groups.iter().flat_map(|record| {
        (0..record.members.len() as u32).map(|member| MemberKey { member, ..leader_of(record) })
    });
    all.collect()
}

/// The members that run, by their processes.
fn processes(world: &World) -> BTreeMap<Pid, MemberKey> {
    let all = world.all(Kind::Member).into_iter().filter_map(|pid| match world.role(pid) {
        Some(Role::Member(member)) => Some((pid, member.key().clone())),
        _ => None,
    });
    all.collect()
}

fn records(world: &World) -> Result<Vec<GroupRecord>, String> {
    read(world, &world.keys.groups())
}

fn endpoints_stored(world: &World) -> Result<Incarnations, String> {
    let records: Vec<EndpointRecord> = read(world, &world.keys.endpoints())?;
    let endpoints = records.into_iter().map(|record| record.info.endpoint);
    Ok(endpoints.map(|endpoint| (endpoint.group, endpoint.epoch)).collect())
}

/// Members that serve, as their nodes report.
fn ready(world: &World) -> Result<BTreeSet<MemberKey>, String> {
    let statuses: Vec<NodeStatus> = read(world, &world.keys.node_statuses())?;
    let members = statuses.into_iter().flat_map(|status| status.members);
    let ready = members.filter(|member| member.state == MemberState::Ready);
    let key = |member: directory::MemberStatus| MemberKey {
        group: member.group,
        epoch: member.epoch,
        member: member.member,
    };
    Ok(ready.map(key).collect())
}

fn read<T: serde::de::DeserializeOwned>(world: &World, prefix: &str) -> Result<Vec<T>, String> {
    let store = world.all(Kind::Store).into_iter().find_map(|pid| match world.role(pid) {
        Some(Role::Store(store)) => Some(store),
        _ => None,
    });
    let entries = store.ok_or("there is no store")?.core().entries(prefix);
    let read = |entry: &troupe_runtime::discovery::Entry| {
        directory::from_bytes::<T>(&entry.key, &entry.value).map_err(|error| error.to_string())
    };
    entries.iter().map(read).collect()
}
