//! Which objects a command line names: `KIND`, `KIND NAME ...`, `KIND/NAME ...`, `KIND,KIND`.

use troupe_actors::operate::Resource;

/// Objects of one kind: all of them, or one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Which kind.
    pub(crate) resource: Resource,
    /// Which one; none for all.
    pub(crate) name: Option<String>,
}

/// Reads the words of a command line.
///
/// # Errors
/// The word that names nothing, as `kubectl` says it.
pub(crate) fn targets(words: &[String]) -> Result<Vec<Target>, String> {
    let Some(first) = words.first() else {
        return Err(format!("You must specify the type of resource. {}", kinds()));
    };
    if first.contains('/') {
        return words.iter().map(|word| one(word)).collect();
    }
    let resources = first
        .split(',')
        .map(|kind| match kind {
            "all" => Ok(vec![Resource::SERVICE, Resource::Group]),
            kind => resource(kind).map(|resource| vec![resource]),
        })
        .collect::<Result<Vec<_>, _>>()?
        .concat();
    let names = &words[1..];
    if let Some(name) = names.iter().find(|name| name.contains('/')) {
        return Err(format!(
            "there is no need to specify a resource type as a separate argument when passing \
             arguments in resource/name form (e.g. 'troupe get resource/<resource_name>' instead \
             of 'troupe get resource resource/<resource_name>'): {name}"
        ));
    }
    let of_kind = |resource| match names {
        [] => vec![Target { resource, name: None }],
        names => names.iter().map(|name| Target { resource, name: Some(name.clone()) }).collect(),
    };
    Ok(resources.into_iter().flat_map(of_kind).collect())
}

/// One object: `KIND/NAME`.
///
/// # Errors
/// What would be right.
pub(crate) fn one(word: &str) -> Result<Target, String> {
    match word.split_once('/') {
        Some((kind, name)) if !name.is_empty() && !name.contains('/') => {
            Ok(Target { resource: resource(kind)?, name: Some(name.to_owned()) })
        }
        _ => Err(format!("arguments in resource/name form must have one name, got `{word}`")),
    }
}

/// A kind of objects.
fn resource(kind: &str) -> Result<Resource, String> {
    Resource::find(kind)
        .ok_or_else(|| format!("the server doesn't have a resource type \"{kind}\". {}", kinds()))
}

fn kinds() -> String {
    let names: Vec<String> = Resource::all().map(Resource::plural).collect();
    format!("There are {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Vec<String>, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let text = |target: Target| match target.name {
            Some(name) => format!("{}/{name}", target.resource),
            None => target.resource.to_string(),
        };
        Ok(targets(&words)?.into_iter().map(text).collect())
    }

    #[test]
    fn every_form_of_naming_objects_is_taken() {
        assert_eq!(read("llmisvc").expect("a kind"), ["LLMInferenceService"]);
        assert_eq!(read("node n1 n2").expect("names"), ["Node/n1", "Node/n2"]);
        assert_eq!(
            read("llmisvc/a groups/a-0").expect("pairs"),
            ["LLMInferenceService/a", "Group/a-0"]
        );
        assert_eq!(read("no,gw").expect("kinds"), ["Node", "Gateway"]);
        assert_eq!(read("all").expect("all"), ["LLMInferenceService", "Group"]);
    }

    #[test]
    fn what_names_nothing_is_said() {
        let kind = read("pods").expect_err("no kind");
        assert!(kind.contains("\"pods\"") && kind.contains("nodes"), "{kind}");
        for line in ["", "node n1/x", "node/", "node/a/b", "node/n1 n2"] {
            read(line).expect_err(line);
        }
    }
}
