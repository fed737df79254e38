//! What the output must match: OpenAI's `response_format` and vLLM's `structured_outputs`.

use serde::Deserialize;
use serde_json::Value;

/// The output's form, as OpenAI has it.
#[derive(Deserialize, Clone, Debug, PartialEq)]
pub struct ResponseFormat {
    /// `text`, `json_object`, `json_schema` or `structural_tag`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Given with `json_schema`.
    pub json_schema: Option<JsonSchemaFormat>,
    /// Given with `structural_tag`: a tree of forms.
    pub format: Option<Value>,
    /// Given with `structural_tag` in its older style: tags in free text.
    pub structures: Option<Value>,
    /// Given with `structures`: what each tag begins with one of.
    pub triggers: Option<Value>,
}

/// A schema with its name.
#[derive(Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct JsonSchemaFormat {
    /// For the model's information; nothing depends on it.
    pub name: Option<String>,
    /// The schema; absent means any object.
    pub schema: Option<Value>,
    /// Accepted: an output is held to its schema whatever this says.
    pub strict: Option<bool>,
}

/// The output's form, as vLLM has it: exactly one of the first six.
#[derive(Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct StructuredOutputs {
    /// A JSON schema, as an object or as text.
    pub json: Option<Value>,
    /// A regular expression for the whole output.
    pub regex: Option<String>,
    /// The output is one of these.
    pub choice: Option<Vec<String>>,
    /// A grammar in Lark's syntax or in GBNF.
    pub grammar: Option<String>,
    /// Any JSON object.
    pub json_object: Option<bool>,
    /// Text with parts that have a form, as an object or as text: what `response_format` has with
    /// `structural_tag`.
    pub structural_tag: Option<Value>,
    /// No white space between the parts of JSON but what the schema says.
    pub disable_any_whitespace: Option<bool>,
    /// Which white space may stand there, as a regular expression.
    pub whitespace_pattern: Option<String>,
}
