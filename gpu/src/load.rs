//! Loading: from a model's folder to an [`Executor`] on this machine's device.
//!
//! The order is cheap checks first: a size that does not work, a missing shard or a wrong shape is
//! found before gigabytes are read. Nothing here waits for another rank.

use std::{ops::Range, path::PathBuf};

use troupe_runtime::{
    id::Coordinate,
    model::{config::ModelConfig, pooling::PoolingKind},
    wire::transfer::{KvForm, KvShare, Run},
};

use crate::{
    backend::Backend,
    choose::{self, DeviceRequest},
    collective::Collective,
    cpu::CpuDevice,
    cuda::{
        claim::Sharing,
        driver::DeviceMemory,
        kv::block_bytes,
        plan::{self, MemoryPlan, Needs, Rank},
    },
    dtype::Dtype,
    error::DeviceError,
    executor::{Executor, LoadProgress, MemoryReport},
    kv::KvDtype,
    layers::{
        attention::{head_shape, mask},
        context::{Context, StepActivations, TensorGroup},
        embedding::VocabularyTable,
        head::Head,
        loader::Loader,
        opening::Opening,
        pooler::Pooler,
        rotary::Rotary,
    },
    lora::{Bank, LoraLimits, site::Site},
    memory::{Limits, blocks_that_fit},
    models::{self, LayerPlace},
    pipeline::{self, PartCosts},
    quant, sampling,
    shape::{KvKind, KvSpec},
    stage::{Ending, RankExecutor, StageParts},
    tensor::Quantize,
    weights::{Checkpoint, Holding, Shard, WeightReader, rename},
};

/// One rank of a model, to be loaded.
pub struct LoadRequest {
    /// The model's folder.
    pub folder: PathBuf,
    /// Its config.
    pub config: ModelConfig,
    /// Where the rank stands in its group.
    pub coordinate: Coordinate,
    /// Over how many ranks and stages the model is divided.
    pub parallel: ParallelSizes,
    /// How weights are stored on the device; `None` keeps the checkpoint's type.
    pub dtype: Option<Dtype>,
    /// Integers that weights are turned into; `None` keeps them as they are. The embedding and the
    /// head are never in fewer than eight bits.
    pub quantize: Option<Quantize>,
    /// How keys and values are stored; `None` takes the weights' type.
    pub kv_dtype: Option<KvDtype>,
    /// What is made of states where the model is run for embeddings; `None` gives logits.
    pub pooling: Option<PoolingKind>,
    /// The token behind which the second text of a pair begins, if the model reads pairs.
    pub separator: Option<u32>,
    /// What bounds a step.
    pub limits: StepLimits,
    /// Bytes that KV blocks may take on this device. On a CUDA device its own request counts, and
    /// else what is left of its memory.
    pub kv_bytes: u64,
    /// The device.
    pub device: DeviceRequest,
    /// The other tensor-parallel ranks of the stage.
    pub collective: Box<dyn Collective>,
    /// How much room there is for adapters; `None` serves none.
    pub lora: Option<LoraLimits>,
    /// Told how far loading is.
    pub progress: Option<LoadProgress>,
}

/// Over how many devices a model is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParallelSizes {
    /// Ranks of each stage.
    pub tensor: usize,
    /// Stages.
    pub pipeline: usize,
    /// Whether the ranks of a stage divide its experts, each of which one rank then has whole; else
    /// every rank has its share of each expert.
    pub experts: bool,
}

impl ParallelSizes {
    /// The layers of each stage, if this model can be run and divided like that.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`], naming what works.
    pub fn divide(&self, config: &ModelConfig) -> Result<Vec<Range<usize>>, DeviceError> {
        config
            .check_tensor_parallel(self.tensor)
            .map_err(|error| DeviceError::Unsupported(error.to_string()))?;
        if self.experts {
            config
                .check_expert_parallel(self.tensor)
                .map_err(|error| DeviceError::Unsupported(error.to_string()))?;
        }
        pipeline::split(&PartCosts::of(config), self.pipeline)
    }
}

/// What bounds a step; every buffer is sized from it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// Tokens of one step at most.
    pub max_num_batched_tokens: usize,
    /// Sequences of one step at most.
    pub max_num_seqs: usize,
    /// Positions of one sequence at most.
    pub max_model_len: usize,
    /// Positions per KV block.
    pub block_size: usize,
}

/// Loads one rank onto this machine's device.
///
/// # Errors
/// [`DeviceError::Unsupported`] if the model cannot be divided like that, naming what works;
/// [`DeviceError::Weights`] naming file and tensor; [`DeviceError::OutOfMemory`].
pub fn load(request: LoadRequest) -> Result<Box<dyn Executor>, DeviceError> {
    choose::load(request)
}

/// Why a CUDA device refuses adapters.
pub(crate) const NO_ADAPTERS: &str =
    "LoRA adapters are computed on CPUs only so far: leave --enable-lora away, or say --device cpu";

/// How the memory of a CUDA device is to be shared out for a rank, and the type of its activations:
/// that of the weights.
pub(crate) fn cuda_plan(
    request: &LoadRequest,
    memory: DeviceMemory,
) -> Result<(MemoryPlan, Dtype), DeviceError> {
    if request.lora.is_some() {
        return Err(DeviceError::Unsupported(NO_ADAPTERS.to_owned()));
    }
    let memory = match request.device.cuda.sharing {
        Sharing::Alone => memory,
        // What other ranks hold here is theirs by shares of their own.
        Sharing::Shared(_) => DeviceMemory { free: memory.total, ..memory },
    };
    let own = Plan::new(request)?;
    let storage = match request.dtype {
        Some(dtype) => dtype,
        None => published_dtype(&Checkpoint::open(&request.folder)?)?,
    };
    let kv_specs = own.kv_specs(request, request.kv_dtype.unwrap_or_else(|| storage.into()))?;
    // How wide activations are is the same on every device.
    let family = models::family::<CpuDevice>(request.config.architecture);
    let widths = (family.widths)(&request.config, own.shard)?;
    let element = storage.size() as u64;
    let rank = Rank {
        parallel: request.parallel,
        stage: request.coordinate.stage as usize,
        element,
        quantize: request.quantize,
    };
    let logit_rows = request.limits.max_num_seqs.max(LOGIT_ROWS_MIN);
    let limits = (&own.limits, request.limits.block_size);
    let needs = Needs {
        weights: plan::weights(&request.config, rank)?,
        activations: plan::activations((widths, logit_rows), limits, element),
        workspace: plan::workspace(&request.config, &own.limits, element),
        graphs: match request.device.cuda.graphs {
            true => plan::graphs(&request.config, request.limits.max_num_seqs),
            false => 0,
        },
        block: kv_specs.iter().map(block_bytes).sum(),
        kv: request.device.cuda.kv_bytes,
    };
    Ok((MemoryPlan::new(memory, request.device.cuda.utilization, needs)?, storage))
}

impl<B: Backend> RankExecutor<B> {
    /// Loads one rank onto `backend`.
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(mut backend: B, request: LoadRequest) -> Result<Self, DeviceError> {
        let plan = Plan::new(&request)?;
        let checkpoint = Checkpoint::open(&request.folder)?;
        let storage = match request.dtype {
            Some(dtype) => dtype,
            None => published_dtype(&checkpoint)?,
        };
        plan.survey(&mut backend, &request, &checkpoint, storage)?;
        let kv_specs =
            plan.kv_specs(&request, request.kv_dtype.unwrap_or_else(|| storage.into()))?;
        let block_bytes: Vec<_> =
            kv_specs.iter().map(|spec| backend.kv_block_bytes(spec)).collect();
        let blocks = blocks_that_fit(request.kv_bytes, &block_bytes)?;

        let mut reader = WeightReader::new(&checkpoint, plan.shard, storage)
            .with_quantization(request.config.quantization.as_ref());
        if let Some(progress) = request.progress.clone() {
            reader = reader.with_progress(progress, plan.parts());
        }
        let whole_experts = request.parallel.experts;
        let (quantize, sites) = (request.quantize, Vec::new());
        let loader = Loader { backend: &mut backend, reader, quantize, whole_experts, sites };
        let (parts, holding, sites) = plan.load(loader, &request)?;
        let memory = MemoryReport {
            weight_bytes_sharded: holding.sharded,
            weight_bytes_replicated: holding.replicated,
            replicated: holding.replicated_names,
            blocks: vec![blocks; block_bytes.len()],
            block_bytes,
            kernel_path: backend.kernel_path().to_owned(),
            kv: plan.kv_shares(&request, &kv_specs)?,
        };
        let (rows, hidden) = (request.limits.max_num_batched_tokens, request.config.hidden_size);
        let widths =
            (models::family::<B>(request.config.architecture).widths)(&request.config, plan.shard)?;
        let activations = StepActivations::new(&mut backend, rows, widths)?;
        let group = TensorGroup::new(&mut backend, request.collective, (rows, hidden))?;
        let meta = backend.step_meta(&plan.limits)?;
        let adapters = Bank::new(request.lora, sites);
        Ok(Self {
            coordinate: request.coordinate,
            parts,
            context: Context { backend, group, activations, adapters },
            meta,
            kv_specs,
            kv: Vec::new(),
            memory,
            vocab_size: request.config.vocab_size,
            scratch: sampling::Scratch::default(),
            spare: Vec::new(),
            failed: false,
        })
    }
}

/// What a rank is to hold, decided before anything is read.
struct Plan {
    shard: Shard,
    places: Vec<LayerPlace>,
    is_first: bool,
    is_last: bool,
    limits: Limits,
}

impl Plan {
    fn new(request: &LoadRequest) -> Result<Self, DeviceError> {
        let LoadRequest { config, coordinate, parallel, limits, collective, .. } = request;
        quant::check(config, request.quantize)?;
        let stages = parallel.divide(config)?;
        let (stage, rank) = (coordinate.stage as usize, coordinate.tp as usize);
        let met = (collective.rank(), collective.ranks());
        let Some(layers) = stages.get(stage).cloned().filter(|_| met == (rank, parallel.tensor))
        else {
            return Err(DeviceError::Contract(format!(
                "{coordinate} of {} stages of {} ranks, with a collective of {met:?}",
                parallel.pipeline, parallel.tensor
            )));
        };
        let limits = Limits {
            max_batched_tokens: limits.max_num_batched_tokens,
            max_sequences: limits.max_num_seqs,
            max_model_len: limits.max_model_len,
            vocab_size: config.vocab_size,
            kv_groups: config.kv_groups().len(),
        };
        limits.check()?;
        Ok(Self {
            shard: Shard::new(rank, parallel.tensor)?,
            places: models::places(config, &layers),
            is_first: stage == 0,
            is_last: stage + 1 == parallel.pipeline,
            limits,
        })
    }

    /// Parts that progress is counted in.
    fn parts(&self) -> usize {
        self.places.len() + usize::from(self.is_first) + usize::from(self.is_last)
    }

    /// The KV of each of the model's groups on this rank; a group may have no layer here.
    fn kv_specs(&self, request: &LoadRequest, dtype: KvDtype) -> Result<Vec<KvSpec>, DeviceError> {
        let heads = head_shape(&request.config, self.shard)?;
        let kind = match &request.config.latent {
            Some(_) if dtype.is_scaled() => {
                return Err(DeviceError::Unsupported(format!(
                    "a KV cache in {dtype} for a model with latent attention: bfloat16, float16 \
                     and float32 are possible"
                )));
            }
            Some(latent) => KvKind::Latent { width: latent.width() },
            None => KvKind::Heads { kv_heads: heads.kv_heads, head_dim: heads.head_dim },
        };
        let groups = request.config.kv_groups();
        let specs = groups.iter().enumerate().map(|(group, spec)| KvSpec {
            layers: self.places.iter().filter(|place| place.at.group == group).count(),
            kind,
            block_size: request.limits.block_size,
            dtype,
            mask: mask(spec.span),
        });
        Ok(specs.collect())
    }

    /// The same as other groups know it, who may be divided in another way.
    fn kv_shares(
        &self,
        request: &LoadRequest,
        specs: &[KvSpec],
    ) -> Result<Vec<KvShare>, DeviceError> {
        let config = &request.config;
        let heads = match config.latent {
            // One row for all heads, which every rank has.
            Some(_) => 0..1,
            None => self.shard.heads(config.num_heads, config.num_kv_heads)?.kv,
        };
        let groups = config.kv_groups();
        let shares = (0..).zip(groups.iter().zip(specs)).filter_map(|(group, (layers, spec))| {
            let first = self.places.iter().find(|place| place.at.group == group)?.layer;
            let before = layers.layers.iter().take_while(|layer| **layer < first).count();
            // Layers, heads and their sizes are far below what a u32 holds.
            Some(KvShare {
                group: group as u32,
                layers: Run::new(before as u32, (before + spec.layers) as u32),
                heads: Run::new(heads.start as u32, heads.end as u32),
                form: match spec.kind {
                    KvKind::Heads { head_dim, .. } => KvForm::Heads(head_dim as u32),
                    KvKind::Latent { width } => KvForm::Latent(width as u32),
                },
                dtype: spec.dtype.wire(),
                block_size: spec.block_size as u32,
            })
        });
        Ok(shares.collect())
    }

    /// Compares the names and shapes of a whole model with the checkpoint before anything of it is
    /// read, to say all that does not fit at once.
    fn survey<B: Backend>(
        &self,
        backend: &mut B,
        request: &LoadRequest,
        checkpoint: &Checkpoint,
        storage: Dtype,
    ) -> Result<(), DeviceError> {
        let config = &request.config;
        if config.quantization.is_some() {
            // Which tensors a layer has is then a matter of the method.
            return Ok(());
        }
        let reader = WeightReader::new(checkpoint, self.shard, storage).surveying();
        let (quantize, whole_experts, sites) = (None, false, Vec::new());
        let mut loader = Loader { backend, reader, quantize, whole_experts, sites };
        let whole = models::places(config, &(0..config.num_layers));
        VocabularyTable::load_embedding(&mut loader, config)?;
        opening(&mut loader, request)?;
        // An end before the end is one of too many findings, and the list says so.
        let _ = (models::family::<B>(config.architecture).load)(&mut loader, config, &whole);
        ending(&mut loader, request, (1, true))?;
        loader.reader.findings(config.num_layers)
    }

    fn load<B: Backend>(
        &self,
        mut loader: Loader<'_, B>,
        request: &LoadRequest,
    ) -> Result<(StageParts<B>, Holding, Vec<Site>), DeviceError> {
        let config = &request.config;
        let (embedding, opening) = match self.is_first {
            true => {
                let table = VocabularyTable::load_embedding(&mut loader, config)?;
                let opening = opening(&mut loader, request)?;
                loader.reader.part_done();
                (Some(table), opening)
            }
            false => (None, None),
        };
        let load_layers = models::family::<B>(config.architecture).load;
        let decoder = load_layers(&mut loader, config, &self.places)?;
        let ending = match self.is_last {
            true => {
                let rows = request.limits.max_num_seqs.max(LOGIT_ROWS_MIN);
                let ending = ending(&mut loader, request, (rows, self.is_first))?;
                loader.reader.part_done();
                Some(ending)
            }
            false => None,
        };
        let positions = request.limits.max_model_len;
        let rotary = Rotary::new(loader.backend, config, positions)?;
        let parts = StageParts { embedding, opening, decoder, rotary, ending };
        Ok((parts, loader.reader.into_holding(), loader.sites))
    }
}

/// What stands between a model's embedding and its first layer, if anything does.
fn opening<B: Backend>(
    loader: &mut Loader<'_, B>,
    LoadRequest { config, separator, .. }: &LoadRequest,
) -> Result<Option<Opening<B>>, DeviceError> {
    let Some(encoder) = config.encoder else { return Ok(None) };
    let texts = (encoder.token_types, *separator);
    Opening::load(loader, config, models::bert::OPENING, texts).map(Some)
}

/// What stands behind its last layer; `rows` of logits at a time, of a rank that has the embedding
/// or has not.
fn ending<B: Backend>(
    loader: &mut Loader<'_, B>,
    request: &LoadRequest,
    (rows, has_embedding): (usize, bool),
) -> Result<Ending<B>, DeviceError> {
    match request.pooling {
        Some(kind) => Pooler::load(loader, &request.config, kind).map(Ending::Pooler),
        None => Head::load(loader, &request.config, rows, has_embedding).map(Ending::Head),
    }
}

/// The type of the embedding, which every model has: what the files say, not the config.
fn published_dtype(checkpoint: &Checkpoint) -> Result<Dtype, DeviceError> {
    let found = checkpoint.raw(&rename::embedding(checkpoint))?.1.dtype;
    // Where even that is quantized, what is left in floats is little.
    Ok(Dtype::from_safetensors(found).unwrap_or(Dtype::F32))
}

/// Rows of logits that are computed at once even where few sequences are allowed, for prompt
/// log-probabilities.
const LOGIT_ROWS_MIN: usize = 16;
