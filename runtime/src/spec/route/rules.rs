//! The rules of a route.

use super::{
    Backend, BackendKind, Duration, Fields, MAX_WEIGHT, PathMatch, PathRewrite, Rewrite,
    RouteMatch, RouteRule, ValueMatch, duration,
};

pub(super) fn rule(fields: &Fields<'_>) -> RouteRule {
    let _ = fields.text("name");
    let matches: Vec<RouteMatch> = fields.objects("matches").iter().map(route_match).collect();
    let mut rewrite = None;
    for filter in fields.objects("filters") {
        rewrite = read_filter(&filter, &matches).or(rewrite);
    }
    let backends = fields.objects("backendRefs");
    fields.without_effect(&["retry", "sessionPersistence"], ": gateways try again by themselves");
    RouteRule {
        matches,
        rewrite,
        backends: backends.iter().filter_map(backend).collect(),
        timeout: fields.object("timeouts").and_then(|timeouts| timeout(&timeouts)),
    }
}

fn timeout(timeouts: &Fields<'_>) -> Option<Duration> {
    timeouts.without_effect(&["backendRequest"], ": a request has one deadline, `request`");
    let text = timeouts.text("request")?;
    let read = duration(text);
    if read.is_none() && !timeouts.findings().is_template(text) {
        timeouts.problem("request", format!("must be a duration as 30s, got {text}"));
    }
    read.filter(|timeout| !timeout.is_zero())
}

fn route_match(fields: &Fields<'_>) -> RouteMatch {
    let values = |key| fields.objects(key).iter().filter_map(value_match).collect();
    RouteMatch {
        path: fields.object("path").and_then(|path| path_match(&path)).unwrap_or_default(),
        headers: values("headers"),
        query: values("queryParams"),
        method: fields.text("method").map(str::to_owned),
    }
}

fn path_match(fields: &Fields<'_>) -> Option<PathMatch> {
    type Make = fn(String) -> PathMatch;
    let kinds: [(&str, Make); 3] = [
        ("PathPrefix", PathMatch::Prefix),
        ("Exact", PathMatch::Exact),
        ("RegularExpression", PathMatch::Regex),
    ];
    let kind = match fields.value("type") {
        Some(_) => fields.one_of("type", &kinds)?,
        None => PathMatch::Prefix,
    };
    let text = fields.text("value").unwrap_or("/").trim();
    let path = kind(text.to_owned());
    let is_regex = matches!(path, PathMatch::Regex(_));
    if !is_regex && (!text.starts_with('/') || text.contains("//")) {
        let message = format!("must begin with / and have no // in it, got {text}");
        if !fields.findings().is_template(text) {
            fields.problem("value", message);
        }
    }
    Some(path)
}

fn value_match(fields: &Fields<'_>) -> Option<ValueMatch> {
    let regex = fields.one_of("type", &[("Exact", false), ("RegularExpression", true)]);
    let name = fields.required_text("name");
    let value = fields.required_text("value");
    Some(ValueMatch {
        name: name?.to_owned(),
        value: value?.to_owned(),
        regex: regex.unwrap_or(false),
    })
}

fn read_filter(fields: &Fields<'_>, matches: &[RouteMatch]) -> Option<Rewrite> {
    match fields.required_text("type")? {
        "URLRewrite" => {}
        other => {
            fields.warn("type", format!("{other} has no effect, only URLRewrite has"));
            let known = [
                "requestHeaderModifier",
                "responseHeaderModifier",
                "requestMirror",
                "requestRedirect",
                "cors",
                "extensionRef",
            ];
            for theirs in known {
                let _ = fields.value(theirs);
            }
            return None;
        }
    }
    let rewrite = fields.object("urlRewrite")?;
    let path = rewrite.object("path").and_then(|path| {
        let prefix =
            path.one_of("type", &[("ReplacePrefixMatch", true), ("ReplaceFullPath", false)]);
        let (full, part) = (path.text("replaceFullPath"), path.text("replacePrefixMatch"));
        let (key, text) = match prefix? {
            true => ("replacePrefixMatch", part),
            false => ("replaceFullPath", full),
        };
        if text.is_none() {
            path.problem(key, "is required");
        }
        let is_prefix = |one: &RouteMatch| matches!(one.path, PathMatch::Prefix(_));
        if prefix? && !matches.iter().all(is_prefix) {
            path.problem(key, "needs matches of type PathPrefix only");
        }
        let text = text?.to_owned();
        Some(if prefix? { PathRewrite::Prefix(text) } else { PathRewrite::Full(text) })
    });
    Some(Rewrite { hostname: rewrite.text("hostname").map(str::to_owned), path })
}

fn backend(fields: &Fields<'_>) -> Option<Backend> {
    let (group, kind) = (fields.text("group").unwrap_or(""), fields.text("kind"));
    let kind = match (group, kind.unwrap_or("Service")) {
        ("inference.networking.k8s.io" | "inference.networking.x-k8s.io", "InferencePool") => {
            BackendKind::InferencePool
        }
        ("serving.kserve.io", "LLMInferenceService") => BackendKind::LlmInferenceService,
        (group, kind) => {
            let right = "only an InferencePool of inference.networking.k8s.io or an \
                         LLMInferenceService of serving.kserve.io can be reached";
            let what = if group.is_empty() { kind.to_owned() } else { format!("{group}/{kind}") };
            fields.warn("kind", format!("{what} has no effect: {right}"));
            BackendKind::Other
        }
    };
    fields.without_effect(&["filters"], ": filters belong to the rule");
    let _ = fields.value("port");
    let weight = fields.count_within("weight", (0, MAX_WEIGHT)).unwrap_or(1);
    let namespace = fields.text("namespace").map(str::to_owned);
    Some(Backend { kind, namespace, name: fields.required_text("name")?.trim().to_owned(), weight })
}
