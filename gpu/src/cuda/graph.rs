//! Which steps are captured as CUDA graphs, and when.
//!
//! A decode step of a small model is hundreds of launches of a few microseconds each; a graph
//! launches them at once. A graph is of one shape ([`Shape`]): steps of that shape have the same
//! launches with the same arguments, because a step's numbers lie at places that follow from its
//! shape. The first step of a shape runs launch by launch, which makes whatever is made when it is
//! first needed; the second is captured; from the third on the graph is launched. So start stays
//! fast, and only shapes that come again cost memory.
//!
//! When working memory has moved since, all graphs are of no use, and begin anew.

use std::collections::BTreeMap;

use super::{
    device::CudaDevice,
    driver::{Driver, Fault, Graph},
    step::Shape,
};
use crate::error::DeviceError;

/// The graphs of a device.
#[derive(Debug, Default)]
pub struct Graphs {
    shapes: BTreeMap<Shape, State>,
    /// Where working memory was when they were captured.
    generation: u64,
    /// Counts turns, for what was not used for longest.
    clock: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It ran launch by launch.
    Ran,
    /// It was captured, and last launched then.
    Captured(Graph, u64),
    /// It cannot be captured.
    Refused,
}

/// What to do with a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Launch by launch, and capture.
    Capture,
    /// Launch by launch.
    Eager,
    /// By this graph.
    Replay(Graph),
}

impl Graphs {
    /// What to do with a step of this shape, where working memory is as `generation` says; and
    /// graphs that are of no use any more.
    pub fn turn(&mut self, shape: Shape, generation: u64) -> (Turn, Vec<Graph>) {
        let mut useless = Vec::new();
        if generation != self.generation {
            useless = self.clear();
            self.generation = generation;
        }
        if !shape.is_decode() || shape.rows == 0 {
            return (Turn::Eager, useless);
        }
        self.clock += 1;
        let clock = self.clock;
        let turn = match self.shapes.get_mut(&shape) {
            None => {
                useless.extend(self.make_room());
                self.shapes.insert(shape, State::Ran);
                Turn::Eager
            }
            Some(State::Ran) => Turn::Capture,
            Some(State::Refused) => Turn::Eager,
            Some(State::Captured(graph, used)) => {
                *used = clock;
                Turn::Replay(*graph)
            }
        };
        (turn, useless)
    }

    /// What came of capturing a step; `None` is never tried again.
    pub fn captured(&mut self, shape: Shape, graph: Option<Graph>) {
        let state = graph.map_or(State::Refused, |graph| State::Captured(graph, self.clock));
        self.shapes.insert(shape, state);
    }

    /// Forgets everything, and gives the graphs to be freed.
    pub fn clear(&mut self) -> Vec<Graph> {
        let shapes = std::mem::take(&mut self.shapes);
        shapes.into_values().filter_map(State::graph).collect()
    }

    /// Forgets the graph that was not used for longest if there are as many as there may be.
    fn make_room(&mut self) -> Option<Graph> {
        if self.shapes.len() < MOST_SHAPES {
            return None;
        }
        let used = |state: &State| match state {
            State::Captured(_, used) => *used,
            State::Ran | State::Refused => 0,
        };
        let oldest =
            self.shapes.iter().min_by_key(|(_, state)| used(state)).map(|(shape, _)| *shape)?;
        self.shapes.remove(&oldest).and_then(State::graph)
    }
}

impl State {
    fn graph(self) -> Option<Graph> {
        match self {
            Self::Captured(graph, _) => Some(graph),
            Self::Ran | Self::Refused => None,
        }
    }
}

impl<D: Driver> CudaDevice<D> {
    /// Begins a step's layers: launches them as they were captured and says `false`, or has them
    /// called.
    pub(super) fn begin_captured(&mut self) -> Result<bool, DeviceError> {
        if !self.options.graphs {
            return Ok(true);
        }
        let shape = self.step.shape;
        let (turn, useless) = self.graphs.turn(shape, self.generation());
        useless.into_iter().for_each(|graph| self.driver.free_graph(graph));
        match turn {
            Turn::Eager => Ok(true),
            Turn::Capture => {
                self.driver.begin_capture()?;
                self.capturing = Some(shape);
                Ok(true)
            }
            Turn::Replay(graph) => {
                self.driver.launch_graph(graph)?;
                Ok(false)
            }
        }
    }

    /// Ends a step's layers: what was captured is launched. `false` if it cannot be captured:
    /// nothing of it has run then, and it never is again.
    pub(super) fn end_captured(&mut self) -> Result<bool, DeviceError> {
        let Some(shape) = self.capturing.take() else { return Ok(true) };
        match self.driver.end_capture() {
            Ok(graph) => {
                self.graphs.captured(shape, Some(graph));
                self.driver.launch_graph(graph)?;
                Ok(true)
            }
            Err(error) if matches!(error.fault, Fault::Other | Fault::OutOfMemory) => {
                self.graphs.captured(shape, None);
                tracing::warn!(%error, rows = shape.rows, "steps of this size go without a graph");
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Twice the sizes of the ladder: of each, two widths of block tables.
const MOST_SHAPES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(rows: usize) -> Shape {
        Shape { rows, sequences: rows, decode: rows, prefill: 0, width: 16, groups: 1 }
    }

    #[test]
    fn a_shape_runs_then_is_captured_then_is_launched() {
        let mut graphs = Graphs::default();
        assert_eq!(graphs.turn(shape(8), 1), (Turn::Eager, vec![]));
        assert_eq!(graphs.turn(shape(8), 1), (Turn::Capture, vec![]));
        graphs.captured(shape(8), Some(Graph(7)));
        for _ in 0..3 {
            assert_eq!(graphs.turn(shape(8), 1), (Turn::Replay(Graph(7)), vec![]));
        }
        assert_eq!(graphs.turn(shape(16), 1), (Turn::Eager, vec![]), "another shape");
        let prompt = Shape { prefill: 2, ..shape(8) };
        for _ in 0..3 {
            assert_eq!(graphs.turn(prompt, 1), (Turn::Eager, vec![]));
        }
        assert_eq!(graphs.clear(), [Graph(7)]);
    }

    #[test]
    fn moved_memory_begins_anew() {
        let mut graphs = Graphs::default();
        graphs.turn(shape(8), 1);
        graphs.captured(shape(8), Some(Graph(7)));
        assert_eq!(graphs.turn(shape(8), 2), (Turn::Eager, vec![Graph(7)]));
        assert_eq!(graphs.turn(shape(8), 2), (Turn::Capture, vec![]));
    }

    #[test]
    fn what_cannot_be_captured_is_not_tried_again() {
        let mut graphs = Graphs::default();
        graphs.turn(shape(8), 1);
        graphs.turn(shape(8), 1);
        graphs.captured(shape(8), None);
        assert_eq!(graphs.turn(shape(8), 1), (Turn::Eager, vec![]));
    }

    #[test]
    fn the_graph_that_is_not_used_makes_room() {
        let mut graphs = Graphs::default();
        for rows in 1..=MOST_SHAPES {
            graphs.turn(shape(rows), 1);
            graphs.captured(shape(rows), Some(Graph(rows as u64)));
        }
        graphs.turn(shape(1), 1);
        assert_eq!(graphs.turn(shape(MOST_SHAPES + 1), 1), (Turn::Eager, vec![Graph(2)]));
        assert_eq!(graphs.turn(shape(1), 1), (Turn::Replay(Graph(1)), vec![]));
    }
}
