//! Every message that crosses a process border, grouped by conversation.
//!
//! | file | conversation | opened by |
//! |---|---|---|
//! | [`adapter`] | a LoRA adapter comes or goes: [`adapter::AdaptUp`] / [`adapter::AdaptDown`] | gateway, at the leader |
//! | [`cache`] | which KV blocks an endpoint holds: [`cache::CacheUp`] / [`cache::CacheDown`] | gateway, at the leader |
//! | [`generate`] | one request: [`generate::GenerateUp`] / [`generate::GenerateDown`] | gateway, at the leader |
//! | [`guest`] | a host that shares its leader's store: [`guest::GuestUp`] / [`guest::GuestDown`] | worker pod, at the leader's |
//! | [`group`] | one member's life: [`group::MemberUp`] / [`group::MemberDown`] | worker, at the leader |
//! | [`step`] | what a step does: carried inside [`group`] | |
//! | [`status`] | what an endpoint is and how busy it is | gateway, at the leader |
//! | [`latency`] | how long things took: carried inside [`status`] | |
//! | [`operate`] | one question of an operator: [`operate::OperateUp`] / [`operate::OperateDown`] | operator, at a control host |
//! | [`member`] | a member process and its node, over pipes | node |
//! | [`host`] | how a host is and what it can do: [`host::HostUp`] / [`host::HostDown`] | control host, at a host |
//! | [`preflight`] | whether the cluster is fit: [`preflight::PreflightUp`] / [`preflight::PreflightDown`] | operator, at a control host |
//! | [`join`] | a token for an identity, a new certificate for an old one | newcomer or host, at a control host |
//! | [`kv`] | tensors: activations, collectives (raw bytes behind a small header) | whoever sends |
//! | [`shared`] | tensors in memory of their sender: [`shared::SharedDown`] / [`shared::SharedUp`] | whoever sends |
//! | [`tier`] | KV blocks between a device and its host: carried inside [`group`] | |
//! | [`transfer`] | KV blocks from group to group: [`transfer::PrefillUp`] / [`transfer::PrefillDown`], and their bytes | decode leader, at a prefill leader |
//!
//! Messages are rkyv archives. A received frame is copied once into an aligned buffer, validated
//! with bytecheck, turned into the owned type, and then asked [`Message::check`] for what a layout
//! cannot say (lengths that are absurd, numbers that are not finite). The layout of a version is
//! frozen: its name is the ALPN ([`ALPN`]), and a test with golden bytes fails when it moves.

pub mod adapter;
pub mod cache;
mod codec;
pub mod generate;
pub mod group;
pub mod guest;
pub mod host;
pub mod join;
pub mod kv;
pub mod latency;
pub mod member;
pub mod operate;
pub mod preflight;
pub mod shared;
pub mod status;
pub mod step;
pub mod tier;
pub mod transfer;

pub use codec::{Message, WireError, decode, encode};
use codec::{at_most, bounded};

/// The newest version of the wire that this build speaks.
pub const VERSION: u32 = 1;

/// The tokens that one turn brings to a sequence: one mostly, some more where drafts are right.
/// There is one of these for every sequence of every step, so up to four need no allocation. On the
/// wire it is a list as any other.
pub type Tokens = smallvec::SmallVec<[u32; 4]>;

/// The protocol's name and version, as negotiated by TLS.
pub const ALPN: &[u8] = b"troupe/1";

/// The protocol in which newcomers ask for an identity; the only one without a certificate.
pub const JOIN_ALPN: &[u8] = b"troupe-join/1";

/// No message may be longer than this; tensors travel beside messages and have their own bound.
/// The largest honest message is a `Generate` with a prompt of a million tokens.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
