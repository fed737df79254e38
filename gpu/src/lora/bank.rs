//! The adapters that one rank knows, in three places: all that it may be asked for as mapped files,
//! some as copies on the host, those of the step on the device.
//!
//! Host and device keep what was used last. What gives way is made again when rows want it, so how
//! many there is room for costs time and nothing else. Which ones a step may use is the leader's
//! affair: it never plans more at a time than there is room for on the device.

use std::{collections::BTreeMap, sync::Arc};

use troupe_runtime::id::AdapterId;

use super::{
    adapter::Adapter,
    site::{Share, Site, SiteId},
    weights::{LoraRows, LoraWeights},
};
use crate::{backend::Backend, error::DeviceError, executor::StepBatch};

/// How much room there is for adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoraLimits {
    /// Adapters on the device, and so of one step, at most.
    pub max_loras: usize,
    /// Adapters on the host at most, those on the device included.
    pub max_cpu_loras: usize,
    /// The largest rank of an adapter.
    pub max_rank: usize,
}

/// The adapters of one rank.
pub struct Bank<B: Backend> {
    limits: Option<LoraLimits>,
    sites: Vec<Site>,
    known: BTreeMap<AdapterId, Arc<Adapter>>,
    /// By site; what was used last is last.
    on_host: Recent<Arc<Vec<Option<Share>>>>,
    /// By site; what was used last is last.
    on_device: Recent<Vec<Option<LoraWeights<B>>>>,
    /// Which rows of the step use which adapter, all of them on the device.
    step: BTreeMap<AdapterId, Vec<u32>>,
}

/// Some values, of which the one that was used longest ago gives way.
struct Recent<T>(Vec<(AdapterId, T)>);

impl<B: Backend> Bank<B> {
    /// Nothing known yet; `sites` are this rank's.
    pub fn new(limits: Option<LoraLimits>, sites: Vec<Site>) -> Self {
        let (on_host, on_device) = (Recent(Vec::new()), Recent(Vec::new()));
        Self { limits, sites, known: BTreeMap::new(), on_host, on_device, step: BTreeMap::new() }
    }

    /// Makes an adapter known.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] without room for any; [`DeviceError::Contract`] on a known id.
    pub fn add(&mut self, id: AdapterId, adapter: Arc<Adapter>) -> Result<(), DeviceError> {
        if self.limits.is_none() {
            let why = "an adapter for a model that was loaded without room for any";
            return Err(DeviceError::Unsupported(why.to_owned()));
        }
        if self.known.contains_key(&id) {
            return Err(DeviceError::Contract(format!("adapter {id} is known already")));
        }
        self.known.insert(id, adapter);
        Ok(())
    }

    /// Forgets an adapter.
    pub fn remove(&mut self, id: AdapterId) {
        self.known.remove(&id);
        self.step.remove(&id);
        self.on_host.remove(id);
        self.on_device.remove(id);
    }

    /// Brings the adapters of a step onto the device.
    ///
    /// # Errors
    /// [`DeviceError::Contract`] if they are more than there is room for, or one is unknown; the
    /// backend's.
    pub fn begin_step(&mut self, backend: &mut B, batch: &StepBatch) -> Result<(), DeviceError> {
        self.step.clear();
        for sequence in &batch.sequences {
            let Some(id) = sequence.adapter else { continue };
            let rows = self.step.entry(id).or_default();
            rows.extend(sequence.row..sequence.row + sequence.count);
        }
        let room = self.limits.map_or(0, |limits| limits.max_loras);
        if self.step.len() > room {
            let count = self.step.len();
            return Err(DeviceError::Contract(format!("{count} adapters in a step, {room} fit")));
        }
        let wanted: Vec<_> = self.step.keys().copied().collect();
        for &id in &wanted {
            if self.on_device.touch(id) {
                continue;
            }
            let shares = self.on_host(id)?;
            // First what gives way, so that there is never more than there is room for.
            self.on_device.shrink(room - 1, &wanted);
            let weights = shares
                .iter()
                .map(|share| share.as_ref().map(|share| share.prepare(backend)).transpose());
            let weights = weights.collect::<Result<_, _>>()?;
            self.on_device.0.push((id, weights));
        }
        Ok(())
    }

    /// What the step's adapters add at a site.
    pub fn at(&self, site: SiteId) -> Vec<LoraRows<'_, B>> {
        let of = |(id, rows)| {
            let weights = self.on_device.get(id)?.get(site.0)?.as_ref()?;
            Some(LoraRows { rows, weights })
        };
        self.step.iter().filter_map(|(id, rows)| of((*id, rows.as_slice()))).collect()
    }

    /// The adapters on the device, the one that was used longest ago first; for tests.
    pub fn resident(&self) -> impl Iterator<Item = AdapterId> + '_ {
        self.on_device.0.iter().map(|(id, _)| *id)
    }

    fn on_host(&mut self, id: AdapterId) -> Result<Arc<Vec<Option<Share>>>, DeviceError> {
        if self.on_host.touch(id)
            && let Some(shares) = self.on_host.get(id)
        {
            return Ok(Arc::clone(shares));
        }
        let adapter = self.known.get(&id);
        let adapter =
            adapter.ok_or_else(|| DeviceError::Contract(format!("adapter {id} is not known")))?;
        let shares = self.sites.iter().map(|site| site.share(adapter));
        let shares = Arc::new(shares.collect::<Result<Vec<_>, _>>()?);
        let room = self.limits.map_or(0, |limits| limits.max_cpu_loras);
        self.on_host.shrink(room.saturating_sub(1), &[]);
        if room > 0 {
            self.on_host.0.push((id, Arc::clone(&shares)));
        }
        Ok(shares)
    }
}

impl<T> Recent<T> {
    fn get(&self, id: AdapterId) -> Option<&T> {
        self.0.iter().find(|(own, _)| *own == id).map(|(_, value)| value)
    }

    /// Notes that a value is used; says whether it is there.
    fn touch(&mut self, id: AdapterId) -> bool {
        let Some(at) = self.0.iter().position(|(own, _)| *own == id) else { return false };
        self.0[at..].rotate_left(1);
        true
    }

    fn remove(&mut self, id: AdapterId) {
        self.0.retain(|(own, _)| *own != id);
    }

    /// Gives up values until there are `room` at most, but none of `wanted`.
    fn shrink(&mut self, room: usize, wanted: &[AdapterId]) {
        while self.0.len() > room {
            let Some(at) = self.0.iter().position(|(id, _)| !wanted.contains(id)) else { return };
            self.0.remove(at);
        }
    }
}
