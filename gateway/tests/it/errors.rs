//! Every mistake has its status, its text and its place.

use serde_json::{Value, json};
use troupe_runtime::error::ErrorKind;

use crate::support::{
    MODEL,
    leader::{refuses, says},
    stage, stage_with,
};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// Endpoint, what differs from a good request, status, type, the message's beginning, param.
type Row = (&'static str, Value, u16, &'static str, &'static str, Option<&'static str>);

fn options_out_of_range() -> Vec<Row> {
    let bad = "BadRequestError";
    let row = |field: &'static str, value: Value, message: &'static str| -> Row {
        (COMPLETIONS, json!({field: value}), 400, bad, message, Some(field))
    };
    vec![
        row("temperature", json!(-1), "temperature must be non-negative, got -1.0."),
        row("temperature", json!(2.5), "temperature must be in [0, 2], got 2.5."),
        row("top_p", json!(0), "top_p must be in (0, 1], got 0.0."),
        row("top_p", json!(1.5), "top_p must be in (0, 1], got 1.5."),
        row("top_k", json!(-2), "top_k must be 0 (disable), or at least 1, got -2."),
        row("min_p", json!(1.5), "min_p must be in [0, 1], got 1.5."),
        row("presence_penalty", json!(3), "presence_penalty must be in [-2, 2], got 3.0."),
        row("frequency_penalty", json!(-3), "frequency_penalty must be in [-2, 2], got -3.0."),
        row(
            "repetition_penalty",
            json!(0),
            "repetition_penalty must be greater than zero, got 0.0.",
        ),
        row("max_tokens", json!(0), "max_tokens must be at least 1, got 0."),
        row("max_tokens", json!(65), "max_tokens=65 cannot be greater than max_model_len=64."),
        row("n", json!(0), "n must be at least 1, got 0."),
        row("n", json!(100_000), "n must be at most"),
        row(
            "logprobs",
            json!(21),
            "Requested sample logprobs of 21, which is greater than max \
             allowed: 20",
        ),
        row("logprobs", json!(-2), "logprobs must be non-negative or -1, got -2."),
        row("prompt_logprobs", json!(-2), "`prompt_logprobs` must be a positive value or -1."),
        row("min_tokens", json!(17), "min_tokens must be less than or equal to max_tokens=16"),
        row("min_tokens", json!(-1), "min_tokens must be greater than or equal to 0, got -1."),
        row("stop", json!(["a", ""]), "stop cannot contain an empty string."),
        row("bad_words", json!([""]), "bad_words cannot contain an empty string."),
        row("cache_salt", json!("a/b"), "cache_salt must not contain any of"),
        row("cache_salt", json!(""), "cache_salt must be a non-empty string"),
        row("cache_salt", json!("a".repeat(129)), "cache_salt must have at most 128 characters."),
        row("request_id", json!("a".repeat(129)), "request_id must have at most 128 bytes"),
        row("stream_interval", json!(0), "stream_interval must be at least 1, got 0."),
        row("logprobs", json!(-1), "Requested sample logprobs of "),
        row("prompt_logprobs", json!(-1), "Requested prompt logprobs of "),
        row("stop", json!(vec!["a"; 5000]), "stop can contain at most 64 strings, got 5000."),
        row("stop", json!("a".repeat(20_000)), "stop can contain at most 16384 bytes, got 20000."),
        row("bad_words", json!(vec!["a"; 5000]), "bad_words can contain at most 512 texts"),
        row("logprob_token_ids", json!([1]), "`logprob_token_ids` is not supported"),
        row("repetition_detection", json!({}), "`repetition_detection` is not supported."),
        row("truncate_prompt_tokens", json!(50), "truncate_prompt_tokens=50 cannot be greater"),
        row("prompt", json!(""), "Either prompt or prompt_embeds must be provided and non-empty."),
        row("suffix", json!("x"), "suffix is only supported for models with FIM"),
        row("logit_bias", json!({"x": 1}), "Found token_id="),
        row("logit_bias", json!({"99999": 1}), "token_id(s) [99999] in logit_bias contain"),
        row("allowed_token_ids", json!([]), "allowed_token_ids must not be empty."),
        row("allowed_token_ids", json!([99_999]), "allowed_token_ids contains an out-of-vocab"),
        row("truncate_prompt_tokens", json!(0), "truncate_prompt_tokens must be at least 1 or -1"),
        row(
            "stream_options",
            json!({"include_usage": true}),
            "Stream options can only be defined \
             when `stream=True`.",
        ),
        row("prompt", json!([]), "Either prompt or prompt_embeds must be provided and non-empty."),
        row("prompt", json!(null), "Either prompt or prompt_embeds must be provided and"),
        row("prompt", json!([99_999]), "Token id 99999 is out of vocabulary"),
        row("response_format", json!({"type": "poem"}), "Unknown response format `poem`."),
    ]
}

fn other_mistakes() -> Vec<Row> {
    let (bad, body) = ("BadRequestError", "Bad Request");
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    vec![
        (
            COMPLETIONS,
            json!({"model": "x"}),
            404,
            "NotFoundError",
            "The model `x` does not exist. Valid aliases: tiny.",
            Some("model"),
        ),
        (
            COMPLETIONS,
            json!({"n": 2, "temperature": 0}),
            400,
            bad,
            "n must be 1 when using greedy sampling, got 2.",
            Some("n"),
        ),
        (
            COMPLETIONS,
            json!({"prompt_logprobs": 1, "stream": true}),
            400,
            bad,
            "`prompt_logprobs` are not available when `stream=True`.",
            Some("prompt_logprobs"),
        ),
        (
            COMPLETIONS,
            json!({"prompt": vec![5; 65]}),
            400,
            bad,
            "This model's maximum context length is 64 tokens. However, your prompt contains 65 \
             input tokens",
            Some("input_tokens"),
        ),
        (
            COMPLETIONS,
            json!({"prompt": vec![5; 64]}),
            400,
            bad,
            "This model's maximum context length is 64 tokens. However, your prompt fills it",
            Some("input_tokens"),
        ),
        (
            COMPLETIONS,
            json!({"prompt": "a".repeat(100_000)}),
            400,
            bad,
            "This model's maximum context length is 64 tokens. However, your prompt contains \
             100000 characters",
            Some("input_text"),
        ),
        (
            COMPLETIONS,
            json!({"structured_outputs": {"regex": "a(", "json": null}}),
            400,
            bad,
            "the regular expression cannot be used: a regular expression is wrong: unclosed group",
            Some("structured_outputs"),
        ),
        (COMPLETIONS, json!({"use_beam_search": true}), 400, bad, "Beam", Some("use_beam_search")),
        (
            COMPLETIONS,
            json!({"prompt": 5}),
            400,
            body,
            "1 validation error:\n  body.prompt",
            Some("body.prompt"),
        ),
        (
            COMPLETIONS,
            json!({"prompt": [-1]}),
            400,
            body,
            "1 validation error:\n  body.prompt",
            Some("body.prompt"),
        ),
        (
            COMPLETIONS,
            json!({"truncation_side": "up"}),
            400,
            body,
            "1 validation error:\n  body.truncation_side: unknown variant `up`, expected `left` or",
            Some("body.truncation_side"),
        ),
        (
            COMPLETIONS,
            json!({"stop": [1]}),
            400,
            body,
            "1 validation error:\n  body.stop",
            Some("body.stop"),
        ),
        (
            CHAT,
            json!({"messages": null}),
            400,
            body,
            "1 validation error:\n  body.messages: field required",
            Some("body.messages"),
        ),
        (
            CHAT,
            json!({"messages": [{"content": "x"}]}),
            400,
            body,
            "1 validation error:\n  body.messages.0.role",
            Some("body.messages.0.role"),
        ),
        (
            CHAT,
            json!({"top_logprobs": 2}),
            400,
            bad,
            "when using `top_logprobs`, `logprobs` must be set to true.",
            Some("top_logprobs"),
        ),
        (
            CHAT,
            json!({"logprobs": true, "top_logprobs": 21}),
            400,
            bad,
            "Requested sample logprobs of 21",
            Some("top_logprobs"),
        ),
        (
            CHAT,
            json!({"tools": []}),
            400,
            bad,
            "`tools` must not be an empty array.",
            Some("tools"),
        ),
        (
            CHAT,
            json!({"tool_choice": "auto"}),
            400,
            bad,
            "When using `tool_choice`, `tools` must be set.",
            Some("tool_choice"),
        ),
        (
            CHAT,
            json!({"tools": tools.clone(), "tool_choice":
            {"type": "function", "function": {"name": "g"}}}),
            400,
            bad,
            "The tool specified in `tool_choice` does not match any of the specified `tools`",
            Some("tool_choice"),
        ),
        (
            CHAT,
            json!({"tools": tools, "tool_choice": "perhaps"}),
            400,
            bad,
            "`tool_choice` must be `none`, `auto`, `required` or a named tool.",
            Some("tool_choice"),
        ),
        (
            CHAT,
            json!({"continue_final_message": true, "add_generation_prompt": true}),
            400,
            bad,
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
            Some("continue_final_message"),
        ),
        (
            CHAT,
            json!({"chat_template": "x"}),
            400,
            bad,
            "Chat template is passed with request, but --trust-request-chat-template is not set.",
            Some("chat_template"),
        ),
        (
            CHAT,
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema":
            {"type": "integer", "minimum": 2, "maximum": 1}}}, "stream": true}),
            400,
            bad,
            "the JSON schema cannot be used: Unsatisfiable schema: minimum (2) is greater",
            Some("response_format"),
        ),
    ]
}

#[tokio::test]
async fn every_mistake_is_told() {
    let stage = stage(says("ok")).await;
    for (path, change, status, kind, message, param) in
        options_out_of_range().into_iter().chain(other_mistakes())
    {
        let mut body = match path {
            CHAT => json!({"messages": [{"role": "user", "content": "x"}]}),
            _ => json!({"prompt": "x"}),
        };
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let reply = stage.post(path, body).await;
        let (got_status, got_kind, got_message, got_param) = reply.error();
        assert_eq!((got_status, got_kind.as_str()), (status, kind), "{change}: {got_message}");
        assert!(got_message.starts_with(message), "{change}: {got_message}");
        assert_eq!(got_param.as_deref(), param, "{change}");
    }
    let good = stage.post(COMPLETIONS, json!({"prompt": "x", "model": MODEL})).await;
    assert_eq!(good.status, 200, "and the stage still answers: {}", good.text);
}

#[tokio::test]
async fn a_wrong_content_type_is_refused() {
    let stage = stage(says("ok")).await;
    for kind in [&[][..], &[("content-type", "text/plain")]] {
        let reply = stage.send("POST", COMPLETIONS, kind, "{}").await;
        let (status, _, message, _) = reply.error();
        assert_eq!(status, 400);
        assert_eq!(message, "Unsupported Media Type: Only 'application/json' is allowed");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_have_their_own_bodies() {
    let stage = stage(says("ok")).await;
    let reply = stage.get("/v1/poems").await;
    assert_eq!((reply.status, reply.json()), (404, json!({"detail": "Not Found"})));
    let reply = stage.get(COMPLETIONS).await;
    assert_eq!((reply.status, reply.json()), (405, json!({"detail": "Method Not Allowed"})));
    let reply = stage.get("/v1/models/x/y").await;
    assert_eq!(reply.error().0, 404);
}

#[tokio::test]
async fn a_key_opens_what_is_not_a_probe() {
    let keys = vec!["sk-one".to_owned(), "sk-two".to_owned()];
    let stage = stage_with(vec![says("ok")], |config| config.api_keys = keys).await;
    for path in ["/v1/models", "/load", "/v1/unheard-of"] {
        let reply = stage.get(path).await;
        assert_eq!((reply.status, reply.json()), (401, json!({"error": "Unauthorized"})));
    }
    for key in ["sk-one", "sk-two"] {
        let headers = [("authorization", &*format!("Bearer {key}"))];
        assert_eq!(stage.send("GET", "/v1/models", &headers, "").await.status, 200);
    }
    assert_eq!(stage.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_full_engine_is_503_and_its_mistakes_are_theirs() {
    for (kind, status, text) in [
        (
            ErrorKind::Overloaded,
            503,
            "The engine is currently busy and cannot accept new requests. \
             Please try again later or on a different instance.",
        ),
        (ErrorKind::Unavailable, 503, "refused by the script"),
        (ErrorKind::BadRequest, 400, "refused by the script"),
        (ErrorKind::Internal, 500, "refused by the script"),
    ] {
        let stage = stage(refuses(kind)).await;
        for stream in [false, true] {
            let reply = stage.post(COMPLETIONS, json!({"prompt": "x", "stream": stream})).await;
            let (got, _, message, _) = reply.error();
            assert_eq!((got, message.as_str()), (status, text), "{kind:?} stream={stream}");
        }
    }
}

#[tokio::test]
async fn room_for_requests_is_bounded() {
    let stage = stage_with(vec![says("ok")], |config| config.max_requests = 0).await;
    let (status, kind, message, _) = stage.post(COMPLETIONS, json!({"prompt": "x"})).await.error();
    assert_eq!((status, kind.as_str()), (503, "Service Unavailable"));
    assert!(message.starts_with("The engine is currently busy"));
}
