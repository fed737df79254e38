//! The table of endpoints on its own, without a gateway around it: for whoever measures how far it
//! is behind what the store and the leaders say.

use std::sync::Arc;

use tokio::task::JoinSet;
use troupe_runtime::{
    discovery::{Registry, keys::Keys},
    id::EndpointId,
    model::source::ModelAccess,
    transport::Link,
    wire::status::Load,
};

use super::{directory::Directory, follower::Follower};
use crate::model::{ModelSettings, Models};

/// Ready endpoints, kept as a gateway keeps them. Dropping it stops that.
#[derive(Debug)]
pub struct Endpoints {
    directory: Arc<Directory>,
    _follower: JoinSet<()>,
}

// === impl Endpoints ===

impl Endpoints {
    /// Follows a store and connects to every endpoint that it names.
    pub fn follow(
        registry: Arc<dyn Registry>,
        keys: Keys,
        link: Arc<dyn Link>,
        hub: ModelAccess,
    ) -> Self {
        let directory = Arc::new(Directory::new(None));
        let models = Arc::new(Models::new(1, hub, ModelSettings::default()));
        let follower = Follower::new(Arc::clone(&directory), link, models, Arc::default(), None);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { match follower.run(registry, keys).await {} });
        Self { directory, _follower: tasks }
    }

    /// How many are ready.
    pub fn count(&self) -> usize {
        self.directory.table().len()
    }

    /// Looks at every one that is ready, as placement does for a request.
    pub fn look(&self, mut each: impl FnMut(&EndpointId, Load)) {
        for (id, endpoint) in self.directory.table().iter() {
            each(id, endpoint.load());
        }
    }
}
