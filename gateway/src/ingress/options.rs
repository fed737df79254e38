//! Sampling options: the request's, else the model's advice, else OpenAI's defaults; each in its
//! range. The texts of mistakes are vLLM's, because programs read them.

use troupe_runtime::{
    model::config::GenerationConfig,
    wire::generate::{MAX_CHOICES, SamplingOptions},
};

use crate::{
    egress::stop::StopRules,
    error::ApiError,
    openai::common::{Sampling, StringOrList},
};

/// Below this a temperature is 0.
const GREEDY_BELOW: f64 = 1e-5;
/// Most stop strings: each costs a search per token.
const MAX_STOPS: usize = 64;
/// Longest that they may be together, because a text that begins like one is compared again with
/// every token.
const MAX_STOPS_BYTES: usize = 16 << 10;

/// What the model contributes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelSide<'a> {
    pub(crate) defaults: &'a GenerationConfig,
    pub(crate) vocab_size: u32,
    /// Most alternatives that may be asked for per token.
    pub(crate) max_logprobs: u32,
    pub(crate) eos_token_ids: &'a [u32],
}

/// Options, but for the output's length (which depends on the prompt's) and for log-probabilities
/// (which the endpoints ask for differently).
pub(crate) fn sampling(
    asked: &Sampling,
    model: ModelSide<'_>,
) -> Result<SamplingOptions, ApiError> {
    let defaults = model.defaults;
    let temperature = asked.temperature.or(defaults.temperature).unwrap_or(1.0);
    let top_k = asked.top_k.or(defaults.top_k.map(i64::from)).unwrap_or(0);
    let options = SamplingOptions {
        temperature: checked_temperature(temperature)?,
        top_p: ranged("top_p", "(0, 1]", asked.top_p.or(defaults.top_p), 1.0, |p| {
            p > 0.0 && p <= 1.0
        })?,
        top_k: checked_top_k(top_k)?,
        min_p: ranged("min_p", "[0, 1]", asked.min_p.or(defaults.min_p), 0.0, |p| {
            (0.0..=1.0).contains(&p)
        })?,
        presence_penalty: penalty("presence_penalty", asked.presence_penalty)?,
        frequency_penalty: penalty("frequency_penalty", asked.frequency_penalty)?,
        repetition_penalty: repetition(asked.repetition_penalty.or(defaults.repetition_penalty))?,
        logit_bias: logit_bias(asked, model.vocab_size)?,
        allowed_token_ids: allowed(asked, model.vocab_size)?,
        bad_words: Vec::new(),
        max_tokens: 0,
        min_tokens: 0,
        eos_token_ids: model.eos_token_ids.to_vec(),
        stop_token_ids: stop_token_ids(asked, model.vocab_size),
        ignore_eos: asked.ignore_eos.unwrap_or(false),
        logprobs: None,
        prompt_logprobs: prompt_logprobs(asked, model)?,
        grammar: None,
        reasoning: None,
    };
    Ok(options)
}

/// Choices per prompt.
pub(crate) fn choices(asked: &Sampling, temperature: f32) -> Result<u32, ApiError> {
    let n = asked.n.unwrap_or(1);
    if n < 1 {
        return Err(ApiError::bad_request(format!("n must be at least 1, got {n}.")).at("n"));
    }
    if n > MAX_CHOICES as i64 {
        let message = format!("n must be at most {MAX_CHOICES}, got {n}.");
        return Err(ApiError::bad_request(message).at("n"));
    }
    if n > 1 && temperature == 0.0 {
        let message = format!("n must be 1 when using greedy sampling, got {n}.");
        return Err(ApiError::bad_request(message).at("n"));
    }
    Ok(n as u32)
}

/// Texts that end an output.
pub(crate) fn stop_rules(asked: &Sampling) -> Result<StopRules, ApiError> {
    let strings = asked.stop.clone().map(StringOrList::into_vec).unwrap_or_default();
    if strings.iter().any(String::is_empty) {
        return Err(ApiError::bad_request("stop cannot contain an empty string.").at("stop"));
    }
    if strings.len() > MAX_STOPS {
        let message =
            format!("stop can contain at most {MAX_STOPS} strings, got {}.", strings.len());
        return Err(ApiError::bad_request(message).at("stop"));
    }
    let bytes: usize = strings.iter().map(String::len).sum();
    if bytes > MAX_STOPS_BYTES {
        let message = format!("stop can contain at most {MAX_STOPS_BYTES} bytes, got {bytes}.");
        return Err(ApiError::bad_request(message).at("stop"));
    }
    let include = asked.include_stop_str_in_output.unwrap_or(false);
    Ok(StopRules { strings, include, min_tokens: 0 })
}

/// How many output tokens, given what a client asked for, what there is room for, and the
/// endpoint's own default.
pub(crate) fn max_tokens(
    asked: Option<i64>,
    default: Option<u32>,
    room: u32,
    limits: (u32, Option<u32>),
) -> Result<u32, ApiError> {
    let (max_model_len, model_cap) = limits;
    let wanted = match asked {
        Some(asked) if asked < 1 => {
            let message = format!("max_tokens must be at least 1, got {asked}.");
            return Err(ApiError::bad_request(message).at("max_tokens"));
        }
        Some(asked) if asked > i64::from(max_model_len) => {
            let message = format!(
                "max_tokens={asked} cannot be greater than max_model_len={max_model_len}. \
                 Please request fewer output tokens."
            );
            return Err(ApiError::bad_request(message).at("max_tokens"));
        }
        Some(asked) => asked as u32,
        None => default.unwrap_or(room),
    };
    Ok(wanted.min(room).min(model_cap.unwrap_or(u32::MAX)))
}

/// No end before so many tokens.
pub(crate) fn min_tokens(asked: &Sampling, max_tokens: u32) -> Result<u32, ApiError> {
    let min = asked.min_tokens.unwrap_or(0);
    let wrong = |message: String| Err(ApiError::bad_request(message).at("min_tokens"));
    if min < 0 {
        return wrong(format!("min_tokens must be greater than or equal to 0, got {min}."));
    }
    if min > i64::from(max_tokens) {
        return wrong(format!(
            "min_tokens must be less than or equal to max_tokens={max_tokens}, got {min}."
        ));
    }
    Ok(min as u32)
}

/// How many alternatives per output token.
pub(crate) fn logprobs(asked: i64, model: ModelSide<'_>, param: &str) -> Result<u32, ApiError> {
    if asked < -1 {
        let message = format!("{param} must be non-negative or -1, got {asked}.");
        return Err(ApiError::bad_request(message).at(param));
    }
    bounded_logprobs("sample logprobs", asked, model, param)
}

/// What must be refused because leaving it out would change the answer's meaning.
pub(crate) fn check_supported(asked: &Sampling) -> Result<(), ApiError> {
    if asked.use_beam_search == Some(true) {
        return Err(
            ApiError::not_implemented("Beam search is not supported.").at("use_beam_search")
        );
    }
    if asked.logprob_token_ids.is_some() {
        let message = "`logprob_token_ids` is not supported; use `logprobs`.";
        return Err(ApiError::not_implemented(message).at("logprob_token_ids"));
    }
    if asked.repetition_detection.is_some() {
        let message = "`repetition_detection` is not supported.";
        return Err(ApiError::not_implemented(message).at("repetition_detection"));
    }
    if asked.stream_options.is_some() && asked.stream != Some(true) {
        let message = "Stream options can only be defined when `stream=True`.";
        return Err(ApiError::bad_request(message).at("stream_options"));
    }
    if let Some(interval) = asked.stream_interval.filter(|interval| *interval < 1) {
        let message = format!("stream_interval must be at least 1, got {interval}.");
        return Err(ApiError::bad_request(message).at("stream_interval"));
    }
    check_cache_salt(asked.cache_salt.as_deref())
}

fn check_cache_salt(salt: Option<&str>) -> Result<(), ApiError> {
    let Some(salt) = salt else { return Ok(()) };
    let wrong = |message: &str| Err(ApiError::bad_request(message).at("cache_salt"));
    if salt.is_empty() {
        return wrong("cache_salt must be a non-empty string if provided.");
    }
    if salt.chars().count() > 128 {
        return wrong("cache_salt must have at most 128 characters.");
    }
    if salt.contains(['@', '/', '\\', '\0']) {
        return wrong("cache_salt must not contain any of '@', '/', '\\' and NUL.");
    }
    Ok(())
}

fn checked_temperature(temperature: f64) -> Result<f32, ApiError> {
    let wrong = |what: &str| {
        let message = format!("temperature must be {what}, got {temperature:?}.");
        Err(ApiError::bad_request(message).at("temperature"))
    };
    if !temperature.is_finite() {
        return wrong("a finite number");
    }
    if temperature < 0.0 {
        return wrong("non-negative");
    }
    if temperature > 2.0 {
        return wrong("in [0, 2]");
    }
    Ok(if temperature < GREEDY_BELOW { 0.0 } else { temperature as f32 })
}

fn checked_top_k(top_k: i64) -> Result<u32, ApiError> {
    if top_k < -1 {
        let message = format!("top_k must be 0 (disable), or at least 1, got {top_k}.");
        return Err(ApiError::bad_request(message).at("top_k"));
    }
    // More than there are tokens keeps all of them, as 0 does.
    Ok(u32::try_from(top_k.max(0)).unwrap_or(0))
}

fn ranged(
    field: &str,
    range: &str,
    value: Option<f64>,
    default: f64,
    good: impl Fn(f64) -> bool,
) -> Result<f32, ApiError> {
    let value = value.unwrap_or(default);
    if good(value) {
        return Ok(value as f32);
    }
    let message = format!("{field} must be in {range}, got {value:?}.");
    Err(ApiError::bad_request(message).at(field))
}

fn penalty(field: &str, value: Option<f64>) -> Result<f32, ApiError> {
    ranged(field, "[-2, 2]", value, 0.0, |penalty| (-2.0..=2.0).contains(&penalty))
}

fn repetition(value: Option<f64>) -> Result<f32, ApiError> {
    let value = value.unwrap_or(1.0);
    let narrow = value as f32;
    if narrow > 0.0 && narrow.is_finite() {
        return Ok(narrow);
    }
    let message = format!("repetition_penalty must be greater than zero, got {value:?}.");
    Err(ApiError::bad_request(message).at("repetition_penalty"))
}

fn logit_bias(asked: &Sampling, vocab_size: u32) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(biases) = &asked.logit_bias else { return Ok(Vec::new()) };
    let one = |(key, bias): (&String, &f64)| {
        let token: i64 = key.parse().map_err(|_| {
            let message = format!(
                "Found token_id={key:?} in logit_bias but token_id must be an integer or string \
                 representing an integer"
            );
            ApiError::bad_request(message).at("logit_bias")
        })?;
        let token = u32::try_from(token).ok().filter(|token| *token < vocab_size);
        let token = token.ok_or_else(|| {
            let message = format!(
                "token_id(s) [{key}] in logit_bias contain out-of-vocab token ids. Vocabulary \
                 size: {vocab_size}"
            );
            ApiError::bad_request(message).at("logit_bias")
        })?;
        Ok((token, bias.clamp(-100.0, 100.0) as f32))
    };
    biases.iter().map(one).collect()
}

fn allowed(asked: &Sampling, vocab_size: u32) -> Result<Vec<u32>, ApiError> {
    let Some(tokens) = &asked.allowed_token_ids else { return Ok(Vec::new()) };
    let wrong = |message: &str| Err(ApiError::bad_request(message).at("allowed_token_ids"));
    if tokens.is_empty() {
        return wrong("allowed_token_ids must not be empty.");
    }
    if tokens.iter().any(|token| *token >= vocab_size) {
        return wrong("allowed_token_ids contains an out-of-vocab token id.");
    }
    let mut tokens = tokens.clone();
    tokens.sort_unstable();
    tokens.dedup();
    Ok(tokens)
}

/// Tokens that do not exist never come, so they are left out: lists made for other models work.
fn stop_token_ids(asked: &Sampling, vocab_size: u32) -> Vec<u32> {
    let asked = asked.stop_token_ids.as_deref().unwrap_or_default();
    let mut tokens: Vec<u32> =
        asked.iter().copied().filter_map(|token| u32::try_from(token).ok()).collect();
    tokens.retain(|token| *token < vocab_size);
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

fn prompt_logprobs(asked: &Sampling, model: ModelSide<'_>) -> Result<Option<u32>, ApiError> {
    let Some(wanted) = asked.prompt_logprobs else { return Ok(None) };
    let param = "prompt_logprobs";
    if wanted < -1 {
        let message = "`prompt_logprobs` must be a positive value or -1.";
        return Err(ApiError::bad_request(message).at(param));
    }
    if asked.stream == Some(true) && wanted != 0 {
        let message = "`prompt_logprobs` are not available when `stream=True`.";
        return Err(ApiError::bad_request(message).at(param));
    }
    bounded_logprobs("prompt logprobs", wanted, model, param).map(Some)
}

fn bounded_logprobs(
    what: &str,
    asked: i64,
    model: ModelSide<'_>,
    param: &str,
) -> Result<u32, ApiError> {
    let vocab_size = i64::from(model.vocab_size);
    let asked = if asked == -1 { vocab_size } else { asked };
    let most = model.max_logprobs;
    if asked > i64::from(most) {
        let message =
            format!("Requested {what} of {asked}, which is greater than max allowed: {most}");
        return Err(ApiError::bad_request(message).at(param));
    }
    Ok(asked as u32)
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
