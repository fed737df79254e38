//! One run: a load, placed as a profile says, until all of it has been answered.

use std::{sync::Arc, time::Duration};

use troupe_actors::leader::{engine::EngineEvent, request::RequestKey};
use troupe_gateway::{Rehearsed, Sent};
use troupe_runtime::{
    id::RequestId,
    prefix::{Chain, Parameters},
    wire::{
        generate::{Choice, Chunk, Generate, GenerateDown, OutputKind, SamplingOptions},
        status::EndpointInfo,
    },
};
use uuid::Uuid;

use super::{
    cluster::Cluster,
    endpoint::{Came, Endpoint, Timer},
    load::{Conversation, Load, mix},
    outcome::{Answered, Run},
    placing::Placing,
    profiles::Profile,
    queue::Queue,
};

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The next turn of this conversation.
    Asks(usize),
    /// Something of this endpoint.
    At(usize, Timer),
    /// A gateway looks at what it believes.
    Looks,
}

/// A conversation under way.
#[derive(Debug)]
struct Talk<'a> {
    conversation: &'a Conversation,
    turn: usize,
    /// All that was said.
    tokens: Vec<u32>,
    /// Where the names of its blocks go on, and those so far.
    chain: Chain,
    hashes: Vec<u128>,
    sent: Option<Sent>,
    asked: Duration,
    first: Option<Duration>,
    prompt: u32,
    output: u32,
}

struct World<'a> {
    cluster: &'a Cluster,
    load: &'a Load,
    seed: u64,
    queue: Queue<Event>,
    infos: Vec<EndpointInfo>,
    endpoints: Vec<Endpoint>,
    placing: Placing,
    chain: Chain,
    /// Those that have begun.
    talks: Vec<Option<Talk<'a>>>,
    /// How many have begun, where so many are under way at a time.
    begun: usize,
    /// Turns that will be asked for at a known time.
    expected: usize,
    /// Requests that have not ended.
    left: usize,
    run: Run,
}

/// Lets a load run, as a profile says, over a cluster.
///
/// # Errors
/// An engine's books do not add up, or something is never answered: a bug.
pub(crate) fn run(
    cluster: &Cluster,
    load: &Load,
    profile: &Profile,
    seed: u64,
) -> Result<Run, String> {
    let mut world = World::new(cluster, load, profile, seed)?;
    world.begin();
    while world.left > 0 {
        let (now, event) = world.queue.next().ok_or("nothing happens any more")?;
        world.happen(now, event)?;
    }
    world.end()
}

// === impl World ===

impl<'a> World<'a> {
    fn new(
        cluster: &'a Cluster,
        load: &'a Load,
        profile: &Profile,
        seed: u64,
    ) -> Result<Self, String> {
        let infos: Vec<_> = (0..cluster.endpoints).map(|index| cluster.info(index)).collect();
        let parameters = infos.first().map(Parameters::of).ok_or("there are no endpoints")?;
        let endpoint = |info| Endpoint::new(cluster.settings(info), cluster.blocks, cluster.cost);
        Ok(Self {
            cluster,
            load,
            seed,
            queue: Queue::new(),
            endpoints: infos.iter().map(endpoint).collect(),
            placing: Placing::new(profile, infos.clone())?,
            infos,
            chain: parameters.chain(None, None),
            talks: load.conversations.iter().map(|_| None).collect(),
            begun: 0,
            expected: 0,
            left: load.requests(),
            run: Run::default(),
        })
    }

    fn begin(&mut self) {
        for endpoint in 0..self.endpoints.len() {
            self.queue.enter(Duration::ZERO, Event::At(endpoint, Timer::Load));
        }
        self.queue.enter(LOOKS, Event::Looks);
        match self.load.at_once {
            Some(count) => (0..count).for_each(|_| self.begin_next(Duration::ZERO)),
            None => {
                for (index, conversation) in self.load.conversations.iter().enumerate() {
                    self.expect(conversation.at, index);
                }
            }
        }
    }

    /// The next conversation that has not begun begins.
    fn begin_next(&mut self, now: Duration) {
        if self.begun < self.load.conversations.len() {
            self.expect(now, self.begun);
            self.begun += 1;
        }
    }

    fn expect(&mut self, at: Duration, conversation: usize) {
        self.expected += 1;
        self.queue.enter(at, Event::Asks(conversation));
    }

    fn happen(&mut self, now: Duration, event: Event) -> Result<(), String> {
        match event {
            Event::Asks(conversation) => {
                self.expected -= 1;
                self.ask(now, conversation)
            }
            Event::At(at, timer) => {
                let mut came = Came::default();
                let endpoint = &mut self.endpoints[at];
                match timer {
                    Timer::Step => endpoint.step_done(now, &mut came)?,
                    Timer::Ledger => {
                        if let Some(told) = endpoint.read_ledger(now, &mut came) {
                            self.placing.tell(at, &told);
                        }
                    }
                    Timer::Load => {
                        if let Some(load) = endpoint.tell_load(now, &mut came) {
                            self.placing.set_load(now, at, load);
                        }
                    }
                }
                self.came(now, at, came)
            }
            Event::Looks => {
                self.placing.forget(now);
                self.queue.enter(now + LOOKS, Event::Looks);
                if self.expected == 0 && !self.endpoints.iter().any(Endpoint::is_running) {
                    return Err(format!("{} requests are never answered", self.left));
                }
                Ok(())
            }
        }
    }

    /// The next turn of a conversation is asked for.
    fn ask(&mut self, now: Duration, conversation: usize) -> Result<(), String> {
        let (load, chain) = (self.load, self.chain);
        let begun = || Talk::new(&load.conversations[conversation], chain);
        let talk = self.talks[conversation].get_or_insert_with(begun);
        let turn = &talk.conversation.turns[talk.turn];
        talk.say(turn.pieces.iter().flat_map(|piece| piece.iter()), self.cluster.block_size);
        (talk.asked, talk.first, talk.output) = (now, None, 0);
        talk.prompt = talk.tokens.len() as u32;
        let number = (conversation as u128) << 32 | talk.turn as u128;
        let request = RequestId(Uuid::from_u128(u128::from(self.seed) << 64 | number));
        let hashes: Arc<[u128]> = talk.hashes.as_slice().into();
        let (tokens, max_tokens) = (talk.prompt, turn.output);
        let prompt = Rehearsed { request, tokens, max_tokens, hashes: &hashes };
        let (at, sent) = self.placing.place(now, prompt).ok_or("no endpoint is ready")?;
        talk.sent = sent;
        self.run.trace.add(&[now.as_nanos() as u64, number as u64, at as u64]);
        let info = &self.infos[at];
        let generate = Generate {
            request,
            attempt: 0,
            alone: false,
            endpoint: info.endpoint.clone(),
            tenant: String::new(),
            priority: 0,
            time_left_ms: u64::from(u32::MAX),
            prompt: talk.tokens.clone(),
            block_hashes: hashes.to_vec(),
            hash_block_size: info.block_size,
            hash_seed: self.chain.seed(),
            adapter: None,
            cache_salt: None,
            output: OutputKind::Tokens,
            options: SamplingOptions { max_tokens, ignore_eos: true, ..SamplingOptions::default() },
            // Not of the profile, so that all profiles see the same conversations.
            seed: mix(self.seed ^ mix(number as u64)),
            choices: vec![Choice::default()],
            kv_source: None,
            traceparent: None,
            model: info.fingerprint.model,
            tokenizer: info.fingerprint.tokenizer,
        };
        let mut came = Came::default();
        let event = EngineEvent::Submit(Box::new(generate));
        self.endpoints[at].handle(now, event, &mut came)?;
        self.came(now, at, came)
    }

    /// Does what an endpoint said.
    fn came(&mut self, now: Duration, at: usize, came: Came) -> Result<(), String> {
        for (time, timer) in came.timers {
            self.queue.enter(time, Event::At(at, timer));
        }
        for (key, down) in came.down {
            let conversation = conversation_of(key);
            match down {
                GenerateDown::Chunk(chunk) => self.answer(now, conversation, &chunk)?,
                GenerateDown::Refused(error) => {
                    self.run.refusal.get_or_insert(error.message);
                    self.refused(now, conversation);
                }
                GenerateDown::Failed(error) | GenerateDown::Moved(error) => {
                    return Err(error.message);
                }
            }
        }
        Ok(())
    }

    /// A part of an answer.
    fn answer(&mut self, now: Duration, conversation: usize, chunk: &Chunk) -> Result<(), String> {
        let Some(talk) = self.talks[conversation].as_mut() else {
            return Err("an answer came to nobody".into());
        };
        talk.tokens.extend(&chunk.tokens);
        talk.output += chunk.tokens.len() as u32;
        if let Some(sent) = &mut talk.sent {
            sent.tokens(now, chunk.tokens.len());
        }
        let first = *talk.first.get_or_insert(now);
        let Some(finish) = &chunk.finish else { return Ok(()) };
        let room = self.cluster.longest().saturating_sub(talk.prompt);
        let wanted = talk.conversation.turns[talk.turn].output.min(room);
        if talk.output != wanted {
            return Err(format!("an answer has {} tokens instead of {wanted}", talk.output));
        }
        let answered = Answered {
            conversation: conversation as u32,
            prompt: talk.prompt,
            cached: finish.usage.cached_tokens,
            output: talk.output,
            first: first - talk.asked,
            rest: now - first,
        };
        self.run.answered.push(answered);
        self.run.ended = now;
        let (time, turn, cached) = (now.as_nanos() as u64, talk.turn as u64, answered.cached);
        self.run.trace.add(&[time, conversation as u64, turn, cached.into()]);
        self.left -= 1;
        talk.sent = None;
        talk.turn += 1;
        match talk.conversation.turns.get(talk.turn) {
            Some(turn) => self.expect(now + turn.think, conversation),
            None => self.over(now, conversation),
        }
        Ok(())
    }

    /// A conversation cannot go on: nobody takes its request.
    fn refused(&mut self, now: Duration, conversation: usize) {
        let Some(talk) = &self.talks[conversation] else { return };
        let rest = talk.conversation.turns.len() - talk.turn;
        self.run.refused += rest as u64;
        self.left -= rest;
        self.over(now, conversation);
    }

    fn over(&mut self, now: Duration, conversation: usize) {
        self.talks[conversation] = None;
        if self.load.at_once.is_some() {
            self.begin_next(now);
        }
    }

    /// All has been answered; what was planned ahead of that is done too.
    fn end(mut self) -> Result<Run, String> {
        while self.endpoints.iter().any(Endpoint::is_running) {
            let (now, event) = self.queue.next().ok_or("a step never ends")?;
            self.happen(now, event)?;
        }
        for endpoint in &self.endpoints {
            endpoint.check_the_end()?;
            self.run.busy.push(endpoint.busy());
            self.run.preemptions += endpoint.counters().preemptions;
        }
        Ok(self.run)
    }
}

fn conversation_of(key: RequestKey) -> usize {
    (key.request.0.as_u128() >> 32) as u32 as usize
}

// === impl Talk ===

impl<'a> Talk<'a> {
    fn new(conversation: &'a Conversation, chain: Chain) -> Self {
        Self {
            conversation,
            turn: 0,
            tokens: Vec::new(),
            chain,
            hashes: Vec::new(),
            sent: None,
            asked: Duration::ZERO,
            first: None,
            prompt: 0,
            output: 0,
        }
    }

    /// More is said; blocks that are full now are named.
    fn say(&mut self, tokens: impl Iterator<Item = u32>, block_size: u32) {
        self.tokens.extend(tokens);
        let block_size = block_size as usize;
        let unnamed = self.tokens.get(self.hashes.len() * block_size..).unwrap_or_default();
        let (chain, blocks) = (&mut self.chain, unnamed.chunks_exact(block_size));
        self.hashes.extend(blocks.map(|block| chain.push(block)));
    }
}

/// A gateway looks so often at what it believes.
const LOOKS: Duration = Duration::from_millis(500);
