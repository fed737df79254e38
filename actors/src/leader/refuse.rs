//! What an engine refuses, before it costs anything, in words that the gateway can act on.

use troupe_runtime::{
    error::{ErrorKind, PublicError},
    wire::generate::{Generate, OutputKind},
};

use super::settings::EngineSettings;

/// Refuses a request that this engine cannot or may not serve: `waiting` sequences wait already,
/// and `longest` is the most positions that one sequence can have.
///
/// # Errors
/// Unavailable and overloaded mean "elsewhere"; the others would be refused everywhere.
pub(super) fn check(
    settings: &EngineSettings,
    generate: &Generate,
    waiting: u32,
    longest: u32,
) -> Result<(), PublicError> {
    let refuse = |kind, message: String| Err(PublicError::new(kind, message));
    if generate.endpoint != settings.endpoint {
        return refuse(ErrorKind::Unavailable, format!("{} is no longer here", generate.endpoint));
    }
    if generate.model != settings.model || generate.tokenizer != settings.tokenizer {
        let message = "this endpoint serves another version of the model".into();
        return refuse(ErrorKind::Unavailable, message);
    }
    kind(settings, generate)?;
    if waiting as usize + generate.choices.len() > settings.limits.max_num_queued as usize {
        let message = "The engine is currently busy and cannot accept new requests. Please try \
                       again later or on a different instance.";
        return refuse(ErrorKind::Overloaded, message.into());
    }
    let output = generate.choices.iter().map(|choice| choice.output.len()).max().unwrap_or(0);
    let is_text = generate.output == OutputKind::Tokens;
    let wants = usize::from(is_text && generate.options.max_tokens > output as u32);
    let needs = generate.prompt.len() + output + wants;
    if needs > longest as usize {
        let message = format!(
            "This model's maximum context length is {longest} tokens. However, the request needs \
             at least {needs}."
        );
        return Err(PublicError::bad_request(message, "input_tokens"));
    }
    if let Some(token) = generate.prompt.iter().find(|token| **token >= settings.vocab_size) {
        let message = format!(
            "Token id {token} is out of vocabulary: the model has {} tokens",
            settings.vocab_size
        );
        return Err(PublicError::bad_request(message, "prompt"));
    }
    hashes(settings, generate)
}

/// Refuses what the model is not run for.
fn kind(settings: &EngineSettings, generate: &Generate) -> Result<(), PublicError> {
    let message = match (generate.output, &settings.embeds) {
        (OutputKind::Tokens, None) | (OutputKind::Embedding, Some(_)) => return Ok(()),
        (OutputKind::Tokens, Some(_)) => {
            "The model does not support generation: it makes embeddings"
        }
        (OutputKind::Embedding, None) => "The model does not support Embeddings API",
    };
    Err(PublicError::new(ErrorKind::BadRequest, message))
}

/// Refuses hashes that cannot be those of this prompt. What is not hashed as this engine would is
/// not looked at: it is hashed here.
fn hashes(settings: &EngineSettings, generate: &Generate) -> Result<(), PublicError> {
    let (size, given) = (generate.hash_block_size as usize, generate.block_hashes.as_slice());
    let refuse = |message: String| Err(PublicError::bad_request(message, "block_hashes"));
    if size == 0 && given.is_empty() {
        return Ok(());
    }
    let full = generate.prompt.len().checked_div(size).unwrap_or(0);
    if given.len() != full {
        return refuse(format!(
            "{} hashes of blocks of {size} tokens came with the prompt; its {} tokens fill {full}",
            given.len(),
            generate.prompt.len()
        ));
    }
    let salt = generate.cache_salt.as_deref();
    let adapter = generate.adapter.as_ref().map(|adapter| adapter.digest);
    let chain = settings.hashing().chain(adapter, salt);
    if size != settings.limits.block_size as usize || generate.hash_seed != chain.seed() {
        return Ok(());
    }
    // Two of them say enough of all: each is made from the one before.
    let mut blocks = given.iter().zip(generate.prompt.chunks_exact(size));
    let first = blocks.next().is_none_or(|(hash, block)| chain.peek(block) == *hash);
    let last = blocks.next_back().is_none_or(|(hash, block)| {
        let before = given.len().checked_sub(2).and_then(|at| given.get(at));
        before.is_some_and(|before| chain.after(*before).peek(block) == *hash)
    });
    if first && last {
        return Ok(());
    }
    refuse("the hashes that came with the prompt are those of another prompt".into())
}
