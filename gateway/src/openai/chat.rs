//! `/v1/chat/completions`: messages in, a message out.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    common::{StopReason, Usage},
    tools::{ToolCall, ToolCallDelta},
};

/// The fields that only chat has.
#[derive(Deserialize, ToSchema, Clone, Debug, Default, PartialEq)]
pub struct ChatRequest {
    /// The conversation. Kept as JSON, because templates read fields that no schema foresees.
    #[schema(value_type = Vec<Object>, required = true)]
    pub messages: Option<Vec<Map<String, Value>>>,
    /// The modern name of `max_tokens`; wins over it.
    pub max_completion_tokens: Option<i64>,
    /// Report log-probabilities.
    pub logprobs: Option<bool>,
    /// With how many alternatives.
    pub top_logprobs: Option<i64>,
    /// What the model may call; given to the template.
    pub tools: Option<Vec<Value>>,
    /// `none`, `auto`, `required` or a named one; with tools `auto`, else `none`.
    pub tool_choice: Option<Value>,
    /// Whether a message may have several tool calls; otherwise only the first is told.
    pub parallel_tool_calls: Option<bool>,
    /// Whether the model's reasoning is told.
    pub include_reasoning: Option<bool>,
    /// Put the last message's text before the output.
    pub echo: Option<bool>,
    /// End the prompt with the assistant's opening.
    pub add_generation_prompt: Option<bool>,
    /// Leave the last message open, to be gone on with.
    pub continue_final_message: Option<bool>,
    /// For templates that cite.
    pub documents: Option<Vec<Value>>,
    /// A template of the client's own.
    pub chat_template: Option<String>,
    /// Variables for the template.
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// For templates of models that think.
    pub reasoning_effort: Option<String>,
}

/// The answer.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq)]
pub struct ChatCompletion {
    /// `chatcmpl-` and the request's id.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// As the request named it.
    pub model: String,
    /// One per choice.
    pub choices: Vec<ChatChoice>,
    /// Tokens counted.
    pub usage: Usage,
    /// If asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// If asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<Vec<Option<Map<String, Value>>>>,
}

/// One answer of several.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq)]
pub struct ChatChoice {
    /// Which.
    pub index: u32,
    /// What was said.
    pub message: AssistantMessage,
    /// If asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop`, `length`, `tool_calls`, `abort` or `error`.
    pub finish_reason: Option<&'static str>,
    /// Which stop string or token, if it was one that the client named.
    pub stop_reason: Option<StopReason>,
    /// If asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// What the model said.
#[derive(Serialize, ToSchema, Clone, Debug, Default, PartialEq)]
pub struct AssistantMessage {
    /// `assistant`, or what the request's last message was when that is continued.
    pub role: String,
    /// What it thought before, if it is one that thinks.
    pub reasoning: Option<String>,
    /// The same, by the name that others use.
    pub reasoning_content: Option<String>,
    /// The text; null if there is none beside calls or reasoning.
    pub content: Option<String>,
    /// What it wants called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Always null: models of the open kind do not refuse in a field of its own.
    pub refusal: Option<String>,
    /// Always null.
    pub annotations: Option<Value>,
    /// Always null.
    pub audio: Option<Value>,
    /// Always null: tools took its place.
    pub function_call: Option<Value>,
}

/// One event of a stream.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq)]
pub struct ChatChunk {
    /// `chatcmpl-` and the request's id.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// As the request named it.
    pub model: String,
    /// The one that moved; none in the usage chunk.
    pub choices: Vec<ChatChunkChoice>,
    /// If asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// If asked for, in the first event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// The next part of one answer.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq)]
pub struct ChatChunkChoice {
    /// Which.
    pub index: u32,
    /// What was added.
    pub delta: ChatDelta,
    /// If asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// In the last part.
    pub finish_reason: Option<&'static str>,
    /// In the last part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    /// If asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// What one event adds to a message.
#[derive(Serialize, ToSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatDelta {
    /// In the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// What it thinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The same, by the name that others use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Calls that begin or go on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
}

/// Log-probabilities in the new style: one object per token.
#[derive(Serialize, ToSchema, Clone, Debug, Default, PartialEq)]
pub struct ChatLogprobs {
    /// Per output token.
    pub content: Vec<ChatTokenLogprob>,
}

/// One output token.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq)]
pub struct ChatTokenLogprob {
    /// Its text.
    pub token: String,
    /// Natural log of its probability.
    pub logprob: f64,
    /// Its text as bytes.
    pub bytes: Option<Vec<u8>>,
    /// The likeliest.
    pub top_logprobs: Vec<ChatTopLogprob>,
}

/// One candidate.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq)]
pub struct ChatTopLogprob {
    /// Its text.
    pub token: String,
    /// Natural log of its probability.
    pub logprob: f64,
    /// Its text as bytes.
    pub bytes: Option<Vec<u8>>,
}
