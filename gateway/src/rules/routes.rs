//! Which services a path leads to: `HTTPRoute`s, and each service's own `/<namespace>/<name>/...`.
//!
//! Of several routes the most specific counts, by the Gateway API's order: host name, exact path,
//! longest prefix, method, headers, query, the oldest route, its name. A path that no route matches
//! is what it is, and leads to every service.

use std::{cmp::Reverse, collections::BTreeSet, time::Duration};

use regex::Regex;
use troupe_runtime::spec::route::{PathMatch, PathRewrite, RouteMatch, ValueMatch};

use super::{Scope, ranks::pick};
use crate::holding::catalog::ServiceName;

/// What routes look at.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) method: &'a str,
    /// The value of a header.
    pub(crate) header: &'a dyn Fn(&str) -> Option<&'a str>,
    /// Decides between shares; only asked if a route has some.
    pub(crate) draw: &'a dyn Fn() -> u64,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Routed {
    /// No route is for it.
    Plain,
    /// It goes to these services, by this path.
    To { path: String, scope: Scope, timeout: Option<Duration> },
    /// Its route leads nowhere.
    Nowhere,
}

/// Every rule's every match, the most specific first.
#[derive(Debug, Default)]
pub(crate) struct Routes(Vec<Entry>);

/// One match of one rule.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(super) host: Option<Host>,
    pub(super) path: Path,
    pub(super) method: Option<String>,
    pub(super) headers: Vec<Value>,
    pub(super) query: Vec<Value>,
    pub(super) rewrite: Option<PathRewrite>,
    /// Services with their shares.
    pub(super) backends: Vec<(BTreeSet<ServiceName>, u32)>,
    pub(super) timeout: Option<Duration>,
    /// When its route was made, and the route's name.
    pub(super) age: (String, String),
}

#[derive(Debug)]
pub(super) enum Host {
    Exact(String),
    /// What comes after `*`.
    Under(String),
}

#[derive(Debug)]
pub(super) enum Path {
    Exact(String),
    Prefix(String),
    Regex(Regex),
}

#[derive(Debug)]
pub(super) struct Value {
    name: String,
    wanted: Wanted,
}

#[derive(Debug)]
enum Wanted {
    Exact(String),
    Regex(Regex),
}

// === impl Routes ===

impl Routes {
    /// From all matches of all rules.
    pub(super) fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_by_cached_key(Entry::order);
        Self(entries)
    }

    /// What becomes of a request.
    pub(crate) fn route(&self, asked: &Asked<'_>) -> Routed {
        let Some(entry) = self.0.iter().find(|entry| entry.matches(asked)) else {
            return Routed::Plain;
        };
        let shares = entry.backends.iter().map(|(services, weight)| (services, *weight));
        let Some(services) = pick(shares, asked.draw).filter(|services| !services.is_empty())
        else {
            return Routed::Nowhere;
        };
        Routed::To {
            path: entry.rewritten(asked.path),
            scope: Scope::new(services.clone()),
            timeout: entry.timeout,
        }
    }
}

// === impl Entry ===

impl Entry {
    fn matches(&self, asked: &Asked<'_>) -> bool {
        let host = match &self.host {
            None => true,
            Some(Host::Exact(name)) => asked.host.eq_ignore_ascii_case(name),
            Some(Host::Under(suffix)) => {
                let (host, suffix) = (asked.host.to_ascii_lowercase(), suffix.as_str());
                host.len() > suffix.len() && host.ends_with(suffix)
            }
        };
        let query = |name: &str| {
            let mut pairs = asked.query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        host && self.path.matches(asked.path)
            && self.method.as_ref().is_none_or(|method| method == asked.method)
            && self.headers.iter().all(|value| value.holds((asked.header)(&value.name)))
            && self.query.iter().all(|value| value.holds(query(&value.name)))
    }

    /// What sorts before is more specific.
    fn order(&self) -> impl Ord + use<> {
        let host = match &self.host {
            Some(Host::Exact(name)) => (0, Reverse(name.len())),
            Some(Host::Under(suffix)) => (1, Reverse(suffix.len())),
            None => (2, Reverse(0)),
        };
        let path = match &self.path {
            Path::Exact(_) => (0, Reverse(0)),
            Path::Prefix(prefix) => (1, Reverse(prefix.len())),
            Path::Regex(regex) => (1, Reverse(regex.as_str().len())),
        };
        let fewer = (Reverse(self.headers.len()), Reverse(self.query.len()));
        (host, path, self.method.is_none(), fewer, self.age.clone())
    }

    fn rewritten(&self, path: &str) -> String {
        match (&self.rewrite, &self.path) {
            (None, _) => path.to_owned(),
            (Some(PathRewrite::Full(full)), _) => full.clone(),
            (Some(PathRewrite::Prefix(to)), Path::Prefix(prefix)) => {
                let rest = path.get(prefix.trim_end_matches('/').len()..).unwrap_or_default();
                let to = to.trim_end_matches('/');
                match rest.is_empty() || rest.starts_with('/') {
                    true if to.is_empty() && rest.is_empty() => "/".to_owned(),
                    true => format!("{to}{rest}"),
                    false => format!("{to}/{rest}"),
                }
            }
            // Only matches by prefix may be rewritten so; the specification was refused.
            (Some(PathRewrite::Prefix(_)), _) => path.to_owned(),
        }
    }
}

// === impl Host, Path, Value ===

impl Host {
    pub(super) fn new(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        match name.strip_prefix('*') {
            Some(suffix) => Self::Under(suffix.to_owned()),
            None => Self::Exact(name),
        }
    }
}

impl Path {
    /// The same as a route says it; nothing if it is no regular expression.
    pub(super) fn new(path: &PathMatch) -> Option<Self> {
        Some(match path {
            PathMatch::Exact(path) => Self::Exact(path.clone()),
            PathMatch::Prefix(prefix) => Self::Prefix(prefix.clone()),
            PathMatch::Regex(text) => Self::Regex(whole(text)?),
        })
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            // Element by element: /a is no prefix of /ab.
            Self::Prefix(prefix) => {
                let rest = path.strip_prefix(prefix.trim_end_matches('/'));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

impl Value {
    /// The same as a route says it; nothing if it is no regular expression.
    pub(super) fn new(value: &ValueMatch) -> Option<Self> {
        let wanted = match value.regex {
            true => Wanted::Regex(whole(&value.value)?),
            false => Wanted::Exact(value.value.clone()),
        };
        Some(Self { name: value.name.clone(), wanted })
    }

    fn holds(&self, value: Option<&str>) -> bool {
        value.is_some_and(|value| match &self.wanted {
            Wanted::Exact(exact) => value == exact,
            Wanted::Regex(regex) => regex.is_match(value),
        })
    }
}

/// The values of a match; nothing if one of them is no regular expression.
pub(super) fn values(values: &[ValueMatch]) -> Option<Vec<Value>> {
    values.iter().map(Value::new).collect()
}

/// One match of a rule, without what the rule and its route say of it.
pub(super) fn entry(one: &RouteMatch) -> Option<Entry> {
    Some(Entry {
        host: None,
        path: Path::new(&one.path)?,
        method: one.method.clone(),
        headers: values(&one.headers)?,
        query: values(&one.query)?,
        rewrite: None,
        backends: Vec::new(),
        timeout: None,
        age: Default::default(),
    })
}

/// The whole text has to match, as in Envoy. Its size is bounded, so that a route cannot take a
/// gateway's memory.
fn whole(text: &str) -> Option<Regex> {
    regex::RegexBuilder::new(&format!("^(?:{text})$")).size_limit(REGEX_BYTES).build().ok()
}

/// The most that a compiled regular expression takes.
const REGEX_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn services(names: &[&str]) -> BTreeSet<ServiceName> {
        let name = |name: &&str| ServiceName { namespace: "n".into(), name: (*name).into() };
        names.iter().map(name).collect()
    }

    fn rule(path: PathMatch, service: &str) -> Entry {
        let one = RouteMatch { path, ..RouteMatch::default() };
        let backends = vec![(services(&[service]), 1)];
        Entry { backends, ..entry(&one).expect("a match") }
    }

    fn prefix(text: &str) -> PathMatch {
        PathMatch::Prefix(text.into())
    }

    fn ask<'a>(path: &'a str, host: &'a str, draw: &'a dyn Fn() -> u64) -> Asked<'a> {
        let header = &|name: &str| (name == "x-team").then_some("red");
        Asked { host, path, query: "a=1&b=2", method: "POST", header, draw }
    }

    fn goes(routes: &Routes, asked: &Asked<'_>) -> String {
        match routes.route(asked) {
            Routed::Plain => "plain".into(),
            Routed::Nowhere => "nowhere".into(),
            Routed::To { path, scope, .. } => {
                let names: Vec<&str> = scope.0.iter().map(|one| one.name.as_str()).collect();
                format!("{} {path}", names.join(","))
            }
        }
    }

    #[test]
    fn the_most_specific_counts() {
        let mut by_host = rule(prefix("/"), "host");
        by_host.host = Some(Host::new("*.example.com"));
        let mut by_header = rule(prefix("/v1"), "header");
        by_header.headers =
            values(&[ValueMatch { name: "x-team".into(), value: "red|blue".into(), regex: true }])
                .expect("values");
        let routes = Routes::new(vec![
            rule(prefix("/"), "all"),
            rule(prefix("/v1"), "v1"),
            by_header,
            rule(PathMatch::Exact("/v1/models".into()), "exact"),
            rule(PathMatch::Regex("/r[0-9]+".into()), "regex"),
            by_host,
        ]);
        let at = |path, host| goes(&routes, &ask(path, host, &|| 0));
        assert_eq!(at("/v1/models", "h"), "exact /v1/models");
        assert_eq!(at("/v1/chat", "h"), "header /v1/chat");
        assert_eq!(at("/v1x", "h"), "all /v1x", "element by element");
        assert_eq!(at("/r12", "h"), "regex /r12");
        assert_eq!(at("/r12x", "h"), "all /r12x", "the whole path");
        assert_eq!(at("/v1/models", "a.Example.com"), "host /v1/models");
        assert_eq!(at("/v1/models", "example.com"), "exact /v1/models");
    }

    #[test]
    fn paths_are_rewritten_as_the_gateway_api_says() {
        let cases = [
            ("/n/s", "/", "/n/s/v1/chat", "/v1/chat"),
            ("/n/s", "/", "/n/s", "/"),
            ("/n/s/", "/x", "/n/s/v1", "/x/v1"),
            ("/n/s", "/x/", "/n/s/", "/x/"),
            ("/", "/x", "/v1", "/x/v1"),
        ];
        for (from, to, path, wanted) in cases {
            let mut entry = rule(prefix(from), "s");
            entry.rewrite = Some(PathRewrite::Prefix(to.into()));
            assert_eq!(entry.rewritten(path), wanted, "{from} to {to}");
        }
        let mut entry = rule(prefix("/a"), "s");
        entry.rewrite = Some(PathRewrite::Full("/v1/models".into()));
        assert_eq!(entry.rewritten("/a/b"), "/v1/models");
    }

    #[test]
    fn shares_and_what_is_not_there() {
        let mut split = rule(prefix("/a"), "s");
        split.backends = vec![(services(&["old"]), 9), (services(&["new"]), 1)];
        let mut none = rule(prefix("/b"), "s");
        none.backends = vec![(services(&[]), 1)];
        let routes = Routes::new(vec![split, none]);
        let new = (0..1000).filter(|draw| goes(&routes, &ask("/a", "h", &|| *draw)) == "new /a");
        assert_eq!(new.count(), 100);
        assert_eq!(goes(&routes, &ask("/b", "h", &|| 0)), "nowhere");
        assert_eq!(goes(&routes, &ask("/c", "h", &|| 0)), "plain");
    }
}
