//! Tool calls in answers.

use serde::Serialize;
use utoipa::ToSchema;

/// A tool that the model wants called.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Ties the tool's answer to the call.
    pub id: String,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What to call.
    pub function: FunctionCall,
}

/// A function with its arguments.
#[derive(Serialize, ToSchema, Clone, Debug, PartialEq, Eq)]
pub struct FunctionCall {
    /// Which.
    pub name: String,
    /// JSON as the model wrote it, which need not be what the tool expects, or whole.
    pub arguments: String,
}

/// What one event adds to a tool call. All but `index` and `arguments` are in its first part only.
#[derive(Serialize, ToSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCallDelta {
    /// Which call of the message.
    pub index: u32,
    /// Ties the tool's answer to the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// What to call.
    pub function: FunctionDelta,
}

/// A part of a function call.
#[derive(Serialize, ToSchema, Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionDelta {
    /// Which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is added to the arguments' JSON.
    pub arguments: String,
}
