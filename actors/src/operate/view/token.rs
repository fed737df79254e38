//! Join tokens, without what makes them such.

use serde_json::{Value, json};
use troupe_runtime::{clock::rfc3339, discovery::directory::TokenRecord};

use super::{
    super::{contents::Contents, resource::Resource},
    own,
};

/// All join tokens.
pub(super) fn objects(contents: &Contents) -> Vec<Value> {
    let records = contents.records::<TokenRecord>(&contents.keys.tokens()).into_iter();
    records.map(|found| token(&found.record, found.version)).collect()
}

/// One, at this version of its key.
pub(in super::super) fn token(record: &TokenRecord, version: i64) -> Value {
    let metadata = json!({
        "name": record.id,
        "creationTimestamp": rfc3339(record.created),
        "resourceVersion": version.to_string(),
    });
    let spec = json!({
        "kind": record.kind,
        "uses": record.uses,
        "operator": record.operator,
        "expires": rfc3339(record.expires),
    });
    let used = record
        .used
        .iter()
        .map(|used| json!({"id": used.id, "name": used.name, "at": rfc3339(used.at)}));
    let mut status = json!({"createdBy": record.created_by, "used": used.collect::<Vec<_>>()});
    if let Some(revoked) = record.revoked {
        status["revoked"] = json!(rfc3339(revoked));
    }
    own(Resource::Token, metadata, spec, status)
}
