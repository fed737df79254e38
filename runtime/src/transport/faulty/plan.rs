//! What fails, decided: who hears whom, who is down, and the fate of each frame.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use tokio::{sync::watch, time::Instant};

use crate::{id::NodeId, transport::PeerAddr};

/// What happens to frames. Shares are between 0 and 1 and are tried in the order of the fields.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultProfile {
    /// Share of frames in whose place the connection breaks.
    pub breaks: f64,
    /// Share of frames in whose place their conversation is reset.
    pub resets: f64,
    /// Share of frames that come later by `stall`.
    pub stalls: f64,
    /// How much later.
    pub stall: Duration,
    /// Every frame comes later by something between these two. A frame waits for the one before it.
    pub delay: Range<Duration>,
    /// Hosts that have not heard each other for this long hold each other for dead.
    pub silence: Duration,
}

/// The state of the network, and a bell that rings when it changes.
#[derive(Debug)]
pub(super) struct Plan {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
pub(super) struct State {
    seed: u64,
    pub(super) profile: FaultProfile,
    nodes: BTreeMap<PeerAddr, NodeId>,
    /// (from, to), and since when nothing passes.
    cuts: BTreeMap<(NodeId, NodeId), Instant>,
    /// How often a cut between the two lasted for longer than the silence.
    deaths: BTreeMap<(NodeId, NodeId), u64>,
    down: BTreeMap<NodeId, Instant>,
    /// How often a process came back.
    lives: BTreeMap<NodeId, u64>,
    connections: BTreeMap<(NodeId, NodeId), u64>,
    /// Hosts that were ever named, to find mistakes in tests early.
    known: BTreeSet<NodeId>,
}

/// One connection as one of its ends sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    /// This end.
    pub(super) here: NodeId,
    /// The other end.
    pub(super) there: NodeId,
    /// Which of the connections between the two.
    number: u64,
    lives: (u64, u64),
    deaths: u64,
}

/// Whether a connection carries anything at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    Open,
    /// Silent, and given up at this time.
    Silent(Instant),
    /// Over, and why.
    Dead(&'static str),
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Break,
    Reset,
    Arrive(Duration),
}

// === impl FaultProfile ===

impl Default for FaultProfile {
    fn default() -> Self {
        Self {
            breaks: 0.0,
            resets: 0.0,
            stalls: 0.0,
            stall: Duration::ZERO,
            delay: Duration::ZERO..Duration::ZERO,
            silence: Duration::from_millis(1500),
        }
    }
}

impl FaultProfile {
    /// Draws the fate of one frame. Always draws the same number of times, so that a profile that
    /// changes does not shift what later frames draw.
    pub(super) fn draw(&self, random: &mut ChaCha8Rng) -> Fate {
        // 53 bits make an even share in 0..1.
        let mut share = || (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let (breaks, resets, stalls, delay) = (share(), share(), share(), share());
        if breaks < self.breaks {
            return Fate::Break;
        }
        if resets < self.resets {
            return Fate::Reset;
        }
        let stall = if stalls < self.stalls { self.stall } else { Duration::ZERO };
        let spread = self.delay.end.saturating_sub(self.delay.start);
        Fate::Arrive(self.delay.start + spread.mul_f64(delay) + stall)
    }
}

// === impl Plan ===

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        let state = State {
            seed,
            profile: FaultProfile::default(),
            nodes: BTreeMap::new(),
            cuts: BTreeMap::new(),
            deaths: BTreeMap::new(),
            down: BTreeMap::new(),
            lives: BTreeMap::new(),
            connections: BTreeMap::new(),
            known: BTreeSet::new(),
        };
        Self { state: Mutex::new(state), changes: watch::Sender::new(0) }
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changes.send_modify(|number| *number += 1);
        changed
    }

    /// Rings at every change after the call.
    pub(super) fn bell(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Returns when `here` can reach `there` and hear its answer.
    pub(super) async fn until_heard(
        &self,
        here: NodeId,
        there: NodeId,
    ) -> Result<(), &'static str> {
        let mut bell = self.bell();
        loop {
            let (down, silent) =
                self.read(|state| (state.is_down(here), state.silent_since(here, there).is_some()));
            match (down, silent) {
                (true, _) => return Err("this process crashed"),
                (false, false) => return Ok(()),
                // Fails only without a plan, and we are part of it.
                (false, true) => drop(bell.changed().await),
            }
        }
    }
}

// === impl State ===

impl State {
    pub(super) fn introduce(&mut self, address: PeerAddr, node: NodeId) {
        self.known.insert(node);
        self.nodes.insert(address, node);
    }

    pub(super) fn node_at(&self, address: &PeerAddr) -> Option<NodeId> {
        self.nodes.get(address).copied()
    }

    pub(super) fn cut(&mut self, from: NodeId, to: NodeId) {
        debug_assert!(self.known.contains(&from) && self.known.contains(&to), "unknown host");
        self.cuts.entry((from, to)).or_insert_with(Instant::now);
    }

    pub(super) fn mend(&mut self, from: NodeId, to: NodeId) {
        if let Some(since) = self.cuts.remove(&(from, to))
            && since.elapsed() >= self.profile.silence
        {
            *self.deaths.entry(ordered(from, to)).or_default() += 1;
        }
    }

    pub(super) fn crash(&mut self, node: NodeId) {
        debug_assert!(self.known.contains(&node), "unknown host");
        self.down.entry(node).or_insert_with(Instant::now);
    }

    pub(super) fn revive(&mut self, node: NodeId) {
        if self.down.remove(&node).is_some() {
            *self.lives.entry(node).or_default() += 1;
        }
    }

    pub(super) fn is_down(&self, node: NodeId) -> bool {
        self.down.contains_key(&node)
    }

    /// A new connection between two hosts, as it is at `here`.
    pub(super) fn number_connection(&mut self, here: NodeId, there: NodeId) -> Route {
        let number = self.connections.entry((here, there)).or_default();
        *number += 1;
        let number = *number;
        Route {
            here,
            there,
            number,
            lives: self.lives(here, there),
            deaths: self.deaths(here, there),
        }
    }

    /// Since when the two have not heard each other. One direction is enough: what is not
    /// acknowledged is not heard either.
    fn silent_since(&self, here: NodeId, there: NodeId) -> Option<Instant> {
        let cut = |pair| self.cuts.get(&pair).copied();
        [cut((here, there)), cut((there, here)), self.down.get(&there).copied()]
            .into_iter()
            .flatten()
            .min()
    }

    /// How a connection fares.
    pub(super) fn path(&self, route: &Route, now: Instant) -> Path {
        let Route { here, there, .. } = *route;
        if self.is_down(here) || route.lives.0 != self.lives(here, there).0 {
            return Path::Dead("this process crashed");
        }
        if route.lives.1 != self.lives(here, there).1 {
            return Path::Dead("the peer was restarted");
        }
        let unanswered = Path::Dead("the peer does not answer");
        if route.deaths != self.deaths(here, there) {
            return unanswered;
        }
        match self.silent_since(here, there) {
            None => Path::Open,
            Some(since) if now >= since + self.profile.silence => unanswered,
            Some(since) => Path::Silent(since + self.profile.silence),
        }
    }

    /// The generator of one conversation.
    pub(super) fn random(&self, route: &Route, opened: bool, conversation: u64) -> ChaCha8Rng {
        let mut hash = blake3::Hasher::new();
        for number in [self.seed, route.number, u64::from(opened), conversation] {
            hash.update(&number.to_le_bytes());
        }
        for node in [route.here, route.there] {
            hash.update(node.0.as_bytes());
        }
        ChaCha8Rng::from_seed(*hash.finalize().as_bytes())
    }

    fn lives(&self, here: NodeId, there: NodeId) -> (u64, u64) {
        let lives = |node| self.lives.get(&node).copied().unwrap_or_default();
        (lives(here), lives(there))
    }

    fn deaths(&self, a: NodeId, b: NodeId) -> u64 {
        self.deaths.get(&ordered(a, b)).copied().unwrap_or_default()
    }
}

fn ordered(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}
