//! A whole group in one process, for tests: every rank of every stage, each called from a thread of
//! its own as a worker would, with sequences whose KV blocks lie scattered.

#![allow(clippy::unwrap_used, reason = "tests may stop at the first surprise")]

use std::{collections::BTreeMap, path::Path, thread, time::Duration};

use troupe_gpu::{
    DeviceRequest, LoadRequest, ParallelSizes, StepLimits,
    collective::{Alone, Collective, LocalCollective},
    cpu::CpuOptions,
    dtype::Dtype,
    error::DeviceError,
    executor::{
        BatchSequence, Executor, LogitRows, Logits, SampleRequest, StageInput, StageOutput,
        StepBatch,
    },
    kv::KvDtype,
    lora::LoraLimits,
    tensor::Quantize,
};
use troupe_runtime::{
    id::{AdapterId, BlockId, Coordinate, SequenceId, StepId},
    model::{config::ModelConfig, pooling::PoolingKind},
    wire::generate::SamplingOptions,
};

use crate::golden;

pub(crate) const BLOCK_SIZE: usize = 16;
/// Sequences at a time, and so the blocks of each in a pool.
pub(crate) const SEQUENCES: usize = 4;
const BLOCKS_PER_SEQUENCE: usize = 20;

/// Decoders whose every token uses all weights.
pub(crate) const F32_MODELS: [&str; 12] = [
    "stories260k",
    "tiny-llama-untied",
    "tiny-llama-tied",
    "tiny-llama-rope3",
    "tiny-llama-sharded",
    "tiny-qwen2",
    "tiny-qwen3",
    "tiny-mistral",
    "tiny-chat",
    "tiny-phi3",
    "tiny-gemma2",
    "tiny-gemma3",
];
/// Those of experts. A rounded router may choose another expert, which changes everything, so they
/// are compared in float32.
pub(crate) const EXPERT_MODELS: [&str; 5] = [
    "tiny-mixtral",
    "tiny-qwen3-moe",
    "tiny-deepseek-v2-lite",
    "tiny-deepseek-v2",
    "tiny-deepseek-v3",
];
pub(crate) const BF16_MODELS: [&str; 2] = ["tiny-llama-bf16", "stories260k-bf16"];

/// How a model is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) tensor: usize,
    pub(crate) pipeline: usize,
    /// Whether ranks divide experts and not each one's inner width.
    pub(crate) experts: bool,
    pub(crate) dtype: Option<Dtype>,
    pub(crate) kv_dtype: Option<KvDtype>,
    pub(crate) quantize: Option<Quantize>,
    pub(crate) lora: Option<LoraLimits>,
    /// Sequences at a time.
    pub(crate) sequences: usize,
    /// Where the model is run for embeddings.
    pub(crate) pooling: Option<PoolingKind>,
    /// Where it reads pairs.
    pub(crate) separator: Option<u32>,
}

impl Layout {
    pub(crate) const SINGLE: Self = Self::of(1, 1);

    pub(crate) const fn of(tensor: usize, pipeline: usize) -> Self {
        let (dtype, kv_dtype, quantize, pooling) = (None, None, None, None);
        let (experts, separator, lora, sequences) = (false, None, None, SEQUENCES);
        Self {
            tensor,
            pipeline,
            experts,
            dtype,
            kv_dtype,
            quantize,
            lora,
            sequences,
            pooling,
            separator,
        }
    }
}

/// All ranks of a group, by stage.
pub(crate) struct Ranks {
    pub(crate) stages: Vec<Vec<Box<dyn Executor>>>,
    step: StepId,
    kv_groups: usize,
}

impl Ranks {
    pub(crate) fn load(folder: &Path, layout: Layout) -> Result<Self, DeviceError> {
        let config = ModelConfig::load(&folder.join("config.json")).unwrap();
        Self::load_as(folder, &config, layout)
    }

    pub(crate) fn load_as(
        folder: &Path,
        config: &ModelConfig,
        layout: Layout,
    ) -> Result<Self, DeviceError> {
        Self::load_on(folder, config, layout, troupe_gpu::load)
    }

    /// As [`Self::load_as`], each rank by `load_rank`.
    pub(crate) fn load_on(
        folder: &Path,
        config: &ModelConfig,
        layout: Layout,
        load_rank: impl Fn(LoadRequest) -> Result<Box<dyn Executor>, DeviceError>,
    ) -> Result<Self, DeviceError> {
        let mut stages = Vec::new();
        for stage in 0..layout.pipeline {
            let ranks = collectives(layout.tensor).into_iter().enumerate();
            let load = |(rank, collective)| {
                let coordinate = Coordinate { dp: 0, stage: stage as u32, tp: rank as u32 };
                load_rank(request(folder, config, layout, coordinate, collective))
            };
            stages.push(ranks.map(load).collect::<Result<Vec<_>, _>>()?);
        }
        let kv_groups = config.kv_groups().len();
        let blocks = vec![(layout.sequences * BLOCKS_PER_SEQUENCE) as u32; kv_groups];
        for rank in stages.iter_mut().flatten() {
            rank.allocate_kv(&blocks)?;
        }
        Ok(Self { stages, step: StepId(0), kv_groups })
    }

    /// Runs `counts[i]` further tokens of each sequence through all stages, and marks them
    /// computed.
    pub(crate) fn forward(
        &mut self,
        sequences: &mut [Sequence],
        work: &[(usize, LogitRows)],
    ) -> Logits {
        self.step.0 += 1;
        let batch = batch(self.step, self.kv_groups, sequences, work);
        for (sequence, (count, _)) in sequences.iter_mut().zip(work) {
            sequence.computed += count;
        }
        let mut hidden = None;
        for stage in &mut self.stages {
            let outputs = thread::scope(|scope| {
                let threads: Vec<_> = stage
                    .iter_mut()
                    .map(|rank| {
                        let input = hidden.clone().map_or(StageInput::Tokens, StageInput::Hidden);
                        let batch = &batch;
                        scope.spawn(move || rank.forward(batch, input))
                    })
                    .collect();
                let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().unwrap();
                threads.into_iter().map(join).collect::<Result<Vec<_>, _>>().unwrap()
            });
            let mut hiddens = Vec::new();
            for output in outputs {
                match output {
                    StageOutput::Logits(logits) if hiddens.is_empty() => return logits,
                    StageOutput::Logits(_) => panic!("logits after hidden states"),
                    StageOutput::Hidden(states) => hiddens.push(states),
                }
            }
            assert!(hiddens.windows(2).all(|pair| pair[0] == pair[1]), "ranks of a stage differ");
            hidden = hiddens.pop();
        }
        panic!("the last stage gave no logits");
    }

    /// The likeliest token of each sequence's last row, appended to it.
    pub(crate) fn sample_greedily(
        &mut self,
        logits: Logits,
        sequences: &mut [Sequence],
    ) -> Vec<u32> {
        let options = SamplingOptions { temperature: 0.0, ..SamplingOptions::default() };
        let requests: Vec<_> = sequences
            .iter()
            .enumerate()
            .map(|(row, sequence)| SampleRequest {
                sequence: sequence.id,
                rows: (row, 1),
                sample: true,
                tokens: &sequence.tokens,
                prompt_len: sequence.tokens.len(),
                computed: sequence.computed,
                options: &options,
                seed: 0,
                choice: 0,
                mask: None,
            })
            .collect();
        let last = self.stages.last_mut().unwrap();
        let sampled = last[0].sample(logits, &requests).unwrap();
        let tokens: Vec<_> = sampled.into_iter().map(|sampled| sampled.token.unwrap()).collect();
        for (sequence, token) in sequences.iter_mut().zip(&tokens) {
            sequence.tokens.push(*token);
        }
        tokens
    }
}

/// One sequence with its place in the KV.
#[derive(Clone)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    pub(crate) tokens: Vec<u32>,
    pub(crate) computed: usize,
    pub(crate) adapter: Option<AdapterId>,
    pub(crate) table: Vec<BlockId>,
}

impl Sequence {
    /// The `index`th sequence of a pool; its blocks lie between those of others, last first.
    pub(crate) fn new(index: usize, tokens: &[u32]) -> Self {
        Self::among(SEQUENCES, index, tokens)
    }

    /// The same in a pool for `sequences` sequences.
    pub(crate) fn among(sequences: usize, index: usize, tokens: &[u32]) -> Self {
        let block = |at: usize| BlockId((at * sequences + index) as u32);
        Self {
            id: SequenceId(1 + index as u64),
            tokens: tokens.to_vec(),
            computed: 0,
            adapter: None,
            table: (0..BLOCKS_PER_SEQUENCE).rev().map(block).collect(),
        }
    }
}

/// The vectors of texts, all of them in one step, of a model that is run for them.
pub(crate) fn embed(ranks: &mut Ranks, texts: &[&[u32]]) -> Vec<Vec<f32>> {
    let texts = texts.iter().enumerate().map(|(at, ids)| Sequence::new(at, ids));
    let mut texts: Vec<_> = texts.collect();
    let work: Vec<_> = texts.iter().map(|text| (text.tokens.len(), LogitRows::Last)).collect();
    let vectors = ranks.forward(&mut texts, &work);
    let options = SamplingOptions::default();
    let requests: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(row, text)| SampleRequest {
            sequence: text.id,
            rows: (row, 1),
            sample: true,
            tokens: &text.tokens,
            prompt_len: text.tokens.len(),
            computed: 0,
            options: &options,
            seed: 0,
            choice: 0,
            mask: None,
        })
        .collect();
    let last = ranks.stages.last_mut().unwrap();
    let sampled = last[0].sample(vectors, &requests).unwrap();
    sampled.into_iter().map(|sampled| sampled.embedding.unwrap()).collect()
}

pub(crate) fn request(
    folder: &Path,
    config: &ModelConfig,
    layout: Layout,
    coordinate: Coordinate,
    collective: Box<dyn Collective>,
) -> LoadRequest {
    LoadRequest {
        folder: folder.to_owned(),
        config: config.clone(),
        coordinate,
        parallel: ParallelSizes {
            tensor: layout.tensor,
            pipeline: layout.pipeline,
            experts: layout.experts,
        },
        dtype: layout.dtype,
        kv_dtype: layout.kv_dtype,
        quantize: layout.quantize,
        lora: layout.lora,
        pooling: layout.pooling,
        separator: layout.separator,
        limits: StepLimits {
            max_num_batched_tokens: 256,
            max_num_seqs: layout.sequences,
            max_model_len: (BLOCKS_PER_SEQUENCE * BLOCK_SIZE).min(config.max_position_embeddings),
            block_size: BLOCK_SIZE,
        },
        kv_bytes: 64 << 20,
        device: DeviceRequest::cpu(CpuOptions { threads: 1, path: None }),
        collective,
        progress: None,
    }
}

fn collectives(ranks: usize) -> Vec<Box<dyn Collective>> {
    if ranks == 1 {
        return vec![Box::new(Alone)];
    }
    let group = LocalCollective::group(ranks, Duration::from_secs(60));
    group.into_iter().map(|rank| Box::new(rank) as Box<dyn Collective>).collect()
}

pub(crate) fn batch(
    step: StepId,
    kv_groups: usize,
    sequences: &[Sequence],
    work: &[(usize, LogitRows)],
) -> StepBatch {
    let mut batch = StepBatch { step, ..StepBatch::default() };
    for (sequence, &(count, logits)) in sequences.iter().zip(work) {
        let (computed, end) = (sequence.computed, sequence.computed + count);
        batch.sequences.push(BatchSequence {
            sequence: sequence.id,
            row: batch.tokens.len() as u32,
            count: count as u32,
            computed: computed as u32,
            block_tables: vec![sequence.table[..end.div_ceil(BLOCK_SIZE)].to_vec(); kv_groups]
                .into(),
            adapter: sequence.adapter,
            logits,
        });
        batch.tokens.extend_from_slice(&sequence.tokens[computed..end]);
        batch.positions.extend(computed as u32..end as u32);
    }
    batch
}

/// One golden prompt of a model.
pub(crate) struct Prompt {
    pub(crate) id: String,
    pub(crate) ids: Vec<u32>,
    pub(crate) greedy_ids: Vec<u32>,
    /// By how much each of them leads, in logits.
    pub(crate) greedy_margins: Vec<f64>,
    /// How far a run that rounds every activation to bfloat16 is off; 0 where it was not made.
    pub(crate) bf16_run: f64,
}

/// The golden prompts of a model, if the set has it.
pub(crate) fn prompts(model: &str) -> Option<Vec<Prompt>> {
    let golden = golden::json(&format!("models/{model}/golden.json"))?;
    let ids = |value: &serde_json::Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let prompts = golden["prompts"].as_array().unwrap().iter();
    let prompt = |prompt: &serde_json::Value| Prompt {
        id: prompt["id"].as_str().unwrap().to_owned(),
        ids: ids(&prompt["ids"]),
        greedy_ids: ids(&prompt["greedy_ids"]),
        greedy_margins: {
            let margins = prompt["greedy_margins"].as_array().unwrap().iter();
            margins.map(|margin| margin.as_f64().unwrap()).collect()
        },
        bf16_run: golden["checks"]["max_abs_diff_bf16_run"].as_f64().unwrap_or(0.0),
    };
    Some(prompts.map(prompt).collect())
}

/// Golden tensors of a model as `f64`, by name.
pub(crate) fn golden_tensors(model: &str) -> BTreeMap<String, Vec<f64>> {
    let folder = golden::dir().join("models").join(model);
    let bytes = std::fs::read(folder.join("golden.st")).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(header).unwrap();
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__");
    let values = |entry: &serde_json::Value| {
        let offset = |at: usize| entry["data_offsets"][at].as_u64().unwrap() as usize;
        let bytes = &data[offset(0)..offset(1)];
        match entry["dtype"].as_str().unwrap() {
            "F64" => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            "F32" => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect(),
            other => panic!("golden tensor of type {other}"),
        }
    };
    tensors.map(|(name, entry)| (name, values(&entry))).collect()
}
