//! A layer of experts on the device: rows choose, are sorted by what they chose, go through grouped
//! products and are added up. The host never learns who chose what.

use super::{
    buffer::CudaBuffer,
    device::CudaDevice,
    driver::{Driver, Region},
    launch::{
        Rows,
        moe::Choices,
        number,
        rows::{self, Gate},
    },
    memory::extent,
    weights::{CudaLinear, CudaVector},
};
use crate::{
    backend::{Activations, Epilogue, ExpertWeights, PreparedLinear},
    cpu::experts::check,
    dtype::Dtype,
    error::DeviceError,
};

type Done = Result<(), DeviceError>;

impl<D: Driver> CudaDevice<D> {
    /// [`crate::backend::Backend::moe`].
    pub(super) fn run_experts(
        &mut self,
        x: &CudaBuffer<D>,
        weights: &ExpertWeights<'_, Self>,
        epilogue: Epilogue,
        out: &mut CudaBuffer<D>,
    ) -> Done {
        check(weights, weights.correction.map(CudaVector::len))?;
        let inner = weights.down.first().map_or(0, PreparedLinear::in_features);
        x.expect_columns(weights.router.in_features())?;
        out.expect_columns(x.columns())?;
        if out.dtype() != Dtype::F32 {
            out.expect_dtype(x.dtype())?;
        }
        let add = epilogue == Epilogue::AddTo;
        if add && out.rows() != x.rows() {
            let why = format!("{} rows added to {}", x.rows(), out.rows());
            return Err(DeviceError::Contract(why));
        }
        let sequence_of = self.sequence_of(x.rows())?;
        let (x, out) = self.pair(x, out)?;
        for first in (0..x.rows).step_by(MOST_ROWS as usize) {
            let rows = MOST_ROWS.min(x.rows - first);
            let own = u64::from(first) * 4;
            let sequence_of =
                Region { address: sequence_of.address.after(own), bytes: u64::from(rows) * 4 };
            let (x, out) = (x.part(first, rows), out.part(first, rows));
            self.some_rows((x, sequence_of), (weights, inner), add, out)?;
        }
        Ok(())
    }

    /// The layer for some rows.
    fn some_rows(
        &mut self,
        (x, sequence_of): (Rows, Region),
        (weights, inner): (&ExpertWeights<'_, Self>, usize),
        add: bool,
        out: Rows,
    ) -> Done {
        let (choices, logits) = self.choices(x.rows, weights)?;
        let experts = weights.router.outputs;
        let logits = Self::rows_at(logits, (x.rows, experts), Dtype::F32);
        self.multiply(x, weights.router, (None, false), logits)?;
        let correction = weights.correction.map(CudaVector::at);
        self.run(choices.choose(logits.at, (weights.routing, experts), correction))?;
        self.run(choices.count(sequence_of))?;
        self.driver.fill(choices.place_of.address, 0xff, choices.place_of.bytes)?;
        self.run(choices.place(sequence_of))?;

        let places = choices.places()?;
        let mut room = |place: usize, columns: usize| {
            let bytes = extent(&[places as usize, columns, x.dtype.size()])?;
            let at = self.scratch.experts[place].reserve(bytes)?;
            Ok::<_, DeviceError>(Self::rows_at(at, (places, number(columns)?), x.dtype))
        };
        let (inputs, gate_up) = (room(0, x.columns as usize)?, room(1, 2 * inner)?);
        let (gated, outputs) = (room(2, inner)?, room(3, x.columns as usize)?);
        self.run(choices.gather(x, inputs))?;
        self.by_experts(inputs, (weights.gate_up, choices), gate_up)?;
        self.run(rows::gate(Gate::Silu, gate_up, gated))?;
        self.by_experts(gated, (weights.down, choices), outputs)?;
        if out.dtype == x.dtype {
            return self.run(choices.combine(outputs, add, out));
        }
        // Sums over ranks are of float32: what this rank's experts give is rounded before them.
        if add {
            return Err(DeviceError::Contract("experts added to float32".into()));
        }
        // What came in is not needed any more, and there is room for more than these rows.
        let summed = inputs.part(0, x.rows);
        self.run(choices.combine(outputs, false, summed))?;
        let units = self.units();
        self.run(rows::widen(summed, out, units))
    }

    /// A product of its own for each expert's rows.
    fn by_experts(
        &mut self,
        x: Rows,
        (weights, choices): (&[CudaLinear<D>], Choices),
        out: Rows,
    ) -> Done {
        self.grouped(x, (weights, choices.ends, x.rows), out)
    }

    /// Memory for who chooses what, and for the logits that decide it.
    fn choices(
        &mut self,
        rows: u32,
        weights: &ExpertWeights<'_, Self>,
    ) -> Result<(Choices, Region), DeviceError> {
        let (per_token, local) = (weights.per_token, weights.down.len());
        let choices = extent(&[rows as usize, per_token, 4])?;
        let own = extent(&[local, 4])?;
        let logits = extent(&[rows as usize, weights.router.outputs as usize, 4])?;
        let sizes = [choices, choices, choices, choices, own, own, logits];
        let padded = sizes.map(|bytes| bytes.next_multiple_of(256));
        let held = self.scratch.choices.reserve(padded.iter().sum())?;
        let mut first = 0;
        let mut places = sizes.iter().zip(padded).map(|(&bytes, padded)| {
            let at = Region { address: held.address.after(first), bytes };
            first += padded;
            at
        });
        let mut next = || places.next().unwrap_or(held);
        let found = Choices {
            chosen: next(),
            weights: next(),
            place_of: next(),
            row_of: next(),
            counts: next(),
            ends: next(),
            rows,
            per_token: number(per_token)?,
            first: number(weights.first)?,
            local: number(local)?,
        };
        Ok((found, next()))
    }
}

/// Rows at a time, so that their copies for each expert take a bounded room.
const MOST_ROWS: u32 = 2048;
