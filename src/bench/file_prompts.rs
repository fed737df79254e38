//! Prompts from files: lines of one's own, or conversations as ShareGPT has them.

use std::path::Path;

use serde::Deserialize;

use super::{
    dataset::{Prompt, Sample},
    vocabulary::Vocabulary,
};
use crate::{cli::Failure, offline::files};

/// A line of a custom dataset.
#[derive(Deserialize)]
struct Line {
    prompt: String,
    output_tokens: Option<u64>,
}

/// A conversation of ShareGPT's file; only its first two turns are looked at.
#[derive(Deserialize)]
pub(crate) struct Talk {
    #[serde(default)]
    conversations: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    value: String,
}

/// A custom dataset's lines; `length` -1 takes each line's own length of output.
pub(crate) fn custom(path: &Path, length: i64) -> Result<Vec<Sample>, Failure> {
    let wrong = |number: usize, why: &dyn std::fmt::Display| {
        Failure::usage(format!("--dataset-path {}: line {number}: {why}", path.display()))
    };
    let sample = |line: files::Line| {
        let text = line.text.map_err(|why| wrong(line.number, &why))?;
        let parsed: Line =
            serde_json::from_str(&text).map_err(|error| wrong(line.number, &error))?;
        let output_len = u64::try_from(length).ok().or(parsed.output_tokens).ok_or_else(|| {
            wrong(line.number, &"it has no `output_tokens`, which --custom-output-len -1 takes")
        })?;
        Ok(Sample { prompt: Prompt::Text(parsed.prompt), prompt_len: None, output_len })
    };
    files::read(path)?.into_iter().map(sample).collect()
}

/// The conversations of a file that begin with a question and its answer.
pub(crate) fn conversations(path: &Path) -> Result<Vec<Talk>, Failure> {
    let wrong = |why: &dyn std::fmt::Display| {
        Failure::usage(format!("--dataset-path {}: {why}", path.display()))
    };
    let text = std::fs::read(path).map_err(|error| wrong(&error))?;
    let mut talks: Vec<Talk> = serde_json::from_slice(&text).map_err(|error| wrong(&error))?;
    talks.retain(|talk| talk.conversations.len() >= 2);
    if talks.is_empty() {
        return Err(wrong(&"it has no conversation of two turns"));
    }
    Ok(talks)
}

/// The first `count` conversations of a sensible length, again from the start if there are fewer;
/// outputs are as long as the answers, or `length`.
pub(crate) async fn sharegpt(
    talks: Vec<Talk>,
    count: usize,
    vocabulary: &Vocabulary,
    length: Option<u32>,
) -> Result<Vec<Sample>, Failure> {
    let mut samples = Vec::new();
    for talk in talks {
        if samples.len() == count {
            break;
        }
        let [question, answer, ..] = talk.conversations.as_slice() else { continue };
        let input = vocabulary.count(&question.value).await?;
        let output = match length {
            Some(length) => length as usize,
            None => vocabulary.count(&answer.value).await?,
        };
        let too_short = input < SHORTEST || (length.is_none() && output < SHORTEST);
        if too_short || input > LONGEST_INPUT || input + output > LONGEST {
            continue;
        }
        let prompt = Prompt::Text(question.value.clone());
        // The server may put tokens around it, so that its own count is the right one.
        samples.push(Sample { prompt, prompt_len: None, output_len: output as u64 });
    }
    if samples.is_empty() {
        return Err(Failure::usage("the dataset has no conversation of a sensible length"));
    }
    Ok(samples.into_iter().cycle().take(count).collect())
}

/// What `vllm bench` leaves out, in tokens.
const SHORTEST: usize = 4;
const LONGEST_INPUT: usize = 1024;
const LONGEST: usize = 2048;
