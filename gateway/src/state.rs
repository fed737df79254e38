//! What every handler shares.

use std::{future::Future, sync::Arc};

use troupe_runtime::model::source::ModelAccess;

use crate::{
    admission::{Admission, Permit},
    body::BodyLimits,
    config::GatewayConfig,
    egress::{
        answer::Deltas,
        execution::{Places, execute},
    },
    error::ApiError,
    flow::gate::{Entry, Flow, FlowSettings, Pass},
    foreign::upstream::Upstreams,
    holding::{Holding, Wait, core::Limits},
    ingress::{
        context::RequestContext,
        prepared::{Prepared, PreparedPrompt},
        seeds::Seeds,
    },
    metrics::{Meter, Metrics},
    model::{ModelSettings, Models, Served},
    placement::directory::Directory,
    rules::{Rules, follower::RuleBook},
    suspects::watch::Deaths,
};

/// One gateway.
pub(crate) struct Gateway {
    pub(crate) config: GatewayConfig,
    pub(crate) admission: Admission,
    pub(crate) bodies: BodyLimits,
    pub(crate) directory: Arc<Directory>,
    pub(crate) holding: Arc<Holding>,
    pub(crate) flow: Arc<Flow>,
    pub(crate) book: Arc<RuleBook>,
    pub(crate) foreign: Arc<Upstreams>,
    pub(crate) models: Arc<Models>,
    pub(crate) deaths: Arc<Deaths>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) seeds: Arc<Seeds>,
}

impl Gateway {
    pub(crate) fn new(config: GatewayConfig) -> Self {
        let hub: ModelAccess = config.hub.clone();
        let settings = ModelSettings {
            max_logprobs: config.max_logprobs,
            tools: config.tool_call_parser,
            reasoning: config.reasoning_parser,
        };
        let (directory, metrics) = (
            Arc::new(
                Directory::new(config.picker.as_ref().map(|picker| Arc::clone(&picker.placer)))
                    .with_peer_fetch(config.peer_fetch),
            ),
            Arc::new(Metrics::new()),
        );
        let limits = Limits { requests: config.max_held_requests, bytes: config.max_held_bytes };
        let (table, counts) = (Arc::clone(&directory), Arc::clone(&metrics));
        let flow = FlowSettings::of(&config.flow);
        let foreign = Arc::new(Upstreams::new(&config.foreign));
        Self {
            book: Arc::new(RuleBook::new()),
            flow: Arc::new(Flow::new(
                flow,
                (Arc::clone(&directory), Arc::clone(&foreign)),
                Arc::clone(&metrics),
            )),
            foreign,
            admission: Admission::new(config.max_requests),
            bodies: BodyLimits::new(
                config.max_body_bytes,
                config.max_bodies_bytes,
                config.body_timeout,
            ),
            holding: Arc::new(Holding::new(table, counts, limits, config.hold_timeout)),
            directory,
            models: Arc::new(Models::new(config.tokenizers, hub, settings)),
            deaths: Arc::default(),
            metrics,
            seeds: Arc::new(Seeds::new(config.seed)),
            config,
        }
    }

    /// Whether a request could be answered, if only by somebody who comes up when it is asked for.
    pub(crate) fn is_ready(&self) -> bool {
        let foreign = || self.foreign.all().iter().any(|upstream| upstream.known().ready);
        !self.directory.table().is_empty() || foreign() || self.holding.catalog.serves_on_demand()
    }

    /// A permit for one request.
    pub(crate) fn admit(&self) -> Result<Permit, ApiError> {
        self.admission.admit().inspect_err(|_| {
            // Which model it is for is not known yet: it is counted for the first that is served.
            if let Ok(served) = self.directory.resolve(None, None) {
                self.metrics.of(&served.name).rejected();
            }
        })
    }

    /// What a request's `model` means, if it is served now.
    pub(crate) fn here(
        &self,
        context: &RequestContext,
        model: Option<&str>,
    ) -> Result<Served, ApiError> {
        let rules = self.book.rules();
        let model = model.map(|name| meant(&rules, context, name));
        Ok(self.directory.resolve(model, context.scope.as_ref())?)
    }

    /// What a request's `model` means. One that is declared and has no endpoint now is waited for;
    /// the request takes so many bytes meanwhile.
    pub(crate) async fn served(
        &self,
        context: &RequestContext,
        model: Option<&str>,
        bytes: usize,
    ) -> Result<Served, ApiError> {
        let (rules, scope) = (self.book.rules(), context.scope.as_ref());
        let asked = model.filter(|name| !name.is_empty());
        let model = asked.map(|name| meant(&rules, context, name));
        let resolve = || self.directory.resolve(model, scope);
        let served = match resolve() {
            Ok(served) => Ok(served),
            Err(unserved) => {
                let wait = Wait { model, bytes, deadline: context.deadline };
                let held = self.holding.until(wait, || resolve().ok()).await;
                held.map_err(|unheld| {
                    let told = unheld.told(model.unwrap_or("(any)"));
                    let aliases = rules.ranks.names().map(str::to_owned);
                    let declared = self.holding.catalog.names().into_iter().chain(aliases);
                    told.map_or_else(|| unserved.among(declared.collect()).into(), ApiError::from)
                })
            }
        }?;
        let named = asked.unwrap_or(&served.name);
        let priority = rules.ranks.priority(context.objective.as_deref(), named);
        Ok(Served { priority, ..served })
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

    /// Lets a request through to its endpoints when they have room and it is its turn.
    ///
    /// # Errors
    /// 429 or 503, with the time after which to try again.
    pub(crate) async fn pass(
        &self,
        context: &RequestContext,
        request: &Prepared,
        prompts: &[PreparedPrompt],
    ) -> Result<Pass, ApiError> {
        let tokens = prompts.iter().map(|prompt| prompt.tokens.len() as u64).sum();
        let entry = Entry {
            model: &request.served_name,
            caller: &context.caller,
            priority: request.priority,
            tokens,
            deadline: context.deadline,
        };
        self.flow.enter(entry).await
    }

    /// One prompt's deltas; nothing happens before they are asked for.
    pub(crate) fn execute(
        &self,
        request: &Arc<Prepared>,
        prompt: PreparedPrompt,
        context: &RequestContext,
        pass: &Pass,
    ) -> Deltas {
        let meter = Meter::new(
            self.metrics.of(&request.served_name),
            context.arrived,
            prompt.tokens.len() as u32,
            request.n,
            prompt.options.max_tokens,
        )
        .counting(pass.output());
        let (directory, holding) = (Arc::clone(&self.directory), Arc::clone(&self.holding));
        let (resume, hedge_after) = (self.config.resume, self.config.hedge_after);
        let deaths = Arc::clone(&self.deaths);
        let begins = pass.begins();
        let places = Places { directory, holding, deaths, begins, resume, hedge_after };
        Box::pin(execute(places, Arc::clone(request), prompt, meter))
    }
}

/// The model that a request means by a name.
pub(crate) fn meant<'a>(rules: &'a Rules, context: &RequestContext, name: &'a str) -> &'a str {
    rules.ranks.target(name, || context.draw()).unwrap_or(name)
}
