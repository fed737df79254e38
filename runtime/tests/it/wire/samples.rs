//! One message of every kind, with every field filled.

use std::{fmt::Debug, time::Duration};

use troupe_runtime::{
    error::{ErrorKind, PublicError},
    id::{
        AdapterId, BlockId, Coordinate, Digest, EndpointId, Epoch, GroupId, NodeId, RequestId,
        SequenceId, StepId,
    },
    transport::{Class, Conversation, DecodeMessage, EncodeMessage},
    wire::{
        Message,
        adapter::{
            AdaptDown, AdaptLoad, AdaptUp, AdapterInfo, AdapterOrder, AdapterRef, AdapterReport,
            AdapterState, AdapterStatus, LoadAdapter,
        },
        cache::{
            CacheBatch, CacheDown, CacheFollow, CacheParams, CacheSnapshot, CacheStill, CacheUp,
        },
        generate::{
            Choice, Chunk, Finish, FinishReason, Finished, Generate, GenerateDown, GenerateUp,
            Grammar, KvSource, OutputKind, Reasoning, SamplingOptions, TokenLogprobs, Usage,
        },
        group::{
            Formation, FormationMember, Hello, MemberDown, MemberUp, Progress, RankPulse,
            RankReport,
        },
        guest::{Arrival, GuestDown, GuestUp, Record},
        host::{
            Disk, DiskUse, FactsAsk, HostDown, HostFacts, HostUp, LogsAsk, MeasureAsk,
            ModelDigests, ModelFound, ProbeDown, ProbeUp, Way,
        },
        join::{JoinDown, JoinPart, JoinUp, RenewDown, RenewUp, Renewed, Welcome},
        kv::{BulkChannel, BulkOpen, TensorHeader, WireDtype},
        latency::Latencies,
        member::{Blame, Fault, MemberLaunch, MemberToNode, NodeToMember},
        operate::{Reason, Refusal},
        preflight::{PreflightDown, PreflightUp},
        shared::{SegmentOffer, SharedDown, SharedUp},
        status::{Embeds, EndpointInfo, Fingerprint, Load, Role, StatusDown, StatusUp},
        step::{
            BlockCopy, BlockSwap, NewSequence, Outcome, ResumedSequence, RunningSequence,
            SampledTokens, SequenceResult, Span, StepKind, StepPlan, StepResult,
        },
        transfer::{Imported, PrefillDown, PrefillUp, TransferState},
    },
};
use uuid::Uuid;

use super::transfers::{kv_frame, kv_open, orders, prefill, share, transfer_report};

/// A message whose type is forgotten.
pub(super) struct Sample(Box<dyn Any>);

trait Any {
    fn name(&self) -> &'static str;
    fn bytes(&self) -> Vec<u8>;
    fn round_trip(&self);
    fn decode_any(&self, bytes: &[u8]);
}

impl<T: Message + EncodeMessage + DecodeMessage + PartialEq + Debug> Any for T {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn bytes(&self) -> Vec<u8> {
        self.encode().unwrap().to_vec()
    }

    fn round_trip(&self) {
        assert_eq!(&T::decode(&self.encode().unwrap()).unwrap(), self);
    }

    fn decode_any(&self, bytes: &[u8]) {
        let _ = T::decode(bytes);
    }
}

impl Sample {
    pub(super) fn name(&self) -> &'static str {
        self.0.name()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.bytes()
    }

    pub(super) fn round_trip(&self) {
        self.0.round_trip();
    }

    /// Reads other bytes as this sample's type.
    pub(super) fn decode_any(&self, bytes: &[u8]) {
        self.0.decode_any(bytes);
    }
}

pub(super) fn group() -> GroupId {
    GroupId { namespace: "default".into(), service: "llama".into(), index: 3 }
}

pub(super) fn epoch() -> Epoch {
    Epoch { number: 7, nonce: 0x0123_4567_89ab_cdef }
}

pub(super) fn endpoint() -> EndpointId {
    EndpointId { group: group(), revision: 2, epoch: epoch(), dp: 1 }
}

pub(super) fn rank() -> Coordinate {
    Coordinate { dp: 0, stage: 1, tp: 2 }
}

fn options() -> SamplingOptions {
    SamplingOptions {
        temperature: 0.5,
        top_p: 0.9,
        top_k: 40,
        min_p: 0.05,
        presence_penalty: 0.25,
        frequency_penalty: -0.5,
        repetition_penalty: 1.1,
        logit_bias: vec![(3, -1.5)],
        allowed_token_ids: vec![1, 2],
        bad_words: vec![vec![9, 10]],
        max_tokens: 100,
        min_tokens: 4,
        eos_token_ids: vec![2],
        stop_token_ids: vec![11],
        ignore_eos: true,
        logprobs: Some(5),
        prompt_logprobs: Some(1),
        grammar: Some(Grammar::Regex("a+".into())),
        reasoning: Some(Reasoning { open: 7, close: 8, inside: true }),
    }
}

pub(super) fn generate() -> Generate {
    Generate {
        request: RequestId(Uuid::from_u128(42)),
        attempt: 1,
        alone: true,
        endpoint: endpoint(),
        tenant: "tenant".into(),
        priority: -2,
        time_left_ms: 600_000,
        prompt: vec![1, 2, 3],
        block_hashes: vec![u128::MAX - 1],
        hash_block_size: 16,
        hash_seed: u128::MAX - 2,
        adapter: Some(AdapterRef { name: "adapter".into(), digest: Digest([4; 32]) }),
        cache_salt: Some("salt".into()),
        output: OutputKind::Embedding,
        options: options(),
        seed: 99,
        choices: vec![Choice { index: 0, output: vec![4, 5] }],
        kv_source: Some(KvSource {
            endpoint: endpoint(),
            address: "quic://10.0.0.3:7000".into(),
            cached: Some(64),
        }),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        model: Digest([1; 32]),
        tokenizer: Digest([2; 32]),
    }
}

fn logprobs() -> TokenLogprobs {
    TokenLogprobs { token: 5, logprob: -0.25, rank: 1, top: vec![(5, -0.25), (6, -2.0)] }
}

fn span() -> Span {
    Span { computed: 4, count: 2, sample: true }
}

pub(super) fn plan() -> StepPlan {
    StepPlan {
        epoch: epoch(),
        step: StepId(12),
        kind: StepKind::Run,
        new: vec![NewSequence {
            sequence: SequenceId(5),
            request: RequestId(Uuid::from_u128(42)),
            tokens: vec![1, 2, 3],
            prompt_len: 2,
            choice: 1,
            seed: 99,
            options: options(),
            adapter: Some(AdapterId(3)),
            traceparent: None,
            block_tables: vec![vec![BlockId(0), BlockId(7)]],
            span: span(),
        }],
        resumed: vec![ResumedSequence {
            sequence: SequenceId(4),
            appended: vec![8],
            block_tables: vec![vec![BlockId(1)]],
            span: span(),
        }],
        running: vec![RunningSequence {
            sequence: SequenceId(3),
            appended: vec![9].into(),
            placeholder: Some(StepId(11)),
            swaps: vec![BlockSwap { group: 0, index: 1, block: BlockId(7) }],
            new_blocks: vec![vec![BlockId(2)]],
            drafts: vec![10].into(),
            span: span(),
        }],
        finished: vec![SequenceId(1)],
        preempted: vec![SequenceId(2)],
        copies: vec![BlockCopy { group: 0, from: BlockId(4), to: BlockId(5) }],
    }
}

fn result() -> StepResult {
    let outcome = |number, outcome| SequenceResult { sequence: SequenceId(number), outcome };
    let tokens = SampledTokens {
        tokens: vec![5].into(),
        logprobs: vec![logprobs()],
        prompt_logprobs: vec![logprobs()],
    };
    StepResult {
        epoch: epoch(),
        step: StepId(12),
        outcomes: vec![
            outcome(1, Outcome::Tokens(tokens)),
            outcome(2, Outcome::Embedding(vec![0.5, -0.5])),
            outcome(3, Outcome::PromptLogprobs(vec![logprobs()])),
            outcome(4, Outcome::Failed("why".into())),
        ],
        compute_us: 1234,
    }
}

fn adapter_report(state: AdapterState) -> MemberUp {
    MemberUp::Adapter(AdapterReport { id: AdapterId(3), state })
}

fn adapters() -> AdapterStatus {
    let served = AdapterInfo { name: "a".into(), path: "/a".into(), digest: Digest([4; 32]) };
    AdapterStatus {
        max_loras: 2,
        served: vec![served],
        running: vec!["a".into()],
        waiting: vec!["b".into()],
    }
}

fn report() -> RankReport {
    RankReport {
        rank: rank(),
        weight_bytes_sharded: 1000,
        weight_bytes_replicated: 10,
        replicated: vec!["model.norm.weight".into()],
        blocks: vec![64],
        block_bytes: vec![4096],
        kernel_path: "cpu/avx512".into(),
        kv: vec![share()],
        adapters: vec![Digest([4; 32])],
    }
}

fn info() -> EndpointInfo {
    EndpointInfo {
        endpoint: endpoint(),
        role: Role::Unified,
        model_names: vec!["llama".into()],
        max_model_len: 4096,
        block_size: 16,
        num_blocks: 64,
        max_num_seqs: 8,
        embeds: Some(Embeds { size: 8, normalize: true, dimensions: Some(vec![4]), scores: true }),
        fingerprint: Fingerprint {
            model: Digest([1; 32]),
            tokenizer: Digest([2; 32]),
            adapter: None,
            dtype: "bfloat16".into(),
            quantization: "none".into(),
            kv_dtype: "float32".into(),
            expert_parallel: true,
            tensor_parallel: 2,
            kernel_path: "cpu/avx512".into(),
            batch_invariant: true,
        },
    }
}

fn formation() -> Formation {
    let member = FormationMember { address: "quic://10.0.0.1:7000".into(), ranks: vec![rank()] };
    Formation { epoch: epoch(), members: vec![member] }
}

fn chunk() -> Chunk {
    Chunk {
        request: RequestId(Uuid::from_u128(42)),
        attempt: 1,
        choice: 0,
        position: 2,
        tokens: vec![5].into(),
        logprobs: vec![logprobs()],
        prompt_logprobs: vec![logprobs()],
        cached_tokens: 1,
        embedding: vec![0.5, -0.25],
        finish: Some(Finished {
            reason: FinishReason::Stop,
            stop_token: Some(11),
            usage: Usage { prompt_tokens: 3, cached_tokens: 1, completion_tokens: 3 },
        }),
    }
}

fn error() -> PublicError {
    PublicError::bad_request("why", "field")
}

fn bulk() -> BulkOpen {
    let to = Coordinate { stage: 2, ..rank() };
    BulkOpen { epoch: epoch(), from: rank(), to, channel: BulkChannel::Activation }
}

fn join() -> JoinUp {
    JoinUp {
        token: "id".into(),
        secret: "secret".into(),
        part: JoinPart::Host,
        request: vec![1],
        operator: Some(vec![2]),
        former: Some(vec![3]),
        name: "a".into(),
        version: "0.1.0".into(),
        wire: 1,
        now_ms: 4,
    }
}

fn welcome() -> Welcome {
    Welcome {
        certificate: "pem".into(),
        ca: "pem".into(),
        ca_key: Some("pem".into()),
        operator: Some("pem".into()),
        cluster: "c".into(),
        etcd: vec!["http://10.0.0.1:2379".into()],
        control: vec!["quic://10.0.0.1:7443".into()],
        controller: true,
        lifetime: 60,
    }
}

fn facts() -> HostFacts {
    let disk = Disk { what: DiskUse::Cache, path: "/var/cache".into(), free: Some(1 << 40) };
    HostFacts {
        version: "0.1.0".into(),
        wire: 1,
        devices: 2,
        device_kind: "cpu".into(),
        device_memory: 1 << 34,
        open_files: Some(1024),
        locked_memory: Some(u64::MAX),
        socket_receive: Some(212_992),
        socket_send: None,
        disks: vec![Disk { what: DiskUse::Data, path: "/data".into(), free: None }, disk],
        model: Some(ModelFound::Here(ModelDigests {
            model: Digest([1; 32]),
            tokenizer: Digest([2; 32]),
        })),
    }
}

fn segment_offer() -> SegmentOffer {
    SegmentOffer { host: 9 << 90, process: 77, file: 5, slots: 8, slot_bytes: 4096, nonce: 3 << 99 }
}

fn way() -> Way {
    Way { rtt_min_us: 90, rtt_median_us: 120, clock_ahead_us: -7, bytes: 9 << 20, bytes_us: 8000 }
}

/// Every message.
pub(super) fn samples() -> Vec<Sample> {
    let finish = Finish { choice: 0, reason: FinishReason::Stop, tokens_kept: 3 };
    let hello =
        Hello { group: group(), epoch: epoch(), member: 1, address: "quic://10.0.0.2:7000".into() };
    let progress = Progress {
        rank: rank(),
        step: StepId(12),
        compute_us: 77,
        idle_us: 5,
        waited_us: 3,
        silence_us: 2,
    };
    let pulse = RankPulse { rank: rank(), beats: 41 };
    let mut took = Latencies::default();
    took.add(Duration::from_millis(20), 7);
    let load = Load {
        running: 1,
        waiting: 2,
        blocks_used: 3,
        blocks_total: 4,
        steps: 5,
        tokens: 6,
        first_token: took,
        next_token: Latencies::default(),
        fetch_rate: 7,
    };
    let [export, import, back, moves, close] = orders();
    let header =
        TensorHeader { step: StepId(12), index: 1, rows: 3, columns: 8, dtype: WireDtype::Bf16 };
    let launch = MemberLaunch {
        group: group(),
        epoch: epoch(),
        member: 1,
        record: b"{}".to_vec(),
        bind: "10.0.0.2".into(),
        data_dir: "d".into(),
        records: "r".into(),
        cluster: "troupe".into(),
        cores: 4,
    };
    let node = NodeId(Uuid::from_u128(7));
    let arrival = Arrival { index: 1, size: 2, node, launch: b"{}".to_vec() };
    let record = || Record { key: "/troupe/local/nodes/1".into(), value: b"{}".to_vec() };
    vec![
        sample(GenerateUp::Start(Box::new(generate()))),
        sample(GenerateUp::Finish(finish)),
        sample(GenerateDown::Chunk(chunk())),
        sample(GenerateDown::Refused(error())),
        sample(GenerateDown::Failed(PublicError::new(ErrorKind::Internal, "why"))),
        sample(GenerateDown::Moved(PublicError::new(ErrorKind::Unavailable, "why"))),
        sample(MemberUp::Hello(hello)),
        sample(MemberUp::Loaded(vec![report()])),
        sample(MemberUp::Progress(progress)),
        sample(MemberUp::Pulse(vec![pulse])),
        sample(MemberUp::Result(result())),
        sample(MemberUp::Failed("why".into())),
        sample(MemberUp::Drain(60)),
        sample(MemberUp::Transfer(transfer_report(TransferState::Imported(Imported {
            ready: 3,
            bytes: 4096,
        })))),
        sample(MemberUp::Transfer(transfer_report(TransferState::Exported))),
        sample(MemberUp::Transfer(transfer_report(TransferState::Broken("why".into())))),
        sample(MemberUp::Transfer(transfer_report(TransferState::Closed(2)))),
        sample(MemberDown::Form(formation())),
        sample(MemberDown::Start(vec![64])),
        sample(MemberDown::Step(plan())),
        sample(MemberDown::Stop),
        sample(MemberDown::Drain),
        sample(MemberDown::Transfer(export)),
        sample(MemberDown::Transfer(import)),
        sample(MemberDown::Transfer(back)),
        sample(MemberDown::Transfer(moves)),
        sample(MemberDown::Transfer(close)),
        sample(PrefillUp::Start(Box::new(prefill()))),
        sample(PrefillDown::Refused(error())),
        sample(PrefillDown::Sent),
        sample(PrefillDown::Failed("why".into())),
        sample(kv_frame()),
        sample(SharedDown::Offer(segment_offer())),
        sample(SharedDown::Beside(vec![1, 2, 3])),
        sample(SharedDown::Placed(vec![1, 2, 3], 4096)),
        sample(SharedUp { mapped: true, taken: 4 }),
        sample(Conversation::Prefill),
        sample(Conversation::Kv(kv_open())),
        sample(StatusUp::Watch),
        sample(StatusUp::Metrics),
        sample(StatusDown::Info(Box::new(info()))),
        sample(StatusDown::Load(load)),
        sample(StatusDown::Metrics("a 1\n".into())),
        sample(bulk()),
        sample(header),
        sample(Conversation::Generate),
        sample(Conversation::Group),
        sample(Conversation::Status),
        sample(Conversation::Bulk(bulk())),
        sample(Conversation::Join),
        sample(Conversation::Renew),
        sample(Conversation::Operate),
        sample(Conversation::Host),
        sample(Conversation::Probe(Class::Kv)),
        sample(Conversation::Preflight),
        sample(HostUp::Logs(LogsAsk { group: group(), member: Some(1), tail: 9, follow: true })),
        sample(HostDown::Lines(vec!["a line".into()])),
        sample(HostDown::Refused("why".into())),
        sample(HostUp::Facts(FactsAsk { model: Some("file:///m".into()) })),
        sample(HostUp::Measure(MeasureAsk {
            door: "quic://10.0.0.2:7000".into(),
            node: Some(node),
        })),
        sample(HostDown::Facts(Box::new(facts()))),
        sample(HostDown::Way(way())),
        sample(PreflightUp { hosts: vec!["n1".into()], model: Some("file:///m".into()) }),
        sample(PreflightDown::Host("{}".into())),
        sample(PreflightDown::Way("{}".into())),
        sample(PreflightDown::Finding("{}".into())),
        sample(PreflightDown::Refused(Refusal::new(Reason::NotFound, "why"))),
        sample(ProbeUp::Ping),
        sample(ProbeUp::Load),
        sample(ProbeUp::Taken),
        sample(ProbeDown::Pong(1)),
        sample(ProbeDown::Taken(2)),
        sample(join()),
        sample(JoinDown::Welcome(Box::new(welcome()))),
        sample(JoinDown::Refused("why".into())),
        sample(RenewUp { request: vec![1, 2] }),
        sample(RenewDown::Renewed(Box::new(Renewed {
            certificate: "pem".into(),
            control: vec!["quic://10.0.0.1:7443".into()],
        }))),
        sample(RenewDown::Refused("why".into())),
        sample(NodeToMember::Launch(Box::new(launch))),
        sample(NodeToMember::Leader("quic://10.0.0.1:7000".into())),
        sample(NodeToMember::Stop),
        sample(NodeToMember::Drain(60)),
        sample(NodeToMember::TurnAway(vec![(node, "why".into())])),
        sample(MemberToNode::Listening("quic://10.0.0.2:7000".into())),
        sample(MemberToNode::Ready(b"{}".to_vec())),
        sample(MemberToNode::Failed("why".into())),
        sample(MemberToNode::Draining),
        sample(MemberToNode::Alive),
        sample(MemberToNode::Blames(Blame { member: 3, fault: Fault::Slow, why: "x".into() })),
        sample(Conversation::Guest),
        sample(Conversation::Cache),
        sample(Conversation::Adapt),
        sample(AdaptUp::Load(AdaptLoad { name: "a".into(), path: "/a".into(), replace: true })),
        sample(AdaptUp::Unload("a".into())),
        sample(AdaptDown::Done),
        sample(AdaptDown::Refused(error())),
        sample(MemberDown::Adapter(AdapterOrder::Load(LoadAdapter {
            id: AdapterId(3),
            path: "/a".into(),
        }))),
        sample(MemberDown::Adapter(AdapterOrder::Unload(AdapterId(3)))),
        sample(adapter_report(AdapterState::Loaded(Digest([4; 32])))),
        sample(adapter_report(AdapterState::Unloaded)),
        sample(adapter_report(AdapterState::Refused("why".into()))),
        sample(StatusDown::Adapters(adapters())),
        sample(CacheUp::Follow(CacheFollow { epoch: epoch(), since: Some(8) })),
        sample(CacheDown::Params(CacheParams {
            endpoint: endpoint(),
            block_size: 16,
            blocks: 64,
            hashing: Digest([3; 32]),
        })),
        sample(CacheDown::Batch(CacheBatch {
            epoch: epoch(),
            seq: 9,
            cleared: true,
            removed: vec![u128::MAX - 3],
            stored: vec![u128::MAX - 4, 5],
        })),
        sample(CacheDown::Snapshot(CacheSnapshot {
            epoch: epoch(),
            seq: 9,
            part: 1,
            last: true,
            held: vec![u128::MAX - 5],
        })),
        sample(CacheDown::Still(CacheStill { epoch: epoch(), seq: 9 })),
        sample(GuestUp::Arrive(arrival)),
        sample(GuestUp::Put(record())),
        sample(GuestUp::Delete("/troupe/local/nodes/1".into())),
        sample(GuestDown::Put(record())),
        sample(GuestDown::Delete("/troupe/local/nodes/1".into())),
        sample(GuestDown::Synced),
        sample(GuestDown::Later("why".into())),
        sample(GuestDown::Refused("why".into())),
    ]
}

pub(super) fn sample<T: Message + EncodeMessage + DecodeMessage + PartialEq + Debug + 'static>(
    message: T,
) -> Sample {
    Sample(Box::new(message))
}
