//! An executor without tensors: its token is a hash of what a model would have seen.
//!
//! It holds the contract of [`Executor`] and nothing else, so that groups, leaders and whole
//! clusters can be run and simulated at no cost. Where a model keeps keys and values of a position,
//! it keeps one number that depends on every token up to there, in the same KV blocks. So whatever
//! goes wrong with blocks (one shared with the wrong prefix, reused too early, not copied) or with
//! tokens (lost, repeated, reordered) shows in the tokens that follow, and between stages at once.
//!
//! It has layers and heads as far as KV is divided by them: each of a rank's share keeps the number
//! in its own disguise, and what is read is nonsense unless all of them agree. So a block that came
//! from elsewhere with one layer or head missing, or in the wrong place, shows too.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use troupe_gpu::{
    backend::KvSpan,
    collective::Collective,
    error::DeviceError,
    executor::{
        BatchSequence, Executor, HiddenStates, KvReader, KvTap, LogitRows, Logits, MemoryReport,
        SampleRequest, Sampled, StageInput, StageOutput, StepBatch,
    },
    lora::Adapter,
    shape::KvAt,
    weights::Shard,
};
use troupe_runtime::{
    id::{AdapterId, BlockId, Coordinate, Digest},
    wire::{
        kv::WireDtype,
        transfer::{KvForm, KvShare, Run},
    },
};

/// The executor.
pub struct FakeExecutor {
    coordinate: Coordinate,
    model: FakeModel,
    /// Ranks of a stage meet in every step, as real ones do: none can run ahead.
    collective: Box<dyn Collective>,
    /// What every position of every block holds, for each layer and head of this rank.
    kv: Vec<u64>,
    share: KvShare,
    /// The step's logits: what each row with logits has seen.
    logits: Vec<u64>,
    /// What sequences with an adapter have seen before their first token.
    adapters: BTreeMap<AdapterId, u64>,
}

/// What all ranks of a tensor-free model agree on.
#[derive(Clone, Copy, Debug)]
pub struct FakeModel {
    /// Stages.
    pub stages: u32,
    /// Tokens of its vocabulary.
    pub vocab_size: u32,
    /// KV blocks that every rank has room for.
    pub blocks: u32,
    /// Positions per KV block.
    pub block_size: u32,
    /// How many positions a layer would see, its own included; all, if it has no window.
    pub window: Option<u32>,
    /// Layers of the whole model, at least one for each stage.
    pub layers: u32,
    /// Key and value heads of the whole model, to be divided over ranks or held by several.
    pub heads: u32,
}

/// One row of hidden states: what it has seen, and its token.
type Row = (u64, u32);

impl FakeExecutor {
    /// One rank of a model.
    pub fn new(coordinate: Coordinate, model: FakeModel, collective: Box<dyn Collective>) -> Self {
        let share = share(coordinate, model, collective.ranks() as u32);
        let (kv, logits, adapters) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { coordinate, model, collective, kv, share, logits, adapters }
    }

    /// Layers times heads of this rank.
    fn copies(&self) -> usize {
        (self.share.layers.len() * self.share.heads.len()) as usize
    }

    /// What a slot holds, if all layers and heads agree on it.
    fn kept(&self, slot: usize) -> u64 {
        let copies = self.copies();
        let own = &self.kv[slot * copies..(slot + 1) * copies];
        let first = own[0] ^ self.disguise(0);
        let agree = (0..).zip(own).all(|(at, kept)| kept ^ self.disguise(at) == first);
        if agree { first } else { own.iter().copied().fold(!first, join) }
    }

    fn keep(&mut self, slot: usize, seen: u64) {
        let copies = self.copies();
        for at in 0..copies {
            self.kv[slot * copies + at] = seen ^ self.disguise(at);
        }
    }

    /// How a layer and head of this rank's keep what they keep.
    fn disguise(&self, at: usize) -> u64 {
        let heads = self.share.heads.len() as usize;
        let layer = u64::from(self.share.layers.first) + (at / heads) as u64;
        let head = u64::from(self.share.heads.first) + (at % heads) as u64;
        (layer << 32 | head).wrapping_mul(0x9e6c_63d0_876a_3f6b)
    }

    /// Where a span's numbers are, in the order of the canonical layout.
    fn places(&self, span: &KvSpan<'_>) -> Result<Vec<usize>, DeviceError> {
        let (layers, heads) = (self.share.layers.len() as usize, self.share.heads.len() as usize);
        let size = self.model.block_size as usize;
        let blocks = self.kv.len() / self.copies() / size;
        let fits = span.layer < layers
            && span.heads.end <= heads
            && span.blocks.iter().all(|block| (block.0 as usize) < blocks);
        if !fits {
            return Err(DeviceError::Contract(format!("no KV span {span:?}")));
        }
        let slots = span.blocks.iter().flat_map(|block| {
            let first = block.0 as usize * size;
            let heads = span.heads.clone();
            heads.flat_map(move |head| (first..first + size).map(move |slot| (slot, head)))
        });
        let at = |(slot, head)| slot * layers * heads + span.layer * heads + head;
        Ok(slots.map(at).collect())
    }

    /// Where the numbers of a block are.
    fn of_block(&self, block: BlockId) -> Result<Range<usize>, DeviceError> {
        let size = self.model.block_size as usize * self.copies();
        let first = block.0 as usize * size;
        let own = first..first + size;
        match own.end <= self.kv.len() {
            true => Ok(own),
            false => Err(DeviceError::Contract(format!("no KV block {block}"))),
        }
    }

    /// The token that follows these.
    pub fn next_token(tokens: &[u32], vocab_size: u32) -> u32 {
        choose(tokens.iter().fold(NOTHING, |seen, token| see(seen, *token)), vocab_size)
    }

    /// The token that follows these with an adapter of this digest.
    pub fn next_token_with(adapter: Digest, tokens: &[u32], vocab_size: u32) -> u32 {
        let first = Self::seen_with(adapter);
        choose(tokens.iter().fold(first, |seen, token| see(seen, *token)), vocab_size)
    }

    fn seen_with(adapter: Digest) -> u64 {
        let words = adapter.0.as_chunks::<8>().0.iter();
        words.fold(NOTHING, |seen, word| join(seen, u64::from_le_bytes(*word)))
    }

    /// The token that follows these in a model with a window.
    pub fn next_token_within(window: u32, tokens: &[u32], vocab_size: u32) -> u32 {
        let mut kept = Vec::with_capacity(tokens.len());
        for &token in tokens {
            let first = (kept.len() + 1).saturating_sub(window as usize);
            kept.push(see(kept[first..].iter().copied().fold(NOTHING, join), token));
        }
        choose(kept.last().copied().unwrap_or(NOTHING), vocab_size)
    }

    /// The earliest position before this one that a row there reads. Without a window it is the
    /// last, which has seen all others.
    fn first_read(&self, position: u32) -> u32 {
        (position + 1).saturating_sub(self.model.window.unwrap_or(2))
    }

    /// What a row at this position sees of the positions before it.
    fn seen_before(&self, entry: &BatchSequence, position: u32) -> Result<u64, DeviceError> {
        let kept = |at| Ok(self.kept(self.slot(entry, at)?));
        match (self.model.window, position.checked_sub(1)) {
            (None, Some(previous)) => kept(previous),
            (None, None) => self.before_all(entry),
            (Some(_), _) => (self.first_read(position)..position)
                .try_fold(self.before_all(entry)?, |seen, at| Ok(join(seen, kept(at)?))),
        }
    }

    /// What an empty sequence has seen, by its adapter.
    fn before_all(&self, entry: &BatchSequence) -> Result<u64, DeviceError> {
        let Some(id) = entry.adapter else { return Ok(NOTHING) };
        let seen = self.adapters.get(&id).copied();
        seen.ok_or_else(|| DeviceError::Contract(format!("adapter {id} is not known")))
    }

    /// Where a position of a sequence is kept.
    fn slot(&self, entry: &BatchSequence, position: u32) -> Result<usize, DeviceError> {
        let table = entry.block_tables.first().map_or(&[][..], Vec::as_slice);
        let block = table.get((position / self.model.block_size) as usize);
        let slot = block.map(|block| {
            let size = self.model.block_size as usize;
            block.0 as usize * size + position as usize % size
        });
        slot.filter(|slot| *slot < self.kv.len() / self.copies()).ok_or_else(|| {
            let id = entry.sequence;
            DeviceError::Contract(format!("sequence {id} has no block for position {position}"))
        })
    }

    /// Computes all rows. A sequence may begin with blocks that another one writes in this very
    /// step, so whoever does not depend on one that is still to come goes first.
    fn compute(
        &mut self,
        batch: &StepBatch,
        given: Option<&[Row]>,
    ) -> Result<Vec<Row>, DeviceError> {
        let mut rows = vec![(0, 0); batch.tokens.len()];
        let mut left: Vec<&BatchSequence> = batch.sequences.iter().collect();
        let mut unwritten = BTreeSet::new();
        for entry in &left {
            for position in entry.computed..entry.computed + entry.count {
                unwritten.insert(self.slot(entry, position)?);
            }
        }
        while !left.is_empty() {
            let mut later = Vec::new();
            let before = left.len();
            for entry in left {
                let mut waits = false;
                for at in self.first_read(entry.computed)..entry.computed {
                    waits |= unwritten.contains(&self.slot(entry, at)?);
                }
                if waits {
                    later.push(entry);
                    continue;
                }
                for offset in 0..entry.count {
                    let position = entry.computed + offset;
                    let row = (entry.row + offset) as usize;
                    let seen = self.seen_before(entry, position)?;
                    let token = given.map_or(batch.tokens[row], |given| given[row].1);
                    let now = see(seen, token);
                    if given.is_some_and(|given| given[row].0 != now) {
                        return Err(DeviceError::Contract(format!(
                            "{}: sequence {} is not what the previous stage saw at {position}",
                            self.coordinate, entry.sequence
                        )));
                    }
                    let slot = self.slot(entry, position)?;
                    unwritten.remove(&slot);
                    self.keep(slot, now);
                    rows[row] = (now, token);
                }
            }
            if later.len() == before {
                return Err(DeviceError::Contract("sequences that wait for each other".into()));
            }
            left = later;
        }
        Ok(rows)
    }
}

impl Executor for FakeExecutor {
    fn coordinate(&self) -> Coordinate {
        self.coordinate
    }

    fn memory(&self) -> MemoryReport {
        MemoryReport {
            block_bytes: vec![8 * (self.model.block_size as usize * self.copies()) as u64],
            blocks: vec![self.model.blocks],
            kernel_path: "fake".into(),
            kv: vec![self.share],
            ..MemoryReport::default()
        }
    }

    fn allocate_kv(&mut self, blocks: &[u32]) -> Result<(), DeviceError> {
        let &[count] = blocks else {
            return Err(DeviceError::Contract("a tensor-free model has one KV group".into()));
        };
        if count > self.model.blocks {
            let room = self.model.blocks;
            return Err(DeviceError::OutOfMemory(format!("{count} of {room} blocks")));
        }
        self.kv = vec![0; count as usize * self.model.block_size as usize * self.copies()];
        Ok(())
    }

    fn add_adapter(&mut self, id: AdapterId, adapter: Arc<Adapter>) -> Result<(), DeviceError> {
        let seen = Self::seen_with(adapter.digest());
        match self.adapters.insert(id, seen) {
            None => Ok(()),
            Some(_) => Err(DeviceError::Contract(format!("adapter {id} is known already"))),
        }
    }

    fn remove_adapter(&mut self, id: AdapterId) {
        self.adapters.remove(&id);
    }

    fn forward_tapped(
        &mut self,
        batch: &StepBatch,
        input: StageInput,
        tap: &mut dyn KvTap,
    ) -> Result<StageOutput, DeviceError> {
        let given = match (self.coordinate.stage, input) {
            (0, StageInput::Tokens) => None,
            (1.., StageInput::Hidden(hidden)) => Some(rows_of(&hidden, batch.tokens.len())?),
            _ => return Err(DeviceError::Contract("only the first stage takes tokens".into())),
        };
        let size = self.model.block_size as usize * self.copies();
        for copy in &batch.copies {
            let (from, to) = (copy.from.0 as usize * size, copy.to.0 as usize * size);
            self.kv.copy_within(from..from + size, to);
        }
        let rows = self.compute(batch, given.as_deref())?;
        self.collective.begin_step(batch.step);
        self.collective.barrier()?;
        for layer in 0..self.share.layers.len() as usize {
            tap.layer(KvAt { group: 0, layer }, self);
        }
        if self.coordinate.stage + 1 < self.model.stages {
            let columns = WORDS;
            let bytes: Vec<u8> = rows.iter().flat_map(bytes_of).collect();
            return Ok(StageOutput::Hidden(HiddenStates {
                rows: rows.len(),
                columns,
                dtype: WireDtype::U32,
                bytes: bytes.into(),
            }));
        }
        self.logits.clear();
        for entry in &batch.sequences {
            let count = match entry.logits {
                LogitRows::None => 0,
                LogitRows::Last => 1,
                LogitRows::Tail(rows) => rows,
                LogitRows::All => entry.count,
            };
            let end = (entry.row + entry.count) as usize;
            self.logits.extend(rows[end - count as usize..end].iter().map(|(seen, _)| seen));
        }
        let (rows, columns) = (self.logits.len(), self.model.vocab_size as usize);
        Ok(StageOutput::Logits(Logits::on_host(batch.step, rows, columns, Vec::new())))
    }

    fn sample(
        &mut self,
        _logits: Logits,
        requests: &[SampleRequest<'_>],
    ) -> Result<Vec<Sampled>, DeviceError> {
        let sampled = requests.iter().map(|request| {
            let (first, count) = request.rows;
            let seen = self.logits.get((first + count).saturating_sub(1));
            let token = seen.map(|seen| choose(*seen, self.model.vocab_size));
            Sampled { token: token.filter(|_| request.sample), ..Sampled::default() }
        });
        Ok(sampled.collect())
    }

    fn export_kv(
        &mut self,
        _group: usize,
        span: &KvSpan<'_>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), DeviceError> {
        bytes.clear();
        bytes.extend(self.places(span)?.into_iter().flat_map(|at| self.kv[at].to_le_bytes()));
        Ok(())
    }

    fn import_kv(
        &mut self,
        _group: usize,
        span: &KvSpan<'_>,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        let places = self.places(span)?;
        let (kept, rest) = bytes.as_chunks::<8>();
        if kept.len() != places.len() || !rest.is_empty() {
            let (found, wanted) = (bytes.len(), places.len() * 8);
            return Err(DeviceError::Contract(format!("{found} bytes of KV, not {wanted}")));
        }
        for (at, kept) in places.into_iter().zip(kept) {
            self.kv[at] = u64::from_le_bytes(*kept);
        }
        Ok(())
    }

    fn save_block(
        &mut self,
        _group: usize,
        block: BlockId,
        bytes: &mut Vec<u8>,
    ) -> Result<(), DeviceError> {
        let own = self.of_block(block)?;
        bytes.clear();
        bytes.extend(self.kv[own].iter().flat_map(|kept| kept.to_le_bytes()));
        Ok(())
    }

    fn restore_block(
        &mut self,
        _group: usize,
        block: BlockId,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        let own = self.of_block(block)?;
        let (kept, rest) = bytes.as_chunks::<8>();
        if kept.len() != own.len() || !rest.is_empty() {
            let (found, wanted) = (bytes.len(), own.len() * 8);
            return Err(DeviceError::Contract(format!("{found} bytes of a block, not {wanted}")));
        }
        for (to, from) in self.kv[own].iter_mut().zip(kept) {
            *to = u64::from_le_bytes(*from);
        }
        Ok(())
    }
}

impl KvReader for FakeExecutor {
    fn export(&mut self, span: &KvSpan<'_>, bytes: &mut Vec<u8>) -> Result<(), DeviceError> {
        self.export_kv(0, span, bytes)
    }
}

/// Which layers and heads a rank has, divided as a real model's are.
fn share(coordinate: Coordinate, model: FakeModel, ranks: u32) -> KvShare {
    let run = |at: u32, of: u32, size: u32| {
        let shard = Shard::new(at as usize, of as usize).unwrap_or(Shard::WHOLE);
        let run = shard.split(size as usize);
        Run::new(run.start as u32, run.end as u32)
    };
    // Fewer heads than ranks: several ranks hold one.
    let alike = (ranks / model.heads.max(1)).max(1);
    KvShare {
        group: 0,
        layers: run(coordinate.stage, model.stages, model.layers),
        heads: run(coordinate.tp / alike, ranks / alike, model.heads),
        form: KvForm::Latent(2),
        dtype: WireDtype::U32,
        block_size: model.block_size,
    }
}

fn see(seen: u64, token: u32) -> u64 {
    let mixed = (seen ^ u64::from(token)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ mixed >> 29
}

/// What has been seen, and what one more position keeps.
fn join(seen: u64, kept: u64) -> u64 {
    (seen.rotate_left(7) ^ kept).wrapping_mul(0x94d0_49bb_1331_11eb)
}

fn choose(seen: u64, vocab_size: u32) -> u32 {
    (seen % u64::from(vocab_size)) as u32
}

fn bytes_of(&(seen, token): &Row) -> [u8; 4 * WORDS] {
    let mut bytes = [0; 4 * WORDS];
    bytes[..8].copy_from_slice(&seen.to_le_bytes());
    bytes[8..].copy_from_slice(&token.to_le_bytes());
    bytes
}

fn rows_of(hidden: &HiddenStates, rows: usize) -> Result<Vec<Row>, DeviceError> {
    let (own, _) = hidden.bytes.as_chunks::<{ 4 * WORDS }>();
    if own.len() != rows || hidden.columns != WORDS {
        return Err(DeviceError::Contract(format!("{} rows, {rows} were to come", own.len())));
    }
    let row = |bytes: &[u8; 4 * WORDS]| {
        let (words, _) = bytes.as_chunks::<4>();
        let [low, high, token] = [0, 1, 2].map(|at| u32::from_le_bytes(words[at]));
        (u64::from(high) << 32 | u64::from(low), token)
    };
    Ok(own.iter().map(row).collect())
}

/// What an empty sequence has seen.
const NOTHING: u64 = 0x9e37_79b9_7f4a_7c15;
/// Words per row of hidden states.
const WORDS: usize = 3;
