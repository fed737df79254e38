//! Recorded load: lines of JSON as in the traces that were published with Mooncake (Qin et al.,
//! "Mooncake: Trading more storage for less computation", FAST 2025).
//!
//! A line is a request: `timestamp` in milliseconds, `input_length` and `output_length` in tokens,
//! and `hash_ids`, one number for each 512 tokens of the prompt, the last of them for the rest.
//! Equal numbers are equal tokens after equal tokens, which is all that a prefix cache sees.

use std::time::Duration;

use serde::Deserialize;

use super::load::{Conversation, Load, Piece, Turn, mix};

/// Tokens that one id stands for.
const BLOCK: u32 = 512;
/// Longer than any trace; endpoints that have nothing to do say so every second.
const LONGEST: Duration = Duration::from_secs(31 * 24 * 3600);

/// One line. Fields that we do not know are others' business.
#[derive(Debug, Deserialize)]
struct Line {
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    hash_ids: Vec<u64>,
}

/// Reads a trace, at most so many requests of it, `speed` times as fast as it was recorded. Each
/// request is a conversation of its own; the earliest comes at once, whenever it was recorded.
///
/// # Errors
/// The first line that is wrong, by its number, and what would be right.
pub(crate) fn read(text: &str, most: Option<usize>, speed: f64) -> Result<Load, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let conversation = |(at, line): (usize, &str)| {
        conversation(line, speed).map_err(|why| format!("line {}: {why}", at + 1))
    };
    let lines = lines.take(most.unwrap_or(usize::MAX));
    let mut conversations = lines.map(conversation).collect::<Result<Vec<_>, _>>()?;
    conversations.sort_by_key(|conversation| conversation.at);
    let (Some(first), Some(last)) = (conversations.first(), conversations.last()) else {
        return Err("there is no request in it, one per line is needed".into());
    };
    let (first, last) = (first.at, last.at);
    if last - first > LONGEST {
        return Err(format!(
            "from its first request to its last it takes {} s, at most {} s are possible: \
             timestamps are milliseconds, and a greater speed makes it shorter",
            (last - first).as_secs(),
            LONGEST.as_secs()
        ));
    }
    conversations.iter_mut().for_each(|conversation| conversation.at -= first);
    Ok(Load { conversations, at_once: None })
}

fn conversation(line: &str, speed: f64) -> Result<Conversation, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| {
        format!(
            "{error}; an object is needed with timestamp (milliseconds), input_length, \
             output_length (tokens) and hash_ids (numbers)"
        )
    })?;
    let seconds = line.timestamp / 1e3 / speed;
    // Ten thousand years hold a time in any calendar, and a clock holds them.
    if !(0.0..=3e11).contains(&seconds) {
        return Err(format!("timestamp is {}, milliseconds from 0 on are needed", line.timestamp));
    }
    if line.input_length == 0 {
        return Err("input_length is 0, at least one token is needed".into());
    }
    let (ids, needed) = (line.hash_ids.len(), line.input_length.div_ceil(BLOCK));
    if ids != needed as usize {
        return Err(format!(
            "hash_ids has {ids} numbers, input_length {} needs {needed}: one for each {BLOCK} \
             tokens, and one for the rest",
            line.input_length
        ));
    }
    let mut left = line.input_length;
    let piece = |id: &u64| {
        let tokens = left.min(BLOCK);
        left -= tokens;
        Piece { seed: mix(*id), tokens }
    };
    let pieces = line.hash_ids.iter().map(piece).collect();
    // What is measured is the time to a first token, so there is one.
    let turn = Turn { think: Duration::ZERO, pieces, output: line.output_length.max(1) };
    Ok(Conversation { at: Duration::from_secs_f64(seconds), turns: vec![turn] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_requests_and_equal_ids_equal_tokens() {
        let text = r#"
{"timestamp": 2000, "input_length": 600, "output_length": 20, "hash_ids": [4, 9]}
{"timestamp": 1000, "input_length": 1024, "output_length": 0, "hash_ids": [4, 8], "more": {}}
"#;
        let load = read(text, None, 2.0).expect("it is right");
        let [first, second] = load.conversations.as_slice() else { panic!("two: {load:?}") };
        assert_eq!((first.at, second.at), (Duration::ZERO, Duration::from_millis(500)));
        assert_eq!((first.turns[0].output, second.turns[0].output), (1, 20));
        let lengths = |conversation: &Conversation| {
            conversation.turns[0].pieces.iter().map(|piece| piece.tokens).collect::<Vec<_>>()
        };
        assert_eq!((lengths(first), lengths(second)), (vec![512, 512], vec![512, 88]));
        let seeds = |conversation: &Conversation, at: usize| conversation.turns[0].pieces[at].seed;
        assert_eq!(seeds(first, 0), seeds(second, 0));
        assert_ne!(seeds(first, 1), seeds(second, 1));
        assert_eq!(read(text, Some(1), 1.0).expect("it is right").requests(), 1);
    }

    #[test]
    fn bad_lines_are_named_with_what_would_be_right() {
        let good = r#"{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [0]}"#;
        let cases = [
            ("{", "line 2: EOF while parsing", "hash_ids (numbers)"),
            (r#"{"timestamp": 0}"#, "line 2: missing field `input_length`", "milliseconds"),
            (
                r#"{"timestamp": -1, "input_length": 1, "output_length": 1, "hash_ids": [0]}"#,
                "line 2: timestamp is -1",
                "from 0 on",
            ),
            (
                r#"{"timestamp": 0, "input_length": 0, "output_length": 1, "hash_ids": []}"#,
                "line 2: input_length is 0",
                "at least one",
            ),
            (
                r#"{"timestamp": 0, "input_length": 513, "output_length": 1, "hash_ids": [0]}"#,
                "line 2: hash_ids has 1 numbers",
                "input_length 513 needs 2",
            ),
            (
                r#"{"timestamp": 0, "input_length": "1", "output_length": 1, "hash_ids": [0]}"#,
                "line 2: invalid type: string",
                "object is needed",
            ),
        ];
        for (bad, wrong, right) in cases {
            let error = read(&format!("{good}\n{bad}\n"), None, 1.0).expect_err(bad);
            assert!(error.starts_with(wrong) && error.contains(right), "{error}");
        }
        assert!(read("\n\n", None, 1.0).expect_err("nothing").contains("no request"));
        let late = good.replace("\"timestamp\": 0", "\"timestamp\": 1e13");
        let error = read(&format!("{good}\n{late}\n"), None, 1.0).expect_err("300 years");
        assert!(error.contains("10000000000 s") && error.contains("2678400 s"), "{error}");
        let alone = read(&late, None, 1.0).expect("its time is the first");
        assert_eq!(alone.conversations[0].at, Duration::ZERO);
    }
}
