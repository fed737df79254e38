//! A gateway: the endpoints that it believes in, and the requests that it carries to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use troupe_gateway::{
    Happened, Keeping, SimulatedAttempt, SimulatedGateway, SimulatedPlace, SimulatedStream,
    StoreSays, Wanted, Wants,
};
use troupe_runtime::{
    backoff::Backoff,
    discovery::{
        RegistryError, WatchEvent,
        directory::{self, EndpointRecord, GatewayRecord},
        rehearsal::{Answer, Command},
    },
    error::{ErrorKind, PublicError},
    id::{EndpointId, NodeId, RequestId},
    wire::{
        generate::{Generate, GenerateDown, GenerateUp, OutputKind, SamplingOptions},
        status::{StatusDown, StatusUp},
    },
};

use super::{
    client::Wish,
    faults::Sabotage,
    lease::Lease,
    member::pid_at,
    net::{IDLE, LineId},
    scenario::MODEL,
    watch::{Witness, Witnessed},
    words::{Frame, Purpose, Timer, Word},
    world::{HostId, Pid, World, away},
};

/// A gateway's process.
pub(crate) struct Gateway {
    host: HostId,
    id: NodeId,
    origin: Duration,
    core: SimulatedGateway,
    watch: Witnessed,
    lease: Lease,
    /// By their keys in the store.
    keepers: BTreeMap<String, Keeper>,
    status: BTreeMap<LineId, String>,
    requests: BTreeMap<RequestId, Execution>,
    attempts: BTreeMap<LineId, RequestId>,
    clients: BTreeMap<LineId, RequestId>,
    recalled_life: Option<String>,
}

/// What a gateway knew when it ended: the store's life, and the endpoints by their keys.
pub(crate) type Beliefs = (Option<String>, Vec<(String, EndpointRecord)>);

/// An endpoint that is to be ready.
struct Keeper {
    record: EndpointRecord,
    line: Option<LineId>,
    entered: Option<EndpointId>,
    tries: u32,
}

/// A request on its way.
struct Execution {
    wish: Wish,
    client: LineId,
    stream: SimulatedStream,
    place: Option<SimulatedPlace>,
    attempt: Option<(LineId, SimulatedAttempt)>,
    /// It waits for an endpoint until then, and for this reason in vain.
    holds: Option<(Duration, PublicError)>,
    /// Connections over which an attempt was lost.
    broken: BTreeSet<u64>,
    /// Tokens that its client was told, for each choice.
    told: Vec<u32>,
}

// === impl Gateway ===

impl Gateway {
    pub(crate) fn new(world: &mut World, host: HostId) -> Self {
        let endpoints = world.keys.endpoints();
        Self {
            host,
            id: NodeId(world.dice.id()),
            origin: world.now,
            core: SimulatedGateway::new(),
            watch: Witnessed::new(world, 0, endpoints),
            lease: Lease::new(world, PRESENCE_MILLIS),
            keepers: BTreeMap::new(),
            status: BTreeMap::new(),
            requests: BTreeMap::new(),
            attempts: BTreeMap::new(),
            clients: BTreeMap::new(),
            recalled_life: None,
        }
    }

    /// The endpoints that are ready here.
    pub(crate) fn ready(&self) -> Vec<EndpointId> {
        self.keepers.values().filter_map(|keeper| keeper.entered.clone()).collect()
    }

    /// Requests that it carries.
    pub(crate) fn carries(&self) -> usize {
        self.requests.len()
    }

    pub(crate) fn handle(&mut self, world: &mut World, me: Pid, word: Word) {
        if self.watch.hear(world, me, &word) {
            return self.store_told(world, me);
        }
        match word {
            Word::Begin => self.begin(world, me),
            Word::Timer(Timer::Tick) => {
                self.says(world, me, StoreSays::Nothing);
                world.hosts[self.host].beliefs = (self.watch.life(), self.core.believed());
                world.timer(me, TICK, Timer::Tick);
            }
            Word::Timer(Timer::Lease(timer)) => self.lease.timer(world, me, timer),
            Word::Timer(Timer::Late(number)) => {
                self.answered(world, me, number, Err(away("late")));
            }
            Word::Answered(number, answer) => self.answered(world, me, number, answer),
            Word::Timer(Timer::Keeper(key)) => self.try_endpoint(world, me, &key),
            Word::Timer(Timer::Request(request)) => self.time_over(world, me, request),
            Word::Said(line, Frame::Ask(wish)) => self.asked(world, me, line, wish),
            Word::Said(line, Frame::Generated(down)) => {
                if let Some(request) = self.attempts.get(&line).copied() {
                    self.heard(world, me, request, down);
                }
            }
            Word::Said(line, Frame::Status(down)) => {
                if let Some(key) = self.status.get(&line).cloned() {
                    self.endpoint_said(world, me, (line, &key), down);
                }
            }
            Word::Over(line, why) => self.line_over(world, me, line, &why),
            _ => {}
        }
    }

    fn begin(&mut self, world: &mut World, me: Pid) {
        let (life, known) = world.hosts[self.host].beliefs.clone();
        self.recalled_life = life;
        for (key, record) in known {
            self.says(world, me, StoreSays::Recalled(key, record));
        }
        self.lease.begin(world, me);
        let (key, address) = (world.keys.gateway(self.id), String::new());
        let record = GatewayRecord { id: self.id, address, version: "0".into() };
        self.lease.command(world, me, Command::Put(key, directory::to_bytes(record)));
        self.watch.open(world, me);
        world.timer(me, TICK, Timer::Tick);
    }

    fn answered(
        &mut self,
        world: &mut World,
        me: Pid,
        number: u64,
        answer: Result<Answer, RegistryError>,
    ) {
        let mut answer = Some(answer);
        if !self.lease.answered(world, me, number, &mut answer)
            && self.watch.answered(world, me, number, &mut answer)
        {
            self.store_told(world, me);
        }
        while self.lease.through().is_some() {}
    }

    fn store_told(&mut self, world: &mut World, me: Pid) {
        while let Some(told) = self.watch.next() {
            let says = match told {
                Witness::Event(WatchEvent::Put(entry)) => {
                    match directory::from_bytes::<EndpointRecord>(&entry.key, &entry.value) {
                        Ok(record) => StoreSays::Put(entry.key, record),
                        Err(_) => StoreSays::Deleted(entry.key),
                    }
                }
                Witness::Gone(key, true) => StoreSays::Deleted(key),
                Witness::Gone(key, false) => StoreSays::Lost(key),
                Witness::Event(WatchEvent::Synced) => {
                    let life = self.watch.life();
                    if life.is_none() || life != self.recalled_life {
                        continue;
                    }
                    StoreSays::Known
                }
                Witness::Event(_) => continue,
            };
            self.says(world, me, says);
        }
    }

    fn says(&mut self, world: &mut World, me: Pid, says: StoreSays) {
        let now = world.now - self.origin;
        for keeping in self.core.hear(now, says) {
            match keeping {
                Keeping::Keep(key, record) => {
                    world.check.epochs.believed(me, &record.info.endpoint);
                    let keeper = Keeper { record, line: None, entered: None, tries: 0 };
                    self.keepers.insert(key.clone(), keeper);
                    self.try_endpoint(world, me, &key);
                }
                Keeping::Drop(key) => {
                    let Some(keeper) = self.keepers.remove(&key) else { continue };
                    if let Some(endpoint) = keeper.entered {
                        self.core.leave(&endpoint, true);
                    }
                    if let Some(line) = keeper.line {
                        self.status.remove(&line);
                        world.hang_up(me, line, "no longer followed");
                    }
                }
            }
        }
        self.look_at_fence(world, me);
        self.look_at_held(world, me);
    }

    /// Connections to incarnations that are over were closed.
    fn look_at_fence(&mut self, world: &mut World, me: Pid) {
        let closed = |keeper: &Keeper| {
            keeper.entered.as_ref().is_some_and(|endpoint| self.core.is_closed(endpoint))
        };
        let over: Vec<_> =
            self.keepers.iter().filter(|(_, k)| closed(k)).filter_map(|(_, k)| k.line).collect();
        for line in over {
            world.hang_up(me, line, "superseded");
            self.line_over(world, me, line, "superseded");
        }
        let requests = self.requests.iter().filter(|(_, execution)| {
            execution.attempt.as_ref().is_some_and(|(_, attempt)| attempt.is_closed())
        });
        let requests: Vec<RequestId> = requests.map(|(request, _)| *request).collect();
        for request in requests {
            self.broke(world, me, request, "superseded");
        }
    }

    fn try_endpoint(&mut self, world: &mut World, me: Pid, key: &str) {
        let Some(keeper) = self.keepers.get_mut(key).filter(|keeper| keeper.line.is_none()) else {
            return;
        };
        let Some(leader) = pid_at(&keeper.record.address) else { return };
        let line = world.dial(me, leader, Purpose::Status, CONNECT_DEADLINE);
        world.say(me, line, Frame::Follow(StatusUp::Watch));
        keeper.line = Some(line);
        self.status.insert(line, key.to_owned());
    }

    fn endpoint_said(
        &mut self,
        world: &mut World,
        me: Pid,
        (line, key): (LineId, &str),
        down: StatusDown,
    ) {
        let now = world.now - self.origin;
        let Some(keeper) = self.keepers.get_mut(key) else { return };
        match down {
            StatusDown::Info(info) if info.endpoint == keeper.record.info.endpoint => {
                keeper.tries = 0;
                keeper.entered = Some(info.endpoint.clone());
                self.core.enter(*info, &keeper.record);
                self.look_at_held(world, me);
            }
            StatusDown::Info(_) => {
                world.hang_up(me, line, "it is another one");
                self.line_over(world, me, line, "it is another one");
            }
            StatusDown::Load(load) => {
                if let Some(endpoint) = &keeper.entered {
                    self.core.load(now, endpoint, load);
                }
            }
            StatusDown::Adapters(_) | StatusDown::Metrics(_) => {}
        }
    }

    fn line_over(&mut self, world: &mut World, me: Pid, line: LineId, why: &str) {
        if let Some(key) = self.status.remove(&line) {
            let seed = world.dice.next();
            let Some(keeper) = self.keepers.get_mut(&key) else { return };
            keeper.line = None;
            if let Some(endpoint) = keeper.entered.take() {
                self.core.leave(&endpoint, false);
            }
            let wait = Backoff::default().wait(seed, keeper.tries);
            keeper.tries = keeper.tries.saturating_add(1);
            world.timer(me, wait, Timer::Keeper(key));
        } else if let Some(request) = self.attempts.get(&line).copied() {
            self.broke(world, me, request, why);
        } else if let Some(request) = self.clients.remove(&line) {
            self.drop_request(world, me, request);
        }
    }

    // --- requests

    fn asked(&mut self, world: &mut World, me: Pid, client: LineId, wish: Wish) {
        let now = world.now - self.origin;
        let wish = Wish { asked: now, ..wish };
        let request = wish.request;
        let shape = (wish.prompt.len() as u32, wish.choices);
        let stop = wish.stop.map(SimulatedStream::text).into_iter().collect();
        let stream = SimulatedStream::new(request, shape, stop, now + wish.time);
        let told = vec![0; wish.choices as usize];
        world.timer(me, wish.time, Timer::Request(request));
        let (place, attempt, holds, broken) = (None, None, None, BTreeSet::new());
        let execution = Execution { wish, client, stream, place, attempt, holds, broken, told };
        self.requests.insert(request, execution);
        self.clients.insert(client, request);
        self.go_on(world, me, request, Wants::Place);
    }

    fn heard(&mut self, world: &mut World, me: Pid, request: RequestId, mut down: GenerateDown) {
        let now = world.now - self.origin;
        let Some(execution) = self.requests.get_mut(&request) else { return };
        if let Some((_, attempt)) = &execution.attempt {
            match &down {
                GenerateDown::Failed(error) if error.kind == ErrorKind::Internal => {
                    attempt.broke(now);
                }
                GenerateDown::Refused(_) => attempt.answered(),
                _ => {}
            }
        }
        if let GenerateDown::Chunk(chunk) = &mut down
            && world.sabotage == Sabotage::PositionUnchecked
        {
            chunk.position = execution.told[chunk.choice as usize];
        }
        self.happened(world, me, request, Happened::Down(down));
    }

    fn broke(&mut self, world: &mut World, me: Pid, request: RequestId, why: &str) {
        let now = world.now - self.origin;
        let Some(execution) = self.requests.get_mut(&request) else { return };
        if let Some((_, attempt)) = &execution.attempt {
            attempt.broke(now);
            execution.broken.insert(attempt.connection());
        }
        self.happened(world, me, request, Happened::Broken(why.to_owned()));
    }

    fn time_over(&mut self, world: &mut World, me: Pid, request: RequestId) {
        let Some(execution) = self.requests.get_mut(&request) else { return };
        match execution.holds.take() {
            Some((until, why)) if world.now >= until => {
                self.core.unhold(world.now - self.origin, MODEL, HELD_BYTES);
                self.happened(world, me, request, Happened::Unheld(why));
            }
            holds => {
                execution.holds = holds;
                self.happened(world, me, request, Happened::Tick);
            }
        }
    }

    /// An endpoint came: whoever waits for one may go there.
    fn look_at_held(&mut self, world: &mut World, me: Pid) {
        let held = self.requests.iter().filter(|(_, execution)| execution.holds.is_some());
        let held: Vec<RequestId> = held.map(|(request, _)| *request).collect();
        for request in held {
            let Some(happened) = self.choose(world, request) else { continue };
            if let Some(execution) = self.requests.get_mut(&request) {
                execution.holds = None;
                self.core.unhold(world.now - self.origin, MODEL, HELD_BYTES);
            }
            self.happened(world, me, request, happened);
        }
    }

    fn happened(&mut self, world: &mut World, me: Pid, request: RequestId, happened: Happened) {
        let now = world.now - self.origin;
        let Some(execution) = self.requests.get_mut(&request) else { return };
        let (told, finishes, wants) = execution.stream.handle(now, happened);
        for finish in finishes {
            if let Some((line, _)) = &execution.attempt {
                world.say(me, *line, Frame::Generate(GenerateUp::Finish(finish)));
            }
        }
        for told in told {
            let position = execution.told[told.choice as usize];
            let attempt = execution.stream.attempt();
            world.check.tokens.told(request, (told.choice, position), attempt, &told.tokens);
            execution.told[told.choice as usize] += told.tokens.len() as u32;
            if let Some((_, attempt)) = &mut execution.attempt {
                attempt.tokens(now, told.tokens.len());
            }
            let frame = Frame::Tell(told.choice, told.tokens, told.end.is_some());
            world.say(me, execution.client, frame);
        }
        self.go_on(world, me, request, wants);
    }

    fn go_on(&mut self, world: &mut World, me: Pid, request: RequestId, wants: Wants) {
        let now = world.now - self.origin;
        let Some(execution) = self.requests.get_mut(&request) else { return };
        let happened = match wants {
            Wants::Read => return,
            Wants::Place => {
                drop_attempt(world, me, execution, &mut self.attempts);
                let nowhere = || {
                    let message = format!("No endpoint of the model `{MODEL}` is ready.");
                    Happened::Nowhere(PublicError::new(ErrorKind::Unavailable, message))
                };
                self.choose(world, request).unwrap_or_else(nowhere)
            }
            Wants::Hold(why) => match self.core.hold(now, MODEL, HELD_BYTES) {
                true => {
                    execution.holds = Some((world.now + PATIENCE, why));
                    return world.timer(me, PATIENCE, Timer::Request(request));
                }
                false => Happened::Unheld(why),
            },
            Wants::Open => self.open(world, me, request),
            Wants::Done => {
                world.say(me, execution.client, Frame::Done);
                return self.drop_request(world, me, request);
            }
            Wants::Fail(error) => {
                world.say(me, execution.client, Frame::Failed(error));
                return self.drop_request(world, me, request);
            }
        };
        self.happened(world, me, request, happened);
    }

    fn choose(&mut self, world: &World, request: RequestId) -> Option<Happened> {
        let execution = self.requests.get_mut(&request)?;
        let wanted = Wanted {
            request,
            model: MODEL,
            tokenizer: troupe_runtime::id::Digest::of(b"none"),
            tokens: execution.wish.prompt.len() as u32,
            tried: execution.stream.tried(),
            broken: &execution.broken,
            origin: execution.stream.origin(),
        };
        let place = self.core.choose(world.now - self.origin, wanted)?;
        let (endpoint, fingerprint) =
            (place.info().endpoint.clone(), place.info().fingerprint.clone());
        execution.place = Some(place);
        Some(Happened::Placed(endpoint, fingerprint))
    }

    fn open(&mut self, world: &mut World, me: Pid, request: RequestId) -> Happened {
        let now = world.now - self.origin;
        let broken = || Happened::Broken("no endpoint was chosen".into());
        let Some(execution) = self.requests.get_mut(&request) else { return broken() };
        let Some(place) = execution.place.take() else { return broken() };
        let Some(leader) = pid_at(place.address()) else { return broken() };
        world.check.epochs.sent(me, &place.info().endpoint);
        let line = world.dial(me, leader, Purpose::Generate, IDLE);
        let mut generate = execution.generate(&place, now);
        if world.sabotage == Sabotage::PositionUnchecked {
            generate.choices.iter_mut().for_each(|choice| choice.output.clear());
        }
        world.say(me, line, Frame::Generate(GenerateUp::Start(Box::new(generate))));
        let attempt = self.core.send(now, &place, execution.wish.max_tokens);
        execution.attempt = Some((line, attempt));
        self.attempts.insert(line, request);
        Happened::Opened
    }

    fn drop_request(&mut self, world: &mut World, me: Pid, request: RequestId) {
        let Some(mut execution) = self.requests.remove(&request) else { return };
        if execution.holds.is_some() {
            self.core.unhold(world.now - self.origin, MODEL, HELD_BYTES);
        }
        drop_attempt(world, me, &mut execution, &mut self.attempts);
        self.clients.remove(&execution.client);
        world.hang_up(me, execution.client, "it is over");
    }
}

/// Dropping an attempt is its abort.
fn drop_attempt(
    world: &mut World,
    me: Pid,
    execution: &mut Execution,
    attempts: &mut BTreeMap<LineId, RequestId>,
) {
    if let Some((line, _)) = execution.attempt.take() {
        attempts.remove(&line);
        world.hang_up(me, line, "dropped");
    }
}

// === impl Execution ===

impl Execution {
    fn generate(&self, place: &SimulatedPlace, now: Duration) -> Generate {
        let (wish, info) = (&self.wish, place.info());
        let left = (wish.asked + wish.time).saturating_sub(now);
        Generate {
            request: wish.request,
            attempt: self.stream.attempt(),
            alone: false,
            endpoint: info.endpoint.clone(),
            tenant: String::new(),
            priority: wish.priority,
            time_left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            prompt: wish.prompt.clone(),
            block_hashes: Vec::new(),
            hash_block_size: 0,
            hash_seed: 0,
            adapter: None,
            cache_salt: None,
            output: OutputKind::Tokens,
            options: SamplingOptions { max_tokens: wish.max_tokens, ..Default::default() },
            seed: wish.number as u64,
            choices: self.stream.choices_so_far(),
            kv_source: None,
            traceparent: None,
            model: info.fingerprint.model,
            tokenizer: info.fingerprint.tokenizer,
        }
    }
}

/// How often doubts are looked at, and what has changed is kept.
const TICK: Duration = Duration::from_secs(1);
/// How long a request waits for an endpoint.
const PATIENCE: Duration = Duration::from_secs(60);
/// To connect to an endpoint, and for its first word.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a gateway's own lease is.
const PRESENCE_MILLIS: u64 = 3000;
/// What a request that waits takes.
const HELD_BYTES: usize = 1024;
