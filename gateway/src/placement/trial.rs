//! Placement on its own, among endpoints that nobody serves: for whoever measures what a decision
//! costs.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use troupe_runtime::{
    discovery::directory::EndpointRecord, id::RequestId, model::source::ModelAccess,
    transport::Connection, wire::status::Load,
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
    record: EndpointRecord,
    hints: Hints,
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
            directory.enter(Arc::new(endpoint));
        }
        Ok(Self { directory: Arc::new(directory), record, hints: Hints::default() })
    }

    /// Places a request of so many tokens, and forgets it at once; who would answer it.
    pub fn place(&self, request: u128, tokens: u32) -> Option<Arc<str>> {
        let placed = self.directory.place(&Query {
            model: self.record.info.model_names.first()?,
            tokenizer: self.record.info.fingerprint.tokenizer,
            exclude: &std::collections::BTreeSet::new(),
            goes_on: None,
            name: "trial",
            request: RequestId(uuid::Uuid::from_u128(request)),
            tokens,
            scope: None,
            at_once: false,
            hints: &self.hints,
            hashes: &Hashes::NONE,
            now: self.directory.now(),
        })?;
        let name = Arc::clone(&placed.endpoint.name);
        drop(Underway::begin(&self.directory, &placed, 1, 256, Instant::now()));
        Some(name)
    }
}
