//! How long prompt and output may be, and the texts that say so. Clients search these texts for
//! `maximum context length`, so their wording is part of the interface.

use crate::error::ApiError;

/// Refuses a text that is certainly too long before it is tokenized: a cheap guard against a body
/// that costs seconds to tokenize. No token has more than `chars_per_token` characters.
pub(crate) fn check_characters(
    text: &str,
    max_model_len: u32,
    chars_per_token: usize,
) -> Result<(), ApiError> {
    let most = (max_model_len as usize).saturating_mul(chars_per_token);
    // Bytes are at least as many as characters, and need no counting.
    if text.len() <= most {
        return Ok(());
    }
    let characters = text.chars().count();
    if characters <= most {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "This model's maximum context length is {max_model_len} tokens. However, your prompt \
         contains {characters} characters (more than {most} characters, which is the upper bound \
         for {max_model_len} input tokens). Please reduce the length of the input prompt. \
         (parameter=input_text, value={characters})"
    ))
    .at("input_text"))
}

/// How many tokens may follow a prompt; 0 only if nothing but the prompt is wanted.
pub(crate) fn room(prompt: usize, max_model_len: u32, prompt_only: bool) -> Result<u32, ApiError> {
    let most = max_model_len as usize;
    if prompt > most {
        return Err(ApiError::bad_request(format!(
            "This model's maximum context length is {most} tokens. However, your prompt contains \
             {prompt} input tokens, which exceeds this limit even without any output tokens. \
             Please reduce the length of the input prompt. (parameter=input_tokens, value={prompt})"
        ))
        .at("input_tokens"));
    }
    if prompt == most && !prompt_only {
        return Err(ApiError::bad_request(format!(
            "This model's maximum context length is {most} tokens. However, your prompt fills it \
             with {prompt} input tokens, leaving no room for output tokens. Please reduce the \
             length of the input prompt. (parameter=input_tokens, value={prompt})"
        ))
        .at("input_tokens"));
    }
    Ok((most - prompt) as u32)
}

/// Which of a prompt's tokens are kept.
pub(crate) fn truncate(
    tokens: &mut Vec<u32>,
    keep: Option<i64>,
    keep_left: bool,
    max_model_len: u32,
) -> Result<(), ApiError> {
    let Some(keep) = keep else { return Ok(()) };
    let most = i64::from(max_model_len);
    let keep = match keep {
        // What fits beside one output token.
        -1 => most - 1,
        keep if keep < 1 => {
            let message = format!("truncate_prompt_tokens must be at least 1 or -1, got {keep}.");
            return Err(ApiError::bad_request(message).at("truncate_prompt_tokens"));
        }
        keep if keep > most => {
            let message = format!(
                "truncate_prompt_tokens value ({keep}) is greater than max_model_len ({most}). \
                 Please, select a smaller truncation size."
            );
            return Err(ApiError::bad_request(message).at("truncate_prompt_tokens"));
        }
        keep => keep,
    } as usize;
    if keep_left {
        tokens.truncate(keep);
    } else {
        tokens.drain(..tokens.len().saturating_sub(keep));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prompt_leaves_one_token() {
        assert_eq!(room(9, 10, false), Ok(1));
        assert_eq!(room(10, 10, true), Ok(0));
        for (prompt, only) in [(10, false), (11, false), (11, true)] {
            let error = room(prompt, 10, only).expect_err("too long").body().error;
            assert!(error.message.contains("maximum context length"));
            assert_eq!(error.param.as_deref(), Some("input_tokens"));
        }
    }

    #[test]
    fn characters_are_counted_not_bytes() {
        assert!(check_characters("ééééé", 5, 1).is_ok());
        assert!(check_characters("éééééé", 5, 1).is_err());
    }

    #[test]
    fn the_last_tokens_are_kept() {
        let cut = |keep, left| {
            let mut tokens = vec![1, 2, 3, 4];
            truncate(&mut tokens, keep, left, 4).map(|()| tokens)
        };
        assert_eq!(cut(None, false), Ok(vec![1, 2, 3, 4]));
        assert_eq!(cut(Some(2), false), Ok(vec![3, 4]));
        assert_eq!(cut(Some(2), true), Ok(vec![1, 2]));
        assert_eq!(cut(Some(-1), false), Ok(vec![2, 3, 4]));
        assert!(cut(Some(0), false).is_err() && cut(Some(5), false).is_err());
    }
}
