//! All objects of one Rollout's neighbourhood, and writes to them as values.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{api::discovery::v1::EndpointSlice, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde_json::Value;

use crate::{
    api::{ConfigKind, Phase, Rollout, RolloutRun, names},
    traffic::{Route, RouteKind, Service},
    workload::{ConfigObject, Deployment, Pod, ReplicaSet, Stamp, hash_of, owner_of, template},
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
    /// Names of the namespace's other ReplicaSets.
    pub other_sets: Vec<String>,
    /// Pods that it selects, and those of its runs.
    pub pods: Vec<Pod>,
    /// All Services of the namespace.
    pub services: Vec<Service>,
    /// EndpointSlices of the namespace.
    pub endpoint_slices: Vec<EndpointSlice>,
    /// Routes of the namespace, of the kinds that the policy names.
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
    /// core Pod.
    Pod,
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
            Self::Pod => "Pod",
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
    /// How long a look waits for the caches to show it. After that a watch is late, and what was read is acted on; each
    /// write still tests what it was based on.
    pub fn patience(&self) -> Duration {
        match (self.kind, &self.verb) {
            // A run that is not shown can't be served, and its Rollout could go without it.
            (Kind::RolloutRun, Verb::Create(_)) => Duration::from_secs(10),
            // Of weights and pins that are not shown a retreat would not know, and what it writes tests what is shown: it
            // could not take them back any sooner.
            (Kind::HttpRoute | Kind::GrpcRoute | Kind::Service, Verb::Patch(_)) => Duration::from_secs(5),
            _ => Duration::from_secs(1),
        }
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
    /// The ReplicaSet with this pod-template-hash: of several one that is the Deployment's or a run's.
    pub fn set(&self, hash: &str) -> Option<&ReplicaSet> {
        let named = || self.replica_sets.iter().filter(|set| hash_of(set) == Some(hash));
        let known = |set: &&ReplicaSet| {
            let deployment = self.deployment.iter().filter_map(|deployment| deployment.metadata.uid.as_deref());
            let mut owners = deployment.chain(self.runs.iter().filter_map(|run| run.metadata.uid.as_deref()));
            owner_of(set).is_some_and(|(_, uid)| owners.any(|owner| owner == uid))
        };
        named().find(known).or_else(|| named().next())
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
    /// The route of the preview's host name, if it belongs to this run.
    pub fn preview_route(&self, run: &RolloutRun) -> Option<&Route> {
        let name = names::preview_route(&run.spec.policy.service);
        self.routes.iter().find(|route| {
            let labels = route.metadata.labels.as_ref();
            let of = labels.and_then(|labels| labels.get(names::RUN_LABEL));
            route.metadata.name.as_ref() == Some(&name) && of.is_some() && of == run.metadata.name.as_ref()
        })
    }
    /// Services that select the pods of Deployment or run, the apex first, those of canaries and opted-out ones left out.
    pub fn selecting(&self, run: &RolloutRun) -> Vec<&Service> {
        let templates = self.labels_of_pods(run);
        let apex = run.spec.policy.service.as_str();
        let selects = |service: &&Service| {
            let name = service.metadata.name.as_deref() == Some(apex);
            let annotations = service.metadata.annotations.as_ref();
            let opted_out =
                annotations.and_then(|all| all.get(names::PIN_ANNOTATION)).is_some_and(|value| value == "false");
            !is_canary_service(service)
                && (name || !opted_out)
                && templates.iter().any(|labels| selects(service, labels))
        };
        let mut services: Vec<&Service> = self.services.iter().filter(selects).collect();
        services.sort_by_key(|service| (service.metadata.name.as_deref() != Some(apex), service.metadata.name.clone()));
        services
    }

    /// Services that the run has pinned, and that select none of its pods any more.
    pub fn strays(&self, run: &RolloutRun) -> Vec<&Service> {
        // Or to what serves in stable's place: the ReplicaSet of a Deployment that was made anew.
        let in_its_place = |hash: &str| self.replica_sets.iter().any(|set| hash_of(set) == Some(hash));
        let ours = |hash: &str| hash == run.spec.from.hash || hash == run.spec.to.hash || in_its_place(hash);
        let pinned = |service: &&Service| crate::traffic::pinned(service).is_some_and(ours);
        let templates = self.labels_of_pods(run);
        let selected = |service: &&Service| templates.iter().any(|labels| selects(service, labels));
        self.services
            .iter()
            .filter(|service| pinned(service) && !selected(service) && !is_canary_service(service))
            .collect()
    }

    /// Labels of pods that the Deployment makes, and of those that the run's two versions have. Of a Deployment that was
    /// deleted, or made anew with other labels, the run's are left.
    fn labels_of_pods(&self, run: &RolloutRun) -> Vec<BTreeMap<String, String>> {
        let sets = [&run.spec.from.hash, &run.spec.to.hash].into_iter().filter_map(|hash| self.set(hash));
        let templates = self.deployment.iter().map(|deployment| &deployment.spec.template);
        templates.chain(sets.map(|set| &set.spec.template)).map(template::labels).collect()
    }
}

/// By what its owner wrote into the selector.
fn selects(service: &Service, labels: &BTreeMap<String, String>) -> bool {
    let selector = &service.spec.selector;
    !selector.is_empty()
        && selector.iter().all(|(key, value)| key == names::HASH_LABEL || labels.get(key) == Some(value))
}

/// Made by a run, for its canary.
fn is_canary_service(service: &Service) -> bool {
    service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(names::RUN_LABEL))
}

/// Where a run is; a new one prepares.
pub fn phase_of(run: &RolloutRun) -> Phase {
    run.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod testing {
    use serde_json::{Value, json};

    use super::World;
    use crate::{
        api::{Rollout, RolloutRun},
        workload::{Deployment, ReplicaSet, template},
    };

    fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("an object")
    }

    /// A template with these labels and this image.
    pub fn template_of(labels: Value, image: &str) -> Value {
        json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "auth", "image": image}]}})
    }

    /// Deployment `auth`, which wants `v2`; ReplicaSet `auth-one` with `v1` serves.
    pub fn world() -> World {
        let policy = json!({
            "workloadRef": {"kind": "Deployment", "name": "auth"}, "service": "auth",
            "routes": [{"kind": "HTTPRoute", "name": "auth"}],
            "telemetry": {"scrape": {"port": "http"}, "requests": {"counter": "requests", "errors": {"code": "5.."}}},
            "slos": [{"name": "errors", "errors": {"objective": "99%"}}],
            "steps": [{"weight": 20, "bake": "1m"}]});
        let rollout: Rollout = typed(json!({"apiVersion": "serin.dev/v1alpha1", "kind": "Rollout",
            "metadata": {"name": "auth", "namespace": "shop", "uid": "rollout"}, "spec": policy}));
        let template = template_of(json!({"app": "auth"}), "v2");
        let deployment: Deployment = typed(json!({
            "metadata": {"name": "auth", "namespace": "shop", "uid": "deployment", "generation": 2},
            "spec": {"replicas": 2, "paused": true, "selector": {"matchLabels": {"app": "auth"}}, "template": template}}));
        World {
            rollout: rollout.clone(),
            runs: Vec::new(),
            others: vec![rollout],
            deployment: Some(deployment),
            replica_sets: vec![set("one", "v1", 2, Some("deployment"))],
            other_sets: Vec::new(),
            pods: Vec::new(),
            services: vec![typed(json!({"metadata": {"name": "auth"}, "spec": {"selector": {"app": "auth"}}}))],
            endpoint_slices: Vec::new(),
            routes: Vec::new(),
            configuration: Vec::new(),
            trackable: Vec::new(),
        }
    }

    /// A ReplicaSet `auth-HASH` of this image.
    pub fn set(hash: &str, image: &str, replicas: i32, owner: Option<&str>) -> ReplicaSet {
        let labels = json!({"app": "auth", "pod-template-hash": hash});
        let kind = if owner == Some("deployment") { "Deployment" } else { "RolloutRun" };
        let owners = owner
            .map(|uid| json!([{"apiVersion": "v1", "kind": kind, "name": "auth", "uid": uid, "controller": true}]));
        let mut value = json!({
            "metadata": {"name": format!("auth-{hash}"), "labels": labels},
            "spec": {"replicas": replicas, "template": template_of(labels, image)}});
        if let Some(owners) = owners {
            value["metadata"]["ownerReferences"] = owners;
        }
        typed(value)
    }

    /// Run `auth-1` from `one` to `two`, the hash of `v2`.
    pub fn run(world: &World) -> RolloutRun {
        let digest = template::digest(&template_of(json!({"app": "auth"}), "v2"));
        typed(json!({"apiVersion": "serin.dev/v1alpha1", "kind": "RolloutRun",
            "metadata": {"name": "auth-1", "namespace": "shop", "uid": "run"},
            "spec": {"rolloutRef": {"name": "auth"}, "workloadUid": "deployment", "from": {"hash": "one"},
                     "to": {"hash": "two", "template": digest}, "policy": world.rollout.spec}}))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{testing::*, *};

    fn names(services: Vec<&Service>) -> Vec<String> {
        services.into_iter().filter_map(|service| service.metadata.name.clone()).collect()
    }

    #[test]
    fn a_service_is_the_runs_as_long_as_it_selects_one_of_its_versions() {
        // given a pinned Service
        let mut world = world();
        let run = run(&world);
        world.services[0].spec.selector.insert(names::HASH_LABEL.to_owned(), "one".to_owned());
        assert_eq!(names(world.selecting(&run)), ["auth"]);

        // when the Deployment is made anew with other labels while the canary stands
        world.replica_sets.push(set("two", "v2", 1, Some("run")));
        if let Some(deployment) = &mut world.deployment {
            deployment.spec.template = template_of(json!({"app": "other"}), "v1");
        }
        world.replica_sets.retain(|set| hash_of(set) == Some("two"));
        // then it stays pinned
        assert_eq!((names(world.selecting(&run)), names(world.strays(&run))), (vec!["auth".to_owned()], vec![]));

        // and when nothing that it selects is left, it is let go
        world.replica_sets.clear();
        assert_eq!((names(world.selecting(&run)), names(world.strays(&run))), (vec![], vec!["auth".to_owned()]));
    }

    #[test]
    fn a_service_that_its_owner_turned_elsewhere_is_let_go_if_the_pin_is_this_runs() {
        let mut world = world();
        let run = run(&world);
        // of a Deployment that was made anew in mid-run
        world.replica_sets.push(set("three", "v1", 1, None));
        for (pin, strays) in [("one", 1), ("two", 1), ("three", 1), ("another", 0)] {
            world.services[0].spec.selector = [("app", "other"), (names::HASH_LABEL, pin)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
            assert_eq!((world.selecting(&run).len(), world.strays(&run).len()), (0, strays), "{pin}");
        }
    }

    #[test]
    fn of_two_sets_with_one_hash_the_known_one_is_meant() {
        let mut world = world();
        world.replica_sets = vec![set("one", "other", 0, None), set("one", "v1", 2, Some("deployment"))];
        assert_eq!(world.set("one").map(|set| set.spec.replicas), Some(2));
    }
}
