//! The gateway's settings, typed; the command line fills them.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use troupe_runtime::model::source::ModelAccess;

use crate::{
    egress::parse::family::{ParserChoice, ReasoningFamily, ToolFamily},
    epp::secure::PickerTls,
    foreign::config::ForeignEndpoint,
    placement::config::PickerConfig,
    tenants::Tenant,
};

/// How a gateway serves.
#[derive(Clone)]
pub struct GatewayConfig {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Who may ask; with none, and no tenant, everybody.
    pub api_keys: Vec<String>,
    /// Who may ask and has a share of its own.
    pub tenants: Vec<Tenant>,
    /// Largest request body. A prompt of a million tokens has about 4 MiB as text, 8 as ids.
    pub max_body_bytes: usize,
    /// Largest sum of the bodies that are being read. A body is read into tokens and dropped, so
    /// this is held for milliseconds unless clients send slowly.
    pub max_bodies_bytes: usize,
    /// Requests at a time. Each holds its prompt and at most 256 KiB of unread answer, so 4096 of
    /// them are about a GiB at the very worst.
    pub max_requests: usize,
    /// Connections at a time; idle ones count.
    pub max_connections: usize,
    /// After which a connection is cut on which no whole head of a request came: at its beginning,
    /// and after each answer.
    pub head_timeout: Duration,
    /// How long a client may take to send a request's body.
    pub body_timeout: Duration,
    /// After which an answer is worthless.
    pub request_timeout: Duration,
    /// After which a client that does not read is cut off.
    pub stall_timeout: Duration,
    /// How long requests in flight may go on once the gateway is told to end.
    pub drain_timeout: Duration,
    /// How long a request may wait for an endpoint of a service that has none; zero refuses it at
    /// once.
    pub hold_timeout: Duration,
    /// Requests that may wait so at a time.
    pub max_held_requests: usize,
    /// What they may take in memory together. A text takes about what its body had.
    pub max_held_bytes: usize,
    /// Who goes first when endpoints have no room.
    pub flow: FlowControl,
    /// Endpoints that are not this cluster's.
    pub foreign: Vec<ForeignEndpoint>,
    /// How requests are placed where a service does not say; as llm-d does by default if not
    /// given.
    pub picker: Option<PickerConfig>,
    /// Where proxies ask this gateway who answers a request, by the Endpoint Picker Protocol;
    /// nowhere if not given.
    pub picker_listen: Option<SocketAddr>,
    /// As whom it is known there; without it there is no TLS.
    pub picker_tls: Option<PickerTls>,
    /// Whether KV blocks that another endpoint has cached are fetched from it where that is sooner
    /// done than computing them.
    pub peer_fetch: bool,
    /// Whether clients may have LoRA adapters come and go.
    pub lora_updates: bool,
    /// Whether a stream whose endpoint is lost goes on at another one.
    pub resume: Resume,
    /// After which a request whose endpoint has said nothing is sent to a second one as well, once;
    /// never if not given.
    pub hedge_after: Option<Duration>,
    /// Where what is known of the cluster is kept for a start without the store; nowhere if not
    /// given.
    pub data_dir: Option<PathBuf>,
    /// Long texts tokenized at a time.
    pub tokenizers: usize,
    /// Where models that were named by the hub's names are.
    pub hub: ModelAccess,
    /// Where requests without a seed draw theirs from; by chance if not given.
    pub seed: Option<u64>,
    /// Most alternatives that may be asked for per token; `None` allows the whole vocabulary.
    pub max_logprobs: Option<u32>,
    /// How the models write tool calls.
    pub tool_call_parser: ParserChoice<ToolFamily>,
    /// How they mark reasoning.
    pub reasoning_parser: ParserChoice<ReasoningFamily>,
}

/// Who goes first when endpoints have no room: llm-d's flow control.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlowControl {
    /// Whether requests wait here for endpoints with room; without it leaders' queues decide.
    pub enabled: bool,
    /// Requests that may wait in one band of priority.
    pub max_requests: usize,
    /// What they may take in memory.
    pub max_bytes: usize,
    /// The longest wait; a request's own time if not given. Who would wait longer is told so when
    /// he comes.
    pub ttl: Option<Duration>,
    /// Requests in an endpoint's queue from which on it is saturated.
    pub queue_depth_threshold: f64,
    /// Share of KV blocks in use from which on it is; not looked at if not given.
    pub kv_cache_util_threshold: Option<f64>,
    /// The share of the endpoints' places that requests leave free while others matter more.
    pub priority_holdback: f64,
}

/// Where a stream goes on whose endpoint is lost after the client was told a part of the output.
/// What was told is never told again, nor taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// At any endpoint with the same model; where it is executed in another way, later tokens may
    /// differ from those that the lost endpoint would have given, and the answer says so.
    #[default]
    Any,
    /// Only where the tokens are the same to the bit.
    Exact,
    /// Nowhere: it ends with an error.
    Off,
}

impl GatewayConfig {
    /// The defaults.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            api_keys: Vec::new(),
            tenants: Vec::new(),
            max_body_bytes: 32 << 20,
            max_bodies_bytes: 1 << 30,
            max_requests: 4096,
            max_connections: 8192,
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(600),
            stall_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(60),
            hold_timeout: Duration::from_secs(60),
            max_held_requests: 1024,
            max_held_bytes: 256 << 20,
            flow: FlowControl::default(),
            foreign: Vec::new(),
            picker: None,
            picker_listen: None,
            picker_tls: None,
            peer_fetch: true,
            lora_updates: false,
            resume: Resume::Any,
            hedge_after: None,
            data_dir: None,
            tokenizers: std::thread::available_parallelism().map_or(1, usize::from),
            hub: ModelAccess::offline(".cache/huggingface/hub"),
            seed: None,
            max_logprobs: Some(20),
            tool_call_parser: ParserChoice::Auto,
            reasoning_parser: ParserChoice::Auto,
        }
    }
}

impl Default for FlowControl {
    fn default() -> Self {
        Self {
            enabled: true,
            max_requests: 5000,
            max_bytes: 1 << 30,
            ttl: None,
            queue_depth_threshold: 5.0,
            kv_cache_util_threshold: None,
            priority_holdback: 0.05,
        }
    }
}

impl FromStr for Resume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "any" => Ok(Self::Any),
            "exact" => Ok(Self::Exact),
            "off" => Ok(Self::Off),
            _ => Err("must be any, exact or off".to_owned()),
        }
    }
}

/// Keys are secrets and stay out.
impl fmt::Debug for GatewayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayConfig")
            .field("listen", &self.listen)
            .field("api_keys", &self.api_keys.len())
            .field("tenants", &self.tenants)
            .field("max_body_bytes", &self.max_body_bytes)
            .field("max_requests", &self.max_requests)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}
