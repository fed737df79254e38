//! The kinds of objects that can be declared, and the names they go by.

use std::fmt;

use super::names::Rule;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// What is served.
    LlmInferenceService,
    /// What services start from.
    LlmInferenceServiceConfig,
    /// How the groups of the service of its name live.
    LeaderWorkerSet,
    /// Endpoints that are chosen between.
    InferencePool,
    /// A name for models of a pool, with weights and a criticality.
    InferenceModel,
    /// A priority in a pool.
    InferenceObjective,
    /// Which requests go to which pools.
    HttpRoute,
}

impl Kind {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 7] = [
        Self::LlmInferenceService,
        Self::LlmInferenceServiceConfig,
        Self::LeaderWorkerSet,
        Self::InferencePool,
        Self::InferenceModel,
        Self::InferenceObjective,
        Self::HttpRoute,
    ];

    pub(super) const NAMESPACE: Rule = Rule::Label;

    /// As a document says it: `kind: LLMInferenceService`.
    pub fn name(self) -> &'static str {
        match self {
            Self::LlmInferenceService => "LLMInferenceService",
            Self::LlmInferenceServiceConfig => "LLMInferenceServiceConfig",
            Self::LeaderWorkerSet => "LeaderWorkerSet",
            Self::InferencePool => "InferencePool",
            Self::InferenceModel => "InferenceModel",
            Self::InferenceObjective => "InferenceObjective",
            Self::HttpRoute => "HTTPRoute",
        }
    }

    /// The short name that a command line takes.
    pub fn short_name(self) -> &'static str {
        match self {
            Self::LlmInferenceService => "llmisvc",
            Self::LlmInferenceServiceConfig => "llmisvcconfig",
            Self::LeaderWorkerSet => "lws",
            Self::InferencePool => "infpool",
            Self::InferenceModel => "infmodel",
            Self::InferenceObjective => "infobj",
            Self::HttpRoute => "route",
        }
    }

    /// Every version of the API that is read, the newest last.
    pub fn api_versions(self) -> &'static [&'static str] {
        match self {
            Self::LlmInferenceService | Self::LlmInferenceServiceConfig => {
                &["serving.kserve.io/v1alpha1", "serving.kserve.io/v1alpha2"]
            }
            Self::LeaderWorkerSet => &["leaderworkerset.x-k8s.io/v1"],
            Self::InferencePool => {
                &["inference.networking.x-k8s.io/v1alpha2", "inference.networking.k8s.io/v1"]
            }
            Self::InferenceModel | Self::InferenceObjective => {
                &["inference.networking.x-k8s.io/v1alpha2"]
            }
            Self::HttpRoute => {
                &["gateway.networking.k8s.io/v1beta1", "gateway.networking.k8s.io/v1"]
            }
        }
    }

    /// Finds a kind by any of its names: kind, singular, plural or short, in any case.
    pub fn find(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        Self::ALL.into_iter().find(|kind| {
            let name = kind.name().to_ascii_lowercase();
            text == name || text == format!("{name}s") || text == kind.short_name()
        })
    }

    /// Finds a kind by what a document says.
    pub(super) fn of_document(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    pub(super) fn name_rule(self) -> Rule {
        match self {
            Self::LlmInferenceService => Rule::GroupOwner,
            Self::LeaderWorkerSet => Rule::Host,
            Self::LlmInferenceServiceConfig
            | Self::InferencePool
            | Self::InferenceModel
            | Self::InferenceObjective
            | Self::HttpRoute => Rule::Subdomain,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_to_its_kind() {
        for kind in Kind::ALL {
            let name = kind.name();
            let plural = format!("{}s", name.to_lowercase());
            for text in [name, &name.to_uppercase(), &plural, kind.short_name()] {
                assert_eq!(Kind::find(text), Some(kind), "{text}");
            }
            assert_eq!(Kind::of_document(name), Some(kind));
        }
        assert_eq!(Kind::find("pods"), None);
        assert_eq!(Kind::of_document("llminferenceservice"), None);
    }
}
