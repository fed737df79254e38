//! Real models: a folder's files, and ranks that load their share of its weights.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use troupe_gpu::{
    CudaRequest, DeviceChoice, DeviceRequest, LoadRequest, ParallelSizes, StepLimits,
    choose::DEFAULT_UTILIZATION,
    collective::Collective,
    cpu::{CpuOptions, KernelPath},
    cuda::{claim::Sharing, images::Images},
    dtype::Dtype,
    executor::LoadProgress,
    kv::KvDtype,
    lora::{Adapter, LoraLimits},
    quant,
    tensor::Quantize,
    weights::Checkpoint,
};
use troupe_runtime::{
    discovery::directory::Launch,
    error::chain,
    id::Coordinate,
    model::{
        card::ModelCard,
        config::{AttentionSpan, ModelConfig, ModelDtype},
        fetch::{self, ModelAccess, Part, Progress},
        grammar::GrammarFactory,
        pooling::{Pooling, PoolingKind},
        source::{ModelFiles, ModelSource},
    },
    wire::status::{Embeds, Role},
};

use super::load::{Models, Prepared};
use crate::{
    leader::settings::EngineLimits,
    worker::{device::Loader, grammar::GrammarSource},
};

/// Told how far each rank has loaded, from 0 to 1.
pub type RankProgress = Arc<dyn Fn(Coordinate, f32) + Send + Sync>;

/// Models from folders on this machine, or from wherever else they are fetched.
#[derive(Clone)]
pub struct Checkpoints {
    /// Where copies are, and the way to what is not here.
    pub access: ModelAccess,
    /// Processors of this machine.
    pub cores: usize,
    /// The devices that this host offers, where a model does not say which it wants.
    pub device: DeviceChoice,
    /// Where kernels are kept that are compiled here.
    pub kernels: PathBuf,
    /// Told while weights load.
    pub progress: Option<RankProgress>,
}

impl Models for Checkpoints {
    fn prepare(&self, launch: &Launch) -> Result<Prepared, String> {
        let card = self.card(launch)?;
        let pooling = pooling(launch, &card)?;
        let limits = limits(launch, &card, pooling)?;
        parallel_sizes(launch).divide(&card.config).map_err(|error| chain(&error))?;
        let choice = self.choice(launch)?;
        if let DeviceChoice::Cuda(_) = choice {
            // What is not here is said before weights are fetched.
            let kernels = Images::Real(self.kernels.clone());
            choice.here(&kernels).map_err(|error| chain(&error))?;
        }
        let quantize = quantize(launch)?;
        quant::check(&card.config, quantize).map_err(|error| chain(&error))?;
        let source = ModelSource { name: card.name.clone(), folder: card.files.folder.clone() };
        let digest = fetch::model_digest(&source, &self.access).map_err(|error| chain(&error))?;
        // The files' headers: a missing or truncated file is found before a process is started.
        // Weights that are elsewhere are looked at when they have come.
        if ModelFiles::find(&source.folder).is_ok() {
            Checkpoint::open(&source.folder).map_err(|error| chain(&error))?;
        }
        let dtype = match dtype(launch)? {
            Some(dtype) => format!("{dtype:?}").to_lowercase(),
            None => format!("{:?}", card.config.dtype).to_lowercase(),
        };
        let millis = launch.flags.stage_time_min_ms.unwrap_or(0);
        let prepared = Prepared {
            launch: launch.clone(),
            limits,
            model: digest,
            tokenizer: card.tokenizer_digest,
            vocab_size: u32::try_from(card.config.vocab_size).unwrap_or(u32::MAX),
            pooling: pooling.map(|pooling| pooling.kind),
            embeds: pooling.map(|pooling| embeds(&card.config, pooling)),
            windows: card.config.kv_groups().iter().map(|group| window(group.span)).collect(),
            dtype,
            quantization: match quantize {
                None => {
                    let own = card.config.quantization.as_ref();
                    own.map_or_else(|| "none".to_owned(), |own| own.method.clone())
                }
                Some(Quantize::Int8) => "int8".into(),
                Some(Quantize::Int4) => "int4".into(),
            },
            kv_dtype: kv_dtype(launch, card.config.dtype)?.name().into(),
            stage_time_min: Duration::from_millis(millis.into()),
            config: Some(Arc::new(card.config.clone())),
            adapters: Vec::new(),
        };
        prepared.with_adapters(self)
    }

    fn adapter(&self, prepared: &Prepared, path: &str) -> Result<Arc<Adapter>, String> {
        let (Some(room), Some(config)) = (prepared.limits.lora, &prepared.config) else {
            return Err("LoRA is not enabled: --enable-lora".into());
        };
        let folder = fetch::fetch_adapter(path, &self.access).map_err(|error| chain(&error))?;
        let adapter = Adapter::open(&folder, config, room.max_rank as usize);
        adapter.map(Arc::new).map_err(|error| chain(&error))
    }

    fn loader(
        &self,
        prepared: Arc<Prepared>,
        rank: Coordinate,
        collective: Box<dyn Collective>,
        ranks_here: u32,
    ) -> Loader {
        let models = self.clone();
        Box::new(move || {
            let unsupported = troupe_gpu::error::DeviceError::Unsupported;
            let launch = &prepared.launch;
            let card = models.card(launch).map_err(unsupported)?;
            let limits = &prepared.limits;
            let ranks_here = ranks_here.max(1);
            let share = (models.cores / ranks_here as usize).max(1);
            let kv_total = launch.flags.kv_cache_memory_bytes.unwrap_or(DEFAULT_KV_BYTES);
            let tell = models.progress.clone();
            // Fetching is most of the time where there is something to fetch.
            let fetched = Mutex::new(0.0);
            let watch = |Progress { done, total }: Progress| {
                let share = FETCHING * done as f32 / total.max(1) as f32;
                *fetched.lock().unwrap_or_else(PoisonError::into_inner) = share;
                tell.iter().for_each(|tell| tell(rank, share));
            };
            let whole = fetch::fetch(&launch.model_uri, &models.access, Part::All, &watch);
            let folder = whole.map_err(|error| unsupported(chain(&error)))?.folder;
            let fetched = fetched.into_inner().unwrap_or_else(PoisonError::into_inner);
            let progress = tell.map(|tell| -> LoadProgress {
                Arc::new(move |share| tell(rank, fetched + (1.0 - fetched) * share))
            });
            troupe_gpu::load(LoadRequest {
                folder,
                config: card.config.clone(),
                coordinate: rank,
                parallel: parallel_sizes(launch),
                dtype: dtype(launch).map_err(unsupported)?,
                quantize: quantize(launch).map_err(unsupported)?,
                kv_dtype: Some(kv_dtype(launch, card.config.dtype).map_err(unsupported)?),
                pooling: prepared.pooling,
                separator: separator(&card, prepared.pooling).map_err(unsupported)?,
                limits: StepLimits {
                    max_num_batched_tokens: limits.max_num_batched_tokens as usize,
                    max_num_seqs: limits.max_num_seqs as usize,
                    max_model_len: limits.max_model_len as usize,
                    block_size: limits.block_size as usize,
                },
                kv_bytes: kv_total / u64::from(ranks_here),
                device: DeviceRequest {
                    choice: models.choice(launch).map_err(unsupported)?,
                    cpu: CpuOptions {
                        threads: launch.flags.threads.map_or(share, |threads| threads as usize),
                        path: kernel_path(launch).map_err(unsupported)?,
                    },
                    cuda: cuda(launch, (rank, ranks_here), models.kernels.clone()),
                },
                lora: limits.lora.map(|room| LoraLimits {
                    max_loras: room.max_loras as usize,
                    max_cpu_loras: room.max_cpu_loras as usize,
                    max_rank: room.max_rank as usize,
                }),
                collective,
                progress,
            })
        })
    }

    fn grammars(&self, launch: &Launch) -> Option<GrammarSource> {
        let (models, launch) = (self.clone(), launch.clone());
        Some(Arc::new(move || {
            let card = models.card(&launch)?;
            GrammarFactory::new(&card.tokenizer, &card.stop_ids).map_err(|error| chain(&error))
        }))
    }
}

impl Checkpoints {
    /// Models that run on the CPU, of which this machine has so many.
    pub fn on_cpu(access: ModelAccess, cores: usize) -> Self {
        let (device, kernels) = (DeviceChoice::Cpu, PathBuf::new());
        Self { access, cores, device, kernels, progress: None }
    }

    /// `--device` of the model, else of the host.
    fn choice(&self, launch: &Launch) -> Result<DeviceChoice, String> {
        let said = launch.flags.device.as_deref().unwrap_or("auto").parse();
        Ok(match said.map_err(|why: String| format!("--device: {why}"))? {
            DeviceChoice::Auto => self.device,
            said => said,
        })
    }

    /// The text side, which is fetched if it is not here.
    fn card(&self, launch: &Launch) -> Result<ModelCard, String> {
        let source = fetch::fetch(&launch.model_uri, &self.access, Part::Text, &|_| {});
        source.and_then(|source| ModelCard::load(&source)).map_err(|error| chain(&error))
    }
}

/// What is made of states, if the model is run for embeddings.
fn pooling(launch: &Launch, card: &ModelCard) -> Result<Option<Pooling>, String> {
    let pooling = Pooling::resolve(&launch.flags, card)?;
    if pooling.is_some() && launch.role != Role::Unified {
        return Err("a model that is run for embeddings has one step for each text: prefill and \
                    decode cannot be apart"
            .to_owned());
    }
    Ok(pooling)
}

/// Bounds that follow from flags and model; a text for embeddings is as long as those who made the
/// model let it be.
fn limits(
    launch: &Launch,
    card: &ModelCard,
    pooling: Option<Pooling>,
) -> Result<EngineLimits, String> {
    let positions = u32::try_from(card.config.max_position_embeddings).unwrap_or(u32::MAX);
    let Some(pooling) = pooling else {
        return EngineLimits::resolve(&launch.flags, positions);
    };
    let own = card.sentences.and_then(|files| files.max_tokens).unwrap_or(u32::MAX);
    let limits = EngineLimits::resolve(&launch.flags, positions.min(own))?;
    let whole = card.config.encoder.is_some() || pooling.kind.needs_all();
    limits.for_embeddings(&launch.flags, whole)
}

/// The vectors as gateways are told of them.
fn embeds(config: &ModelConfig, pooling: Pooling) -> Embeds {
    let size = |size: &usize| u32::try_from(*size).unwrap_or(u32::MAX);
    let dimensions = config.matryoshka.as_ref().map(|sizes| sizes.iter().map(size).collect());
    let scores = pooling.kind == PoolingKind::Score;
    let width = if scores { 1 } else { size(&config.hidden_size) };
    Embeds { size: width, normalize: pooling.normalize, dimensions, scores }
}

/// The token between two texts, of a model that reads pairs.
fn separator(card: &ModelCard, pooling: Option<PoolingKind>) -> Result<Option<u32>, String> {
    if pooling != Some(PoolingKind::Score) {
        return Ok(None);
    }
    let id = card.tokenizer.id(SEPARATOR);
    id.map(Some).ok_or_else(|| format!("the tokenizer has no token {SEPARATOR} to part texts by"))
}

fn parallel_sizes(launch: &Launch) -> ParallelSizes {
    ParallelSizes {
        tensor: launch.tensor_parallel as usize,
        pipeline: launch.pipeline_parallel as usize,
        experts: launch.expert_parallel,
    }
}

/// How a CUDA device is used, if it comes to that: by one of `ranks_here` ranks of this process.
fn cuda(launch: &Launch, (rank, ranks_here): (Coordinate, u32), kernels: PathBuf) -> CudaRequest {
    let flags = &launch.flags;
    let utilization = flags.gpu_memory_utilization.unwrap_or(DEFAULT_UTILIZATION);
    let number = rank.stage * launch.tensor_parallel + rank.tp;
    let (sharing, utilization) = match flags.allow_shared_device {
        // Ranks of one process that may be on one device have its memory in equal parts.
        true => (Sharing::Shared(number), utilization / ranks_here.max(1)),
        false => (Sharing::Alone, utilization),
    };
    CudaRequest {
        utilization,
        kv_bytes: flags.kv_cache_memory_bytes,
        batch_invariant: flags.batch_invariant,
        graphs: !flags.enforce_eager,
        sharing,
        kernels,
        ..CudaRequest::default()
    }
}

/// `--cpu-path`; `None` takes the best that this machine has.
fn kernel_path(launch: &Launch) -> Result<Option<KernelPath>, String> {
    let Some(name) = launch.flags.cpu_path.as_deref() else { return Ok(None) };
    let path = KernelPath::ALL.into_iter().find(|path| path.name() == format!("cpu/{name}"));
    match path.filter(|path| path.available()) {
        Some(path) => Ok(Some(path)),
        None => Err(format!("--cpu-path is {name}, which this machine has not")),
    }
}

/// `--quantization`; `None` keeps weights as they are.
fn quantize(launch: &Launch) -> Result<Option<Quantize>, String> {
    match launch.flags.quantization.as_deref() {
        None => Ok(None),
        Some("int8") => Ok(Some(Quantize::Int8)),
        Some("int4") => Ok(Some(Quantize::Int4)),
        Some(other) => Err(format!("--quantization is {other}, int8 and int4 are possible")),
    }
}

fn window(span: AttentionSpan) -> Option<u32> {
    match span {
        AttentionSpan::Both | AttentionSpan::Full => None,
        AttentionSpan::Window(positions) => Some(positions),
    }
}

/// `--dtype`; `None` keeps the checkpoint's type.
fn dtype(launch: &Launch) -> Result<Option<Dtype>, String> {
    match launch.flags.dtype.as_deref() {
        None | Some("auto") => Ok(None),
        Some("float32" | "float") => Ok(Some(Dtype::F32)),
        Some("bfloat16") => Ok(Some(Dtype::Bf16)),
        Some("float16" | "half") => Ok(Some(Dtype::F16)),
        Some(other) => {
            Err(format!("--dtype is {other}, auto, float32, bfloat16 and float16 are possible"))
        }
    }
}

/// `--kv-cache-dtype`; `auto` is what the model computes in: `--dtype`, else what its config says.
fn kv_dtype(launch: &Launch, own: ModelDtype) -> Result<KvDtype, String> {
    match launch.flags.kv_cache_dtype.as_deref() {
        None | Some("auto") => Ok(match (dtype(launch)?, own) {
            (Some(dtype), _) => dtype.into(),
            (None, ModelDtype::Bf16) => KvDtype::Bf16,
            (None, ModelDtype::F16) => KvDtype::F16,
            (None, ModelDtype::F32) => KvDtype::F32,
        }),
        Some("float32" | "float") => Ok(KvDtype::F32),
        Some("bfloat16") => Ok(KvDtype::Bf16),
        Some("float16" | "half") => Ok(KvDtype::F16),
        Some("int8") => Ok(KvDtype::Int8),
        Some(other) => Err(format!(
            "--kv-cache-dtype is {other}; auto, float32, bfloat16, float16 and int8 are possible"
        )),
    }
}

/// What stands between the texts of a pair, in the vocabularies of BERT's family.
const SEPARATOR: &str = "[SEP]";
/// The share of progress that is fetching, if there is something to fetch.
const FETCHING: f32 = 0.9;
/// Memory for KV blocks of one process when nothing is said, shared by its ranks; what no request
/// could ever use is not taken.
const DEFAULT_KV_BYTES: u64 = 4 << 30;
