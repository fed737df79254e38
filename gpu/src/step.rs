//! A step as a device's operations read it, checked once so that no kernel has to: ranges of rows,
//! positions that follow each other, and block tables that name blocks which exist.

use troupe_runtime::id::BlockId;

use crate::{
    backend::StepRows,
    error::DeviceError,
    executor::{BatchSequence, LogitRows, StepBatch},
    kv::KvPool,
    memory::Limits,
    shape::KvSpec,
};

/// A pool of KV blocks, as far as a step is checked against it.
pub trait KvBlocks {
    /// Blocks that exist.
    fn blocks(&self) -> usize;
    /// What they hold.
    fn spec(&self) -> &KvSpec;
}

impl KvBlocks for KvPool {
    fn blocks(&self) -> usize {
        Self::blocks(self)
    }

    fn spec(&self) -> &KvSpec {
        Self::spec(self)
    }
}

/// A prepared step. Its vectors keep their room from step to step.
#[derive(Debug)]
pub struct HostStep {
    limits: Limits,
    pub(crate) tokens: Vec<u32>,
    pub(crate) positions: Vec<u32>,
    pub(crate) sequences: Vec<SequenceRows>,
    /// Rows for which logits are asked.
    pub(crate) logit_rows: Vec<usize>,
    pub(crate) groups: Vec<GroupTables>,
}

/// One sequence's rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SequenceRows {
    pub(crate) row: usize,
    pub(crate) count: usize,
    pub(crate) computed: usize,
}

/// The block tables of one KV group, one after the other.
#[derive(Debug, Default)]
pub(crate) struct GroupTables {
    ids: Vec<u32>,
    /// Where each sequence's table ends.
    ends: Vec<usize>,
    /// Blocks of the pool that the ids were checked against, and their size.
    pub(crate) blocks: usize,
    pub(crate) block_size: usize,
}

impl GroupTables {
    /// A sequence's table.
    pub(crate) fn of_sequence(&self, sequence: usize) -> &[u32] {
        let start = if sequence == 0 { 0 } else { self.ends[sequence - 1] };
        &self.ids[start..self.ends[sequence]]
    }

    /// Whether the ids of this table were checked against a pool like this one.
    pub(crate) fn fits(&self, kv: &impl KvBlocks) -> bool {
        kv.blocks() >= self.blocks && kv.spec().block_size == self.block_size
    }
}

impl HostStep {
    /// An empty step.
    pub(crate) fn new(limits: &Limits) -> Result<Self, DeviceError> {
        limits.check()?;
        let rows = limits.max_batched_tokens;
        Ok(Self {
            limits: *limits,
            tokens: Vec::with_capacity(rows),
            positions: Vec::with_capacity(rows),
            sequences: Vec::with_capacity(limits.max_sequences),
            logit_rows: Vec::with_capacity(rows),
            groups: (0..limits.kv_groups).map(|_| GroupTables::default()).collect(),
        })
    }

    /// The limits that it was made with.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes a batch over, or fails and is empty.
    pub(crate) fn prepare(
        &mut self,
        batch: &StepBatch,
        kv: &[impl KvBlocks],
    ) -> Result<(), DeviceError> {
        self.clear();
        let outcome = self.fill(batch, kv);
        if outcome.is_err() {
            self.clear();
        }
        outcome
    }

    fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.logit_rows.clear();
        for group in &mut self.groups {
            group.ids.clear();
            group.ends.clear();
        }
    }

    fn fill(&mut self, batch: &StepBatch, kv: &[impl KvBlocks]) -> Result<(), DeviceError> {
        let rows = batch.tokens.len();
        let limits = &self.limits;
        if rows > limits.max_batched_tokens || batch.sequences.len() > limits.max_sequences {
            return broken(format!("{rows} rows in {} sequences", batch.sequences.len()));
        }
        if batch.positions.len() != rows || kv.len() != limits.kv_groups {
            return broken(format!(
                "{} positions for {rows} rows, {} pools for {} KV groups",
                batch.positions.len(),
                kv.len(),
                limits.kv_groups
            ));
        }
        let mut next = 0;
        for sequence in &batch.sequences {
            let row = self.check_rows(batch, sequence, next)?;
            next = row.row + row.count;
            self.sequences.push(row);
            match sequence.logits {
                LogitRows::None => {}
                LogitRows::Last => self.logit_rows.push(next - 1),
                LogitRows::Tail(rows) => {
                    let first = next.saturating_sub(rows as usize).max(row.row);
                    self.logit_rows.extend(first..next);
                }
                LogitRows::All => self.logit_rows.extend(row.row..next),
            }
            let tables = sequence.block_tables.iter();
            for ((table, group), kv) in tables.zip(&mut self.groups).zip(kv) {
                check_table(table, &row, kv)?;
                group.ids.extend(table.iter().map(|block| block.0));
                group.ends.push(group.ids.len());
            }
        }
        if next != rows {
            return broken(format!("{rows} rows, of which sequences have {next}"));
        }
        for (group, kv) in self.groups.iter_mut().zip(kv) {
            (group.blocks, group.block_size) = (kv.blocks(), kv.spec().block_size);
        }
        self.tokens.extend_from_slice(&batch.tokens);
        self.positions.extend_from_slice(&batch.positions);
        Ok(())
    }

    fn check_rows(
        &self,
        batch: &StepBatch,
        sequence: &BatchSequence,
        next: usize,
    ) -> Result<SequenceRows, DeviceError> {
        let row = sequence.row as usize;
        let (count, computed) = (sequence.count as usize, sequence.computed as usize);
        let positions = batch.positions.get(row..row + count);
        let consecutive = positions.is_some_and(|positions| {
            positions.iter().zip(computed..).all(|(&position, at)| position as usize == at)
        });
        if row != next || count == 0 || !consecutive {
            return broken(format!("sequence {}: rows {row}..+{count}", sequence.sequence));
        }
        if computed + count > self.limits.max_model_len {
            return broken(format!(
                "sequence {}: {} positions, at most {} are possible",
                sequence.sequence,
                computed + count,
                self.limits.max_model_len
            ));
        }
        if sequence.block_tables.len() != self.limits.kv_groups {
            return broken(format!(
                "sequence {}: {} block tables for {} KV groups",
                sequence.sequence,
                sequence.block_tables.len(),
                self.limits.kv_groups
            ));
        }
        Ok(SequenceRows { row, count, computed })
    }
}

impl StepRows for HostStep {
    fn rows(&self) -> usize {
        self.tokens.len()
    }

    fn logit_rows(&self) -> usize {
        self.logit_rows.len()
    }
}

/// Every block that some row sees or writes must exist; what left all windows may be anything.
fn check_table(
    table: &[BlockId],
    rows: &SequenceRows,
    kv: &impl KvBlocks,
) -> Result<(), DeviceError> {
    let end = rows.computed + rows.count;
    let size = kv.spec().block_size;
    let (from, _) = kv.spec().mask.visible(rows.computed as u32, end as u32);
    let used = table.get(from as usize / size..end.div_ceil(size));
    let Some(used) = used else {
        return broken(format!("{} blocks of {size} for {end} positions", table.len()));
    };
    match used.iter().find(|block| block.0 as usize >= kv.blocks()) {
        Some(block) => broken(format!("KV block {block} of {}", kv.blocks())),
        None => Ok(()),
    }
}

fn broken<T>(why: String) -> Result<T, DeviceError> {
    Err(DeviceError::Contract(why))
}
