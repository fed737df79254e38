//! `POST /tokenize` and `POST /detokenize`: the tokenizer by itself.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Request, State},
};

use crate::{
    body::JsonBody,
    error::ApiError,
    ingress::{chat::conversation, context::RequestContext},
    openai::{
        chat::ChatRequest,
        tokenize::{DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse},
    },
    openapi::{Failures, TokenizeBody},
    state::Gateway,
};

/// Text or a conversation to tokens.
#[utoipa::path(
    post,
    path = "/tokenize",
    tag = "tokens",
    request_body = TokenizeBody,
    responses((status = 200, description = "The tokens", body = TokenizeResponse), Failures)
)]
pub(crate) async fn tokenize(
    State(gateway): State<Arc<Gateway>>,
    Extension(context): Extension<Arc<RequestContext>>,
    request: Request,
) -> Result<Json<TokenizeResponse>, ApiError> {
    let _permit = gateway.admit()?;
    let body = JsonBody::read(request, &gateway.bodies).await?;
    let (asked, mut chat) = body.parse_both::<TokenizeRequest, ChatRequest>()?;
    let served = gateway.here(&context, asked.model.as_deref())?;
    let tokens = match asked.prompt {
        Some(prompt) => {
            let special = asked.add_special_tokens.unwrap_or(true);
            gateway.in_time(&context, served.encode(prompt, special)).await?
        }
        None if chat.messages.is_some() => {
            let special = asked.add_special_tokens.unwrap_or(false);
            let conversation = conversation(&mut chat)?;
            gateway.in_time(&context, served.render(conversation, special)).await?
        }
        None => return Err(ApiError::validation("body.prompt", "field required")),
    };
    let names = asked.return_token_strs.unwrap_or(false);
    let names = names.then(|| tokens.iter().map(|token| served.model.token_name(*token)).collect());
    Ok(Json(TokenizeResponse {
        count: tokens.len(),
        max_model_len: served.max_model_len,
        tokens,
        token_strs: names,
    }))
}

/// Tokens to text.
#[utoipa::path(
    post,
    path = "/detokenize",
    tag = "tokens",
    request_body = DetokenizeRequest,
    responses((status = 200, description = "The text", body = DetokenizeResponse), Failures)
)]
pub(crate) async fn detokenize(
    State(gateway): State<Arc<Gateway>>,
    Extension(context): Extension<Arc<RequestContext>>,
    request: Request,
) -> Result<Json<DetokenizeResponse>, ApiError> {
    let _permit = gateway.admit()?;
    let body = JsonBody::read(request, &gateway.bodies).await?;
    let asked: DetokenizeRequest = body.parse()?;
    let served = gateway.here(&context, asked.model.as_deref())?;
    let Some(tokens) = asked.tokens else {
        return Err(ApiError::validation("body.tokens", "field required"));
    };
    if let Some(token) = tokens.iter().find(|token| **token >= served.model.vocab_size) {
        let message = format!("Token id {token} is out of vocabulary");
        return Err(ApiError::bad_request(message).at("tokens"));
    }
    Ok(Json(DetokenizeResponse { prompt: served.model.decode(&tokens)? }))
}
