//! One seed, from its beginning to its end: the cluster comes up, clients ask, things go wrong,
//! then nothing does any more, and within a bound everything has to be as it was declared.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use super::{
    check::rest,
    faults::{self, Fault, Sabotage},
    scenario::Scenario,
    words::Word,
    world::{CLIENTS, Event, Role, World},
};

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// The fingerprint of all events, and how many they were.
    pub(crate) trace: (u64, u64),
    /// What should not have been.
    pub(crate) complaints: Vec<String>,
    /// What went wrong, by kind.
    pub(crate) faults: BTreeMap<&'static str, u32>,
    /// Requests that clients asked, and of these those that ended with an error.
    pub(crate) wishes: usize,
    pub(crate) unfulfilled: usize,
    /// Incarnations of groups that were planned.
    pub(crate) planned: u64,
    /// From the end of all faults until everything was as it should be.
    pub(crate) settled: Duration,
}

/// Runs one seed; a panic of a core is a complaint.
pub(crate) fn run(seed: u64, sabotage: Sabotage, loud: bool) -> Report {
    let run = AssertUnwindSafe(|| one(seed, sabotage, loud));
    catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let complaints = vec![format!("a panic: {}", text.unwrap_or_default())];
        Report { complaints, ..Report::default() }
    })
}

fn one(seed: u64, sabotage: Sabotage, loud: bool) -> Report {
    let Scenario { hosts, service, wishes, troubles, calm } = Scenario::draw(seed);
    let few = troubles.len() < 4;
    let mut world = World::new(seed, hosts, service, sabotage);
    world.loud = loud;
    let begin = world.now;
    let client = world.spawn(CLIENTS, None, Duration::ZERO, Role::Client(Box::default()));
    for host in 0..world.hosts.len() {
        if let Some(kind) = world.hosts[host].runs {
            faults::start(&mut world, kind, host);
        }
    }
    faults::declare(&mut world);
    let asked = wishes.len();
    for (at, wish) in wishes {
        world.enter(at, client, Word::Wish(wish));
    }
    for (at, trouble, time) in troubles {
        world.enter_at(begin + at, Event::Fault(Fault::Begin(trouble, time)));
    }
    world.enter_at(begin, Event::Fault(Fault::Backup));
    let calm = begin + calm;
    world.enter_at(calm, Event::Fault(Fault::Calm));
    let settled = settle(&mut world, calm);
    let unfulfilled = world.check.tokens.unfulfilled();
    match settled {
        Ok(_) => {
            for left in rest::leftovers(&world) {
                world.check.bounds.left(left);
            }
        }
        Err(why) => world.check.bounds.left(format!("{PATIENCE:?} after all faults {why}")),
    }
    if few {
        for wish in &unfulfilled {
            world.check.bounds.left(format!("few faults were noticed: {wish}"));
        }
    }
    Report {
        trace: world.trace(),
        complaints: world.check.complaints(),
        faults: world.faults.clone(),
        wishes: asked,
        unfulfilled: unfulfilled.len(),
        planned: world.check.epochs.planned,
        settled: world.now.saturating_sub(calm),
    }
}

/// Lets events happen until all is as it should be and stays so for a while, or the bound is over.
fn settle(world: &mut World, calm: Duration) -> Result<(), String> {
    let (mut look, mut since) = (calm + LOOK, None);
    let mut missing = "nothing was looked at".to_owned();
    while world.next_at().is_some() && world.check.is_content() {
        if world.next_at().is_some_and(|next| next < look) {
            world.step();
            continue;
        }
        match rest::is_there(world, world.service.replicas) {
            Ok(()) if look - *since.get_or_insert(look) >= STAYS => return Ok(()),
            Ok(()) => {}
            Err(why) => (since, missing) = (None, why),
        }
        if look > calm + PATIENCE {
            break;
        }
        look += LOOK;
    }
    Err(missing)
}

/// How often it is looked at whether all is as it should be.
const LOOK: Duration = Duration::from_millis(500);
/// How long it has to stay so.
const STAYS: Duration = Duration::from_secs(3);
/// Within this after the last fault all has to be as it should be.
const PATIENCE: Duration = Duration::from_secs(150);
