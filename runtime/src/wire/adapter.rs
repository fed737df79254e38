//! LoRA adapters: what a group has of them, and how one comes and goes while it serves.
//!
//! ```text
//! gateway                     leader                              members
//!   Load(name, path) -->
//!                               Adapter(Load(id, path)) -->
//!                                                           each reads and checks the files
//!                               <-- Adapter(id, digest or why not)
//!   <-- Done, or Refused
//! ```
//! A name is served once every rank of the group has the adapter, and no plan names one before: so
//! orders to members need no place among the plans, but they have one all the same. One that is
//! unloaded is no longer served at once; members forget it when its last request has ended.

use rkyv::{Archive, Deserialize, Serialize};

use super::{Message, at_most, bounded};
use crate::{
    error::PublicError,
    id::{AdapterId, Digest},
};

/// An adapter that a request uses.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AdapterRef {
    /// The name that it is served by.
    pub name: String,
    /// Its files: one of the same name may be another elsewhere, or later.
    pub digest: Digest,
}

/// An adapter that an endpoint serves.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AdapterInfo {
    /// The name that requests use.
    pub name: String,
    /// Where it came from.
    pub path: String,
    /// Its files.
    pub digest: Digest,
}

/// What an endpoint has of adapters, and what it does with them.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct AdapterStatus {
    /// The most in one step; 0 where there are none.
    pub max_loras: u32,
    /// Those that it serves, by name.
    pub served: Vec<AdapterInfo>,
    /// The names of those that sequences run with.
    pub running: Vec<String>,
    /// The names of those that only waiting sequences want.
    pub waiting: Vec<String>,
}

/// Gateway to leader: one thing, once.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum AdaptUp {
    /// Serve an adapter.
    Load(AdaptLoad),
    /// Serve this name no more.
    Unload(String),
}

/// An adapter that is to be served.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AdaptLoad {
    /// The name that requests will use.
    pub name: String,
    /// A folder, as every host of the group sees it.
    pub path: String,
    /// Whether one that is served by this name already gives way; else that is refused.
    pub replace: bool,
}

/// Leader to gateway.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum AdaptDown {
    /// It is so.
    Done,
    /// It is not, and nothing has changed.
    Refused(PublicError),
}

/// Leader to member.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum AdapterOrder {
    /// Read an adapter, check it, and make it known to every rank.
    Load(LoadAdapter),
    /// Forget one; no plan names it any more.
    Unload(AdapterId),
}

/// An adapter that members are to read.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct LoadAdapter {
    /// How plans will name it.
    pub id: AdapterId,
    /// Where it is.
    pub path: String,
}

/// Member to leader.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AdapterReport {
    /// Which.
    pub id: AdapterId,
    /// What became of it.
    pub state: AdapterState,
}

/// What became of an order.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum AdapterState {
    /// Every rank of the member knows it.
    Loaded(Digest),
    /// None does.
    Unloaded,
    /// It is not what it should be. For people.
    Refused(String),
}

impl AdapterOrder {
    /// Which adapter.
    pub fn id(&self) -> AdapterId {
        match self {
            Self::Load(load) => load.id,
            Self::Unload(id) => *id,
        }
    }
}

impl AdapterStatus {
    /// Refuses impossible lengths.
    pub(super) fn check(&self) -> Result<(), String> {
        bounded("served", &self.served, MAX_ADAPTERS)?;
        bounded("running", &self.running, MAX_ADAPTERS)?;
        bounded("waiting", &self.waiting, MAX_ADAPTERS)
    }
}

impl Message for AdaptUp {
    const NAME: &'static str = "AdaptUp";

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Load(load) => {
                at_most("name", &load.name, MAX_NAME)?;
                at_most("path", &load.path, MAX_PATH)
            }
            Self::Unload(name) => at_most("name", name, MAX_NAME),
        }
    }
}

impl Message for AdaptDown {
    const NAME: &'static str = "AdaptDown";

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Most adapters of one group.
pub const MAX_ADAPTERS: usize = 4096;
/// Longest name, in bytes.
pub const MAX_NAME: usize = 512;
/// Longest path, in bytes.
pub const MAX_PATH: usize = 4096;
