//! A service whose number of groups follows its load: what is known of the load goes to [`Scaler`],
//! what comes of it to people, in the words of Kubernetes' autoscaler.

use std::collections::BTreeMap;

use troupe_runtime::{
    discovery::directory::EventKind,
    id::{EndpointId, Epoch},
    spec::service::Scaling,
    wire::status::Load,
};

use super::{
    plan::{Controller, ControllerEffect},
    scale::{Limit, Look},
    service::Service,
    status::Finding,
    world::World,
};
use crate::controller::desired::ServiceName;

impl Service {
    /// How many groups its load asks for.
    pub(super) fn by_load(&mut self, world: &mut World, scaling: &Scaling) -> u32 {
        let told = self.told.as_ref().map(|told| told.replicas);
        let counted = self.groups.len() as u32;
        let there_are = told.unwrap_or(counted.max(scaling.min_replicas));
        self.scaler.replicas(world.now, scaling, there_are);
        let serving: Vec<(u32, Epoch)> = self
            .groups
            .iter()
            .filter(|(_, group)| group.is_ready())
            .filter_map(|(index, group)| Some((*index, group.record.as_ref()?.epoch)))
            .collect();
        let look = Look { scaling, serving: &serving, held: world.held(&self.name) };
        if let Some(rescale) = self.scaler.look(world.now, &look) {
            let message = format!("New size: {}; reason: {}", rescale.to, rescale.why);
            let about = (&self.name, EventKind::Normal);
            world.tell_service(about, "SuccessfulRescale", message);
        }
        self.look_again(self.scaler.due());
        self.scaler.replicas(world.now, scaling, there_are)
    }

    /// KServe's condition and those of the autoscaler; none where nothing scales.
    pub(super) fn scaling_findings(&self, replicas: u32) -> Vec<(&'static str, Finding)> {
        if self.desired.as_ref().is_none_or(|desired| desired.scaling.is_none()) {
            return Vec::new();
        }
        let outlook = &self.scaler.outlook;
        let active: Finding = match (&outlook.unknown, replicas) {
            (_, 0) => (false, "ScalingDisabled", "it sleeps until something is asked of it".into()),
            (None, _) => (true, "ValidMetricFound", "the load of all groups is known".into()),
            (Some(what), _) => {
                (false, "FailedGetMetric", format!("{what}: no group is taken away"))
            }
        };
        let limited: Finding = match outlook.limited {
            None => (false, "DesiredWithinRange", String::new()),
            Some(Limit::TooMany) => (true, "TooManyReplicas", "load asks for more".into()),
            Some(Limit::TooFew) => (true, "TooFewReplicas", "load asks for fewer".into()),
            Some(Limit::Up) => (true, "ScaleUpLimit", "no faster, by its policies".into()),
            Some(Limit::Down) => (true, "ScaleDownLimit", "no faster, by its policies".into()),
        };
        let ready = match active.1 {
            "FailedGetMetric" => active.clone(),
            _ => (true, "ReadyForNewScale", String::new()),
        };
        let able = (true, "ReadyForNewScale", String::new());
        vec![
            ("ScalingReady", ready),
            ("AbleToScale", able),
            ("ScalingActive", active),
            ("ScalingLimited", limited),
        ]
    }
}

impl Controller {
    /// An endpoint told its load.
    pub(super) fn load_told(&mut self, endpoint: &EndpointId, load: Load) {
        let (name, now) = (ServiceName::of(&endpoint.group), self.world.now);
        if let Some(service) = self.services.get_mut(&name) {
            service.scaler.told(now, (endpoint.group.index, endpoint.epoch), load);
        }
    }

    /// An endpoint tells its load no longer.
    pub(super) fn load_lost(&mut self, endpoint: &EndpointId) {
        let name = ServiceName::of(&endpoint.group);
        if let Some(service) = self.services.get_mut(&name) {
            service.scaler.silent(endpoint.group.index, endpoint.epoch);
        }
    }

    /// The endpoints whose load matters, if they are others than before.
    pub(super) fn follow_loads(&mut self) {
        if !std::mem::take(&mut self.world.follow_anew) {
            return;
        }
        let scales = |endpoint: &EndpointId| {
            let service = self.services.get(&ServiceName::of(&endpoint.group));
            let desired = service.and_then(|service| service.desired.as_ref());
            desired.is_some_and(|desired| desired.scaling.is_some())
        };
        let endpoints = self.world.endpoints.iter();
        let wanted: BTreeMap<EndpointId, String> = endpoints
            .filter(|(endpoint, _)| scales(endpoint))
            .map(|(endpoint, address)| (endpoint.clone(), address.clone()))
            .collect();
        if wanted != self.world.followed {
            self.world.followed.clone_from(&wanted);
            self.world.write(ControllerEffect::Follow(wanted));
        }
    }
}
