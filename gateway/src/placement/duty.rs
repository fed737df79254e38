//! What an endpoint does: answers requests, computes prompts for others, or both.

use std::collections::BTreeMap;

use troupe_runtime::wire::status::Role;

/// See the file. It is found out once, because every decision asks for all endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Duty {
    /// It answers requests as a rule.
    pub(crate) decodes: bool,
    /// It computes prompts for others.
    pub(crate) prefills: bool,
}

/// The label that says it, as llm-d's pods have it; without it the role does.
pub(crate) const ROLE_LABEL: &str = "llm-d.ai/role";

impl Duty {
    /// Of an endpoint.
    pub(crate) fn of(role: Role, labels: &BTreeMap<String, String>) -> Self {
        let (decodes, prefills) = match labels.get(ROLE_LABEL).map(String::as_str) {
            Some("prefill" | "encode-prefill") => (false, true),
            Some("decode") => (true, false),
            Some("prefill-decode" | "both" | "encode-prefill-decode") => (true, true),
            Some("encode") => (false, false),
            // Who labels with words of his own means something else by it.
            Some(_) | None => (role != Role::Prefill, role != Role::Decode),
        };
        Self { decodes, prefills }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llm_ds_labels_say_who_does_what_and_roles_where_there_is_none() {
        for (label, role, decodes, prefills) in [
            (Some("prefill"), Role::Unified, false, true),
            (Some("decode"), Role::Prefill, true, false),
            (Some("encode"), Role::Unified, false, false),
            (Some("encode-prefill"), Role::Unified, false, true),
            (Some("prefill-decode"), Role::Decode, true, true),
            (Some("both"), Role::Unified, true, true),
            (Some("encode-prefill-decode"), Role::Unified, true, true),
            (Some("mine"), Role::Prefill, false, true),
            (None, Role::Unified, true, true),
            (None, Role::Prefill, false, true),
            (None, Role::Decode, true, false),
        ] {
            let label = label.map(|label| (ROLE_LABEL.to_owned(), label.to_owned()));
            let duty = Duty::of(role, &label.clone().into_iter().collect());
            assert_eq!(duty, Duty { decodes, prefills }, "{label:?} {role:?}");
        }
    }
}
