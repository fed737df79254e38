//! Placement on its own, among endpoints that nobody serves: for whoever measures what a decision
//! costs.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use troupe_runtime::{
    discovery::directory::EndpointRecord,
    id::RequestId,
    model::source::ModelAccess,
    prefix::Parameters,
    transport::Connection,
    wire::{cache::CacheBatch, status::Load},
};

use super::{
    Query, config::PickerConfig, directory::Directory, endpoint::Endpoint, prefix::namings::Hashes,
    underway::Underway,
};
use crate::{
    ingress::hints::Hints,
    model::{ModelSettings, Models},
};

/// Ready endpoints of one model, each as busy as it happens to be.
#[derive(Debug)]
pub struct Trial {
    directory: Arc<Directory>,
    endpoints: Vec<Arc<Endpoint>>,
    record: EndpointRecord,
    hints: Hints,
}

/// A prompt whose blocks have names already, or none that anybody has told of.
#[derive(Debug)]
pub struct TrialPrompt {
    tokens: u32,
    hashes: Hashes,
}

// === impl Trial ===

impl Trial {
    /// So many endpoints like this one, placed as a configuration says or by default. All have the
    /// same connection, on which nothing is said.
    ///
    /// # Errors
    /// Why the record's model cannot be loaded.
    pub async fn new(
        count: u32,
        record: EndpointRecord,
        connection: Arc<dyn Connection>,
        picker: Option<&PickerConfig>,
    ) -> Result<Self, String> {
        let directory = Directory::new(picker.map(|picker| Arc::clone(&picker.placer)));
        let models = Models::new(1, ModelAccess::offline("/nowhere"), ModelSettings::default());
        let model = models.get(&record).await.map_err(|error| error.to_string())?;
        let mut endpoints = Vec::new();
        for index in 0..count {
            let mut info = record.info.clone();
            info.endpoint.group.index = index;
            let (model, labels) = (Arc::clone(&model), record.labels.clone());
            let (address, connection) = (record.address.clone(), Arc::clone(&connection));
            let prefixes = directory.prefixes();
            let endpoint = Endpoint::new(info, Some(model), labels, address, connection, prefixes);
            // Numbers that are not alike, and the same in every run.
            let some = |most: u32, by: u32| index.wrapping_mul(by) % most;
            let load = Load {
                running: some(32, 7),
                waiting: some(8, 5),
                blocks_used: some(1000, 617),
                blocks_total: 1000,
                ..Load::default()
            };
            // Told just now, however long this is measured.
            endpoint.set_load(Duration::MAX, load);
            let endpoint = Arc::new(endpoint);
            directory.enter(Arc::clone(&endpoint));
            endpoints.push(endpoint);
        }
        let (directory, hints) = (Arc::new(directory), Hints::default());
        Ok(Self { directory, endpoints, record, hints })
    }

    /// One of its leaders has told this.
    pub fn tell(&self, endpoint: usize, batch: &CacheBatch) {
        self.endpoints[endpoint].cached.apply(batch);
    }

    /// A prompt of so many tokens, with the names of its blocks.
    pub fn prompt(&self, tokens: u32, blocks: Arc<[u128]>) -> TrialPrompt {
        let parameters = Parameters::of(&self.record.info);
        let first = self.endpoints.first().filter(|_| !blocks.is_empty());
        let of = |first: &Arc<Endpoint>| Hashes::of(first.cached.naming(), &parameters, blocks);
        TrialPrompt { tokens, hashes: first.map_or(Hashes::NONE, of) }
    }

    /// Places a request, and forgets it at once; who would answer it.
    pub fn place(&self, request: u128, prompt: &TrialPrompt) -> Option<Arc<str>> {
        let placed = self.directory.place(&Query {
            model: self.record.info.model_names.first()?,
            tokenizer: self.record.info.fingerprint.tokenizer,
            exclude: &std::collections::BTreeSet::new(),
            goes_on: None,
            name: "trial",
            request: RequestId(uuid::Uuid::from_u128(request)),
            tokens: prompt.tokens,
            scope: None,
            at_once: false,
            hints: &self.hints,
            hashes: &prompt.hashes,
            now: self.directory.now(),
        })?;
        let name = Arc::clone(&placed.endpoint.name);
        drop(Underway::begin(&self.directory, &placed, 1, 256, Instant::now()));
        Some(name)
    }
}
