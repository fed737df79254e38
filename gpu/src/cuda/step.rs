//! A step's metadata on the device: one buffer of numbers that kernels read, filled by one copy.
//!
//! Where each array lies follows from the step's shape alone, and shapes go up a ladder
//! ([`super::ladder`]): steps of one shape have the same addresses, which is what graphs need. Rows
//! that only fill a shape up belong to no sequence: they write no KV and see nothing.
//!
//! A decode step has a tile for each sequence. In any other step sequences of one row that come
//! before all others have such tiles too, and the rest is cut into tiles of [`TILE_ROWS`] rows.

use std::sync::Arc;

use super::{
    driver::{Driver, Region},
    ladder,
    launch::{NONE, kv::Places, number},
    memory::{Allocation, extent},
};
use crate::{
    backend::StepRows,
    error::DeviceError,
    executor::StepBatch,
    memory::Limits,
    step::{HostStep, KvBlocks},
};

/// A prepared step.
#[derive(Debug)]
pub struct CudaStep<D: Driver> {
    host: HostStep,
    shape: Shape,
    /// Made when the first step is prepared, which is when block sizes are known.
    device: Option<Allocation<D>>,
    image: Vec<u8>,
}

/// What the place of everything follows from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// Rows, those that fill up included.
    pub rows: usize,
    /// Sequences, the same.
    pub sequences: usize,
    /// Tiles of one row, the same.
    pub decode: usize,
    /// Tiles of more.
    pub prefill: usize,
    /// Blocks of each block table.
    pub width: usize,
    /// KV groups.
    pub groups: usize,
}

/// Tiles of a step, as attention is launched with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    /// Where they are.
    pub(super) at: Region,
    /// How many.
    pub(super) count: u32,
    /// The most rows of one.
    pub(super) most_rows: u32,
}

/// Where arrays begin, in numbers of four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    positions: usize,
    sequence_of: usize,
    ends: usize,
    decode: usize,
    prefill: usize,
    tables: usize,
    logit_rows: usize,
}

/// Rows of a tile of a prompt: with four query heads for each key head they fill what a block of
/// the fastest kernel works on.
pub(super) const TILE_ROWS: usize = 16;

impl Shape {
    /// The largest that limits allow, with blocks of `block_size` positions.
    pub fn largest(limits: &Limits, block_size: usize) -> Self {
        let rows = ladder::rows(limits.max_batched_tokens);
        let sequences = ladder::rows(limits.max_sequences);
        Self {
            rows,
            sequences,
            decode: sequences,
            prefill: rows / TILE_ROWS + sequences,
            width: most_blocks(limits, block_size),
            groups: limits.kv_groups,
        }
    }

    /// Whether all rows are of decode steps, which are captured.
    pub fn is_decode(&self) -> bool {
        self.prefill == 0
    }

    /// Bytes of everything, logits for every row.
    pub fn bytes(&self) -> Result<u64, DeviceError> {
        let numbers = self.layout().logit_rows + self.rows;
        extent(&[numbers, 4])
    }

    fn layout(&self) -> Layout {
        // Each at a multiple of 16 bytes, as tiles have to be.
        let mut next = 0;
        let mut place = |numbers: usize| {
            let here = next;
            next = (next + numbers).next_multiple_of(4);
            here
        };
        place(self.rows);
        Layout {
            positions: place(self.rows),
            sequence_of: place(self.rows),
            ends: place(self.sequences),
            decode: place(4 * self.decode),
            prefill: place(4 * self.prefill),
            tables: place(self.groups * self.sequences * self.width),
            logit_rows: place(0),
        }
    }
}

impl<D: Driver> CudaStep<D> {
    /// An empty step.
    pub(super) fn new(limits: &Limits) -> Result<Self, DeviceError> {
        let (host, shape) = (HostStep::new(limits)?, Shape::default());
        Ok(Self { host, shape, device: None, image: Vec::new() })
    }

    /// Checks a batch and puts it onto the device.
    pub(super) fn prepare(
        &mut self,
        driver: &Arc<D>,
        batch: &StepBatch,
        kv: &[impl KvBlocks],
    ) -> Result<(), DeviceError> {
        self.host.prepare(batch, kv)?;
        let limits = *self.host.limits();
        let size = kv.iter().map(|kv| kv.spec().block_size).min().unwrap_or(1);
        let largest = Shape::largest(&limits, size);
        let needed = self.host.groups.iter().flat_map(|group| {
            (0..self.host.sequences.len()).map(|sequence| group.of_sequence(sequence).len())
        });
        let width = ladder::width(needed.max().unwrap_or(0), largest.width);
        self.shape = shape(&self.host, width);
        let bytes = largest.bytes()?.max(self.shape.bytes()?);
        let device = match self.device.take().filter(|device| device.bytes() >= bytes) {
            Some(device) => device,
            None => Allocation::new(driver, bytes)?,
        };
        self.fill()?;
        driver.upload(&self.image, device.all().address)?;
        self.device = Some(device);
        Ok(())
    }

    /// The shape of the step.
    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// The checked step.
    pub(super) fn host(&self) -> &HostStep {
        &self.host
    }

    /// Makes the image of the whole buffer.
    fn fill(&mut self) -> Result<(), DeviceError> {
        let (host, shape, layout) = (&self.host, self.shape, self.shape.layout());
        let mut numbers = vec![0u32; layout.logit_rows + host.logit_rows.len()];
        numbers[..host.tokens.len()].copy_from_slice(&host.tokens);
        numbers[layout.positions..][..host.positions.len()].copy_from_slice(&host.positions);
        numbers[layout.sequence_of..][..shape.rows].fill(NONE);
        let (mut decode, mut prefill) = (layout.decode, layout.prefill);
        let split = decode_sequences(host);
        for (at, rows) in host.sequences.iter().enumerate() {
            let sequence = number(at)?;
            numbers[layout.sequence_of..][rows.row..rows.row + rows.count].fill(sequence);
            numbers[layout.ends + at] = number(rows.computed + rows.count)?;
            let (next, most) = match at < split {
                true => (&mut decode, 1),
                false => (&mut prefill, TILE_ROWS),
            };
            for first in (0..rows.count).step_by(most) {
                let tile =
                    [sequence, number(rows.row + first)?, number(most.min(rows.count - first))?, 0];
                numbers[*next..][..4].copy_from_slice(&tile);
                *next += 4;
            }
            for (group, tables) in host.groups.iter().enumerate() {
                let to = layout.tables + (group * shape.sequences + at) * shape.width;
                let table = tables.of_sequence(at);
                let blocks = tables.blocks as u32;
                for (to, block) in numbers[to..to + shape.width].iter_mut().zip(table) {
                    // Blocks that have left every window may be named by anything: nobody reads
                    // them, and nothing that is no block leaves here.
                    *to = if *block < blocks { *block } else { 0 };
                }
            }
        }
        for (to, row) in numbers[layout.logit_rows..].iter_mut().zip(&host.logit_rows) {
            *to = number(*row)?;
        }
        self.image.clear();
        self.image.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        Ok(())
    }

    fn array(&self, first: usize, numbers: usize) -> Result<Region, DeviceError> {
        match &self.device {
            Some(device) => device.part(extent(&[first, 4])?, extent(&[numbers, 4])?),
            None => Err(DeviceError::Contract("a step that was not prepared".into())),
        }
    }

    /// The token of each row.
    pub(super) fn tokens(&self) -> Result<Region, DeviceError> {
        self.array(0, self.shape.rows)
    }

    /// The sequence of each row.
    pub(super) fn sequence_of(&self) -> Result<Region, DeviceError> {
        self.array(self.shape.layout().sequence_of, self.shape.rows)
    }

    /// The position of each row.
    pub(super) fn positions(&self) -> Result<Region, DeviceError> {
        self.array(self.shape.layout().positions, self.shape.rows)
    }

    /// How many positions of each sequence have KV.
    pub(super) fn ends(&self) -> Result<Region, DeviceError> {
        self.array(self.shape.layout().ends, self.shape.sequences)
    }

    /// The rows that logits are asked for.
    pub(super) fn logit_rows_at(&self) -> Result<Region, DeviceError> {
        self.array(self.shape.layout().logit_rows, self.host.logit_rows.len())
    }

    /// What writing to a group's KV needs.
    pub(super) fn places(&self, group: usize) -> Result<Places, DeviceError> {
        let numbers = self.shape.sequences * self.shape.width;
        Ok(Places {
            positions: self.positions()?,
            sequence_of: self.sequence_of()?,
            tables: self.array(self.shape.layout().tables + group * numbers, numbers)?,
            width: number(self.shape.width)?,
        })
    }

    /// Tiles of one row, if there are any.
    pub(super) fn decode_tiles(&self) -> Result<Option<Tiles>, DeviceError> {
        self.tiles(self.shape.layout().decode, self.shape.decode, 1)
    }

    /// Tiles of more rows, if there are any.
    pub(super) fn prefill_tiles(&self) -> Result<Option<Tiles>, DeviceError> {
        self.tiles(self.shape.layout().prefill, self.shape.prefill, TILE_ROWS)
    }

    fn tiles(
        &self,
        first: usize,
        count: usize,
        most_rows: usize,
    ) -> Result<Option<Tiles>, DeviceError> {
        if count == 0 {
            return Ok(None);
        }
        let at = self.array(first, 4 * count)?;
        Ok(Some(Tiles { at, count: number(count)?, most_rows: number(most_rows)? }))
    }

    /// Rows that tiles of one row are of: the first so many.
    pub(super) fn decode_rows(&self) -> usize {
        self.shape.decode
    }
}

impl<D: Driver> StepRows for CudaStep<D> {
    fn rows(&self) -> usize {
        self.host.rows()
    }

    fn logit_rows(&self) -> usize {
        StepRows::logit_rows(&self.host)
    }
}

/// How many sequences, from the first on, have one row each.
fn decode_sequences(host: &HostStep) -> usize {
    host.sequences.iter().take_while(|rows| rows.count == 1).count()
}

fn shape(host: &HostStep, width: usize) -> Shape {
    let rows = ladder::rows(host.tokens.len());
    let (sequences, decode) = (host.sequences.len(), decode_sequences(host));
    let groups = host.groups.len();
    if decode == sequences && sequences <= ladder::MOST_DECODE_ROWS {
        return Shape { rows, sequences: rows, decode: rows, prefill: 0, width, groups };
    }
    let cut = |count: usize| count.div_ceil(TILE_ROWS);
    let prefill = host.sequences[decode..].iter().map(|rows| cut(rows.count)).sum();
    Shape { rows, sequences, decode, prefill, width, groups }
}

/// Blocks of the longest sequence.
fn most_blocks(limits: &Limits, block_size: usize) -> usize {
    limits.max_model_len.div_ceil(block_size.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_do_not_overlap_and_tiles_are_aligned() {
        for shape in [
            Shape { rows: 8, sequences: 8, decode: 8, prefill: 0, width: 16, groups: 2 },
            Shape { rows: 576, sequences: 7, decode: 3, prefill: 39, width: 17, groups: 1 },
        ] {
            let at = shape.layout();
            assert!(at.positions >= shape.rows);
            assert!(at.sequence_of >= at.positions + shape.rows);
            assert!(at.ends >= at.sequence_of + shape.rows);
            assert!(at.decode >= at.ends + shape.sequences);
            assert!(at.prefill >= at.decode + 4 * shape.decode);
            assert!(at.tables >= at.prefill + 4 * shape.prefill);
            assert!(at.logit_rows >= at.tables + shape.groups * shape.sequences * shape.width);
            assert!((at.decode * 4).is_multiple_of(16) && (at.prefill * 4).is_multiple_of(16));
            assert_eq!(shape.bytes().unwrap(), 4 * (at.logit_rows + shape.rows) as u64);
        }
    }
}
