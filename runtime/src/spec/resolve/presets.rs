//! Configurations that are built in, under KServe's names. Whoever declares one of the same name,
//! in the service's namespace or in the system's, replaces it.

use crate::spec::{ServiceConfig, document};

/// A preset by its name.
pub(super) fn find(name: &str) -> Option<ServiceConfig> {
    let (_, text) = PRESETS.iter().find(|(preset, _)| *preset == name)?;
    let document = document::read(text).ok()?.into_iter().next()?;
    // A test reads every one of them.
    ServiceConfig::from_document(document).ok().map(|(config, _)| config)
}

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        [$((concat!("kserve-config-llm-", $name),
            include_str!(concat!("../presets/", $name, ".yaml")))),*]
    };
}

/// Name and text of each.
const PRESETS: [(&str, &str); 12] = presets![
    "template",
    "worker-pipeline-parallel",
    "worker-data-parallel",
    "decode-template",
    "decode-worker-pipeline-parallel",
    "decode-worker-data-parallel",
    "prefill-template",
    "prefill-worker-pipeline-parallel",
    "prefill-worker-data-parallel",
    "scheduler",
    "router-route",
    "tracing",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_a_configuration_of_its_name_and_says_nothing_in_vain() {
        for (name, text) in PRESETS {
            let document = document::read(text).expect(name).remove(0);
            let (config, warnings) = ServiceConfig::from_document(document).expect(name);
            assert_eq!(config.metadata.name, name);
            assert_eq!(config.metadata.namespace, super::super::SYSTEM_NAMESPACE);
            assert_eq!(warnings, [], "{name}");
            assert_eq!(find(name), Some(config));
        }
        assert_eq!(find("kserve-config-llm-nothing"), None);
    }
}
