//! What is compared: ways to place requests, by name or as a configuration says.

use troupe_gateway::{PickerConfig, PickerError};

/// A way to place requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Profile {
    /// As the user calls it.
    pub(crate) name: String,
    pub(super) how: How,
}

/// How it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// As a gateway does that is not told how.
    Default,
    /// As an `EndpointPickerConfig` says.
    Config(String),
    /// One endpoint after the other, whoever is asked for what.
    RoundRobin,
}

/// Those that have names.
pub(crate) const NAMES: [&str; 5] = ["default", "round-robin", "random", "least-loaded", "llm-d"];

/// Nobody is better than another.
const RANDOM: &str = "
apiVersion: llm-d.ai/v1
kind: EndpointPickerConfig
plugins: [{type: random-picker}]
schedulingProfiles: [{name: default, plugins: [{pluginRef: random-picker}]}]
";
/// The fewest requests that have not been answered, as load balancers count.
const LEAST_LOADED: &str = "
apiVersion: llm-d.ai/v1
kind: EndpointPickerConfig
plugins: [{type: active-request-scorer}]
schedulingProfiles: [{name: default, plugins: [{pluginRef: active-request-scorer}]}]
";
/// llm-d's guide of that name.
const LLM_D: &str = include_str!("../../deploy/placement/optimized-baseline.yaml");

// === impl Profile ===

impl Profile {
    /// One that has a name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let how = match name {
            "default" => How::Default,
            "round-robin" => How::RoundRobin,
            "random" => How::Config(RANDOM.into()),
            "least-loaded" => How::Config(LEAST_LOADED.into()),
            "llm-d" => How::Config(LLM_D.into()),
            _ => return None,
        };
        Some(Self { name: name.into(), how })
    }

    /// One that a configuration describes.
    ///
    /// # Errors
    /// [`PickerError`], with every problem.
    pub(crate) fn configured(name: &str, text: &str) -> Result<Self, PickerError> {
        PickerConfig::read(text)?;
        Ok(Self { name: name.into(), how: How::Config(text.into()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_and_their_configurations_are_right() {
        for name in NAMES {
            let profile = Profile::named(name).expect("it is one of them");
            if let How::Config(text) = &profile.how {
                assert_eq!(Profile::configured(name, text), Ok(profile.clone()));
            }
        }
        assert_eq!(Profile::named("fastest"), None);
    }

    #[test]
    fn a_configuration_that_is_wrong_says_where() {
        let error =
            Profile::configured("mine", &RANDOM.replace("random-picker}]\nsched", "x}]\nsched"));
        let error = error.expect_err("there is no plug-in x").to_string();
        assert!(error.contains("plugins[0]") && error.contains('x'), "{error}");
    }
}
