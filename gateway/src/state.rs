//! What every handler shares.

use std::{future::Future, sync::Arc};

use troupe_runtime::model::source::HubCache;

use crate::{
    admission::{Admission, Permit},
    body::BodyLimits,
    config::GatewayConfig,
    egress::{answer::Deltas, execution::execute},
    error::ApiError,
    ingress::{
        context::RequestContext,
        prepared::{Prepared, PreparedPrompt},
        seeds::Seeds,
    },
    metrics::{Meter, Metrics},
    model::{ModelSettings, Models},
    placement::directory::Directory,
};

/// One gateway.
pub(crate) struct Gateway {
    pub(crate) config: GatewayConfig,
    pub(crate) admission: Admission,
    pub(crate) bodies: BodyLimits,
    pub(crate) directory: Arc<Directory>,
    pub(crate) models: Arc<Models>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) seeds: Arc<Seeds>,
}

impl Gateway {
    pub(crate) fn new(config: GatewayConfig) -> Self {
        let hub: HubCache = config.hub.clone();
        let settings = ModelSettings {
            max_logprobs: config.max_logprobs,
            tools: config.tool_call_parser,
            reasoning: config.reasoning_parser,
        };
        Self {
            admission: Admission::new(config.max_requests),
            bodies: BodyLimits::new(config.max_body_bytes, config.max_bodies_bytes),
            directory: Arc::new(Directory::new()),
            models: Arc::new(Models::new(config.tokenizers, hub, settings)),
            metrics: Arc::new(Metrics::new()),
            seeds: Arc::new(Seeds::new(config.seed)),
            config,
        }
    }

    /// A permit for one request.
    pub(crate) fn admit(&self) -> Result<Permit, ApiError> {
        self.admission.admit().inspect_err(|_| {
            // Which model it is for is not known yet: it is counted for the first that is served.
            if let Ok(served) = self.directory.resolve(None) {
                self.metrics.of(&served.name).rejected();
            }
        })
    }

    /// Something that must not take longer than the request has.
    pub(crate) async fn in_time<T>(
        &self,
        context: &RequestContext,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let late = || ApiError::deadline("The request took longer than the time it was given.");
        tokio::time::timeout_at(context.deadline, work).await.map_err(|_| late())?
    }

    /// One prompt's deltas; nothing happens before they are asked for.
    pub(crate) fn execute(
        &self,
        request: &Arc<Prepared>,
        prompt: PreparedPrompt,
        context: &RequestContext,
    ) -> Deltas {
        let meter = Meter::new(
            self.metrics.of(&request.served_name),
            context.arrived,
            prompt.tokens.len() as u32,
            request.n,
            prompt.options.max_tokens,
        );
        let directory = Arc::clone(&self.directory);
        Box::pin(execute(directory, Arc::clone(request), prompt, meter))
    }
}
