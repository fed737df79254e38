//! What the world is told of an endpoint once its group serves.

use std::collections::BTreeMap;

use troupe_gpu::{cpu::arithmetic, cuda::options::is_batch_invariant};
use troupe_runtime::{
    discovery::directory::{self, EndpointRecord},
    wire::{
        cache::CacheParams,
        group::RankReport,
        status::{EndpointInfo, Fingerprint, Role},
        tier::Tier,
    },
};

use super::settings::EngineSettings;
use crate::kv::tiers::Tiers;

/// What is known of an endpoint before its ranks have reported.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where its leader is reached.
    pub address: String,
    /// From where gateways load tokenizer and template.
    pub model_uri: String,
    /// Names that requests use.
    pub model_names: Vec<String>,
    /// What it may be asked to do.
    pub role: Role,
    /// What placement may select it by.
    pub labels: BTreeMap<String, String>,
    /// All but the kernel path, which the ranks report.
    pub fingerprint: Fingerprint,
}

impl Endpoint {
    /// For gateways that follow the status.
    pub fn info(
        &self,
        settings: &EngineSettings,
        blocks: &[u32],
        reports: &[RankReport],
    ) -> EndpointInfo {
        let paths = reports.iter().map(|report| arithmetic(&report.kernel_path));
        let mut paths: Vec<_> = paths.collect();
        paths.sort_unstable();
        paths.dedup();
        EndpointInfo {
            endpoint: settings.endpoint.clone(),
            role: self.role,
            model_names: self.model_names.clone(),
            max_model_len: settings.limits.max_model_len,
            block_size: settings.limits.block_size,
            num_blocks: blocks.iter().copied().min().unwrap_or(0),
            max_num_seqs: settings.limits.max_num_seqs,
            embeds: settings.embeds.clone(),
            fingerprint: Fingerprint {
                kernel_path: paths.join("+"),
                batch_invariant: reports.iter().all(|rank| is_batch_invariant(&rank.kernel_path)),
                ..self.fingerprint.clone()
            },
        }
    }

    /// For gateways that follow its cache, which is the device's and that of the tiers.
    pub fn cache(
        &self,
        settings: &EngineSettings,
        blocks: &[u32],
        tiers: Option<&Tiers>,
    ) -> CacheParams {
        let kept = [Tier::Host, Tier::Disk].map(|tier| tiers.map_or(0, |all| all.usage(tier).1));
        let own = blocks.iter().copied().max().unwrap_or(0);
        CacheParams {
            endpoint: settings.endpoint.clone(),
            block_size: settings.limits.block_size,
            blocks: kept.into_iter().fold(own, u32::saturating_add),
            hashing: settings.hashing().digest(),
        }
    }

    /// For the directory.
    pub fn record(&self, info: EndpointInfo) -> Vec<u8> {
        let (address, model_uri) = (self.address.clone(), self.model_uri.clone());
        let labels = self.labels.clone();
        directory::to_bytes(EndpointRecord { info, address, model_uri, labels })
    }
}
