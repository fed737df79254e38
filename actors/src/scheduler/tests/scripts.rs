//! The scheduler as readable scripts: `scripts/*.txt`, each a command, `----` and what comes of it.
//!
//! After every command the bookkeeping is checked.
//!
//! | command | does |
//! |---|---|
//! | `limits tokens=8 blocks=100 ...` | a new scheduler: see [`limits_of`] |
//! | `add a prompt=0..4,9 max=5 priority=1 first=b` | a sequence into the queue |
//! | `plan` | the next step, if one can be planned |
//! | `result a=7,7 b=fails` | the oldest step in flight is done; who is not named samples 90 |
//! | `release a`, `discard a` | it has ended; its KV cannot be trusted |
//! | `state` | who runs, who waits, and the blocks |

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::{Display, Write as _},
};

use troupe_runtime::{
    id::AdapterId,
    wire::step::{RunningSequence, Span},
};

use super::*;
use crate::scripts::{Words, play_all};

struct Script {
    scheduler: Scheduler,
    names: BTreeMap<SequenceId, String>,
    plans: VecDeque<StepPlan>,
}

#[test]
fn scripts_say_what_happens() {
    let start = || Script::new(limits(8, 1), 4, 100);
    let seen = play_all("src/scheduler/scripts", start, |script, line| {
        let text = script.run(line);
        script.scheduler.check_integrity().unwrap_or_else(|why| panic!("{line}: {why}"));
        text
    });
    assert!(seen >= 12, "{seen} scripts");
}

impl Script {
    fn new(limits: Limits, block_size: u32, blocks: u32) -> Self {
        let scheduler = Scheduler::new(limits, BlockPools::new(block_size, &[blocks]));
        Self { scheduler, names: BTreeMap::new(), plans: VecDeque::new() }
    }

    /// What comes of a command, without a line end.
    fn run(&mut self, line: &str) -> String {
        let mut words: Vec<_> = line.split_whitespace().collect();
        let command = words.remove(0);
        let words = Words(words);
        match command {
            "limits" => {
                let (block_size, blocks) =
                    (words.number("block").unwrap_or(4), words.number("blocks").unwrap_or(100));
                *self = Self::new(limits_of(&words), block_size, blocks);
                format!("{blocks} blocks of {block_size}")
            }
            "add" => self.add(&words),
            "plan" => match self.scheduler.compose(Epoch::default()) {
                None => format!("no step\n{}", self.state()),
                Some(plan) => {
                    let text = format!("{}{}", self.plan(&plan), self.state());
                    self.plans.push_back(plan);
                    text
                }
            },
            "result" => self.result(&words),
            "release" | "discard" => {
                let id = self.id(words.0[0]);
                match command {
                    "release" => self.scheduler.release(id),
                    _ => self.scheduler.discard(id),
                }
                self.state()
            }
            "state" => self.state(),
            other => panic!("`{other}` is no command"),
        }
    }

    fn add(&mut self, words: &Words<'_>) -> String {
        let tokens = numbers(words.get("prompt").expect("prompt=").split(','));
        let max_tokens = words.number("max").unwrap_or(1000);
        let id = self.scheduler.add(SequenceSpec {
            prompt_len: tokens.len() as u32,
            tokens,
            adapter: words.number("adapter").map(AdapterId),
            priority: words.get("priority").map_or(0, |text| text.parse().expect("a number")),
            keeps_blocks: false,
            first_choice: words.get("first").map(|name| self.id(name)),
            options: SamplingOptions { max_tokens, ..SamplingOptions::default() },
            ..spec(1)
        });
        self.names.insert(id, words.0[0].to_owned());
        self.state()
    }

    fn result(&mut self, words: &Words<'_>) -> String {
        let Some(plan) = self.plans.pop_front() else {
            return format!("nothing is in flight\n{}", self.state());
        };
        let outcomes = plan.spans().filter(|(_, span)| span.sample).map(|(sequence, _)| {
            let tokens = match words.get(&self.names[&sequence]) {
                Some("fails") => return SequenceResult { sequence, outcome: failed() },
                Some(tokens) => numbers(tokens.split(',')),
                None => vec![90],
            };
            let sampled = SampledTokens { tokens: tokens.into(), ..SampledTokens::default() };
            SequenceResult { sequence, outcome: Outcome::Tokens(sampled) }
        });
        let outcomes = outcomes.collect();
        let (epoch, step) = (plan.epoch, plan.step);
        let result = StepResult { epoch, step, outcomes, compute_us: 0 };
        let mut text = format!("step {step} is done\n");
        let before = self.scheduler.counters().clone();
        let parts = self.scheduler.complete(&result).expect("it is in flight");
        let mut outcomes = result.outcomes.into_iter().peekable();
        for part in parts {
            let outcome = outcomes.next_if(|outcome| outcome.sequence == part.id);
            if self.scheduler.sequence(part.id).is_none() {
                continue;
            }
            let name = &self.names[&part.id];
            match outcome.map(|outcome| outcome.outcome) {
                Some(Outcome::Tokens(sampled)) => {
                    let _ = writeln!(text, "  {name} samples {}", list(&sampled.tokens));
                    sampled.tokens.iter().for_each(|token| self.scheduler.append(part.id, *token));
                }
                Some(_) => {
                    let _ = writeln!(text, "  {name} fails");
                    self.scheduler.discard(part.id);
                }
                None => {}
            }
            self.scheduler.settle(part.id);
        }
        let after = self.scheduler.counters();
        let accepted = after.accepted_tokens - before.accepted_tokens;
        let merged = after.merged_blocks - before.merged_blocks;
        for (count, what) in [(accepted, "drafts accepted"), (merged, "blocks merged")] {
            if count > 0 {
                let _ = writeln!(text, "  {what}: {count}");
            }
        }
        text + &self.state()
    }

    fn plan(&self, plan: &StepPlan) -> String {
        let mut text = format!("step {}, tokens: {}\n", plan.step, plan.tokens());
        for (what, ids) in [("finished", &plan.finished), ("preempted", &plan.preempted)] {
            if !ids.is_empty() {
                let _ = writeln!(text, "  {what} {}", list(ids.iter().map(|id| &self.names[id])));
            }
        }
        for copy in &plan.copies {
            let _ = writeln!(text, "  copy block {} to {}", copy.from, copy.to);
        }
        for new in &plan.new {
            let (name, blocks) = (&self.names[&new.sequence], list(&new.block_tables[0]));
            let _ = writeln!(text, "  new {name} {}, blocks {blocks}", positions(new.span));
        }
        for resumed in &plan.resumed {
            let (name, blocks) = (&self.names[&resumed.sequence], list(&resumed.block_tables[0]));
            let span = positions(resumed.span);
            let _ = write!(text, "  resumed {name} {span}, blocks {blocks}");
            told(&mut text, &resumed.appended);
        }
        plan.running.iter().for_each(|running| self.running(&mut text, running));
        text
    }

    fn running(&self, text: &mut String, running: &RunningSequence) {
        let name = &self.names[&running.sequence];
        let _ = write!(text, "  running {name} {}", positions(running.span));
        if let Some(step) = running.placeholder {
            let _ = write!(text, ", its token comes from step {step}");
        }
        for swap in &running.swaps {
            let _ = write!(text, ", block {} is now {}", swap.index, swap.block);
        }
        if !running.new_blocks.first().map_or(&[][..], Vec::as_slice).is_empty() {
            let _ = write!(text, ", more blocks {}", list(&running.new_blocks[0]));
        }
        if !running.drafts.is_empty() {
            let _ = write!(text, ", drafts {}", list(&running.drafts));
        }
        told(text, &running.appended);
    }

    /// Who runs and waits, and how many blocks are of which kind.
    fn state(&self) -> String {
        let scheduler = &self.scheduler;
        let name = |id: &SequenceId| self.names[id].clone();
        let running = list(scheduler.running.iter().map(name));
        let waiting = list(scheduler.waiting.by_age().map(|id| name(&id)));
        let in_flight = list(scheduler.in_flight.keys());
        let usage = scheduler.usage();
        let blocks = format!("{} held, {} cached, {} free", usage.held, usage.cached, usage.free);
        format!("runs: {running}; waits: {waiting}; in flight: {in_flight}; blocks: {blocks}")
    }

    fn id(&self, name: &str) -> SequenceId {
        let found = self.names.iter().rfind(|(_, own)| *own == name);
        *found.unwrap_or_else(|| panic!("no sequence is called {name}")).0
    }
}

fn limits_of(words: &Words<'_>) -> Limits {
    let drafts = words.number("drafts").unwrap_or(0);
    let speculation = NgramSettings { num_tokens: drafts, longest: 2, shortest: 1 };
    let stages = words.number("stages").unwrap_or(1);
    Limits {
        max_sequences: words.number("sequences").unwrap_or(64),
        long_prefill_threshold: words.number("chunk").unwrap_or(0),
        policy: match words.get("policy") {
            None | Some("fcfs") => Policy::Fcfs,
            Some("priority") => Policy::Priority,
            Some("lpm") => Policy::Lpm,
            Some(other) => panic!("{other} is no policy"),
        },
        prefix_caching: words.get("caching") != Some("off"),
        watermark: words.number("watermark").unwrap_or(0),
        max_loras: words.number("adapters").unwrap_or(0),
        whole_prompts: words.get("whole") == Some("on"),
        speculation: (drafts > 0).then_some(speculation),
        ..limits(words.number("tokens").unwrap_or(8), stages)
    }
}

fn failed() -> Outcome {
    Outcome::Failed("its logits are not finite".into())
}

/// `0..4`, `7` and so on, one behind the other.
fn numbers<'a>(parts: impl Iterator<Item = &'a str>) -> Vec<u32> {
    let number = |text: &str| text.parse::<u32>().unwrap_or_else(|_| panic!("{text}: a number"));
    parts
        .flat_map(|part| match part.split_once("..") {
            Some((first, end)) => number(first)..number(end),
            None => number(part)..number(part) + 1,
        })
        .collect()
}

fn positions(span: Span) -> String {
    let samples = if span.sample { " and samples" } else { "" };
    format!("computes {}..{}{samples}", span.computed, span.computed + span.count)
}

fn told(text: &mut String, appended: &[u32]) {
    if !appended.is_empty() {
        let _ = write!(text, ", told {}", list(appended));
    }
    text.push('\n');
}

fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(" ") }
}
