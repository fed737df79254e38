//! `GET /v1/models` and `GET /v1/models/{id}`: what is served right now.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension, Json,
    extract::{Path, State},
};

use crate::{
    error::ApiError,
    ingress::context::RequestContext,
    openai::{
        common::ErrorBody,
        models::{ModelCard, ModelList},
    },
    placement::directory::Table,
    rules::Scope,
    state::Gateway,
};

/// Every name that is served now.
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "list_models",
    tag = "models",
    responses((status = 200, description = "All models", body = ModelList))
)]
pub(crate) async fn list(
    State(gateway): State<Arc<Gateway>>,
    Extension(context): Extension<Arc<RequestContext>>,
) -> Json<ModelList> {
    let mut all = cards(&gateway.directory.table(), context.scope.as_ref());
    for model in gateway.foreign.models() {
        all.entry(model.id.clone()).or_insert_with(|| ModelCard {
            id: model.id.clone(),
            object: "model",
            created: 0,
            owned_by: "foreign",
            root: model.id,
            parent: None,
            max_model_len: model.max_model_len.unwrap_or(0),
            permission: Vec::new(),
        });
    }
    let data = all.into_values().collect();
    Json(ModelList { object: "list", data })
}

/// One name; it may contain slashes.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    operation_id = "retrieve_model",
    tag = "models",
    params(("id" = String, Path, description = "The name; slashes stay as they are")),
    responses(
        (status = 200, description = "The model", body = ModelCard),
        (status = 404, description = "Nobody serves it", body = ErrorBody),
    )
)]
pub(crate) async fn one(
    State(gateway): State<Arc<Gateway>>,
    Extension(context): Extension<Arc<RequestContext>>,
    Path(id): Path<String>,
) -> Result<Json<ModelCard>, ApiError> {
    let mut cards = cards(&gateway.directory.table(), context.scope.as_ref());
    match cards.remove(&id) {
        Some(card) => Ok(Json(card)),
        None => {
            let names: Vec<String> = cards.into_keys().collect();
            Err(ApiError::unknown_model(&id, &names))
        }
    }
}

fn cards(table: &Table, scope: Option<&Scope>) -> BTreeMap<String, ModelCard> {
    let mut cards = BTreeMap::new();
    let within = |group| scope.is_none_or(|scope: &Scope| scope.has(group));
    for endpoint in table.values().filter(|one| within(&one.info.endpoint.group)) {
        let Some(model) = &endpoint.model else { continue };
        for name in &endpoint.info.model_names {
            cards.entry(name.clone()).or_insert_with(|| ModelCard {
                id: name.clone(),
                object: "model",
                created: model.created,
                owned_by: "troupe",
                root: model.root().to_owned(),
                parent: None,
                max_model_len: endpoint.info.max_model_len,
                permission: Vec::new(),
            });
        }
        for adapter in &endpoint.adapters().served {
            cards.entry(adapter.name.clone()).or_insert_with(|| ModelCard {
                id: adapter.name.clone(),
                object: "model",
                created: model.created,
                owned_by: "troupe",
                root: adapter.path.clone(),
                parent: endpoint.info.model_names.first().cloned(),
                max_model_len: endpoint.info.max_model_len,
                permission: Vec::new(),
            });
        }
    }
    cards
}
