//! `/openapi.json` and `/docs`: the API's description, derived from the types that read and write
//! it.
//!
//! Names, types and comments of fields come from the serde types of `openai`, statuses and paths
//! from the handlers, so that the description cannot say what the code does not do. What the types
//! cannot say (that an endpoint reads two of them) stands here. The page is Swagger UI, whose files
//! are part of the binary.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    http::header,
    response::{IntoResponse, Response},
};
use utoipa::{
    IntoResponses, OpenApi, PartialSchema, ToSchema,
    openapi::{
        Ref, RefOr,
        schema::{AnyOfBuilder, Schema},
    },
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::{
    openai::{
        chat::ChatRequest,
        common::{ErrorBody, Sampling},
        completions::CompletionRequest,
        embeddings::EmbeddingRequest,
        pooling::PoolingParams,
        score::{RerankRequest, ScoreRequest},
        tokenize::TokenizeRequest,
    },
    routes::{adapters, chat, completions, embeddings, models, probes, score, tokenize},
    state::Gateway,
};

/// The description as a whole.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Troupe",
        description = "OpenAI's API as vLLM serves it. Fields that are not named here are \
                       accepted and ignored."
    ),
    paths(
        completions::create,
        chat::create,
        embeddings::create,
        score::score,
        score::score_v1,
        score::rerank,
        score::rerank_v1,
        score::rerank_v2,
        models::list,
        models::one,
        adapters::load,
        adapters::unload,
        tokenize::tokenize,
        tokenize::detokenize,
        probes::health,
        probes::ping,
        probes::post_ping,
        probes::version,
        probes::load,
        probes::metrics,
        document
    )
)]
struct Description;

/// What `/v1/completions` reads.
#[derive(ToSchema)]
#[allow(dead_code, reason = "a description, never a value")]
pub(crate) struct CompletionBody {
    #[serde(flatten)]
    shared: Sampling,
    #[serde(flatten)]
    own: CompletionRequest,
}

/// What `/v1/chat/completions` reads.
#[derive(ToSchema)]
#[allow(dead_code, reason = "a description, never a value")]
pub(crate) struct ChatBody {
    #[serde(flatten)]
    shared: Sampling,
    #[serde(flatten)]
    own: ChatRequest,
}

/// What `/v1/embeddings` reads.
#[derive(ToSchema)]
#[allow(dead_code, reason = "a description, never a value")]
pub(crate) struct EmbeddingBody {
    #[serde(flatten)]
    shared: PoolingParams,
    #[serde(flatten)]
    own: EmbeddingRequest,
}

/// What `/score` reads.
#[derive(ToSchema)]
#[allow(dead_code, reason = "a description, never a value")]
pub(crate) struct ScoreBody {
    #[serde(flatten)]
    shared: PoolingParams,
    #[serde(flatten)]
    own: ScoreRequest,
}

/// What `/rerank` reads.
#[derive(ToSchema)]
#[allow(dead_code, reason = "a description, never a value")]
pub(crate) struct RerankBody {
    #[serde(flatten)]
    shared: PoolingParams,
    #[serde(flatten)]
    own: RerankRequest,
}

/// What `/tokenize` reads: a `prompt`, or the fields of a chat. Written by hand, because what is
/// derived for an enum says that exactly one form fits, and here both may.
pub(crate) enum TokenizeBody {}

impl PartialSchema for TokenizeBody {
    fn schema() -> RefOr<Schema> {
        let forms = [TokenizeRequest::name(), ChatRequest::name()];
        let any = forms
            .into_iter()
            .fold(AnyOfBuilder::new(), |any, form| any.item(Ref::from_schema_name(form)));
        any.description(Some("A `prompt`, or `messages` with what a chat template takes.")).into()
    }
}

impl ToSchema for TokenizeBody {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((TokenizeRequest::name().into(), TokenizeRequest::schema()));
    }
}

/// How a request with a body can fail.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "a description, never a value")]
pub(crate) enum Failures {
    /// A mistake in the request.
    #[response(status = 400)]
    Mistake(ErrorBody),
    /// A model that nobody serves.
    #[response(status = 404)]
    UnknownModel(ErrorBody),
    /// A body over the limit.
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// No room, or nobody there.
    #[response(status = 503)]
    Unavailable(ErrorBody),
    /// Out of time.
    #[response(status = 504)]
    Late(ErrorBody),
}

/// The description, written once.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    // Plain structs with string keys, for which writing to memory cannot fail.
    Description::openapi().to_json().unwrap_or_default()
});

/// This description.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "describe",
    tag = "probes",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json"))
)]
pub(crate) async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

/// The description as a page to try things on.
pub(crate) fn page() -> Router<Arc<Gateway>> {
    SwaggerUi::new("/docs").config(Config::from("/openapi.json")).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::de::DeserializeOwned;
    use serde_json::Value;

    use super::*;
    use crate::{fields::fields_of, openai::tokenize::DetokenizeRequest, server};

    fn document() -> Value {
        serde_json::from_str(&DOCUMENT).expect("it is JSON")
    }

    #[test]
    fn every_route_is_described() {
        let document = document();
        let described = document["paths"].as_object().expect("paths");
        let rows = server::rows();
        for (path, _) in &rows {
            let path = path.replace("{*", "{");
            assert!(described.contains_key(&path), "{path} is not described");
        }
        assert_eq!(rows.len(), described.len(), "nothing is described that is not there");
    }

    #[test]
    fn operations_have_names_of_their_own() {
        let document = document();
        let items = document["paths"].as_object().expect("paths").values();
        let operations = items.flat_map(|item| item.as_object().expect("operations").values());
        let names: Vec<&str> = operations
            .map(|operation| operation["operationId"].as_str().expect("a name"))
            .collect();
        let different: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(names.len(), different.len(), "{names:?}");
        assert!(different.contains("create_completion") && different.contains("post_ping"));
    }

    #[test]
    fn every_field_that_is_read_is_described_and_no_other() {
        fn check<T: DeserializeOwned>(name: &str) {
            let document = document();
            let schema = &document["components"]["schemas"][name]["properties"];
            let described = schema.as_object().unwrap_or_else(|| panic!("{name} is described"));
            let mut described: Vec<&str> = described.keys().map(String::as_str).collect();
            let mut read = fields_of::<T>().to_vec();
            described.sort_unstable();
            read.sort_unstable();
            assert_eq!(described, read, "{name}");
            for field in read {
                // A field of a type of our own is described beside the reference to it.
                let about = [&schema[field], &schema[field]["oneOf"][0]];
                let said = about.iter().any(|of| of["description"].is_string());
                assert!(said, "{name}.{field} has no description");
            }
        }
        check::<Sampling>("Sampling");
        check::<CompletionRequest>("CompletionRequest");
        check::<ChatRequest>("ChatRequest");
        check::<PoolingParams>("PoolingParams");
        check::<EmbeddingRequest>("EmbeddingRequest");
        check::<ScoreRequest>("ScoreRequest");
        check::<RerankRequest>("RerankRequest");
        check::<TokenizeRequest>("TokenizeRequest");
        check::<DetokenizeRequest>("DetokenizeRequest");
    }
}
