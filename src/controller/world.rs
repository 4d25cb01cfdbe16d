//! All objects of one Rollout's neighbourhood, and writes to them as values.

use k8s_openapi::{api::discovery::v1::EndpointSlice, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde_json::Value;

use crate::{
    api::{ConfigKind, Phase, Rollout, RolloutRun, names},
    traffic::{Route, RouteKind, Service},
    workload::{ConfigObject, Deployment, Pod, ReplicaSet, Stamp, hash_of},
};

/// What the watch caches show of a Rollout's namespace, narrowed to what concerns it.
#[derive(Clone, Debug)]
pub struct World {
    /// The policy.
    pub rollout: Rollout,
    /// Its runs, oldest first.
    pub runs: Vec<RolloutRun>,
    /// All Rollouts of the namespace, to see who governs a workload.
    pub others: Vec<Rollout>,
    /// The Deployment.
    pub deployment: Option<Deployment>,
    /// ReplicaSets that the Deployment's selector selects.
    pub replica_sets: Vec<ReplicaSet>,
    /// Pods that it selects.
    pub pods: Vec<Pod>,
    /// All Services of the namespace.
    pub services: Vec<Service>,
    /// EndpointSlices of the namespace.
    pub endpoint_slices: Vec<EndpointSlice>,
    /// The policy's routes, as far as they exist.
    pub routes: Vec<Route>,
    /// ConfigMaps and Secrets of the kinds that the policy tracks.
    pub configuration: Vec<ConfigObject>,
    /// Kinds that Serin may track here.
    pub trackable: Vec<ConfigKind>,
}

/// Kinds that Serin writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// serin.dev Rollout.
    Rollout,
    /// serin.dev RolloutRun.
    RolloutRun,
    /// apps Deployment.
    Deployment,
    /// apps ReplicaSet.
    ReplicaSet,
    /// core Service.
    Service,
    /// gateway.networking.k8s.io HTTPRoute.
    HttpRoute,
    /// gateway.networking.k8s.io GRPCRoute.
    GrpcRoute,
    /// core ConfigMap.
    ConfigMap,
    /// core Secret.
    Secret,
}

impl From<ConfigKind> for Kind {
    fn from(kind: ConfigKind) -> Self {
        match kind {
            ConfigKind::ConfigMap => Self::ConfigMap,
            ConfigKind::Secret => Self::Secret,
        }
    }
}

impl From<RouteKind> for Kind {
    fn from(kind: RouteKind) -> Self {
        match kind {
            RouteKind::Http => Self::HttpRoute,
            RouteKind::Grpc => Self::GrpcRoute,
        }
    }
}

/// What a write does.
#[derive(Clone, Debug, PartialEq)]
pub enum Verb {
    /// Create this object.
    Create(Value),
    /// A JSON patch; with `test` operations where it matters what was there.
    Patch(Value),
    /// A JSON patch of the status.
    PatchStatus(Value),
    /// Delete, if it still is the object with this uid.
    Delete {
        /// metadata.uid.
        uid: String,
    },
}

/// One write to the API server, in the Rollout's namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// Of this kind.
    pub kind: Kind,
    /// With this name.
    pub name: String,
    /// What to do.
    pub verb: Verb,
}

impl Kind {
    /// Its name in metrics and errors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rollout => "Rollout",
            Self::RolloutRun => "RolloutRun",
            Self::Deployment => "Deployment",
            Self::ReplicaSet => "ReplicaSet",
            Self::Service => "Service",
            Self::HttpRoute => RouteKind::Http.as_str(),
            Self::GrpcRoute => RouteKind::Grpc.as_str(),
            Self::ConfigMap => ConfigKind::ConfigMap.as_str(),
            Self::Secret => ConfigKind::Secret.as_str(),
        }
    }
}

impl Write {
    /// A JSON patch.
    pub fn patch(kind: Kind, metadata: &ObjectMeta, ops: Value) -> Self {
        Self { kind, name: metadata.name.clone().unwrap_or_default(), verb: Verb::Patch(ops) }
    }
    /// A whole new status, written only over the version that was read.
    pub fn status(kind: Kind, metadata: &ObjectMeta, status: Value) -> Self {
        let ops = serde_json::json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": metadata.resource_version},
            {"op": "add", "path": "/status", "value": status}
        ]);
        Self { kind, name: metadata.name.clone().unwrap_or_default(), verb: Verb::PatchStatus(ops) }
    }
    /// A delete of exactly this object.
    pub fn delete(kind: Kind, metadata: &ObjectMeta) -> Self {
        let uid = metadata.uid.clone().unwrap_or_default();
        Self { kind, name: metadata.name.clone().unwrap_or_default(), verb: Verb::Delete { uid } }
    }
    /// What it does, for logs and metrics.
    pub fn verb(&self) -> &'static str {
        match self.verb {
            Verb::Create(_) => "create",
            Verb::Patch(_) => "patch",
            Verb::PatchStatus(_) => "patch status",
            Verb::Delete { .. } => "delete",
        }
    }
}

impl World {
    /// The run under way.
    pub fn active(&self) -> Option<&RolloutRun> {
        self.runs.iter().rev().find(|run| !phase_of(run).is_terminal())
    }
    /// The newest run.
    pub fn last(&self) -> Option<&RolloutRun> {
        self.runs.last()
    }
    /// The ReplicaSet with this pod-template-hash.
    pub fn set(&self, hash: &str) -> Option<&ReplicaSet> {
        self.replica_sets.iter().find(|set| hash_of(set) == Some(hash))
    }
    /// The Service with this name.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.metadata.name.as_deref() == Some(name))
    }
    /// How the template is to be stamped for the data that its ConfigMaps and Secrets have now.
    pub fn stamp(&self) -> Option<Stamp> {
        let track = &self.rollout.spec.configuration.as_ref()?.track;
        let template = &self.deployment.as_ref()?.spec.template;
        Stamp::of(self.rollout.metadata.name.as_deref()?, template, track, &self.configuration)
    }
    /// Copies for versions that are neither in the Deployment's template nor in its history, nor what there is now.
    pub fn stale_copies(&self) -> impl Iterator<Item = &ConfigObject> {
        let templates = self.replica_sets.iter().map(|set| &set.spec.template);
        let templates = templates.chain(self.deployment.as_ref().map(|deployment| &deployment.spec.template));
        let stamps = templates.filter_map(Stamp::read).chain(self.stamp());
        let needed: Vec<String> = stamps.map(|stamp| stamp.digest).collect();
        let rollout = self.rollout.metadata.name.clone();
        self.configuration.iter().filter(move |object| {
            let labels = object.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get(names::ROLLOUT_LABEL)) == rollout.as_ref()
                && object.copy_for().is_some_and(|digest| !needed.iter().any(|needed| needed == digest))
        })
    }
    /// The canary's Service, if it belongs to this run.
    pub fn canary_service(&self, run: &RolloutRun) -> Option<&Service> {
        let service = self.service(&names::canary_service(&run.spec.policy.service))?;
        let label = service.metadata.labels.as_ref()?.get(names::RUN_LABEL)?;
        (Some(label) == run.metadata.name.as_ref()).then_some(service)
    }
    /// Services that select the workload's pods, the apex first, those of the canary and opted-out ones left out.
    pub fn selecting(&self, run: &RolloutRun) -> Vec<&Service> {
        let Some(deployment) = &self.deployment else { return self.pinned_by(run) };
        let labels = crate::workload::template::labels(&deployment.spec.template);
        let apex = run.spec.policy.service.as_str();
        let selects = |service: &&Service| {
            let name = service.metadata.name.as_deref() == Some(apex);
            let annotations = service.metadata.annotations.as_ref();
            let opted_out =
                annotations.and_then(|all| all.get(names::PIN_ANNOTATION)).is_some_and(|value| value == "false");
            let selector = &service.spec.selector;
            let matches = !selector.is_empty()
                && selector.iter().all(|(key, value)| key == names::HASH_LABEL || labels.get(key) == Some(value));
            !is_canary_service(service) && (name || !opted_out) && matches
        };
        let mut services: Vec<&Service> = self.services.iter().filter(selects).collect();
        services.sort_by_key(|service| (service.metadata.name.as_deref() != Some(apex), service.metadata.name.clone()));
        services
    }

    /// Without the Deployment there are no labels to go by: what this run has pinned is known by its hash.
    fn pinned_by(&self, run: &RolloutRun) -> Vec<&Service> {
        let ours = |hash: &str| hash == run.spec.from.hash || hash == run.spec.to.hash;
        self.services
            .iter()
            .filter(|service| crate::traffic::pinned(service).is_some_and(ours) && !is_canary_service(service))
            .collect()
    }
}

/// Made by a run, for its canary.
fn is_canary_service(service: &Service) -> bool {
    service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(names::RUN_LABEL))
}

/// Where a run is; a new one prepares.
pub fn phase_of(run: &RolloutRun) -> Phase {
    run.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}
