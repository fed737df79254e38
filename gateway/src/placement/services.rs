//! Services that say how their requests are placed are placed so.
//!
//! What a service says is read when it changes, and only then: its plug-ins remember sessions and
//! turns, and would forget them. What is wrong is logged, and not followed.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use serde_json::Value;
use tokio::sync::watch;

use super::{config::PickerConfig, directory::Directory, handler::Placer};
use crate::holding::catalog::{ServiceName, Services};

/// Follows what is declared. Never returns; ends with its task.
pub(crate) async fn run(
    mut services: watch::Receiver<Services>,
    directory: Arc<Directory>,
) -> Infallible {
    let mut said = Said::default();
    loop {
        let now = Arc::clone(&services.borrow_and_update());
        let configured = now
            .iter()
            .filter_map(|(name, declared)| Some((name.clone(), declared.placement.clone()?)));
        if said.update(configured.collect()) {
            directory.configure(said.placers());
        }
        if services.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What services said, and what was read from it.
#[derive(Debug, Default)]
struct Said(BTreeMap<ServiceName, (Value, Option<Arc<Placer>>)>);

// === impl Said ===

impl Said {
    /// Takes over what they say now, and whether it is anything else.
    fn update(&mut self, now: BTreeMap<ServiceName, Value>) -> bool {
        let mut before = std::mem::take(&mut self.0);
        let mut changed = false;
        for (name, document) in now {
            let known = before.remove(&name).filter(|(said, _)| *said == document);
            changed |= known.is_none();
            let read = known.unwrap_or_else(|| {
                let read = PickerConfig::from_document(&document);
                if let Err(error) = &read {
                    tracing::warn!(service = %name, %error, "its way of placing is not followed");
                }
                (document, read.ok().map(|config| config.placer))
            });
            self.0.insert(name, read);
        }
        changed || !before.is_empty()
    }

    fn placers(&self) -> BTreeMap<(String, String), Arc<Placer>> {
        let placer = |(name, (_, placer)): (&ServiceName, &(Value, Option<Arc<Placer>>))| {
            Some(((name.namespace.clone(), name.name.clone()), placer.clone()?))
        };
        self.0.iter().filter_map(placer).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_has_not_changed_is_kept_as_it_was_read() {
        let document = |kind: &str| {
            json!({
                "apiVersion": "llm-d.ai/v1", "kind": "EndpointPickerConfig",
                "plugins": [{"type": kind}],
            })
        };
        let name = |name: &str| ServiceName { namespace: "n".into(), name: name.into() };
        let mut said = Said::default();
        assert!(!said.update(BTreeMap::new()));
        let both = || {
            BTreeMap::from([
                (name("a"), document("queue-scorer")),
                (name("b"), document("nonsense")),
            ])
        };
        assert!(said.update(both()));
        let first = said.placers();
        assert_eq!(first.len(), 1, "what b says is wrong");
        assert!(!said.update(both()));
        let only_a = BTreeMap::from([(name("a"), document("queue-scorer"))]);
        assert!(said.update(only_a));
        let a = ("n".to_owned(), "a".to_owned());
        assert!(Arc::ptr_eq(&first[&a], &said.placers()[&a]));
    }
}
