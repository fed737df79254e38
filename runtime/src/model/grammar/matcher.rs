//! One output under way: which tokens may come next.

use llguidance::toktrie::SimpleVob;

use super::GrammarError;

/// Follows the tokens of one output. A clone goes its own way, but shares what was learned of the
/// grammar's lexemes, so many outputs of one grammar cost little more than one.
#[derive(Clone)]
pub struct Matcher {
    parser: llguidance::Matcher,
    /// Tokens that the parser has.
    tokens: usize,
    /// End tokens after them.
    ends: usize,
    mask: Option<SimpleVob>,
}

// === impl Matcher ===

impl Matcher {
    pub(super) fn new(parser: llguidance::Matcher) -> Self {
        Self { parser, tokens: 0, ends: 0, mask: None }
    }

    /// Tokens taken so far.
    pub fn position(&self) -> usize {
        self.tokens + self.ends
    }

    /// One bit per token of the vocabulary, lowest first, set if the token may come next; what is
    /// past the end may not. Costs about 100 microseconds as a rule; asking again is free.
    /// At least one bit is set.
    ///
    /// # Errors
    /// [`GrammarError::Broke`] if a limit was reached.
    pub fn allowed_mask(&mut self) -> Result<&[u32], GrammarError> {
        if self.mask.is_none() {
            let ended = self.ends > 0;
            let made = match ended {
                true => self.parser.tok_env().map(|env| env.tok_trie().eos_token_set()),
                false => self.parser.compute_mask_or_eos(),
            };
            self.mask = Some(made.map_err(|error| self.broke(&error.to_string()))?);
        }
        // It was made just now.
        Ok(self.mask.as_ref().map_or(&[], SimpleVob::as_slice))
    }

    /// Takes the next token. A refused token changes nothing.
    ///
    /// # Errors
    /// [`GrammarError::Refused`] if it is not allowed here, [`GrammarError::Broke`] if a limit was
    /// reached.
    pub fn accept(&mut self, token: u32) -> Result<(), GrammarError> {
        let refused = GrammarError::Refused { token, position: self.position() };
        if self.is_end(token) && self.can_stop() {
            self.ends += 1;
            self.mask = None;
            return Ok(());
        }
        if self.ends > 0 || self.is_unknown(token) {
            return Err(refused);
        }
        let taken = self.parser.try_consume_tokens(&[token]);
        match taken.map_err(|error| self.broke(&error.to_string()))? {
            0 => Err(refused),
            _ => {
                self.tokens += 1;
                self.mask = None;
                Ok(())
            }
        }
    }

    /// Takes back the last `count` tokens.
    ///
    /// # Errors
    /// [`GrammarError::Broke`] if there are not so many or the grammar cannot go back; then a new
    /// matcher is to be given the tokens that stay.
    pub fn rollback(&mut self, count: usize) -> Result<(), GrammarError> {
        let ends = count.min(self.ends);
        let tokens = count - ends;
        if tokens > self.tokens {
            let reason = format!("{count} tokens cannot be taken back");
            return Err(GrammarError::Broke { position: self.position(), reason });
        }
        if count == 0 {
            return Ok(());
        }
        self.ends -= ends;
        self.mask = None;
        let back = self.parser.rollback(tokens);
        back.map_err(|error| self.broke(&error.to_string()))?;
        self.tokens -= tokens;
        Ok(())
    }

    /// Whether the output may end here.
    pub fn can_stop(&mut self) -> bool {
        self.ends > 0 || self.is_complete() || self.parser.is_accepting().unwrap_or(false)
    }

    /// Whether the grammar is complete: nothing but an end may follow.
    pub fn is_complete(&self) -> bool {
        self.ends > 0 || (self.parser.is_stopped() && !self.parser.is_error())
    }

    fn is_end(&self, token: u32) -> bool {
        self.parser.tok_env().is_ok_and(|env| env.tok_trie().eos_tokens().contains(&token))
    }

    /// Whether the id has no token that could be taken.
    fn is_unknown(&self, token: u32) -> bool {
        self.parser.tok_env().is_ok_and(|env| env.tok_trie().token(token).is_empty())
    }

    fn broke(&self, reason: &str) -> GrammarError {
        GrammarError::Broke { position: self.position(), reason: plain(reason) }
    }
}

/// The library's words for people: behind the first line it tells of its own inner state.
fn plain(reason: &str) -> String {
    // A mistake in an expression stands below a drawing of it.
    if let Some(mistake) = reason.lines().find_map(|line| line.trim().strip_prefix("error: ")) {
        return format!("a regular expression is wrong: {mistake}");
    }
    let line = reason.lines().next().unwrap_or_default();
    match line {
        "NoExtensionBias" => "nothing can match it".into(),
        _ if line.starts_with("panic") => "it is more than the compiler can count to".into(),
        _ => line.chars().take(MAX_REASON).collect(),
    }
}

/// Longest reason: the library quotes grammars and lists tokens.
pub(super) const MAX_REASON: usize = 300;

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matcher(at {})", self.position())
    }
}
