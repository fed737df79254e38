//! The configurations that services start from, as the store and a file that is applied have them.

use std::collections::BTreeMap;

use troupe_runtime::spec::{Kind, Object, ServiceConfig, ServiceSpec, SpecError, resolve};

use super::{change::Stored, contents::Contents};

/// Configurations by namespace and name.
#[derive(Clone, Debug, Default)]
pub(super) struct Configs(BTreeMap<(String, String), ServiceConfig>);

// === impl Configs ===

impl Configs {
    /// Those of the store.
    pub(super) fn of(contents: &Contents) -> Self {
        let prefix = contents.keys.specs(Kind::LlmInferenceServiceConfig.name());
        let documents =
            contents.under(&prefix).filter_map(|entry| Stored::of(&entry.value)?.document);
        let mut configs = Self::default();
        for document in documents {
            if let Ok((config, _)) = ServiceConfig::from_document(document) {
                configs.add(config);
            }
        }
        configs
    }

    /// Those of a file win over those of the store: they are about to be there.
    pub(super) fn add_all(&mut self, objects: &[Object]) {
        for object in objects {
            if let Object::Config(config) = object {
                self.add(config.clone());
            }
        }
    }

    pub(super) fn add(&mut self, config: ServiceConfig) {
        let name = (config.metadata.namespace.clone(), config.metadata.name.clone());
        self.0.insert(name, config);
    }

    pub(super) fn remove(&mut self, namespace: &str, name: &str) {
        self.0.remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// A service as it is with all that it starts from.
    pub(super) fn whole(&self, service: &ServiceSpec) -> Result<ServiceSpec, SpecError> {
        let find = |namespace: &str, name: &str| {
            self.0.get(&(namespace.to_owned(), name.to_owned())).cloned()
        };
        Ok(resolve(service, find)?.spec)
    }
}
