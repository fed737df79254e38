//! Gateways and endpoints: who takes requests, and who answers them.

use serde_json::{Value, json};
use troupe_runtime::{
    discovery::directory::{EndpointRecord, GatewayRecord},
    id::GroupId,
};

use super::{
    super::{contents::Contents, resource::Resource},
    own,
};

/// All gateways.
pub(super) fn gateways(contents: &Contents) -> Vec<Value> {
    let records = contents.records::<GatewayRecord>(&contents.keys.gateways()).into_iter();
    records
        .map(|found| {
            let GatewayRecord { id, address, version } = found.record;
            let metadata = json!({
                "name": id, "uid": id, "resourceVersion": found.version.to_string(),
            });
            let status = json!({"url": format!("http://{address}"), "version": version});
            own(Resource::Gateway, metadata, json!({}), status)
        })
        .collect()
}

/// All endpoints.
pub(super) fn endpoints(contents: &Contents) -> Vec<Value> {
    let records = contents.records::<EndpointRecord>(&contents.keys.endpoints()).into_iter();
    records
        .map(|found| {
            let EndpointRecord { info, address, model_uri, .. } = found.record;
            let GroupId { namespace, service, index } = &info.endpoint.group;
            let metadata = json!({
                "name": format!("{service}-{index}-{}", info.endpoint.epoch),
                "namespace": namespace,
                "labels": {"troupe.dev/service": service},
                "resourceVersion": found.version.to_string(),
            });
            let status = json!({
                "service": service,
                "group": format!("{service}-{index}"),
                "epoch": info.endpoint.epoch.to_string(),
                "revision": info.endpoint.revision,
                "role": info.role,
                "address": address,
                "modelUri": model_uri,
                "modelNames": info.model_names,
                "maxModelLen": info.max_model_len,
                "blocks": {"size": info.block_size, "count": info.num_blocks},
                "dtype": info.fingerprint.dtype,
                "kernelPath": info.fingerprint.kernel_path,
                "modelDigest": info.fingerprint.model.to_string(),
            });
            own(Resource::Endpoint, metadata, json!({}), status)
        })
        .collect()
}
