//! What a member has to know of its model, and how its ranks are loaded.
//!
//! [`Models`] is the cut between the actors and where models come from: the real one reads a folder
//! and loads weights (`checkpoint`), the tensor-free one ([`FakeModels`]) needs neither, so
//! that groups and clusters can be tested and simulated without a model.

use std::{sync::Arc, time::Duration};

use troupe_gpu::{collective::Collective, lora::Adapter};
use troupe_runtime::{
    discovery::directory::{GroupRecord, Launch},
    id::{AdapterId, Coordinate, Digest, EndpointId},
    model::{config::ModelConfig, pooling::PoolingKind},
    prefix,
    spec::LoraModule,
    wire::{
        adapter::AdapterInfo,
        status::{Embeds, Fingerprint},
    },
};

use crate::{
    leader::{
        adapters::FirstAdapter,
        describe::Endpoint,
        settings::{EngineLimits, EngineSettings},
    },
    worker::{
        device::Loader,
        fake::{FakeExecutor, FakeModel},
        grammar::GrammarSource,
    },
};

/// Where models come from.
pub trait Models: Send + Sync {
    /// Reads what is needed before any weight is. Blocks on the disk.
    ///
    /// # Errors
    /// A sentence for people: what is wrong with the model or the flags, and what would be right.
    fn prepare(&self, launch: &Launch) -> Result<Prepared, String>;

    /// How one rank is loaded; `ranks_here` share this process's processors.
    fn loader(
        &self,
        prepared: Arc<Prepared>,
        rank: Coordinate,
        collective: Box<dyn Collective>,
        ranks_here: u32,
    ) -> Loader;

    /// Reads and checks an adapter for a model that was prepared. Blocks on the disk.
    ///
    /// # Errors
    /// A sentence for people: everything that is wrong with it.
    fn adapter(&self, prepared: &Prepared, path: &str) -> Result<Arc<Adapter>, String>;

    /// How the factory of the model's grammars is made; a model without a tokenizer has none.
    fn grammars(&self, _launch: &Launch) -> Option<GrammarSource> {
        None
    }
}

/// A model as a member knows it before its weights are loaded.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What the group runs.
    pub launch: Launch,
    /// Bounds that follow from flags and model.
    pub limits: EngineLimits,
    /// Config and weights.
    pub model: Digest,
    /// The tokenizer's file.
    pub tokenizer: Digest,
    /// Token ids are below this.
    pub vocab_size: u32,
    /// What is made of states, if the model is run for embeddings.
    pub pooling: Option<PoolingKind>,
    /// What comes of that.
    pub embeds: Option<Embeds>,
    /// For each KV group, how many positions its layers see, if not all.
    pub windows: Vec<Option<u32>>,
    /// Arithmetic type of the weights, as the fingerprint names it.
    pub dtype: String,
    /// What weights are rounded to, as the fingerprint names it.
    pub quantization: String,
    /// What keys and values are stored as, as fingerprint and prefix hashes name it.
    pub kv_dtype: String,
    /// The least time that a stage takes for a step.
    pub stage_time_min: Duration,
    /// What adapters are checked against; a tensor-free model has none.
    pub config: Option<Arc<ModelConfig>>,
    /// The adapters that the launch names, in its order.
    pub adapters: Vec<Arc<Adapter>>,
}

impl Prepared {
    /// Reads the adapters that the launch names.
    ///
    /// # Errors
    /// A sentence for people that names the adapter.
    pub fn with_adapters(mut self, models: &dyn Models) -> Result<Self, String> {
        let names = self.launch.flags.served_model_name.iter();
        let names: Vec<_> = names.chain([&self.launch.model_name]).cloned().collect();
        for LoraModule { name, path } in self.launch.flags.lora.modules.clone() {
            if names.contains(&name) {
                return Err(format!("the LoRA adapter {name} has the name of the model"));
            }
            let adapter = models.adapter(&self, &path);
            let adapter = adapter.map_err(|why| format!("the LoRA adapter {name}: {why}"))?;
            self.adapters.push(adapter);
        }
        Ok(self)
    }

    /// They, as ranks take them.
    pub fn adapters(&self) -> Vec<(AdapterId, Arc<Adapter>)> {
        (1..).map(AdapterId).zip(self.adapters.iter().cloned()).collect()
    }

    /// They, as the leader serves them.
    pub fn first_adapters(&self) -> Vec<FirstAdapter> {
        let modules = self.launch.flags.lora.modules.iter().zip(self.adapters());
        let first = modules.map(|(module, (id, adapter))| FirstAdapter {
            id,
            info: AdapterInfo {
                name: module.name.clone(),
                path: module.path.clone(),
                digest: adapter.digest(),
            },
        });
        first.collect()
    }

    /// The settings of the group's engine.
    pub fn settings(&self, record: &GroupRecord) -> EngineSettings {
        EngineSettings {
            endpoint: EndpointId {
                group: record.group.clone(),
                revision: record.revision,
                epoch: record.epoch,
                dp: 0,
            },
            model: self.model,
            tokenizer: self.tokenizer,
            vocab_size: self.vocab_size,
            limits: self.limits,
            stages: record.launch.pipeline_parallel,
            embeds: self.embeds.clone(),
            windows: self.windows.clone(),
            kv_dtype: self.kv_dtype.clone(),
            // Whoever knows the model can name blocks of it; salts keep tenants apart.
            prefix_key: prefix::key_of(self.model),
        }
    }

    /// What is known of the group's endpoint before its ranks have reported.
    pub fn endpoint(&self, record: &GroupRecord, address: &str) -> Endpoint {
        let launch = &record.launch;
        let mut model_names = launch.flags.served_model_name.clone();
        if model_names.is_empty() {
            model_names.push(launch.model_name.clone());
        }
        Endpoint {
            address: address.to_owned(),
            model_uri: launch.model_uri.clone(),
            model_names,
            labels: record.labels.clone(),
            role: launch.role,
            fingerprint: Fingerprint {
                model: self.model,
                tokenizer: self.tokenizer,
                adapter: None,
                dtype: self.dtype.clone(),
                quantization: self.quantization.clone(),
                kv_dtype: self.kv_dtype.clone(),
                tensor_parallel: launch.tensor_parallel,
                expert_parallel: launch.expert_parallel,
                kernel_path: String::new(),
                batch_invariant: true,
            },
        }
    }
}

/// Layers of a tensor-free model: enough to be divided in two or four unequal ways.
const FAKE_LAYERS: u32 = 5;
/// Its key and value heads: with four ranks two hold the same.
const FAKE_HEADS: u32 = 2;

/// A tensor-free model: its tokens are hashes of what came before.
#[derive(Clone, Copy, Debug)]
pub struct FakeModels {
    /// Tokens of its vocabulary.
    pub vocab_size: u32,
    /// Positions that it was made for.
    pub model_len: u32,
    /// KV blocks that every rank has room for.
    pub blocks: u32,
}

impl Models for FakeModels {
    fn prepare(&self, launch: &Launch) -> Result<Prepared, String> {
        let millis = launch.flags.stage_time_min_ms.unwrap_or(0);
        let prepared = Prepared {
            launch: launch.clone(),
            limits: EngineLimits::resolve(&launch.flags, self.model_len)?,
            model: Digest::of(launch.model_uri.as_bytes()),
            tokenizer: Digest::of(b"none"),
            vocab_size: self.vocab_size,
            pooling: None,
            embeds: None,
            windows: vec![None],
            dtype: "none".into(),
            quantization: "none".into(),
            kv_dtype: "float32".into(),
            stage_time_min: Duration::from_millis(millis.into()),
            config: None,
            adapters: Vec::new(),
        };
        prepared.with_adapters(self)
    }

    /// An adapter of nothing, told apart by its path; one whose path says that it is bad is.
    fn adapter(&self, _prepared: &Prepared, path: &str) -> Result<Arc<Adapter>, String> {
        match path.contains("bad") {
            true => Err(format!("{path} is a bad adapter")),
            false => Ok(Arc::new(Adapter::hollow(Digest::of(path.as_bytes())))),
        }
    }

    fn loader(
        &self,
        prepared: Arc<Prepared>,
        rank: Coordinate,
        collective: Box<dyn Collective>,
        _ranks_here: u32,
    ) -> Loader {
        let stages = prepared.launch.pipeline_parallel;
        let model = FakeModel {
            stages,
            vocab_size: self.vocab_size,
            blocks: self.blocks,
            block_size: prepared.limits.block_size,
            window: None,
            layers: FAKE_LAYERS.max(stages),
            heads: FAKE_HEADS,
        };
        Box::new(move || Ok(Box::new(FakeExecutor::new(rank, model, collective))))
    }
}
