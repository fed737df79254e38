//! Tells whether a grammar can be served, by compiling it.
//!
//! A grammar is compiled on the blocking pool, few at a time and with a deadline, so neither a
//! hostile nor a slow one holds anybody else up. What compiled is remembered by its digest: clients
//! send the same schema again and again. The compiled form itself is dropped, because it is needed
//! where tokens are chosen and not here.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use troupe_runtime::{
    id::Digest,
    model::{
        grammar::{GrammarError, GrammarFactory},
        tokenizer::Tokenizer,
    },
    wire::generate::Grammar,
};

use crate::error::ApiError;

/// The grammars of one model.
pub(crate) struct Grammars {
    shared: Arc<Shared>,
    turns: Arc<Semaphore>,
    good: Mutex<Good>,
}

/// What the blocking pool needs of it.
struct Shared {
    tokenizer: Arc<Tokenizer>,
    stop_ids: Vec<u32>,
    factory: OnceLock<Result<GrammarFactory, GrammarError>>,
}

/// The last grammars that compiled.
#[derive(Default)]
struct Good {
    known: BTreeSet<Digest>,
    order: VecDeque<Digest>,
}

impl Grammars {
    /// Costs nothing until it is prepared or the first grammar comes.
    pub(crate) fn new(tokenizer: Arc<Tokenizer>, stop_ids: Vec<u32>) -> Self {
        let shared = Arc::new(Shared { tokenizer, stop_ids, factory: OnceLock::new() });
        Self { shared, turns: Arc::new(Semaphore::new(AT_A_TIME)), good: Mutex::default() }
    }

    /// Sorts the vocabulary, so that the first grammar need not wait for it. Returns at once: that
    /// is done on the blocking pool, takes half a second at worst and ends by itself.
    pub(crate) fn prepare(&self) {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = shared.factory() {
                tracing::info!(%error, "no form can be asked of answers");
            }
        });
    }

    /// Compiles the grammar unless that went well before.
    ///
    /// # Errors
    /// 400 with the reason if it cannot be served, 503 if too many others are compiled.
    pub(crate) async fn check(&self, grammar: &Grammar) -> Result<(), ApiError> {
        let digest = digest(grammar);
        if self.good().known.contains(&digest) {
            return Ok(());
        }
        let deadline = Instant::now() + DEADLINE;
        let turn = timeout_at(deadline, Arc::clone(&self.turns).acquire_owned());
        // The semaphore is never closed.
        let turn = turn.await.map_err(|_| ApiError::busy())?;
        let (shared, grammar) = (Arc::clone(&self.shared), grammar.clone());
        let compiled = tokio::task::spawn_blocking(move || {
            // The turn lasts as long as the work, not as its waiter.
            let _turn = turn;
            shared.compile(&grammar)
        });
        match timeout_at(deadline + DEADLINE, compiled).await {
            Ok(Ok(compiled)) => compiled.map_err(|error| refusal(&error))?,
            Ok(Err(_)) => return Err(ApiError::internal("Compiling a grammar was interrupted.")),
            Err(_) => {
                let message = "The grammar takes too long to compile; make it smaller.";
                return Err(ApiError::bad_request(message));
            }
        }
        self.good().add(digest);
        Ok(())
    }

    fn good(&self) -> std::sync::MutexGuard<'_, Good> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn compile(&self, grammar: &Grammar) -> Result<(), GrammarError> {
        self.factory()?.compile(grammar).map(|_| ())
    }

    /// Whoever comes while it is made waits for it.
    fn factory(&self) -> Result<&GrammarFactory, GrammarError> {
        let made =
            self.factory.get_or_init(|| GrammarFactory::new(&self.tokenizer, &self.stop_ids));
        made.as_ref().map_err(Clone::clone)
    }
}

impl Good {
    fn add(&mut self, digest: Digest) {
        if self.known.insert(digest) {
            self.order.push_back(digest);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

fn refusal(error: &GrammarError) -> ApiError {
    match error {
        GrammarError::Model(_) => ApiError::not_implemented(error.to_string()),
        _ => ApiError::bad_request(error.to_string()),
    }
}

fn digest(grammar: &Grammar) -> Digest {
    let (kind, text) = match grammar {
        Grammar::JsonSchema(text) => ("json", text),
        Grammar::Lark(text) => ("lark", text),
        Grammar::Regex(text) => ("regex", text),
    };
    Digest::of(&[kind.as_bytes(), text.as_bytes()].join(&0))
}

/// Grammars compiled at a time: one may be slow and others still go on.
const AT_A_TIME: usize = 2;
/// Longest wait for a turn, and then for the compiler.
const DEADLINE: Duration = Duration::from_secs(5);
/// Digests of 32 bytes.
const REMEMBERED: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten() {
        let mut good = Good::default();
        let digests = (0..REMEMBERED as u32 + 1).map(|i| Digest::of(&i.to_le_bytes()));
        let digests: Vec<Digest> = digests.collect();
        for digest in &digests {
            good.add(*digest);
            good.add(*digest);
        }
        assert!(!good.known.contains(&digests[0]) && good.known.contains(&digests[1]));
        assert_eq!((good.known.len(), good.order.len()), (REMEMBERED, REMEMBERED));
    }
}
