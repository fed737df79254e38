//! Which models' text sides are in memory.
//!
//! Loaded from the model's files the first time that an endpoint names them, kept while an endpoint
//! or a request uses them. Two endpoints of one name may have different tokenizers during a rolling
//! update, so what is loaded is found by URI and tokenizer.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::Semaphore;
use troupe_runtime::{
    discovery::directory::EndpointRecord,
    id::Digest,
    model::{
        card::ModelCard,
        error::ModelError,
        fetch::{self, ModelAccess, Part},
    },
};

use super::{Families, ServedModel};
use crate::egress::parse::family::{ParserChoice, ReasoningFamily, ToolFamily};

/// Every model that is in use, by URI and tokenizer.
pub(crate) struct Models {
    loaded: Mutex<BTreeMap<(String, Digest), Weak<ServedModel>>>,
    /// One load at a time: endpoints of one model become ready together.
    loading: tokio::sync::Mutex<()>,
    tokenizing: Arc<Semaphore>,
    hub: ModelAccess,
    settings: ModelSettings,
}

/// What the server's settings say of every model.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ModelSettings {
    /// Most alternatives told per token; `None` tells all.
    pub(crate) max_logprobs: Option<u32>,
    /// How tool calls are written.
    pub(crate) tools: ParserChoice<ToolFamily>,
    /// How reasoning is marked.
    pub(crate) reasoning: ParserChoice<ReasoningFamily>,
}

/// Why a model's text side is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("cannot load the text side of {uri}")]
    Files {
        uri: String,
        #[source]
        source: ModelError,
    },
    #[error("{uri} has tokenizer {found} here, but {wanted} at its endpoint")]
    Tokenizer { uri: String, found: Digest, wanted: Digest },
    #[error("loading {uri} was interrupted")]
    Interrupted { uri: String },
}

// === impl Models ===

impl Models {
    /// None loaded; at most `tokenizers` texts are tokenized at a time.
    pub(crate) fn new(tokenizers: usize, hub: ModelAccess, settings: ModelSettings) -> Self {
        let tokenizing = Arc::new(Semaphore::new(tokenizers));
        let (loaded, loading) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { loaded, loading, tokenizing, hub, settings }
    }

    /// The text side of an endpoint's model.
    pub(crate) async fn get(&self, record: &EndpointRecord) -> Result<Arc<ServedModel>, LoadError> {
        let wanted = record.info.fingerprint.tokenizer;
        let key = (record.model_uri.clone(), wanted);
        let _one_at_a_time = self.loading.lock().await;
        if let Some(model) = self.lock().get(&key).and_then(Weak::upgrade) {
            return Ok(model);
        }
        let model = self.load(&record.model_uri).await?;
        let found = model.tokenizer_digest();
        if found != wanted {
            return Err(LoadError::Tokenizer { uri: key.0, found, wanted });
        }
        let model = Arc::new(model);
        model.grammars().prepare();
        let mut loaded = self.lock();
        loaded.retain(|_, model| model.strong_count() > 0);
        loaded.insert(key, Arc::downgrade(&model));
        Ok(model)
    }

    async fn load(&self, uri: &str) -> Result<ServedModel, LoadError> {
        let (hub, tokenizing) = (self.hub.clone(), Arc::clone(&self.tokenizing));
        let settings = self.settings;
        let name = uri.to_owned();
        let load = move || {
            let card = ModelCard::load(&fetch::fetch(&name, &hub, Part::Text, &|_| {})?)?;
            let model = ServedModel::new(card, tokenizing, settings);
            let Families { tools, reasoning } = model.families();
            tracing::info!(model = name, ?tools, ?reasoning, "answers are read");
            Ok(model)
        };
        let uri = uri.to_owned();
        match tokio::task::spawn_blocking(load).await {
            Ok(loaded) => loaded.map_err(|source| LoadError::Files { uri, source }),
            Err(_) => Err(LoadError::Interrupted { uri }),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, Digest), Weak<ServedModel>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
