//! `troupe sim`: ways to place requests, compared over the same load without a device.

use std::{fs, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{Failure, print, say};
use crate::sim::{
    cluster::Cluster,
    core,
    cost::CostModel,
    load::Load,
    profiles::{NAMES, Profile},
    report::{self, Figures},
    synthetic::{Arrivals, Synthetic},
    trace,
};

/// Compare ways to place requests: a load goes through the real placement to real engines, whose
/// devices are played, on a clock that jumps. The same seed gives the same figures.
#[derive(Args, Debug)]
pub(crate) struct Sim {
    /// What places requests: default, round-robin, random, least-loaded, llm-d, or the path of an
    /// EndpointPickerConfig. Repeat it to compare; without it the five names are compared.
    #[arg(long, value_name = "NAME|FILE")]
    profile: Vec<String>,
    /// Whatever is drawn is drawn from it.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// How figures are printed.
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    output_format: Format,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    cost: CostArgs,
    #[command(flatten)]
    load: LoadArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// One list, with an object for each profile.
    Json,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Endpoints")]
struct ClusterArgs {
    /// How many there are.
    #[arg(long, default_value_t = 8, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=MOST_ENDPOINTS))]
    endpoints: u32,
    /// KV blocks of each.
    #[arg(long, default_value_t = 25_000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(8..=1 << 22))]
    blocks: u32,
    /// Tokens per KV block.
    #[arg(long, default_value_t = 16, value_name = "TOKENS",
          value_parser = clap::value_parser!(u32).range(1..=256))]
    block_size: u32,
    /// Most sequences that run at a time.
    #[arg(long, default_value_t = 128, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    max_num_seqs: u32,
    /// Most tokens in a step.
    #[arg(long, default_value_t = 2048, value_name = "TOKENS",
          value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    max_num_batched_tokens: u32,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "What a step takes")]
struct CostArgs {
    /// Milliseconds of every step.
    #[arg(long, default_value_t = 4.0, value_name = "MS", value_parser = not_negative)]
    base_ms: f64,
    /// Microseconds of each token of a prompt.
    #[arg(long, default_value_t = 25.0, value_name = "US", value_parser = not_negative)]
    per_prefill_token_us: f64,
    /// Microseconds of each sequence that decodes.
    #[arg(long, default_value_t = 20.0, value_name = "US", value_parser = not_negative)]
    per_sequence_us: f64,
    /// Microseconds of each token whose KV is read.
    #[arg(long, default_value_t = 0.01, value_name = "US", value_parser = not_negative)]
    per_kv_token_us: f64,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Load")]
struct LoadArgs {
    /// Recorded requests instead of drawn ones: lines of JSON with timestamp, input_length,
    /// output_length and hash_ids, as Mooncake's traces.
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "conversations", "turns", "system_prompts", "system_tokens", "turn_tokens",
        "output_tokens", "rate", "concurrency", "think_time",
    ])]
    trace: Option<PathBuf>,
    /// Of a trace, only the first requests.
    #[arg(long, value_name = "N", requires = "trace",
          value_parser = clap::value_parser!(u32).range(1..))]
    max_requests: Option<u32>,
    /// A trace goes so many times as fast as it was recorded.
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR", requires = "trace",
          value_parser = positive)]
    speed: f64,
    /// How many conversations there are.
    #[arg(long, default_value_t = 400, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    conversations: u32,
    /// Requests of each; every one says again all that was said before.
    #[arg(long, default_value_t = 5, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    turns: u32,
    /// Different system prompts; each conversation begins with one of them.
    #[arg(long, default_value_t = 32, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    system_prompts: u32,
    /// Tokens of a system prompt.
    #[arg(long, default_value_t = 2048, value_name = "TOKENS",
          value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    system_tokens: u32,
    /// Tokens that a turn adds, on average.
    #[arg(long, default_value_t = 256, value_name = "TOKENS",
          value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    turn_tokens: u32,
    /// Tokens of an answer, on average.
    #[arg(long, default_value_t = 128, value_name = "TOKENS",
          value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    output_tokens: u32,
    /// Conversations that begin in a second, by chance.
    #[arg(long, default_value_t = 4.0, value_name = "N", value_parser = positive)]
    rate: f64,
    /// So many conversations are under way at a time, instead of a rate.
    #[arg(long, value_name = "N", conflicts_with = "rate",
          value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// Seconds from an answer to the next turn, on average.
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS", value_parser = not_negative)]
    think_time: f64,
}

/// More than any gateway's index of prefixes knows apart.
const MOST_ENDPOINTS: i64 = 10_000;

// === impl Sim ===

impl Sim {
    /// Runs every profile and tells what it achieved.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let profiles = self.profiles()?;
        let load = self.load.read(self.seed)?;
        let cluster = self.cluster();
        self.fits(&load, &cluster)?;
        let mut figures = Vec::new();
        for profile in &profiles {
            let run = core::run(&cluster, &load, profile, self.seed)
                .map_err(|why| Failure::run(format!("profile {}: {why}", profile.name)))?;
            if let Some(why) = &run.refusal {
                let count = run.refused;
                say(&format!("{}: {count} requests were not taken: {why}", profile.name));
            }
            figures.push(Figures::new(&profile.name, &run));
        }
        match self.output_format {
            Format::Table => print(&report::table(&figures)),
            Format::Json => {
                let text = serde_json::to_string_pretty(&figures);
                let text = text.map_err(|error| Failure::run(format!("figures: {error}")))?;
                print(&format!("{text}\n"));
            }
        }
        Ok(())
    }

    fn profiles(&self) -> Result<Vec<Profile>, Failure> {
        if self.profile.is_empty() {
            return Ok(NAMES.iter().filter_map(|name| Profile::named(name)).collect());
        }
        self.profile.iter().map(|name| profile(name)).collect()
    }

    fn cluster(&self) -> Cluster {
        let ClusterArgs { endpoints, blocks, block_size, max_num_seqs, max_num_batched_tokens } =
            self.cluster;
        let cost = CostModel {
            base_us: self.cost.base_ms * 1e3,
            prefill_token_us: self.cost.per_prefill_token_us,
            sequence_us: self.cost.per_sequence_us,
            context_token_us: self.cost.per_kv_token_us,
        };
        Cluster { endpoints, blocks, block_size, max_num_seqs, max_num_batched_tokens, cost }
    }

    /// Refuses a load of which nothing fits, and endpoints at which time stands still.
    fn fits(&self, load: &Load, cluster: &Cluster) -> Result<(), Failure> {
        if self.cost.base_ms <= 0.0 && self.cost.per_sequence_us <= 0.0 {
            return Err(Failure::usage(
                "--base-ms and --per-sequence-us are both 0: a step needs some time",
            ));
        }
        let longest = cluster.longest();
        let shortest = load.conversations.iter().map(|conversation| {
            let first = &conversation.turns[0];
            let prompt = first.pieces.iter().map(|piece| u64::from(piece.tokens)).sum::<u64>();
            prompt + 1
        });
        let shortest = shortest.min().unwrap_or(0);
        if shortest > u64::from(longest) {
            return Err(Failure::usage(format!(
                "the shortest request has {shortest} tokens, and --blocks {} of --block-size {} \
                 hold {longest}",
                cluster.blocks, cluster.block_size
            )));
        }
        Ok(())
    }
}

/// A built-in profile, or one that a file describes.
fn profile(name: &str) -> Result<Profile, Failure> {
    if let Some(profile) = Profile::named(name) {
        return Ok(profile);
    }
    let text = fs::read_to_string(name).map_err(|error| {
        Failure::usage(format!(
            "--profile {name}: no profile of this name ({}), and no file that can be read: {error}",
            NAMES.join(", ")
        ))
    })?;
    Profile::configured(name, &text)
        .map_err(|error| Failure::usage(format!("--profile {name}: {error}")))
}

// === impl LoadArgs ===

impl LoadArgs {
    fn read(&self, seed: u64) -> Result<Load, Failure> {
        let Some(path) = &self.trace else { return Ok(self.synthetic().load(seed)) };
        let wrong = |why: String| Failure::usage(format!("--trace {}: {why}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        trace::read(&text, self.max_requests.map(|most| most as usize), self.speed).map_err(wrong)
    }

    fn synthetic(&self) -> Synthetic {
        Synthetic {
            conversations: self.conversations,
            turns: self.turns,
            system_prompts: self.system_prompts,
            system_tokens: self.system_tokens,
            turn_tokens: self.turn_tokens,
            output_tokens: self.output_tokens,
            arrivals: self.concurrency.map_or(Arrivals::Rate(self.rate), Arrivals::AtOnce),
            think: Duration::from_secs_f64(self.think_time),
        }
    }
}

/// A day in seconds, and as much of everything else: no run needs more, and no clock overflows.
const MOST: f64 = 86_400.0;

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=MOST).contains(&number) => Ok(number),
        _ => Err(format!("a number from 0 to {MOST} is needed")),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (1e-3..=1e6).contains(&number) => Ok(number),
        _ => Err("a number from 0.001 to 1000000 is needed".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        sim: Sim,
    }

    fn sim(args: &[&str]) -> Result<Sim, String> {
        let parsed = Alone::try_parse_from([&["sim"], args].concat());
        parsed.map(|alone| alone.sim).map_err(|error| error.to_string())
    }

    /// What is said of arguments that cannot work, before anything runs.
    fn refused(args: &[&str]) -> String {
        match sim(args) {
            Err(error) => error,
            Ok(sim) => {
                let failure = sim.run().expect_err("it cannot work");
                assert_eq!(failure.code, 2);
                failure.message()
            }
        }
    }

    #[test]
    fn without_arguments_all_profiles_are_compared() {
        let sim = sim(&[]).expect("nothing is needed");
        let names: Vec<String> =
            sim.profiles().expect("they are known").into_iter().map(|one| one.name).collect();
        assert_eq!(names, NAMES);
        assert_eq!(sim.load.read(0).expect("numbers only").requests(), 2000);
    }

    #[test]
    fn what_cannot_work_is_refused_with_what_would() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("written");
            path.to_string_lossy().into_owned()
        };
        let (picker, trace) = (file("picker.yaml", "kind: Pod"), file("trace.jsonl", "{}\n"));
        let cases: [(&[&str], &[&str]); 10] = [
            (&["--endpoints", "0"], &["--endpoints", "1..=10000"]),
            (&["--rate", "0"], &["--rate", "0.001"]),
            (&["--rate", "1", "--concurrency", "2"], &["--concurrency", "--rate"]),
            (&["--base-ms=-1"], &["--base-ms", "from 0"]),
            (&["--base-ms", "0", "--per-sequence-us", "0"], &["a step needs some time"]),
            (&["--profile", "fastest"], &["fastest", "round-robin", "no file"]),
            (&["--profile", &picker], &["picker.yaml", "EndpointPickerConfig"]),
            (&["--trace", &trace], &["trace.jsonl", "line 1", "input_length"]),
            (&["--trace", &trace, "--turns", "2"], &["--trace", "--turns"]),
            (&["--blocks", "8", "--system-tokens", "200"], &["--blocks 8", "hold 128"]),
        ];
        for (args, said) in cases {
            let error = refused(args);
            assert!(said.iter().all(|word| error.contains(word)), "{args:?}: {error}");
        }
    }
}
