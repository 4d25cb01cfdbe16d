//! `Rollout`: the policy by which a workload's new versions are released.

// The derive's print columns repeat `type_` by design; clippy takes them for one attribute.
#![allow(clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    gates::GateSpec,
    http::HttpSource,
    prometheus::PrometheusSource,
    router::RouterSource,
    run::{Phase, Share, SloStatus, Weight},
    steps::{Pods, StepSpec, Sticky},
    values::{Millis, Pattern, Percent},
};

/// How new versions of a workload are released: which objects carry its traffic, which SLOs a new version is judged
/// by, and in which steps its share of the traffic grows.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "serin.dev",
    version = "v1alpha1",
    kind = "Rollout",
    doc = "How new versions of a workload are released. Keep deploying as before; `kubectl get rollouts` tells how a release goes.",
    namespaced,
    status = "RolloutStatus",
    derive = "PartialEq",
    shortname = "sro",
    category = "serin",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "What is going on"),
    printcolumn(
        name = "Step",
        type_ = "string",
        json_path = ".status.step",
        description = "Step of the run, of all steps"
    ),
    printcolumn(
        name = "Weight",
        type_ = "integer",
        json_path = ".status.weight.set",
        description = "Percent of requests routed to the canary"
    ),
    printcolumn(
        name = "Seen",
        type_ = "number",
        json_path = ".status.weight.seen",
        description = "Percent of requests the canary got, as counted"
    ),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", description = "Why it is so"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Run", type_ = "string", json_path = ".status.run", priority = 1),
    printcolumn(name = "Stable", type_ = "string", json_path = ".status.stable.hash", priority = 1),
    printcolumn(name = "Images", type_ = "string", json_path = ".status.stable.images", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.routes) && size(self.routes) > 0 || self.steps.all(s, !has(s.weight) || s.weight <= 50)")
        .message("without routes the weight is a share of pods, at most 50: name a route, or lower the weights"),
    validation = Rule::new("has(self.routes) && size(self.routes) > 0 || !has(self.sticky) && self.steps.all(s, !has(s.match) && !has(s.mirror) && !has(s.blueGreen) && !has(s.pods))")
        .message("match, mirror, blueGreen, pods and sticky need a route: name one in spec.routes"),
    validation = Rule::new("!self.slos.exists(s, has(s.errors)) || has(self.telemetry.requests) || has(self.telemetry.http) || has(self.telemetry.router)")
        .message("an SLO on errors needs telemetry.requests: the counter of requests and which of its labels mark an error"),
    validation = Rule::new("!self.slos.exists(s, has(s.latency)) || has(self.telemetry.latency) || has(self.telemetry.http) || has(self.telemetry.router)")
        .message("an SLO on latency needs telemetry.latency: the histogram of request durations"),
    validation = Rule::new("!has(self.telemetry.http) || self.slos.all(s, !has(s.by) && (has(s.errors) ? has(self.telemetry.http.errors) : has(self.telemetry.http.slow) && !has(s.latency.only))) && self.slos.filter(s, has(s.latency)).size() <= 1")
        .message("with telemetry.http an SLO on errors needs http.errors, one on latency http.slow; there may be one on latency, and none by label"),
    validation = Rule::new("!has(self.telemetry.router) || has(self.routes) && size(self.routes) > 0 && self.routes.all(r, r.kind == 'HTTPRoute') && self.slos.all(s, !has(s.by) && (has(s.errors) || !has(s.latency.only))) && self.slos.filter(s, has(s.latency)).size() <= 1")
        .message("telemetry.router counts what HTTPRoutes send: name one in spec.routes, and no GRPCRoute; there may be one SLO on latency, and none by label"),
    validation = Rule::new("self.workloadRef == oldSelf.workloadRef && self.service == oldSelf.service")
        .message("workloadRef and service can't be changed: delete this Rollout and make another")
)]
pub struct RolloutSpec {
    /// The workload whose versions are released: a Deployment of this namespace. It stays yours.
    pub workload_ref: WorkloadRef,
    /// The Service that callers use (the apex). It selects the workload's pods.
    #[schemars(length(min = 1, max = 63))]
    pub service: String,
    /// The routes that carry callers to the Service; their weights are shifted. Left out: the canary's share of traffic
    /// is its share of pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub routes: Vec<RouteRef>,
    /// Where request counts come from.
    pub telemetry: Telemetry,
    /// What a new version is judged by, against the version it replaces and against the objective.
    #[schemars(length(min = 1, max = 10))]
    #[x_kube(validation = Rule::new("self.all(s, self.exists_one(t, t.name == s.name))").message("each SLO needs a name of its own: two of them are called the same"))]
    pub slos: Vec<SloSpec>,
    /// The declared confidence of a rollback: at 99% at most 1 healthy release in 100 is rolled back by chance.
    #[serde(default = "default_confidence")]
    #[x_kube(validation = Rule::new(HALF_TO_ALL)
        .message("must be at least 50% and below 100%: to be certain would need endless data"))]
    pub confidence: Percent,
    /// The way to promotion, in order. Each step sets a weight and bakes, or asks a person, or lets some requests in.
    #[schemars(length(min = 1, max = 50))]
    #[x_kube(validation = Rule::new("self.exists(s, !has(s.approval))").message("at least one step must set a weight (or match, mirror, blueGreen)"))]
    #[x_kube(validation = Rule::new("self.filter(s, has(s.weight)).map(s, s.weight).isSorted()").message("weights must not go down from step to step: Serin takes traffic back by itself"))]
    #[x_kube(validation = Rule::new("!self.exists(s, has(s.blueGreen)) || self.all(s, has(s.blueGreen) || has(s.approval)) && self.filter(s, has(s.blueGreen)).size() == 1").message("blueGreen switches all at once: beside it only approvals may stand"))]
    pub steps: Vec<StepSpec>,
    /// When a step goes on: Bake (left out: so) after its bake at least; OnEvidence also before that, once the canary is
    /// proven not to be worse than tolerated on every SLO. Never on silence.
    #[serde(default, skip_serializing_if = "Advance::is_bake")]
    pub advance: Advance,
    /// A user who got the canary stays with it while the weight grows, by a cookie; promotion and rollback set all users
    /// free. For routes whose callers keep cookies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// What must say yes on the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = Rule::new("self.all(g, self.exists_one(o, o.name == g.name))").message("each gate needs a name of its own: two of them are called the same"))]
    pub gates: Vec<GateSpec>,
    /// Going back to a version that served lately goes straight through, without the steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_window: Option<RollbackWindow>,
    /// Makes the data of ConfigMaps and Secrets that the pod template names a part of the version: a change of it is
    /// released like one of the template, and each pod has the data of its version until it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<Configuration>,
    /// Starts no runs: a new version waits, held, until this is false. A run under way goes on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// Bounds on time and harm.
    #[serde(default)]
    pub limits: Limits,
    /// How many finished runs are kept as the record.
    #[serde(default = "default_history")]
    #[schemars(range(min = 1, max = 100))]
    pub history_limit: u32,
}

impl RolloutSpec {
    /// The host name of the preview, if it is to have one.
    pub fn preview_host(&self) -> Option<&str> {
        self.steps.iter().find_map(|step| step.blue_green.as_ref()?.preview_host.as_deref())
    }

    /// What this step (counted from 1) lets the canary have: the last weight and the last match up to it, and its own
    /// mirror.
    pub fn share_at(&self, step: u32) -> Share {
        let mut share = Share::NONE;
        for (number, step) in (1..=step).zip(&self.steps) {
            share.mirror = step.mirror.as_ref().map(|_| number);
            share.weight = step.weight.unwrap_or(share.weight);
            if let Some(matches) = &step.matches {
                share.matching = (!matches.is_empty()).then_some(number);
            }
        }
        share
    }
}

/// Which data is a part of the version.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Of these kinds. Whoever writes this must be allowed to read them in the namespace, and the chart must allow Serin
    /// to (configuration.configMaps, configuration.secrets).
    #[schemars(length(min = 1, max = 2))]
    #[x_kube(validation = Rule::new("self.all(k, self.exists_one(o, o == k))").message("name each kind once"))]
    pub track: Vec<ConfigKind>,
}

/// A kind of object that holds data for pods.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "Kubernetes' own")]
pub enum ConfigKind {
    ConfigMap,
    Secret,
}

impl ConfigKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::ConfigMap, Self::Secret];

    /// As Kubernetes spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// CEL: from 50% to below 100%. Text that is no percent at all is refused by the percent's own rule.
const HALF_TO_ALL: &str = "!self.matches('^[0-9]{1,3}([.][0-9]{1,4})?%$') || (double(self.replace('%', '')) >= 50.0 && double(self.replace('%', '')) < 100.0)";

fn default_confidence() -> Percent {
    Percent(99.0)
}
fn default_history() -> u32 {
    10
}

/// A workload of the Rollout's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct WorkloadRef {
    /// Deployment.
    #[x_kube(validation = Rule::new("self == 'Deployment'").message("only Deployment is supported"))]
    #[schemars(length(max = 63))]
    pub kind: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A route of the Rollout's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RouteRef {
    /// HTTPRoute or GRPCRoute (gateway.networking.k8s.io).
    #[x_kube(validation = Rule::new("self in ['HTTPRoute', 'GRPCRoute']").message("must be HTTPRoute or GRPCRoute"))]
    #[schemars(length(max = 63))]
    pub kind: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Where request counts come from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.scrape), has(self.prometheus), has(self.http), has(self.router)].filter(is, is).size() == 1").message("counts come from one place: give exactly one of scrape, prometheus, http and router"))]
pub struct Telemetry {
    /// Read the pods' own metrics, straight from the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrape: Option<Scrape>,
    /// Ask Prometheus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusSource>,
    /// Ask for JSON over HTTP. requests and latency are not looked at then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,
    /// Ask the gateway's Envoys. requests and latency are not looked at then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<RouterSource>,
    /// The counter of requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestsRef>,
    /// The histogram of request durations, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<HistogramRef>,
}

/// Prometheus text over HTTP from each pod.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Scrape {
    /// Name or number of the container port.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?)$')").message("must be the name of a container port, or its number in quotes"))]
    pub port: String,
    /// Path of the metrics page.
    #[serde(default = "default_path")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self.startsWith('/')").message("must start with /"))]
    pub path: String,
    /// Time between two readings, 250ms to 1m. The decision is never faster.
    #[serde(default = "default_interval")]
    #[x_kube(validation = Rule::new("!self.matches('^([0-9]{1,6}(ms|s|m|h|d)){1,5}$') || self.contains('d') || (duration(self) >= duration('250ms') && duration(self) <= duration('1m'))").message("must be between 250ms and 1m"))]
    pub interval: Millis,
}

fn default_path() -> String {
    "/metrics".into()
}
fn default_interval() -> Millis {
    Millis(1000)
}

/// A counter of requests, and which of its labels mark an error.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct RequestsRef {
    /// Name of the counter, for example http_requests_total.
    #[schemars(length(min = 1, max = 200))]
    pub counter: String,
    /// A request is an error if every label here matches its regular expression (anchored), for example {code: "5.."}.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 10))]
    pub errors: BTreeMap<String, Pattern>,
    /// Count only series whose labels match these regular expressions (anchored): leaves out probes and scrapes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 10))]
    pub only: BTreeMap<String, Pattern>,
}

/// A histogram of request durations in seconds.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct HistogramRef {
    /// Name of the histogram without _bucket, for example http_request_duration_seconds.
    #[schemars(length(min = 1, max = 200))]
    pub histogram: String,
    /// Count only series whose labels match these regular expressions (anchored).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 10))]
    pub only: BTreeMap<String, Pattern>,
}

/// One service level objective: on errors or on latency.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(validation = Rule::new("has(self.errors) != has(self.latency)").message("an SLO is on errors or on latency: give exactly one of the two"))]
pub struct SloSpec {
    /// Its name in status, events and metrics.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Share of requests that succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<ErrorsSlo>,
    /// Share of requests that are fast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencySlo>,
    /// Watches the SLO for values of a label, too, such as a route or a tenant that is lost in the sum of all. A value that is
    /// worse convicts the version, and is named; it takes more evidence than the sum does, so that the rate of false alarms
    /// stays what `confidence` says. What is too rare to be judged blocks nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Strata>,
}

/// Values of a label, each of which is watched on its own.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Strata {
    /// A label of the requests' counter, or of the histogram for an SLO on latency.
    #[schemars(length(min = 1, max = 100), regex(pattern = "^[a-zA-Z_][a-zA-Z0-9_]*$"))]
    #[x_kube(validation = Rule::new("self != 'le'").message("le is the bound of a bucket: name a label that tells requests apart, such as route"))]
    pub label: String,
    /// Its values, up to 16, as they are, not as expressions. Requests with other values count in the sum only.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub values: Vec<String>,
}

impl Strata {
    /// What a value's part of the requests is called: `route=/login`.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.values.iter().map(|value| format!("{}={value}", self.label))
    }
}

/// Share of requests that succeed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct ErrorsSlo {
    /// At least this share of requests is no error.
    #[x_kube(validation = Rule::new(HALF_TO_ALL).message("must be at least 50% and below 100%, such as 99.9%"))]
    pub objective: Percent,
    /// How much worse than stable is still the same.
    #[serde(default)]
    pub tolerance: Tolerance,
}

/// Share of requests that are answered within a threshold.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct LatencySlo {
    /// Of these requests only: series whose labels match these regular expressions (anchored), besides those of
    /// telemetry.latency.only. So each route, say, can have a threshold of its own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 4))]
    #[x_kube(validation = Rule::new("!('le' in self)").message("le is the bound of a bucket: name labels that tell requests apart, such as route"))]
    pub only: BTreeMap<String, Pattern>,
    /// A request slower than this is bad. Must be a bucket bound of the histogram.
    #[x_kube(validation = Rule::new("!self.matches('^([0-9]{1,6}(ms|s|m|h|d)){1,5}$') || self.contains('d') || duration(self) > duration('0s')").message("must be longer than 0"))]
    pub threshold: Millis,
    /// At least this share of requests is faster than the threshold.
    #[x_kube(validation = Rule::new(HALF_TO_ALL).message("must be at least 50% and below 100%, such as 99%"))]
    pub objective: Percent,
    /// How much worse than stable is still the same.
    #[serde(default)]
    pub tolerance: Tolerance,
    /// Compares further bounds of the histogram, too: up to 7 where stable's middle and tail are, from a tenth of the
    /// threshold on. A slow tail that the threshold does not divide is found by them.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub tail: bool,
}

fn yes() -> bool {
    true
}
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_yes(is: &bool) -> bool {
    *is
}

/// The canary is worse only if its bad share is above relative * stable's + absolute.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
pub struct Tolerance {
    /// Factor on stable's bad share, 1 to 10.
    #[serde(default = "default_relative")]
    #[schemars(range(min = 1.0, max = 10.0))]
    pub relative: f64,
    /// Added to it.
    #[serde(default = "default_absolute")]
    pub absolute: Percent,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { relative: default_relative(), absolute: default_absolute() }
    }
}

fn default_relative() -> f64 {
    1.5
}
fn default_absolute() -> Percent {
    Percent(0.1)
}

/// Which versions are gone back to without the steps.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(validation = Rule::new("has(self.versions) || has(self.within)").message("give versions, within, or both (then either is enough)"))]
pub struct RollbackWindow {
    /// One of the last so many versions that served before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 20))]
    pub versions: Option<u32>,
    /// One that was promoted less than this ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Millis>,
}

/// When a step goes on.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Advance {
    /// After its bake at least.
    #[default]
    Bake,
    /// Also before, on proof.
    OnEvidence,
}

impl Advance {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
    fn is_bake(&self) -> bool {
        *self == Self::Bake
    }
}

/// What is done when something is not decided in time.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Otherwise {
    /// Stay at this weight and say so.
    #[default]
    Hold,
    /// Take the traffic back and end the run.
    Rollback,
}

/// Bounds on time and harm.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Canary pods that are not ready after this long roll the release back.
    pub ready_within: Millis,
    /// A step that takes longer than this is said out loud. Time spent waiting for people does not count.
    pub step_timeout: Millis,
    /// What is done then: Hold, or Rollback.
    pub on_timeout: Otherwise,
    /// The same, for a step that only lacks evidence (FewRequests, NoData, StaleData, SilentArm): Hold, or Rollback.
    pub on_inconclusive: Otherwise,
    /// The most canary pods in the steps, a number or a percent of the Deployment's replicas. The promotion needs as many
    /// as the Deployment has.
    pub surge: Pods,
    /// Leaves the latency of a fresh pod out for this long after its first request.
    pub warmup: Millis,
    /// Rolls back when about this many requests failed in excess of stable's share, whatever the statistics say.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub failed_requests: u64,
    /// Rolls back when the release has used up about this share of an SLO's error budget, whatever the statistics say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_budget: Option<ErrorBudget>,
    /// Rolls back when canary containers restarted this often (and stable's did not).
    #[schemars(range(min = 1, max = 100))]
    pub restarts: u32,
    /// Keeps the pods of a refused version for debugging, without traffic.
    pub keep_canary_for: Millis,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ready_within: Millis::seconds(600),
            step_timeout: Millis::seconds(1800),
            on_timeout: Otherwise::Hold,
            on_inconclusive: Otherwise::Hold,
            surge: Pods::Share(100),
            warmup: Millis::seconds(10),
            failed_requests: 500,
            error_budget: None,
            restarts: 3,
            keep_canary_for: Millis(0),
        }
    }
}

/// A share of the requests that an SLO allows to be bad in its window.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct ErrorBudget {
    /// This much of it: 5% for example.
    #[x_kube(validation = Rule::new("!self.matches('^[0-9]{1,3}([.][0-9]{1,4})?%$') || (double(self.replace('%', '')) > 0.0 && double(self.replace('%', '')) <= 100.0)").message("must be above 0% and at most 100%"))]
    pub share: Percent,
    /// The SLO's window, at the present rate of requests.
    #[serde(default = "thirty_days")]
    #[x_kube(validation = Rule::new("!self.matches('^([0-9]{1,6}(ms|s|m|h|d)){1,5}$') || self.contains('d') || duration(self) >= duration('1h')").message("must be at least 1h"))]
    pub window: Millis,
}

fn thirty_days() -> Millis {
    Millis::seconds(30 * 86_400)
}

/// What is, as last observed. `Ready` is true when the version that was deployed last is the one that serves.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What is going on: Idle, a phase of the run, or Refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Step of the run, of all steps: 2/4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Weight of the canary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<Weight>,
    /// Why it is so, in one sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The run under way, or the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// How the last run ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run_phase: Option<Phase>,
    /// The version that serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable: Option<StableVersion>,
    /// Digest of the tracked data as it was held for a release last. While the ConfigMaps and Secrets have this, a
    /// template that was taken back to older data is left so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// The version that was refused last, as long as the Deployment has it: known also when its run's record is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedVersion>,
    /// Verdicts of the run under way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slos: Vec<SloStatus>,
    /// Ready, Reconciling, Stalled (kstatus).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The version that serves.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Default)]
pub struct StableVersion {
    /// Its pod-template-hash.
    pub hash: String,
    /// Its images, comma separated.
    pub images: String,
}

/// A version that is not tried again by itself.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Default)]
pub struct RefusedVersion {
    /// Digest of its pod template.
    pub template: String,
    /// The run that refused it.
    pub run: String,
    /// Why.
    pub message: String,
}

/// A condition as Kubernetes has them.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Ready, Reconciling or Stalled.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// One word.
    pub reason: String,
    /// One sentence, with the way to mend it where there is something to mend.
    pub message: String,
    /// Since when the status is so.
    pub last_transition_time: meta::Time,
    /// Generation of the spec that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
