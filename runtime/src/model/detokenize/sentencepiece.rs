//! Sentencepiece tokens: text with `▁` for spaces, and `<0xNN>` tokens for bytes that the
//! vocabulary has no text for.
//!
//! A run of byte tokens is decoded as a whole: if all of it is UTF-8 it is that text, and if not,
//! each of its bytes is U+FFFD. So nothing of a run is certain before the run ends.

use serde_json::Value;

/// What such a decoder does, read from its parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::model) struct Rules {
    /// Each of these texts becomes the other, in every token.
    replace: Vec<(String, String)>,
    /// Characters dropped from the beginning of the whole text, and how many at most.
    strip: Option<(char, usize)>,
}

impl Rules {
    /// Recognizes a sequence of replacements, byte fallback, fusing and stripping at the start.
    pub(super) fn of(decoder: &Value) -> Option<Self> {
        let mut rules = Self::default();
        let mut stage = 0;
        for part in decoder["decoders"].as_array()? {
            stage = match (part["type"].as_str()?, stage) {
                ("Replace", 0) => {
                    let from = part["pattern"]["String"].as_str()?;
                    rules.replace.push((from.to_owned(), part["content"].as_str()?.to_owned()));
                    0
                }
                ("ByteFallback", 0) => 1,
                ("Fuse", 1) => 2,
                ("Strip", 2) if part["stop"] == 0 => {
                    let mut content = part["content"].as_str()?.chars();
                    let count = part["start"].as_u64()? as usize;
                    rules.strip = Some((content.next()?, count));
                    3
                }
                _ => return None,
            };
        }
        (stage >= 2).then_some(rules)
    }

    /// The bytes of a token out of context.
    pub(super) fn token_bytes(&self, token: &str) -> Vec<u8> {
        let text = self.replaced(token.to_owned());
        byte_of(&text).map_or_else(|| text.into_bytes(), |byte| vec![byte])
    }

    fn replaced(&self, mut token: String) -> String {
        for (from, to) in &self.replace {
            if token.contains(from) {
                token = token.replace(from, to);
            }
        }
        token
    }
}

/// One stream's state.
#[derive(Debug)]
pub(super) struct Sentencepiece {
    rules: Rules,
    /// The run of byte tokens that has not ended.
    run: Vec<u8>,
    /// Characters that may still be dropped, while only such have come.
    strip: usize,
}

impl Sentencepiece {
    pub(super) fn new(rules: &Rules) -> Self {
        let strip = rules.strip.map_or(0, |(_, count)| count);
        Self { rules: rules.clone(), run: Vec::new(), strip }
    }

    /// Text that is certain with this token.
    pub(super) fn push(&mut self, token: String) -> String {
        let token = self.rules.replaced(token);
        if let Some(byte) = byte_of(&token) {
            self.run.push(byte);
            return String::new();
        }
        let mut text = self.end_run();
        text.push_str(&self.stripped(&token));
        text
    }

    /// What is left when no token follows.
    pub(super) fn finish(&mut self) -> String {
        self.end_run()
    }

    /// Takes all that has come as handed out, but for bytes that may still become a character.
    pub(super) fn forget(&mut self) {
        let run = self.run.clone();
        self.end_run();
        if let Err(error) = std::str::from_utf8(&run)
            && error.error_len().is_none()
        {
            self.run = run[error.valid_up_to()..].to_vec();
        }
    }

    fn end_run(&mut self) -> String {
        let run = std::mem::take(&mut self.run);
        let count = run.len();
        let replaced = |_| char::REPLACEMENT_CHARACTER.to_string().repeat(count);
        let text = String::from_utf8(run).unwrap_or_else(replaced);
        self.stripped(&text)
    }

    /// Drops what is to be dropped from the beginning of the whole text.
    fn stripped(&mut self, text: &str) -> String {
        let Some((content, _)) = self.rules.strip else {
            return text.to_owned();
        };
        let mut rest = text;
        while self.strip > 0 && !rest.is_empty() {
            match rest.strip_prefix(content) {
                Some(after) => {
                    rest = after;
                    self.strip -= 1;
                }
                None => self.strip = 0,
            }
        }
        rest.to_owned()
    }
}

/// The byte of a `<0xNN>` token.
fn byte_of(token: &str) -> Option<u8> {
    if token.len() != 6 || !token.starts_with("<0x") || !token.ends_with('>') {
        return None;
    }
    u8::from_str_radix(token.get(3..5)?, 16).ok()
}
