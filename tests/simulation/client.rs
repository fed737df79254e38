//! Clients, who ask and keep account of what they are told, and the person who declares services.
//!
//! A client whose gateway is gone asks the same of another one: what it was told is void then. A
//! client whose gateway is there asks once and takes what comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use troupe_runtime::{
    discovery::{
        Op, Txn,
        rehearsal::{Answer, Ask},
    },
    id::RequestId,
};

use super::{
    net::LineId,
    words::{Frame, Purpose, Timer, Word},
    world::{Kind, Pid, World},
};

/// What a client wants.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// Which of the run's.
    pub(crate) number: usize,
    /// As its gateway names it; another one with each gateway.
    pub(crate) request: RequestId,
    pub(crate) prompt: Vec<u32>,
    pub(crate) max_tokens: u32,
    pub(crate) choices: u32,
    /// The text of this token ends a choice.
    pub(crate) stop: Option<u32>,
    pub(crate) priority: i32,
    /// Within this the answer is worth something.
    pub(crate) time: Duration,
    /// It is no longer wanted after so many tokens.
    pub(crate) gives_up: Option<usize>,
    /// When its gateway was asked, by the gateway's clock.
    pub(crate) asked: Duration,
}

/// Everybody who wants something.
#[derive(Default)]
pub(crate) struct Client {
    wishes: BTreeMap<usize, Wish>,
    lines: BTreeMap<LineId, usize>,
    heard: BTreeMap<usize, usize>,
    declared: BTreeMap<String, Vec<u8>>,
    /// What is being written, by the store's numbers.
    writing: BTreeMap<u64, String>,
    /// What was not done and is tried again.
    unwritten: BTreeSet<String>,
}

// === impl Client ===

impl Client {
    pub(crate) fn handle(&mut self, world: &mut World, me: Pid, word: Word) {
        match word {
            Word::Wish(wish) => {
                world.check.tokens.wished(&wish);
                let number = wish.number;
                self.wishes.insert(number, wish);
                self.ask(world, me, number);
            }
            Word::Timer(Timer::Again(number)) => self.ask(world, me, number),
            Word::Said(line, frame) => self.told(world, me, line, frame),
            Word::Over(line, _) => {
                let Some(number) = self.lines.remove(&line) else { return };
                world.check.tokens.lost_gateway(number);
                self.heard.remove(&number);
                world.timer(me, AGAIN, Timer::Again(number));
            }
            Word::Declare(key, value) => {
                self.declared.insert(key.clone(), value);
                self.write(world, me, key);
            }
            Word::DeclareAll => {
                let keys: Vec<String> = self.declared.keys().cloned().collect();
                keys.into_iter().for_each(|key| self.write(world, me, key));
            }
            Word::Answered(number, answer) => {
                let done = matches!(answer, Ok(Answer::Committed(true)));
                self.written(world, me, number, done);
            }
            Word::Timer(Timer::Late(number)) => self.written(world, me, number, false),
            Word::Timer(Timer::Write) => {
                let keys = std::mem::take(&mut self.unwritten);
                keys.into_iter().for_each(|key| self.write(world, me, key));
            }
            _ => {}
        }
    }

    fn write(&mut self, world: &mut World, me: Pid, key: String) {
        let Some(value) = self.declared.get(&key) else { return };
        let then = vec![Op::Put(key.clone(), value.clone())];
        let number = world.ask(me, Ask::commit(Txn { compare: Vec::new(), then }));
        self.writing.insert(number, key);
    }

    fn written(&mut self, world: &mut World, me: Pid, number: u64, done: bool) {
        let Some(key) = self.writing.remove(&number) else { return };
        if !done {
            self.unwritten.insert(key);
            world.timer(me, AGAIN, Timer::Write);
        }
    }

    fn ask(&mut self, world: &mut World, me: Pid, number: usize) {
        let gateways = world.all(Kind::Gateway);
        let (Some(gateway), Some(wish)) =
            (world.dice.pick(&gateways), self.wishes.get_mut(&number))
        else {
            return world.timer(me, AGAIN, Timer::Again(number));
        };
        wish.request = RequestId(world.dice.id());
        world.check.tokens.asked(number, wish.request);
        let line = world.dial(me, gateway, Purpose::Http, CONNECT);
        world.say(me, line, Frame::Ask(wish.clone()));
        self.lines.insert(line, number);
    }

    fn told(&mut self, world: &mut World, me: Pid, line: LineId, frame: Frame) {
        let Some(number) = self.lines.get(&line).copied() else { return };
        match frame {
            Frame::Tell(choice, tokens, last) => {
                world.check.tokens.received(number, choice, &tokens, last);
                let heard = self.heard.entry(number).or_default();
                *heard += tokens.len();
                let gives_up = self.wishes.get(&number).and_then(|wish| wish.gives_up);
                if gives_up.is_some_and(|after| *heard >= after) {
                    self.lines.remove(&line);
                    world.hang_up(me, line, "the client is gone");
                    world.check.tokens.gave_up(number);
                }
            }
            Frame::Done => {
                self.lines.remove(&line);
                world.check.tokens.done(number);
            }
            Frame::Failed(error) => {
                self.lines.remove(&line);
                world.check.tokens.failed(number, &error);
            }
            _ => {}
        }
    }
}

/// How soon a client asks again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a client waits for a gateway.
const CONNECT: Duration = Duration::from_secs(5);
