//! The document: plug-ins, and profiles that use them.

use std::sync::Arc;

use serde_json::Value;

use super::{
    PickerConfig, PickerError,
    parameters::{Findings, Parameters},
    table::{HandlerKind, PLUGINS, PRODUCERS, Plugin, wants_predicted, wants_tokens},
};
use crate::placement::{
    handler::{Cost, Decider, Handler, Placer},
    picker::MaxScorePicker,
    profile::Profile,
};

/// Kinds of it that have been written.
const VERSIONS: [&str; 4] = [
    "llm-d.ai/v1",
    "llm-d.ai/v1alpha1",
    "inference.networking.x-k8s.io/v1alpha1",
    "config.apix.gateway-api-inference-extension.sigs.k8s.io/v1alpha1",
];
/// What is done elsewhere here, or always.
const ELSEWHERE: [&str; 6] =
    ["dataLayer", "featureGates", "flowControl", "parser", "requestHandler", "saturationDetector"];

/// What was declared, by name and in order.
struct Declared<'a> {
    plugins: Vec<(String, Option<Plugin>)>,
    wants_predicted: bool,
    tokens: bool,
    findings: &'a Findings,
}

/// Reads it whole.
pub(super) fn config(document: &Value) -> Result<PickerConfig, PickerError> {
    let findings = Findings::default();
    let placer = placer(document, &findings);
    let Findings { problems, warnings } = findings;
    let problems = problems.into_inner();
    match placer {
        Some(placer) if problems.is_empty() => {
            Ok(PickerConfig { placer: Arc::new(placer), warnings: warnings.into_inner() })
        }
        _ => Err(PickerError(problems)),
    }
}

/// `None` only together with a problem.
fn placer(document: &Value, findings: &Findings) -> Option<Placer> {
    let top = Parameters::of(String::new(), Some(document), findings);
    if !document.is_object() {
        return None;
    }
    let versions = VERSIONS.map(|version| (version, ()));
    if top.required_text("apiVersion").is_some() {
        top.one_of("apiVersion", &versions);
    }
    if top.required_text("kind").is_some() {
        top.one_of("kind", &[("EndpointPickerConfig", ())]);
    }
    for key in ELSEWHERE {
        if top.value(key).is_some() {
            findings.warn(key, "has no effect: the gateway does this itself");
        }
    }
    let declared = Declared::read(&top, findings);
    let mut profiles: Vec<Arc<Profile>> = Vec::new();
    for fields in top.objects("schedulingProfiles") {
        let name = fields.required_text("name").unwrap_or_default();
        if profiles.iter().any(|profile| &*profile.name == name) {
            fields.problem("name", format!("is there twice: {name}"));
        }
        profiles.push(Arc::new(declared.profile(name, &fields)));
    }
    if profiles.is_empty() {
        profiles.push(Arc::new(declared.everything()));
    }
    let handler = declared.handler(&profiles)?;
    let Declared { wants_predicted, tokens, .. } = declared;
    Some(Placer { handler, wants_predicted, tokens })
}

// === impl Declared ===

impl<'a> Declared<'a> {
    fn read(top: &Parameters<'a>, findings: &'a Findings) -> Self {
        let mut declared =
            Self { plugins: Vec::new(), wants_predicted: false, tokens: false, findings };
        for fields in top.objects("plugins") {
            let kind = fields.required_text("type").unwrap_or_default();
            let name = fields.text("name").unwrap_or(kind).to_owned();
            if declared.plugins.iter().any(|(other, _)| *other == name) {
                fields.problem("name", format!("is there twice: {name}"));
            }
            let parameters = fields.object("parameters");
            let plugin = declared.plugin(kind, &fields, parameters);
            declared.plugins.push((name, plugin));
        }
        declared
    }

    fn plugin(
        &mut self,
        kind: &str,
        fields: &Parameters<'_>,
        parameters: Parameters<'_>,
    ) -> Option<Plugin> {
        let given = fields.value("parameters");
        if PRODUCERS.contains(&kind) {
            parameters.ignore();
            self.findings.warn(&fields.path("type"), format!("{kind} does nothing here"));
            return None;
        }
        let Some((_, make)) = PLUGINS.iter().find(|(known, _)| *known == kind) else {
            parameters.ignore();
            if !kind.is_empty() {
                let known: Vec<&str> = PLUGINS.iter().map(|(known, _)| *known).collect();
                let known = known.join(", ");
                fields.problem("type", format!("there is no {kind}; there are {known}"));
            }
            return None;
        };
        self.wants_predicted |= wants_predicted(kind, given);
        self.tokens |= wants_tokens(kind, given);
        let plugin = make(&parameters);
        if kind == "precise-prefix-cache-scorer" {
            parameters.ignore();
        }
        Some(plugin)
    }

    /// One that is named by a reference.
    fn get(&self, name: &str, fields: &Parameters<'_>, key: &str) -> Option<&Plugin> {
        let found = self.plugins.iter().find(|(known, _)| known == name);
        if found.is_none() {
            let known: Vec<&str> = self.plugins.iter().map(|(known, _)| known.as_str()).collect();
            let known = known.join(", ");
            fields.problem(key, format!("no plugin is called {name}; there are {known}"));
        }
        found?.1.as_ref()
    }

    fn profile(&self, name: &str, fields: &Parameters<'_>) -> Profile {
        let mut profile = empty(name);
        let mut picker = None;
        for fields in fields.objects("plugins") {
            let Some(reference) = fields.required_text("pluginRef") else { continue };
            let weight = fields.number("weight", 0.0..=1e6);
            let Some(plugin) = self.get(reference, &fields, "pluginRef") else { continue };
            let scores = matches!(plugin, Plugin::Scorer(_) | Plugin::Both(..));
            if weight.is_some() && !scores {
                fields.problem("weight", format!("{reference} is no scorer, and has none"));
            }
            if let Plugin::Picker(_) = plugin
                && picker.replace(reference).is_some()
            {
                fields.problem("pluginRef", format!("{reference} is a second picker"));
            }
            if !add(&mut profile, reference, plugin, weight.unwrap_or(1.0) as f32) {
                let message = format!("{reference} is a handler or decider, and in no profile");
                fields.problem("pluginRef", message);
            }
        }
        profile
    }

    /// Where no profile is written, all of them are in one.
    fn everything(&self) -> Profile {
        let mut profile = empty("default");
        for (name, plugin) in &self.plugins {
            if let Some(plugin) = plugin {
                add(&mut profile, name, plugin, 1.0);
            }
        }
        if profile.scorers.is_empty() && profile.filters.is_empty() {
            let picker = profile.picker;
            return Profile { picker, ..crate::placement::defaults::profile("default") };
        }
        profile
    }

    fn handler(&self, profiles: &[Arc<Profile>]) -> Option<Handler> {
        let handlers = self.plugins.iter().filter_map(|(name, plugin)| match plugin {
            Some(Plugin::Handler(kind)) => Some((name, kind)),
            _ => None,
        });
        let handlers: Vec<_> = handlers.collect();
        let problem = |message: String| {
            self.findings.problem("plugins", message);
            None
        };
        let names: Vec<&str> = profiles.iter().map(|profile| &*profile.name).collect();
        let named = |name: &str| {
            let found = profiles.iter().find(|profile| &*profile.name == name).cloned();
            if found.is_none() {
                let names = names.join(", ");
                let message = format!("no profile is called {name}; there are {names}");
                self.findings.problem("schedulingProfiles", message);
            }
            found
        };
        match (handlers.as_slice(), profiles) {
            ([] | [(_, HandlerKind::Single)], [profile]) => {
                Some(Handler::Single(answering(profile)))
            }
            ([], _) => problem(
                "must have a profile handler where there are several profiles: \
                 disagg-profile-handler or header-profile-handler"
                    .to_owned(),
            ),
            ([(name, HandlerKind::Single)], _) => {
                let count = profiles.len();
                problem(format!("{name} runs one profile, and there are {count}"))
            }
            ([(_, HandlerKind::Header { header, default })], profiles) => {
                let first = match profiles {
                    [only] => Some(Arc::clone(only)),
                    _ => named(default),
                };
                let others = profiles.iter().filter(|profile| &*profile.name != default);
                let profiles = first.iter().chain(others.filter(|_| profiles.len() > 1));
                let profiles = profiles.map(answering).collect();
                Some(Handler::Header { header: header.clone(), profiles })
            }
            ([(_, HandlerKind::Disagg { decode, prefill, decider, order })], _) => {
                let decider = match decider {
                    None => Some(Decider::Cost(Cost::default())),
                    Some(name) => self.decider(name),
                };
                let (decode, prefill) = (named(decode), named(prefill));
                let both = prefill.as_ref().is_some_and(|prefill| prefill.says_who_helps());
                let (decode, prefill) = (answering(&decode?), prefill?);
                Some(Handler::Disagg { decode, prefill, decider: decider?, order: *order, both })
            }
            ([first, second, ..], _) => {
                problem(format!("{} and {} are both profile handlers", first.0, second.0))
            }
        }
    }

    fn decider(&self, name: &str) -> Option<Decider> {
        match self.plugins.iter().find(|(known, _)| known == name) {
            Some((_, Some(Plugin::Decider(decider)))) => Some(*decider),
            _ => {
                let is_decider = |(_, plugin): &&(String, Option<Plugin>)| {
                    matches!(plugin, Some(Plugin::Decider(_)))
                };
                let known = self.plugins.iter().filter(is_decider);
                let known: Vec<&str> = known.map(|(name, _)| name.as_str()).collect();
                let message = match known.as_slice() {
                    [] => format!("no decider is called {name}, and none is declared"),
                    known => format!("no decider is called {name}; there are {}", known.join(", ")),
                };
                self.findings.problem("deciders.prefill", message);
                None
            }
        }
    }
}

/// Whether it is something that a profile has.
fn add(profile: &mut Profile, name: &str, plugin: &Plugin, weight: f32) -> bool {
    let name = || Arc::<str>::from(name);
    match plugin {
        Plugin::Filter(filter) => profile.filters.push((name(), Arc::clone(filter))),
        Plugin::Picker(picker) => profile.picker = (name(), Arc::clone(picker)),
        Plugin::Scorer(scorer) => profile.scorers.push((name(), Arc::clone(scorer), weight)),
        Plugin::Both(filter, scorer) => {
            profile.filters.push((name(), Arc::clone(filter)));
            profile.scorers.push((name(), Arc::clone(scorer), weight));
        }
        Plugin::Decider(_) | Plugin::Handler(_) => return false,
    }
    true
}

fn empty(name: &str) -> Profile {
    Profile {
        name: name.into(),
        filters: Vec::new(),
        scorers: Vec::new(),
        picker: ("max-score-picker".into(), Arc::new(MaxScorePicker)),
    }
}

/// The same, as one that answers.
fn answering(profile: &Arc<Profile>) -> Arc<Profile> {
    Arc::new(Placer::answering(Profile::clone(profile)))
}
