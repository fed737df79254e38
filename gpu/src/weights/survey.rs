//! What does not fit between a checkpoint and its config, all of it at once: tensors that are
//! missing, have another shape, or belong to layers that have no use for them. A renamed tensor is
//! one that is missing and one without use; a bias without use would be a model that answers
//! fluently and wrongly.

use std::{collections::BTreeSet, path::PathBuf};

use super::checkpoint::Checkpoint;
use crate::{error::DeviceError, tensor::DenseMatrix};

/// What a reader has asked for, and what was wrong with it.
#[derive(Debug, Default)]
pub(super) struct Survey {
    asked: BTreeSet<String>,
    wrong: Vec<(PathBuf, String)>,
}

impl Survey {
    /// Notes what came of asking for a tensor. Gives it, or the error if the survey is at an end,
    /// or nothing if it is to go on without.
    pub(super) fn note<'a>(
        &mut self,
        name: String,
        found: Result<DenseMatrix<'a>, DeviceError>,
    ) -> Option<Result<DenseMatrix<'a>, DeviceError>> {
        self.asked.insert(name);
        match found {
            Err(DeviceError::Weights { path, why }) if self.wrong.len() < LISTED => {
                self.wrong.push((path, why));
                None
            }
            found => Some(found),
        }
    }

    /// Everything that is wrong, as one error.
    pub(super) fn verdict(
        mut self,
        checkpoint: &Checkpoint,
        (prefix, layers): (&str, usize),
    ) -> Result<(), DeviceError> {
        let of_layer = |name: &&str| {
            let rest = name.strip_prefix(prefix);
            let rest = rest.and_then(|rest| LAYERS.iter().find_map(|of| rest.strip_prefix(of)));
            let number = rest.and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            // Tables that were computed and stored are no weights.
            number.is_some_and(|layer| layer < layers)
                && [".weight", ".bias"].iter().any(|end| name.ends_with(end))
        };
        // A survey that ended before its end does not know what has no use.
        let is_whole = self.wrong.len() < LISTED;
        for name in checkpoint.names().filter(of_layer) {
            if is_whole && !self.asked.contains(name) {
                let why = format!("tensor `{name}` has no use in a model of this config");
                self.wrong.push((checkpoint.folder().to_owned(), why));
            }
        }
        let count = self.wrong.len();
        let Some((path, why)) = self.wrong.first().cloned() else { return Ok(()) };
        if count == 1 {
            return Err(DeviceError::Weights { path, why });
        }
        let listed: Vec<_> = self.wrong.iter().take(LISTED).map(|(_, why)| why.as_str()).collect();
        let or_more = if is_whole { "" } else { " or more" };
        let why = format!("{count}{or_more} tensors do not fit: {}", listed.join("; "));
        Err(DeviceError::Weights { path: checkpoint.folder().to_owned(), why })
    }
}

/// What names of layers begin with, those of decoders and of encoders.
const LAYERS: [&str; 2] = ["layers.", "encoder.layer."];
/// What is listed at most: enough to see what is renamed, little enough to be read.
const LISTED: usize = 40;
