//! Holds each sequence's output to its grammar, where tokens are chosen: tensor rank 0 of the last
//! stage.
//!
//! Compiling happens on a thread of its own: [`Grammars::begin`] asks for what a plan brings before
//! the forward pass, [`Grammars::masks`] takes it when tokens are to be chosen. That thread also
//! sorts the vocabulary when the member loads, which takes a third of a second for 128,000 tokens.
//!
//! A matcher is kept per sequence and only ever follows its tokens: whatever the history in a
//! request is (a new sequence, one that moved or was preempted, one whose drafts were rejected),
//! the matcher goes back to where both agree and takes the rest. A sequence's further requests in
//! one step are its drafts; what stands behind a draft that the grammar refuses will not be kept,
//! so it is not masked at all. A grammar that breaks fails its own sequence and nothing else.
//!
//! A model that reasons does so freely; its grammar begins behind that ([`super::reasoning`]).

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    time::Duration,
};

use troupe_gpu::executor::{SampleRequest, Sampled};
use troupe_runtime::{
    id::{Digest, SequenceId},
    model::grammar::{GrammarError, GrammarFactory, Matcher},
    wire::{generate::Grammar, step::StepPlan},
};

use super::reasoning::Held;

/// Makes the factory of the group's model; called once, on the compiler's thread.
pub type GrammarSource = Arc<dyn Fn() -> Result<GrammarFactory, String> + Send + Sync>;

/// What one request may choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Everything.
    All,
    /// One bit per token of the vocabulary.
    These(Vec<u32>),
    /// Nothing: the grammar broke, for this reason.
    Failed(String),
}

/// The grammars of all sequences of one group.
pub struct Grammars {
    jobs: Option<mpsc::SyncSender<Job>>,
    compiled: BTreeMap<Digest, Compiled>,
    followed: BTreeMap<SequenceId, Followed>,
    /// Counts uses, to tell which grammar was used last.
    now: u64,
}

struct Compiled {
    state: State,
    used: u64,
}

enum State {
    Pending(mpsc::Receiver<Result<Matcher, String>>),
    Ready(Matcher),
    Refused(String),
}

struct Job {
    grammar: Grammar,
    answer: mpsc::SyncSender<Result<Matcher, String>>,
}

/// One sequence's matcher and the tokens that it has taken.
struct Followed {
    matcher: Matcher,
    tokens: Vec<u32>,
}

// === impl Allowed ===

impl Allowed {
    /// As sampling takes it.
    pub fn mask(&self) -> Option<&[u32]> {
        match self {
            Self::These(words) => Some(words),
            Self::All | Self::Failed(_) => None,
        }
    }
}

/// Puts the reasons of broken grammars into the answers of the same requests.
pub fn fail(allowed: &[Allowed], sampled: &mut [Sampled]) {
    for (allowed, sampled) in allowed.iter().zip(sampled) {
        if let Allowed::Failed(why) = allowed {
            *sampled = Sampled { failed: Some(why.clone()), ..Sampled::default() };
        }
    }
}

// === impl Grammars ===

impl Grammars {
    /// None yet. Without a source every grammar fails its sequence.
    pub fn new(source: Option<GrammarSource>) -> Self {
        let jobs = source.and_then(|source| {
            let (jobs, queue) = mpsc::sync_channel(MAX_WAITING);
            let thread = std::thread::Builder::new().name("grammars".into());
            // The thread ends when the jobs' sender is dropped.
            thread.spawn(move || compile_all(&source, &queue)).ok().map(|_| jobs)
        });
        Self { jobs, compiled: BTreeMap::new(), followed: BTreeMap::new(), now: 0 }
    }

    /// Looks at a plan before it is computed: forgets what is finished and begins to compile what
    /// is new. Does not block.
    pub fn begin(&mut self, plan: &StepPlan) {
        self.forget(&plan.finished);
        for grammar in plan.new.iter().filter_map(|new| new.options.grammar.as_ref()) {
            self.ask(key(grammar), grammar);
        }
    }

    /// Drops what is known of sequences that are gone.
    pub fn forget(&mut self, finished: &[SequenceId]) {
        for sequence in finished {
            self.followed.remove(sequence);
        }
    }

    /// What each request may choose from, in order. The requests of one sequence stand together,
    /// each with one more draft than the one before. Blocks while a grammar is still compiled, at
    /// most [`COMPILE_WAIT`].
    pub fn masks(&mut self, requests: &[SampleRequest<'_>]) -> Vec<Allowed> {
        let mut before = None;
        let mut allowed = Vec::with_capacity(requests.len());
        for request in requests {
            let is_behind_draft = before.replace(request.sequence) == Some(request.sequence);
            let grammar = request.options.grammar.as_ref().filter(|_| request.sample);
            allowed.push(match grammar.map(|grammar| self.follow(request, grammar)) {
                None => Allowed::All,
                Some(Ok(allowed)) => allowed,
                Some(Err(GrammarError::Refused { .. })) if is_behind_draft => Allowed::All,
                Some(Err(error)) => Allowed::Failed(error.to_string()),
            });
        }
        allowed
    }

    fn follow(
        &mut self,
        request: &SampleRequest<'_>,
        grammar: &Grammar,
    ) -> Result<Allowed, GrammarError> {
        let output = request.tokens.get(request.prompt_len..).unwrap_or_default();
        let Some(held) = Held::of(output, request.options.reasoning.as_ref()) else {
            return Ok(Allowed::All);
        };
        let mask = self.mask_after(request.sequence, &output[held.from..], grammar);
        let mut words = mask.map_err(|error| error.behind(held.from))?;
        let opener = held.opener.and_then(|token| {
            let word = words.get_mut(token as usize / 32);
            word.map(|word| (word, 1 << (token % 32)))
        });
        if let Some((word, bit)) = opener {
            *word |= bit;
        }
        Ok(Allowed::These(words))
    }

    /// Which tokens the grammar allows behind those that it holds.
    fn mask_after(
        &mut self,
        sequence: SequenceId,
        output: &[u32],
        grammar: &Grammar,
    ) -> Result<Vec<u32>, GrammarError> {
        let mut followed = match self.followed.remove(&sequence) {
            Some(followed) => followed,
            None => self.fresh(grammar)?,
        };
        let mut mask = followed.mask_after(output);
        if matches!(mask, Err(GrammarError::Broke { .. })) {
            // What is learned of a grammar's lexemes is shared by its sequences, and so are its
            // limits: alone, with nothing learned, this one may well go on.
            self.compiled.remove(&key(grammar));
            followed = self.fresh(grammar)?;
            mask = followed.mask_after(output);
        }
        self.followed.insert(sequence, followed);
        mask
    }

    fn fresh(&mut self, grammar: &Grammar) -> Result<Followed, GrammarError> {
        let broke = |reason: &str| GrammarError::Broke { position: 0, reason: reason.into() };
        let key = key(grammar);
        self.ask(key, grammar);
        let Some(compiled) = self.compiled.get_mut(&key) else {
            return Err(broke("too many grammars wait to be compiled"));
        };
        if let State::Pending(answer) = &compiled.state {
            let answer = answer.recv_timeout(COMPILE_WAIT).map_err(|_| broke("it is not ready"))?;
            compiled.state = answer.map_or_else(State::Refused, State::Ready);
        }
        match &compiled.state {
            State::Ready(matcher) => Ok(Followed { matcher: matcher.clone(), tokens: Vec::new() }),
            State::Refused(why) => Err(broke(why)),
            State::Pending(_) => Err(broke("it is not ready")),
        }
    }

    /// Has a grammar compiled unless it is known. If too many wait, it stays unknown.
    fn ask(&mut self, key: Digest, grammar: &Grammar) {
        self.now += 1;
        if let Some(known) = self.compiled.get_mut(&key) {
            known.used = self.now;
            return;
        }
        let (answer, pending) = mpsc::sync_channel(1);
        let Some(jobs) = &self.jobs else {
            let refused = State::Refused("this model has no grammars".into());
            self.compiled.insert(key, Compiled { state: refused, used: self.now });
            return;
        };
        if jobs.try_send(Job { grammar: grammar.clone(), answer }).is_err() {
            return;
        }
        if self.compiled.len() >= MAX_COMPILED {
            let settled = self.compiled.iter().filter(|(_, compiled)| !compiled.is_pending());
            let oldest = settled.min_by_key(|(_, compiled)| compiled.used).map(|(key, _)| *key);
            oldest.and_then(|key| self.compiled.remove(&key));
        }
        self.compiled.insert(key, Compiled { state: State::Pending(pending), used: self.now });
    }
}

impl Compiled {
    fn is_pending(&self) -> bool {
        matches!(self.state, State::Pending(_))
    }
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Grammars({} followed, {} compiled)", self.followed.len(), self.compiled.len())
    }
}

// === impl Followed ===

impl Followed {
    /// Which tokens may follow this output.
    fn mask_after(&mut self, output: &[u32]) -> Result<Vec<u32>, GrammarError> {
        let same = self.tokens.iter().zip(output).take_while(|(mine, its)| mine == its).count();
        self.matcher.rollback(self.tokens.len() - same)?;
        self.tokens.truncate(same);
        for &token in &output[same..] {
            self.matcher.accept(token)?;
            self.tokens.push(token);
        }
        Ok(self.matcher.allowed_mask()?.to_vec())
    }
}

// === Helpers ===

fn key(grammar: &Grammar) -> Digest {
    let (kind, text) = match grammar {
        Grammar::JsonSchema(text) => ("json", text),
        Grammar::Lark(text) => ("lark", text),
        Grammar::Regex(text) => ("regex", text),
    };
    Digest::of(&[kind.as_bytes(), text.as_bytes()].join(&0))
}

fn compile_all(source: &GrammarSource, queue: &mpsc::Receiver<Job>) {
    let factory = source();
    while let Ok(Job { grammar, answer }) = queue.recv() {
        let compiled = match &factory {
            Ok(factory) => factory.compile(&grammar).map_err(|error| error.to_string()),
            Err(why) => Err(why.clone()),
        };
        // Nobody waits for it any more if this fails.
        let _ = answer.send(compiled);
    }
}

/// Longest wait for a grammar. The gateway refused what takes 5 s, so only several that are new at
/// once can come near.
const COMPILE_WAIT: Duration = Duration::from_secs(10);
/// Grammars that wait for the compiler: as many as a step may bring new choices of one request.
const MAX_WAITING: usize = 1024;
/// Grammars kept for the sequences to come; one that is in use lives on in its sequences.
const MAX_COMPILED: usize = 64;

#[cfg(test)]
#[path = "grammar_tests.rs"]
mod tests;
