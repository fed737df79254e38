//! Tools of a chat request: which may be called, which must be, and the grammar that sees to it.

use serde_json::{Map, Value, json};
use troupe_runtime::wire::generate::Grammar;

use crate::{error::ApiError, openai::chat::ChatRequest};

/// What the model may or must call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// Nothing; what it writes is text. The template is given the tools all the same, as in vLLM,
    /// so that a conversation keeps its prompt, and its cached prefix, from turn to turn.
    None,
    /// What it likes.
    Auto,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// Checks the tools and what is said about them.
pub(crate) fn choice(request: &ChatRequest) -> Result<ToolChoice, ApiError> {
    let tools = request.tools.as_deref();
    if tools.is_some_and(<[Value]>::is_empty) {
        let message = "`tools` must not be an empty array. Either provide at least one tool or \
                       omit the field entirely.";
        return Err(ApiError::bad_request(message).at("tools"));
    }
    for (at, tool) in tools.unwrap_or_default().iter().enumerate() {
        check(&format!("body.tools.{at}"), tool)?;
    }
    let choice = match (&request.tool_choice, tools) {
        (None | Some(Value::Null), None) => return Ok(ToolChoice::None),
        (None | Some(Value::Null), Some(_)) => return Ok(ToolChoice::Auto),
        (Some(Value::String(choice)), _) if choice == "none" => return Ok(ToolChoice::None),
        (Some(choice), _) => choice,
    };
    let Some(tools) = tools else {
        let message = "When using `tool_choice`, `tools` must be set.";
        return Err(ApiError::bad_request(message).at("tool_choice"));
    };
    match choice {
        Value::String(choice) if choice == "auto" => Ok(ToolChoice::Auto),
        Value::String(choice) if choice == "required" => Ok(ToolChoice::Required),
        Value::Object(_) => {
            let name = choice.pointer("/function/name").and_then(Value::as_str);
            let known = name.filter(|name| tools.iter().any(|tool| name_of(tool) == *name));
            let message =
                "The tool specified in `tool_choice` does not match any of the specified `tools`";
            let known = known.ok_or_else(|| ApiError::bad_request(message).at("tool_choice"))?;
            Ok(ToolChoice::Named(known.to_owned()))
        }
        _ => {
            let message = "`tool_choice` must be `none`, `auto`, `required` or a named tool.";
            Err(ApiError::bad_request(message).at("tool_choice"))
        }
    }
}

/// What an answer must match so that what must be called is; as vLLM has it.
pub(crate) fn grammar(
    choice: &ToolChoice,
    tools: &[Value],
    one_call: bool,
) -> Result<Option<Grammar>, ApiError> {
    let schema = match choice {
        ToolChoice::None | ToolChoice::Auto => return Ok(None),
        ToolChoice::Named(name) => {
            let tool = tools.iter().find(|tool| name_of(tool) == name);
            tool.map_or_else(|| Value::Object(Map::new()), parameters)
        }
        ToolChoice::Required => calls_schema(tools, one_call)?,
    };
    Ok(Some(Grammar::JsonSchema(schema.to_string())))
}

fn check(place: &str, tool: &Value) -> Result<(), ApiError> {
    let wrong =
        |field: &str, what: &str| Err(ApiError::validation(&format!("{place}{field}"), what));
    if !tool.is_object() {
        return wrong("", "an object with `type` and `function` is needed");
    }
    if tool.get("type").is_some_and(|kind| kind != "function") {
        return wrong(".type", "`function` is the only type that is supported");
    }
    let Some(function) = tool.get("function") else {
        return wrong(".function", "field required");
    };
    match function.get("name") {
        None => return wrong(".function.name", "field required"),
        Some(Value::String(name)) if !name.is_empty() => {}
        Some(_) => return wrong(".function.name", "a string that is not empty is needed"),
    }
    match function.get("parameters") {
        None | Some(Value::Null | Value::Object(_)) => Ok(()),
        Some(_) => wrong(".function.parameters", "a JSON schema is needed: an object"),
    }
}

fn name_of(tool: &Value) -> &str {
    tool.pointer("/function/name").and_then(Value::as_str).unwrap_or_default()
}

/// The schema of a tool's arguments, which are an object whatever it says.
fn parameters(tool: &Value) -> Value {
    let given = tool.pointer("/function/parameters").and_then(Value::as_object).cloned();
    let mut schema = given.unwrap_or_default();
    let says_what = ["type", "$ref", "anyOf", "oneOf", "allOf"];
    if !says_what.iter().any(|keyword| schema.contains_key(*keyword)) {
        schema.insert("type".into(), "object".into());
    }
    Value::Object(schema)
}

/// An array of calls. Definitions move to its root, which is where references look for them.
fn calls_schema(tools: &[Value], one_call: bool) -> Result<Value, ApiError> {
    let mut definitions = Map::new();
    let mut calls = Vec::new();
    for tool in tools {
        let mut arguments = parameters(tool);
        for keyword in ["$defs", "definitions"] {
            let own = arguments.as_object_mut().and_then(|schema| schema.remove(keyword));
            let Some(Value::Object(own)) = own else { continue };
            let shared = definitions.entry(keyword).or_insert_with(|| json!({}));
            for (name, schema) in own {
                if shared.get(&name).is_some_and(|known| *known != schema) {
                    let message = format!(
                        "Tool definition '{name}' has multiple schemas, which is not \
                                 supported."
                    );
                    return Err(ApiError::bad_request(message).at("tools"));
                }
                shared[name] = schema;
            }
        }
        calls.push(json!({
            "type": "object",
            "properties": {"name": {"enum": [name_of(tool)]}, "parameters": arguments},
            "required": ["name", "parameters"],
            "additionalProperties": false,
        }));
    }
    let mut schema = json!({"type": "array", "minItems": 1, "items": {"anyOf": calls}});
    if one_call {
        schema["maxItems"] = 1.into();
    }
    for (keyword, shared) in definitions {
        schema[keyword] = shared;
    }
    Ok(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, parameters: Value) -> Value {
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    }

    fn chosen(tools: Value, choice: Value) -> Result<ToolChoice, ApiError> {
        let body = json!({"tools": tools, "tool_choice": choice});
        super::choice(&serde_json::from_value(body).expect("a request"))
    }

    #[test]
    fn choices_are_checked() {
        let tools = json!([tool("f", json!({}))]);
        assert_eq!(chosen(Value::Null, Value::Null), Ok(ToolChoice::None));
        assert_eq!(chosen(Value::Null, json!("none")), Ok(ToolChoice::None));
        assert_eq!(chosen(tools.clone(), Value::Null), Ok(ToolChoice::Auto));
        assert_eq!(chosen(tools.clone(), json!("none")), Ok(ToolChoice::None));
        assert_eq!(chosen(tools.clone(), json!("required")), Ok(ToolChoice::Required));
        let named = |name: &str| json!({"type": "function", "function": {"name": name}});
        assert_eq!(chosen(tools.clone(), named("f")), Ok(ToolChoice::Named("f".into())));
        for wrong in [named("g"), json!("maybe"), json!(1), json!({})] {
            assert!(chosen(tools.clone(), wrong).is_err());
        }
        assert!(chosen(Value::Null, json!("auto")).is_err());
        assert!(chosen(json!([]), Value::Null).is_err());
    }

    #[test]
    fn a_wrong_tool_is_placed() {
        let place = |tool: Value| {
            let error = chosen(json!([tool]), Value::Null).expect_err("a mistake");
            error.body().error.param.unwrap_or_default()
        };
        assert_eq!(place(json!("f")), "body.tools.0");
        assert_eq!(place(json!({"type": "retrieval"})), "body.tools.0.type");
        assert_eq!(place(json!({"type": "function"})), "body.tools.0.function");
        assert_eq!(place(json!({"function": {}})), "body.tools.0.function.name");
        assert_eq!(place(tool("f", json!([]))), "body.tools.0.function.parameters");
    }

    #[test]
    fn a_forced_call_has_a_schema() {
        let point = json!({"type": "object"});
        let with_definition = json!({"$ref": "#/$defs/p", "$defs": {"p": point}});
        let tools = [tool("f", with_definition.clone()), tool("g", json!({}))];
        let schema = |choice: ToolChoice, one_call| match grammar(&choice, &tools, one_call) {
            Ok(Some(Grammar::JsonSchema(schema))) => {
                serde_json::from_str::<Value>(&schema).expect("JSON")
            }
            other => panic!("{other:?}"),
        };
        let named = |name: &str| schema(ToolChoice::Named(name.into()), false);
        assert_eq!(named("f"), with_definition);
        assert_eq!(named("g"), json!({"type": "object"}));
        let required = schema(ToolChoice::Required, true);
        assert_eq!(required["$defs"], json!({"p": point}));
        assert_eq!((&required["minItems"], &required["maxItems"]), (&json!(1), &json!(1)));
        let first = &required["items"]["anyOf"][0]["properties"];
        assert_eq!(*first, json!({"name": {"enum": ["f"]}, "parameters": {"$ref": "#/$defs/p"}}));
        assert_eq!(grammar(&ToolChoice::Auto, &tools, false), Ok(None));
        let clash = tool("h", json!({"$defs": {"p": {"type": "string"}}}));
        let clashing = [tools[0].clone(), clash];
        assert!(grammar(&ToolChoice::Required, &clashing, false).is_err());
    }
}
