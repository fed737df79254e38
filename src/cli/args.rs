//! Arguments that several commands share.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use troupe_gateway::{
    FlowControl, ForeignEndpoint, GatewayConfig, ParserChoice, PickerConfig, PickerTls,
    ReasoningFamily, Resume, Tenant, ToolFamily,
};
use troupe_gpu::DeviceChoice;
use troupe_runtime::spec::{EngineFlags, gib, kv_cache_dtype, utilization};

use super::{Failure, lora::LoraArgs};
use crate::stack::{
    self,
    identity::{self, DataDir},
    inventory::{self, Label, Offer},
    listen::Listen,
};

/// How a model is run: vLLM's flag names.
#[derive(Args, Clone, Debug)]
pub(crate) struct EngineArgs {
    /// Arithmetic type of the weights; auto keeps the checkpoint's.
    #[arg(long, default_value = "auto",
          value_parser = ["auto", "float32", "float", "bfloat16", "float16", "half"])]
    dtype: String,
    /// Integers that weights are rounded to when they are loaded: smaller and faster, less exact.
    #[arg(long, short = 'q', value_name = "METHOD", value_parser = ["int8", "int4"])]
    quantization: Option<String>,
    /// What keys and values are stored as: auto is the weights' type; int8 has a scale for each
    /// token and head [default: auto].
    #[arg(long, value_name = "DTYPE", value_parser = kv_cache_dtype)]
    kv_cache_dtype: Option<String>,
    /// What the model is run for: auto is embeddings (pooling) for models that are made for them.
    #[arg(long, value_parser = ["auto", "generate", "pooling"])]
    runner: Option<String>,
    /// The same by an older name.
    #[arg(long, value_parser = ["auto", "generate", "embed", "embedding"])]
    task: Option<String>,
    /// How embeddings are made, if not as the model's files say, such as
    /// {"pooling_type": "MEAN", "normalize": true}.
    #[arg(long, value_name = "JSON")]
    pooler_config: Option<String>,
    /// Most tokens of prompt and output together [default: what the model was made for].
    #[arg(long, value_name = "TOKENS")]
    max_model_len: Option<u32>,
    /// Most sequences that run at a time [default: 128].
    #[arg(long, value_name = "N")]
    max_num_seqs: Option<u32>,
    /// Most tokens computed in one step [default: 2048].
    #[arg(long, value_name = "TOKENS")]
    max_num_batched_tokens: Option<u32>,
    /// Tokens per KV block [default: 16].
    #[arg(long, value_name = "TOKENS")]
    block_size: Option<u32>,
    /// KV blocks, whatever the memory.
    #[arg(long, value_name = "N")]
    num_gpu_blocks_override: Option<u32>,
    /// Memory for KV blocks of one process, in bytes [default: 4 GiB at most].
    #[arg(long, value_name = "BYTES")]
    kv_cache_memory_bytes: Option<u64>,
    /// Where requests without a seed draw theirs from.
    #[arg(long)]
    seed: Option<u64>,
    /// Names that requests use for the model [default: as it was given].
    #[arg(long, num_args = 1.., value_name = "NAME",
          value_parser = clap::builder::NonEmptyStringValueParser::new())]
    served_model_name: Vec<String>,
    /// Most sequences that wait before requests are refused with 503 [default: 1024].
    #[arg(long, value_name = "N")]
    max_num_queued_reqs: Option<u32>,
    /// Most tokens of one prompt in a step while others are there too; 0 is no limit [default: 0].
    #[arg(long, value_name = "TOKENS")]
    long_prefill_token_threshold: Option<u32>,
    /// Who runs first: by arrival, by priority, or by the longest prefix in the cache [default:
    /// fcfs].
    #[arg(long, value_parser = ["fcfs", "priority", "lpm"])]
    scheduling_policy: Option<String>,
    /// Find KV blocks of earlier requests again [default].
    #[arg(long, overrides_with = "no_enable_prefix_caching")]
    enable_prefix_caching: bool,
    /// Forget KV blocks with the request that made them.
    #[arg(long, overrides_with = "enable_prefix_caching")]
    no_enable_prefix_caching: bool,
    /// Drafts, as JSON: {"method": "ngram", "num_speculative_tokens": 4}.
    #[arg(long, value_name = "JSON")]
    speculative_config: Option<String>,
    /// How long KV that another group computes is waited for before it is computed here, beside 2
    /// ms for each token [default: 2000].
    #[arg(long, value_name = "MS")]
    kv_transfer_timeout_ms: Option<u32>,
    /// Whether KV between groups goes through memory where both ends are on one host [default: on].
    #[arg(long, value_name = "WHETHER", value_parser = ["on", "off"])]
    kv_transfer_shm: Option<String>,
    /// The hosts' memory for KV blocks that devices give up, of the whole group, in GiB [default:
    /// 0].
    #[arg(long, value_name = "GIB", value_parser = gib)]
    kv_offloading_size: Option<u64>,
    /// Taken as vLLM's flag is: who keeps those blocks.
    #[arg(long, value_name = "NAME", value_parser = ["native"])]
    kv_offloading_backend: Option<String>,
    /// What makes room when they are full: what was not used for longest, or ARC, with which what
    /// is used often stays longer [default: lru].
    #[arg(long, value_name = "POLICY", value_parser = ["lru", "arc"])]
    kv_offloading_eviction_policy: Option<String>,
    /// The hosts' disks for what leaves that memory, of the whole group, in GiB [default: 0].
    #[arg(long, value_name = "GIB", value_parser = gib)]
    kv_offloading_disk_size: Option<u64>,
    /// The folder of that on each host [default: kv in the data directory].
    #[arg(long, value_name = "FOLDER")]
    kv_offloading_disk_path: Option<String>,
    #[command(flatten)]
    lora: LoraArgs,
    /// Threads per device [default: the machine's, divided by its devices].
    #[arg(long, value_name = "N")]
    threads: Option<u32>,
    /// Which of the CPU's kernel paths to take, for tests and comparisons: all give the same bits.
    #[arg(long, hide = true, value_parser = [
        "amx", "avx512-bf16", "avx512-vnni", "avx512", "avx2", "portable", "reference"])]
    cpu_path: Option<String>,
    /// The least time that a stage takes for a step, in milliseconds: a slow device, for tests.
    #[arg(long, hide = true, value_name = "MS")]
    stage_time_min_ms: Option<u32>,
    /// Ranks that share each layer.
    #[arg(long, visible_alias = "tp", value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tensor_parallel_size: u32,
    /// Stages that the layers are divided into.
    #[arg(long, visible_alias = "pp", value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pipeline_parallel_size: u32,
    /// The device to run on: auto takes a CUDA device if there is one that can be used, else the
    /// CPU; cuda:N takes number N.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|cuda[:N]")]
    device: DeviceChoice,
    /// The share of a CUDA device's memory that a rank may use [default: 0.9].
    #[arg(long, value_name = "SHARE", value_parser = utilization)]
    gpu_memory_utilization: Option<u32>,
    /// Compute each row the same to the bit whatever else is in its step, on CUDA too, where that
    /// is slower.
    #[arg(long)]
    batch_invariant: bool,
    /// Launch every kernel of a step by itself, and capture no CUDA graphs.
    #[arg(long)]
    enforce_eager: bool,
    /// Let several ranks have one CUDA device, its memory in equal parts.
    #[arg(long)]
    allow_shared_device: bool,
    /// Have the ranks of a stage divide its experts, each of which one rank has whole, and not the
    /// width of each.
    #[arg(long, visible_alias = "ep")]
    pub(crate) enable_expert_parallel: bool,
}

impl EngineArgs {
    /// The engine's part of them.
    pub(crate) fn flags(&self) -> EngineFlags {
        EngineFlags {
            dtype: Some(self.dtype.clone()),
            quantization: self.quantization.clone(),
            kv_cache_dtype: self.kv_cache_dtype.clone(),
            runner: self.runner.clone(),
            task: self.task.clone(),
            pooler_config: self.pooler_config.clone(),
            max_model_len: self.max_model_len,
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            block_size: self.block_size,
            num_gpu_blocks_override: self.num_gpu_blocks_override,
            kv_cache_memory_bytes: self.kv_cache_memory_bytes,
            seed: self.seed,
            served_model_name: self.served_model_name.clone(),
            max_num_queued_reqs: self.max_num_queued_reqs,
            long_prefill_token_threshold: self.long_prefill_token_threshold,
            scheduling_policy: self.scheduling_policy.clone(),
            enable_prefix_caching: match (self.enable_prefix_caching, self.no_enable_prefix_caching)
            {
                (_, true) => Some(false),
                (true, false) => Some(true),
                (false, false) => None,
            },
            speculative_config: self.speculative_config.clone(),
            kv_transfer_timeout_ms: self.kv_transfer_timeout_ms,
            kv_transfer_shm: self.kv_transfer_shm.clone(),
            kv_offloading_bytes: self.kv_offloading_size,
            kv_offloading_backend: self.kv_offloading_backend.clone(),
            kv_offloading_eviction_policy: self.kv_offloading_eviction_policy.clone(),
            kv_offloading_disk_bytes: self.kv_offloading_disk_size,
            kv_offloading_disk_path: self.kv_offloading_disk_path.clone(),
            lora: self.lora.flags(),
            threads: self.threads,
            cpu_path: self.cpu_path.clone(),
            stage_time_min_ms: self.stage_time_min_ms,
            device: (self.device != DeviceChoice::Auto).then(|| self.device.to_string()),
            gpu_memory_utilization: self.gpu_memory_utilization,
            batch_invariant: self.batch_invariant,
            enforce_eager: self.enforce_eager,
            allow_shared_device: self.allow_shared_device,
        }
    }
}

/// Where HTTP is served, and to whom.
#[derive(Args, Clone, Debug)]
pub(crate) struct HttpArgs {
    /// Address that HTTP is served on.
    #[arg(long, default_value = "0.0.0.0")]
    pub(crate) host: IpAddr,
    /// Port that HTTP is served on; 0 takes a free one.
    #[arg(long, default_value_t = 8000)]
    pub(crate) port: u16,
    /// A key that clients must show as `Authorization: Bearer KEY`; may be given several times.
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Vec<String>,
    /// A YAML file of tenants: who may ask with which keys, whose share of the tokens is how large,
    /// and the highest priority that each may claim (docs/flow-control.md).
    #[arg(long, value_name = "FILE")]
    tenants: Option<PathBuf>,
    /// A YAML file of OpenAI servers that are not this cluster's and answer behind this gateway
    /// (docs/foreign-endpoints.md).
    #[arg(long, value_name = "FILE")]
    foreign_endpoints: Option<PathBuf>,
    #[command(flatten)]
    flow: FlowArgs,
    /// Seconds after which a connection is cut on which no whole head of a request came, at its
    /// beginning and after each answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 30,
        value_parser = clap::value_parser!(u32).range(1..))]
    timeout_keep_alive: u32,
    /// Seconds that a client may take to send a request's body.
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
        value_parser = clap::value_parser!(u32).range(1..))]
    timeout_request_body: u32,
    /// Most alternatives that a request may ask for per token; -1 allows the whole vocabulary.
    #[arg(long, value_name = "COUNT", default_value_t = 20, allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..=i64::from(u32::MAX)))]
    max_logprobs: i64,
    /// Seconds that a request may wait for a service that is declared and has no endpoint; 0
    /// refuses it at once.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    no_endpoint_timeout: u32,
    /// A file with an EndpointPickerConfig, which says how requests are placed on endpoints where a
    /// service does not say it [default: llm-d's default profile].
    #[arg(long, value_name = "FILE", value_parser = picker)]
    endpoint_picker_config: Option<PickerConfig>,
    /// Port where proxies that speak Envoy's ext_proc ask who answers a request, by the Endpoint
    /// Picker Protocol [default: none].
    #[arg(long, value_name = "PORT")]
    grpc_port: Option<u16>,
    /// A file with the certificate that those proxies are shown, and what it was issued by, as PEM
    /// [default: none, and no TLS].
    #[arg(long, value_name = "FILE", requires_all = ["grpc_port", "grpc_tls_key"])]
    grpc_tls_cert: Option<PathBuf>,
    /// A file with its private key, as PEM.
    #[arg(long, value_name = "FILE", requires = "grpc_tls_cert")]
    grpc_tls_key: Option<PathBuf>,
    /// Whether KV blocks that another endpoint has cached are fetched from it where that is sooner
    /// done than computing them: on or off [default: on].
    #[arg(long, value_name = "ON|OFF", value_parser = on_or_off)]
    kv_peer_fetch: Option<bool>,
    /// Where a request goes on whose endpoint is lost after a part of the answer was told: any
    /// (wherever the same model is served), exact (only where the tokens are the same to the bit)
    /// or off (it ends with an error).
    #[arg(long, value_name = "WHERE", default_value = "any")]
    resume: Resume,
    /// Milliseconds after which a request whose endpoint has said nothing is sent to a second one
    /// as well, once; whoever speaks first answers [default: never].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..))]
    hedge_after_ms: Option<u32>,
    /// Serve `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`, as
    /// VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 has vLLM do: who may ask can then have hosts read a path.
    #[arg(long)]
    allow_runtime_lora_updating: bool,
    /// How models write tool calls: auto (as their chat templates show), none, hermes, llama3_json,
    /// mistral, pythonic or qwen3_coder.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    tool_call_parser: ParserChoice<ToolFamily>,
    /// How models mark reasoning: auto (as their chat templates show), none, deepseek_r1, mistral
    /// or qwen3.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    reasoning_parser: ParserChoice<ReasoningFamily>,
    /// Taken as vLLM's flag is; tool calls are read in any case if it is known how.
    #[arg(long)]
    enable_auto_tool_choice: bool,
}

impl HttpArgs {
    /// For this process alone: a free port of the loopback address, and one key.
    pub(crate) fn loopback(key: String) -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            api_key: vec![key],
            tenants: None,
            foreign_endpoints: None,
            flow: FlowArgs::default(),
            timeout_keep_alive: 30,
            timeout_request_body: 60,
            max_logprobs: 20,
            no_endpoint_timeout: 60,
            endpoint_picker_config: None,
            grpc_port: None,
            grpc_tls_cert: None,
            grpc_tls_key: None,
            kv_peer_fetch: None,
            resume: Resume::Any,
            hedge_after_ms: None,
            allow_runtime_lora_updating: false,
            tool_call_parser: ParserChoice::Auto,
            reasoning_parser: ParserChoice::Auto,
            enable_auto_tool_choice: false,
        }
    }

    /// A gateway that serves like this, and finds models as this process does.
    pub(crate) fn config(&self) -> Result<GatewayConfig, Failure> {
        let mut config = GatewayConfig::new((self.host, self.port).into());
        config.api_keys.clone_from(&self.api_key);
        let read = |flag, file: &Option<PathBuf>| {
            file.as_deref().map(|file| read_yaml(flag, file)).transpose()
        };
        if let Some((file, wrong)) = read("--tenants", &self.tenants)? {
            config.tenants = Tenant::read(file).map_err(wrong)?;
        }
        if let Some((file, wrong)) = read("--foreign-endpoints", &self.foreign_endpoints)? {
            config.foreign = ForeignEndpoint::read(file).map_err(wrong)?;
        }
        config.flow = self.flow.config();
        config.head_timeout = Duration::from_secs(self.timeout_keep_alive.into());
        config.body_timeout = Duration::from_secs(self.timeout_request_body.into());
        config.hub = stack::hub();
        config.hold_timeout = Duration::from_secs(self.no_endpoint_timeout.into());
        config.picker.clone_from(&self.endpoint_picker_config);
        for warning in config.picker.iter().flat_map(|picker| &picker.warnings) {
            tracing::warn!(warning, "endpoint picker config");
        }
        config.picker_listen = self.grpc_port.map(|port| (self.host, port).into());
        config.picker_tls = self.picker_tls()?;
        config.lora_updates = self.allow_runtime_lora_updating;
        config.peer_fetch = self.kv_peer_fetch.unwrap_or(config.peer_fetch);
        config.resume = self.resume;
        config.hedge_after = self.hedge_after_ms.map(|ms| Duration::from_millis(ms.into()));
        config.max_logprobs = u32::try_from(self.max_logprobs).ok();
        config.tool_call_parser = self.tool_call_parser;
        config.reasoning_parser = self.reasoning_parser;
        // Calls are read whenever a family is known, so there is nothing to enable.
        let _ = self.enable_auto_tool_choice;
        Ok(config)
    }

    /// As whom the gateway is known to proxies, if that was said.
    fn picker_tls(&self) -> Result<Option<PickerTls>, Failure> {
        let (Some(cert), Some(key_file)) = (&self.grpc_tls_cert, &self.grpc_tls_key) else {
            return Ok(None);
        };
        let read = |flag: &str, file: &Path| {
            let wrong = |error| Failure::usage(format!("{flag} {}: {error}", file.display()));
            std::fs::read(file).map_err(wrong)
        };
        let (chain, key) = (read("--grpc-tls-cert", cert)?, read("--grpc-tls-key", key_file)?);
        let wrong = |why| Failure::usage(format!("--grpc-tls-cert {}: {why}", cert.display()));
        let tls = PickerTls::from_pem(&chain, &key).map_err(wrong)?;
        Ok(Some(tls.following(cert.clone(), key_file.clone())))
    }
}

/// What a file of a flag holds, and how to say what is wrong with it.
fn read_yaml(
    flag: &str,
    file: &Path,
) -> Result<(serde_json::Value, impl Fn(String) -> Failure + use<>), Failure> {
    let name = format!("{flag} {}", file.display());
    let wrong = move |why: String| Failure::usage(format!("{name}: {why}"));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let read = serde_norway::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    Ok((read, wrong))
}

/// Who goes first when endpoints have no room.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct FlowArgs {
    /// Whether requests wait at the gateway while all endpoints of their model are saturated, in
    /// order of priority and in fair shares between tenants: on, or off (leaders' queues decide)
    /// [default: on].
    #[arg(long, value_name = "ON|OFF", value_parser = on_or_off)]
    flow_control: Option<bool>,
    /// Requests in an endpoint's queue from which on it is saturated [default: 5].
    #[arg(long, value_name = "COUNT", value_parser = above_zero)]
    flow_queue_depth_threshold: Option<f64>,
    /// Share of KV blocks in use from which on an endpoint is saturated, as 0.8 [default: what
    /// waits tells enough].
    #[arg(long, value_name = "SHARE", value_parser = above_zero)]
    flow_kv_cache_util_threshold: Option<f64>,
    /// Requests that may wait in one band of priority [default: 5000].
    #[arg(long, value_name = "COUNT")]
    flow_max_requests: Option<usize>,
    /// Bytes that they may take [default: 1073741824].
    #[arg(long, value_name = "BYTES")]
    flow_max_bytes: Option<usize>,
    /// Seconds that a request may wait, as 0.5; one that would wait longer is refused when it comes
    /// [default: as long as its answer may take].
    #[arg(long, value_name = "SECONDS", value_parser = some_seconds)]
    flow_request_ttl: Option<Duration>,
    /// Share of the places of all endpoints that requests leave free while others with a higher
    /// priority come [default: 0.05].
    #[arg(long, value_name = "SHARE", value_parser = share)]
    flow_priority_holdback: Option<f64>,
}

impl FlowArgs {
    fn config(&self) -> FlowControl {
        let default = FlowControl::default();
        FlowControl {
            enabled: self.flow_control.unwrap_or(default.enabled),
            max_requests: self.flow_max_requests.unwrap_or(default.max_requests),
            max_bytes: self.flow_max_bytes.unwrap_or(default.max_bytes),
            ttl: self.flow_request_ttl,
            queue_depth_threshold: self
                .flow_queue_depth_threshold
                .unwrap_or(default.queue_depth_threshold),
            kv_cache_util_threshold: self.flow_kv_cache_util_threshold,
            priority_holdback: self.flow_priority_holdback.unwrap_or(default.priority_holdback),
        }
    }
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err("must be on or off".to_owned()),
    }
}

fn above_zero(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    let fits = number.is_finite() && number > 0.0;
    fits.then_some(number).ok_or_else(|| "must be above 0".to_owned())
}

fn some_seconds(text: &str) -> Result<Duration, String> {
    let seconds = above_zero(text)?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "is longer than a clock can say".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    let fits = (0.0..1.0).contains(&number);
    fits.then_some(number).ok_or_else(|| "must be at least 0 and below 1".to_owned())
}

/// What a file says of placement; all that is wrong with it, if it is.
fn picker(path: &str) -> Result<PickerConfig, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    PickerConfig::read(&text).map_err(|error| error.to_string())
}

/// How a process takes part in a cluster.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterArgs {
    /// etcd's client URLs, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "URLS")]
    pub(crate) etcd: Vec<String>,
    /// Address that other hosts reach this one at, or a name of this host that stands for it, and
    /// the UDP port of its door [default: the address from which it reaches the cluster, 7443].
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub(crate) listen: Option<Listen>,
    /// Where this process keeps its identity and what it must not forget [default: for root
    /// /var/lib/troupe, else ~/.local/state/troupe].
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Name of the cluster: lower-case letters, digits and dashes.
    #[arg(long, default_value = "troupe", value_name = "NAME")]
    pub(crate) cluster: String,
}

impl ClusterArgs {
    /// Where this process's door is to be, at this port unless another is said.
    pub(crate) fn door(&self, port: u16) -> SocketAddr {
        Listen::or_towards(self.listen, &self.etcd, port)
    }

    /// Its data directory, which is its own from now on.
    pub(crate) fn take_data_dir(&self) -> Result<DataDir, Failure> {
        DataDir::take_or_default(self.data_dir.as_deref())
    }
}

/// What a host offers.
#[derive(Args, Clone, Debug)]
pub(crate) struct HostArgs {
    /// Name of this host [default: its host name].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How many devices it offers; a rank takes one [default: its CUDA devices, or 1 of the CPU].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    devices: Option<u32>,
    /// Which devices it offers: auto is its CUDA devices if it has any that can be used, else the
    /// CPU.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|cuda[:N]")]
    device: DeviceChoice,
    /// A label of this host, for a service's selectors; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = Label::parse)]
    label: Vec<Label>,
    /// Where this host stands: its zone. A group's members stay in one if they can.
    #[arg(long, value_name = "ZONE", value_parser = |zone: &str| Label::of(inventory::ZONE, zone))]
    zone: Option<Label>,
    /// Where this host stands: its rack.
    #[arg(long, value_name = "RACK", value_parser = |rack: &str| Label::of(inventory::RACK, rack))]
    rack: Option<Label>,
    /// Seconds that what runs here may take to finish when this host is stopped.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) drain_timeout: u32,
}

impl HostArgs {
    /// The name that this host goes by.
    pub(crate) fn name(&self) -> String {
        self.name.clone().unwrap_or_else(identity::host_name)
    }

    /// The devices that it offers.
    pub(crate) fn offer(&self) -> Result<Offer, Failure> {
        Offer::of_host(self.device, self.devices).map_err(Failure::usage)
    }

    /// What it says of itself.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        let given = self.label.iter().chain(&self.zone).chain(&self.rack);
        inventory::labels(&self.name(), &given.cloned().collect::<Vec<_>>())
    }
}
