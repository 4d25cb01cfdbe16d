//! Watch caches: one set per namespace that has a Rollout, started with its first one. An idle namespace costs no
//! requests but watch renewals.

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::StreamExt;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client, Resource, ResourceExt,
    core::NamespaceResourceScope,
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store, store::Writer},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    plan::number_of,
    world::{Kind, World},
};
use crate::{
    api::{ConfigKind, Rollout, RolloutRun, RolloutSpec, RouteRef},
    traffic::{GrpcRoute, HttpRoute, Route, RouteKind, Service},
    workload::{ConfigMap, ConfigObject, Deployment, Pod, ReplicaSet, Secret},
};

/// Rollouts that should be looked at again.
pub(super) type Triggers = mpsc::UnboundedSender<ObjectRef<Rollout>>;

/// A write of ours that the caches have not shown yet.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub kind: Kind,
    pub name: String,
    pub wrote: Wrote,
    pub at: Instant,
    /// See [`Write::patience`](super::world::Write::patience).
    pub patience: Duration,
}

#[derive(Clone, Debug)]
pub(super) enum Wrote {
    /// The object as of this resourceVersion.
    Version(u64),
    /// Deleted, or being deleted.
    Gone { uid: String },
}

/// One namespace.
pub(super) struct Namespace {
    rollouts: Store<Rollout>,
    runs: Store<RolloutRun>,
    deployments: Store<Deployment>,
    replica_sets: Store<ReplicaSet>,
    pods: Store<Pod>,
    services: Store<Service>,
    endpoint_slices: Store<EndpointSlice>,
    routes: Mutex<Routes>,
    configuration: Mutex<Configuration>,
    trackable: Vec<ConfigKind>,
    pending: Mutex<HashMap<String, Vec<Pending>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    client: Client,
    name: String,
    triggers: Triggers,
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

/// All namespaces with Rollouts.
pub(super) struct Caches {
    client: Client,
    triggers: Triggers,
    /// Kinds of configuration that may be watched.
    trackable: Vec<ConfigKind>,
    namespaces: Mutex<HashMap<String, Arc<Namespace>>>,
}

impl Caches {
    pub fn new(client: Client, triggers: Triggers, trackable: Vec<ConfigKind>) -> Self {
        Self { client, triggers, trackable, namespaces: Mutex::default() }
    }

    /// The namespace's caches; they are being filled if this is the first call.
    pub fn namespace(&self, name: &str) -> Arc<Namespace> {
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        let started = namespaces
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Namespace::start(&self.client, name, &self.triggers, &self.trackable)));
        Arc::clone(started)
    }

    /// These are the namespace's caches, not some that were left meanwhile: those trigger nothing any more.
    pub fn are_of(&self, name: &str, these: &Arc<Namespace>) -> bool {
        let namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        namespaces.get(name).is_some_and(|namespace| Arc::ptr_eq(namespace, these))
    }

    /// Ends the watches of a namespace whose last Rollout is gone.
    pub fn leave(&self, name: &str) {
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        if namespaces.get(name).is_some_and(|namespace| namespace.rollouts.is_empty()) {
            namespaces.remove(name);
        }
    }
}

impl Namespace {
    fn start(client: &Client, name: &str, triggers: &Triggers, trackable: &[ConfigKind]) -> Self {
        let mut tasks = Vec::new();
        let (rollouts, writer) = reflector::store::<Rollout>();
        let trigger = || {
            let (store, triggers) = (rollouts.clone(), triggers.clone());
            move || {
                for rollout in store.state() {
                    // The receiver is gone only when the controller ends.
                    let _ = triggers.send(ObjectRef::from_obj(rollout.as_ref()));
                }
            }
        };
        // A change is told by the controller's own watch, too, but a look reads this one, which may be the later. A
        // Rollout that goes leaves its Deployment to another that waits for it, and is to be forgotten itself.
        let (all, itself) = (trigger(), triggers.clone());
        tasks.push(follow(client, name, writer, move |event| match event {
            watcher::Event::Apply(changed) => drop(itself.send(ObjectRef::from_obj(changed))),
            watcher::Event::Delete(gone) => {
                let _ = itself.send(ObjectRef::from_obj(gone));
                all();
            }
            watcher::Event::InitDone => all(),
            watcher::Event::Init | watcher::Event::InitApply(_) => {}
        }));
        macro_rules! cache {
            ($kind:ty) => {{
                let (store, task) = watch::<$kind>(client, name, trigger());
                tasks.push(task);
                store
            }};
        }
        Self {
            runs: cache!(RolloutRun),
            deployments: cache!(Deployment),
            replica_sets: cache!(ReplicaSet),
            pods: cache!(Pod),
            services: cache!(Service),
            endpoint_slices: cache!(EndpointSlice),
            routes: Mutex::default(),
            configuration: Mutex::default(),
            trackable: trackable.to_vec(),
            pending: Mutex::default(),
            tasks: Mutex::new(tasks),
            rollouts: rollouts.clone(),
            client: client.clone(),
            name: name.to_owned(),
            triggers: triggers.clone(),
        }
    }

    /// Routes are watched only where a Rollout names one: a cluster may have no Gateway API, or no GRPCRoutes.
    fn http_routes(&self) -> Store<HttpRoute> {
        self.routes_of(|routes| &mut routes.http)
    }

    fn grpc_routes(&self) -> Store<GrpcRoute> {
        self.routes_of(|routes| &mut routes.grpc)
    }

    fn routes_of<K: Cached>(&self, which: impl Fn(&mut Routes) -> &mut Option<Store<K>>) -> Store<K> {
        self.watched(&self.routes, which)
    }

    /// ConfigMaps and Secrets are watched only where a Rollout tracks them, and Serin may.
    fn config_maps(&self) -> Store<ConfigMap> {
        self.watched(&self.configuration, |all| &mut all.config_maps)
    }

    fn secrets(&self) -> Store<Secret> {
        self.watched(&self.configuration, |all| &mut all.secrets)
    }

    /// What of it the policy tracks and may be read.
    fn tracked(&self, spec: &RolloutSpec) -> Vec<ConfigKind> {
        let tracked = spec.configuration.iter().flat_map(|configuration| &configuration.track);
        tracked.copied().filter(|kind| self.trackable.contains(kind)).collect()
    }

    fn watched<K: Cached, S>(&self, stores: &Mutex<S>, which: impl Fn(&mut S) -> &mut Option<Store<K>>) -> Store<K> {
        let mut stores = stores.lock().unwrap_or_else(PoisonError::into_inner);
        which(&mut stores)
            .get_or_insert_with(|| {
                let (rollouts, triggers) = (self.rollouts.clone(), self.triggers.clone());
                let (store, task) = watch::<K>(&self.client, &self.name, move || {
                    for rollout in rollouts.state() {
                        let _ = triggers.send(ObjectRef::from_obj(rollout.as_ref()));
                    }
                });
                self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
                store
            })
            .clone()
    }

    /// Every cache has had its first list.
    pub async fn ready(&self, spec: &RolloutSpec) -> bool {
        let (routes, tracked) = (&spec.routes, self.tracked(spec));
        let wait = async {
            let _ = self.rollouts.wait_until_ready().await;
            let _ = self.runs.wait_until_ready().await;
            let _ = self.deployments.wait_until_ready().await;
            let _ = self.replica_sets.wait_until_ready().await;
            let _ = self.pods.wait_until_ready().await;
            let _ = self.services.wait_until_ready().await;
            let _ = self.endpoint_slices.wait_until_ready().await;
            if names(routes, RouteKind::Http) {
                let _ = self.http_routes().wait_until_ready().await;
            }
            if names(routes, RouteKind::Grpc) {
                let _ = self.grpc_routes().wait_until_ready().await;
            }
            if tracked.contains(&ConfigKind::ConfigMap) {
                let _ = self.config_maps().wait_until_ready().await;
            }
            if tracked.contains(&ConfigKind::Secret) {
                let _ = self.secrets().wait_until_ready().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), wait).await.is_ok()
    }

    /// Remembers a write until the caches show it.
    pub fn wrote(&self, rollout: &str, pending: Pending) {
        let mut all = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(rollout.to_owned()).or_default().push(pending);
    }

    /// The caches show all that was written for this Rollout (or are late beyond patience).
    pub fn caught_up(&self, rollout: &str) -> bool {
        let mut all = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pending) = all.get_mut(rollout) else { return true };
        pending.retain(|write| write.at.elapsed() < write.patience && !self.shows(write));
        pending.is_empty()
    }

    fn shows(&self, write: &Pending) -> bool {
        match write.kind {
            Kind::Rollout => shows(&self.rollouts, &self.name, write),
            Kind::RolloutRun => shows(&self.runs, &self.name, write),
            Kind::Deployment => shows(&self.deployments, &self.name, write),
            Kind::ReplicaSet => shows(&self.replica_sets, &self.name, write),
            Kind::Pod => shows(&self.pods, &self.name, write),
            Kind::Service => shows(&self.services, &self.name, write),
            Kind::HttpRoute => shows(&self.http_routes(), &self.name, write),
            Kind::GrpcRoute => shows(&self.grpc_routes(), &self.name, write),
            Kind::ConfigMap => shows(&self.config_maps(), &self.name, write),
            Kind::Secret => shows(&self.secrets(), &self.name, write),
        }
    }

    /// What concerns this Rollout; `None` if it is gone.
    pub fn world(&self, rollout: &str) -> Option<World> {
        let rollout = Arc::unwrap_or_clone(self.rollouts.get(&ObjectRef::new(rollout).within(&self.name))?);
        let name = rollout.name_any();
        let mut runs: Vec<RolloutRun> = owned(self.runs.state_filter(|run| run.spec.rollout_ref.name == name));
        runs.sort_by_key(|run| number_of(&name, run));
        let deployment = self.deployments.get(&ObjectRef::new(&rollout.spec.workload_ref.name).within(&self.name));
        let deployment = deployment.map(Arc::unwrap_or_clone);
        let selects = |labels: Option<&std::collections::BTreeMap<String, String>>| match (&deployment, labels) {
            (Some(deployment), Some(labels)) => deployment.spec.selector.selects(labels),
            _ => false,
        };
        let of_run = runs.last().map(|run| run.spec.policy.routes.as_slice()).unwrap_or_default();
        let named = |kind| names(&rollout.spec.routes, kind) || names(of_run, kind);
        let mut routes: Vec<Route> = Vec::new();
        if named(RouteKind::Http) {
            routes.extend(owned(self.http_routes().state()).into_iter().map(Route::from));
        }
        if named(RouteKind::Grpc) {
            routes.extend(owned(self.grpc_routes().state()).into_iter().map(Route::from));
        }
        let tracked = self.tracked(&rollout.spec);
        let mut configuration: Vec<ConfigObject> = Vec::new();
        if tracked.contains(&ConfigKind::ConfigMap) {
            configuration.extend(owned(self.config_maps().state()).into_iter().map(ConfigObject::from));
        }
        if tracked.contains(&ConfigKind::Secret) {
            configuration.extend(owned(self.secrets().state()).into_iter().map(ConfigObject::from));
        }
        let run_uids: Vec<String> = runs.iter().filter_map(|run| run.metadata.uid.clone()).collect();
        // Without the Deployment, what its runs own is still ours to clear away.
        let of_runs = |set: &ReplicaSet| {
            crate::workload::owner_of(set).is_some_and(|(_, uid)| run_uids.iter().any(|run| run == uid))
        };
        let replica_sets =
            owned(self.replica_sets.state_filter(|set| selects(set.metadata.labels.as_ref()) || of_runs(set)));
        let other_sets = self.replica_sets.state();
        let other_sets = other_sets.iter().filter(|set| !selects(set.metadata.labels.as_ref()) && !of_runs(set));
        let other_sets = other_sets.map(|set| set.name_any()).collect();
        let hashes: Vec<&str> = replica_sets.iter().filter_map(crate::workload::hash_of).collect();
        // A Deployment made anew may select others than its runs have made.
        let of_canaries: Vec<&str> =
            replica_sets.iter().filter(|set| of_runs(set)).filter_map(crate::workload::hash_of).collect();
        let pods = owned(self.pods.state_filter(|pod| {
            pod.hash().is_some_and(|hash| {
                of_canaries.contains(&hash)
                    || hashes.contains(&hash) && (deployment.is_none() || selects(pod.metadata.labels.as_ref()))
            })
        }));
        Some(World {
            others: owned(self.rollouts.state()),
            runs,
            replica_sets,
            other_sets,
            pods,
            services: owned(self.services.state()),
            endpoint_slices: owned(self.endpoint_slices.state()),
            routes,
            configuration,
            trackable: self.trackable.clone(),
            deployment,
            rollout,
        })
    }

    /// Pods with this pod-template-hash.
    pub fn pods_with(&self, hash: &str) -> Vec<Arc<Pod>> {
        self.pods.state_filter(|pod| pod.hash() == Some(hash))
    }

    /// A Service as the cache has it.
    pub fn service(&self, name: &str) -> Option<Arc<Service>> {
        self.services.get(&ObjectRef::new(name).within(&self.name))
    }

    /// What the newest run before this one has left, if it has left something.
    pub fn learnt_before(&self, run: &RolloutRun) -> Option<String> {
        let rollout = &run.spec.rollout_ref.name;
        let number = number_of(rollout, run);
        let before = self.runs.state_filter(|other| {
            other.spec.rollout_ref.name == *rollout && number_of(rollout, other) < number && learnt_of(other).is_some()
        });
        before.iter().max_by_key(|other| number_of(rollout, other)).and_then(|other| learnt_of(other).cloned())
    }

    /// A run as the cache has it.
    pub fn run(&self, name: &str) -> Option<Arc<RolloutRun>> {
        self.runs.get(&ObjectRef::new(name).within(&self.name))
    }
}

/// Routes by kind.
#[derive(Default)]
struct Routes {
    http: Option<Store<HttpRoute>>,
    grpc: Option<Store<GrpcRoute>>,
}

/// Configuration by kind.
#[derive(Default)]
struct Configuration {
    config_maps: Option<Store<ConfigMap>>,
    secrets: Option<Store<Secret>>,
}

fn learnt_of(run: &RolloutRun) -> Option<&String> {
    run.status.as_ref()?.learnt.as_ref()
}

fn names(routes: &[RouteRef], kind: RouteKind) -> bool {
    routes.iter().any(|route| route.kind == kind.as_str())
}

fn owned<K: Clone>(items: Vec<Arc<K>>) -> Vec<K> {
    items.into_iter().map(Arc::unwrap_or_clone).collect()
}

/// A kind that can be watched into a store.
trait Cached:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}
impl<K> Cached for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

fn shows<K: Cached>(store: &Store<K>, namespace: &str, write: &Pending) -> bool {
    let is = store.get(&ObjectRef::new(&write.name).within(namespace));
    match (&write.wrote, is) {
        (Wrote::Version(wrote), Some(is)) => version(is.meta().resource_version.as_deref()) >= *wrote,
        (Wrote::Version(_), None) => false,
        (Wrote::Gone { uid }, Some(is)) => {
            is.meta().uid.as_ref() != Some(uid) || is.meta().deletion_timestamp.is_some()
        }
        (Wrote::Gone { .. }, None) => true,
    }
}

/// Since Kubernetes 1.35 resource versions of one kind may be compared as numbers (KEP-5504); before, they could be in
/// fact with etcd.
pub(super) fn version(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn watch<K: Cached>(
    client: &Client,
    namespace: &str,
    changed: impl Fn() + Send + 'static,
) -> (Store<K>, JoinHandle<()>) {
    let (store, writer) = reflector::store();
    let task = follow(client, namespace, writer, move |event| match event {
        watcher::Event::Init | watcher::Event::InitApply(_) => {}
        _ => changed(),
    });
    (store, task)
}

/// Fills a store; each event is told once the store shows it.
fn follow<K: Cached>(
    client: &Client,
    namespace: &str,
    writer: Writer<K>,
    told: impl Fn(&watcher::Event<K>) + Send + 'static,
) -> JoinHandle<()> {
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let keeps_managers = matches!(K::kind(&()).as_ref(), "Service" | "HTTPRoute" | "GRPCRoute");
    let config = match K::kind(&()).as_ref() {
        // Helm's own records: many, big, and no pod reads them.
        "Secret" => watcher::Config::default().fields("type!=helm.sh/release.v1"),
        _ => watcher::Config::default(),
    };
    let stream = watcher(api, config)
        .default_backoff()
        .modify(move |object| {
            if !keeps_managers {
                object.meta_mut().managed_fields = None;
            }
            // Not through annotations_mut: it would make an empty map where the object has none.
            if let Some(annotations) = &mut object.meta_mut().annotations {
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
            }
        })
        .reflect(writer);
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => told(&event),
                Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "a watch failed; trying again"),
            }
        }
    })
}
