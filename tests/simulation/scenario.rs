//! What a run is of: hosts, a service, what clients ask and what goes wrong, all drawn from its
//! seed.

use std::time::Duration;

use troupe_actors::controller::desired;
use troupe_runtime::{
    discovery::{
        directory::{Launch, MemberPer},
        keys::Keys,
    },
    id::{NodeId, RequestId},
    spec::EngineFlags,
};

use super::{
    client::Wish,
    dice::Dice,
    faults::{TROUBLES, Trouble},
    world::{Host, Kind},
};

/// See the file.
pub(crate) struct Scenario {
    pub(crate) hosts: Vec<Host>,
    pub(crate) service: Service,
    /// When each is asked, after the beginning.
    pub(crate) wishes: Vec<(Duration, Wish)>,
    /// When each goes wrong, and for how long.
    pub(crate) troubles: Vec<(Duration, Trouble, Duration)>,
    /// When the last trouble is over at the latest.
    pub(crate) calm: Duration,
}

/// What is declared.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    launch: Launch,
    pub(crate) replicas: u32,
    /// The most for which there is room.
    pub(crate) most: u32,
    pub(crate) generation: u64,
    /// How often all groups were to be formed anew.
    pub(crate) restarted: u32,
}

/// Tokens of the model.
pub(crate) const VOCABULARY: u32 = 61;
/// Positions that it was made for.
pub(crate) const MODEL_LEN: u32 = 256;
/// KV blocks that a rank has room for: not enough for all sequences that may run.
pub(crate) const BLOCKS: u32 = 72;
/// Its name.
pub(crate) const MODEL: &str = "m";
pub(crate) const MODEL_URI: &str = "file:///m";

// === impl Scenario ===

impl Scenario {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed).fork();
        let stages = dice.between(1, 3) as u32;
        let nodes = dice.between(3, 5) as u32;
        let devices = dice.between(1, 2) as u32;
        // One group's worth of devices, and one host's, are to spare.
        let most = ((nodes - 1) * devices / stages).clamp(1, 3);
        let hosts = hosts(&mut dice, nodes, devices.max(stages.div_ceil(nodes - 1)));
        let replicas = dice.between(1, most.into()) as u32;
        let flags = EngineFlags {
            block_size: Some(4),
            max_num_seqs: Some(dice.between(2, 8) as u32),
            max_num_batched_tokens: Some(dice.between(16, 64) as u32),
            ..EngineFlags::default()
        };
        let mut launch = desired::launch(MODEL_URI.into(), MODEL.into(), flags);
        launch.pipeline_parallel = stages;
        launch.member_per = match dice.chance(500) {
            true => MemberPer::Stage,
            false => MemberPer::Host,
        };
        let service = Service { launch, replicas, most, generation: 0, restarted: 0 };
        let wishes = (0..dice.between(6, 20) as usize).map(|number| wish(&mut dice, number));
        let wishes = wishes.collect();
        let troubles = troubles(&mut dice, seed);
        let ends = troubles.iter().map(|(at, _, time)| *at + *time);
        let calm = ends.max().unwrap_or_default().max(LAST_WISH) + Duration::from_secs(1);
        Self { hosts, service, wishes, troubles, calm }
    }
}

fn hosts(dice: &mut Dice, nodes: u32, devices: u32) -> Vec<Host> {
    let named = |name: String, runs| Host { name, runs, slow: 1, ..Host::default() };
    let mut hosts = vec![named("store".into(), Some(Kind::Store)), named("clients".into(), None)];
    for number in 0..2 {
        let host = named(format!("control-{number}"), Some(Kind::Control));
        let skew = dice.time(Duration::ZERO, Duration::from_secs(3600));
        hosts.push(Host { skew, ..host });
    }
    hosts.extend((0..2).map(|number| named(format!("gateway-{number}"), Some(Kind::Gateway))));
    for number in 0..nodes {
        let node = Some(NodeId(dice.id()));
        let host = named(format!("node-{number}"), Some(Kind::Node));
        hosts.push(Host { node, devices, ..host });
    }
    hosts
}

fn wish(dice: &mut Dice, number: usize) -> (Duration, Wish) {
    let at = dice.time(Duration::ZERO, LAST_WISH);
    // Prompts of a family begin alike.
    let family = dice.roll(3) as u32;
    let shared = (0..dice.roll(40) as u32).map(|at| (at * 7 + family * 13) % VOCABULARY);
    let mut prompt: Vec<u32> = shared.collect();
    prompt.extend((0..dice.between(1, 12)).map(|_| dice.roll(VOCABULARY.into()) as u32));
    let max_tokens = match dice.chance(200) {
        true => dice.between(80, 140) as u32,
        false => dice.between(1, 50) as u32,
    };
    let wish = Wish {
        number,
        request: RequestId::default(),
        prompt,
        max_tokens,
        choices: if dice.chance(150) { 2 } else { 1 },
        stop: dice.chance(200).then(|| dice.roll(VOCABULARY.into()) as u32),
        priority: dice.roll(3) as i32 - 1,
        time: Duration::from_secs(600),
        gives_up: dice.chance(100).then(|| dice.between(1, 20) as usize),
        asked: Duration::ZERO,
    };
    (at, wish)
}

/// Of three runs one has a single trouble: it has to leave no trace in what clients see.
fn troubles(dice: &mut Dice, seed: u64) -> Vec<(Duration, Trouble, Duration)> {
    let count = match seed % 3 {
        0 => 1,
        _ => dice.between(2, 9),
    };
    let weights: u64 = TROUBLES.iter().map(|(_, weight)| weight).sum();
    let draw = |dice: &mut Dice| {
        let mut at = dice.roll(weights);
        let trouble = TROUBLES.iter().find(|(_, weight)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        trouble.map_or(Trouble::PowerCut, |(trouble, _)| *trouble)
    };
    let troubles = (0..count).map(|_| {
        let at = dice.time(Duration::from_millis(100), LAST_TROUBLE);
        let trouble = draw(dice);
        let longest = Duration::from_millis(dice.between(100, 9000));
        (at, trouble, dice.time(Duration::from_millis(50), longest))
    });
    troubles.collect()
}

// === impl Service ===

impl Service {
    /// Its key and its specification, as a person would have written it.
    pub(crate) fn declaration(&self, keys: &Keys) -> (String, Vec<u8>) {
        let mut document = desired::declare(MODEL, self.replicas, &self.launch);
        document["metadata"]["generation"] = self.generation.into();
        if self.restarted > 0 {
            let annotation = "troupe.dev/restartedAt";
            document["metadata"]["annotations"][annotation] = self.restarted.to_string().into();
        }
        (keys.spec(desired::KIND, "default", MODEL), document.to_string().into_bytes())
    }
}

/// When the last request comes.
const LAST_WISH: Duration = Duration::from_secs(18);
/// When the last trouble begins.
const LAST_TROUBLE: Duration = Duration::from_secs(20);
