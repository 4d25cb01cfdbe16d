//! Labels, annotations, finalizers and derived object names: the one place where they are spelled.

/// API group of both kinds.
pub const GROUP: &str = "serin.dev";
/// Its version.
pub const VERSION: &str = "v1alpha1";
/// Both, as objects spell them.
pub const API_VERSION: &str = "serin.dev/v1alpha1";
/// Field manager of every write, and user agent of every request.
pub const MANAGER: &str = "serin";
/// On a Deployment: the Rollout that governs it. The latch policy selects on it.
pub const ROLLOUT_LABEL: &str = "serin.dev/rollout";
/// On a Deployment: the run that holds it; while it is there only Serin may unpause. On a run's own objects: the run.
pub const RUN_LABEL: &str = "serin.dev/run";
/// On a Deployment: the pause is the latch's, not a person's. `true`: written by the latch policy; `pause`: by Serin,
/// where there is no policy.
pub const LATCHED_ANNOTATION: &str = "serin.dev/latched";
/// On a Service that selects the workload's pods: `"false"` leaves it unpinned (say, for metrics collection).
pub const PIN_ANNOTATION: &str = "serin.dev/pin";
/// On a pod template: which ConfigMaps and Secrets its pods get as copies, and which copies.
pub const CONFIGURATION_ANNOTATION: &str = "serin.dev/configuration";
/// On such a copy, and on the pods: the digest of the version's data. On the Deployment: the one that Serin stamped last.
pub const CONFIGURATION_LABEL: &str = "serin.dev/configuration";
/// Keeps a run until its traffic is back, and a Rollout until its runs are.
pub const FINALIZER: &str = "serin.dev/traffic";
/// The label by which Kubernetes tells the ReplicaSets of a Deployment apart.
pub const HASH_LABEL: &str = "pod-template-hash";
/// Kubernetes' revision of a Deployment's ReplicaSet.
pub const REVISION_ANNOTATION: &str = "deployment.kubernetes.io/revision";

/// The route of a preview with a host name of its own.
pub fn preview_route(service: &str) -> String {
    format!("{service}-preview")
}

/// The Service of the canary arm. Kubernetes limits Service names to 63 characters.
pub fn canary_service(service: &str) -> String {
    let kept: String = service.chars().take(63 - "-canary".len()).collect();
    format!("{kept}-canary")
}

/// Runs of one Rollout by the numbers in their names: a later one is greater.
pub fn order(run: &str) -> (usize, &str) {
    (run.len(), run)
}
