//! What an engine refuses, before it costs anything, in words that the gateway can act on.

use troupe_runtime::{
    error::{ErrorKind, PublicError},
    wire::generate::Generate,
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
    if generate.adapter.is_some() {
        return refuse(ErrorKind::NotFound, "this endpoint has no LoRA adapters".into());
    }
    if waiting as usize + generate.choices.len() > settings.limits.max_num_queued as usize {
        let message = "The engine is currently busy and cannot accept new requests. Please try \
                       again later or on a different instance.";
        return refuse(ErrorKind::Overloaded, message.into());
    }
    let output = generate.choices.iter().map(|choice| choice.output.len()).max().unwrap_or(0);
    let wants = usize::from(generate.options.max_tokens > output as u32);
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
    Ok(())
}
