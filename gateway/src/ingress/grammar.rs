//! What a request says of the output's form, as a [`Grammar`] that is known to be good.
//!
//! There are three sources: OpenAI's `response_format`, vLLM's `structured_outputs`, and a tool
//! call that must be made, whose [`Grammar`] `tools` brings along; the last one goes before the
//! others, as in vLLM. Whoever has a grammar of another kind (a JSON schema or Lark text) gives it
//! to [`settle`] as `forced` in the same way. All are compiled here, before anything is answered
//! ([`crate::model::grammars`]), so a bad one is a 400 and never the end of a stream.
//!
//! - [`tags`]: structural tags as Lark

mod tags;

use serde_json::{Value, json};
use troupe_runtime::{
    model::grammar::{self, lark},
    wire::generate::Grammar,
};

use crate::{
    error::ApiError,
    model::Served,
    openai::{
        common::Sampling,
        structured::{ResponseFormat, StructuredOutputs},
    },
};

/// The grammar of a request, if it has one; `forced` is what a required tool call must match.
pub(crate) async fn settle(
    served: &Served,
    asked: &Sampling,
    forced: Option<Grammar>,
) -> Result<Option<Grammar>, ApiError> {
    let own = wanted(asked)?;
    let forced = forced.map(|grammar| (grammar, "tools"));
    let Some((grammar, param)) = forced.or(own) else { return Ok(None) };
    served.model.grammars().check(&grammar).await.map_err(|error| error.at(param))?;
    Ok(Some(grammar))
}

/// What is asked for, and by which field.
fn wanted(asked: &Sampling) -> Result<Option<(Grammar, &'static str)>, ApiError> {
    let format = match &asked.response_format {
        Some(format) => of_format(format)?,
        None => None,
    };
    let structured = match &asked.structured_outputs {
        Some(structured) => Some(of_structured(structured)?),
        None => None,
    };
    match (format, structured) {
        (Some(_), Some(_)) => Err(only_one()),
        (Some(grammar), None) => Ok(Some((grammar, FORMAT))),
        (None, Some(grammar)) => Ok(Some((grammar, STRUCTURED))),
        (None, None) => Ok(None),
    }
}

fn of_format(format: &ResponseFormat) -> Result<Option<Grammar>, ApiError> {
    let wrong = |message: String| Err(ApiError::bad_request(message).at(FORMAT));
    match format.kind.as_str() {
        "text" => Ok(None),
        "json_object" => Ok(Some(schema(any_object(), FORMAT)?)),
        "json_schema" => {
            let Some(given) = &format.json_schema else {
                return wrong(
                    "When response_format type is 'json_schema', the 'json_schema' field must be \
                     provided."
                        .into(),
                );
            };
            Ok(Some(schema(given.schema.clone().unwrap_or_else(any_object), FORMAT)?))
        }
        "structural_tag" => {
            let parts = [&format.format, &format.structures, &format.triggers];
            let names = ["format", "structures", "triggers"];
            let given = names.into_iter().zip(parts);
            let given = given.filter_map(|(name, part)| Some((name.to_owned(), part.clone()?)));
            tagged(&Value::Object(given.collect()), FORMAT).map(Some)
        }
        other => wrong(format!("Unknown response format `{other}`.")),
    }
}

fn of_structured(asked: &StructuredOutputs) -> Result<Grammar, ApiError> {
    let json_object = asked.json_object == Some(true);
    let given = [
        asked.json.is_some(),
        asked.regex.is_some(),
        asked.choice.is_some(),
        asked.grammar.is_some(),
        json_object,
        asked.structural_tag.is_some(),
    ];
    match given.into_iter().filter(|given| *given).count() {
        1 => {}
        0 => {
            let message = "structured_outputs needs one of 'json', 'regex', 'choice', 'grammar', \
                           'json_object' and 'structural_tag'.";
            return Err(ApiError::bad_request(message).at(STRUCTURED));
        }
        _ => return Err(only_one()),
    }
    if let Some(value) = &asked.json {
        return schema(with_whitespace(parsed(value, "json")?, asked), STRUCTURED);
    }
    if json_object {
        return schema(with_whitespace(any_object(), asked), STRUCTURED);
    }
    if let Some(regex) = &asked.regex {
        return Ok(Grammar::Regex(regex.clone()));
    }
    if let Some(choices) = &asked.choice {
        return choice(choices);
    }
    if let Some(tag) = &asked.structural_tag {
        return tagged(&parsed(tag, "structural_tag")?, STRUCTURED);
    }
    // One of them is there.
    Ok(Grammar::Lark(asked.grammar.clone().unwrap_or_default()))
}

/// A schema or a structural tag may come as text.
fn parsed(value: &Value, field: &str) -> Result<Value, ApiError> {
    let Value::String(text) = value else { return Ok(value.clone()) };
    serde_json::from_str(text).map_err(|error| {
        let message = format!("structured_outputs.{field} is a text that is not JSON: {error}");
        ApiError::bad_request(message).at(STRUCTURED)
    })
}

fn tagged(tag: &Value, param: &str) -> Result<Grammar, ApiError> {
    let lark = tags::lark(tag).map_err(|mistake| {
        ApiError::bad_request(format!("The structural tag is wrong: {mistake}.")).at(param)
    })?;
    Ok(Grammar::Lark(lark))
}

fn schema(schema: Value, param: &str) -> Result<Grammar, ApiError> {
    if !schema.is_object() && !schema.is_boolean() {
        let message = "A JSON schema must be an object or a boolean.";
        return Err(ApiError::bad_request(message).at(param));
    }
    Ok(Grammar::JsonSchema(schema.to_string()))
}

/// Puts vLLM's options on white space where the schema's compiler looks for them.
fn with_whitespace(mut schema: Value, asked: &StructuredOutputs) -> Value {
    let none = asked.disable_any_whitespace == Some(true);
    let pattern = asked.whitespace_pattern.as_ref().filter(|_| !none);
    if !none && pattern.is_none() {
        return schema;
    }
    if let Value::Object(fields) = &mut schema {
        let mut options = json!({"whitespace_flexible": !none, "coerce_one_of": true});
        if let Some(pattern) = pattern {
            options["whitespace_pattern"] = pattern.as_str().into();
        }
        fields.insert(grammar::OPTIONS.into(), options);
    }
    schema
}

/// The alternation of texts.
fn choice(choices: &[String]) -> Result<Grammar, ApiError> {
    if choices.is_empty() {
        let message = "structured_outputs.choice must not be empty.";
        return Err(ApiError::bad_request(message).at(STRUCTURED));
    }
    let quoted: Vec<String> = choices.iter().map(|text| lark::text(text)).collect();
    Ok(Grammar::Lark(format!("start: {}", quoted.join("\n | "))))
}

fn any_object() -> Value {
    json!({"type": "object"})
}

fn only_one() -> ApiError {
    let message = "You can only use one kind of constraints for structured outputs ('json', \
                   'regex' or 'choice').";
    ApiError::bad_request(message).at(STRUCTURED)
}

const FORMAT: &str = "response_format";
const STRUCTURED: &str = "structured_outputs";

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: Value) -> Result<Option<(Grammar, &'static str)>, ApiError> {
        wanted(&serde_json::from_value(body).expect("a request"))
    }

    fn structured(value: Value) -> Result<Grammar, ApiError> {
        let found = of(json!({"structured_outputs": value}))?;
        Ok(found.map(|(grammar, _)| grammar).expect("a grammar"))
    }

    #[test]
    fn each_kind_becomes_a_grammar() {
        let schema = json!({"type": "integer"});
        let text = Grammar::JsonSchema(schema.to_string());
        let object = Grammar::JsonSchema(r#"{"type":"object"}"#.into());
        let format = |format: Value| of(json!({"response_format": format}));
        assert_eq!(format(json!({"type": "text"})), Ok(None));
        let any = format(json!({"type": "json_object"}));
        assert_eq!(any, Ok(Some((object.clone(), FORMAT))));
        let named = json!({"type": "json_schema",
                           "json_schema": {"name": "n", "strict": true, "schema": schema}});
        assert_eq!(format(named), Ok(Some((text.clone(), FORMAT))));
        assert_eq!(structured(json!({"json": schema})), Ok(text.clone()));
        assert_eq!(structured(json!({"json": schema.to_string()})), Ok(text));
        assert_eq!(structured(json!({"json_object": true})), Ok(object));
        assert_eq!(structured(json!({"regex": "a+"})), Ok(Grammar::Regex("a+".into())));
        assert_eq!(
            structured(json!({"grammar": "start: A"})),
            Ok(Grammar::Lark("start: A".into()))
        );
        let choice = structured(json!({"choice": ["a\"b", "\u{1}é\u{7f}"]}));
        let lark = "start: \"a\\\"b\"\n | \"\\u0001é\\u007f\"";
        assert_eq!(choice, Ok(Grammar::Lark(lark.into())));
        let tag = json!({"format": {"type": "const_string", "value": "a"}});
        let constant = Grammar::Lark("start: \"a\"\n".into());
        for tag in [tag.clone(), tag.to_string().into()] {
            assert_eq!(structured(json!({"structural_tag": tag})), Ok(constant.clone()));
        }
        let mut with_type = tag;
        with_type["type"] = "structural_tag".into();
        assert_eq!(format(with_type), Ok(Some((constant, FORMAT))));
        let compact = structured(json!({"json": schema, "disable_any_whitespace": true}));
        let Ok(Grammar::JsonSchema(compact)) = compact else { panic!("{compact:?}") };
        assert!(compact.contains(r#""whitespace_flexible":false"#), "{compact}");
    }

    #[test]
    fn contradictions_are_told() {
        let message = |body: Value| match of(body) {
            Err(error) => (error.body().error.message, error.body().error.code),
            Ok(found) => panic!("{found:?}"),
        };
        let only = "You can only use one kind of constraints for structured outputs ('json', \
                    'regex' or 'choice').";
        let two = json!({"structured_outputs": {"regex": "a", "choice": ["a"]}});
        assert_eq!(message(two), (only.to_owned(), 400));
        let both = json!({"response_format": {"type": "json_object"},
                          "structured_outputs": {"regex": "a"}});
        assert_eq!(message(both), (only.to_owned(), 400));
        let told = |body: Value, part: &str, code: u16| {
            let (message, got) = message(body);
            assert!(message.contains(part) && got == code, "{got} {message}");
        };
        told(json!({"structured_outputs": {}}), "needs one of", 400);
        told(json!({"structured_outputs": {"choice": []}}), "must not be empty", 400);
        told(json!({"structured_outputs": {"json": "{"}}), "not JSON", 400);
        told(json!({"structured_outputs": {"json": 3}}), "object or a boolean", 400);
        told(json!({"structured_outputs": {"structural_tag": {}}}), "`format` is missing", 400);
        told(json!({"structured_outputs": {"structural_tag": "{"}}), "not JSON", 400);
        told(json!({"response_format": {"type": "structural_tag"}}), "`format` is missing", 400);
        told(json!({"response_format": {"type": "json_schema"}}), "must be provided", 400);
        told(json!({"response_format": {"type": "poem"}}), "`poem`", 400);
    }
}
