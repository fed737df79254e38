//! A group without threads, without async and without a clock: the real engine core, one real
//! mirror and one tensor-free executor per stage, and between them the queues that a group has.
//!
//! [`Group::steps`] lists what could happen next, [`Group::take`] lets one of it happen, so whoever
//! drives it decides how far stages lag behind each other and how late results are. What a stage
//! does with a plan is what `worker/device.rs` does. After every event the books are checked:
//! every token is the one that follows when the sequence is computed alone, positions have no gap,
//! and the engine's own bookkeeping adds up.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use troupe_actors::{
    kv::{findable::Change, pool::BlockKey},
    leader::{
        engine::{Engine, EngineEffect, EngineEvent},
        request::RequestKey,
        settings::{EngineLimits, EngineSettings, Offload, steps_in_flight},
    },
    scheduler::{Counters, NgramSettings, Policy},
    worker::{
        fake::{FakeExecutor, FakeModel},
        mirror::Mirror,
        tokens::{self, TokenFeed},
    },
};
use troupe_gpu::{
    collective::Alone,
    executor::{Executor, HiddenStates, Logits, StageInput, StageOutput, StepBatch},
};
use troupe_runtime::{
    id::{Coordinate, Digest, EndpointId, Epoch, GroupId},
    prefix::Parameters,
    spec::service::Eviction,
    transport::bulk::{BulkSender, bulk_pair},
    wire::{
        generate::{Finish, FinishReason, Generate},
        status::Load,
        step::{StepPlan, StepResult},
    },
};

use super::{books::Books, turns::Turns};

/// What a group is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) stages: u32,
    pub(super) budget: u32,
    pub(super) sequences: u32,
    pub(super) block_size: u32,
    pub(super) blocks: u32,
    pub(super) threshold: u32,
    pub(super) policy: Policy,
    pub(super) prefix_caching: bool,
    pub(super) speculation: Option<NgramSettings>,
    pub(super) vocab_size: u32,
    pub(super) window: Option<u32>,
    /// Slots beside the device, in memory and on the disk, where every rank is there to fill them.
    pub(super) kept: (u32, u32),
    pub(super) eviction: Eviction,
}

/// Something that can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// This stage runs its next plan.
    Stage(usize),
    /// The oldest result reaches the engine.
    Result,
}

/// The group.
pub(super) struct Group {
    pub(super) shape: Shape,
    pub(super) books: Books,
    engine: Engine,
    stages: Vec<Stage>,
    results: VecDeque<StepResult>,
    /// Sampled tokens to the first stage, if that is not the one that samples.
    told: Vec<BulkSender>,
    /// The sequences of these seeds fail at their next token.
    to_fail: Vec<u64>,
    turns: Turns,
    /// Blocks that the engine has said can be found.
    cached: BTreeSet<BlockKey>,
}

struct Stage {
    mirror: Mirror,
    executor: FakeExecutor,
    plans: VecDeque<Arc<StepPlan>>,
    upstream: VecDeque<HiddenStates>,
    feed: Option<TokenFeed>,
    /// The last step that it ran.
    ran: u64,
}

impl Group {
    pub(super) fn new(shape: Shape) -> Self {
        let depth = steps_in_flight(shape.stages);
        let epoch = endpoint().epoch;
        let (sender, receiver) = bulk_pair(depth as usize + 1);
        let mut receiver = (shape.stages > 1).then_some(receiver);
        let stage = |stage| {
            let model = FakeModel {
                stages: shape.stages,
                vocab_size: shape.vocab_size,
                blocks: shape.blocks,
                block_size: shape.block_size,
                window: shape.window,
                layers: shape.stages,
                heads: 1,
            };
            let coordinate = Coordinate { dp: 0, stage, tp: 0 };
            let mut executor = FakeExecutor::new(coordinate, model, Box::new(Alone));
            executor.allocate_kv(&[shape.blocks]).unwrap();
            Stage {
                mirror: Mirror::new(epoch, shape.block_size),
                executor,
                plans: VecDeque::new(),
                upstream: VecDeque::new(),
                feed: receiver.take().map(|receiver| TokenFeed::new(receiver, depth)),
                ran: 0,
            }
        };
        Self {
            shape,
            books: Books::new(shape.vocab_size, shape.window),
            engine: Engine::new(settings(shape), &[shape.blocks]),
            stages: (0..shape.stages).map(stage).collect(),
            results: VecDeque::new(),
            told: if shape.stages > 1 { vec![sender] } else { Vec::new() },
            to_fail: Vec::new(),
            turns: Turns::new(shape.sequences, depth),
            cached: BTreeSet::new(),
        }
    }

    pub(super) fn load(&self) -> Load {
        self.engine.load()
    }

    pub(super) fn counters(&self) -> &Counters {
        self.engine.counters()
    }

    pub(super) fn submit(&mut self, generate: Generate) {
        let longest = self.shape.blocks * self.shape.block_size;
        self.books.asked(&generate, longest);
        self.turns.asked(&generate);
        self.event(EngineEvent::Submit(Box::new(generate)));
    }

    pub(super) fn abort(&mut self, key: RequestKey) {
        if self.books.is_open(key) {
            for (seed, choice) in self.books.over(key) {
                self.turns.ended(seed, choice);
            }
            self.event(EngineEvent::Abort(key));
        }
    }

    /// As a gateway ends a choice when it finds a stop string.
    pub(super) fn finish(&mut self, key: RequestKey, choice: u32) {
        if self.books.finish(key, choice) {
            self.turns.ended(self.books.seed(key), choice);
            let finish = Finish { choice, reason: FinishReason::Stop, tokens_kept: 0 };
            self.event(EngineEvent::Finish(key, finish));
        }
    }

    /// Lets the request's next token be one that cannot be had.
    pub(super) fn fail(&mut self, key: RequestKey) {
        if self.books.is_open(key) {
            self.books.may_fail(key);
            self.to_fail.push(self.books.seed(key));
        }
    }

    /// What can happen next.
    pub(super) fn steps(&self) -> Vec<Step> {
        let stages = (0..self.stages.len()).filter(|at| self.can_run(*at)).map(Step::Stage);
        stages.chain((!self.results.is_empty()).then_some(Step::Result)).collect()
    }

    pub(super) fn take(&mut self, step: Step) {
        match step {
            Step::Stage(at) => self.run(at),
            Step::Result => {
                let result = self.results.pop_front().unwrap();
                self.event(EngineEvent::Result(result));
            }
        }
    }

    /// When all have ended: nothing is held, nothing runs, and the engine agrees.
    pub(super) fn check_the_end(&mut self) {
        self.books.check_all_ended();
        let load = self.engine.load();
        assert_eq!((load.running, load.waiting, load.blocks_used), (0, 0, 0), "{load:?}");
        assert_eq!(self.engine.steps_in_flight(), 0);
        self.check_drafts();
        self.event(EngineEvent::Tick);
    }

    /// What is counted of drafts by their places comes to what is counted of them as a whole.
    fn check_drafts(&self) {
        let counters = self.engine.counters();
        let places = &counters.accepted_per_position;
        assert_eq!(places.iter().sum::<u64>(), counters.accepted_tokens);
        assert!(counters.accepted_tokens <= counters.draft_tokens, "{counters:?}");
        let bounds = std::iter::once(&counters.drafts).chain(places);
        assert!(bounds.is_sorted_by(|before, after| before >= after), "{counters:?}");
    }

    fn event(&mut self, event: EngineEvent) {
        for effect in self.engine.handle(NOW, event) {
            match effect {
                EngineEffect::Plan(plan) => self.planned(plan),
                EngineEffect::Send(key, down) => {
                    for (seed, choice) in self.books.told(key, &down) {
                        self.turns.ended(seed, choice);
                    }
                }
                EngineEffect::Close(key) => self.books.closed(key),
                EngineEffect::Observe(_) | EngineEffect::Transfer(_) | EngineEffect::Adapt(_) => {}
                EngineEffect::Cached(changes) => self.cached(changes),
                EngineEffect::Broken(why) => panic!("{why}"),
            }
        }
        if self.shape.prefix_caching {
            let cached = self.engine.cached_blocks().into_iter().collect();
            assert_eq!(self.cached, cached, "what was told is what is there");
        }
        self.engine.check_integrity().unwrap();
        assert!(self.engine.steps_in_flight() <= steps_in_flight(self.shape.stages) as usize);
    }

    fn cached(&mut self, changes: Vec<Change>) {
        assert!(self.shape.prefix_caching, "nobody is told what nobody finds");
        for change in changes {
            match change {
                Change::Stored { key, .. } => self.cached.insert(key),
                Change::Removed(key) => self.cached.remove(&key),
            };
        }
    }

    fn planned(&mut self, plan: StepPlan) {
        assert!(plan.tokens() <= self.shape.budget, "{plan:?}");
        assert!(plan.spans().all(|(_, span)| span.count > 0), "{plan:?}");
        self.books.planned(&plan);
        self.turns.planned(&plan);
        let plan = Arc::new(plan);
        self.stages.iter_mut().for_each(|stage| stage.plans.push_back(plan.clone()));
    }

    /// Whether a stage has all that its next plan needs, so that nothing would wait.
    fn can_run(&self, at: usize) -> bool {
        let stage = &self.stages[at];
        let Some(plan) = stage.plans.front() else { return false };
        if at > 0 {
            return !stage.upstream.is_empty();
        }
        let sampled = self.stages.last().unwrap().ran;
        let needed = plan.running.iter().filter_map(|running| running.placeholder).max();
        let alone = self.stages.len() == 1;
        alone || needed.is_none_or(|needed| needed.0 <= sampled)
    }

    fn run(&mut self, at: usize) {
        let stage = &mut self.stages[at];
        let plan = stage.plans.pop_front().unwrap();
        stage.ran = plan.step.0;
        if let Some(feed) = &mut stage.feed {
            let sampled = feed.take(&plan, Duration::ZERO).expect("it was told");
            stage.mirror.learn(&sampled);
        }
        let batch = stage.mirror.apply(&plan).expect("the plan fits the mirror");
        let input = match at {
            0 => StageInput::Tokens,
            _ => StageInput::Hidden(stage.upstream.pop_front().unwrap()),
        };
        match stage.executor.forward(&batch, input).unwrap() {
            StageOutput::Hidden(hidden) => {
                stage.mirror.drop_drafts(&plan);
                self.stages[at + 1].upstream.push_back(hidden);
            }
            StageOutput::Logits(logits) => self.sample(&plan, &batch, logits),
        }
    }

    fn sample(&mut self, plan: &StepPlan, batch: &StepBatch, logits: Logits) {
        let stage = self.stages.last_mut().unwrap();
        let requests = stage.mirror.requests(plan, batch);
        let mut sampled = stage.executor.sample(logits, &requests).unwrap();
        for (request, sampled) in requests.iter().zip(&mut sampled) {
            if request.sample && self.to_fail.contains(&request.seed) {
                self.to_fail.retain(|seed| *seed != request.seed);
                sampled.failed = Some("as was asked for".into());
            }
        }
        let (outcomes, told) = Mirror::outcomes(&requests, sampled);
        stage.mirror.drop_drafts(plan);
        stage.mirror.learn(&told);
        if plan.spans().any(|(_, span)| span.sample) {
            tokens::tell(&mut self.told, plan.step, &told).unwrap();
        }
        let (epoch, step) = (plan.epoch, plan.step);
        self.results.push_back(StepResult { epoch, step, outcomes, compute_us: 1 });
    }
}

pub(super) fn endpoint() -> EndpointId {
    let group = GroupId { namespace: "default".into(), service: "s".into(), index: 0 };
    EndpointId { group, revision: 1, epoch: Epoch { number: 1, nonce: 9 }, dp: 0 }
}

pub(super) fn digest() -> Digest {
    Digest::of(b"a model without tensors")
}

/// How its blocks are named.
pub(super) fn hashing(block_size: u32) -> Parameters {
    Parameters { key: [0; 32], model: digest(), kv_dtype: "none".into(), block_size }
}

pub(super) fn settings(shape: Shape) -> EngineSettings {
    EngineSettings {
        endpoint: endpoint(),
        model: digest(),
        tokenizer: digest(),
        vocab_size: shape.vocab_size,
        limits: EngineLimits {
            max_model_len: MOST_POSITIONS,
            block_size: shape.block_size,
            max_num_batched_tokens: shape.budget,
            max_num_seqs: shape.sequences,
            max_num_queued: 1000,
            num_blocks: None,
            long_prefill_token_threshold: shape.threshold,
            policy: shape.policy,
            prefix_caching: shape.prefix_caching,
            kv_transfer_timeout: Duration::from_secs(2),
            offload: Offload::default(),
            speculation: shape.speculation,
            lora: None,
            whole_prompts: false,
        },
        stages: shape.stages,
        windows: vec![shape.window],
        embeds: None,
        kv_dtype: "none".into(),
        prefix_key: [0; 32],
    }
}

const NOW: Duration = Duration::from_secs(10);
/// The context of the model: more than any test's blocks hold.
const MOST_POSITIONS: u32 = 1 << 16;
