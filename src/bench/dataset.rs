//! What is asked for: prompts, and how much output each is to have.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{
    file_prompts,
    random::Random,
    random_prompts::{self, RandomArgs},
    target::{Backend, Target},
    vocabulary::Vocabulary,
};
use crate::{cli::Failure, stack};

/// Where prompts come from.
#[derive(Args, Clone, Debug)]
pub(crate) struct DatasetArgs {
    /// Where prompts come from.
    #[arg(long, value_enum, default_value_t = Kind::Random)]
    pub(crate) dataset_name: Kind,
    /// The dataset's file.
    #[arg(long, value_name = "FILE")]
    dataset_path: Option<PathBuf>,
    /// How many requests are sent.
    #[arg(long, default_value_t = 1000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) num_prompts: u32,
    /// Where prompts, lengths and times of sending are drawn from.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// A tokenizer: the model's folder, or its name on the hub [default: the server is asked].
    #[arg(long, value_name = "MODEL")]
    pub(crate) tokenizer: Option<String>,
    /// Tokens of a prompt, for datasets that let one choose.
    #[arg(long, value_name = "TOKENS")]
    input_len: Option<u32>,
    /// Tokens of output, whatever the dataset.
    #[arg(long, value_name = "TOKENS")]
    output_len: Option<u32>,
    #[command(flatten)]
    random: RandomArgs,
    /// Tokens of output for custom prompts; -1 takes each line's `output_tokens`.
    #[arg(long, default_value_t = 256, value_name = "TOKENS", allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1..))]
    custom_output_len: i64,
    /// Tokens of output for conversations [default: as long as the answer in the dataset].
    #[arg(long, value_name = "TOKENS")]
    sharegpt_output_len: Option<u32>,
    /// Take a file's prompts in its order.
    #[arg(long)]
    disable_shuffle: bool,
}

/// A kind of dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Random tokens of chosen lengths.
    Random,
    /// A JSON file of conversations, as ShareGPT's.
    Sharegpt,
    /// A file of JSON lines, each with a `prompt`.
    Custom,
}

/// What is asked of the model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) prompt: Prompt,
    /// Tokens of the prompt, where they are known before the server counts them.
    pub(crate) prompt_len: Option<u64>,
    /// Tokens of output that are asked for.
    pub(crate) output_len: u64,
}

impl DatasetArgs {
    /// Makes the requests.
    pub(crate) async fn samples(
        &self,
        target: &Target,
        random: &mut Random,
    ) -> Result<Vec<Sample>, Failure> {
        let vocabulary = Vocabulary::new(target, self.tokenizer.as_deref(), &stack::hub())?;
        let count = self.num_prompts as usize;
        let samples = match self.dataset_name {
            Kind::Random => {
                let args = self.random.with_lengths(self.input_len, self.output_len);
                let as_text = target.backend == Backend::OpenaiChat;
                random_prompts::make(&args, count, &vocabulary, random, as_text).await?
            }
            Kind::Custom => {
                let length = self.output_len.map_or(self.custom_output_len, i64::from);
                let mut lines = file_prompts::custom(self.path()?, length)?;
                self.order(&mut lines, random);
                lines.into_iter().cycle().take(count).collect()
            }
            Kind::Sharegpt => {
                let mut talks = file_prompts::conversations(self.path()?)?;
                self.order(&mut talks, random);
                let length = self.output_len.or(self.sharegpt_output_len);
                file_prompts::sharegpt(talks, count, &vocabulary, length).await?
            }
        };
        self.check_lengths(&samples, target)?;
        Ok(samples)
    }

    fn path(&self) -> Result<&PathBuf, Failure> {
        let needed = "--dataset-path FILE is needed for this --dataset-name";
        self.dataset_path.as_ref().ok_or_else(|| Failure::usage(needed))
    }

    fn order<T>(&self, list: &mut [T], random: &mut Random) {
        if !self.disable_shuffle {
            random.shuffle(list);
        }
    }

    /// What does not fit would be refused request by request.
    fn check_lengths(&self, samples: &[Sample], target: &Target) -> Result<(), Failure> {
        let Some(most) = target.max_model_len else { return Ok(()) };
        let longest = samples.iter().map(|s| s.prompt_len.unwrap_or(0) + s.output_len).max();
        match longest {
            Some(longest) if longest > most => Err(Failure::usage(format!(
                "prompt and output of a request have {longest} tokens, but {} takes {most}",
                target.model
            ))),
            _ => Ok(()),
        }
    }
}

// === impl Prompt ===

impl Prompt {
    /// As a request has it.
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Tokens(tokens) => json!(tokens),
        }
    }
}
