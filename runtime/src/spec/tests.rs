//! Specifications as readable scripts: `scripts/*.txt`, each case a title, documents, `----` and
//! what comes of them.
//!
//! `UPDATE=1` writes what comes of the documents into the files; the difference is for a person to
//! judge. A title is `== verb | what it shows`:
//!
//! | verb | does |
//! |---|---|
//! | `parse` | reads the file: objects and warnings, or every error |
//! | `resolve` | reads the file and resolves its services with its configurations |
//! | `merge` | lays the documents, which are bare specifications, over each other |
//! | `update` | reads two sets of one name, of which the second replaces the first |

mod describe;
mod fuzz;

use std::{fmt::Write as _, path::Path};

use serde_json::{Value, json};

use super::{objects::Object, *};
use describe::describe;

#[test]
#[expect(clippy::disallowed_methods, reason = "whoever runs it says whether to write the files")]
fn scripts_say_what_comes_of_documents() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/spec/scripts");
    let mut cases = 0;
    for entry in std::fs::read_dir(folder).expect("the folder of scripts") {
        let path = entry.expect("a script").path();
        let text = std::fs::read_to_string(&path).expect("it can be read");
        assert!(text.starts_with("# "), "{}: says first what it shows", path.display());
        let now = play(&text, &mut cases);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &now).expect("it can be written");
        } else {
            let differs = text.lines().zip(now.lines()).find(|(was, is)| was != is);
            assert_eq!(text, now, "{}: {differs:?}; UPDATE=1 writes it", path.display());
        }
    }
    assert!(cases >= 100, "{cases} cases");
}

/// The text again, with what comes of each case now.
fn play(text: &str, cases: &mut usize) -> String {
    let (opening, rest) = text.split_once("\n== ").expect("a case");
    let mut now = format!("{}\n", opening.trim_end());
    for case in rest.split("\n== ") {
        let (title, rest) = case.split_once('\n').expect("documents below the title");
        let documents = rest.split("\n----\n").next().unwrap_or_default().trim_matches('\n');
        let (verb, _) = title.split_once(" | ").expect("a verb and what it shows");
        let outcome = run(verb, documents);
        let _ = write!(now, "\n== {title}\n{documents}\n----\n{}\n", outcome.trim_end());
        *cases += 1;
    }
    now
}

fn run(verb: &str, documents: &str) -> String {
    match verb {
        "parse" => match objects::parse(documents) {
            Ok(Objects { objects, warnings }) => {
                let objects: String = objects.iter().map(|one| describe(one) + "\n").collect();
                objects + &told("warning", &warnings)
            }
            Err(error) => failed(error),
        },
        "resolve" => resolve_all(documents),
        "merge" => {
            let mut merged = json!({});
            for document in document::read(documents).expect("bare specifications") {
                resolve::merge::merge(&mut merged, &document);
            }
            yaml(&merged)
        }
        "update" => update(documents),
        other => panic!("`{other}` is no verb"),
    }
}

fn failed(error: SpecError) -> String {
    match error {
        SpecError::Invalid(problems) | SpecError::ConfigNotFound(problems) => {
            told("error", &problems)
        }
        SpecError::Document(error) => format!("error: {}", crate::error::chain(&error)),
    }
}

fn told(word: &str, findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("{word}: {finding}\n")).collect()
}

fn resolve_all(documents: &str) -> String {
    let Objects { objects, .. } = match objects::parse(documents) {
        Ok(objects) => objects,
        Err(error) => return failed(error),
    };
    let lookup = |namespace: &str, name: &str| {
        objects.iter().find_map(|object| match object {
            Object::Config(config)
                if config.metadata.namespace == namespace && config.metadata.name == name =>
            {
                Some(config.clone())
            }
            _ => None,
        })
    };
    let mut text = String::new();
    for object in &objects {
        let Object::Service(service) = object else { continue };
        match resolve(service, lookup) {
            Ok(Resolved { spec, applied, warnings }) => {
                for AppliedConfig { name, namespace, source } in applied {
                    let _ = writeln!(text, "{source:?} {namespace}/{name}");
                }
                text.push_str(&yaml(&spec.document["spec"]));
                text.push_str(&told("warning", &warnings));
            }
            Err(error) => text.push_str(&failed(error)),
        }
    }
    text
}

fn update(documents: &str) -> String {
    let mut sets = Vec::new();
    for document in document::read(documents).expect("two sets") {
        match LeaderWorkerSet::from_document(document) {
            Ok((set, _)) => sets.push(set),
            Err(error) => return failed(error),
        }
    }
    let [old, new] = sets.as_slice() else { panic!("two sets") };
    let problems = new.check_update(old);
    match problems.is_empty() {
        true => describe(&Object::LeaderWorkerSet(new.clone())),
        false => told("error", &problems),
    }
}

fn yaml(value: &Value) -> String {
    serde_norway::to_string(value).expect("a value can be written")
}

/// Every example reads without an error, and every kind has one.
#[test]
fn every_example_is_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/specs");
    let mut kinds = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("the folder of examples") {
        let path = entry.expect("an example").path();
        let text = std::fs::read_to_string(&path).expect("it can be read");
        let Objects { objects, warnings } =
            objects::parse(&text).unwrap_or_else(|error| panic!("{}:\n{error}", path.display()));
        assert_eq!(warnings, [], "{}", path.display());
        let configs: Vec<&ServiceConfig> = objects
            .iter()
            .filter_map(|object| match object {
                Object::Config(config) => Some(config),
                _ => None,
            })
            .collect();
        let lookup = |namespace: &str, name: &str| {
            let same = |config: &&&ServiceConfig| {
                config.metadata.namespace == namespace && config.metadata.name == name
            };
            configs.iter().find(same).map(|config| (*config).clone())
        };
        for object in &objects {
            kinds.insert(object.kind());
            if let Object::Service(service) = object {
                let whole = resolve(service, lookup);
                let whole = whole.unwrap_or_else(|error| panic!("{}:\n{error}", path.display()));
                assert_eq!(whole.warnings, [], "{}", path.display());
            }
        }
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), Kind::ALL);
}
