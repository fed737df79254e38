//! A layer of experts: `moe.cu`. Who chose what stays on the device; grids and buffers have the
//! bound `rows * per_token`.

use troupe_runtime::model::config::{GroupScore, RouterScore, Routing};

use super::{Rows, by_type, geometry, number};
use crate::{
    cuda::{
        driver::{Arg, Region},
        kernels::Call,
    },
    error::DeviceError,
};

/// What all steps of a layer work on.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) struct Choices {
    /// The experts that each row chose, `[rows][per_token]`.
    pub(in crate::cuda) chosen: Region,
    /// What they weigh, the same.
    pub(in crate::cuda) weights: Region,
    /// Where each choice's row is, the same.
    pub(in crate::cuda) place_of: Region,
    /// The row at each place, the same.
    pub(in crate::cuda) row_of: Region,
    /// Choices for each expert here.
    pub(in crate::cuda) counts: Region,
    /// Where the rows of each expert here end.
    pub(in crate::cuda) ends: Region,
    /// Rows.
    pub(in crate::cuda) rows: u32,
    /// Experts that each chooses.
    pub(in crate::cuda) per_token: u32,
    /// The layer's expert that is the first here.
    pub(in crate::cuda) first: u32,
    /// Experts here.
    pub(in crate::cuda) local: u32,
}

impl Choices {
    /// Places that rows of experts may take.
    pub(in crate::cuda) fn places(&self) -> Result<u32, DeviceError> {
        let places = self.rows.checked_mul(self.per_token);
        places.ok_or_else(|| DeviceError::Contract(format!("{} rows of experts", self.rows)))
    }

    /// Each row chooses, by its logits of `experts` experts.
    pub(in crate::cuda) fn choose(
        &self,
        logits: Region,
        (routing, experts): (&Routing, u32),
        correction: Option<Region>,
    ) -> Result<Call, DeviceError> {
        if experts > 1024 || self.per_token > 64 || routing.groups > 64 {
            return Err(DeviceError::Unsupported(format!(
                "{experts} experts in {} groups, {} for each token, on CUDA: at most 1024, 64 and \
                 64 are possible",
                routing.groups, self.per_token
            )));
        }
        let routing = Arg::Struct(vec![
            correction.map_or(Arg::Null, Arg::In),
            Arg::U32(experts),
            Arg::U32(self.per_token),
            Arg::U32((routing.score == RouterScore::Sigmoid).into()),
            Arg::U32(number(routing.groups.max(1))?),
            Arg::U32(number(routing.groups_kept)?),
            Arg::U32((routing.group_score == GroupScore::BestTwo).into()),
            Arg::U32(routing.normalize.into()),
            Arg::F32(routing.scale as f32),
        ]);
        Ok(Call {
            name: "moe_choose",
            geometry: geometry([self.rows.into(), 1, 1], 128, u64::from(experts) * 8)?,
            args: vec![Arg::In(logits), routing, Arg::Out(self.chosen), Arg::Out(self.weights)],
        })
    }

    /// How many rows each expert here has.
    pub(in crate::cuda) fn count(&self, sequence_of: Region) -> Result<Call, DeviceError> {
        let mut args = self.common(sequence_of)?;
        args.push(Arg::Out(self.counts));
        let geometry = geometry([self.local.into(), 1, 1], 256, 0)?;
        Ok(Call { name: "moe_count", geometry, args })
    }

    /// Where each choice's row goes.
    pub(in crate::cuda) fn place(&self, sequence_of: Region) -> Result<Call, DeviceError> {
        let mut args = self.common(sequence_of)?;
        args.extend([
            Arg::In(self.counts),
            Arg::Out(self.ends),
            Arg::Out(self.place_of),
            Arg::Out(self.row_of),
        ]);
        let geometry = geometry([self.local.into(), 1, 1], 256, 0)?;
        Ok(Call { name: "moe_place", geometry, args })
    }

    fn common(&self, sequence_of: Region) -> Result<Vec<Arg>, DeviceError> {
        Ok(vec![
            Arg::In(self.chosen),
            Arg::In(sequence_of),
            Arg::U32(self.places()?),
            Arg::U32(self.per_token),
            Arg::U32(self.first),
        ])
    }

    /// `out[place] = x[row_of[place]]`.
    pub(in crate::cuda) fn gather(&self, x: Rows, out: Rows) -> Result<Call, DeviceError> {
        Ok(Call {
            name: by_type!(x.dtype, "moe_gather"),
            geometry: geometry([out.rows.into(), 1, 1], 256, 0)?,
            args: vec![
                Arg::In(x.at),
                Arg::In(self.row_of),
                Arg::In(self.ends),
                Arg::U32(self.local),
                Arg::U32(x.columns),
                Arg::Out(out.at),
            ],
        })
    }

    /// Adds up what the experts of each row gave.
    pub(in crate::cuda) fn combine(
        &self,
        outputs: Rows,
        add: bool,
        out: Rows,
    ) -> Result<Call, DeviceError> {
        Ok(Call {
            name: by_type!(out.dtype, "moe_combine"),
            geometry: geometry([out.rows.into(), 1, 1], 256, 0)?,
            args: vec![
                Arg::In(outputs.at),
                Arg::In(self.place_of),
                Arg::In(self.weights),
                Arg::U32(self.per_token),
                Arg::U32(out.columns),
                Arg::U32(add.into()),
                Arg::Out(out.at),
            ],
        })
    }
}
