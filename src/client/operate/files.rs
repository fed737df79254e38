//! Documents from files, folders and standard input, read and checked before anything is sent:
//! everything that is wrong in any of them is said at once.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;
use troupe_runtime::{
    error::chain,
    spec::{Kind, SpecError, objects},
};

use crate::cli::Failure;

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    /// As they were written.
    pub(crate) documents: Vec<Document>,
    /// What has no effect in them, with the file's name.
    pub(crate) warnings: Vec<String>,
}

/// One document.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// Its kind.
    pub(crate) kind: Kind,
    /// Its name.
    pub(crate) name: String,
    /// Its namespace.
    pub(crate) namespace: String,
    /// As it was written, with its namespace.
    pub(crate) document: Value,
}

/// Reads all files; those of folders by their ends, and below them if `recursive`.
pub(crate) fn read(
    paths: &[PathBuf],
    recursive: bool,
    namespace: &Namespace,
) -> Result<Documents, Failure> {
    let mut read = Documents::default();
    let mut problems = Vec::new();
    for path in paths {
        for file in files(path, recursive)? {
            let (name, text) = contents(&file)?;
            match objects::parse(&text) {
                Ok(found) => {
                    let warnings = found.warnings.iter();
                    read.warnings.extend(warnings.map(|warning| format!("{name}: {warning}")));
                    for object in found.objects {
                        match namespace.enter(&object) {
                            Ok(document) => read.documents.push(document),
                            Err(problem) => problems.push(format!("{name}: {problem}")),
                        }
                    }
                }
                Err(SpecError::Invalid(findings)) => {
                    problems.extend(findings.iter().map(|finding| format!("{name}: {finding}")));
                }
                Err(error) => problems.push(format!("{name}: {}", chain(&error))),
            }
        }
    }
    match problems.as_slice() {
        [] => Ok(read),
        [problem] => Err(Failure::told(format!("error: {problem}"))),
        problems => Err(Failure::told(format!(
            "error: {} problems, nothing was sent:\n  {}",
            problems.len(),
            problems.join("\n  ")
        ))),
    }
}

/// Which namespace documents are in.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    /// That of documents that name none.
    pub(crate) default: String,
    /// Whether it was asked for: then no document may name another.
    pub(crate) asked: bool,
}

impl Namespace {
    fn enter(&self, object: &objects::Object) -> Result<Document, String> {
        let mut document = object.document().clone();
        let name = object.metadata().name.clone();
        let own = document.pointer("/metadata/namespace").and_then(Value::as_str);
        if let Some(own) = own.filter(|own| self.asked && *own != self.default) {
            return Err(format!(
                "the namespace from the provided object \"{own}\" does not match the namespace \
                 \"{}\". You must pass '--namespace={own}' to perform this operation.",
                self.default
            ));
        }
        let namespace = own.unwrap_or(&self.default).to_owned();
        document["metadata"]["namespace"] = namespace.clone().into();
        Ok(Document { kind: object.kind(), name, namespace, document })
    }
}

fn files(path: &Path, recursive: bool) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    walk(path, recursive, &mut found)
        .map_err(|error| Failure::told(format!("error: {}: {error}", path.display())))?;
    if found.is_empty() {
        let ends = ENDS.join(", .");
        let hint = if recursive { "" } else { "; -R looks below it" };
        return Err(Failure::told(format!(
            "error: {} holds no file that ends in .{ends}{hint}",
            path.display()
        )));
    }
    found.sort();
    Ok(found)
}

fn walk(folder: &Path, recursive: bool, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        // A link to a folder is no folder here, so there are no circles.
        if entry.file_type()?.is_dir() {
            if recursive {
                walk(&path, recursive, found)?;
            }
        } else if path.extension().is_some_and(|end| ENDS.iter().any(|known| end == *known)) {
            found.push(path);
        }
    }
    Ok(())
}

/// What a file is called, and what is in it.
fn contents(path: &Path) -> Result<(String, String), Failure> {
    let name = path.display().to_string();
    if name == "-" {
        let mut text = String::new();
        let read = std::io::stdin().lock().read_to_string(&mut text);
        return match read {
            Ok(_) => Ok(("standard input".into(), text)),
            Err(error) => Err(Failure::told(format!("error: standard input: {error}"))),
        };
    }
    match fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Failure::told(format!("error: the path \"{name}\" does not exist")))
        }
        Err(error) => Err(Failure::told(format!("error: {name}: {error}"))),
    }
}

/// How files with documents end.
const ENDS: [&str; 3] = ["yaml", "yml", "json"];

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: serving.kserve.io/v1alpha1\nkind: LLMInferenceService\n\
                        metadata: {name: a}\nspec: {model: {uri: file:///m}}\n";

    fn namespace(default: &str, asked: bool) -> Namespace {
        Namespace { default: default.into(), asked }
    }

    fn message(read: Result<Documents, Failure>) -> String {
        read.expect_err("something is wrong").message()
    }

    #[test]
    fn folders_are_read_in_order_and_below_only_if_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        let below = folder.path().join("below");
        fs::create_dir(&below).expect("a folder");
        fs::write(folder.path().join("b.yaml"), GOOD.replace("name: a", "name: b"))
            .expect("written");
        fs::write(folder.path().join("a.json"), GOOD).expect("written");
        fs::write(folder.path().join("notes.txt"), "no document").expect("written");
        fs::write(below.join("c.yml"), GOOD.replace("name: a", "name: c")).expect("written");
        let names = |recursive| {
            let paths = [folder.path().to_owned()];
            let read = read(&paths, recursive, &namespace("prod", false)).expect("documents");
            let names = read.documents.into_iter();
            names.map(|document| format!("{}/{}", document.namespace, document.name)).collect()
        };
        let flat: Vec<String> = names(false);
        assert_eq!(flat, ["prod/a", "prod/b"]);
        let deep: Vec<String> = names(true);
        assert_eq!(deep, ["prod/a", "prod/b", "prod/c"]);
    }

    #[test]
    fn everything_that_is_wrong_in_any_file_is_said_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let bad = GOOD.replace("{uri: file:///m}", "{}");
        let pair = format!("{bad}---\n{}", bad.replace("spec:", "spec: {replicas: -1}\nspecs:"));
        fs::write(folder.path().join("a.yaml"), pair).expect("written");
        fs::write(folder.path().join("b.yaml"), "kind: Pod\n").expect("written");
        let read = read(&[folder.path().to_owned()], false, &namespace("default", false));
        let message = message(read);
        for part in ["a.yaml: document 1: spec.model.uri", "a.yaml: document 2:", "b.yaml: kind"] {
            assert!(message.contains(part), "{part} is not in\n{message}");
        }
    }

    #[test]
    fn a_namespace_that_was_asked_for_is_the_only_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.yaml");
        fs::write(&file, GOOD.replace("{name: a}", "{name: a, namespace: x}")).expect("written");
        let read = |asked| read(std::slice::from_ref(&file), false, &namespace("y", asked));
        assert_eq!(read(false).expect("read").documents[0].namespace, "x");
        let other = message(read(true));
        assert!(other.contains("You must pass '--namespace=x'"), "{other}");
        let none = super::read(&["no/such/file".into()], false, &namespace("y", false));
        assert!(message(none).contains("the path \"no/such/file\" does not exist"));
    }
}
