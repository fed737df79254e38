//! How long prompt and output may be, and the texts that say so. Clients search these texts for
//! `maximum context length`, so their wording is part of the interface.

use crate::{error::ApiError, openai::common::Side};

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

/// How many of a prompt's tokens are kept beside so many of output; -1 keeps what fits.
pub(crate) fn keep(
    asked: Option<i64>,
    output: i64,
    max_model_len: u32,
) -> Result<Option<usize>, ApiError> {
    let Some(keep) = asked else { return Ok(None) };
    // An output longer than the context is a mistake of its own, told elsewhere.
    let most = i64::from(max_model_len).saturating_sub(output).max(1);
    let message = match keep {
        -1 => return Ok(Some(most as usize)),
        keep if keep < 1 => {
            format!("truncate_prompt_tokens must be at least 1 or -1, got {keep}.")
        }
        keep if keep > most => format!(
            "truncate_prompt_tokens={keep} cannot be greater than max_model_len - max_tokens = \
             {most}. Please request a smaller truncation size."
        ),
        keep => return Ok(Some(keep as usize)),
    };
    Err(ApiError::bad_request(message).at("truncate_prompt_tokens"))
}

/// Leaves `keep` tokens.
pub(crate) fn truncate(tokens: &mut Vec<u32>, keep: usize, cut: Side) {
    match cut {
        Side::Left => drop(tokens.drain(..tokens.len().saturating_sub(keep))),
        Side::Right => tokens.truncate(keep),
    }
}

/// Leaves `keep` characters.
pub(crate) fn shorten(text: &mut String, keep: usize, cut: Side) {
    if text.len() <= keep {
        return;
    }
    match cut {
        Side::Left => {
            let mut starts = text.char_indices().rev().map(|(start, _)| start);
            let start = keep.checked_sub(1).map_or(Some(text.len()), |last| starts.nth(last));
            text.drain(..start.unwrap_or(0));
        }
        Side::Right => {
            let end = text.char_indices().nth(keep).map_or(text.len(), |(end, _)| end);
            text.truncate(end);
        }
    }
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
    fn what_is_kept_leaves_room_for_the_output() {
        assert_eq!(keep(None, 1, 4), Ok(None));
        assert_eq!(keep(Some(2), 1, 4), Ok(Some(2)));
        assert_eq!(keep(Some(-1), 1, 4), Ok(Some(3)));
        assert_eq!(keep(Some(-1), 3, 4), Ok(Some(1)));
        assert_eq!(keep(Some(-1), i64::MAX, 4), Ok(Some(1)));
        assert_eq!(keep(Some(4), 0, 4), Ok(Some(4)));
        for (asked, output) in [(0, 1), (-2, 1), (4, 1), (i64::MAX, 0), (i64::MIN, 0)] {
            assert!(keep(Some(asked), output, 4).is_err(), "{asked}");
        }
    }

    #[test]
    fn the_side_says_what_goes() {
        let cut = |keep, side| {
            let (mut tokens, mut text) = (vec![1, 2, 3, 4], "aéîz".to_owned());
            truncate(&mut tokens, keep, side);
            shorten(&mut text, keep, side);
            (tokens, text)
        };
        assert_eq!(cut(2, Side::Left), (vec![3, 4], "îz".to_owned()));
        assert_eq!(cut(2, Side::Right), (vec![1, 2], "aé".to_owned()));
        for side in [Side::Left, Side::Right] {
            assert_eq!(cut(9, side), (vec![1, 2, 3, 4], "aéîz".to_owned()));
            assert_eq!(cut(0, side), (vec![], String::new()));
        }
    }
}
