//! What can be asked for: the kinds that people declare, and what the cluster has by itself. One
//! table of their names, for whoever asks and whoever answers.

use std::fmt;

use troupe_runtime::{discovery::keys::Keys, spec::Kind};

/// A kind of object that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// One that people declare.
    Declared(Kind),
    /// A host.
    Node,
    /// A replica of a service.
    Group,
    /// A gateway.
    Gateway,
    /// An incarnation of a group that serves.
    Endpoint,
    /// Something that happened.
    Event,
    /// What a service was declared as.
    Revision,
    /// A join token.
    Token,
}

/// The cluster's own kinds.
const OWN: [Resource; 7] = [
    Resource::Group,
    Resource::Node,
    Resource::Gateway,
    Resource::Endpoint,
    Resource::Event,
    Resource::Revision,
    Resource::Token,
];

// === impl Resource ===

impl Resource {
    /// Services, which most commands are about.
    pub const SERVICE: Self = Self::Declared(Kind::LlmInferenceService);

    /// All of them: what people declare first.
    pub fn all() -> impl Iterator<Item = Self> {
        Kind::ALL.into_iter().map(Self::Declared).chain(OWN)
    }

    /// Finds one by any of its names, in any case; `llmisvc.serving.kserve.io` is one too.
    pub fn find(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let (name, group) = text.split_once('.').unwrap_or((&text, ""));
        Self::all().find(|resource| {
            let named = [resource.singular(), resource.plural()].contains(&name.to_owned())
                || resource.short_names().contains(&name);
            named && (group.is_empty() || resource.groups().any(|of| of == group))
        })
    }

    /// As a document says it.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Declared(kind) => kind.name(),
            Self::Node => "Node",
            Self::Group => "Group",
            Self::Gateway => "Gateway",
            Self::Endpoint => "Endpoint",
            Self::Event => "Event",
            Self::Revision => "Revision",
            Self::Token => "Token",
        }
    }

    /// What a command line may call it besides its name.
    pub fn short_names(self) -> &'static [&'static str] {
        match self {
            Self::Declared(Kind::LlmInferenceService) => &["llmisvc", "service", "services", "svc"],
            Self::Declared(Kind::LlmInferenceServiceConfig) => &["llmisvcconfig"],
            Self::Declared(Kind::LeaderWorkerSet) => &["lws"],
            Self::Declared(Kind::InferencePool) => &["infpool"],
            Self::Declared(Kind::InferenceModel) => &["infmodel"],
            Self::Declared(Kind::InferenceObjective) => &["infobj"],
            Self::Declared(Kind::HttpRoute) => &["route", "routes"],
            Self::Node => &["no"],
            Self::Group => &["grp"],
            Self::Gateway => &["gw"],
            Self::Endpoint => &["ep"],
            Self::Event => &["ev"],
            Self::Revision => &["rev"],
            Self::Token => &["tok"],
        }
    }

    /// The name of one, in lower case.
    pub fn singular(self) -> String {
        self.kind().to_ascii_lowercase()
    }

    /// The name of several, in lower case.
    pub fn plural(self) -> String {
        format!("{}s", self.singular())
    }

    /// The group of its API; the cluster's own kinds have none.
    pub fn group(self) -> &'static str {
        self.groups().last().unwrap_or("")
    }

    fn groups(self) -> impl Iterator<Item = &'static str> {
        let versions = match self {
            Self::Declared(kind) => kind.api_versions(),
            _ => &[],
        };
        versions.iter().filter_map(|version| Some(version.split_once('/')?.0))
    }

    /// Whether its objects are in namespaces.
    pub fn namespaced(self) -> bool {
        !matches!(self, Self::Node | Self::Gateway | Self::Token)
    }

    /// One object, as `kubectl` prints it: `llminferenceservice.serving.kserve.io/x`.
    pub fn slash(self, name: &str) -> String {
        format!("{}/{name}", self.qualified(&self.singular()))
    }

    /// One object in an error: `llminferenceservices.serving.kserve.io "x"`.
    pub fn quoted(self, name: &str) -> String {
        format!("{} \"{name}\"", self.qualified(&self.plural()))
    }

    fn qualified(self, name: &str) -> String {
        match self.group() {
            "" => name.to_owned(),
            group => format!("{name}.{group}"),
        }
    }

    /// What of the store its objects are made of.
    pub(super) fn prefixes(self, keys: &Keys) -> Vec<String> {
        match self {
            Self::Declared(kind) => vec![keys.specs(kind.name()), keys.service_statuses()],
            Self::Node => {
                vec![keys.nodes(), keys.node_statuses(), keys.cordons(), keys.all_node_labels()]
            }
            Self::Group => {
                let places = [keys.nodes(), keys.node_statuses()];
                [keys.groups(), keys.service_statuses()].into_iter().chain(places).collect()
            }
            Self::Gateway => vec![keys.gateways()],
            Self::Endpoint => vec![keys.endpoints()],
            Self::Event => vec![keys.events()],
            Self::Revision => vec![keys.all_revisions()],
            Self::Token => vec![keys.tokens()],
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_name_leads_to_one_resource() {
        let mut names = BTreeMap::new();
        for resource in Resource::all() {
            let own = [resource.singular(), resource.plural(), resource.kind().to_owned()];
            let short = resource.short_names().iter().map(|name| (*name).to_owned());
            for name in own.into_iter().chain(short) {
                assert_eq!(Resource::find(&name), Some(resource), "{name}");
                let other = names.insert(name.to_ascii_lowercase(), resource);
                assert!(other.is_none_or(|other| other == resource), "{name} is {other:?} too");
            }
        }
        assert_eq!(Resource::find("pods"), None);
        assert_eq!(Resource::find("LLMInferenceServices"), Some(Resource::SERVICE));
        assert_eq!(Resource::find("llmisvc.serving.kserve.io"), Some(Resource::SERVICE));
        assert_eq!(Resource::find("llmisvc.apps"), None);
        assert_eq!(Resource::find("node.apps"), None);
    }

    #[test]
    fn objects_are_called_as_kubectl_calls_them() {
        let service = Resource::SERVICE;
        assert_eq!(service.slash("x"), "llminferenceservice.serving.kserve.io/x");
        assert_eq!(service.quoted("x"), "llminferenceservices.serving.kserve.io \"x\"");
        assert_eq!(Resource::Node.slash("n1"), "node/n1");
        let pool = Resource::Declared(Kind::InferencePool);
        assert_eq!(pool.slash("p"), "inferencepool.inference.networking.k8s.io/p");
        assert_eq!(Resource::find("infpool.inference.networking.x-k8s.io"), Some(pool));
    }
}
