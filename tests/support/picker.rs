//! How prompts are placed where each is to be computed apart: by llm-d's plug-ins, always.

use serde_json::{Value, json};

/// An `EndpointPickerConfig` for a service with `prefill`.
pub(crate) fn always_apart() -> Value {
    json!({
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [
            {"type": "always-disagg-pd-decider"},
            {"type": "disagg-profile-handler",
                "parameters": {"deciders": {"prefill": "always-disagg-pd-decider"}}},
            {"type": "prefill-filter"},
            {"type": "decode-filter"},
            {"type": "active-request-scorer"},
        ],
        "schedulingProfiles": [
            {"name": "prefill", "plugins": [
                {"pluginRef": "prefill-filter"}, {"pluginRef": "active-request-scorer"},
            ]},
            {"name": "decode", "plugins": [
                {"pluginRef": "decode-filter"}, {"pluginRef": "active-request-scorer"},
            ]},
        ],
    })
}
