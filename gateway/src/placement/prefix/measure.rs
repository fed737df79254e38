//! The index on its own, for whoever measures it.

use std::{sync::Arc, time::Duration};

use troupe_runtime::{id::Digest, prefix::Parameters, wire::cache::CacheBatch};

use super::{cached::Cached, namings::Prefixes};

/// The caches of some endpoints, as a gateway knows them.
#[derive(Debug)]
pub struct PrefixIndex {
    prefixes: Arc<Prefixes>,
    endpoints: Vec<Cached>,
}

impl PrefixIndex {
    /// So many endpoints, of which nothing is known.
    pub fn new(endpoints: usize) -> Self {
        let prefixes = Arc::new(Prefixes::default());
        let (key, model) = ([0; 32], Digest::default());
        let parameters = Parameters { key, model, kv_dtype: "float32".into(), block_size: 16 };
        let cached = |_| Cached::new(Arc::clone(&prefixes), &parameters);
        let endpoints = (0..endpoints).map(cached).collect();
        Self { prefixes, endpoints }
    }

    /// A leader has told this.
    pub fn tell(&self, endpoint: usize, batch: &CacheBatch) {
        self.endpoints[endpoint].apply(batch);
    }

    /// A prompt with these blocks was sent there.
    pub fn sent(&self, now: Duration, endpoint: usize, hashes: &[u128]) {
        self.endpoints[endpoint].sent(now, hashes);
    }

    /// How many leading blocks of a prompt each endpoint holds, as placement asks for one request.
    pub fn look_up(&self, hashes: &[u128]) -> impl Iterator<Item = u32> {
        let runs = self.prefixes.index.runs(hashes);
        self.endpoints.iter().map(move |cached| cached.run(&runs))
    }

    /// Different blocks.
    pub fn blocks(&self) -> usize {
        self.prefixes.index.blocks()
    }

    /// Memory that they take.
    pub fn bytes(&self) -> usize {
        self.prefixes.index.bytes()
    }
}
