//! Which layers a pipeline stage has: consecutive ones, so that the dearest stage is as cheap as
//! possible.
//!
//! A stage's cost is the weights that a decode step reads there, because reading them is what
//! decode is bound by; of experts all of them, which a batch of some size reads. So the head counts
//! in full (with a large vocabulary it weighs as much as several layers) and the embedding counts
//! as the one row that is read of it.

use std::ops::Range;

use troupe_runtime::model::config::ModelConfig;

use crate::error::DeviceError;

/// What each part of a model costs in a decode step, in weights read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartCosts {
    /// At the first stage.
    pub embedding: u64,
    /// One per layer.
    pub layers: Vec<u64>,
    /// At the last stage.
    pub head: u64,
}

impl PartCosts {
    /// The costs of a decoder's parts.
    pub fn of(config: &ModelConfig) -> Self {
        let hidden = config.hidden_size as u64;
        let attention = config.attention_elements() as u64;
        let feed_forward = |layer| config.feed_forward_elements(layer).0 as u64;
        Self {
            embedding: hidden,
            layers: (0..config.num_layers).map(|layer| attention + feed_forward(layer)).collect(),
            head: match config.encoder {
                Some(_) => 0,
                None => hidden * config.vocab_size as u64,
            },
        }
    }
}

/// The layers of each of `stages` stages, in order; each has at least one. Among divisions with the
/// same dearest stage the more even one is taken, so every member computes the same division.
///
/// # Errors
/// [`DeviceError::Unsupported`] if there are more stages than layers.
pub fn split(costs: &PartCosts, stages: usize) -> Result<Vec<Range<usize>>, DeviceError> {
    let layers = costs.layers.len();
    if stages == 0 || stages > layers {
        return Err(DeviceError::Unsupported(format!(
            "a pipeline-parallel size of {stages}: the model has {layers} layers, so 1 to {layers} \
             work"
        )));
    }
    let mut before = vec![0_u128];
    before.extend(costs.layers.iter().scan(0, |sum, &cost| {
        *sum += u128::from(cost);
        Some(*sum)
    }));
    let stage_cost = |stage: usize, run: Range<usize>| {
        let embedding = if stage == 0 { costs.embedding } else { 0 };
        let head = if stage + 1 == stages { costs.head } else { 0 };
        before[run.end] - before[run.start] + u128::from(embedding) + u128::from(head)
    };
    // best[stage][end]: over the layers before `end` on stages up to `stage`, the dearest stage's
    // cost, then the sum of squares, then where the stage starts.
    let mut best: Vec<Vec<Option<Division>>> = Vec::with_capacity(stages);
    for stage in 0..stages {
        let mut row = vec![None; layers + 1];
        for (end, slot) in row.iter_mut().enumerate().skip(stage + 1) {
            let starts = if stage == 0 { 0..1 } else { stage..end };
            *slot = starts
                .filter_map(|start| {
                    let (dearest, squares) = match stage {
                        0 => (0, 0),
                        _ => best[stage - 1][start].map(|d: Division| (d.dearest, d.squares))?,
                    };
                    let cost = stage_cost(stage, start..end);
                    let squares = cost.saturating_mul(cost).saturating_add(squares);
                    Some(Division { dearest: dearest.max(cost), squares, start })
                })
                .min();
        }
        best.push(row);
    }
    let mut runs = Vec::with_capacity(stages);
    let mut end = layers;
    for row in best.iter().rev() {
        let start = row[end].map_or(0, |division| division.start);
        runs.push(start..end);
        end = start;
    }
    runs.reverse();
    Ok(runs)
}

/// A division of the first layers, ordered by how good it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Division {
    dearest: u128,
    squares: u128,
    start: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(layers: &[u64], head: u64, stages: usize) -> Vec<usize> {
        let costs = PartCosts { embedding: 1, layers: layers.to_vec(), head };
        let runs = split(&costs, stages).unwrap();
        assert_eq!(runs[0].start, 0);
        assert_eq!(runs[stages - 1].end, layers.len());
        assert!(runs.windows(2).all(|pair| pair[0].end == pair[1].start));
        runs.into_iter().map(|run| run.len()).collect()
    }

    #[test]
    fn layers_are_shared_out_by_cost() {
        assert_eq!(sizes(&[100; 8], 0, 1), [8]);
        assert_eq!(sizes(&[100; 8], 0, 4), [2, 2, 2, 2]);
        assert_eq!(sizes(&[100; 5], 50, 4).iter().sum::<usize>(), 5);
        assert_eq!(sizes(&[100; 5], 50, 4)[3], 1);
        // A head as dear as three layers leaves the last stage fewer of them.
        assert_eq!(sizes(&[100; 9], 300, 2), [6, 3]);
        assert_eq!(sizes(&[100; 3], 1000, 3), [1, 1, 1]);
        assert_eq!(sizes(&[500, 100, 100, 100, 100, 100], 0, 2), [1, 5]);
    }

    #[test]
    fn equal_layers_differ_by_one_at_most() {
        for layers in 1..40 {
            for stages in 1..=layers {
                let sizes = sizes(&vec![1_000_000; layers], 0, stages);
                let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
                assert!(most - least <= 1, "{layers} layers: {sizes:?}");
            }
        }
    }

    #[test]
    fn more_stages_than_layers_are_refused_with_what_works() {
        let costs = PartCosts { embedding: 1, layers: vec![1; 5], head: 1 };
        let error = split(&costs, 6).unwrap_err().to_string();
        assert!(error.contains("5 layers") && error.contains("1 to 5"), "{error}");
        assert!(split(&costs, 0).is_err());
    }
}
