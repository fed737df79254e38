//! The index together with the ways in which blocks are named.
//!
//! Endpoints that differ in model, KV type or block size name equal tokens differently. There are
//! few such ways and many endpoints, so each way has a number, and a prompt is hashed once for each
//! number that could be asked for.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use troupe_runtime::{id::Digest, prefix::Parameters};

use super::index::Index;
use crate::placement::cells::Lines;

/// One way of naming blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Naming(u32);

/// What all endpoints' caches hold.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    pub(crate) index: Index,
    /// By number. One is added when a model is served in a way that it was not before.
    namings: Mutex<Vec<Parameters>>,
    /// Endpoints that there have been.
    numbers: AtomicU32,
    /// Where what placement looks at of each endpoint is.
    pub(super) lines: Lines,
}

/// The names of one prompt's blocks, in every way that was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hashes(Vec<Named>);

/// In one way.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// Which one.
    pub(crate) naming: Naming,
    /// Tokens per block.
    pub(crate) block_size: u32,
    /// Where the hashes begin.
    pub(crate) seed: u128,
    /// One for each full block.
    pub(crate) hashes: Arc<[u128]>,
}

// === impl Prefixes ===

impl Prefixes {
    /// The number of a way.
    pub(super) fn naming(&self, parameters: &Parameters) -> Naming {
        let mut namings = self.namings.lock().unwrap_or_else(PoisonError::into_inner);
        let at = namings.iter().position(|known| known == parameters).unwrap_or_else(|| {
            namings.push(parameters.clone());
            namings.len() - 1
        });
        Naming(at as u32)
    }

    /// A new endpoint's number.
    pub(crate) fn number(&self) -> u32 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn parameters(&self, naming: Naming) -> Option<Parameters> {
        let namings = self.namings.lock().unwrap_or_else(PoisonError::into_inner);
        namings.get(naming.0 as usize).cloned()
    }
}

// === impl Hashes ===

impl Hashes {
    /// None.
    pub(crate) const NONE: Self = Self(Vec::new());

    /// Those of a prompt without a salt, in one way, computed by whoever asks.
    pub(crate) fn of(naming: Naming, parameters: &Parameters, hashes: Arc<[u128]>) -> Self {
        let (block_size, seed) = (parameters.block_size, parameters.chain(None, None).seed());
        Self(vec![Named { naming, block_size, seed, hashes }])
    }

    /// In one way, if that was asked for.
    pub(crate) fn named(&self, naming: Naming) -> Option<&Named> {
        self.0.iter().find(|named| named.naming == naming)
    }

    /// In all ways that were asked for.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Named> {
        self.0.iter()
    }

    /// Those with which these here are complete.
    pub(crate) async fn complete(
        &mut self,
        prefixes: &Arc<Prefixes>,
        wanted: BTreeSet<Naming>,
        tokens: &Arc<[u32]>,
        (adapter, salt): (Option<Digest>, Option<&str>),
    ) {
        let missing = wanted.into_iter().filter(|naming| self.named(*naming).is_none());
        let missing: Vec<Naming> = missing.collect();
        if missing.is_empty() {
            return;
        }
        let (prefixes, tokens) = (Arc::clone(prefixes), Arc::clone(tokens));
        let work = tokens.len() * missing.len();
        let salt = salt.map(str::to_owned);
        let hash = move || {
            let named = |naming| Named::new(naming, &prefixes, &tokens, (adapter, salt.as_deref()));
            missing.into_iter().filter_map(named).collect::<Vec<_>>()
        };
        let named = if work > LONG {
            // A panic there would be one here.
            tokio::task::spawn_blocking(hash).await.unwrap_or_default()
        } else {
            hash()
        };
        self.0.extend(named);
    }
}

impl Named {
    fn new(
        naming: Naming,
        prefixes: &Prefixes,
        tokens: &[u32],
        (adapter, salt): (Option<Digest>, Option<&str>),
    ) -> Option<Self> {
        let parameters = prefixes.parameters(naming)?;
        let chain = parameters.chain(adapter, salt);
        let block_size = parameters.block_size;
        let hashes = chain.hash(tokens, block_size as usize).into();
        Some(Self { naming, block_size, seed: chain.seed(), hashes })
    }
}

/// Tokens that are hashed at once: about 50 microseconds, as long as it takes to have another
/// thread do it.
const LONG: usize = 4096;
