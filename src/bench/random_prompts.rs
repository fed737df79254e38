//! Prompts of random tokens.
//!
//! Every token is drawn by itself, so two prompts have no more in common than the prefix that was
//! asked for, and a prefix cache helps with nothing else.

use clap::Args;

use super::{
    dataset::{Prompt, Sample},
    random::Random,
    vocabulary::Vocabulary,
};
use crate::cli::Failure;

/// How long random prompts and their outputs are.
#[derive(Args, Clone, Debug)]
pub(crate) struct RandomArgs {
    /// Tokens of a random prompt behind its prefix.
    #[arg(long, default_value_t = 1024, value_name = "TOKENS")]
    random_input_len: u32,
    /// Tokens of output for random prompts.
    #[arg(long, default_value_t = 128, value_name = "TOKENS")]
    random_output_len: u32,
    /// Lengths are drawn evenly from so much below to so much above; 0 to less than 1.
    #[arg(long, default_value_t = 0.0, value_name = "RATIO", value_parser = ratio)]
    random_range_ratio: f64,
    /// Tokens that all random prompts begin with.
    #[arg(long, default_value_t = 0, value_name = "TOKENS")]
    random_prefix_len: u32,
}

impl RandomArgs {
    /// The same with other lengths, where they are given.
    pub(crate) fn with_lengths(&self, input: Option<u32>, output: Option<u32>) -> Self {
        let mut args = self.clone();
        args.random_input_len = input.unwrap_or(args.random_input_len);
        args.random_output_len = output.unwrap_or(args.random_output_len);
        args
    }

    /// Draws the length of a prompt behind its prefix, and that of its output.
    fn lengths(&self, random: &mut Random) -> (u64, u64) {
        let (low, high) = self.range(self.random_input_len);
        let input = random.between(low, high);
        let (low, high) = self.range(self.random_output_len);
        (input, random.between(low.max(1), high.max(1)))
    }

    fn range(&self, length: u32) -> (u64, u64) {
        let (length, ratio) = (f64::from(length), self.random_range_ratio);
        ((length * (1.0 - ratio)).floor() as u64, (length * (1.0 + ratio)).ceil() as u64)
    }
}

/// Makes `count` of them; as texts for a server that takes no tokens.
pub(crate) async fn make(
    args: &RandomArgs,
    count: usize,
    vocabulary: &Vocabulary,
    random: &mut Random,
    as_text: bool,
) -> Result<Vec<Sample>, Failure> {
    if u64::from(args.random_prefix_len) + args.range(args.random_input_len).0 == 0 {
        return Err(Failure::usage("--random-input-len: a prompt has at least one token"));
    }
    let known = vocabulary.plain_tokens().await?;
    let mut drawn = token_prompts(args, count, &known, random);
    if as_text {
        for sample in &mut drawn {
            let Prompt::Tokens(tokens) = &sample.prompt else { continue };
            // The template adds tokens, and the text may be tokenized otherwise: the server counts.
            sample.prompt = Prompt::Text(vocabulary.decode(tokens).await?);
            sample.prompt_len = None;
        }
    }
    Ok(drawn)
}

fn token_prompts(
    args: &RandomArgs,
    count: usize,
    known: &[u32],
    random: &mut Random,
) -> Vec<Sample> {
    let tokens = |random: &mut Random, count: u64| -> Vec<u32> {
        (0..count)
            .filter_map(|_| known.get(random.below(known.len() as u64) as usize))
            .copied()
            .collect()
    };
    let prefix = tokens(random, args.random_prefix_len.into());
    (0..count)
        .map(|_| {
            let (input, output_len) = args.lengths(random);
            let prompt = [prefix.clone(), tokens(random, input)].concat();
            let prompt_len = Some(prompt.len() as u64);
            Sample { prompt: Prompt::Tokens(prompt), prompt_len, output_len }
        })
        .collect()
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if (0.0..1.0).contains(&ratio) => Ok(ratio),
        _ => Err("a number from 0 to less than 1 is needed".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_prefix_are_what_was_asked_for() {
        let args = RandomArgs {
            random_input_len: 10,
            random_output_len: 5,
            random_range_ratio: 0.5,
            random_prefix_len: 3,
        };
        let known = [7, 8, 9];
        let samples = token_prompts(&args, 500, &known, &mut Random::new(1));
        let again = token_prompts(&args, 500, &known, &mut Random::new(1));
        assert_eq!(samples, again, "the same seed gives the same prompts");
        let prompt = |sample: &Sample| match &sample.prompt {
            Prompt::Tokens(tokens) => tokens.clone(),
            Prompt::Text(text) => panic!("a text: {text}"),
        };
        let prefix = prompt(&samples[0])[..3].to_vec();
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for sample in &samples {
            let tokens = prompt(sample);
            assert_eq!(tokens[..3], prefix);
            assert!(tokens.iter().all(|token| known.contains(token)));
            assert_eq!(sample.prompt_len, Some(tokens.len() as u64));
            inputs.push(tokens.len() - 3);
            outputs.push(sample.output_len);
        }
        assert_eq!((inputs.iter().min(), inputs.iter().max()), (Some(&5), Some(&15)));
        assert_eq!((outputs.iter().min(), outputs.iter().max()), (Some(&2), Some(&8)));
    }
}
