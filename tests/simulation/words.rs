//! What processes are told, and what they say to each other.

use bytes::Bytes;
use troupe_runtime::{
    discovery::{
        RegistryError,
        rehearsal::{Answer, Ask, Told},
    },
    error::PublicError,
    id::{Coordinate, RequestId},
    wire::{
        generate::{GenerateDown, GenerateUp},
        group::{MemberDown, MemberUp},
        kv::{BulkOpen, TensorHeader},
        member::{MemberToNode, NodeToMember},
        status::{StatusDown, StatusUp},
    },
};

use super::{client::Wish, net::LineId, world::Pid};

/// What happens to a process.
#[derive(Debug)]
pub(crate) enum Word {
    /// It has been started.
    Begin,
    /// A time that it asked for has come.
    Timer(Timer),
    /// A peer opened a line.
    Opened(LineId, Purpose),
    /// A peer says something on a line.
    Said(LineId, Frame),
    /// A line is over.
    Over(LineId, String),
    /// A store is asked; the answer goes to whom, under this number.
    Asked(Pid, u64, Ask),
    /// The store answers, or does not.
    Answered(u64, Result<Answer, RegistryError>),
    /// A node's member speaks.
    FromMember(Pid, MemberToNode),
    /// A member's node speaks.
    FromNode(NodeToMember),
    /// A child of this process has ended and is reaped.
    Ended(Pid, String),
    /// The process that started this one is gone.
    Orphaned,
    /// Between parts of one process.
    Inside(Inside),
    /// A host was tried, and whether it answered.
    Probed(troupe_runtime::id::NodeId, bool),
    /// What an office asked about a model is known.
    Model(String),
    /// A person's wish: this is to stand in the store, whatever becomes of the store.
    Declare(String, Vec<u8>),
    /// A person's wish: everything that was declared is to stand in the store.
    DeclareAll,
    /// A client's wish.
    Wish(Wish),
    /// A node is to end in order, within so many seconds.
    Leave(u32),
}

/// Times that processes ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// It looks around.
    Tick,
    /// Its lease is due; only the newest counts.
    Lease(u64),
    /// A question to the store was not answered.
    Late(u64),
    /// A watch is opened again.
    Watch(usize),
    /// A write to the store is tried again.
    Write,
    /// A witness asks again.
    Witness,
    /// A rank has its weights.
    Loaded(Coordinate),
    /// A rank is through its step.
    Step(Coordinate),
    /// A member that broke has lingered.
    Lingered,
    /// The lines between ranks should be there.
    Wired,
    /// A member that was told to end should have.
    Reap(Pid),
    /// An endpoint is tried again.
    Keeper(String),
    /// A request's time is over, or its patience.
    Request(RequestId),
    /// A client asks once more.
    Again(usize),
    /// The next lease in the store runs out.
    Expiry,
}

/// Between parts of one process.
#[derive(Debug)]
pub(crate) enum Inside {
    /// The leader tells its own member.
    Down(MemberDown),
    /// The leader's own member says.
    Up(MemberUp),
    /// A rank to another.
    Tensor(BulkOpen, TensorHeader, Bytes),
    /// The leader of this member has ended.
    LeaderEnded(String),
}

/// What a line is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Group,
    Generate,
    Status,
    Bulk(BulkOpen),
    Watch(String),
    Http,
}

/// What is said on a line.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    Generate(GenerateUp),
    Generated(GenerateDown),
    Up(MemberUp),
    Down(MemberDown),
    Follow(StatusUp),
    Status(StatusDown),
    Tensor(TensorHeader, Bytes),
    Changes(Told),
    Ask(Wish),
    /// What a client sees of one choice, and whether that is its end.
    Tell(u32, Vec<u32>, bool),
    Done,
    Failed(PublicError),
    /// Nothing more comes.
    Bye(String),
}

// === impl Word, Frame ===

impl Word {
    /// What of it goes into a run's trace.
    pub(crate) fn mark(&self) -> u64 {
        match self {
            Self::Begin => 1,
            Self::Timer(_) => 2,
            Self::Opened(line, _) => 3 ^ line.0 << 8,
            Self::Said(line, frame) => 4 ^ line.0 << 8 ^ frame.mark() << 32,
            Self::Over(line, _) => 5 ^ line.0 << 8,
            Self::Asked(pid, number, _) => 6 ^ u64::from(*pid) << 8 ^ number << 32,
            Self::Answered(number, answer) => 7 ^ number << 8 ^ u64::from(answer.is_ok()) << 60,
            Self::FromMember(pid, _) => 8 ^ u64::from(*pid) << 8,
            Self::FromNode(_) => 9,
            Self::Ended(pid, _) => 10 ^ u64::from(*pid) << 8,
            Self::Orphaned => 11,
            Self::Inside(_) => 12,
            Self::Probed(_, reachable) => 13 ^ u64::from(*reachable) << 8,
            Self::Model(_) => 14,
            Self::Declare(..) => 15,
            Self::DeclareAll => 16,
            Self::Wish(_) => 17,
            Self::Leave(_) => 18,
        }
    }
}

impl Frame {
    fn mark(&self) -> u64 {
        match self {
            Self::Generate(_) => 1,
            Self::Generated(GenerateDown::Chunk(chunk)) => {
                let token = chunk.tokens.last().copied().unwrap_or_default();
                2 ^ u64::from(chunk.position) << 8 ^ u64::from(token) << 16
            }
            Self::Generated(_) => 3,
            Self::Up(_) => 4,
            Self::Down(MemberDown::Step(plan)) => 5 ^ plan.step.0 << 8,
            Self::Down(_) => 6,
            Self::Follow(_) => 7,
            Self::Status(_) => 8,
            Self::Tensor(header, _) => 9 ^ header.step.0 << 8,
            Self::Changes(_) => 10,
            Self::Ask(_) => 11,
            Self::Tell(choice, tokens, _) => {
                12 ^ u64::from(*choice) << 8 ^ (tokens.len() as u64) << 16
            }
            Self::Done => 13,
            Self::Failed(_) => 14,
            Self::Bye(_) => 15,
        }
    }
}
