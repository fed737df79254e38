//! `InferenceModel` and `InferenceObjective`: who goes first in a pool, and under which names.

use serde_json::Value;

use super::{
    Finding, SpecError,
    finding::Findings,
    kind::Kind,
    metadata::{self, Metadata},
    reader::Fields,
    service::Criticality,
};

/// A name that requests use, and the models behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct InferenceModel {
    /// As it was written, for storing and showing.
    pub document: Value,
    /// Who and what it is.
    pub metadata: Metadata,
    /// What requests say in `model`.
    pub model_name: String,
    /// What is shed first.
    pub criticality: Option<Criticality>,
    /// Which models are meant, with their shares; none is the one of that name.
    pub targets: Vec<TargetModel>,
    /// Where they are.
    pub pool: PoolRef,
}

/// A share of the requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetModel {
    /// The model's name.
    pub name: String,
    /// Its share, relative to the others.
    pub weight: u32,
}

/// How requests that name it are ranked.
#[derive(Clone, Debug, PartialEq)]
pub struct InferenceObjective {
    /// As it was written, for storing and showing.
    pub document: Value,
    /// Who and what it is.
    pub metadata: Metadata,
    /// Higher goes first; below 0 may be shed.
    pub priority: i32,
    /// Where.
    pub pool: PoolRef,
}

/// The pool of the same namespace that is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolRef {
    /// Its name.
    pub name: String,
}

impl InferenceModel {
    /// Reads one document.
    ///
    /// # Errors
    /// [`SpecError::Invalid`], with every problem.
    pub fn from_document(document: Value) -> Result<(Self, Vec<Finding>), SpecError> {
        let findings = Findings::default();
        let model = read_model(document, &findings);
        findings.result(model)
    }
}

impl InferenceObjective {
    /// Reads one document.
    ///
    /// # Errors
    /// [`SpecError::Invalid`], with every problem.
    pub fn from_document(document: Value) -> Result<(Self, Vec<Finding>), SpecError> {
        let findings = Findings::default();
        let objective = read_objective(document, &findings);
        findings.result(objective)
    }
}

/// `None` only together with a problem.
pub(super) fn read_model(document: Value, findings: &Findings) -> Option<InferenceModel> {
    let mut model = {
        let top = Fields::of(&document, String::new(), findings)?;
        let head = metadata::head(&document, &top, Kind::InferenceModel, findings);
        if top.value("spec").is_none() {
            top.problem("spec", "is required");
        }
        let spec = top.object("spec")?;
        let model_name = spec.required_text("modelName").unwrap_or_default().to_owned();
        let criticality = spec.one_of("criticality", &Criticality::WORDS);
        let targets = read_targets(&spec);
        let pool = pool_ref(&spec);
        let metadata = head?.1;
        InferenceModel { document: Value::Null, metadata, model_name, criticality, targets, pool }
    };
    model.document = document;
    Some(model)
}

/// `None` only together with a problem.
pub(super) fn read_objective(document: Value, findings: &Findings) -> Option<InferenceObjective> {
    let (metadata, priority, pool) = {
        let top = Fields::of(&document, String::new(), findings)?;
        let head = metadata::head(&document, &top, Kind::InferenceObjective, findings);
        if top.value("spec").is_none() {
            top.problem("spec", "is required");
        }
        let spec = top.object("spec")?;
        let priority = spec.integer("priority").unwrap_or_default();
        (head?.1, priority, pool_ref(&spec))
    };
    Some(InferenceObjective { document, metadata, priority, pool })
}

/// The most models behind one name, as the API has it.
const MAX_TARGETS: usize = 10;
/// The largest share of anything that has a weight, as the API has it.
pub(super) const MAX_WEIGHT: u32 = 1_000_000;

fn read_targets(spec: &Fields<'_>) -> Vec<TargetModel> {
    let list = spec.objects("targetModels");
    if list.len() > MAX_TARGETS {
        let message = format!("must be at most {MAX_TARGETS}, are {}", list.len());
        spec.problem("targetModels", message);
    }
    let weighed = list.iter().filter(|target| target.value("weight").is_some()).count();
    if weighed > 0 && weighed < list.len() {
        spec.problem("targetModels", "must all have a weight, or none of them");
    }
    let targets = list.iter().filter_map(|target| {
        let weight = target.count_within("weight", (1, MAX_WEIGHT)).unwrap_or(1);
        let name = target.required_text("name")?.to_owned();
        Some(TargetModel { name, weight })
    });
    targets.collect()
}

fn pool_ref(spec: &Fields<'_>) -> PoolRef {
    if spec.value("poolRef").is_none() {
        spec.problem("poolRef", "is required");
    }
    let Some(fields) = spec.object("poolRef") else {
        return PoolRef::default();
    };
    let groups = [("inference.networking.k8s.io", ()), ("inference.networking.x-k8s.io", ())];
    let _ = fields.one_of("group", &groups);
    let _ = fields.one_of("kind", &[("InferencePool", ())]);
    PoolRef { name: fields.required_text("name").unwrap_or_default().to_owned() }
}
