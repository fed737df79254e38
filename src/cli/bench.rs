//! `troupe bench`: load on a server and what came of it; and a model to put load on.

use std::{
    collections::BTreeMap,
    io::Write,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Args, Subcommand, ValueEnum};

use super::{Failure, progress::Progress, say};
use crate::bench::{
    arrivals::TrafficArgs,
    checkpoint::{self, Shape},
    dataset::{DatasetArgs, Kind, Sample},
    device, load,
    measure::Figures,
    random::Random,
    report::{About, ReportArgs},
    request::Outcome,
    target::{Target, TargetArgs},
};

/// Put load on a server and measure.
#[derive(Args, Debug)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Send requests to a server that runs and report what its clients see, with the flags and the
    /// report of `vllm bench serve`.
    Serve(Box<Serve>),
    /// Print what this machine can do at most: bytes that it reads and products that it makes in a
    /// second, by kind of instruction and number of threads.
    Device(Device),
    /// Write a Llama of random weights, for a server to serve.
    RandomModel(RandomModel),
}

#[derive(Args, Debug)]
struct Serve {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    dataset: DatasetArgs,
    #[command(flatten)]
    traffic: TrafficArgs,
    #[command(flatten)]
    report: ReportArgs,
}

#[derive(Args, Debug)]
struct Device {
    /// Threads at most [default: the machine's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Memory that is read over and over, in MiB, once for each number of threads: more than caches
    /// hold.
    #[arg(long, value_name = "MIB", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    memory: u32,
}

/// A shape's sizes can be changed one by one, by the names of `config.json`.
#[derive(Args, Debug)]
struct RandomModel {
    /// The folder; a model of the same sizes that is there already is left as it is.
    folder: PathBuf,
    /// How many parameters: 125m has three heads of queries to each of keys and values, 160m one.
    #[arg(long, default_value = "160m", value_parser = ["125m", "160m"])]
    shape: String,
    /// Width of the hidden states.
    #[arg(long, value_name = "N")]
    hidden_size: Option<usize>,
    /// Width of the feed-forward layers.
    #[arg(long, value_name = "N")]
    intermediate_size: Option<usize>,
    /// Layers.
    #[arg(long, value_name = "N")]
    num_hidden_layers: Option<usize>,
    /// Heads of queries.
    #[arg(long, value_name = "N")]
    num_attention_heads: Option<usize>,
    /// Heads of keys and values.
    #[arg(long, value_name = "N")]
    num_key_value_heads: Option<usize>,
    /// Tokens that it knows.
    #[arg(long, value_name = "N")]
    vocab_size: Option<usize>,
    /// Most tokens of prompt and output together.
    #[arg(long, value_name = "N")]
    max_position_embeddings: Option<usize>,
}

impl Bench {
    /// Runs to its end.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self.what {
            What::Serve(serve) => serve.run().await,
            What::Device(device) => device.measure(),
            What::RandomModel(model) => model.write(),
        }
    }
}

// === impl Device ===

impl Device {
    fn measure(&self) -> Result<(), Failure> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.threads.map_or(cores, usize::from);
        let text = device::table(threads, (self.memory as usize) << 20)
            .map_err(|error| Failure::run(error.to_string()))?;
        // A reader that has gone away has had enough.
        let _ = writeln!(std::io::stdout().lock(), "{text}");
        Ok(())
    }
}

// === impl Serve ===

impl Serve {
    async fn run(mut self: Box<Self>) -> Result<(), Failure> {
        // An output of chosen length has it only if nothing ends it before.
        self.target.ignore_eos |= self.dataset.dataset_name == Kind::Random;
        let target = self.target.reach().await?;
        let mut random = Random::new(self.dataset.seed);
        let samples = self.dataset.samples(&target, &mut random).await?;
        self.warm_up(&target, &samples).await?;
        say(&format!(
            "{} requests to {}, {} per second, {} at a time",
            samples.len(),
            target.model,
            self.traffic.request_rate,
            self.traffic.max_concurrency.map_or_else(|| "any number".into(), |n| n.to_string())
        ));
        let progress = self.progress(samples.len());
        let run = load::run(&target, &samples, &self.traffic, &mut random, progress).await?;
        self.tell(&target, &run.outcomes, run.seconds)?;
        match run.outcomes.iter().filter(|one| one.error.is_none()).count() {
            _ if run.interrupted => Err(Failure::run(format!(
                "interrupted: {} of {} requests came to an end and are reported",
                run.outcomes.len(),
                samples.len()
            ))),
            0 => Err(Failure::run("every request failed")),
            _ => Ok(()),
        }
    }

    /// One request, so that what cannot work is said at once; then those that warm up.
    async fn warm_up(&self, target: &Target, samples: &[Sample]) -> Result<(), Failure> {
        let traffic = TrafficArgs { request_rate: f64::INFINITY, ..self.traffic.clone() };
        let mut target = target.clone();
        target.request_id_prefix.push_str("warm-up-");
        for count in [1, self.traffic.num_warmups as usize].into_iter().filter(|count| *count > 0) {
            let samples: Vec<Sample> =
                samples.iter().take(1).cycle().take(count).cloned().collect();
            let progress = self.progress(samples.len()).hidden();
            let run = load::run(&target, &samples, &traffic, &mut Random::new(0), progress).await?;
            if run.interrupted {
                return Err(Failure::run("interrupted before the first request that counts"));
            }
            if let Some(error) = run.outcomes.into_iter().find_map(|one| one.error) {
                return Err(Failure::run(format!("a first request fails: {error}")));
            }
            target.request_id_prefix.push('-');
        }
        Ok(())
    }

    fn progress(&self, requests: usize) -> Progress {
        let progress = Progress::new(requests);
        if self.report.disable_tqdm { progress.hidden() } else { progress }
    }

    fn tell(&self, target: &Target, outcomes: &[Outcome], seconds: f64) -> Result<(), Failure> {
        let figures = Figures::new(outcomes, seconds, self.report.goals());
        for (error, count) in commonest_errors(outcomes) {
            say(&format!("{count} requests failed: {error}"));
        }
        let text = self.report.text(&figures, &self.traffic);
        // A reader that has gone away ends nothing: there may be a file to write yet.
        let _ = writeln!(std::io::stdout().lock(), "{text}");
        let backend = target.backend.to_possible_value();
        let about = About {
            backend: backend.as_ref().map_or("", |backend| backend.get_name()),
            model: &target.model,
            tokenizer: self.dataset.tokenizer.as_deref().unwrap_or(&target.model),
            num_prompts: self.dataset.num_prompts,
            traffic: &self.traffic,
            unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |at| at.as_secs()),
        };
        let report = self.report.json(&figures, &about, outcomes);
        if let Some(path) = self.report.save(&report, &about)? {
            say(&format!("written to {}", path.display()));
        }
        Ok(())
    }
}

/// A few of the errors, the commonest first, each with how often it was.
fn commonest_errors(outcomes: &[Outcome]) -> Vec<(&str, usize)> {
    let mut counts = BTreeMap::new();
    for error in outcomes.iter().filter_map(|one| one.error.as_deref()) {
        *counts.entry(error).or_insert(0) += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.truncate(5);
    counts
}

// === impl RandomModel ===

impl RandomModel {
    fn write(&self) -> Result<(), Failure> {
        let known = match self.shape.as_str() {
            "125m" => Shape::M125,
            _ => Shape::M160,
        };
        let max = self.max_position_embeddings;
        let shape = Shape {
            hidden_size: self.hidden_size.unwrap_or(known.hidden_size),
            intermediate_size: self.intermediate_size.unwrap_or(known.intermediate_size),
            num_hidden_layers: self.num_hidden_layers.unwrap_or(known.num_hidden_layers),
            num_attention_heads: self.num_attention_heads.unwrap_or(known.num_attention_heads),
            num_key_value_heads: self.num_key_value_heads.unwrap_or(known.num_key_value_heads),
            vocab_size: self.vocab_size.unwrap_or(known.vocab_size),
            max_position_embeddings: max.unwrap_or(known.max_position_embeddings),
        };
        shape.check().map_err(Failure::usage)?;
        checkpoint::write(&shape, &self.folder)
            .map_err(|error| Failure::run(format!("{}: {error}", self.folder.display())))?;
        say(&format!("{} parameters in {}", shape.parameters(), self.folder.display()));
        Ok(())
    }
}
