//! What endpoints may have cached that tell nothing: what was sent there, as llm-d's router
//! guesses.
//!
//! A foreign endpoint's tokenizer and block size are not known, and its requests are handed on as
//! they came. So their bytes stand for tokens: two requests that begin with the same bytes begin
//! with the same tokens, and four bytes are about one of them.

use std::{sync::Arc, time::Duration};

use troupe_runtime::{id::Digest, prefix::Parameters};

use super::{
    cached::Cached,
    index::Runs,
    namings::{Hashes, Naming, Prefixes},
};

/// What is guessed of all foreign endpoints.
#[derive(Debug)]
pub(crate) struct Guessed {
    prefixes: Arc<Prefixes>,
    naming: Naming,
}

// === impl Guessed ===

impl Default for Guessed {
    fn default() -> Self {
        let prefixes = Arc::new(Prefixes::default());
        let naming = prefixes.naming(&parameters());
        Self { prefixes, naming }
    }
}

impl Guessed {
    /// What is guessed of one endpoint: nothing yet.
    pub(crate) fn cached(&self) -> Cached {
        Cached::new(Arc::clone(&self.prefixes), &parameters())
    }

    /// The names of a request's blocks, for a model.
    pub(crate) async fn hashes(&self, model: &str, request: &[u8]) -> Hashes {
        if request.len() < 4 * BLOCK_SIZE as usize {
            return Hashes::NONE;
        }
        let words = request.chunks_exact(4);
        let words = words.map(|word| word.iter().fold(0, |all, byte| all << 8 | u32::from(*byte)));
        let (words, wanted) = (words.collect(), [self.naming].into());
        let mut hashes = Hashes::NONE;
        hashes.complete(&self.prefixes, wanted, &words, (None, Some(model))).await;
        hashes
    }

    /// Who was sent how much of it.
    pub(crate) fn runs(&self, hashes: &Hashes) -> Runs {
        hashes
            .named(self.naming)
            .map_or_else(Runs::default, |named| self.prefixes.index.runs(&named.hashes))
    }

    /// About how many tokens of it one endpoint has.
    pub(crate) fn matched(cached: &Cached, runs: &Runs) -> u32 {
        cached.run(runs) * BLOCK_SIZE
    }

    /// It is sent there.
    pub(crate) fn sent(&self, now: Duration, cached: &Cached, hashes: &Hashes) {
        if let Some(named) = hashes.named(self.naming) {
            cached.sent(now, &named.hashes);
        }
    }
}

fn parameters() -> Parameters {
    let (key, model) = ([0; 32], Digest::default());
    Parameters { key, model, kv_dtype: "unknown".into(), block_size: BLOCK_SIZE }
}

/// Tokens in a block: llm-d's least.
const BLOCK_SIZE: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_begins_with_the_same_bytes_is_guessed_to_be_where_those_were_sent() {
        let guessed = Guessed::default();
        let (one, other) = (guessed.cached(), guessed.cached());
        let first = "x".repeat(1000);
        let hashes = guessed.hashes("m", first.as_bytes()).await;
        guessed.sent(Duration::ZERO, &one, &hashes);
        let more = format!("{first} and more of it {}", "y".repeat(500));
        for (model, matched) in [("m", 192), ("another", 0)] {
            let hashes = guessed.hashes(model, more.as_bytes()).await;
            let runs = guessed.runs(&hashes);
            let both = [&one, &other].map(|cached| Guessed::matched(cached, &runs));
            assert_eq!(both, [matched, 0], "{model}");
        }
    }
}
