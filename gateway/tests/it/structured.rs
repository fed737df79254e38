//! What an output must match reaches the leader as a grammar that compiles.

use serde_json::json;
use troupe_runtime::wire::generate::Grammar;

use crate::support::{leader::says, stage};

#[tokio::test]
async fn every_way_of_asking_reaches_the_leader() {
    let stage = stage(says("ok")).await;
    let object = Grammar::JsonSchema(r#"{"type":"object"}"#.into());
    let schema = json!({"type": "json_schema", "json_schema": {"schema": {"type": "object"}}});
    let cases = [
        (json!({"response_format": {"type": "text"}}), None),
        (json!({"response_format": {"type": "json_object"}}), Some(object.clone())),
        (json!({"response_format": schema, "stream": true}), Some(object)),
        (
            json!({"structured_outputs": {"choice": ["yes", "no ::= no"]}}),
            Some(Grammar::Lark("start: \"yes\"\n | \"no ::= no\"".into())),
        ),
        (
            json!({"structured_outputs": {"regex": "[a-z]+"}, "n": 2}),
            Some(Grammar::Regex("[a-z]+".into())),
        ),
    ];
    for (change, grammar) in cases {
        let mut body = json!({"prompt": "x"});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let reply = stage.post("/v1/completions", body).await;
        assert_eq!(reply.status, 200, "{change}: {}", reply.text);
        assert_eq!(stage.leaders[0].started().await.options.grammar, grammar, "{change}");
    }
}
