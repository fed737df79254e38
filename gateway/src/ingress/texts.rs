//! Whole texts on their way to a model that makes vectors of them: cut if that was asked for,
//! measured, and refused where the model does not do that.

use troupe_runtime::{
    id::RequestId,
    wire::{
        generate::{OutputKind, SamplingOptions},
        status::Embeds,
    },
};

use super::{
    context::{RequestContext, new_id},
    limits,
    prepared::{Prepared, PreparedPrompt},
};
use crate::{
    egress::{stop::StopRules, vectors::Finishing},
    error::ApiError,
    model::Served,
    openai::{
        common::{Sampling, Side},
        completions::Prompt,
        embeddings::EmbeddingRequest,
    },
};

/// Most texts of one request, OpenAI's bound.
const MAX_TEXTS: usize = 2048;

/// Texts after every check.
pub(crate) struct PreparedTexts {
    pub(crate) shared: Prepared,
    pub(crate) prompts: Vec<PreparedPrompt>,
}

/// One text as it came.
pub(crate) enum Text {
    /// Not tokenized yet.
    Plain(String),
    /// By somebody else.
    Tokens(Vec<u32>),
    /// Two that are read as one.
    Pair(String, String),
}

/// What a model makes of texts, if it writes none; `api` is what was asked for.
pub(crate) fn embeds(served: &Served, api: &str) -> Result<Embeds, ApiError> {
    served.embeds.clone().ok_or_else(|| {
        ApiError::bad_request(format!(
            "The model does not support {api}: `{}` writes texts. Serve a model for embeddings, or \
             this one with `--runner pooling`.",
            served.name
        ))
        .at("model")
    })
}

/// The vectors that a model makes.
pub(crate) fn vectors(served: &Served, api: &str) -> Result<Embeds, ApiError> {
    let embeds = embeds(served, api)?;
    if !embeds.scores {
        return Ok(embeds);
    }
    Err(ApiError::bad_request(format!(
        "The model does not support {api}: `{}` scores pairs of texts. Use /score or /rerank.",
        served.name
    ))
    .at("model"))
}

/// Refuses a model that writes nothing; `api` is what was asked for.
pub(crate) fn check_writes(served: &Served, api: &str) -> Result<(), ApiError> {
    if served.embeds.is_none() {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "The model does not support {api}: `{}` makes no texts. Use /v1/embeddings, /score or \
         /rerank, or another model.",
        served.name
    ))
    .at("model"))
}

/// What the client gets of a vector.
pub(crate) fn finishing(
    served: &Served,
    embeds: &Embeds,
    request: &EmbeddingRequest,
) -> Result<Finishing, ApiError> {
    let normalize = request.normalize.unwrap_or(embeds.normalize);
    let Some(wanted) = request.dimensions else {
        return Ok(Finishing { normalize, size: embeds.size as usize });
    };
    let refuse = |message: String| Err(ApiError::bad_request(message).at("dimensions"));
    let name = &served.name;
    let size = u32::try_from(wanted).ok().filter(|size| *size > 0);
    match (&embeds.dimensions, size) {
        (None, _) => refuse(format!(
            "Model \"{name}\" does not support matryoshka representation, changing output \
             dimensions will lead to poor results."
        )),
        (Some(_), None) => refuse("Dimensions must be greater than 0".to_owned()),
        (Some(sizes), Some(size)) if !sizes.is_empty() && !sizes.contains(&size) => {
            refuse(format!(
                "Model \"{name}\" only supports {sizes:?} matryoshka dimensions, use other output \
             dimensions will lead to poor results."
            ))
        }
        (Some(_), Some(size)) if size > embeds.size => {
            refuse(format!("Dimensions must be at most {}, got {size}", embeds.size))
        }
        (Some(_), Some(size)) => Ok(Finishing { normalize, size: size as usize }),
    }
}

/// The texts of an embedding request.
pub(crate) fn inputs(input: Option<Prompt>) -> Result<Vec<Text>, ApiError> {
    let texts: Vec<Text> = match input {
        None => return Err(ApiError::validation("body.input", "field required")),
        Some(Prompt::Text(text)) => vec![Text::Plain(text)],
        Some(Prompt::Tokens(tokens)) => vec![Text::Tokens(tokens)],
        Some(Prompt::Texts(texts)) => texts.into_iter().map(Text::Plain).collect(),
        Some(Prompt::TokenLists(lists)) => lists.into_iter().map(Text::Tokens).collect(),
    };
    Ok(texts)
}

/// Checks everything and tokenizes; `param` is the field that the texts came in.
pub(crate) async fn prepare(
    served: Served,
    asked: &Sampling,
    (texts, param): (Vec<Text>, &str),
    context: &RequestContext,
) -> Result<PreparedTexts, ApiError> {
    if texts.len() > MAX_TEXTS {
        let message = format!("{} texts are too many, at most {MAX_TEXTS} at a time.", texts.len());
        return Err(ApiError::bad_request(message).at(param));
    }
    let keep = limits::keep(asked.truncate_prompt_tokens, 0, served.max_model_len)?;
    let side = asked.truncation_side.unwrap_or(Side::Right);
    let mut prompts = Vec::with_capacity(texts.len());
    for text in texts {
        let tokens = match text {
            Text::Tokens(mut tokens) => {
                if let Some(keep) = keep {
                    limits::truncate(&mut tokens, keep, side);
                }
                tokens
            }
            Text::Pair(first, second) => {
                let special = asked.add_special_tokens.unwrap_or(true);
                served.encode_pair((first, second), special, keep).await?
            }
            Text::Plain(text) => {
                let special = asked.add_special_tokens.unwrap_or(true);
                match keep {
                    None => served.encode(text, special).await?,
                    Some(keep) => served.encode_cut(text, special, (keep, side)).await?,
                }
            }
        };
        check(&tokens, &served, param)?;
        prompts.push(PreparedPrompt {
            request: RequestId(new_id()),
            tokens: tokens.into(),
            output: OutputKind::Embedding,
            options: SamplingOptions { max_tokens: 1, ..SamplingOptions::default() },
            seed: 0,
            prompt_only: false,
        });
    }
    let shared = Prepared::new(served, asked, (1, StopRules::default()), context, &prompts);
    Ok(PreparedTexts { shared, prompts })
}

fn check(tokens: &[u32], served: &Served, param: &str) -> Result<(), ApiError> {
    let (count, most) = (tokens.len(), served.max_model_len as usize);
    let refuse = |message: String| Err(ApiError::bad_request(message).at(param));
    if count == 0 {
        return refuse(format!("{param} has a text without tokens; at least one is needed."));
    }
    if count > most {
        return refuse(format!(
            "This model's maximum context length is {most} tokens. However, you requested {count} \
             tokens in the input for embedding generation. Please reduce the length of the input."
        ));
    }
    match tokens.iter().find(|token| **token >= served.model.vocab_size) {
        Some(token) => refuse(format!("Token id {token} is out of vocabulary")),
        None => Ok(()),
    }
}
