//! `/v1/completions`: prompts of four forms become tokens, and the old style's fields their
//! meaning.

use std::sync::Arc;

use troupe_runtime::wire::generate::{MAX_CHOICES, SamplingOptions};

use super::{
    context::RequestContext,
    grammar, options,
    prepared::{Prepared, PreparedPrompt},
    sizing::Sizing,
    thinking,
};
use crate::{
    error::ApiError,
    model::{Served, ServedModel},
    openai::{
        common::Sampling,
        completions::{CompletionRequest, Prompt},
    },
};

/// OpenAI's default for completions.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// A completion request after every check.
pub(crate) struct PreparedCompletion {
    pub(crate) shared: Prepared,
    pub(crate) prompts: Vec<PreparedPrompt>,
    /// Each prompt's text, if it is to stand before the output.
    pub(crate) echo: Vec<Option<String>>,
    /// Alternatives to tell per output token.
    pub(crate) logprobs: Option<u32>,
    /// Alternatives to tell per prompt token, apart from the echo.
    pub(crate) prompt_logprobs: Option<u32>,
}

/// One prompt as it came.
enum Input {
    Text(String),
    Tokens(Vec<u32>),
}

/// Checks everything and tokenizes.
pub(crate) async fn prepare(
    served: Served,
    asked: &Sampling,
    request: CompletionRequest,
    context: &RequestContext,
) -> Result<PreparedCompletion, ApiError> {
    options::check_supported(asked)?;
    check_fields(&request)?;
    let model = Arc::clone(&served.model);
    let echo = request.echo.unwrap_or(false);
    let (mut options, logprobs) = sampling(&model, asked, &request)?;
    options.grammar = grammar::settle(&served, asked, None).await?;
    let prompt_logprobs = options.prompt_logprobs.filter(|_| asked.prompt_logprobs.is_some());
    let n = options::choices(asked, options.temperature)?;
    let stop = options::stop_rules(asked)?;
    let inputs = inputs(request.prompt, n)?;
    let sizing = Sizing {
        served: &served,
        asked,
        seeds: &context.seeds,
        max_tokens: asked.max_tokens,
        default_max_tokens: Some(DEFAULT_MAX_TOKENS),
        options,
        prompt_only: echo && asked.max_tokens == Some(0),
    };
    let (mut prompts, mut echoes) = (Vec::new(), Vec::new());
    for input in inputs {
        let (tokens, text) = match input {
            Input::Tokens(tokens) => (tokens, None),
            Input::Text(mut text) => {
                sizing.shorten(&mut text);
                let special = asked.add_special_tokens.unwrap_or(true);
                let tokens = served.encode(text.clone(), special).await?;
                (tokens, Some(text))
            }
        };
        let mut prompt = sizing.prompt(tokens)?;
        if prompt.options.grammar.is_some() {
            prompt.options.reasoning = thinking::left_open(&model, &prompt);
        }
        // A text that was not cut is echoed as it came; tokens as what they mean.
        let as_it_came = text.filter(|_| asked.truncate_prompt_tokens.is_none());
        echoes.push(match (echo, as_it_came) {
            (false, _) => None,
            (true, Some(text)) => Some(text),
            (true, None) => Some(model.decode(&prompt.tokens)?),
        });
        prompts.push(prompt);
    }
    let shared = Prepared::new(served, asked, (n, stop), context, &prompts);
    Ok(PreparedCompletion { shared, prompts, echo: echoes, logprobs, prompt_logprobs })
}

/// The options, and how many alternatives to tell per output token.
fn sampling(
    model: &ServedModel,
    asked: &Sampling,
    request: &CompletionRequest,
) -> Result<(SamplingOptions, Option<u32>), ApiError> {
    let side = model.side();
    let mut options = options::sampling(asked, side)?;
    let logprobs = request.logprobs.map(|k| options::logprobs(k, side, "logprobs"));
    options.logprobs = logprobs.transpose()?;
    if request.echo == Some(true) {
        options.prompt_logprobs = options.prompt_logprobs.max(options.logprobs);
    }
    options.bad_words = model.bad_words(asked.bad_words.as_deref().unwrap_or_default())?;
    let logprobs = options.logprobs;
    Ok((options, logprobs))
}

fn check_fields(request: &CompletionRequest) -> Result<(), ApiError> {
    if request.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
        let message = "suffix is only supported for models with FIM completion rendering";
        return Err(ApiError::bad_request(message).at("suffix"));
    }
    if request.prompt_embeds.is_some() {
        let message = "Prompt embeddings are not supported.";
        return Err(ApiError::not_implemented(message).at("prompt_embeds"));
    }
    Ok(())
}

/// The prompts, at least one, and not more than an answer can hold choices of.
fn inputs(prompt: Option<Prompt>, n: u32) -> Result<Vec<Input>, ApiError> {
    let inputs: Vec<Input> = match prompt {
        None => Vec::new(),
        Some(Prompt::Text(text)) => vec![Input::Text(text)],
        Some(Prompt::Tokens(tokens)) => vec![Input::Tokens(tokens)],
        Some(Prompt::Texts(texts)) => texts.into_iter().map(Input::Text).collect(),
        Some(Prompt::TokenLists(lists)) => lists.into_iter().map(Input::Tokens).collect(),
    };
    if inputs.is_empty() || matches!(inputs.as_slice(), [Input::Text(text)] if text.is_empty()) {
        let message = "Either prompt or prompt_embeds must be provided and non-empty.";
        return Err(ApiError::bad_request(message).at("prompt"));
    }
    if inputs.len() * n as usize > MAX_CHOICES {
        let message =
            format!("{} prompts with n={n} make more than {MAX_CHOICES} choices.", inputs.len());
        return Err(ApiError::bad_request(message).at("prompt"));
    }
    Ok(inputs)
}
