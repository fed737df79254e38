//! `--speculative-config`: vLLM's JSON, of which the n-gram method is known.

use serde::Deserialize;

use crate::scheduler::NgramSettings;

/// The fields of the configuration that mean something here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    method: Option<String>,
    num_speculative_tokens: u32,
    #[serde(default = "four")]
    prompt_lookup_max: u32,
    #[serde(default = "two")]
    prompt_lookup_min: u32,
}

/// Reads the flag's value.
///
/// # Errors
/// A sentence that names the field and what would be right.
pub(super) fn parse(text: &str) -> Result<NgramSettings, String> {
    let example =
        r#"such as {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}"#;
    let config: Config = serde_json::from_str(text)
        .map_err(|error| format!("--speculative-config: {error}; JSON is needed, {example}"))?;
    if let Some(method) = config.method.as_deref().filter(|method| *method != "ngram") {
        return Err(format!("--speculative-config: method is {method}, only ngram is known"));
    }
    let Config { num_speculative_tokens, prompt_lookup_max, prompt_lookup_min, .. } = config;
    if !(1..=MOST).contains(&num_speculative_tokens) {
        return Err(format!(
            "--speculative-config: num_speculative_tokens is {num_speculative_tokens}, 1 to {MOST} \
             are possible"
        ));
    }
    if prompt_lookup_min == 0 || prompt_lookup_min > prompt_lookup_max || prompt_lookup_max > MOST {
        return Err(format!(
            "--speculative-config: prompt_lookup_min is {prompt_lookup_min} and prompt_lookup_max \
             {prompt_lookup_max}; 1 to {MOST} are possible, the least first"
        ));
    }
    Ok(NgramSettings {
        num_tokens: num_speculative_tokens,
        longest: prompt_lookup_max,
        shortest: prompt_lookup_min,
    })
}

fn four() -> u32 {
    4
}

fn two() -> u32 {
    2
}

/// Longer drafts are hardly ever right, and each token costs a row of logits.
const MOST: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vllms_json_is_read_and_mistakes_are_named() {
        let settings = parse(r#"{"method": "ngram", "num_speculative_tokens": 5}"#).unwrap();
        assert_eq!((settings.num_tokens, settings.longest, settings.shortest), (5, 4, 2));
        let wrong = [
            ("5", "JSON is needed"),
            (r#"{"method": "eagle", "num_speculative_tokens": 5}"#, "only ngram"),
            (r#"{"num_speculative_tokens": 0}"#, "num_speculative_tokens is 0"),
            (r#"{"num_speculative_tokens": 1, "prompt_lookup_min": 9}"#, "prompt_lookup_min is 9"),
            (r#"{"num_speculative_tokens": 1, "draft_model": "x"}"#, "draft_model"),
        ];
        for (text, part) in wrong {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part), "{error}");
        }
    }
}
